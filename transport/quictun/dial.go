package quictun

import (
	"context"
	"errors"
	"fmt"
	"math/rand/v2"
	"net"
	"net/netip"
	"time"

	"github.com/quic-go/quic-go"

	"wanpair/transport"
)

// Times of dialling.
const (
	redialPeriod = time.Second // between attempts, with a quarter of jitter
	quickRedial  = 100 * time.Millisecond
	firstGrace   = 300 * time.Millisecond // how long the side with the larger key waits at first for the other to dial
	grace        = 3 * time.Second        // and after the other had dialled before
)

// keepLane dials lane i of p whenever there is none.
func (e *Endpoint) keepLane(ctx context.Context, tr *quic.Transport, p *peer, i int) {
	if i > 0 {
		conn, err := listenUDP(ctx, unspecified(e.Addr()), e.cfg.Mark, e.cfg.DSCP)
		if err != nil {
			e.log.Error("no socket for a further lane", "peer", p.Name, "lane", i, "err", err)
			return
		}
		tr = &quic.Transport{Conn: conn}
		defer func() {
			_ = tr.Close()
			_ = conn.Close()
		}()
	}
	began, had := time.Now(), false
	for n := 0; ctx.Err() == nil; n++ {
		if !p.mayDial(i, began, had) {
			n--
			if p.Link.Session() != nil && p.up() {
				began, had = time.Now(), true
			}
			pause(ctx, quickRedial)
			continue
		}
		err := e.dial(ctx, tr, p, p.Endpoints[n%len(p.Endpoints)])
		if ctx.Err() != nil {
			return
		}
		var le *transport.LaneError
		_, restarted := errors.AsType[*quic.StatelessResetError](err)
		if restarted || errors.As(err, &le) && le.Code == transport.LaneRefused {
			pause(ctx, quickRedial+rand.N(quickRedial))
			continue
		}
		pause(ctx, redialPeriod*3/4+rand.N(redialPeriod/2))
	}
}

func (p *peer) up() bool {
	s := p.Link.Session()
	return s != nil && s.Up()
}

// mayDial decides whether this side dials lane i now. When both sides know
// where the other is, the one with the smaller key dials, and the other only
// when that leads to nothing. Further lanes wait for a session.
func (p *peer) mayDial(i int, began time.Time, had bool) bool {
	p.mu.Lock()
	works := p.dialWorks
	p.mu.Unlock()
	switch {
	case i > 0:
		return p.up() && works
	case p.lower || works:
		return true
	case p.up():
		return false
	case had:
		return time.Since(began) >= grace
	default:
		return time.Since(began) >= firstGrace
	}
}

// dial makes one lane to endpoint and serves it until it ends.
func (e *Endpoint) dial(ctx context.Context, tr *quic.Transport, p *peer, endpoint string) error {
	addr, err := resolve(ctx, endpoint, e.Addr())
	if err != nil {
		return e.failed(p, endpoint, fmt.Sprintf("cannot resolve %s: %v", endpoint, err), err)
	}
	p.mu.Lock()
	small := p.small
	p.mu.Unlock()
	packet := uint16(packetBytes)
	if small {
		packet = smallPacketBytes
	}
	tlsConf := tlsConfig(e.cert, func(spki []byte, name string) error {
		if match(*p.pins.Load(), spki) >= 0 {
			return nil
		}
		return fmt.Errorf("%w %s: %w", ErrUnknownKey, name, alertAccessDenied)
	})
	conf, gov := e.quicConfig(packet), e.newGovernor()
	if gov != nil {
		conf.Tracer = gov.Tracer
	}
	conn, err := tr.Dial(ctx, net.UDPAddrFromAddrPort(addr), tlsConf, conf)
	if err != nil {
		if timedOut(err) {
			// Perhaps the path does not carry packets of this size: try the other.
			p.mu.Lock()
			p.small = !small
			p.mu.Unlock()
		}
		return e.failed(p, endpoint, e.explain(p, addr, err), err)
	}
	ctl, err := conn.OpenStream()
	if err != nil {
		_ = conn.CloseWithError(quic.ApplicationErrorCode(transport.LaneInternal), "no control stream")
		return e.failed(p, endpoint, e.explain(p, addr, err), err)
	}
	p.mu.Lock()
	p.dialWorks = true
	p.mu.Unlock()
	err = p.Link.ServeLane(ctx, newLane(conn, ctl, true, gov))
	if err != nil && ctx.Err() == nil {
		return e.failed(p, endpoint, e.explain(p, addr, err), err)
	}
	return err
}

// failed tells people why there is no lane: in the status, and in the log when
// it is news.
func (e *Endpoint) failed(p *peer, endpoint, text string, err error) error {
	p.Link.NoteError(text)
	if e.said.first(p.Name + " " + text) {
		e.log.Warn("no lane to peer", "peer", p.Name, "endpoint", endpoint, "reason", text)
	}
	p.mu.Lock()
	if !p.lower && !p.up() {
		p.dialWorks = false
	}
	p.mu.Unlock()
	return err
}

// explain says in one line what a failed dial or a lane's end means.
func (e *Endpoint) explain(p *peer, addr netip.AddrPort, err error) string {
	var (
		te *quic.TransportError
		le *transport.LaneError
	)
	switch {
	case errors.As(err, &le):
		return le.Error()
	case errors.Is(err, ErrUnknownKey):
		return fmt.Sprintf("%s presented an unknown key, not one of peer %s: %v", addr, p.Name, err)
	case errors.As(err, &te) && te.Remote && te.ErrorCode == quic.TransportErrorCode(0x100+int(alertAccessDenied)):
		return fmt.Sprintf("%s does not know our public key", addr)
	case errors.As(err, &te) && te.Remote && te.ErrorCode == 0x100+120: // no_application_protocol
		return fmt.Sprintf("%s speaks another protocol or version, not %s", addr, ALPN)
	case timedOut(err):
		return fmt.Sprintf("UDP blocked or peer down: no answer from %s", addr)
	default:
		return fmt.Sprintf("%s: %v", addr, err)
	}
}

func timedOut(err error) bool {
	var (
		ht *quic.HandshakeTimeoutError
		it *quic.IdleTimeoutError
	)
	return errors.As(err, &ht) || errors.As(err, &it) || errors.Is(err, context.DeadlineExceeded)
}

// resolve finds the address of an endpoint, of the family our socket has.
func resolve(ctx context.Context, endpoint string, local netip.AddrPort) (netip.AddrPort, error) {
	host, port, err := net.SplitHostPort(endpoint)
	if err != nil {
		return netip.AddrPort{}, err
	}
	n, err := net.DefaultResolver.LookupPort(ctx, "udp", port)
	if err != nil {
		return netip.AddrPort{}, err
	}
	addrs, err := net.DefaultResolver.LookupNetIP(ctx, "ip", host)
	if err != nil {
		return netip.AddrPort{}, err
	}
	for _, a := range addrs {
		a = a.Unmap()
		if a.Is4() == local.Addr().Unmap().Is4() || local.Addr() == netip.IPv6Unspecified() {
			return netip.AddrPortFrom(a, uint16(n)), nil
		}
	}
	return netip.AddrPort{}, fmt.Errorf("no address of the family of %s", local.Addr())
}

// unspecified is the address for a further socket beside local.
func unspecified(local netip.AddrPort) string {
	return netip.AddrPortFrom(local.Addr(), 0).String()
}

func pause(ctx context.Context, d time.Duration) {
	t := time.NewTimer(d)
	defer t.Stop()
	select {
	case <-ctx.Done():
	case <-t.C:
	}
}
