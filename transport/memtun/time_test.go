package memtun_test

import (
	"bytes"
	"context"
	"errors"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"wanpair/transport"
	"wanpair/transport/memtun"
	"wanpair/transport/tuntest"
)

// wires is a tuntest.Connect that remembers its wires.
type wires struct {
	cfg memtun.Config
	all []*memtun.Wire
}

func (w *wires) connect(testing.TB) (transport.Lane, transport.Lane) {
	wire, a, b := memtun.New(w.cfg)
	w.all = append(w.all, wire)
	return a, b
}

func TestHold(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w := wires{cfg: memtun.Config{Delay: 20 * time.Millisecond}}
		p := tuntest.NewPair(t, w.connect, func(a, b *transport.LinkConfig) {
			a.Hold, b.Hold = 30*time.Second, time.Hour
		})
		a, b := p.Sessions(t)
		near, far := tuntest.Flow(t, a, b)
		before := p.A.Link.Instance()
		w.all[0].Kill(errors.New("killed"))
		start := time.Now()
		<-a.Done()
		if held := time.Since(start); held < 30*time.Second || held > 31*time.Second {
			t.Fatalf("held for %v, want 30 s", held)
		}
		if !errors.Is(a.Err(), transport.ErrHoldExpired) {
			t.Fatalf("ended with %v", a.Err())
		}
		var ae *transport.AbortError
		if !errors.As(near.Err(), &ae) || ae.Code != transport.AbortLinkLost || ae.Remote {
			t.Fatalf("the flow ended with %v", near.Err())
		}
		if far.Err() != nil {
			t.Fatalf("the other side holds longer, but its flow ended with %v", far.Err())
		}
		if p.A.Link.Instance() == before {
			t.Fatal("the side that ended the session keeps its name")
		}
		// The other side learns it from the next hello.
		p.AddLane(t, true)
		p.A.Session()
		p.B.Session()
		<-far.Done()
		if !errors.As(far.Err(), &ae) || ae.Code != transport.AbortPeerRestarted {
			t.Fatalf("the other side's flow ended with %v", far.Err())
		}
	})
}

func TestLiveness(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w := wires{cfg: memtun.Config{Delay: 50 * time.Millisecond}}
		p := tuntest.NewPair(t, w.connect, nil)
		p.Sessions(t)
		lane := p.Lane(0)
		// Gaps below a second alarm nobody.
		for range 5 {
			w.all[0].Cut()
			time.Sleep(900 * time.Millisecond)
			w.all[0].Mend()
			time.Sleep(3 * time.Second)
		}
		if lane.Ended() {
			t.Fatalf("gaps of 900 ms ended the lane: %v", lane.ErrA)
		}
		// An idle lane lives for ever.
		time.Sleep(10 * time.Minute)
		if lane.Ended() {
			t.Fatalf("idleness ended the lane: %v", lane.ErrA)
		}
		w.all[0].Cut()
		start := time.Now()
		<-lane.DoneA
		<-lane.DoneB
		if d := time.Since(start); d < 2*time.Second || d > 4*time.Second {
			t.Fatalf("a dead peer was known after %v", d)
		}
		var le *transport.LaneError
		if !errors.As(lane.ErrA, &le) || le.Code != transport.LaneStalled {
			t.Fatalf("lane ended with %v", lane.ErrA)
		}
		if st := p.A.Link.Stats(); st.State != transport.StateHeld || !strings.Contains(st.LastError, "STALLED") {
			t.Fatalf("state %q, error %q", st.State, st.LastError)
		}
	})
}

// TestStall: a lane that stands still while another moves: its frames arrive
// over the other, long before the lane is given up.
func TestStall(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w := wires{cfg: memtun.Config{Delay: 20 * time.Millisecond, Rate: 1e6}}
		p := tuntest.NewPair(t, w.connect, nil)
		a, b := p.Sessions(t)
		p.AddLane(t, true)
		near, far := tuntest.Flow(t, a, b)
		data := bytes.Repeat([]byte("0123456789abcdef"), 1<<18)
		go func() { _ = tuntest.Send(near, bytes.NewReader(data)) }()
		var got bytes.Buffer
		done := make(chan error, 1)
		go func() { done <- tuntest.Receive(far, &got) }()
		time.Sleep(500 * time.Millisecond)
		for len(p.A.Link.Stats().Lanes) < 2 {
			time.Sleep(10 * time.Millisecond)
		}
		w.all[1].Cut()
		time.Sleep(1800 * time.Millisecond)
		st := p.A.Link.Stats()
		if st.ResentFrames == 0 {
			t.Fatalf("nothing was repeated: %+v", st)
		}
		before := p.B.Link.Stats().RawRecv
		time.Sleep(400 * time.Millisecond)
		if p.B.Link.Stats().RawRecv == before {
			t.Fatal("the flow stands still with the lane")
		}
		if err := <-done; err != nil {
			t.Fatal(err)
		}
		if !bytes.Equal(got.Bytes(), data) {
			t.Fatal("bytes differ")
		}
	})
}

// TestResume: after an outage without a word the flow goes on at once, and what
// had arrived is not sent again.
func TestResume(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w := wires{cfg: memtun.Config{Delay: 50 * time.Millisecond, Rate: 1e6}}
		p := tuntest.NewPair(t, w.connect, nil)
		a, b := p.Sessions(t)
		near, far := tuntest.Flow(t, a, b)
		data := bytes.Repeat([]byte("0123456789abcdef"), 1<<18)
		go func() { _ = tuntest.Send(near, bytes.NewReader(data)) }()
		var got bytes.Buffer
		done := make(chan error, 1)
		go func() { done <- tuntest.Receive(far, &got) }()
		time.Sleep(time.Second)
		w.all[0].Cut()
		time.Sleep(60 * time.Second)
		p.AddLane(t, true)
		before := p.B.Link.Stats().RawRecv
		time.Sleep(time.Second)
		if p.B.Link.Stats().RawRecv == before {
			t.Fatal("nothing moved within a second of the repair")
		}
		if err := <-done; err != nil {
			t.Fatal(err)
		}
		if !bytes.Equal(got.Bytes(), data) {
			t.Fatal("bytes differ")
		}
		st := p.A.Link.Stats()
		if d := p.B.Link.Stats().Duplicates; d > 1 {
			t.Fatalf("%d frames came twice, %d bytes were repeated", d, st.ResentBytes)
		}
	})
}

// TestSmallLink: on 2 Mbit/s a small message does not wait behind large frames.
func TestSmallLink(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w := wires{cfg: memtun.Config{Delay: 50 * time.Millisecond, Rate: 250e3, Ahead: 4 << 10}}
		p := tuntest.NewPair(t, w.connect, nil)
		a, b := p.Sessions(t)
		time.Sleep(time.Second)
		near, _ := tuntest.Flow(t, a, b)
		n, err := near.SendWindow()
		if err != nil {
			t.Fatal(err)
		}
		if n > 16<<10 {
			t.Fatalf("a frame of %d raw bytes on a link of 250 kB/s", n)
		}
		// Where the payload is a twentieth of it the frame may be larger.
		time.Sleep(time.Second)
		for range 40 {
			if _, err := near.Send(make([]byte, 400), 8000, false); err != nil {
				t.Fatal(err)
			}
		}
		if n, err = near.SendWindow(); err != nil || n <= 16<<10 {
			t.Fatalf("window of %d raw bytes, %v", n, err)
		}
	})
}

// TestInfo: the receiver's rate reaches the sender's statistics.
func TestInfo(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w := wires{cfg: memtun.Config{Delay: 10 * time.Millisecond, Rate: 1e6}}
		p := tuntest.NewPair(t, w.connect, nil)
		a, b := p.Sessions(t)
		near, far := tuntest.Flow(t, a, b)
		go func() { _ = tuntest.Send(near, bytes.NewReader(make([]byte, 8<<20))) }()
		if err := tuntest.Receive(far, new(bytes.Buffer)); err != nil {
			t.Fatal(err)
		}
		if r := p.A.Link.Stats().PeerRecvRate; r < 800e3 || r > 1200e3 {
			t.Fatalf("the peer says it receives %d bytes/s, want about a million", r)
		}
	})
}

func TestMessagesContext(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w := wires{}
		p := tuntest.NewPair(t, w.connect, nil)
		a, _ := p.Sessions(t)
		ctx, cancel := context.WithTimeout(context.Background(), time.Minute)
		defer cancel()
		start := time.Now()
		if _, _, err := a.Messages(ctx); !errors.Is(err, context.DeadlineExceeded) {
			t.Fatal(err)
		}
		if time.Since(start) != time.Minute {
			t.Fatalf("returned after %v", time.Since(start))
		}
	})
}
