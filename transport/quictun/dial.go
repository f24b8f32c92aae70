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
	"wanpair/transport/quictun/governor"
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
	sock := e.conn
	if i > 0 {
		conn, err := listenUDP(ctx, unspecified(e.Addr()), e.cfg.Mark, e.cfg.DSCP)
		if err != nil {
			e.log.Error("no socket for a further lane", "peer", p.Name, "lane", i, "err", err)
			return
		}
		sock, tr = conn, &quic.Transport{Conn: conn}
		defer func() {
			_ = tr.Close()
			_ = conn.Close()
		}()
	}
	began, had := time.Now(), false
	n := 0 // attempts
	for ctx.Err() == nil {
		if !p.mayDial(i, began, had) {
			if p.Link.Session() != nil && p.up() {
				began, had = time.Now(), true
			}
			pause(ctx, quickRedial)
			continue
		}
		err := e.dial(ctx, sock, tr, p, &n)
		if ctx.Err() != nil {
			return
		}
		var le *transport.LaneError
		_, restarted := errors.AsType[*quic.StatelessResetError](err)
		if restarted || errors.As(err, &le) && le.Code == transport.LaneRefused {
			pause(ctx, quickRedial+rand.N(quickRedial))
			continue
		}
		pause(ctx, jittered())
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

// dialled is the outcome of one attempt at a connection.
type dialled struct {
	conn     *quic.Conn
	gov      *governor.Governor
	addr     netip.AddrPort
	endpoint string
	err      error
}

// maxAttempts is how many attempts may be under way for one lane.
const maxAttempts = 4

// dial makes one lane to p and serves it until it ends. A new attempt begins
// every redialPeriod while earlier ones still wait: QUIC's own repeats become
// rarer the longer nothing is heard, and a path that comes back shall be found
// within a second. The first attempt that succeeds counts.
func (e *Endpoint) dial(ctx context.Context, sock *socket, tr *quic.Transport, p *peer, n *int) error {
	dctx, cancel := context.WithCancel(ctx)
	results := make(chan dialled)
	running, made := 0, 0
	attempt := func() {
		endpoint, packet := p.Endpoints[*n%len(p.Endpoints)], p.packet(made)
		*n++
		made++
		running++
		go func() { results <- e.attempt(dctx, tr, p, endpoint, packet) }()
	}
	attempt()
	next := time.NewTimer(jittered())
	defer next.Stop()
	var won dialled
	for won.conn == nil && running > 0 {
		select {
		case won = <-results:
			running--
		case <-next.C:
			if running < maxAttempts {
				attempt()
			}
			next.Reset(jittered())
			continue
		}
		if won.err != nil && ctx.Err() == nil {
			_ = e.failed(p, won.endpoint, e.explain(p, won.addr, won.err), won.err)
			if !timedOut(won.err) {
				break // an answer: dialling faster would not change it
			}
		}
	}
	cancel()
	for ; running > 0; running-- {
		if late := <-results; late.conn != nil {
			_ = late.conn.CloseWithError(quic.ApplicationErrorCode(transport.LaneNone), "another attempt was faster")
		}
	}
	if won.conn == nil {
		return won.err
	}
	ctl, err := won.conn.OpenStream()
	if err != nil {
		_ = won.conn.CloseWithError(quic.ApplicationErrorCode(transport.LaneInternal), "no control stream")
		return e.failed(p, won.endpoint, e.explain(p, won.addr, err), err)
	}
	p.mu.Lock()
	p.dialWorks = true
	p.mu.Unlock()
	defer sock.watch(won.conn)()
	err = p.Link.ServeLane(ctx, newLane(won.conn, ctl, true, won.gov, p.lanes))
	if err != nil && ctx.Err() == nil {
		return e.failed(p, won.endpoint, e.explain(p, won.addr, err), err)
	}
	return err
}

// jittered is redialPeriod with a quarter of jitter.
func jittered() time.Duration { return redialPeriod*3/4 + rand.N(redialPeriod/2) }

// attempt makes one connection to endpoint.
func (e *Endpoint) attempt(ctx context.Context, tr *quic.Transport, p *peer, endpoint string, packet uint16) dialled {
	d := dialled{endpoint: endpoint}
	d.addr, d.err = resolve(ctx, endpoint, e.Addr())
	if d.err != nil {
		d.err = fmt.Errorf("cannot resolve %s: %w", endpoint, d.err)
		return d
	}
	tlsConf := tlsConfig(e.cert, func(spki []byte, name string) error {
		if match(*p.pins.Load(), spki) >= 0 {
			return nil
		}
		return fmt.Errorf("%w %s: %w", ErrUnknownKey, name, alertAccessDenied)
	})
	conf := e.quicConfig(packet)
	if d.gov = e.newGovernor(); d.gov != nil {
		conf.Tracer = d.gov.Tracer
	}
	d.conn, d.err = tr.Dial(ctx, net.UDPAddrFromAddrPort(d.addr), tlsConf, conf)
	if d.err == nil {
		p.carries(packet)
	}
	return d
}

// packet is the size of first packets for attempt k at a lane: where those of
// packetBytes are not answered, the next is tried with smallPacketBytes, and the
// other way round on a path that is known to carry no more.
func (p *peer) packet(k int) uint16 {
	p.mu.Lock()
	defer p.mu.Unlock()
	if p.small == (k%2 == 0) {
		return smallPacketBytes
	}
	return packetBytes
}

// carries remembers the packets the path carried last.
func (p *peer) carries(packet uint16) {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.small = packet == smallPacketBytes
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
	case !addr.IsValid():
		return err.Error()
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
