package accel

import (
	"sync"
	"time"

	"wanpair/accel/intercept"
	"wanpair/accel/policy"
	"wanpair/accel/stats"
)

// Raw connections never come here; the rules show a few of their first packets. The latest are listed beside the running flows.
const (
	maxSamples = 64
	sampleAge  = time.Minute
	// sampleIDs are far above those of carried flows, so that an ID never names two things.
	sampleIDs = 1 << 62
)

// sampleRing keeps the latest samples.
type sampleRing struct {
	mu   sync.Mutex
	next uint64
	all  []stats.Flow // newest last
}

func newSampleRing() *sampleRing { return &sampleRing{next: sampleIDs} }

func (r *sampleRing) add(s intercept.Sample) {
	reason, _ := policy.Named(s.Reason)
	r.mu.Lock()
	defer r.mu.Unlock()
	if len(r.all) == maxSamples {
		r.all = append(r.all[:0], r.all[1:]...)
	}
	r.next++
	r.all = append(r.all, stats.Flow{
		ID:          r.next,
		Source:      s.Client.String(),
		Destination: s.Target.String(),
		Peer:        s.Peer,
		State:       stats.FlowPassed,
		Reason:      reason,
		Started:     time.Now(),
	})
}

func (r *sampleRing) recent() []stats.Flow {
	r.mu.Lock()
	defer r.mu.Unlock()
	var out []stats.Flow
	for _, f := range r.all {
		if time.Since(f.Started) < sampleAge {
			out = append(out, f)
		}
	}
	return out
}
