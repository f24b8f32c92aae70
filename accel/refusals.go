package accel

import (
	"net/netip"
	"sync"
	"time"
)

// Bypass times of a destination whose server refuses: from firstBypass, doubled while it goes on refusing.
const (
	firstBypass = 5 * time.Second
	maxBypass   = time.Minute
	// forgetRefusal is how long after its bypass a destination counts as refusing still, so that the next refusal doubles.
	forgetRefusal = 2 * time.Minute
	// maxRefusals bounds the destinations remembered: a port scan must not fill memory.
	maxRefusals = 1024
)

// refusals remembers which servers refused, and for how long their connections should pass raw: the gateway answers a client before it
// knows, so only a raw connection meets the real answer.
type refusals struct {
	now func() time.Time

	mu   sync.Mutex
	seen map[netip.AddrPort]refusal
}

type refusal struct {
	bypass time.Duration
	until  time.Time
}

func newRefusals(now func() time.Time) *refusals {
	return &refusals{now: now, seen: make(map[netip.AddrPort]refusal)}
}

// note says how long connections to target should pass raw after another refusal.
func (r *refusals) note(target netip.AddrPort) time.Duration {
	r.mu.Lock()
	defer r.mu.Unlock()
	now := r.now()
	last, known := r.seen[target]
	bypass := firstBypass
	if known && now.Before(last.until.Add(forgetRefusal)) {
		bypass = last.bypass
		if now.After(last.until) {
			bypass = min(2*last.bypass, maxBypass)
		}
	}
	if !known && len(r.seen) >= maxRefusals {
		r.forget(now)
	}
	r.seen[target] = refusal{bypass: bypass, until: now.Add(bypass)}
	return bypass
}

// forget makes room: what is over goes, or else everything.
func (r *refusals) forget(now time.Time) {
	for target, last := range r.seen {
		if now.After(last.until.Add(forgetRefusal)) {
			delete(r.seen, target)
		}
	}
	if len(r.seen) >= maxRefusals {
		clear(r.seen)
	}
}

// active says whether connections to target pass raw at this moment.
func (r *refusals) active(target netip.AddrPort) bool {
	r.mu.Lock()
	defer r.mu.Unlock()
	last, known := r.seen[target]
	return known && r.now().Before(last.until)
}
