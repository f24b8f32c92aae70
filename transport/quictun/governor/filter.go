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

// capacityTime is how long the largest bandwidth ever seen counts as what the
// path carries.
const capacityTime = 5 * time.Minute

// capacity remembers the largest bandwidth of some minutes.
type capacity struct {
	best, next float64
	since      time.Duration
	tested     bool // else the path may carry more
}

func (c *capacity) add(now time.Duration, bw float64) {
	if now-c.since >= capacityTime {
		c.best, c.next, c.since = c.next, 0, now
	}
	c.next = max(c.next, bw)
	c.best = max(c.best, bw)
}

func (c *capacity) get() float64 { return c.best }

// doubt lowers it: there may be less by now.
func (c *capacity) doubt() { c.best, c.next = c.best*doubt, c.next*doubt }

// set replaces it by what was found out otherwise.
func (c *capacity) set(bw float64) { c.best, c.next, c.tested = bw, bw, true }
