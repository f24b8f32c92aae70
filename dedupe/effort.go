package dedupe

import (
	"runtime"
	"sync"
	"time"

	"wanpair/dedupe/literal"
)

// A flow's literals are coded with the codec's level of effort, or a higher one while they are so small a part of the flow's bytes that the time does
// not count: Default codes about 150 MB of literals per second of one core, Better 70.
const (
	defaultShare = 0.25
	betterShare  = 0.07
	// holdShare: a stream keeps its level until the share is this many times the level's limit; another level means a new, empty window.
	holdShare = 2
	// settleBytes: a stream is not exchanged for one of a higher level before it has coded this much.
	settleBytes = 256 << 10
)

// The codec's level follows the time that encoders take. Encoders code late, only when the tunnel has room, so an encoder that is busy all the time is
// what the flow waits for, and one that mostly waits has time for a higher level. A level costs about twice the time of the one below it, so
// idleBelow is less than half of busyAbove: one step never leads straight back.
const (
	effortWindow = 250 * time.Millisecond
	busyAbove    = 0.5  // of one encoder's time, or of all processors': a lower level from now on
	idleBelow    = 0.15 // of both: after calmWindows a higher one
	calmWindows  = 4
	// wearyWindows is how many calm windows it takes after a level proved too high.
	wearyWindows = 40
	// worthBytes: a window with fewer literals says nothing.
	worthBytes = 64 << 10
)

// effort decides on the codec's level of literals.
type effort struct {
	mu       sync.Mutex
	fixed    bool
	level    int
	began    time.Time     // of the window
	window   uint64        // number of the window, from 1
	busy     time.Duration // of all encoders in the window
	busiest  time.Duration // of one encoder
	literals int           // bytes coded in the window
	calm     int           // windows without haste, in a row
	needed   int           // of them, before a higher level is tried
}

// strain is what one encoder did in a window.
type strain struct {
	window uint64
	busy   time.Duration
}

// note takes in that an encoder worked from one time to another and coded so many bytes of literals. s is the encoder's own.
func (f *effort) note(s *strain, from, to time.Time, literals int) {
	f.mu.Lock()
	defer f.mu.Unlock()
	if f.fixed {
		return
	}
	if elapsed := to.Sub(f.began); elapsed >= effortWindow {
		if f.window > 0 && elapsed < 4*effortWindow { // else nothing was sent for a while: what came before says nothing
			f.adapt(float64(f.busiest)/float64(elapsed), float64(f.busy)/float64(elapsed)/float64(runtime.GOMAXPROCS(0)))
		}
		f.began, f.busy, f.busiest, f.literals = to, 0, 0, 0
		f.window++
	}
	if s.window != f.window {
		*s = strain{window: f.window}
	}
	s.busy += to.Sub(from)
	f.busy += to.Sub(from)
	f.busiest = max(f.busiest, s.busy)
	f.literals += literals
}

// adapt chooses the level after a window in which one encoder and all of them were busy for these parts of the time.
func (f *effort) adapt(one, all float64) {
	switch busy := max(one, all); {
	case busy > busyAbove:
		f.calm = 0
		if f.level > literal.Fastest {
			f.level--
			f.needed = wearyWindows
		}
	case busy >= idleBelow:
		f.calm = 0
	case f.literals >= worthBytes:
		f.calm++
		if f.calm >= max(f.needed, calmWindows) && f.level < literal.Better {
			f.level++
			f.calm = 0
		}
	}
}

func (f *effort) now() int {
	f.mu.Lock()
	defer f.mu.Unlock()
	return f.level
}

// FixEffort sets the zstd level of literals, 0 fastest, 1 default, 2 better, for good: to measure with. Without it the level follows the time that
// encoders have. Running streams take it up when they next begin.
func (c *Codec) FixEffort(level int) {
	c.effort.mu.Lock()
	defer c.effort.mu.Unlock()
	c.effort.fixed, c.effort.level = true, min(max(level, literal.Fastest), literal.Better)
}

// levelFor is the level for a flow of which share of the bytes are literals.
func (c *Codec) levelFor(share float32) int {
	level := literal.Fastest
	switch {
	case share < betterShare:
		level = literal.Better
	case share < defaultShare:
		level = literal.Default
	}
	return max(level, c.effort.now())
}

// keeps tells whether a stream of a level should go on for a flow of which share of the bytes are literals, after coded bytes of them.
func (c *Codec) keeps(level int, share float32, coded int) bool {
	if level > c.levelFor(share/holdShare) {
		return false // too slow now
	}
	return level >= c.levelFor(share*holdShare) || coded < settleBytes
}
