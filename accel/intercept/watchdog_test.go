package intercept

import (
	"testing"
	"time"

	"pgregory.net/rapid"
)

func TestWatchdogObserve(t *testing.T) {
	type look struct {
		at                 time.Duration
		diverted, accepted uint64
		trip               bool
	}
	for _, tt := range []struct {
		name  string
		looks []look
	}{
		{"idle", []look{{0, 0, 0, false}, {time.Hour, 0, 0, false}}},
		{"busy", []look{{0, 1, 0, false}, {500 * time.Millisecond, 5, 1, false}, {time.Second, 9, 5, false}, {2 * time.Second, 10, 9, false}, {9 * time.Second, 10, 10, false}}},
		{"black hole", []look{{0, 1, 0, false}, {500 * time.Millisecond, 1, 0, false}, {time.Second, 1, 0, true}, {1500 * time.Millisecond, 1, 0, false}}},
		{"black hole goes on", []look{{0, 1, 0, false}, {time.Second, 2, 0, true}, {2 * time.Second, 3, 0, false}, {3 * time.Second, 4, 0, true}}},
		{"late accept", []look{{0, 1, 0, false}, {900 * time.Millisecond, 1, 1, false}, {3 * time.Second, 1, 1, false}}},
	} {
		var w watchdog
		start := time.Now()
		for _, l := range tt.looks {
			if got := w.observe(start.Add(l.at), l.diverted, l.accepted); got != l.trip {
				t.Errorf("%s at %v: got %v, want %v", tt.name, l.at, got, l.trip)
			}
		}
	}
}

// However often it looks and whatever is accepted, it trips only when nothing was accepted for its patience, and always within
// patience and two looks of a SYN that nobody follows.
func TestWatchdogProperty(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		var w watchdog
		now, lastAccept := time.Now(), time.Time{}
		var diverted, accepted uint64
		var waiting time.Time
		for range rapid.IntRange(1, 50).Draw(t, "looks") {
			step := time.Duration(rapid.IntRange(1, 700).Draw(t, "ms")) * time.Millisecond
			now = now.Add(step)
			if n := rapid.IntRange(0, 2).Draw(t, "diverted"); n > 0 {
				diverted += uint64(n)
				if waiting.IsZero() {
					waiting = now
				}
			}
			if rapid.IntRange(0, 5).Draw(t, "accept") == 0 && accepted < diverted {
				accepted++
				lastAccept, waiting = now, time.Time{}
			}
			trip := w.observe(now, diverted, accepted)
			if trip && now.Sub(lastAccept) < patience {
				t.Fatal("tripped although a connection was accepted a moment ago")
			}
			if !trip && !waiting.IsZero() && now.Sub(waiting) > patience+1400*time.Millisecond {
				t.Fatal("did not trip")
			}
			if trip {
				waiting = time.Time{}
			}
		}
	})
}

func TestWatchdogHolds(t *testing.T) {
	var w watchdog
	w.observe(time.Now(), 5, 5)
	want := []time.Duration{0, time.Second, 2 * time.Second, 4 * time.Second, 8 * time.Second, 16 * time.Second, 32 * time.Second, time.Minute, time.Minute}
	for n, d := range want {
		if got := w.suspendFor(); got != d {
			t.Errorf("trip %d: got %v, want %v", n, got, d)
		}
	}
	w.observe(time.Now(), 6, 6)
	if got := w.suspendFor(); got != 0 {
		t.Errorf("after an accept: got %v, want none", got)
	}
}
