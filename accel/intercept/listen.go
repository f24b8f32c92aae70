package intercept

import (
	"context"
	"errors"
	"fmt"
	"net"
	"net/netip"
	"os"
	"syscall"
	"time"

	"wanpair/accel/edge"

	"golang.org/x/sys/unix"
)

// listen opens one listener. It binds loopback only: a listener on every address would, together with the socket rule, take any
// connection of anybody that happens to go to its port.
func listen(cfg Config, f family, addr netip.AddrPort) (*net.TCPListener, error) {
	lc := net.ListenConfig{
		KeepAlive: -1, // set by edge.Prepare and inherited
		Control: func(_, _ string, rc syscall.RawConn) error {
			var err error
			if cerr := rc.Control(func(fd uintptr) { err = prepareListener(int(fd), cfg, f) }); cerr != nil {
				return cerr
			}
			return err
		},
	}
	lc.SetMultipathTCP(false) // the client shall meet the TCP its server speaks
	l, err := lc.Listen(context.Background(), "tcp"+f.digit(), addr.String())
	if errors.Is(err, unix.EADDRINUSE) {
		return nil, fmt.Errorf("%s, where diverted connections come in, is in use by another program: stop it (ss -ltnp 'sport = :%d' shows it)", addr, addr.Port())
	}
	if err != nil {
		return nil, err
	}
	return l.(*net.TCPListener), nil
}

func prepareListener(fd int, cfg Config, f family) error {
	if err := edge.Prepare(fd, cfg.Edge); err != nil {
		return err
	}
	level, name, text := unix.SOL_IPV6, unix.IPV6_TRANSPARENT, "IPV6_TRANSPARENT"
	if f == v4 {
		level, name, text = unix.SOL_IP, unix.IP_TRANSPARENT, "IP_TRANSPARENT"
	}
	if err := unix.SetsockoptInt(fd, level, name, 1); err != nil {
		return fmt.Errorf("set %s (needs CAP_NET_ADMIN): %w", text, err)
	}
	// Inherited by the accepted sockets: what this process sends to a client can be told from what it forwards.
	if err := unix.SetsockoptInt(fd, unix.SOL_SOCKET, unix.SO_MARK, int(cfg.OwnBit)); err != nil {
		return fmt.Errorf("set SO_MARK (needs CAP_NET_ADMIN): %w", err)
	}
	return nil
}

// acceptLoop takes connections from one listener until ctx ends and hands them to Accept, or to the probe that made them.
func (i *Interceptor) acceptLoop(ctx context.Context, l *net.TCPListener) {
	stop := context.AfterFunc(ctx, func() { _ = l.SetDeadline(time.Unix(1, 0)) })
	defer stop()
	backoff := time.Duration(0)
	for {
		c, err := l.AcceptTCP()
		if ctx.Err() != nil {
			if err == nil {
				_ = c.Close() // linger is inherited: a reset
			}
			return
		}
		if err != nil {
			if errors.Is(err, net.ErrClosed) {
				return
			}
			if errors.Is(err, os.ErrDeadlineExceeded) {
				_ = l.SetDeadline(time.Time{}) // left by a loop that ended before
				continue
			}
			// Out of descriptors or memory, mostly: the accept queue holds what comes until it is full, then the watchdog ends it.
			backoff = min(max(2*backoff, 5*time.Millisecond), time.Second)
			i.fixed.Log.Warn("cannot accept an intercepted connection", "err", err, "retry_in", backoff)
			select {
			case <-ctx.Done():
				return
			case <-time.After(backoff):
			}
			continue
		}
		backoff = 0
		i.take(ctx, l, c)
	}
}

// take decides what an accepted connection is.
func (i *Interceptor) take(ctx context.Context, l *net.TCPListener, c *net.TCPConn) {
	e, err := edge.New(c, i.fixed.Edge)
	if err != nil {
		i.fixed.Log.Debug("an intercepted connection ended before it was taken", "err", err)
		return
	}
	if e.LocalAddr() == addrPortOf(l.Addr()) {
		// Somebody on this host connected to the listener itself: no one's original destination.
		e.Reset()
		return
	}
	if i.probeArrived(e) {
		return
	}
	select {
	case i.conns <- e:
		i.accepted.Add(1)
	case <-ctx.Done():
		e.Reset()
	}
}

func addrPortOf(a net.Addr) netip.AddrPort {
	t, ok := a.(*net.TCPAddr)
	if !ok {
		return netip.AddrPort{}
	}
	return netip.AddrPortFrom(t.AddrPort().Addr().Unmap(), t.AddrPort().Port())
}
