package dedupe

import "wanpair/dedupe/literal"

// A flow's literals are coded with the level that the codec was told to use (SetEffort), or a higher one while they are so small a part of the
// flow's bytes that the time does not count: Default codes about 150 MB of literals per second of one core, Better 70.
const (
	defaultShare = 0.25
	betterShare  = 0.07
	// holdShare: a stream keeps its level until the share is this many times the level's limit; another level means a new, empty window.
	holdShare = 2
	// settleBytes: a stream is not exchanged for one of a higher level before it has coded this much.
	settleBytes = 256 << 10
)

// SetEffort sets the least zstd level of literals: 0 fastest, 1 default, 2 better. It may be called at any time, by whoever compares the link's rate
// with what the encoders reach: a slow link has time for a higher level. Running streams take it up when they next begin.
func (c *Codec) SetEffort(level int) {
	c.level.Store(int32(min(max(level, literal.Fastest), literal.Better)))
}

// effort is the level set.
func (c *Codec) effort() int { return int(c.level.Load()) }

// levelFor is the level for a flow of which share of the bytes are literals.
func (c *Codec) levelFor(share float32) int {
	level := literal.Fastest
	switch {
	case share < betterShare:
		level = literal.Better
	case share < defaultShare:
		level = literal.Default
	}
	return max(level, c.effort())
}

// keeps tells whether a stream of a level should go on for a flow of which share of the bytes are literals, after coded bytes of them.
func (c *Codec) keeps(level int, share float32, coded int) bool {
	if level > c.levelFor(share/holdShare) {
		return false // too slow now
	}
	return level >= c.levelFor(share*holdShare) || coded < settleBytes
}
