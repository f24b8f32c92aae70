package governor

import (
	"context"
	"crypto/ed25519"
	"crypto/rand"
	"crypto/tls"
	"crypto/x509"
	"fmt"
	"math/big"
	"net"
	"os"
	"sync"
	"time"

	"github.com/quic-go/quic-go"
)

// Check makes one connection in memory and looks whether a governor can govern
// it: whether the fields are there and the window it sets is the one the
// connection has. It takes a few milliseconds; the error wraps [ErrMoved].
func Check() error {
	ctx, cancel := context.WithTimeout(context.Background(), 5*time.Second)
	defer cancel()
	server, client, err := checkTLS()
	if err != nil {
		return fmt.Errorf("governor: check: %w", err)
	}
	a, b := newPipe()
	ta, tb := &quic.Transport{Conn: a}, &quic.Transport{Conn: b}
	defer func() {
		_ = ta.Close()
		_ = tb.Close()
		_ = a.Close()
		_ = b.Close()
	}()
	conf := &quic.Config{DisablePathMTUDiscovery: true}
	ln, err := tb.Listen(server, conf)
	if err != nil {
		return fmt.Errorf("governor: check: %w", err)
	}
	defer func() { _ = ln.Close() }()
	g := New()
	governed := conf.Clone()
	governed.Tracer = g.Tracer
	conn, err := ta.Dial(ctx, b.LocalAddr(), client, governed)
	if err != nil {
		return fmt.Errorf("governor: check: %w", err)
	}
	defer func() { _ = conn.CloseWithError(0, "") }()
	g.Attach(conn, NewGroup(1))
	far, err := ln.Accept(ctx)
	if err != nil {
		return fmt.Errorf("governor: check: %w", err)
	}
	defer func() { _ = far.CloseWithError(0, "") }()
	return g.checkOn(ctx, conn)
}

// checkOn sends something and looks what the governor made of it.
func (g *Governor) checkOn(ctx context.Context, conn *quic.Conn) error {
	out, err := conn.OpenUniStream()
	if err != nil {
		return fmt.Errorf("governor: check: %w", err)
	}
	tick := time.NewTicker(time.Millisecond)
	defer tick.Stop()
	for range 1000 {
		if _, err := out.Write([]byte{0}); err != nil {
			return fmt.Errorf("governor: check: %w", err)
		}
		switch {
		case g.Err() != nil:
			return g.Err()
		case g.Attached() && g.Rate() > 0 && g.proved.Load():
			return nil
		}
		select {
		case <-ctx.Done():
			return fmt.Errorf("governor: check: %w", ctx.Err())
		case <-tick.C:
		}
	}
	return fmt.Errorf("%w: the connection does not take the window", ErrMoved)
}

func checkTLS() (server, client *tls.Config, err error) {
	_, key, err := ed25519.GenerateKey(rand.Reader)
	if err != nil {
		return nil, nil, err
	}
	template := &x509.Certificate{SerialNumber: big.NewInt(1), NotAfter: time.Now().Add(time.Hour)}
	der, err := x509.CreateCertificate(rand.Reader, template, template, key.Public(), key)
	if err != nil {
		return nil, nil, err
	}
	pool := x509.NewCertPool()
	cert := tls.Certificate{Certificate: [][]byte{der}, PrivateKey: key}
	server = &tls.Config{Certificates: []tls.Certificate{cert}, MinVersion: tls.VersionTLS13, NextProtos: []string{"check"}}
	client = &tls.Config{RootCAs: pool, MinVersion: tls.VersionTLS13, NextProtos: []string{"check"}, InsecureSkipVerify: true}
	return server, client, nil
}

// pipe is one end of a packet socket pair in memory.
type pipe struct {
	addr  *net.UDPAddr
	peer  *pipe
	in    chan []byte
	done  chan struct{}
	once  sync.Once
	mu    sync.Mutex
	until time.Time
	moved chan struct{}
}

func newPipe() (a, b *pipe) {
	end := func(port int) *pipe {
		return &pipe{
			addr: &net.UDPAddr{IP: net.IPv4(127, 0, 0, 1), Port: port},
			in:   make(chan []byte, 256), done: make(chan struct{}), moved: make(chan struct{}, 1),
		}
	}
	a, b = end(1), end(2)
	a.peer, b.peer = b, a
	return a, b
}

func (p *pipe) WriteTo(b []byte, _ net.Addr) (int, error) {
	select {
	case <-p.done:
		return 0, net.ErrClosed
	case p.peer.in <- append([]byte(nil), b...):
	default: // full: lost, as on any network
	}
	return len(b), nil
}

func (p *pipe) ReadFrom(b []byte) (int, net.Addr, error) {
	for {
		p.mu.Lock()
		until := p.until
		p.mu.Unlock()
		var expired <-chan time.Time
		if !until.IsZero() {
			timer := time.NewTimer(time.Until(until))
			defer timer.Stop()
			expired = timer.C
		}
		select {
		case data := <-p.in:
			return copy(b, data), p.peer.addr, nil
		case <-p.done:
			return 0, nil, net.ErrClosed
		case <-expired:
			return 0, nil, os.ErrDeadlineExceeded
		case <-p.moved:
		}
	}
}

func (p *pipe) Close() error {
	p.once.Do(func() { close(p.done) })
	return nil
}

func (p *pipe) LocalAddr() net.Addr { return p.addr }

func (p *pipe) SetDeadline(t time.Time) error { return p.SetReadDeadline(t) }

func (p *pipe) SetWriteDeadline(time.Time) error { return nil }

func (p *pipe) SetReadDeadline(t time.Time) error {
	p.mu.Lock()
	p.until = t
	p.mu.Unlock()
	select {
	case p.moved <- struct{}{}:
	default:
	}
	return nil
}

func (p *pipe) SetReadBuffer(int) error { return nil }

func (p *pipe) SetWriteBuffer(int) error { return nil }
