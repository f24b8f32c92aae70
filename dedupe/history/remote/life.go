package remote

import (
	"bytes"
	"cmp"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"strings"
	"sync"
	"syscall"
	"time"

	"golang.org/x/sys/unix"

	"wanpair/dedupe/history"
)

// life is one child, from its start to its death.
type life struct {
	conn   *os.File
	cmd    *exec.Cmd
	stderr *excerpt
	exited chan error // of the process
	died   chan struct{}
	left   chan struct{} // closed when nobody is sent here any more
	reaped bool          // the process has ended; set by end

	wmu sync.Mutex // serialises writing
	buf []byte

	mu     sync.Mutex
	calls  map[uint64]*call
	last   uint64
	dead   bool
	reason error
}

// call is a request under way.
type call struct {
	kind  kind
	began time.Time
	key   history.Key // of kindGet and kindPut
	reply chan *answer
}

// launch starts a child process. It answers nothing yet.
func launch(command, env []string) (*life, error) {
	fds, err := unix.Socketpair(unix.AF_UNIX, unix.SOCK_STREAM|unix.SOCK_CLOEXEC, 0)
	if err != nil {
		return nil, fmt.Errorf("socket pair: %w", err)
	}
	theirs := os.NewFile(uintptr(fds[1]), "store")
	defer theirs.Close()
	if err := unix.SetNonblock(fds[0], true); err != nil { // so that closing it ends reads and writes
		return nil, errors.Join(err, unix.Close(fds[0]))
	}
	l := &life{
		conn:   os.NewFile(uintptr(fds[0]), "store"),
		stderr: &excerpt{},
		exited: make(chan error, 1),
		died:   make(chan struct{}),
		left:   make(chan struct{}),
		calls:  map[uint64]*call{},
	}
	l.cmd = exec.Command(command[0], command[1:]...) //nolint:noctx // its life is longer than any context here, and ended by kill
	l.cmd.Env = env
	l.cmd.ExtraFiles = []*os.File{theirs}
	l.cmd.Stderr = l.stderr
	l.cmd.WaitDelay = time.Second
	// A process group of its own: what the terminal sends is for the gateway.
	l.cmd.SysProcAttr = &syscall.SysProcAttr{Setpgid: true}
	if err := l.cmd.Start(); err != nil {
		return nil, errors.Join(fmt.Errorf("start the store: %w", err), l.conn.Close())
	}
	return l, nil
}

// pump reads answers until the child dies, and reports the extents and sizes it speaks of.
func (l *life) pump(status func(*answer)) {
	err := l.receive(status)
	l.die(err)
}

func (l *life) receive(status func(*answer)) error {
	for {
		h, body, err := readFrame(l.conn, nil)
		if err != nil {
			return err
		}
		a, err := parseAnswer(h.kind, body)
		if err != nil {
			return err
		}
		status(a)
		l.mu.Lock()
		c := l.calls[h.id]
		delete(l.calls, h.id)
		l.mu.Unlock()
		if c != nil {
			c.reply <- a
		}
	}
}

// die marks the life as over and fails what is under way. The first reason counts.
func (l *life) die(reason error) {
	l.mu.Lock()
	defer l.mu.Unlock()
	if l.dead {
		return
	}
	l.dead, l.reason = true, reason
	close(l.died)
}

// begin sends a request.
func (l *life) begin(q *request) (*call, error) {
	c := &call{kind: q.kind, began: time.Now(), reply: make(chan *answer, 1)}
	switch q.kind {
	case kindGet:
		c.key = q.key
	case kindPut:
		c.key = q.block.Key
	default: // about no block
	}
	l.mu.Lock()
	if l.dead {
		l.mu.Unlock()
		return nil, history.ErrUnavailable
	}
	if len(l.calls) >= maxWaiting/2 {
		l.mu.Unlock()
		return nil, fmt.Errorf("%w: too many requests under way", history.ErrUnavailable)
	}
	l.last++
	id := l.last
	l.calls[id] = c
	l.mu.Unlock()

	l.wmu.Lock()
	defer l.wmu.Unlock()
	b := q.append(append(l.buf[:0], make([]byte, frameHeader)...))
	l.buf = b
	header{q.kind, id, len(b) - frameHeader}.append(b[:0])
	if _, err := l.conn.Write(b); err != nil {
		l.die(err)
		return nil, fmt.Errorf("%w: %w", history.ErrUnavailable, err)
	}
	return c, nil
}

// wait waits for the answer of a call until the child dies; a limit of 0 is none.
func (l *life) wait(c *call, limit time.Duration) (*answer, error) {
	var timeout <-chan time.Time
	if limit > 0 {
		t := time.NewTimer(limit)
		defer t.Stop()
		timeout = t.C
	}
	select {
	case a := <-c.reply:
		return a.result()
	case <-timeout:
		return nil, fmt.Errorf("%w within %v", history.ErrUnavailable, limit)
	case <-l.died:
		select {
		case a := <-c.reply: // it was the last thing it said
			return a.result()
		default:
			return nil, fmt.Errorf("%w: the process died", history.ErrUnavailable)
		}
	}
}

// result makes an error of a failure.
func (a *answer) result() (*answer, error) {
	if a.kind == kindFailed {
		return nil, failed(a.code, a.reason)
	}
	return a, nil
}

// oldest returns the age of the oldest call under way, and of the oldest that reads a block.
func (l *life) oldest() (all, read time.Duration) {
	l.mu.Lock()
	defer l.mu.Unlock()
	for _, c := range l.calls {
		age := time.Since(c.began)
		all = max(all, age)
		if c.kind == kindGet {
			read = max(read, age)
		}
	}
	return all, read
}

// underWay lists the blocks that were being read and written.
func (l *life) underWay() (keys []history.Key) {
	l.mu.Lock()
	defer l.mu.Unlock()
	for _, c := range l.calls {
		if c.kind == kindGet || c.kind == kindPut {
			keys = append(keys, c.key)
		}
	}
	return keys
}

// end kills the process, or lets it end by itself within limit, and says why it died. The socket is closed first, so that nobody is left
// waiting for a process that the kernel cannot end.
func (l *life) end(limit time.Duration) error {
	l.die(errors.New("ended by the gateway"))
	_ = l.conn.Close() // nothing is lost
	go func() { l.exited <- l.cmd.Wait() }()
	if limit == 0 {
		_ = l.cmd.Process.Kill() // it may be gone already
	}
	t := time.NewTimer(max(limit, reapLimit))
	defer t.Stop()
	select {
	case err := <-l.exited:
		l.reaped = true
		return l.obituary(err)
	case <-t.C:
	}
	_ = l.cmd.Process.Kill()
	t.Reset(reapLimit)
	select {
	case err := <-l.exited:
		l.reaped = true
		return l.obituary(err)
	case <-t.C:
		return errors.New("process cannot be ended: it waits for the disk")
	}
}

// obituary puts exit status and last words together.
func (l *life) obituary(exit error) error {
	if said := l.stderr.firstLine(); said != "" {
		return fmt.Errorf("%w: %s", cmp.Or(exit, l.reason), said)
	}
	return cmp.Or(exit, l.reason)
}

// excerpt keeps the beginning of what is written to it.
type excerpt struct {
	mu sync.Mutex
	b  bytes.Buffer
}

const maxExcerpt = 4096

func (e *excerpt) Write(p []byte) (int, error) {
	e.mu.Lock()
	defer e.mu.Unlock()
	e.b.Write(p[:min(len(p), maxExcerpt-e.b.Len())])
	return len(p), nil
}

func (e *excerpt) firstLine() string {
	e.mu.Lock()
	defer e.mu.Unlock()
	line, _, _ := strings.Cut(strings.TrimSpace(e.b.String()), "\n")
	return strings.ToValidUTF8(line[:min(len(line), 200)], "?")
}

// isDead tells whether the life is over.
func (l *life) isDead() bool {
	select {
	case <-l.died:
		return true
	default:
		return false
	}
}

// killed tells whether the process, which has ended, was ended from outside: by us, an operator, or the kernel for want of memory.
func (l *life) killed() bool {
	if !l.reaped {
		return true // it hangs in the kernel
	}
	ws, ok := l.cmd.ProcessState.Sys().(syscall.WaitStatus)
	return ok && (ws.Signaled() && ws.Signal() == syscall.SIGKILL || ws.Exited() && ws.ExitStatus() == 0)
}
