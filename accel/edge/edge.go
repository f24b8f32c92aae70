// Package edge is the TCP end of a flow: one connection to a client or to a server of the LAN.
//
// It owns what a plain net.TCPConn leaves open for a gateway:
//
//   - How a connection ends. A process that dies must look like a reset and never like a clean end of data, so every
//     socket carries linger (1, 0) from its first moment; only Finish, after an end that was verified, lifts it.
//   - Which end was seen. ReadAvailable returns io.EOF for a FIN and an error for everything else, also when the other
//     direction's write met the reset first (see Conn.endOfFile).
//   - What waiting costs. WaitReadable holds no buffer, so that an idle connection costs the socket and about 200 bytes.
//
// Nouns: the near edge faces the client, the far edge the server; both are a Conn. An end is clean (FIN) or an abort (reset).
package edge

import (
	"errors"
	"fmt"
	"io"
	"net"
	"net/netip"
	"sync"
	"sync/atomic"
	"time"

	"golang.org/x/sys/unix"
)

// ErrAborted says that a connection was over without a FIN although no system call reported an error for it.
var ErrAborted = errors.New("edge: connection aborted by the other end")

// Default keep-alive timing: a silent host is given up after two minutes plus eight probes, six minutes in all. A bare link
// has no such limit, so it is slow enough to outlast a reboot of a switch, and short enough to notice a host that is gone.
const (
	DefaultKeepAliveIdle     = 2 * time.Minute
	DefaultKeepAliveInterval = 30 * time.Second
	DefaultKeepAliveCount    = 8
)

// Options are the tunables of a connection. The zero value means the defaults.
type Options struct {
	KeepAliveIdle     time.Duration // silence before the first probe, whole seconds; 0 = DefaultKeepAliveIdle, < 0 = no keep-alive
	KeepAliveInterval time.Duration // between probes, whole seconds; 0 = DefaultKeepAliveInterval
	KeepAliveCount    int           // unanswered probes until the connection is broken; 0 = DefaultKeepAliveCount
}

// Prepare sets the options that must hold before the first byte or the first failure: linger (1, 0), urgent data in line,
// no delay, keep-alive. On a listener the accepted sockets inherit them, those still in the accept queue included. On a socket
// about to connect they hold from the handshake on. It belongs into a net.Dialer's or net.ListenConfig's Control function.
func Prepare(fd int, opt Options) error {
	idle, interval, count := opt.timing()
	if err := unix.SetsockoptLinger(fd, unix.SOL_SOCKET, unix.SO_LINGER, &unix.Linger{Onoff: 1, Linger: 0}); err != nil {
		return fmt.Errorf("edge: set SO_LINGER: %w", err)
	}
	ints := []struct {
		level, name, value int
		text               string
	}{
		{unix.SOL_SOCKET, unix.SO_OOBINLINE, 1, "SO_OOBINLINE"},
		{unix.IPPROTO_TCP, unix.TCP_NODELAY, 1, "TCP_NODELAY"},
		{unix.SOL_SOCKET, unix.SO_KEEPALIVE, boolInt(idle > 0), "SO_KEEPALIVE"},
		{unix.IPPROTO_TCP, unix.TCP_KEEPIDLE, idle, "TCP_KEEPIDLE"},
		{unix.IPPROTO_TCP, unix.TCP_KEEPINTVL, interval, "TCP_KEEPINTVL"},
		{unix.IPPROTO_TCP, unix.TCP_KEEPCNT, count, "TCP_KEEPCNT"},
	}
	if idle <= 0 {
		ints = ints[:3]
	}
	for _, o := range ints {
		if err := unix.SetsockoptInt(fd, o.level, o.name, o.value); err != nil {
			return fmt.Errorf("edge: set %s: %w", o.text, err)
		}
	}
	return nil
}

// timing gives the keep-alive times in the seconds the kernel takes; idle <= 0 means off.
func (o Options) timing() (idle, interval, count int) {
	seconds := func(d, def time.Duration) int {
		if d == 0 {
			d = def
		}
		if d < 0 {
			return 0
		}
		return max(1, int((d+time.Second-1)/time.Second))
	}
	count = o.KeepAliveCount
	if count <= 0 {
		count = DefaultKeepAliveCount
	}
	return seconds(o.KeepAliveIdle, DefaultKeepAliveIdle), max(1, seconds(o.KeepAliveInterval, DefaultKeepAliveInterval)), count
}

func boolInt(b bool) int {
	if b {
		return 1
	}
	return 0
}

// Conn is one edge. At most one goroutine reads (WaitReadable, ReadAvailable, WaitHangup) and at most one writes (Write,
// CloseWrite) at a time; Reset, Finish, Broken, Unsent and the addresses may be called from any.
type Conn struct {
	tcp  *net.TCPConn
	raw  rawConn
	once sync.Once // Reset or Finish, whichever comes first

	// The system calls that consume a pending socket error (write, read) run under mu, so that an end of file read while the
	// other goroutine is taking the reset is not taken for a clean end.
	mu    sync.Mutex
	fault error // under mu: the first error of any call; sticky

	finSent atomic.Bool // CloseWrite was called

	// Arguments and results of the calls in flight; the functions are made once so that reading and writing allocate nothing.
	rd, wr                        transfer
	readOnce, writeAll, pollIn    func(fd uintptr) bool
	pollHangup                    func(fd uintptr) bool
	waitErr                       error // result of pollIn and pollHangup
	localAddrPort, remoteAddrPort netip.AddrPort
}

// rawConn is the part of syscall.RawConn used here.
type rawConn interface {
	Control(f func(fd uintptr)) error
	Read(f func(fd uintptr) (done bool)) error
	Write(f func(fd uintptr) (done bool)) error
}

// transfer is one read or write in progress.
type transfer struct {
	p   []byte
	n   int
	err error
}

// New takes a connected TCP socket over and sets its options; after an error the socket is closed (reset).
func New(c *net.TCPConn, opt Options) (*Conn, error) {
	raw, err := c.SyscallConn()
	if err != nil {
		_ = c.SetLinger(0)
		_ = c.Close()
		return nil, fmt.Errorf("edge: %w", err)
	}
	e := &Conn{tcp: c, raw: raw, localAddrPort: addrPort(c.LocalAddr()), remoteAddrPort: addrPort(c.RemoteAddr())}
	e.readOnce, e.writeAll, e.pollIn, e.pollHangup = e.doRead, e.doWrite, e.doPollIn, e.doPollHangup
	var inner error
	if err := raw.Control(func(fd uintptr) { inner = Prepare(int(fd), opt) }); err != nil {
		inner = err
	}
	if inner != nil {
		e.Reset()
		return nil, inner
	}
	return e, nil
}

func addrPort(a net.Addr) netip.AddrPort {
	if t, ok := a.(*net.TCPAddr); ok {
		ap := t.AddrPort()
		return netip.AddrPortFrom(ap.Addr().Unmap(), ap.Port())
	}
	return netip.AddrPort{}
}

// LocalAddr is the socket's own address; of an intercepted connection that is the original destination.
func (c *Conn) LocalAddr() netip.AddrPort { return c.localAddrPort }

// RemoteAddr is the other end's address.
func (c *Conn) RemoteAddr() netip.AddrPort { return c.remoteAddrPort }

// WaitReadable blocks until ReadAvailable has something to say: data, an end or an error. It holds no buffer and takes nothing
// from the socket. It fails only when the connection was closed on our side (net.ErrClosed).
func (c *Conn) WaitReadable() error {
	if err := c.raw.Read(c.pollIn); err != nil {
		return err
	}
	return c.waitErr
}

func (c *Conn) doPollIn(fd uintptr) bool {
	var ready int16
	ready, c.waitErr = pollNow(fd, unix.POLLIN|unix.POLLRDHUP)
	return ready != 0 || c.waitErr != nil
}

// WaitHangup blocks until the connection is over altogether: both directions ended (nil) or broken (the error). It is for the
// reader after it met the end of file: a client that sent its FIN can still reset the answer, and as long as nothing is
// written no other call would notice.
func (c *Conn) WaitHangup() error {
	if err := c.raw.Read(c.pollHangup); err != nil {
		return err
	}
	return c.waitErr
}

func (c *Conn) doPollHangup(fd uintptr) bool {
	var ready int16
	ready, c.waitErr = pollNow(fd, 0)
	if c.waitErr != nil {
		return true
	}
	if ready&(unix.POLLHUP|unix.POLLERR) == 0 {
		return false
	}
	c.waitErr = c.takeError(fd)
	return true
}

// Broken says, without waiting or reading, whether the connection was aborted: nil while it lives, after orderly ends, and once it was
// closed on our side. For when nobody reads because nobody could take what is read; it may be called from any goroutine.
func (c *Conn) Broken() error {
	var fault error
	_ = c.raw.Control(func(fd uintptr) {
		if ready, err := pollNow(fd, 0); err == nil && ready&(unix.POLLHUP|unix.POLLERR) != 0 {
			fault = c.takeError(fd)
		}
	})
	return fault
}

// takeError consumes the socket's pending error, if there is one, and returns the connection's fault.
func (c *Conn) takeError(fd uintptr) error {
	c.mu.Lock()
	defer c.mu.Unlock()
	if e, err := unix.GetsockoptInt(int(fd), unix.SOL_SOCKET, unix.SO_ERROR); err == nil && e != 0 {
		c.setFault("hangup", unix.Errno(e))
	}
	return c.fault
}

// pollNow asks what the socket is ready for without waiting and without consuming a pending error.
func pollNow(fd uintptr, events int16) (int16, error) {
	for {
		fds := [1]unix.PollFd{{Fd: int32(fd), Events: events}}
		_, err := unix.Poll(fds[:], 0)
		if err == unix.EINTR {
			continue
		}
		if err != nil {
			return 0, fmt.Errorf("edge: poll: %w", err)
		}
		return fds[0].Revents, nil
	}
}

// ReadAvailable takes what has arrived, at most len(p) bytes, and never waits. 0, nil means that nothing is there (or p is empty).
// io.EOF is the other end's FIN, received in order after all its data; any other error is an abort, and it stays: every later
// call returns it. An end or error that follows data is returned by the next call.
func (c *Conn) ReadAvailable(p []byte) (int, error) {
	if len(p) == 0 {
		return 0, nil
	}
	c.rd = transfer{p: p}
	err := c.raw.Read(c.readOnce)
	n := c.rd.n
	if err == nil {
		err = c.rd.err
	}
	c.rd = transfer{}
	return n, err
}

func (c *Conn) doRead(fd uintptr) bool {
	c.mu.Lock()
	defer c.mu.Unlock()
	t := &c.rd
	// A read stops at the urgent mark even with urgent data in line, so a short one does not mean that nothing more is there.
	for t.n < len(t.p) {
		n, err := unix.Read(int(fd), t.p[t.n:])
		switch {
		case err == unix.EINTR:
			continue
		case err == unix.EAGAIN:
			return true
		case err != nil:
			c.setFault("read", err)
			if t.n == 0 {
				t.err = c.fault
			}
			return true
		case n == 0:
			if t.n == 0 {
				t.err = c.endOfFile(fd)
			}
			return true
		}
		t.n += n
	}
	return true
}

// endOfFile decides, under mu, what a read of 0 bytes means. The kernel answers so after a FIN, but also after a reset whose
// error was already handed out, which a write does when it comes first. So: a fault known is the answer. Otherwise the state
// tells: any but CLOSE is only reached by receiving a FIN. CLOSE after our own FIN is the orderly end of both directions (a
// reset would have left its error for this very read, since nothing is written after the FIN). CLOSE without our FIN is a
// FIN followed by a reset, whose error is still pending, or an abort somebody swallowed.
func (c *Conn) endOfFile(fd uintptr) error {
	if c.fault != nil {
		return c.fault
	}
	info, err := unix.GetsockoptTCPInfo(int(fd), unix.IPPROTO_TCP, unix.TCP_INFO)
	if err != nil {
		c.setFault("read the TCP state", err)
		return c.fault
	}
	if info.State != tcpClose || c.finSent.Load() {
		return io.EOF
	}
	if ready, err := pollNow(fd, 0); err == nil && ready&unix.POLLERR != 0 {
		return io.EOF // the FIN came first; the write that follows will meet the reset
	}
	c.fault = ErrAborted
	return c.fault
}

// tcpClose is TCP_CLOSE of linux/include/net/tcp_states.h.
const tcpClose = 7

// setFault records the first error; under mu.
func (c *Conn) setFault(op string, err error) {
	if c.fault == nil {
		c.fault = fmt.Errorf("edge: %s: %w", op, err)
	}
}

// Write writes all of p, waiting for the other end to take it. An error is an abort; the bytes it did not take are lost.
func (c *Conn) Write(p []byte) (int, error) {
	if len(p) == 0 {
		return 0, nil
	}
	c.wr = transfer{p: p}
	err := c.raw.Write(c.writeAll)
	n := c.wr.n
	if err == nil {
		err = c.wr.err
	}
	c.wr = transfer{}
	return n, err
}

func (c *Conn) doWrite(fd uintptr) bool {
	c.mu.Lock()
	defer c.mu.Unlock()
	t := &c.wr
	for t.n < len(t.p) {
		n, err := unix.Write(int(fd), t.p[t.n:])
		switch {
		case err == unix.EINTR:
			continue
		case err == unix.EAGAIN:
			return false
		case err != nil:
			c.setFault("write", err)
			t.err = c.fault
			return true
		}
		t.n += n
	}
	return true
}

// CloseWrite sends the FIN after all that was written: the clean end of this direction. The other direction goes on.
func (c *Conn) CloseWrite() error {
	// Before the FIN leaves, or the reader could see the end of both directions and not know yet that ours was in order. No write is under
	// way, so that a reset which comes first still leaves its error to the reader.
	c.finSent.Store(true)
	if err := c.tcp.CloseWrite(); err != nil {
		if errors.Is(err, net.ErrClosed) {
			return err
		}
		c.mu.Lock()
		defer c.mu.Unlock()
		c.setFault("close the sending side", err)
		return c.fault
	}
	return nil
}

// Unsent is the number of bytes written that the other end has not acknowledged. At shutdown a caller waits until it is 0
// before it lets the process, and the rule that delivers the acknowledgements, go.
func (c *Conn) Unsent() (int, error) {
	var n int
	var inner error
	if err := c.raw.Control(func(fd uintptr) { n, inner = unix.IoctlGetInt(int(fd), unix.SIOCOUTQ) }); err != nil {
		return 0, err
	}
	if inner != nil {
		return 0, fmt.Errorf("edge: unsent bytes: %w", inner)
	}
	return n, nil
}

// Finish ends the connection after both directions ended cleanly: it lifts the linger option and closes, and the kernel delivers
// what is still queued. After Reset it does nothing.
func (c *Conn) Finish() error {
	var err error
	c.once.Do(func() {
		err = c.tcp.SetLinger(-1)
		if cerr := c.tcp.Close(); err == nil {
			err = cerr
		}
	})
	return err
}

// Reset aborts the connection: the other end sees a reset, queued bytes are dropped, blocked calls return net.ErrClosed. After
// the first call, or after Finish, it does nothing.
func (c *Conn) Reset() {
	c.once.Do(func() {
		_ = c.tcp.SetLinger(0) // it stands already; an error means that the socket is gone
		_ = c.tcp.Close()
	})
}
