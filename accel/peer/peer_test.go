package peer_test

import (
	"bytes"
	"context"
	"errors"
	"io"
	"log/slog"
	"math/rand/v2"
	"net/netip"
	"sync"
	"testing"
	"time"

	"go.uber.org/goleak"

	"wanpair/accel/flow"
	"wanpair/accel/peer"
	"wanpair/dedupe"
	"wanpair/transport"
	"wanpair/transport/memtun"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

// side is one gateway without sockets.
type side struct {
	*peer.Peer
	served chan *peer.Stream // flows the other side opened; the test closes them
	stop   context.CancelFunc
	done   chan error
}

func newSide(t *testing.T, name string) *side {
	t.Helper()
	return newSideWith(t, name, nil)
}

// newSideWith is newSide for a side that understands less.
func newSideWith(t *testing.T, name string, features *dedupe.Features) *side {
	t.Helper()
	s := &side{served: make(chan *peer.Stream, 64), done: make(chan error, 1)}
	var err error
	s.Peer, err = peer.New(peer.Config{
		Name:     name,
		Log:      slog.New(slog.DiscardHandler),
		Link:     transport.LinkConfig{Hello: transport.Hello{Site: name}, Hold: 5 * time.Second},
		Cache:    dedupe.Config{SizeBytes: 64 << 20, MemoryBytes: 64 << 20},
		Features: features,
		Serve: func(ctx context.Context, stream *peer.Stream) {
			s.served <- stream
		},
	})
	if err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithCancel(context.Background())
	s.stop = cancel
	go func() { s.done <- s.Run(ctx) }()
	return s
}

func (s *side) end(t *testing.T) {
	t.Helper()
	s.stop()
	if err := <-s.done; err != nil {
		t.Errorf("%s: %v", s.Name(), err)
	}
}

// join runs a lane between two sides until the test ends.
func join(t *testing.T, a, b *side, cfg memtun.Config) *memtun.Wire {
	t.Helper()
	wire, dialer, listener := memtun.New(cfg)
	ctx, cancel := context.WithCancel(context.Background())
	var group sync.WaitGroup
	group.Go(func() { _ = a.Link().ServeLane(ctx, dialer) })
	group.Go(func() { _ = b.Link().ServeLane(ctx, listener) })
	t.Cleanup(func() { cancel(); group.Wait() })
	return wire
}

func waitUp(t *testing.T, sides ...*side) {
	t.Helper()
	deadline := time.Now().Add(time.Minute)
	for _, s := range sides {
		for s.State() != peer.Up {
			if time.Now().After(deadline) {
				t.Fatalf("%s is %v", s.Name(), s.State())
			}
			time.Sleep(time.Millisecond) // waiting for a state of goroutines that run in real time
		}
	}
}

var request = peer.OpenRequest{
	Kind:   peer.Intercepted,
	Client: netip.MustParseAddrPort("10.1.0.2:4000"),
	Target: netip.MustParseAddrPort("10.2.0.2:80"),
}

// send sends p in pieces of random sizes and ends the direction.
func send(s *peer.Stream, p []byte, random *rand.Rand) error {
	for {
		window, err := s.Window()
		if err != nil {
			return err
		}
		n := min(window, len(p), 1+random.IntN(flow.MaxSegmentBytes))
		if err := s.Send(p[:n], n == len(p)); err != nil {
			return err
		}
		if p = p[n:]; len(p) == 0 {
			return nil
		}
	}
}

// receive takes a whole direction.
func receive(s *peer.Stream) ([]byte, error) {
	var out bytes.Buffer
	for {
		got, err := s.Receive()
		if err != nil {
			return out.Bytes(), err
		}
		out.Write(got.Data)
		s.Consumed(got)
		if got.End {
			return out.Bytes(), nil
		}
	}
}

// exchange carries up from a to b and down from b to a over one flow and checks both.
func exchange(t *testing.T, a, b *side, up, down []byte, seed uint64) {
	t.Helper()
	exchangeAs(t, a, b, request, up, down, seed)
}

// exchangeAs is exchange with a request that says more.
func exchangeAs(t *testing.T, a, b *side, request peer.OpenRequest, up, down []byte, seed uint64) {
	t.Helper()
	near, err := a.Open(request)
	if err != nil {
		t.Fatal(err)
	}
	far := <-b.served
	if far.Request.Target != request.Target || far.Request.Client != request.Client {
		t.Errorf("the far side was asked for %+v", far.Request)
	}
	if err := far.Answer(netip.MustParseAddrPort("10.2.0.1:9")); err != nil {
		t.Fatal(err)
	}
	var group sync.WaitGroup
	oneWay := func(from, to *peer.Stream, data []byte, seed uint64) {
		group.Go(func() {
			if err := send(from, data, rand.New(rand.NewPCG(seed, 1))); err != nil {
				t.Errorf("send: %v", err)
			}
		})
		group.Go(func() {
			got, err := receive(to)
			if err != nil || !bytes.Equal(got, data) {
				t.Errorf("received %d of %d bytes: %v", len(got), len(data), err)
			}
		})
	}
	oneWay(near, far, up, seed)
	oneWay(far, near, down, seed+1)
	group.Wait()
	for _, s := range []*peer.Stream{near, far} {
		s.Finish()
		s.Close()
	}
}

// text is data that compresses and repeats like text does.
func text(n int, seed uint64) []byte {
	random := rand.New(rand.NewPCG(seed, 7))
	words := make([][]byte, 2000)
	for i := range words {
		words[i] = make([]byte, 2+random.IntN(9))
		for j := range words[i] {
			words[i][j] = byte('a' + random.IntN(26))
		}
	}
	var out bytes.Buffer
	for out.Len() < n {
		out.Write(words[random.IntN(len(words))])
		out.WriteByte(' ')
	}
	return out.Bytes()[:n]
}

func TestBothDirectionsColdAndAgain(t *testing.T) {
	a, b := newSide(t, "a"), newSide(t, "b")
	defer a.end(t)
	defer b.end(t)
	join(t, a, b, memtun.Config{Delay: time.Millisecond, Jitter: time.Millisecond})
	waitUp(t, a, b)
	up, down := text(3<<20, 1), text(2<<20, 2)
	exchange(t, a, b, up, down, 1)
	cold := a.Codec().Stats()
	exchange(t, b, a, up, down, 3) // what was uploaded is not sent again when downloaded
	exchange(t, a, b, up, down, 5)
	warm := a.Codec().Stats()
	if literal := warm.LiteralBytes - cold.LiteralBytes; literal > int64(len(up)+len(down))/100 {
		t.Errorf("%d literal bytes in repeats of what crossed before", literal)
	}
	if n := a.Counters().LANSent.Load(); n != int64(2*len(up)+len(down)) {
		t.Errorf("%d LAN bytes counted", n)
	}
}

func TestEmptyFlow(t *testing.T) {
	a, b := newSide(t, "a"), newSide(t, "b")
	defer a.end(t)
	defer b.end(t)
	join(t, a, b, memtun.Config{})
	waitUp(t, a, b)
	exchange(t, a, b, nil, nil, 1)
	exchange(t, a, b, []byte("x"), nil, 1)
}

func TestFlowsGoOnOverAnotherLane(t *testing.T) {
	a, b := newSide(t, "a"), newSide(t, "b")
	defer a.end(t)
	defer b.end(t)
	first := join(t, a, b, memtun.Config{Delay: time.Millisecond, Rate: 20 << 20})
	waitUp(t, a, b)
	killed := make(chan struct{})
	go func() {
		defer close(killed)
		time.Sleep(50 * time.Millisecond) // somewhere in the middle of the transfer
		first.Kill(errors.New("killed by the test"))
		join(t, a, b, memtun.Config{Delay: time.Millisecond})
	}()
	exchange(t, a, b, text(8<<20, 3), text(1<<20, 4), 9)
	<-killed
}

func TestAnAbortReachesTheOtherSideWithItsCode(t *testing.T) {
	a, b := newSide(t, "a"), newSide(t, "b")
	defer a.end(t)
	defer b.end(t)
	join(t, a, b, memtun.Config{})
	waitUp(t, a, b)
	for cause, want := range map[error]transport.AbortCode{
		flow.ErrEdge:        transport.AbortReset,
		io.ErrUnexpectedEOF: transport.AbortInternal,
		&dedupe.MissError{}: transport.AbortCacheMiss,
		dedupe.ErrChecksum:  transport.AbortChecksum,
		dedupe.ErrGrammar:   transport.AbortCodec,
		&peer.DialError{Code: transport.AbortRefused, Err: io.EOF}: transport.AbortRefused,
	} {
		near, err := a.Open(request)
		if err != nil {
			t.Fatal(err)
		}
		far := <-b.served
		far.Abort(cause)
		_, err = near.Receive()
		var aborted *transport.AbortError
		if !errors.As(err, &aborted) || aborted.Code != want || !aborted.Remote {
			t.Errorf("%v arrived as %v, want %v", cause, err, want)
		}
		near.Close()
		far.Close()
	}
}

// A codec message that makes no sense ends the session on this side, and the next session works although flows of the old one are not closed
// yet: their users may hang in a write or a dial.
func TestBadCodecMessageEndsTheSession(t *testing.T) {
	a, b := newSide(t, "a"), newSide(t, "b")
	defer a.end(t)
	defer b.end(t)
	join(t, a, b, memtun.Config{})
	waitUp(t, a, b)
	stream, err := b.Open(request)
	if err != nil {
		t.Fatal(err)
	}
	defer stream.Close()
	served := <-a.served
	defer served.Close()
	if err := served.Answer(netip.MustParseAddrPort("10.2.0.1:9")); err != nil {
		t.Fatal(err)
	}
	before := a.Link().Session()
	if err := b.Link().Session().SendCodec([]byte{0xff, 0xff, 0xff}); err != nil {
		t.Fatal(err)
	}
	select {
	case <-before.Done():
	case <-time.After(20 * time.Second):
		t.Fatal("the session goes on")
	}
	if a.State() == peer.Up {
		t.Error("a session that has ended counts as up")
	}
	if _, err := served.Receive(); err == nil {
		t.Error("its flow goes on")
	}
	join(t, a, b, memtun.Config{})
	waitUp(t, a, b)
	exchange(t, a, b, text(100_000, 1), text(100_000, 2), 1)
	exchange(t, b, a, text(100_000, 1), text(100_000, 2), 2)
}

// TestPeerRestarted replaces one side by a new instance in the middle of a flow: the flow is reset, new ones work, with a cold cache.

func TestPeerRestarted(t *testing.T) {
	a, b := newSide(t, "a"), newSide(t, "b")
	defer a.end(t)
	wire := join(t, a, b, memtun.Config{})
	waitUp(t, a, b)
	data := text(1<<20, 5)
	exchange(t, a, b, data, data, 1)
	near, err := a.Open(request)
	if err != nil {
		t.Fatal(err)
	}
	far := <-b.served
	wire.Kill(errors.New("killed by the test"))
	far.Close()
	b.end(t)

	again := newSide(t, "b")
	defer again.end(t)
	join(t, a, again, memtun.Config{})
	if _, err := near.Receive(); err == nil {
		t.Error("a flow outlived its peer's process")
	}
	near.Close()
	waitUp(t, a, again)
	exchange(t, a, again, data, data, 2)
	exchange(t, again, a, data, data, 3)
}
