package accel

import (
	"context"
	"errors"
	"fmt"
	"net"
	"net/netip"
	"syscall"
	"time"

	"wanpair/accel/config"
)

// forward is one local port that leads to a target behind a peer.
type forward struct {
	config.Forward
	listener *net.TCPListener
}

func listenForward(ctx context.Context, f config.Forward) (*forward, error) {
	var lc net.ListenConfig
	lc.SetMultipathTCP(false) // an MPTCP socket has no transparent or linger semantics to rely on
	l, err := lc.Listen(ctx, "tcp", f.Listen.String())
	if err != nil {
		if errors.Is(err, syscall.EADDRINUSE) {
			return nil, fmt.Errorf("forward to %s: %s is in use by another process: choose another listen port, or stop that process", f.Target, f.Listen)
		}
		return nil, fmt.Errorf("forward to %s: listen on %s: %w", f.Target, f.Listen, err)
	}
	return &forward{Forward: f, listener: l.(*net.TCPListener)}, nil
}

func (f *forward) close() error {
	if err := f.listener.Close(); err != nil && !errors.Is(err, net.ErrClosed) {
		return fmt.Errorf("close forward %s: %w", f.Listen, err)
	}
	return nil
}

// acceptForward serves one forward until ctx ends. Its flows live in running.
func (g *Gateway) acceptForward(ctx, running context.Context, f *forward) error {
	stop := context.AfterFunc(ctx, func() { _ = f.close() })
	defer stop()
	for {
		c, err := f.listener.AcceptTCP()
		if err != nil {
			if ctx.Err() != nil {
				return nil
			}
			if !isTemporary(err) {
				return fmt.Errorf("forward %s: accept: %w", f.Listen, err)
			}
			g.log.Warn("accept failed, trying again", "listen", f.Listen, "err", err)
			pause(ctx, 100*time.Millisecond)
			continue
		}
		g.serving.Go(func() { g.serveForward(running, f, c) })
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
