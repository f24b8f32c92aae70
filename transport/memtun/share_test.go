package memtun_test

import (
	"math"
	"sync"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"wanpair/transport"
	"wanpair/transport/memtun"
	"wanpair/transport/tuntest"
)

// zeros is an endless reader.
type zeros struct{}

func (zeros) Read(p []byte) (int, error) {
	clear(p)
	return len(p), nil
}

// counter counts what is written to it.
type counter struct{ n atomic.Int64 }

func (c *counter) Write(p []byte) (int, error) {
	c.n.Add(int64(len(p)))
	return len(p), nil
}

// load is flows of one class that send as much as they can.
type load struct {
	class string
	got   counter
	flows []*transport.Flow
	group sync.WaitGroup
}

// loaded starts n flows from a to b; back: the far side sends.
func loaded(t *testing.T, a, b *transport.Session, class string, n int, back bool) *load {
	t.Helper()
	l := &load{class: class}
	for range n {
		near, far := tuntest.Flow(t, a, b)
		near.SetClass(class)
		far.SetClass(class)
		l.flows = append(l.flows, near)
		if back {
			near, far = far, near
		}
		l.group.Go(func() { _ = tuntest.Send(near, zeros{}) })
		l.group.Go(func() { _ = tuntest.Receive(far, &l.got) })
	}
	return l
}

func (l *load) stop() {
	for _, f := range l.flows {
		f.Abort(transport.AbortReset)
	}
	l.group.Wait()
}

// during is what arrives of each load in a time of saturation.
func during(d time.Duration, loads ...*load) []float64 {
	time.Sleep(2 * time.Second) // windows open first
	out := make([]float64, len(loads))
	for i, l := range loads {
		out[i] = -float64(l.got.n.Load())
	}
	time.Sleep(d)
	for i, l := range loads {
		out[i] += float64(l.got.n.Load())
	}
	return out
}

func near(t *testing.T, what string, got, want, tolerance float64) {
	t.Helper()
	if math.Abs(got-want) > tolerance*want {
		t.Errorf("%s: %.4g, want %.4g within %.0f %%", what, got, want, tolerance*100)
	}
}

// TestShares: classes that saturate the link get their shares, in both
// directions, whatever the number of their flows and of the lanes; what a class
// does not use, the others have; and a new share counts at once.
func TestShares(t *testing.T) {
	const rate = 2_500_000 // 20 Mbit/s
	for _, tc := range []struct {
		name  string
		lanes int
		back  bool
	}{{"one lane", 1, false}, {"four lanes", 4, false}, {"from the far side", 4, true}} {
		t.Run(tc.name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				w := wires{cfg: memtun.Config{Delay: 25 * time.Millisecond, Rate: rate / int64(tc.lanes), Ahead: 8 << 10}}
				shares := map[string]int{"replica": 60, "backup": 10}
				p := tuntest.NewPair(t, w.connect, func(a, b *transport.LinkConfig) { a.Shares, b.Shares = shares, shares })
				a, b := p.Sessions(t)
				for range tc.lanes - 1 {
					p.AddLane(t, true)
				}
				time.Sleep(time.Second)
				replica := loaded(t, a, b, "replica", 1, tc.back)
				backup := loaded(t, a, b, "backup", 8, tc.back)
				others := loaded(t, a, b, "nobody knows", 3, tc.back)
				got := during(20*time.Second, replica, backup, others)
				all := got[0] + got[1] + got[2]
				near(t, "all of the link", all/20, rate, 0.05)
				near(t, "share of replica", got[0]/all, 0.6, 0.05)
				near(t, "share of backup", got[1]/all, 0.1, 0.1)
				near(t, "share of the others", got[2]/all, 0.3, 0.05)

				replica.stop()
				got = during(20*time.Second, backup, others)
				near(t, "all of the link without replica", (got[0]+got[1])/20, rate, 0.05)
				near(t, "backup against the others", got[0]/got[1], 1.0/3, 0.1)

				for _, l := range []*transport.Link{p.A.Link, p.B.Link} {
					if err := l.SetShares(map[string]int{"backup": 80}); err != nil {
						t.Fatal(err)
					}
				}
				got = during(20*time.Second, backup, others)
				near(t, "share of backup, raised", got[0]/(got[0]+got[1]), 0.8, 0.05)

				for _, l := range []*transport.Link{p.A.Link, p.B.Link} {
					if err := l.SetShares(nil); err != nil {
						t.Fatal(err)
					}
				}
				got = during(20*time.Second, backup, others)
				near(t, "eight flows against three", got[0]/(got[0]+got[1]), 8.0/11, 0.1)
				backup.stop()
				got = during(10*time.Second, others)
				near(t, "the others alone", got[0]/10, rate, 0.05)
				others.stop()
			})
		})
	}
}

// TestShareOfSmallFrames: a word of a class that is not at its share's end does
// not wait behind the bulk of the others.
func TestShareOfSmallFrames(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w := wires{cfg: memtun.Config{Delay: 25 * time.Millisecond, Rate: 2_500_000, Ahead: 16 << 10}}
		p := tuntest.NewPair(t, w.connect, func(a, b *transport.LinkConfig) { a.Shares = map[string]int{"words": 20} })
		a, b := p.Sessions(t)
		time.Sleep(time.Second)
		bulk := loaded(t, a, b, "", 10, false)
		near, far := tuntest.Flow(t, a, b)
		near.SetClass("words")
		time.Sleep(5 * time.Second)
		for i := range 20 {
			start := time.Now()
			if _, err := near.SendWindow(); err != nil {
				t.Fatal(err)
			}
			if _, err := near.Send([]byte{0xa5, 1}, 1, false); err != nil {
				t.Fatal(err)
			}
			fr, err := far.Receive()
			if err != nil {
				t.Fatal(err)
			}
			far.Release(fr)
			far.Acknowledge(fr.Number)
			far.Consume(1)
			// The wire, what waits in the lane (two frames of 25 ms), and what the wire keeps ahead.
			if took := time.Since(start); took > 150*time.Millisecond {
				t.Errorf("word %d took %v", i, took)
			}
			time.Sleep(time.Second)
		}
		near.Abort(transport.AbortReset)
		bulk.stop()
	})
}

// TestCeiling: two links with one ceiling keep to it together, and use it.
func TestCeiling(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		const ceiling = 1_000_000 // bytes per second
		c, err := transport.NewCeiling(8 * ceiling)
		if err != nil {
			t.Fatal(err)
		}
		w := wires{cfg: memtun.Config{Delay: 25 * time.Millisecond, Rate: 10 * ceiling}}
		var pairs [2]*tuntest.Pair
		var loads [2]*load
		for i := range pairs {
			pairs[i] = tuntest.NewPair(t, w.connect, func(a, b *transport.LinkConfig) { a.Ceiling = c })
			a, b := pairs[i].Sessions(t)
			pairs[i].AddLane(t, true)
			time.Sleep(time.Second)
			loads[i] = loaded(t, a, b, "", 1+2*i, false)
		}
		sent := func() (n uint64) {
			for _, p := range pairs {
				n += p.A.Link.Stats().WANSent
			}
			return n
		}
		time.Sleep(2 * time.Second)
		for range 20 { // no second is above it
			before := sent()
			time.Sleep(time.Second)
			near(t, "bytes in a second", float64(sent()-before), ceiling, 0.08)
		}
		got := during(20*time.Second, loads[0], loads[1])
		near(t, "one link against the other", got[0]/got[1], 1, 0.1)
		loads[1].stop()
		got = during(20*time.Second, loads[0])
		near(t, "one link alone", got[0]/20, ceiling, 0.08)
		loads[0].stop()
	})
}

// TestBadShares: what cannot be is refused.
func TestBadShares(t *testing.T) {
	for _, shares := range []map[string]int{{"a": 0}, {"a": 101}, {"a": 60, "b": 41}, {"": 10}, {"a": -5}} {
		cfg := tuntest.Config("a")
		cfg.Shares = shares
		if _, err := transport.NewLink(cfg); err == nil {
			t.Errorf("%v was taken", shares)
		}
	}
	if _, err := transport.NewCeiling(1000); err == nil {
		t.Error("a ceiling of 1 kbit/s was taken")
	}
}
