// Package tuntest is the conformance suite of the tunnel: what every
// implementation of [transport.Lane] has to carry, and what package transport
// promises over it. [Run] runs it.
package tuntest

import (
	"context"
	"io"
	"log/slog"
	"net/netip"
	"sync"
	"testing"
	"time"

	"wanpair/transport"
)

// Connect makes one more lane between the two ends of a tunnel and returns both
// its sides, authenticated and silent. It registers what must be cleaned up
// with t.
type Connect func(t testing.TB) (dialer, listener transport.Lane)

// End is one side of a [Pair].
type End struct {
	Link     *transport.Link
	sessions chan *transport.Session
	cancel   context.CancelFunc
	ctx      context.Context
	wg       sync.WaitGroup
}

// Pair is two links and the lanes between them.
type Pair struct {
	A, B    *End
	connect Connect
	lanes   []*LanePair
}

// LanePair is one lane of a pair.
type LanePair struct {
	A, B       transport.Lane
	DoneA      chan struct{} // closed when A's ServeLane returned ErrA
	DoneB      chan struct{}
	ErrA, ErrB error
}

// Config returns the configuration of an end named site.
func Config(site string) transport.LinkConfig {
	return transport.LinkConfig{
		Log: slog.New(slog.DiscardHandler),
		Hello: transport.Hello{
			Site: site, Software: "test",
			OwnSubnets: []netip.Prefix{netip.MustParsePrefix("10.1.0.0/16"), netip.MustParsePrefix("fd00:1::/64")},
			OwnAddrs:   []netip.Addr{netip.MustParseAddr("10.1.0.1")},
		},
	}
}

// NewPair starts two links without a lane. change may change both
// configurations; nil leaves them.
func NewPair(t testing.TB, connect Connect, change func(a, b *transport.LinkConfig)) *Pair {
	t.Helper()
	ca, cb := Config("a"), Config("b")
	if change != nil {
		change(&ca, &cb)
	}
	return &Pair{A: NewEnd(t, ca), B: NewEnd(t, cb), connect: connect}
}

// NewEnd starts a link; it is stopped when the test ends.
func NewEnd(t testing.TB, cfg transport.LinkConfig) *End {
	t.Helper()
	e := &End{sessions: make(chan *transport.Session, 64)}
	cfg.OnSession = func(s *transport.Session) { e.sessions <- s }
	link, err := transport.NewLink(cfg)
	if err != nil {
		t.Fatal(err)
	}
	e.Link = link
	e.ctx, e.cancel = context.WithCancel(context.Background())
	e.wg.Go(func() { _ = link.Run(e.ctx) })
	t.Cleanup(e.Stop)
	return e
}

// Stop ends the link and waits for its lanes.
func (e *End) Stop() {
	e.cancel()
	e.wg.Wait()
}

// Session waits for the next session that begins on this end and has its first lane, or has lost it again.
func (e *End) Session() *transport.Session {
	s := <-e.sessions
	for deadline := time.Now().Add(5 * time.Second); !s.Up() && s.Err() == nil && time.Now().Before(deadline); {
		time.Sleep(time.Millisecond) // OnSession comes before the lane is attached
	}
	return s
}

// AddLane connects one more lane and serves it on both ends. dialedByA says
// which end says hello first.
func (p *Pair) AddLane(t testing.TB, dialedByA bool) *LanePair {
	t.Helper()
	a, b := p.connect(t)
	if !dialedByA {
		a, b = b, a
	}
	return p.Serve(a, b)
}

// Serve serves the two ends of a lane.
func (p *Pair) Serve(a, b transport.Lane) *LanePair {
	lp := &LanePair{A: a, B: b, DoneA: make(chan struct{}), DoneB: make(chan struct{})}
	p.lanes = append(p.lanes, lp)
	p.A.serve(a, &lp.ErrA, lp.DoneA)
	p.B.serve(b, &lp.ErrB, lp.DoneB)
	return lp
}

func (e *End) serve(lane transport.Lane, err *error, done chan struct{}) {
	e.wg.Go(func() {
		defer close(done)
		*err = e.Link.ServeLane(e.ctx, lane)
	})
}

// Lane is the i-th lane of the pair.
func (p *Pair) Lane(i int) *LanePair { return p.lanes[i] }

// Ended says whether both sides of the lane have ended.
func (lp *LanePair) Ended() bool {
	for _, done := range []chan struct{}{lp.DoneA, lp.DoneB} {
		select {
		case <-done:
		default:
			return false
		}
	}
	return true
}

// Kill ends the lane without an orderly word and waits for both ends to notice.
func (lp *LanePair) Kill() {
	lp.A.Close(transport.LaneInternal, "killed by the test")
	<-lp.DoneA
	<-lp.DoneB
}

// Sessions adds a lane and waits for the session on both ends.
func (p *Pair) Sessions(t testing.TB) (a, b *transport.Session) {
	t.Helper()
	p.AddLane(t, true)
	return p.A.Session(), p.B.Session()
}

// Flow opens a flow from a to b.
func Flow(t testing.TB, a, b *transport.Session) (near, far *transport.Flow) {
	t.Helper()
	near, err := a.Open([]byte("open"))
	if err != nil {
		t.Fatal(err)
	}
	far, err = b.Accept(context.Background())
	if err != nil {
		t.Fatal(err)
	}
	if string(far.OpenBody()) != "open" {
		t.Fatalf("open body %q", far.OpenBody())
	}
	if err := far.Answer([]byte("answer")); err != nil {
		t.Fatal(err)
	}
	answer, err := near.WaitAnswer()
	if err != nil {
		t.Fatal(err)
	}
	if string(answer) != "answer" {
		t.Fatalf("answer %q", answer)
	}
	return near, far
}

// prefix is what the suite's payloads have in front of the raw bytes, so that
// a payload is never empty and never equals its raw bytes.
const prefix = 0xa5

// Send sends what r yields as frames, the last with FIN.
func Send(f *transport.Flow, r io.Reader) error {
	buf := make([]byte, 1+transport.MaxRawLength)
	buf[0] = prefix
	for {
		window, err := f.SendWindow()
		if err != nil {
			return err
		}
		n, err := io.ReadFull(r, buf[1:1+window])
		fin := err == io.EOF || err == io.ErrUnexpectedEOF
		if err != nil && !fin {
			return err
		}
		if _, err := f.Send(buf[:1+n], n, fin); err != nil {
			return err
		}
		if fin {
			return nil
		}
	}
}

// Receive writes what arrives to w until FIN, acknowledging and consuming it.
func Receive(f *transport.Flow, w io.Writer) error {
	for {
		fr, err := f.Receive()
		if err != nil {
			return err
		}
		if len(fr.Payload) != fr.RawLen+1 || fr.Payload[0] != prefix {
			return io.ErrUnexpectedEOF
		}
		if _, err := w.Write(fr.Payload[1:]); err != nil {
			return err
		}
		n, number, fin := fr.RawLen, fr.Number, fr.Fin
		f.Release(fr)
		f.Acknowledge(number)
		f.Consume(n)
		if fin {
			return nil
		}
	}
}
