package quictun

import (
	"bytes"
	"context"
	"crypto/ed25519"
	"io"
	"log/slog"
	"math/rand/v2"
	"net"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/quic-go/quic-go"
	"go.uber.org/goleak"

	"wanpair/transport"
	"wanpair/transport/tuntest"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

// testKey makes a key from a seed; a smaller seed does not mean a smaller key.
func testKey(seed byte) ed25519.PrivateKey {
	return ed25519.NewKeyFromSeed(bytes.Repeat([]byte{seed}, ed25519.SeedSize))
}

func public(k ed25519.PrivateKey) ed25519.PublicKey { return k.Public().(ed25519.PublicKey) }

// side is one gateway: an endpoint and its end of the link.
type side struct {
	*tuntest.End
	ep   *Endpoint
	stop func()
}

// startSide starts a gateway with key that knows one peer.
func startSide(t *testing.T, name string, key ed25519.PrivateKey, peer ed25519.PublicKey, endpoints []string, lanes int) *side {
	t.Helper()
	return startSideAt(t, "127.0.0.1:0", name, key, peer, endpoints, lanes)
}

// startSideAt is startSide at an address of its own.
func startSideAt(t *testing.T, listen, name string, key ed25519.PrivateKey, peer ed25519.PublicKey, endpoints []string, lanes int) *side {
	t.Helper()
	cfg := tuntest.Config(name)
	s := &side{End: tuntest.NewEnd(t, cfg)}
	ep, err := Listen(Config{
		PrivateKey: key, Listen: listen, Lanes: lanes, Log: slog.New(slog.DiscardHandler),
		Peers: []Peer{{Name: "peer of " + name, PublicKeys: []ed25519.PublicKey{peer}, Endpoints: endpoints, Link: s.Link}},
	})
	if err != nil {
		t.Fatal(err)
	}
	s.ep = ep
	ctx, cancel := context.WithCancel(context.Background())
	done := make(chan error, 1)
	go func() { done <- ep.Run(ctx) }()
	var once sync.Once
	s.stop = func() {
		once.Do(func() {
			cancel()
			if err := <-done; err != nil {
				t.Error(err)
			}
			s.Stop()
		})
	}
	t.Cleanup(s.stop)
	return s
}

func TestEndpoints(t *testing.T) {
	ka, kb := testKey(1), testKey(2)
	b := startSide(t, "b", kb, public(ka), nil, 1)
	a := startSide(t, "a", ka, public(kb), []string{b.ep.Addr().String()}, 2)
	near, far := tuntest.Flow(t, a.Session(), b.Session())
	data := make([]byte, 8<<20)
	rand.NewChaCha8([32]byte{}).Read(data)
	var wg sync.WaitGroup
	wg.Go(func() {
		if err := tuntest.Send(near, bytes.NewReader(data)); err != nil {
			t.Error(err)
		}
	})
	wg.Go(func() {
		if err := tuntest.Send(far, bytes.NewReader(data[:1000])); err != nil {
			t.Error(err)
		}
	})
	var got, back bytes.Buffer
	if err := tuntest.Receive(far, &got); err != nil {
		t.Fatal(err)
	}
	if err := tuntest.Receive(near, &back); err != nil {
		t.Fatal(err)
	}
	wg.Wait()
	if !bytes.Equal(got.Bytes(), data) || !bytes.Equal(back.Bytes(), data[:1000]) {
		t.Fatal("bytes differ")
	}
	<-near.Done()
	<-far.Done()
	st := a.Link.Stats()
	if st.WANSent < uint64(len(data)) || st.State != transport.StateUp {
		t.Fatalf("stats %+v", st)
	}
}

// waitFor waits until ok, for what no channel tells.
func waitFor(t *testing.T, what string, ok func() bool) {
	t.Helper()
	tick := time.NewTicker(5 * time.Millisecond)
	defer tick.Stop()
	deadline := time.After(30 * time.Second)
	for !ok() {
		select {
		case <-tick.C:
		case <-deadline:
			t.Fatalf("timed out: %s", what)
		}
	}
}

// A gateway that crashed and is back tells its peer that the old connections are gone: nobody waits for them to time out.
func TestRestartedListenerResetsOldLanes(t *testing.T) {
	ka, kb := testKey(1), testKey(2)
	b := startSide(t, "b", kb, public(ka), nil, 1)
	address := b.ep.Addr().String()
	a := startSide(t, "a", ka, public(kb), []string{address}, 1)
	tuntest.Flow(t, a.Session(), b.Session())
	_ = b.ep.conn.Close() // no word to the peer, as when a process is killed
	startSideAt(t, address, "b", kb, public(ka), nil, 1)
	// Its error text does not stay: the new session has words of its own. Without a reset the lane would end by its idle timeout.
	start := time.Now()
	waitFor(t, "the end of the old lane", func() bool { return a.Link.Stats().LanesEnded > 0 })
	if took := time.Since(start); took >= idleTimeout {
		t.Errorf("the old lane ended after %v, by its timeout", took)
	}
	waitFor(t, "a new lane", func() bool { return a.Link.Stats().State == transport.StateUp })
}

func TestUnknownKey(t *testing.T) {
	ka, kb, kc := testKey(1), testKey(2), testKey(3)
	t.Run("listener does not know the dialler", func(t *testing.T) {
		b := startSide(t, "b", kb, public(kc), nil, 1)
		a := startSide(t, "a", ka, public(kb), []string{b.ep.Addr().String()}, 1)
		waitFor(t, "error text", func() bool {
			return strings.Contains(a.Link.Stats().LastError, "does not know our public key")
		})
	})
	t.Run("dialler does not know the listener", func(t *testing.T) {
		b := startSide(t, "b", kb, public(ka), nil, 1)
		a := startSide(t, "a", ka, public(kc), []string{b.ep.Addr().String()}, 1)
		waitFor(t, "error text", func() bool {
			text := a.Link.Stats().LastError
			return strings.Contains(text, "unknown key") && strings.Contains(text, KeyString(public(kb)))
		})
	})
}

// connector makes lanes over loopback.
func connector(t testing.TB) tuntest.Connect { return connectorWith(t, func(*quic.Config) {}) }

// connectorWith makes lanes whose listening end has its configuration changed.
func connectorWith(t testing.TB, change func(*quic.Config)) tuntest.Connect {
	ka, kb := testKey(1), testKey(2)
	open := func(key ed25519.PrivateKey, peer ed25519.PublicKey) (*Endpoint, *quic.Transport, pin) {
		link, err := transport.NewLink(tuntest.Config("x"))
		if err != nil {
			t.Fatal(err)
		}
		e, err := Listen(Config{PrivateKey: key, Listen: "127.0.0.1:0", Log: slog.New(slog.DiscardHandler),
			Peers: []Peer{{PublicKeys: []ed25519.PublicKey{peer}, Link: link}}})
		if err != nil {
			t.Fatal(err)
		}
		tr := &quic.Transport{Conn: e.conn, ConnContext: e.watch}
		t.Cleanup(func() { _ = tr.Close(); _ = e.Close() })
		return e, tr, (*e.peers[0].pins.Load())[0]
	}
	ea, ta, pa := open(ka, public(kb))
	eb, tb, _ := open(kb, public(ka))
	conf := eb.listenConfig(packetBytes)
	conf.GetConfigForClient = nil // it would bring the configuration as it was
	change(conf)
	ln, err := tb.Listen(eb.serverTLS(), conf)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = ln.Close() })
	return func(t testing.TB) (transport.Lane, transport.Lane) {
		ctx := context.Background()
		conf, gov := ea.quicConfig(packetBytes), ea.newGovernor()
		conf.Tracer = gov.Tracer
		conn, err := ta.Dial(ctx, net.UDPAddrFromAddrPort(eb.Addr()), tlsConfig(ea.cert, func(spki []byte, name string) error {
			if match([]pin{pa}, spki) < 0 {
				return ErrUnknownKey
			}
			return nil
		}), conf)
		if err != nil {
			t.Fatal(err)
		}
		ctl, err := conn.OpenStream()
		if err != nil {
			t.Fatal(err)
		}
		far, err := ln.Accept(ctx)
		if err != nil {
			t.Fatal(err)
		}
		t.Cleanup(func() { _ = conn.CloseWithError(0, ""); _ = far.CloseWithError(0, "") })
		return newLane(conn, ctl, true, gov, ea.peers[0].lanes),
			&lateLane{lane: newLane(far, nil, false, handshakeOf(far.Context()).gov, eb.peers[0].lanes)}
	}
}

// lateLane accepts its control stream at the first use: the dialler must write
// before the stream exists here.
type lateLane struct {
	*lane
	once sync.Once
}

func (l *lateLane) get() *lane {
	l.once.Do(func() {
		ctl, err := l.conn.AcceptStream(context.Background())
		if err != nil {
			l.ctl = nil
			return
		}
		l.ctl = ctl
	})
	return l.lane
}

func (l *lateLane) Control() io.ReadWriter { return lateControl{l} }

type lateControl struct{ l *lateLane }

func (c lateControl) Read(p []byte) (int, error) {
	if x := c.l.get(); x.ctl != nil {
		return x.Control().Read(p)
	}
	return 0, net.ErrClosed
}

func (c lateControl) Write(p []byte) (int, error) {
	if x := c.l.get(); x.ctl != nil {
		return x.Control().Write(p)
	}
	return 0, net.ErrClosed
}

func TestConformance(t *testing.T) {
	tuntest.Run(t, tuntest.Options{Connect: connector(t)})
}

// TestStreamCredit sends many more frames than may be under way at once: the credit of those that are through comes back.
func TestStreamCredit(t *testing.T) {
	const limit, frames = 2 * creditHeld, 20 * creditHeld
	near, far := connectorWith(t, func(c *quic.Config) { c.MaxIncomingUniStreams = limit })(t)
	ctx, cancel := context.WithTimeout(t.Context(), 2*time.Minute)
	defer cancel()
	for i := range frames {
		w, err := near.OpenFrame(ctx)
		if err == nil {
			_, err = w.Write([]byte{byte(i)})
		}
		if err == nil {
			err = w.Close()
		}
		if err != nil {
			t.Fatalf("frame %d of %d, %d at once: %v", i, frames, limit, err)
		}
		r, err := far.AcceptFrame(ctx)
		if err != nil {
			t.Fatal(err)
		}
		if got, err := io.ReadAll(r); err != nil || !bytes.Equal(got, []byte{byte(i)}) {
			t.Fatalf("frame %d: %v, %v", i, got, err)
		}
	}
}
