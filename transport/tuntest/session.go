package tuntest

import (
	"context"
	"encoding/binary"
	"errors"
	"testing"

	"wanpair/transport"
)

// exchange sends messages in both directions while between runs, and checks
// that they arrive in order, each once.
func exchange(t *testing.T, a, b *transport.Session, n int, between func()) {
	t.Helper()
	errs := make(chan error, 4)
	send := func(s *transport.Session) {
		for i := range n {
			var err error
			msg := binary.BigEndian.AppendUint32(make([]byte, 0, 4+i%3000), uint32(i))
			msg = msg[:4+i%3000]
			if i%5 == 0 {
				err = s.SendSite(msg)
			} else {
				err = s.SendCodec(msg)
			}
			if err != nil {
				errs <- err
				return
			}
		}
		errs <- nil
	}
	receive := func(s *transport.Session) {
		for i := range n {
			kind, msg, err := s.Messages(context.Background())
			switch {
			case err != nil:
				errs <- err
				return
			case len(msg) != 4+i%3000 || binary.BigEndian.Uint32(msg) != uint32(i):
				errs <- errors.New("message out of order or changed")
				return
			case (kind == transport.KindSite) != (i%5 == 0):
				errs <- errors.New("message of the wrong kind")
				return
			}
		}
		errs <- nil
	}
	go send(a)
	go send(b)
	go receive(a)
	go receive(b)
	between()
	for range 4 {
		if err := <-errs; err != nil {
			t.Fatal(err)
		}
	}
}

func messages(t *testing.T, c Connect) {
	p := NewPair(t, c, nil)
	a, b := p.Sessions(t)
	exchange(t, a, b, 3000, func() {})
	if err := a.SendCodec(make([]byte, 65001)); !errors.Is(err, transport.ErrMalformed) {
		t.Fatalf("message above the bound: %v", err)
	}
	if err := a.SendCodec(make([]byte, 65000)); err != nil {
		t.Fatal(err)
	}
	if _, msg, err := b.Messages(context.Background()); err != nil || len(msg) != 65000 {
		t.Fatalf("largest message: %d bytes, %v", len(msg), err)
	}
	ctx, cancel := context.WithCancel(context.Background())
	cancel()
	if _, _, err := b.Messages(ctx); !errors.Is(err, context.Canceled) {
		t.Fatalf("cancelled: %v", err)
	}
	if _, err := b.Accept(ctx); !errors.Is(err, context.Canceled) {
		t.Fatalf("cancelled: %v", err)
	}
}

// messagesNobodyTakes: aborts get through, and the session stays within its
// bounds, while the receiver's layer does not take its messages.
func messagesNobodyTakes(t *testing.T, c Connect) {
	p := NewPair(t, c, nil)
	a, b := p.Sessions(t)
	near, far := Flow(t, a, b)
	for range 900 {
		if err := a.SendCodec(make([]byte, 1000)); err != nil {
			t.Fatal(err)
		}
	}
	near.Abort(transport.AbortDenied)
	wantAbort(t, far, transport.AbortDenied, true)
	big := make([]byte, 60000)
	for range 2000 {
		if err := a.SendCodec(big); errors.Is(err, transport.ErrBacklog) {
			return
		} else if err != nil {
			t.Fatal(err)
		}
	}
	t.Fatal("120 MB of messages were queued")
}

func draining(t *testing.T, c Connect) {
	p := NewPair(t, c, nil)
	a, b := p.Sessions(t)
	near, far := Flow(t, a, b)
	b.GoAway(0, "test")
	// A message behind it on the same lane tells when it has arrived.
	for !a.PeerDraining() {
		if err := b.SendSite(nil); err != nil {
			t.Fatal(err)
		}
		if _, _, err := a.Messages(context.Background()); err != nil {
			t.Fatal(err)
		}
	}
	if _, err := a.Open(nil); !errors.Is(err, transport.ErrDraining) {
		t.Fatalf("open towards a draining peer: %v", err)
	}
	mustTransfer(t, near, far, 1, 1<<20) // running flows go on
	if f, err := b.Open(nil); err != nil {
		t.Fatal(err)
	} else {
		f.Abort(transport.AbortReset)
	}
}

func flowLimit(t *testing.T, c Connect) {
	p := NewPair(t, c, func(a, b *transport.LinkConfig) {
		b.InitialCreditBytes, b.CreditBudgetBytes = 64<<10, 1<<20 // 8 flows
	})
	a, b := p.Sessions(t)
	var flows []*transport.Flow
	for range 8 {
		f, err := a.Open([]byte("open"))
		if err != nil {
			t.Fatal(err)
		}
		flows = append(flows, f)
	}
	if _, err := a.Open(nil); !errors.Is(err, transport.ErrFlowLimit) {
		t.Fatalf("ninth flow: %v", err)
	}
	flows[3].Abort(transport.AbortReset)
	if _, err := a.Open(nil); err != nil {
		t.Fatalf("after one has ended: %v", err)
	}
	if f, err := b.Open(nil); err != nil { // the other side has its own limit
		t.Fatal(err)
	} else {
		f.Abort(transport.AbortReset)
	}
}

// transferOver runs a transfer in both directions, and between meanwhile.
func transferOver(t *testing.T, near, far *transport.Flow, n int64, between func()) {
	t.Helper()
	errs := make(chan error, 2)
	go func() { errs <- transfer(near, far, 1, n) }()
	go func() { errs <- transfer(far, near, 2, n) }()
	between()
	for range 2 {
		if err := <-errs; err != nil {
			t.Fatal(err)
		}
	}
	mustEnd(t, near, far)
}

// progress waits until about n more raw bytes came to e, or f has ended.
func progress(e *End, f *transport.Flow, n uint64) {
	from := e.Link.Stats().RawRecv
	wait(func() bool {
		select {
		case <-f.Done():
			return true
		default:
			return e.Link.Stats().RawRecv >= from+n
		}
	})
}

func laneDeath(t *testing.T, c Connect) {
	p := NewPair(t, c, nil)
	a, b := p.Sessions(t)
	lane := p.lanes[0]
	next := p.AddLane(t, true)
	near, far := Flow(t, a, b)
	transferOver(t, near, far, 32<<20, func() {
		for i := range 6 {
			progress(p.B, far, 1<<20)
			lane.Kill()
			lane, next = next, p.AddLane(t, i%2 == 0)
		}
	})
	exchange(t, a, b, 2000, func() {
		for range 3 {
			lane.Kill()
			lane, next = next, p.AddLane(t, true)
		}
	})
	if a.Err() != nil || b.Err() != nil {
		t.Fatal("the session ended")
	}
}

func outage(t *testing.T, c Connect) {
	p := NewPair(t, c, nil)
	a, b := p.Sessions(t)
	near, far := Flow(t, a, b)
	transferOver(t, near, far, 24<<20, func() {
		for range 3 {
			progress(p.B, far, 1<<20)
			p.lanes[len(p.lanes)-1].Kill()
			if _, err := a.Open(nil); !errors.Is(err, transport.ErrNoLane) {
				t.Errorf("open without a lane: %v", err)
			}
			if st := p.A.Link.Stats(); st.State != transport.StateHeld {
				t.Errorf("state %q without a lane", st.State)
			}
			p.AddLane(t, true)
		}
	})
	exchange(t, a, b, 1000, func() {
		p.lanes[len(p.lanes)-1].Kill()
		p.AddLane(t, false)
	})
}

func severalLanes(t *testing.T, c Connect) {
	p := NewPair(t, c, nil)
	a, b := p.Sessions(t)
	for range 3 {
		p.AddLane(t, true)
	}
	wait(func() bool { return len(p.A.Link.Stats().Lanes) == 4 && len(p.B.Link.Stats().Lanes) == 4 })
	// One lane is enough for what a busy machine brings about, so more than one try.
	used, tries := 0, 0
	for ; used < 2 && tries < 4; tries++ {
		before := map[uint64]uint64{}
		for _, x := range p.A.Link.Stats().Lanes {
			before[x.Lane] = x.BytesSent
		}
		near, far := Flow(t, a, b)
		transferOver(t, near, far, 32<<20, func() {})
		used = 0
		for _, x := range p.A.Link.Stats().Lanes {
			if x.BytesSent-before[x.Lane] > 1<<20 {
				used++
			}
		}
	}
	if used < 2 {
		t.Fatalf("one flow used %d of 4 lanes, %d times", used, tries)
	}
}

func otherDials(t *testing.T, c Connect) {
	p := NewPair(t, c, nil)
	p.AddLane(t, false)
	near, far := Flow(t, p.A.Session(), p.B.Session())
	mustTransfer(t, near, far, 1, 100)
	mustTransfer(t, far, near, 1, 100)
	mustEnd(t, near, far)
}

// restart: the far process is replaced by a new one.
func restart(t *testing.T, c Connect) {
	p := NewPair(t, c, nil)
	a, b := p.Sessions(t)
	near, far := Flow(t, a, b)
	first := a.Local()
	cb := Config("b")
	p.B = NewEnd(t, cb)
	p.AddLane(t, true)
	a2, b2 := p.A.Session(), p.B.Session()
	wantAbort(t, near, transport.AbortPeerRestarted, false)
	<-a.Done()
	if !errors.Is(a.Err(), transport.ErrPeerRestarted) {
		t.Fatalf("the old session ended with %v", a.Err())
	}
	if _, err := a.Open(nil); !errors.Is(err, transport.ErrSessionEnded) {
		t.Fatalf("open in the old session: %v", err)
	}
	if err := a.SendCodec(nil); !errors.Is(err, transport.ErrSessionEnded) {
		t.Fatalf("message in the old session: %v", err)
	}
	if a2.Peer().Instance == a.Peer().Instance || a2.Local() != first {
		t.Fatal("instances of the new session")
	}
	near2, far2 := Flow(t, a2, b2)
	mustTransfer(t, near2, far2, 1, 1<<20)
	_ = far
}

func linkStopped(t *testing.T, c Connect) {
	p := NewPair(t, c, nil)
	near, far := mustFlow(t, p)
	p.A.Stop()
	wantAbort(t, near, transport.AbortShutdown, false)
	<-p.lanes[0].DoneB
	if err := p.lanes[0].ErrB; err != nil {
		t.Fatalf("the other side's lane: %v, want an orderly end", err)
	}
	if err := p.lanes[0].ErrA; err != nil {
		t.Fatalf("own lane: %v, want an orderly end", err)
	}
	if st := p.B.Link.Stats().State; st != transport.StateHeld {
		t.Fatalf("state %q", st)
	}
	_ = far
}
