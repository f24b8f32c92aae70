package transport

import (
	"errors"
	"sync"
	"time"
)

// ceilingBurst is how much of a second's bytes may go out at once.
const ceilingBurst = 20 * time.Millisecond

// Ceiling bounds the rate of what links send, in UDP payload: frames are
// counted when they are given to a lane, and every tick the difference to what
// the lanes really sent, with headers, acknowledgements and repeats. Links that
// reach it take turns, a frame each. It bounds any second to the rate, 20 ms
// more and one frame.
type Ceiling struct {
	rate  float64 // bytes per second
	burst float64 // bytes

	mu      sync.Mutex
	tokens  float64 // bytes that may go now; below zero: a debt
	at      time.Time
	waiting []*turn
	armed   bool
}

// turn is a session that waits for the ceiling.
type turn struct{ s *Session }

// NewCeiling makes a ceiling; bitsPerSec is at least 64,000.
func NewCeiling(bitsPerSec int64) (*Ceiling, error) {
	if bitsPerSec < 64_000 {
		return nil, errors.New("transport: a ceiling below 64 kbit/s would starve the tunnel's own messages")
	}
	rate := float64(bitsPerSec) / 8
	return &Ceiling{rate: rate, burst: max(rate*ceilingBurst.Seconds(), 3000), at: time.Now()}, nil
}

func (c *Ceiling) bytesPerSec() uint64 { return uint64(c.rate) }

// refill adds what the time since the last call allows.
func (c *Ceiling) refill() {
	now := time.Now()
	c.tokens = min(c.tokens+c.rate*now.Sub(c.at).Seconds(), c.burst)
	c.at = now
}

// take allows s to send size bytes, or notes that it waits and calls
// ceilingTurn when it may try again.
func (c *Ceiling) take(size int, s *Session) bool {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.refill()
	mine := len(c.waiting) > 0 && c.waiting[0].s == s
	if c.tokens > 0 && (mine || len(c.waiting) == 0) {
		if mine {
			c.waiting = c.waiting[1:]
		}
		c.tokens -= float64(size)
		return true
	}
	for _, w := range c.waiting {
		if w.s == s {
			return false
		}
	}
	c.waiting = append(c.waiting, &turn{s})
	c.arm()
	return false
}

// takeUrgent allows size bytes out of turn as long as the debt stays small.
func (c *Ceiling) takeUrgent(size int) bool {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.refill()
	if c.tokens-float64(size) < -c.burst {
		return false
	}
	c.tokens -= float64(size)
	return true
}

// correct counts bytes that were sent beside those taken, or gives back what
// was taken too much.
func (c *Ceiling) correct(bytes int64) {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.refill()
	c.tokens = min(c.tokens-float64(bytes), c.burst)
}

// arm sets the timer for the moment at which something may go again.
func (c *Ceiling) arm() {
	if c.armed || len(c.waiting) == 0 {
		return
	}
	c.armed = true
	wait := time.Duration(0)
	if c.tokens <= 0 {
		wait = time.Duration((1-c.tokens)/c.rate*float64(time.Second)) + time.Microsecond
	}
	time.AfterFunc(wait, c.serve)
}

// serve lets those who wait go on, one after the other, while there is
// something to give.
func (c *Ceiling) serve() {
	c.mu.Lock()
	c.armed = false
	for c.refill(); len(c.waiting) > 0 && c.tokens > 0; c.refill() {
		first := c.waiting[0]
		c.mu.Unlock()
		first.s.ceilingTurn() // takes what it can, and waits again if it has more
		c.mu.Lock()
		if len(c.waiting) > 0 && c.waiting[0] == first {
			c.waiting = c.waiting[1:] // it had nothing to send any more
		}
	}
	c.arm()
	c.mu.Unlock()
}
