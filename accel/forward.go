package accel

import (
	"context"
	"errors"
	"fmt"
	"net"
	"net/netip"
	"syscall"
	"time"

	"wanpair/accel/edge"
)

// localListener is a port of this gateway: a forward or the SOCKS listener.
type localListener struct {
	what     string
	listener *net.TCPListener
	serve    func(context.Context, *net.TCPConn)
}

// listenLocal opens a port. A process that dies must look like a reset also to connections that wait to be accepted, so the listener
// carries the options of an edge.
func listenLocal(ctx context.Context, what string, at netip.AddrPort, serve func(context.Context, *net.TCPConn)) (*localListener, error) {
	lc := net.ListenConfig{Control: func(_, _ string, c syscall.RawConn) error {
		var err error
		return errors.Join(c.Control(func(fd uintptr) { err = edge.Prepare(int(fd), edge.Options{}) }), err)
	}}
	lc.SetMultipathTCP(false) // an MPTCP socket ignores the options above
	network := "tcp"
	if at.Addr().Is4() { // else Go makes 0.0.0.0 a socket for IPv6 as well
		network = "tcp4"
	}
	l, err := lc.Listen(ctx, network, at.String())
	if err != nil {
		if errors.Is(err, syscall.EADDRINUSE) {
			return nil, fmt.Errorf("%s: %s is in use by another process: choose another listen address, or stop that process", what, at)
		}
		return nil, fmt.Errorf("%s: listen on %s: %w", what, at, err)
	}
	return &localListener{what: what, listener: l.(*net.TCPListener), serve: serve}, nil
}

func (l *localListener) close() error {
	if err := l.listener.Close(); err != nil && !errors.Is(err, net.ErrClosed) {
		return fmt.Errorf("%s: close: %w", l.what, err)
	}
	return nil
}

// acceptLocal serves one port until ctx ends. Its flows live in running.
func (g *Gateway) acceptLocal(ctx, running context.Context, l *localListener) error {
	stop := context.AfterFunc(ctx, func() { _ = l.close() })
	defer stop()
	for {
		c, err := l.listener.AcceptTCP()
		if err != nil {
			if ctx.Err() != nil {
				return nil
			}
			if !isTemporary(err) {
				return fmt.Errorf("%s: accept: %w", l.what, err)
			}
			g.log.Warn("accept failed, trying again", "listener", l.what, "err", err)
			pause(ctx, 100*time.Millisecond)
			continue
		}
		g.serving.Go(func() { l.serve(running, c) })
	}
}

// isTemporary says whether accept may work again by itself: the process or the machine is out of descriptors or memory, or the
// connection was gone before it was taken.
func isTemporary(err error) bool {
	for _, e := range []error{syscall.EMFILE, syscall.ENFILE, syscall.ENOBUFS, syscall.ENOMEM, syscall.ECONNABORTED, syscall.EINTR} {
		if errors.Is(err, e) {
			return true
		}
	}
	return false
}

func pause(ctx context.Context, d time.Duration) {
	select {
	case <-ctx.Done():
	case <-time.After(d):
	}
}

// addrPort gives the remote address of a TCP connection, IPv4 as IPv4.
func addrPort(a net.Addr) netip.AddrPort {
	tcp, ok := a.(*net.TCPAddr)
	if !ok {
		return netip.AddrPort{}
	}
	ap := tcp.AddrPort()
	return netip.AddrPortFrom(ap.Addr().Unmap(), ap.Port())
}
