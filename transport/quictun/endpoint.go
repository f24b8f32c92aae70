package quictun

import (
	"bytes"
	"context"
	"crypto/ed25519"
	"crypto/tls"
	"errors"
	"fmt"
	"log/slog"
	"math/rand/v2"
	"net"
	"net/netip"
	"sync"
	"sync/atomic"
	"time"

	"github.com/quic-go/quic-go"

	"wanpair/transport"
	"wanpair/transport/quictun/governor"
)

// Sizes and times of lanes.
const (
	packetBytes      = 1400 // first packets; path MTU discovery goes up from here
	smallPacketBytes = 1200 // on paths that do not carry that (the least QUIC allows)
	handshakeTimeout = 3 * time.Second
	controlTimeout   = 5 * time.Second // from the handshake to the control stream
	idleTimeout      = 5 * time.Second
	keepAlive        = idleTimeout / 2 // a lane asks its peer every second (docs/protocol.md, A7): this only covers the time before
)

// Config says what an endpoint is.
type Config struct {
	PrivateKey ed25519.PrivateKey
	Listen     string // UDP address, host:port
	Lanes      int    // connections per peer this side dials; 0 means 1
	Mark       int    // SO_MARK of our packets; 0: none
	// DSCP is the code point of our packets, 0 to 63. quic-go writes the whole field per packet where it uses ECN, so for any other value
	// than 0 the process must run with QUIC_GO_DISABLE_ECN=true.
	DSCP int
	// NoGovernor leaves congestion control to quic-go, which takes every loss
	// for congestion. More lanes make up for some of it.
	NoGovernor bool
	Peers      []Peer
	Log        *slog.Logger
}

// Peer is another gateway.
type Peer struct {
	Name       string
	PublicKeys []ed25519.PublicKey // more than one while keys are rotated
	Endpoints  []string            // host:port; may be empty when the peer dials
	Link       *transport.Link
}

// peer is a Peer at work.
type peer struct {
	Peer
	pins  atomic.Pointer[[]pin]
	lower bool // our key is bytewise smaller than all of the peer's: we dial first
	lanes *governor.Group

	mu        sync.Mutex
	small     bool // the path carried small packets only, when it carried any
	dialWorks bool // a lane we dialled was the last to come up
}

// Endpoint is this gateway's end of all its lanes.
type Endpoint struct {
	cfg   Config
	log   *slog.Logger
	cert  tls.Certificate
	conn  *socket
	peers []*peer
	said  repeats
	small smallPaths
	gov   bool // connections are governed
}

// Listen opens the socket. Nothing is sent or accepted before Run.
func Listen(cfg Config) (*Endpoint, error) {
	if cfg.Log == nil {
		return nil, errors.New("quictun: endpoint without a logger")
	}
	if cfg.Lanes == 0 {
		cfg.Lanes = 1
	}
	if cfg.Lanes < 0 || cfg.Lanes > 64 {
		return nil, fmt.Errorf("quictun: %d lanes, want 1 to 64", cfg.Lanes)
	}
	cert, err := selfSigned(cfg.PrivateKey)
	if err != nil {
		return nil, err
	}
	e := &Endpoint{cfg: cfg, log: cfg.Log, cert: cert}
	own := cfg.PrivateKey.Public().(ed25519.PublicKey)
	for _, p := range cfg.Peers {
		if p.Link == nil || len(p.PublicKeys) == 0 {
			return nil, fmt.Errorf("quictun: peer %q without a link or a public key", p.Name)
		}
		x := &peer{Peer: p, lower: true, lanes: governor.NewGroup(rand.Uint64())}
		if err := x.setKeys(p.PublicKeys, own); err != nil {
			return nil, err
		}
		for _, key := range p.PublicKeys {
			x.lower = x.lower && bytes.Compare(own, key) < 0
		}
		e.peers = append(e.peers, x)
	}
	if e.gov = !cfg.NoGovernor; e.gov {
		if err := governor.Check(); err != nil {
			e.gov = false
			e.log.Warn("congestion control is left to quic-go: a link with losses will be slow", "err", err)
		}
	}
	e.conn, err = listenUDP(context.Background(), cfg.Listen, cfg.Mark, cfg.DSCP)
	if err != nil {
		return nil, fmt.Errorf("quictun: listen on UDP %s: %w", cfg.Listen, err)
	}
	return e, nil
}

// setKeys pins the keys the peer may present from now on.
func (p *peer) setKeys(keys []ed25519.PublicKey, own ed25519.PublicKey) error {
	if len(keys) == 0 {
		return fmt.Errorf("quictun: peer %q without a public key", p.Name)
	}
	var pins []pin
	for _, key := range keys {
		pin, err := makePin(key)
		if err != nil {
			return fmt.Errorf("peer %q: %w", p.Name, err)
		}
		if bytes.Equal(key, own) {
			return fmt.Errorf("quictun: peer %q has this side's own key", p.Name)
		}
		pins = append(pins, pin)
	}
	p.pins.Store(&pins)
	return nil
}

// SetKeys replaces the keys a peer may present. Lanes that are up stay up, whatever key they were made with: restart the peer's gateway to
// make it show its new one.
func (e *Endpoint) SetKeys(peer string, keys []ed25519.PublicKey) error {
	for _, p := range e.peers {
		if p.Name == peer {
			return p.setKeys(keys, e.cfg.PrivateKey.Public().(ed25519.PublicKey))
		}
	}
	return fmt.Errorf("quictun: no peer %q", peer)
}

// Addr is the address the endpoint listens on.
func (e *Endpoint) Addr() netip.AddrPort {
	return e.conn.LocalAddr().(*net.UDPAddr).AddrPort()
}

// Close closes the socket of an endpoint whose Run is never called; Run does it
// itself.
func (e *Endpoint) Close() error { return e.conn.Close() }

// Run accepts and dials lanes until ctx ends, and returns when all of them have
// ended. It does not run the peers' links.
func (e *Endpoint) Run(ctx context.Context) error {
	tr := &quic.Transport{Conn: e.conn, ConnContext: e.watch, StatelessResetKey: resetKey(e.cfg.PrivateKey)}
	ln, err := tr.Listen(e.serverTLS(), e.listenConfig(packetBytes))
	if err != nil {
		_ = e.conn.Close()
		return fmt.Errorf("quictun: listen: %w", err)
	}
	var wg sync.WaitGroup
	wg.Go(func() { e.accept(ctx, ln, &wg) })
	for _, p := range e.peers {
		for i := range e.cfg.Lanes {
			if len(p.Endpoints) > 0 {
				wg.Go(func() { e.keepLane(ctx, tr, p, i) })
			}
		}
	}
	<-ctx.Done()
	_ = ln.Close()
	wg.Wait()
	err = tr.Close()
	_ = e.conn.Close()
	if err != nil {
		return fmt.Errorf("quictun: close: %w", err)
	}
	return nil
}

// quicConfig is the configuration of a connection this side dials. Windows follow from 1 Gbit/s
// times 300 ms, about 37 MB, with room for repeats.
func (e *Endpoint) quicConfig(packet uint16) *quic.Config {
	return &quic.Config{
		HandshakeIdleTimeout:           handshakeTimeout,
		MaxIdleTimeout:                 idleTimeout,
		KeepAlivePeriod:                keepAlive,
		InitialStreamReceiveWindow:     8 << 20,
		MaxStreamReceiveWindow:         64 << 20,
		InitialConnectionReceiveWindow: 64 << 20,
		MaxConnectionReceiveWindow:     128 << 20,
		MaxIncomingStreams:             -1,
		MaxIncomingUniStreams:          65536,
		RequireStreamCreditRelease:     true, // see streamCredit
		InitialPacketSize:              packet,
	}
}

// listenConfig is the configuration of the connections this side accepts.
func (e *Endpoint) listenConfig(packet uint16) *quic.Config {
	c := e.quicConfig(packet)
	c.MaxIncomingStreams = 1 // the control stream
	c.Tracer = tracerOf
	if packet != smallPacketBytes {
		c.GetConfigForClient = func(info *quic.ClientInfo) (*quic.Config, error) {
			if e.small.has(info.RemoteAddr) {
				return e.listenConfig(smallPacketBytes), nil
			}
			return c, nil
		}
	}
	return c
}

// newGovernor returns a governor for one connection, nil when there shall be
// none.
func (e *Endpoint) newGovernor() *governor.Governor {
	if !e.gov {
		return nil
	}
	return governor.New()
}

// serverTLS accepts the keys of every peer.
func (e *Endpoint) serverTLS() *tls.Config {
	c := tlsConfig(e.cert, nil)
	c.GetConfigForClient = func(info *tls.ClientHelloInfo) (*tls.Config, error) {
		remote := info.Conn.RemoteAddr().String()
		return tlsConfig(e.cert, func(spki []byte, name string) error {
			if e.peerOf(spki) != nil {
				return nil
			}
			if e.said.first("in " + name) {
				e.log.Warn("refused a lane: unknown public key", "remote", remote, "key", name)
			}
			return fmt.Errorf("%w %s: %w", ErrUnknownKey, name, alertAccessDenied)
		}), nil
	}
	return c
}

func (e *Endpoint) peerOf(spki []byte) (found *peer) {
	for _, p := range e.peers {
		if match(*p.pins.Load(), spki) >= 0 {
			found = p
		}
	}
	return found
}

// accept serves the lanes peers dial.
func (e *Endpoint) accept(ctx context.Context, ln *quic.Listener, wg *sync.WaitGroup) {
	for {
		conn, err := ln.Accept(ctx)
		if err != nil {
			return // closed
		}
		h := handshakeOf(conn.Context())
		h.done()
		wg.Go(func() { e.serve(ctx, conn, h.gov) })
	}
}

func (e *Endpoint) serve(ctx context.Context, conn *quic.Conn, gov *governor.Governor) {
	var p *peer
	if certs := conn.ConnectionState().TLS.PeerCertificates; len(certs) == 1 {
		p = e.peerOf(certs[0].RawSubjectPublicKeyInfo)
	}
	if p == nil {
		_ = conn.CloseWithError(quic.ApplicationErrorCode(transport.LaneInternal), "no peer for this key")
		return
	}
	cctx, cancel := context.WithTimeout(ctx, controlTimeout)
	ctl, err := conn.AcceptStream(cctx)
	cancel()
	if err != nil {
		_ = conn.CloseWithError(quic.ApplicationErrorCode(transport.LaneProtocol), "no control stream")
		return
	}
	p.mu.Lock()
	p.dialWorks = false
	p.mu.Unlock()
	defer e.conn.watch(conn)()
	if err := p.Link.ServeLane(ctx, newLane(conn, ctl, false, gov, p.lanes)); err != nil {
		e.log.Debug("lane ended", "peer", p.Name, "remote", conn.RemoteAddr().String(), "err", err)
	}
}
