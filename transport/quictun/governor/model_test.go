package governor

import (
	"testing"
	"time"

	"pgregory.net/rapid"
)

// TestMaxFilter compares the filter with a list of all samples.
func TestMaxFilter(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		var f maxFilter
		best := make(map[int64]float64)
		var order []int64 // rounds with a sample, in order
		var round int64
		for range rapid.IntRange(1, 100).Draw(t, "samples") {
			if n := int64(rapid.IntRange(0, 3).Draw(t, "rounds on")); n > 0 {
				round += n
			}
			v := rapid.Float64Range(0, 100).Draw(t, "value")
			f.add(round, v)
			if len(order) == 0 || order[len(order)-1] != round {
				order = append(order, round)
			}
			best[round] = max(best[round], v)
			want := 0.0
			for _, r := range order[max(0, len(order)-bandwidthRounds):] {
				want = max(want, best[r])
			}
			if f.get() != want {
				t.Fatalf("largest %v, want %v", f.get(), want)
			}
		}
	})
}

func TestMinFilter(t *testing.T) {
	f := minFilter{bucket: time.Second}
	f.add(0, 30*time.Millisecond)
	for s := range 3 {
		f.add(time.Duration(s)*time.Second+time.Millisecond, 50*time.Millisecond)
		if f.get() != 30*time.Millisecond {
			t.Fatalf("forgot after %d s: %v", s, f.get())
		}
	}
	for s := 3; s < 8; s++ {
		f.add(time.Duration(s)*time.Second+time.Millisecond, 50*time.Millisecond)
	}
	if f.get() != 50*time.Millisecond {
		t.Fatalf("remembers for ever: %v", f.get())
	}
}

// TestModelIsSane: whatever a connection says, the window stays within bounds
// and nothing panics.
func TestModelIsSane(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		const packet = 1400
		m := NewModel(32*packet, packet, 1)
		var now time.Duration
		var inFlight, lost int64
		m.Begin(Sample{})
		for range rapid.IntRange(1, 400).Draw(t, "events") {
			now += time.Duration(rapid.IntRange(0, 50_000_000).Draw(t, "step"))
			if rapid.Bool().Draw(t, "send") {
				inFlight += int64(rapid.IntRange(1, 60*packet).Draw(t, "bytes"))
				m.Sent(Sample{Now: now, InFlight: inFlight, Packet: packet})
				continue
			}
			gone := int64(rapid.IntRange(0, int(inFlight)).Draw(t, "gone"))
			dropped := int64(rapid.IntRange(-3*packet, int(gone)).Draw(t, "lost")) // quic-go takes losses back
			inFlight -= gone
			lost = max(lost+dropped, 0)
			w := m.Acked(Sample{Now: now, InFlight: inFlight, Lost: lost, Packet: packet,
				RTT: time.Duration(rapid.IntRange(0, 2_000_000_000).Draw(t, "rtt"))})
			if w < minWindow*packet && w < 32*packet || w > 1<<40 {
				t.Fatalf("window of %d bytes", w)
			}
			if m.Bandwidth() < 0 || m.MinRTT() < 0 {
				t.Fatalf("bandwidth %v, round trip %v", m.Bandwidth(), m.MinRTT())
			}
		}
	})
}
