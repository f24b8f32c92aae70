package remote

import (
	"errors"
	"fmt"
	"path/filepath"
	"slices"
	"strconv"
	"sync"
	"sync/atomic"
	"time"

	"wanpair/dedupe/history"
	"wanpair/internal/beat"
)

// Config says what to start and what it serves.
type Config struct {
	Command     []string // the child, which calls ServeChild
	Env         []string // of the child, beside what is set for it
	Epochs      history.EpochsConfig
	MemoryBytes int64       // soft bound of the child's heap; 0 is none
	Event       func(Event) // told of what an operator wants to know; from any goroutine; nil is nobody
}

// Event is something that happened to the store. Exactly one field but Reason is set.
type Event struct {
	Off, On       bool // the cache stopped working for more than a moment, works again
	Full, Room    bool // writing stopped because the file system is full, goes on
	Died          bool // a child died; another one is started
	DiscardedFrom string
	Reason        string
}

// Client is a [history.Disk] in a child process. Create it with Start.
type Client struct {
	cfg Config
	env []string

	mu       sync.Mutex
	life     *life         // nil while there is none that is ready
	up       chan struct{} // closed while there is
	logs     [2]history.State
	known    bool // logs were stated from this side
	found    [2]history.State
	off      string
	downFrom time.Time
	extents  [2][]history.Extent
	full     bool
	suspects map[history.Extent]int // epochs that were in use when a child died by itself
	watch    func()

	bytes    atomic.Int64
	restarts atomic.Int64

	first   chan error // what the first life had to say
	changed chan struct{}
	closing chan struct{}
	once    sync.Once
	done    chan struct{}
}

var _ history.Disk = (*Client)(nil)

// Start starts the child and waits until it has opened the directory. It fails when the directory cannot be, or when another process uses it;
// a child that dies, or a disk that does not answer, is a cache that is off until it works.
func Start(cfg Config) (*Client, error) {
	dir, err := filepath.Abs(cfg.Epochs.Dir)
	if err != nil {
		return nil, err
	}
	cfg.Epochs.Dir = dir
	if cfg.Event == nil {
		cfg.Event = func(Event) {}
	}
	c := &Client{
		cfg: cfg, env: append(slices.Clone(cfg.Env), "GOTRACEBACK=single"), watch: func() {}, suspects: map[history.Extent]int{},
		up: make(chan struct{}), first: make(chan error, 1), changed: make(chan struct{}, 1),
		closing: make(chan struct{}), done: make(chan struct{}), downFrom: time.Now(),
	}
	if cfg.MemoryBytes > 0 {
		c.env = append(c.env, "GOMEMLIMIT="+strconv.FormatInt(cfg.MemoryBytes, 10))
	}
	go c.run()
	t := time.NewTimer(openWait)
	defer t.Stop()
	select {
	case err := <-c.first:
		if errors.Is(err, errConfig) || errors.Is(err, history.ErrLocked) {
			return nil, errors.Join(err, c.Close(0))
		}
	case <-t.C:
		c.setOff("store was not ready in time")
	}
	return c, nil
}

// run keeps a child alive until Close.
func (c *Client) run() {
	defer close(c.done)
	var wait sync.WaitGroup
	defer wait.Wait()
	wait.Go(c.tell)
	backoff, deaths, began := firstBackoff, 0, time.Now()
	for first := true; ; {
		born := time.Now()
		reason, fatal := c.live()
		if c.isClosing() {
			return
		}
		if first && fatal != nil {
			if !errors.Is(fatal, history.ErrLocked) || time.Since(began) > lockWait {
				first = false
				c.first <- fatal
			}
		}
		first = first && fatal != nil
		c.restarts.Add(1)
		if time.Since(born) > deathSpan {
			backoff, deaths = firstBackoff, 0
		}
		deaths++
		pause := backoff
		if backoff = min(4*backoff, maxBackoff); deaths >= maxDeaths && !first {
			c.setOff(reason.Error())
			pause = offPause
		}
		c.cfg.Event(Event{Died: true, Reason: reason.Error()})
		if !c.pause(pause, reason) {
			return
		}
	}
}

// live is one child from start to death. fatal is set when it never was ready.
func (c *Client) live() (reason, fatal error) {
	l, err := launch(c.cfg.Command, c.env)
	if err != nil {
		return err, err
	}
	var pump sync.WaitGroup
	defer pump.Wait()
	pump.Go(func() { l.pump(c.note) })
	if err := c.open(l); err != nil {
		if errors.Is(err, history.ErrUnavailable) { // then it is the process that knows better
			return fmt.Errorf("%w (%w)", l.end(0), err), err
		}
		_ = l.end(reapLimit) // the answer says it all
		return err, err
	}
	pump.Go(func() { c.ping(l) })
	hung := c.tend(l)
	c.setDown(l)
	grace := time.Duration(0)
	if c.isClosing() && hung == nil {
		grace = reapLimit
	}
	suspects := l.underWay()
	reason = l.end(grace)
	if hung != nil {
		return hung, nil
	}
	if !l.killed() {
		c.suspect(suspects)
	}
	return reason, nil
}

// open tells the child what to serve and makes it the one that is asked.
func (c *Client) open(l *life) error {
	c.mu.Lock()
	q := &request{kind: kindOpen, open: openRequest{cfg: c.cfg.Epochs, known: c.known, logs: c.logs}}
	for x, n := range c.suspects {
		if n > 1 {
			q.open.discard = append(q.open.discard, x)
			delete(c.suspects, x)
		}
	}
	c.mu.Unlock()
	for _, x := range q.open.discard {
		c.cfg.Event(Event{DiscardedFrom: x.String(), Reason: "the store died twice while it was in use"})
	}
	call, err := l.begin(q)
	if err != nil {
		return err
	}
	stop := make(chan struct{})
	defer close(stop)
	go func() {
		select {
		case <-stop:
		case <-c.closing:
			l.die(errors.New("closed while it was being opened"))
		}
	}()
	a, err := l.wait(call, openLimit)
	if err != nil {
		return err
	}
	if a.kind != kindOpened {
		return fmt.Errorf("%w: answer to open", ErrFrame)
	}
	c.mu.Lock()
	if !c.known {
		c.found = a.logs
	}
	late := c.known && !q.open.known
	logs := c.logs
	c.mu.Unlock()
	if late { // Start gave up waiting for this one and went on without
		if call, err = l.begin(&request{kind: kindLogs, logs: logs}); err == nil {
			_, err = l.wait(call, openLimit)
		}
		if err != nil {
			return err
		}
	}
	c.setUp(l)
	return nil
}

// tend watches a child until it dies, or hangs, which it returns.
func (c *Client) tend(l *life) error {
	t := time.NewTimer(stallLimit)
	defer t.Stop()
	for {
		select {
		case <-l.died:
			return nil
		case <-t.C:
		}
		all, read := l.oldest()
		if all > hangLimit {
			err := fmt.Errorf("no answer from the disk for %v", all.Round(time.Second))
			l.die(err)
			return err
		}
		c.stalled(read > stallLimit)
		t.Reset(max(stallLimit-read, stallLimit/8)) // no read is too old before
	}
}

// stalled notes whether the disk stands still: then nobody asks it for anything until it has answered.
func (c *Client) stalled(now bool) {
	c.mu.Lock()
	was := c.off != ""
	switch {
	case now && !was:
		c.off = "the disk does not answer"
	case !now && was:
		c.off = ""
	}
	c.mu.Unlock()
	switch {
	case now && !was:
		c.cfg.Event(Event{Off: true, Reason: "the disk does not answer"})
	case !now && was:
		c.cfg.Event(Event{On: true})
	}
}

// ping asks for the status now and then: room on the file system comes back without our doing.
func (c *Client) ping(l *life) {
	for {
		select {
		case <-l.died:
			return
		case <-time.After(beat.Until(pingEvery)):
		}
		call, err := l.begin(&request{kind: kindPing})
		if err == nil {
			_, err = l.wait(call, 0)
		}
		if err != nil {
			return
		}
	}
}

// note takes over what an answer says of the disk.
func (c *Client) note(a *answer) {
	c.bytes.Store(a.bytes)
	c.mu.Lock()
	turned := a.full != c.full
	c.full = a.full
	if a.moved {
		c.extents = a.extents
	}
	c.mu.Unlock()
	if turned {
		c.cfg.Event(Event{Full: a.full, Room: !a.full})
	}
	if turned || a.moved {
		c.changes()
	}
}

// changes wakes tell.
func (c *Client) changes() {
	select {
	case c.changed <- struct{}{}:
	default: // it is on its way already
	}
}

// tell calls the watcher in a goroutine of its own, as it may take its time.
func (c *Client) tell() {
	for {
		select {
		case <-c.closing:
			return
		case <-c.changed:
		}
		c.mu.Lock()
		watch := c.watch
		c.mu.Unlock()
		watch()
	}
}

// setUp makes a child the one that is asked.
func (c *Client) setUp(l *life) {
	c.mu.Lock()
	c.life = l
	close(c.up)
	was := c.off
	c.off = ""
	c.mu.Unlock()
	select {
	case c.first <- nil:
	default: // only the first counts
	}
	if was != "" {
		c.cfg.Event(Event{On: true})
	}
	c.changes()
}

// setDown is the opposite.
func (c *Client) setDown(l *life) {
	defer close(l.left)
	c.mu.Lock()
	defer c.mu.Unlock()
	c.life = nil
	c.up = make(chan struct{})
	c.downFrom = time.Now()
}

// setOff says that the cache does not work, and why.
func (c *Client) setOff(reason string) {
	c.mu.Lock()
	was := c.off
	if c.life == nil {
		c.off = reason
	}
	now := c.off
	c.mu.Unlock()
	if was == "" && now != "" {
		c.cfg.Event(Event{Off: true, Reason: reason})
		c.changes()
	}
}

// pause waits before the next attempt. After a second without a child the cache counts as off. It reports false when the client closes.
func (c *Client) pause(d time.Duration, reason error) bool {
	c.mu.Lock()
	down := time.Since(c.downFrom)
	c.mu.Unlock()
	if down > time.Second {
		c.setOff(reason.Error())
	}
	t := time.NewTimer(d)
	defer t.Stop()
	select {
	case <-c.closing:
		return false
	case <-t.C:
		return true
	}
}

// suspect notes the epochs of blocks that were being read or written when a child died.
func (c *Client) suspect(keys []history.Key) {
	c.mu.Lock()
	defer c.mu.Unlock()
	seen := map[history.Extent]bool{}
	for _, k := range keys {
		for _, x := range c.extents[k.Log] {
			if x.Covers(k.Number) && !seen[x] {
				seen[x] = true
				c.suspects[x]++
			}
		}
	}
}

func (c *Client) isClosing() bool {
	select {
	case <-c.closing:
		return true
	default:
		return false
	}
}

// Logs returns what the child found, when it did so in time.
func (c *Client) Logs() [2]history.State {
	c.mu.Lock()
	defer c.mu.Unlock()
	return c.found
}

// Watch sets the function that is told of changes.
func (c *Client) Watch(changed func()) {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.watch = changed
}

// Status returns the last the child said.
func (c *Client) Status() history.Status {
	c.mu.Lock()
	defer c.mu.Unlock()
	return history.Status{Bytes: c.bytes.Load(), Extents: c.extents, Full: c.full, Off: c.off, Restarts: c.restarts.Load()}
}

// child returns the child that is ready, for which it waits.
func (c *Client) child(wait time.Duration) (*life, error) {
	var timeout <-chan time.Time
	for {
		c.mu.Lock()
		l, up, off := c.life, c.up, c.off
		c.mu.Unlock()
		switch {
		case off != "":
			return nil, fmt.Errorf("%w: %s", history.ErrUnavailable, off)
		case l != nil:
			return l, nil
		}
		if timeout == nil {
			t := time.NewTimer(wait)
			defer t.Stop()
			timeout = t.C
		}
		select {
		case <-up:
		case <-timeout:
			return nil, fmt.Errorf("%w: it is being started", history.ErrUnavailable)
		case <-c.closing:
			return nil, fmt.Errorf("%w: closed", history.ErrUnavailable)
		}
	}
}

// ask sends a request and waits for the answer. A child that dies meanwhile is succeeded once.
func (c *Client) ask(q *request, wait time.Duration) (*answer, error) {
	for again := true; ; again = false {
		l, err := c.child(wait)
		if err != nil {
			return nil, err
		}
		call, err := l.begin(q)
		if err == nil {
			var a *answer
			if a, err = l.wait(call, 0); err == nil {
				return a, nil
			}
		}
		if !again || !errors.Is(err, history.ErrUnavailable) || c.isClosing() || !l.isDead() {
			return nil, err
		}
		<-l.left
	}
}

// Get asks the child for a block.
func (c *Client) Get(k history.Key) (data []byte, about history.About, err error) {
	a, err := c.ask(&request{kind: kindGet, key: k}, upWait)
	if err != nil {
		return nil, about, err
	}
	return a.data, history.About{Next: a.next, Scope: a.scope}, nil
}

// Put gives the child a block.
func (c *Client) Put(b *history.Sealed) error {
	_, err := c.ask(&request{kind: kindPut, block: *b}, putWait)
	return err
}

// Note tells the child what is still of use of a block.
func (c *Client) Note(k history.Key, length int) error {
	_, err := c.ask(&request{kind: kindNote, key: k, length: length}, upWait)
	return err
}

// SetLogs tells the child, and every later one, what is to be kept.
func (c *Client) SetLogs(logs [2]history.State) error {
	c.mu.Lock()
	c.logs, c.known = logs, true
	c.mu.Unlock()
	_, err := c.ask(&request{kind: kindLogs, logs: logs}, upWait)
	return err
}

// Lengths asks the child for a list.
func (c *Client) Lengths(x history.Extent, from uint64) ([]history.Holding, error) {
	a, err := c.ask(&request{kind: kindLengths, extent: x, from: from}, putWait)
	if err != nil {
		return nil, err
	}
	return a.holdings, nil
}

// Anchors asks the child for records.
func (c *Client) Anchors(x history.Extent, offset int64) (records []byte, next int64, err error) {
	a, err := c.ask(&request{kind: kindAnchors, extent: x, from: uint64(offset)}, putWait)
	if err != nil {
		return nil, 0, err
	}
	return a.data, int64(a.next), nil
}

// Close lets the child close its files and end, and kills it after limit.
func (c *Client) Close(limit time.Duration) error {
	c.mu.Lock()
	l := c.life
	c.mu.Unlock()
	c.once.Do(func() {
		if l != nil && limit > 0 {
			go func() { _, _ = l.begin(&request{kind: kindClose}) }() // it may block; the answer is that the socket closes
		}
		close(c.closing)
	})
	if l != nil && limit == 0 {
		l.die(errors.New("ended by the gateway"))
	}
	t := time.NewTimer(limit)
	defer t.Stop()
	select {
	case <-c.done:
		return nil
	case <-t.C:
	}
	if l != nil {
		l.die(errors.New("ended by the gateway"))
	}
	<-c.done
	return nil
}
