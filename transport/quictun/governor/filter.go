package governor

import "time"

// maxFilter is the largest sample of the last bandwidthRounds rounds in which
// there was one. Rounds without samples, as of an idle connection, do not count.
type maxFilter struct {
	best  [bandwidthRounds]float64 // per round, ring
	round int64                    // of the newest
	max   float64
}

func (f *maxFilter) add(round int64, v float64) {
	if round != f.round {
		f.round = round
		copy(f.best[1:], f.best[:])
		f.best[0] = 0
	}
	f.best[0] = max(f.best[0], v)
	f.max = 0
	for _, b := range f.best {
		f.max = max(f.max, b)
	}
}

func (f *maxFilter) get() float64 { return f.max }

// forget keeps the newest n rounds only.
func (f *maxFilter) forget(n int) {
	clear(f.best[n:])
	f.max = 0
	for _, b := range f.best {
		f.max = max(f.max, b)
	}
}

// minFilter is the smallest round trip of the last four buckets of time in
// which there was one.
type minFilter struct {
	bucket time.Duration    // length of one
	best   [4]time.Duration // 0: none
	since  time.Duration    // when the newest bucket began
	min    time.Duration
}

func (f *minFilter) add(now, rtt time.Duration) {
	if now-f.since >= f.bucket {
		f.since = now
		copy(f.best[1:], f.best[:])
		f.best[0] = 0
	}
	if f.best[0] == 0 || rtt < f.best[0] {
		f.best[0] = rtt
	}
	f.min = 0
	for _, b := range f.best {
		if b > 0 && (f.min == 0 || b < f.min) {
			f.min = b
		}
	}
}

func (f *minFilter) get() time.Duration { return f.min }
