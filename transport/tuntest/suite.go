package tuntest

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"hash/fnv"
	"io"
	"math/rand/v2"
	"sync"
	"testing"
	"time"

	"wanpair/transport"
)

// Options say how a suite is run.
type Options struct {
	// Connect makes lanes.
	Connect Connect
	// Around runs one case; nil calls it. testing/synctest.Test for tunnels
	// that live in virtual time.
	Around func(*testing.T, func(*testing.T))
}

// Run runs the suite: every case in a subtest of its own.
func Run(t *testing.T, opt Options) {
	cases := []struct {
		name string
		run  func(*testing.T, Connect)
	}{
		{"half-close", halfClose},
		{"abort by the initiator", func(t *testing.T, c Connect) { abort(t, c, true) }},
		{"abort by the responder", func(t *testing.T, c Connect) { abort(t, c, false) }},
		{"close without an end", closeAborts},
		{"frame given up", frameGivenUp},
		{"large flow", largeFlow},
		{"many flows", manyFlows},
		{"empty flow", emptyFlow},
		{"stalled reader", stalledReader},
		{"credit", creditBounds},
		{"acknowledgements reach the sender", acknowledged},
		{"messages", messages},
		{"messages nobody takes", messagesNobodyTakes},
		{"draining", draining},
		{"flow limit", flowLimit},
		{"lane death", laneDeath},
		{"outage", outage},
		{"several lanes", severalLanes},
		{"lane dialled by the other side", otherDials},
		{"restart", restart},
		{"link stopped", linkStopped},
		{"early frames", earlyFrames},
		{"duplicates", duplicates},
		{"acknowledgements in frames", frameAcks},
		{"hostile frames", hostileFrames},
		{"hostile records", hostileRecords},
		{"hostile hellos", hostileHellos},
		{"stale hello", staleHello},
	}
	around := opt.Around
	if around == nil {
		around = func(t *testing.T, f func(*testing.T)) { f(t) }
	}
	for _, c := range cases {
		t.Run(c.name, func(t *testing.T) {
			around(t, func(t *testing.T) { c.run(t, opt.Connect) })
		})
	}
}

// source yields n bytes that depend on seed.
func source(seed byte, n int64) io.Reader {
	return io.LimitReader(rand.NewChaCha8([32]byte{seed}), n)
}

// digest is what a transfer must come out as.
func digest(r io.Reader) uint64 {
	h := fnv.New64a()
	_, _ = io.Copy(h, r)
	return h.Sum64()
}

// transfer sends n bytes from one end of a flow to the other and checks them.
func transfer(from, to *transport.Flow, seed byte, n int64) error {
	sent := make(chan error, 1)
	go func() { sent <- Send(from, source(seed, n)) }()
	h := fnv.New64a()
	if err := Receive(to, h); err != nil {
		return fmt.Errorf("receive: %w", err)
	}
	if err := <-sent; err != nil {
		return fmt.Errorf("send: %w", err)
	}
	if h.Sum64() != digest(source(seed, n)) {
		return errors.New("bytes differ")
	}
	return nil
}

func mustTransfer(t *testing.T, from, to *transport.Flow, seed byte, n int64) {
	t.Helper()
	if err := transfer(from, to, seed, n); err != nil {
		t.Fatal(err)
	}
}

func mustEnd(t *testing.T, flows ...*transport.Flow) {
	t.Helper()
	for _, f := range flows {
		<-f.Done()
		if err := f.Err(); err != nil {
			t.Fatalf("flow %d: %v", f.ID(), err)
		}
	}
}

func wantAbort(t *testing.T, f *transport.Flow, code transport.AbortCode, remote bool) {
	t.Helper()
	<-f.Done()
	want := transport.AbortError{Code: code, Remote: remote}
	var got *transport.AbortError
	if err := f.Err(); !errors.As(err, &got) || *got != want {
		t.Fatalf("flow %d ended with %v, want %v", f.ID(), err, &want)
	}
}

func halfClose(t *testing.T, c Connect) {
	p := NewPair(t, c, nil)
	near, far := mustFlow(t, p)
	mustTransfer(t, near, far, 1, 1000) // request and FIN
	if _, err := near.Send([]byte{prefix}, 0, true); !errors.Is(err, transport.ErrEnded) {
		t.Fatalf("send after FIN: %v", err)
	}
	if _, err := far.Receive(); !errors.Is(err, transport.ErrEnded) {
		t.Fatalf("receive after FIN: %v", err)
	}
	mustTransfer(t, far, near, 2, 1<<20) // late reply
	mustEnd(t, near, far)
}

// mustFlow connects a pair and opens a flow on it.
func mustFlow(t *testing.T, p *Pair) (near, far *transport.Flow) {
	t.Helper()
	a, b := p.Sessions(t)
	return Flow(t, a, b)
}

func abort(t *testing.T, c Connect, byInitiator bool) {
	p := NewPair(t, c, nil)
	x, y := mustFlow(t, p)
	if !byInitiator {
		x, y = y, x
	}
	blocked := make(chan error, 3)
	go func() { _, err := y.Receive(); blocked <- err }()
	go func() { blocked <- Send(y, source(1, 1<<40)) }()
	go func() { blocked <- Send(x, source(1, 1<<40)) }()
	if _, err := x.Receive(); err != nil {
		t.Fatal(err)
	}
	x.Abort(transport.AbortDenied)
	x.Abort(transport.AbortReset) // the first one counts
	wantAbort(t, x, transport.AbortDenied, false)
	wantAbort(t, y, transport.AbortDenied, true)
	for range 2 {
		var ae *transport.AbortError
		if err := <-blocked; err != nil && !errors.As(err, &ae) {
			t.Fatalf("blocked call ended with %v", err)
		}
	}
	<-blocked
	if _, err := y.WaitAnswer(); err == nil && byInitiator {
		t.Fatal("answer after an abort of a flow without one")
	}
}

func closeAborts(t *testing.T, c Connect) {
	p := NewPair(t, c, nil)
	near, far := mustFlow(t, p)
	mustTransfer(t, near, far, 1, 10)
	near.Close() // the other direction has not ended
	wantAbort(t, far, transport.AbortReset, true)
}

func largeFlow(t *testing.T, c Connect) {
	p := NewPair(t, c, nil)
	near, far := mustFlow(t, p)
	back := make(chan error, 1)
	go func() { back <- transfer(far, near, 2, 10<<20) }()
	mustTransfer(t, near, far, 1, 24<<20)
	if err := <-back; err != nil {
		t.Fatal(err)
	}
	mustEnd(t, near, far)
	st := p.A.Link.Stats()
	if st.RawSent != 24<<20 || st.RawRecv != 10<<20 || st.WANSent < 24<<20 {
		t.Fatalf("counted %d raw bytes sent, %d received, %d on the wire", st.RawSent, st.RawRecv, st.WANSent)
	}
	if st.QueuedBytes != 0 || st.CreditGranted != 0 || st.Flows != 0 {
		t.Fatalf("left behind: %d bytes kept, %d granted, %d flows", st.QueuedBytes, st.CreditGranted, st.Flows)
	}
}

// echo answers every flow of s with what it gets.
func echo(s *transport.Session, n int) {
	var wg sync.WaitGroup
	defer wg.Wait()
	for range n {
		f, err := s.Accept(context.Background())
		if err != nil {
			return
		}
		wg.Go(func() {
			if f.Answer(nil) != nil {
				return
			}
			var got bytes.Buffer
			if Receive(f, &got) == nil {
				_ = Send(f, &got)
			}
		})
	}
}

func manyFlows(t *testing.T, c Connect) {
	const flows = 300
	p := NewPair(t, c, nil)
	a, b := p.Sessions(t)
	go echo(a, flows/2)
	go echo(b, flows/2)
	errs := make(chan error, flows)
	for i := range flows {
		s := a
		if i%2 == 1 {
			s = b
		}
		go func() {
			f, err := s.Open(nil)
			if err != nil {
				errs <- err
				return
			}
			n := int64(i * i)
			if err := Send(f, source(byte(i), n)); err != nil {
				errs <- err
				return
			}
			h := fnv.New64a()
			if err := Receive(f, h); err != nil {
				errs <- err
				return
			}
			if h.Sum64() != digest(source(byte(i), n)) {
				errs <- fmt.Errorf("flow %d: bytes differ", f.ID())
				return
			}
			<-f.Done()
			errs <- f.Err()
		}()
	}
	for range flows {
		if err := <-errs; err != nil {
			t.Fatal(err)
		}
	}
}

func emptyFlow(t *testing.T, c Connect) {
	p := NewPair(t, c, nil)
	near, far := mustFlow(t, p)
	mustTransfer(t, near, far, 1, 0)
	mustTransfer(t, far, near, 1, 0)
	mustEnd(t, near, far)
}

func stalledReader(t *testing.T, c Connect) {
	p := NewPair(t, c, nil)
	a, b := p.Sessions(t)
	stalled, reader := Flow(t, a, b)
	sent := make(chan error, 1)
	go func() { sent <- Send(stalled, source(1, 1<<40)) }()
	// Acknowledge everything, take nothing: the sender must come to rest at
	// its credit while another flow moves.
	var got int64
	frames := make(chan error, 1)
	go func() {
		for {
			fr, err := reader.Receive()
			if err != nil {
				frames <- err
				return
			}
			got += int64(fr.RawLen)
			reader.Release(fr)
			reader.Acknowledge(fr.Number)
		}
	}()
	near, far := Flow(t, a, b)
	mustTransfer(t, near, far, 2, 8<<20)
	mustTransfer(t, far, near, 3, 8<<20)
	mustEnd(t, near, far)
	if n := p.B.Link.Stats().CreditGranted; n > 2<<20 {
		t.Fatalf("a stalled reader holds %d bytes of credit", n)
	}
	stalled.Abort(transport.AbortReset)
	<-sent
	<-frames
	if got > 2<<20 {
		t.Fatalf("%d bytes went to a reader that takes nothing", got)
	}
}

func creditBounds(t *testing.T, c Connect) {
	p := NewPair(t, c, func(a, b *transport.LinkConfig) {
		b.InitialCreditBytes, b.CreditBudgetBytes = 32<<10, 128<<10
	})
	near, far := mustFlow(t, p)
	var sent int
	for sent < 32<<10 {
		n, err := near.SendWindow()
		if err != nil {
			t.Fatal(err)
		}
		if n > 32<<10-sent {
			t.Fatalf("window of %d after %d of %d bytes", n, sent, 32<<10)
		}
		if _, err := near.Send(make([]byte, n+1), n, false); err != nil {
			t.Fatal(err)
		}
		sent += n
	}
	if _, err := near.Send(make([]byte, 2), 1, false); !errors.Is(err, transport.ErrCredit) {
		t.Fatalf("send beyond the credit: %v", err)
	}
	for got := 0; got < sent; {
		fr, err := far.Receive()
		if err != nil {
			t.Fatal(err)
		}
		got += fr.RawLen
		far.Acknowledge(fr.Number)
	}
	far.Consume(sent)
	if n, err := near.SendWindow(); err != nil || n == 0 {
		t.Fatalf("no window after the reader took everything: %d, %v", n, err)
	}
}

func acknowledged(t *testing.T, c Connect) {
	p := NewPair(t, c, nil)
	near, far := mustFlow(t, p)
	next := make(chan uint64, 100)
	near.SetOnAcked(func(n uint64) {
		_ = near.NextNumber() // no lock is held
		next <- n
	})
	for i := range uint64(3) {
		if n := near.NextNumber(); n != i+1 {
			t.Fatalf("next number %d, want %d", n, i+1)
		}
		if n, err := near.Send([]byte{prefix, 1}, 1, false); err != nil || n != i+1 {
			t.Fatalf("sent frame %d: %v", n, err)
		}
	}
	for range 3 {
		if _, err := far.Receive(); err != nil {
			t.Fatal(err)
		}
	}
	far.Acknowledge(99) // never received: ignored
	far.Acknowledge(2)
	for n := range next {
		if n == 3 {
			break
		}
		if n > 3 {
			t.Fatalf("acknowledged below %d, want 3", n)
		}
	}
	far.Acknowledge(3)
	for n := range next {
		if n == 4 {
			break
		}
	}
}

// frameGivenUp: whoever gives a frame up, and whenever, the lane lives, so no
// call may say that it has ended.
func frameGivenUp(t *testing.T, c Connect) {
	near, far := c(t)
	open := func(word string) transport.FrameWriter {
		w, err := near.OpenFrame(t.Context())
		if err == nil {
			_, err = w.Write([]byte(word))
		}
		if err != nil {
			t.Fatal(err)
		}
		return w
	}
	refused := func(what string, err error) {
		t.Helper()
		if !errors.Is(err, transport.ErrFrameRefused) {
			t.Errorf("%s: %v", what, err)
		}
	}
	w := open("first")
	w.Cancel(0)
	refused("end of a frame given up here", w.Close())
	w = open("second")
	w.Cancel(0)
	_, err := w.Write([]byte("more"))
	refused("more of a frame given up here", err)
	refused("its end", w.Close())

	w = open("third")
	var r transport.FrameReader
	for word := make([]byte, 5); string(word) != "third"; { // what was given up may have come, too
		if r, err = far.AcceptFrame(t.Context()); err != nil {
			t.Fatal(err)
		}
		_, _ = io.ReadFull(r, word)
	}
	err = nil
	r.Cancel(0)
	for err == nil {
		_, err = w.Write([]byte("and on"))
		time.Sleep(time.Millisecond) // the peer's word is under way
	}
	refused("more of a frame the peer gave up", err)
	refused("its end", w.Close())
	near.Close(transport.LaneNone, "")
	far.Close(transport.LaneNone, "")
}
