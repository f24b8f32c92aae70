package peer_test

import (
	"errors"
	"io"
	"sync"

	"wanpair/accel/flow"
)

// errReset is what reading and writing a connection that was reset give.
var errReset = errors.New("connection reset")

// wireBytes is how much one direction of a connection of the simulated LAN holds: what a socket's buffers do.
const wireBytes = 32 << 10

// lanConn is a TCP connection between a host and a gateway in the simulation: two directions with bounded buffers, FIN, and RST, which takes
// with it what was not read.
type lanConn struct {
	mu    sync.Mutex
	cond  sync.Cond
	dirs  [2]lanDirection // 0: from the host to the gateway
	reset bool
}

type lanDirection struct {
	buf []byte
	fin bool
}

func newLANConn() *lanConn {
	c := &lanConn{}
	c.cond.L = &c.mu
	return c
}

// host and gateway are the two ends.
func (c *lanConn) host() *lanEnd    { return &lanEnd{c, &c.dirs[1], &c.dirs[0]} }
func (c *lanConn) gateway() *lanEnd { return &lanEnd{c, &c.dirs[0], &c.dirs[1]} }

// lanEnd is one end of a connection. The gateway's is a flow.Edge, the host uses Read, Write, CloseWrite and Reset.
type lanEnd struct {
	conn    *lanConn
	in, out *lanDirection
}

var _ flow.Edge = (*lanEnd)(nil)

// wait blocks until done says so or the connection is reset. The caller holds the lock.
func (e *lanEnd) wait(done func() bool) error {
	for !e.conn.reset && !done() {
		e.conn.cond.Wait()
	}
	if e.conn.reset {
		return errReset
	}
	return nil
}

func (e *lanEnd) WaitReadable() error {
	e.conn.mu.Lock()
	defer e.conn.mu.Unlock()
	return e.wait(func() bool { return len(e.in.buf) > 0 || e.in.fin })
}

func (e *lanEnd) ReadAvailable(p []byte) (int, error) {
	e.conn.mu.Lock()
	defer e.conn.mu.Unlock()
	if e.conn.reset {
		return 0, errReset
	}
	n := copy(p, e.in.buf)
	e.in.buf = e.in.buf[n:]
	e.conn.cond.Broadcast()
	if len(e.in.buf) == 0 && e.in.fin {
		return n, io.EOF
	}
	return n, nil
}

// Read is for the host: it waits, and says EOF only when nothing came with it.
func (e *lanEnd) Read(p []byte) (int, error) {
	if err := e.WaitReadable(); err != nil {
		return 0, err
	}
	n, err := e.ReadAvailable(p)
	if n > 0 && errors.Is(err, io.EOF) {
		err = nil
	}
	return n, err
}

func (e *lanEnd) Write(p []byte) (int, error) {
	e.conn.mu.Lock()
	defer e.conn.mu.Unlock()
	for n := 0; ; {
		if n == len(p) {
			return n, nil
		}
		if err := e.wait(func() bool { return len(e.out.buf) < wireBytes }); err != nil {
			return n, err
		}
		k := min(len(p)-n, wireBytes-len(e.out.buf))
		e.out.buf = append(e.out.buf, p[n:n+k]...)
		n += k
		e.conn.cond.Broadcast()
	}
}

func (e *lanEnd) CloseWrite() error {
	e.conn.mu.Lock()
	defer e.conn.mu.Unlock()
	if e.conn.reset {
		return errReset
	}
	e.out.fin = true
	e.conn.cond.Broadcast()
	return nil
}

func (e *lanEnd) WaitHangup() error {
	e.conn.mu.Lock()
	defer e.conn.mu.Unlock()
	return e.wait(func() bool { return e.in.fin && e.out.fin })
}

func (e *lanEnd) Broken() error {
	e.conn.mu.Lock()
	defer e.conn.mu.Unlock()
	if e.conn.reset {
		return errReset
	}
	return nil
}

func (e *lanEnd) Finish() error { return e.Broken() }

func (e *lanEnd) Reset() {
	e.conn.mu.Lock()
	defer e.conn.mu.Unlock()
	e.conn.reset = true
	e.conn.cond.Broadcast()
}
