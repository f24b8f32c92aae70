package transport

import (
	"context"
	"crypto/rand"
	"errors"
	"fmt"
	"log/slog"
	"maps"
	"net/netip"
	"slices"
	"sync"
	"sync/atomic"
	"time"

	"wanpair/internal/beat"
)

// Timing of lanes, docs/protocol.md, A3 and A7.
const (
	helloTimeout  = 5 * time.Second
	tickPeriod    = 100 * time.Millisecond // while anything is under way
	idlePeriod    = 500 * time.Millisecond // else: an idle gateway lets the processor sleep
	pingSilence   = time.Second            // a lane silent for so long is asked
	deadSilence   = 3 * time.Second        // and closed after so long
	stallSilence  = time.Second            // its frames are repeated elsewhere
	minAckDelay   = 5 * time.Millisecond   // bounds of how long an acknowledgement waits
	maxAckDelay   = 25 * time.Millisecond  // as long as QUIC's own
	tombPingEvery = 100 * time.Millisecond // how often ends of flows are confirmed
)

// Defaults of [LinkConfig].
const (
	DefaultHold          = 120 * time.Second
	DefaultCreditBudget  = 512 << 20
	DefaultInitialCredit = 64 << 10
	DefaultFloor         = 16 << 10
)

// LinkConfig says what a link is. The zero value of a number means its default.
type LinkConfig struct {
	// Log gets lane and session changes at info, flows at debug.
	Log *slog.Logger
	// Hello is what this side says of itself.
	Hello Hello
	// CreditBudgetBytes bounds the raw bytes granted and not yet taken by the
	// readers, over all flows of the link. Half of it is kept for flows to
	// come.
	CreditBudgetBytes int64
	// InitialCreditBytes is what every new flow may be sent at once; at most
	// 16 MiB. It decides how many flows the peer may open: half the budget
	// over it.
	InitialCreditBytes int64
	// FloorBytes is the window a reader keeps however slow it is.
	FloorBytes int64
	// Hold is how long a session without a lane is kept.
	Hold time.Duration
	// Shares are the per cents of the link that classes of flows get while they
	// compete, by name; all others have what is left. Nil: flows share evenly.
	// See [Flow.SetClass].
	Shares map[string]int
	// Ceiling bounds what is sent, together with the other links that have the
	// same one. May be nil.
	Ceiling *Ceiling
	// OnSession is called when a session began, before any frame or message of
	// it is delivered. It must not block for long. May be nil.
	OnSession func(*Session)
}

func (c *LinkConfig) fill() error {
	if c.Log == nil {
		return errors.New("transport: link without a logger")
	}
	if c.CreditBudgetBytes == 0 {
		c.CreditBudgetBytes = DefaultCreditBudget
	}
	if c.InitialCreditBytes == 0 {
		c.InitialCreditBytes = DefaultInitialCredit
	}
	if c.FloorBytes == 0 {
		c.FloorBytes = DefaultFloor
	}
	if c.Hold == 0 {
		c.Hold = DefaultHold
	}
	switch {
	case c.FloorBytes < 1 || c.Hold < 0:
		return errors.New("transport: floor or hold below zero")
	case c.InitialCreditBytes < 1 || c.InitialCreditBytes > maxInitialCredit:
		return fmt.Errorf("transport: initial credit of %d bytes, at most %d", c.InitialCreditBytes, maxInitialCredit)
	case c.CreditBudgetBytes < 2*c.InitialCreditBytes:
		return fmt.Errorf("transport: credit budget of %d bytes is less than two initial credits", c.CreditBudgetBytes)
	case checkShares(c.Shares) != nil:
		return checkShares(c.Shares)
	case len(c.Hello.Site) > maxStrBytes || len(c.Hello.Software) > maxStrBytes:
		return errors.New("transport: site name or software version too long")
	case len(c.Hello.OwnSubnets) > maxPrefixes || len(c.Hello.PeerSubnets) > maxPrefixes || len(c.Hello.OwnAddrs) > maxPrefixes:
		return fmt.Errorf("transport: more than %d subnets or addresses", maxPrefixes)
	}
	return nil
}

// Link joins this site and one peer. It survives lanes and sessions.
type Link struct {
	cfg     LinkConfig
	log     *slog.Logger
	buffers buffers
	heads   heads

	announced atomic.Int64 // bytes of payloads that are being read: see maxAnnounced
	began     time.Time
	stir      chan struct{} // holds a token when an idle session has something under way again

	mu       sync.Mutex
	instance [16]byte
	retired  map[[16]byte]bool // remote instances whose session with our present instance is over
	session  *Session          // nil when there is none
	stopped  bool
	shares   map[string]int
	ownAddrs []netip.Addr // for hellos
	nextLane uint64
	lastErr  string
	totals   linkTotals
}

// linkTotals are the counters of everything that has ended.
type linkTotals struct {
	lanes, sessions, refused uint64
	sent, received, lost     uint64
	session                  sessionTotals
}

// NewLink returns a link without a session. Nothing runs until
// [Link.Run] and [Link.ServeLane] are called.
func NewLink(cfg LinkConfig) (*Link, error) {
	if err := cfg.fill(); err != nil {
		return nil, err
	}
	l := &Link{cfg: cfg, log: cfg.Log, began: time.Now(), stir: make(chan struct{}, 1), retired: make(map[[16]byte]bool)}
	l.instance = newInstance()
	l.shares = maps.Clone(cfg.Shares)
	l.ownAddrs = cfg.Hello.OwnAddrs
	return l, nil
}

func newInstance() (id [16]byte) {
	rand.Read(id[:]) // never fails, says crypto/rand
	return id
}

// Run does what needs a clock: liveness, hold time, statistics. It blocks until
// ctx ends; then the session ends with [AbortShutdown] for its flows.
func (l *Link) Run(ctx context.Context) error {
	tick := time.NewTimer(tickPeriod)
	defer tick.Stop()
	for {
		select {
		case <-ctx.Done():
			l.stop()
			return nil
		case <-l.stir:
			tick.Reset(tickPeriod)
		case now := <-tick.C:
			next := tickPeriod
			if s := l.Session(); s != nil {
				idle, err := s.tick(now)
				if err != nil {
					l.drop(s, err, AbortLinkLost)
				}
				if idle {
					next = beat.Until(idlePeriod)
				}
			}
			tick.Reset(next)
		}
	}
}

func (l *Link) stop() {
	l.mu.Lock()
	l.stopped = true
	s := l.session
	l.mu.Unlock()
	if s != nil {
		l.drop(s, ErrLinkStopped, AbortShutdown)
	}
}

// Session returns the running session, held ones included; nil when there is
// none.
func (l *Link) Session() *Session {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.session
}

// SetOwnAddrs changes what the hellos to come say in [Hello.OwnAddrs]; of more
// than a hello may hold the first ones.
func (l *Link) SetOwnAddrs(addrs []netip.Addr) {
	l.mu.Lock()
	defer l.mu.Unlock()
	l.ownAddrs = slices.Clone(addrs[:min(len(addrs), maxPrefixes)])
}

// Instance is what this side names itself in its hello at present.
func (l *Link) Instance() [16]byte {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.instance
}

// drop ends s from this side. The peer may still hold it, so this side takes a
// new instance: the pair of instances never names two sessions.
func (l *Link) drop(s *Session, err error, code AbortCode) {
	l.mu.Lock()
	if l.session == s {
		l.session = nil
		l.instance = newInstance()
		clear(l.retired)
		l.totals.sessions++
		l.lastErr = err.Error()
	}
	l.mu.Unlock()
	s.end(err, code)
	l.absorb(s)
	l.log.Info("session ended", "peer", s.peer.Site, "err", err)
}

func (l *Link) absorb(s *Session) {
	t := s.takeTotals()
	l.mu.Lock()
	l.totals.session.add(t)
	l.mu.Unlock()
}

// ServeLane says hello on lane and runs it until it ends, for whatever reason;
// the lane is closed when ServeLane returns. The error says why, nil after an
// orderly end. Both sides of a lane call it.
func (l *Link) ServeLane(ctx context.Context, lane Lane) error {
	ls := &laneState{lane: lane, began: time.Now(), wake: make(chan struct{}, 1)}
	ls.lastRecv.Store(int64(time.Since(l.began)))
	l.mu.Lock()
	l.nextLane++
	ls.id = l.nextLane
	l.mu.Unlock()

	stop := context.AfterFunc(ctx, func() { lane.Close(LaneNone, "shutting down") })
	defer stop()
	s, err := l.hello(ls)
	if err == nil {
		err = s.runLane(ls)
		if errors.Is(err, errSession) {
			l.drop(s, err, AbortLinkLost)
		}
	}
	err = closeLane(ctx, lane, err)
	l.account(ls, err)
	return err
}

// closeLane closes the lane with the code err asks for and returns what the
// caller should be told.
func closeLane(ctx context.Context, lane Lane, err error) error {
	var le *LaneError
	switch {
	case err == nil || ctx.Err() != nil:
		lane.Close(LaneNone, "")
		return nil
	case errors.As(err, &le):
		lane.Close(le.Code, le.Reason)
		if le.Code == LaneNone {
			return nil
		}
	case errors.Is(err, ErrMalformed):
		le = &LaneError{Code: LaneProtocol, Reason: err.Error()}
		lane.Close(le.Code, le.Reason)
		err = le
	default:
		lane.Close(LaneInternal, err.Error())
	}
	return err
}

func (l *Link) account(ls *laneState, err error) {
	st := ls.lane.Stats()
	l.mu.Lock()
	defer l.mu.Unlock()
	l.totals.lanes++
	l.totals.sent += st.BytesSent
	l.totals.received += st.BytesRecv
	l.totals.lost += st.BytesLost
	if err != nil {
		l.lastErr = err.Error()
		var le *LaneError
		if errors.As(err, &le) && (le.Code == LaneRefused || le.Code == LaneVersion) {
			l.totals.refused++
		}
	}
}

// NoteError records why no lane could be had, for the status page.
func (l *Link) NoteError(text string) {
	l.mu.Lock()
	defer l.mu.Unlock()
	l.lastErr = text
}

// hello exchanges hellos and finds the session the lane belongs to.
func (l *Link) hello(ls *laneState) (*Session, error) {
	timer := time.AfterFunc(helloTimeout, func() { ls.lane.Close(LaneStalled, "no hello in time") })
	defer timer.Stop()
	ctl := ls.lane.Control()
	ls.records = newRecordReader(&countingReader{r: ctl, link: l, lane: ls})
	if ls.lane.Dialed() {
		sent := l.ownHello(ls)
		if _, err := ctl.Write(appendRecord(nil, recHello, appendHello(nil, &sent))); err != nil {
			return nil, fmt.Errorf("send hello: %w", err)
		}
		theirs, err := readHello(ls)
		if err != nil {
			return nil, err
		}
		return l.admit(ls, &theirs, sent.Instance)
	}
	theirs, err := readHello(ls)
	if err != nil {
		return nil, err
	}
	s, err := l.admit(ls, &theirs, l.Instance())
	if err != nil {
		return nil, err
	}
	own := l.ownHello(ls)
	own.Instance, own.PeerInstance = s.local, s.peer.Instance
	if _, err := ctl.Write(appendRecord(nil, recHello, appendHello(nil, &own))); err != nil {
		return nil, fmt.Errorf("send hello: %w", err)
	}
	return s, nil
}

func readHello(ls *laneState) (Hello, error) {
	typ, body, err := ls.records.next()
	if err != nil {
		return Hello{}, fmt.Errorf("read hello: %w", err)
	}
	if typ != recHello {
		return Hello{}, malformed(fmt.Sprintf("record 0x%02x before the hello", typ))
	}
	return parseHello(body)
}

func (l *Link) ownHello(ls *laneState) Hello {
	h := l.cfg.Hello
	h.MinVersion, h.MaxVersion = ProtocolVersion, ProtocolVersion
	h.Features |= FeatureFrameAcks
	h.InitialCredit = uint64(l.cfg.InitialCreditBytes)
	h.Floors = uint64(l.maxPeerFlows())
	h.Lane, h.Lanes = ls.id, max(h.Lanes, 1)
	h.WallClock = time.Now()
	l.mu.Lock()
	defer l.mu.Unlock()
	h.OwnAddrs = l.ownAddrs
	h.Instance = l.instance
	h.PeerInstance = [16]byte{}
	if l.session != nil {
		h.PeerInstance = l.session.peer.Instance
	}
	return h
}

// maxPeerFlows is how many flows the peer may have open: half the budget keeps
// an initial credit for each.
func (l *Link) maxPeerFlows() int64 {
	return l.cfg.CreditBudgetBytes / 2 / max(l.cfg.InitialCreditBytes, l.cfg.FloorBytes)
}

// admit decides which session a lane belongs to, docs/protocol.md, A3. said is
// the instance our own hello names.
func (l *Link) admit(ls *laneState, theirs *Hello, said [16]byte) (*Session, error) {
	if theirs.MaxVersion < ProtocolVersion || theirs.MinVersion > ProtocolVersion {
		return nil, &LaneError{Code: LaneVersion, Reason: fmt.Sprintf("this side speaks version %d, the other %d to %d",
			ProtocolVersion, theirs.MinVersion, theirs.MaxVersion)}
	}
	refuse := func(why string) error { return &LaneError{Code: LaneRefused, Reason: why} }
	l.mu.Lock()
	old := l.session
	switch {
	case l.stopped:
		l.mu.Unlock()
		return nil, refuse("this side is shutting down")
	case theirs.Instance == l.instance:
		l.mu.Unlock()
		return nil, refuse("the peer is this very process")
	case said != l.instance:
		l.mu.Unlock()
		return nil, refuse("hello of an earlier session, dial again")
	case old != nil && old.peer.Instance == theirs.Instance:
		defer l.mu.Unlock()
		if theirs.PeerInstance != ([16]byte{}) && theirs.PeerInstance != l.instance {
			return nil, refuse("hello of an earlier session, dial again")
		}
		old.noteClock(theirs.WallClock)
		return old, nil
	case l.retired[theirs.Instance]:
		l.instance = newInstance()
		clear(l.retired)
		l.mu.Unlock()
		return nil, refuse("that session has ended, dial again")
	}
	s := newSession(l, *theirs, l.instance)
	s.noteClock(theirs.WallClock)
	l.session = s
	if old != nil {
		l.totals.sessions++
		l.retired[old.peer.Instance] = true
		if len(l.retired) > 64 {
			clear(l.retired) // a peer with so many lives cannot have lanes of the first ones left
		}
	}
	l.mu.Unlock()
	if old != nil {
		old.end(ErrPeerRestarted, AbortPeerRestarted)
		l.absorb(old)
	}
	l.log.Info("session began", "peer", theirs.Site, "software", theirs.Software, "lane", ls.id, "restarted", old != nil)
	if l.cfg.OnSession != nil {
		l.cfg.OnSession(s)
	}
	close(s.ready)
	return s, nil
}
