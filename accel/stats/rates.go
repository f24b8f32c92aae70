package stats

import (
	"sync"
	"time"
)

const (
	sampleInterval  = time.Second
	sampleCount     = 61 // a minute and its beginning
	historyInterval = 5  // samples per point of the history
	historyCount    = 720
)

// sample is what rates are made of, for all peers at one moment.
type sample struct {
	at    time.Time
	peers map[string]counters
}

// counters are the counters of one peer that have a rate.
type counters struct {
	lan, wan Traffic
	sent     Gain
	received Gain
	resent   uint64
	rtt      time.Duration
	loss     float64
}

func peerCounters(p Peer) counters {
	return counters{lan: p.LAN, wan: p.WAN, sent: p.Sent, received: p.Received, resent: p.ResentBytes, rtt: p.RTT, loss: finite(p.LossRatio)}
}

// rates remembers a sample per second for a minute and a point per five seconds for an hour. It may be used by any number of goroutines.
type rates struct {
	mu      sync.Mutex
	samples ring[sample] // guarded by mu
	last    sample       // where the running point of the history begins, guarded by mu
	ticks   int          // samples since last, guarded by mu
	history ring[point]  // guarded by mu
}

// point is one step of the history: what was counted during it, for every peer.
type point struct {
	at      time.Time // its end
	seconds float64   // how long it was
	peers   map[string]counters
}

func newRates() *rates {
	return &rates{samples: newRing[sample](sampleCount), history: newRing[point](historyCount)}
}

// add takes a sample. Call it once per sampleInterval.
func (r *rates) add(at time.Time, peers []Peer) {
	s := sample{at: at, peers: make(map[string]counters, len(peers))}
	for _, p := range peers {
		s.peers[p.Name] = peerCounters(p)
	}
	r.mu.Lock()
	defer r.mu.Unlock()
	r.samples.push(s)
	if r.last.peers == nil {
		r.last = s
		return
	}
	if r.ticks++; r.ticks < historyInterval {
		return
	}
	p := point{at: at, seconds: at.Sub(r.last.at).Seconds(), peers: make(map[string]counters, len(peers))}
	for name, now := range s.peers {
		if before, known := r.last.peers[name]; known {
			p.peers[name] = now.since(before)
		}
	}
	r.history.push(p)
	r.last, r.ticks = s, 0
}

// delta returns what was counted for a peer during the last n samples, or as many as there are.
func (r *rates) delta(peer string, n int) counters {
	now, before, _ := r.window(peer, n)
	return now.since(before)
}

// throughput returns a peer's rates during the last n samples, or as many as there are.
func (r *rates) throughput(peer string, n int) Throughput {
	now, before, seconds := r.window(peer, n)
	if seconds <= 0 {
		return Throughput{}
	}
	d := now.since(before)
	bits := func(t Traffic) Rate {
		return Rate{Sent: float64(t.Sent) * 8 / seconds, Received: float64(t.Received) * 8 / seconds}
	}
	return Throughput{LAN: bits(d.lan), WAN: bits(d.wan)}
}

// window returns a peer's counters at the latest sample and n samples earlier, and the time between.
func (r *rates) window(peer string, n int) (now, before counters, seconds float64) {
	r.mu.Lock()
	defer r.mu.Unlock()
	if r.samples.len() < 2 {
		return counters{}, counters{}, 0
	}
	last := r.samples.at(r.samples.len() - 1)
	for i := max(0, r.samples.len()-1-n); i < r.samples.len()-1; i++ {
		first := r.samples.at(i)
		if c, known := first.peers[peer]; known { // a peer that is new has a shorter window
			return last.peers[peer], c, last.at.Sub(first.at).Seconds()
		}
	}
	return counters{}, counters{}, 0
}

// since subtracts, field by field. A counter that fell belongs to a peer made anew: it counts from zero.
func (c counters) since(before counters) counters {
	sub := func(a, b uint64) uint64 {
		if a < b {
			return a
		}
		return a - b
	}
	traffic := func(a, b Traffic) Traffic {
		return Traffic{Sent: sub(a.Sent, b.Sent), Received: sub(a.Received, b.Received)}
	}
	gain := func(a, b Gain) Gain {
		return Gain{
			MatchedBytes: sub(a.MatchedBytes, b.MatchedBytes), LiteralBytes: sub(a.LiteralBytes, b.LiteralBytes),
			LiteralWireBytes: sub(a.LiteralWireBytes, b.LiteralWireBytes), OpaqueBytes: sub(a.OpaqueBytes, b.OpaqueBytes),
		}
	}
	return counters{
		lan: traffic(c.lan, before.lan), wan: traffic(c.wan, before.wan),
		sent: gain(c.sent, before.sent), received: gain(c.received, before.received),
		resent: sub(c.resent, before.resent), rtt: c.rtt, loss: c.loss,
	}
}

// ring keeps the latest values of a fixed number.
type ring[T any] struct {
	values []T
	next   int // where the next value goes once it is full
}

func newRing[T any](n int) ring[T] { return ring[T]{values: make([]T, 0, n)} }

func (r *ring[T]) push(v T) {
	if len(r.values) < cap(r.values) {
		r.values = append(r.values, v)
		return
	}
	r.values[r.next] = v
	r.next = (r.next + 1) % len(r.values)
}

func (r *ring[T]) len() int { return len(r.values) }

// at returns the i-th value, oldest first.
func (r *ring[T]) at(i int) T { return r.values[(r.next+i)%len(r.values)] }

// newest returns where the latest value is kept, nil when there is none.
func (r *ring[T]) newest() *T {
	if len(r.values) == 0 {
		return nil
	}
	return &r.values[(r.next+len(r.values)-1)%len(r.values)]
}
