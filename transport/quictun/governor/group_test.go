package governor

import (
	"slices"
	"testing"
	"time"

	"pgregory.net/rapid"
)

// TestGroupIsSane: whatever connections come, say and go, nobody is left
// without a share, shares do not exceed the whole, and nothing is in flight
// when all have gone.
func TestGroupIsSane(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		const packet = 1400
		g := NewGroup(1)
		var members []*member
		lost := make(map[*member]int64)
		var received uint64
		for range rapid.IntRange(1, 200).Draw(t, "events") {
			what := rapid.IntRange(0, 9).Draw(t, "event")
			if what == 0 || len(members) == 0 {
				mb := g.join(32*packet, packet, packet, 0, time.Duration(rapid.IntRange(0, 300).Draw(t, "rtt"))*time.Millisecond)
				members = append(members, mb)
				continue
			}
			i := rapid.IntRange(0, len(members)-1).Draw(t, "member")
			mb := members[i]
			switch {
			case what == 1:
				mb.leave()
				mb.leave()
				members = slices.Delete(members, i, i+1)
				if v := mb.sent(mb.flight + packet); v.window <= 0 {
					t.Fatalf("a window of %d after the end", v.window)
				}
			case what < 6:
				v := mb.sent(mb.flight + int64(rapid.IntRange(1, 20*packet).Draw(t, "bytes")))
				if v.window < minShare*packet {
					t.Fatalf("a share of %d bytes", v.window)
				}
			case what == 6:
				g.mu.Lock()
				if mb.group == g {
					g.uncount(mb, time.Since(g.began))
				}
				g.mu.Unlock()
			default:
				gone := int64(rapid.IntRange(0, int(mb.flight)).Draw(t, "gone"))
				lost[mb] += int64(rapid.IntRange(0, int(gone)).Draw(t, "lost"))
				received += uint64(rapid.IntRange(0, 1).Draw(t, "received"))
				v := mb.acked(report{mb.flight - gone, lost[mb], received, packet, time.Duration(rapid.IntRange(1, 500).Draw(t, "rtt")) * time.Millisecond})
				if whole := mb.group.model.Window(); v.window > max(whole, minShare*packet) {
					t.Fatalf("a share of %d of %d bytes", v.window, whole)
				}
			}
			var sum int64
			for _, x := range members {
				if x.group == g && !x.silent {
					sum += x.flight
				}
			}
			if sum != g.flight {
				t.Fatalf("%d bytes in flight are counted as %d", sum, g.flight)
			}
		}
		for _, mb := range members {
			mb.leave()
		}
		if g.flight != 0 || g.model != nil || len(g.members) != 0 {
			t.Fatalf("%d bytes in flight and %d members when all have gone", g.flight, len(g.members))
		}
	})
}

// TestLevel compares the shares with filling vessels drop by drop.
func TestLevel(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		g := NewGroup(1)
		g.model = NewModel(1, 1, 1)
		self := &member{group: g}
		g.members = []*member{self}
		whole := int64(rapid.IntRange(1, 2000).Draw(t, "whole"))
		needs := rapid.SliceOfN(rapid.Int64Range(0, 1000), 0, 8).Draw(t, "needs")
		for _, n := range needs {
			g.members = append(g.members, &member{group: g, flight: n})
		}
		level := g.level(self, whole)
		var others int64
		for _, n := range needs {
			others += min(n, level)
		}
		if others+level > whole {
			t.Fatalf("%d for oneself and %d for others of %d", level, others, whole)
		}
		others = 0
		for _, n := range needs {
			others += min(n, level+1)
		}
		if others+level+1 <= whole {
			t.Fatalf("%d, though there is more of %d for needs %v", level, whole, needs)
		}
	})
}
