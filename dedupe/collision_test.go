package dedupe

import (
	"bytes"
	"testing"
)

// TestCollisions gives windows the names of others: all of them the same one, or one of four. Every hit of the index then names bytes that are most
// likely others, which costs comparisons and matches, and never a byte.
func TestCollisions(t *testing.T) {
	text := bytes.Repeat([]byte("an address, a number, and the same words again: "), 4000)
	inputs := [][]byte{noise(1, 1<<20), edit(noise(1, 1<<20), 5, 300), edit(text, 6, 2000), noise(2, 300<<10), edit(noise(1, 1<<20), 7, 50)}
	for _, c := range []struct {
		name        string
		fingerprint func([]byte) uint64
	}{
		{"all alike", func([]byte) uint64 { return 42 }},
		{"one of four", func(w []byte) uint64 { return uint64(w[0] & 3) }},
	} {
		t.Run(c.name, func(t *testing.T) {
			p := newPair(t, testConfig(""), testConfig(""))
			p.a.fingerprint, p.b.fingerprint = c.fingerprint, c.fingerprint
			for _, data := range inputs {
				for _, frame := range []int{MaxFrameBytes, 5000} {
					p.send(p.a, p.b, data, frame) // compares what comes out
				}
				p.send(p.b, p.a, data, MaxFrameBytes)
			}
			if a, b := p.a.Stats(), p.b.Stats(); a.Misses+b.Misses+a.StruckBlocks+b.StruckBlocks+a.FailedFrames+b.FailedFrames > 0 {
				t.Errorf("misses, struck blocks, failed frames: %d, %d, %d and %d, %d, %d",
					a.Misses, a.StruckBlocks, a.FailedFrames, b.Misses, b.StruckBlocks, b.FailedFrames)
			}
			if a := p.a.Stats(); a.MatchedBytes == 0 {
				t.Error("no match at all: the test shows nothing")
			}
		})
	}
}
