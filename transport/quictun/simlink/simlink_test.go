package simlink

import (
	"math"
	"sync"
	"testing"
	"testing/synctest"
	"time"
)

// fill keeps a direction full for a while and returns the bytes per second that
// arrived and the delay of the last packet.
func fill(p Params, d time.Duration) (rate float64, lossRatio float64, worst time.Duration) {
	var wg sync.WaitGroup
	stop := make(chan struct{})
	n := New(p, p, 3, &wg, stop)
	var mu sync.Mutex
	var got int64
	packet := make([]byte, 1472)
	start := time.Now()
	for time.Since(start) < d {
		for n.AtoB.Wait() < 5*time.Millisecond {
			at := time.Now()
			n.AtoB.Send(packet, func(b []byte) {
				mu.Lock()
				defer mu.Unlock()
				got += int64(len(b)) + overhead
				worst = max(worst, time.Since(at))
			})
		}
		time.Sleep(time.Millisecond)
	}
	elapsed := time.Since(start)
	time.Sleep(p.Delay + time.Second)
	close(stop)
	wg.Wait()
	sent, lost, _, _ := n.AtoB.Stats()
	return float64(got) / elapsed.Seconds(), float64(lost) / float64(sent), worst
}

func TestLink(t *testing.T) {
	cases := []Params{
		{Rate: 8e6, Delay: 50 * time.Millisecond, Queue: 1 << 20},
		{Rate: 80e6, Delay: 10 * time.Millisecond, Queue: 1 << 20, Loss: 0.02},
		{Rate: 80e6, Delay: 10 * time.Millisecond, Queue: 1 << 20, Loss: 0.02, Burst: 4},
	}
	for _, p := range cases {
		synctest.Test(t, func(t *testing.T) {
			rate, loss, worst := fill(p, 10*time.Second)
			if want := p.Rate / 8 * (1 - p.Loss); math.Abs(rate-want) > want*0.02 {
				t.Errorf("%+v: %.0f bytes/s, want %.0f", p, rate, want)
			}
			if math.Abs(loss-p.Loss) > 0.15*p.Loss {
				t.Errorf("%+v: loss %.4f", p, loss)
			}
			if worst < p.Delay || worst > p.Delay+10*time.Millisecond {
				t.Errorf("%+v: a packet took %v", p, worst)
			}
		})
	}
}

func TestQueueDrops(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		d := NewDirection(Params{Rate: 1e6, Queue: 15000}, 1)
		for range 100 {
			d.Send(make([]byte, 1472), func([]byte) {})
		}
		if sent, _, dropped, most := d.Stats(); sent != 100 || dropped != 100-11 || most > 15000 {
			t.Errorf("%d sent, %d dropped, at most %d bytes waited", sent, dropped, most)
		}
	})
}

// TestTCP: the models alone fill a link.
func TestTCP(t *testing.T) {
	for _, bbr := range []bool{false, true} {
		synctest.Test(t, func(t *testing.T) {
			var wg sync.WaitGroup
			stop := make(chan struct{})
			p := Params{Rate: 20e6, Delay: 25 * time.Millisecond, Queue: 125000}
			n := New(p, p, 1, &wg, stop)
			x := NewTCP(n, bbr)
			wg.Go(func() { x.Run(stop) })
			time.Sleep(5 * time.Second)
			from := x.Delivered()
			time.Sleep(20 * time.Second)
			if mbit := float64(x.Delivered()-from) * 8 / 20e6; mbit < 18 || mbit > 20 {
				t.Errorf("bbr %v: %.1f of 20 Mbit/s", bbr, mbit)
			}
			close(stop)
			wg.Wait()
		})
	}
}
