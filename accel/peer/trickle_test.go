package peer

import (
	"testing"
	"time"
)

// play sends writes, each at its time, as the pump does: it waits, then takes all that is there. It returns the frames' times and the longest that a
// byte waited.
func play(writes []time.Duration, rtt time.Duration, rawBytes int) (frames []time.Duration, longest time.Duration) {
	var t trickle
	start := time.Unix(1000, 0)
	for i := 0; i < len(writes); {
		now := writes[i]
		if n := len(frames); n > 0 {
			now = max(now, frames[n-1])
		}
		now += t.wait(start.Add(now), rtt)
		longest = max(longest, now-writes[i])
		for i < len(writes) && writes[i] <= now {
			i++
		}
		t.sent(start.Add(now), rawBytes, rtt)
		frames = append(frames, now)
	}
	return frames, longest
}

// every makes n writes, spaced evenly.
func every(d time.Duration, n int) []time.Duration {
	writes := make([]time.Duration, n)
	for i := range writes {
		writes[i] = time.Duration(i) * d
	}
	return writes
}

func TestTrickle(t *testing.T) {
	const rtt = 100 * time.Millisecond
	cases := []struct {
		name        string
		writes      []time.Duration
		rtt         time.Duration
		raw         int
		least, most int // frames
		longest     time.Duration
	}{
		{"a request for each round trip", every(rtt, 300), rtt, 100, 300, 300, 0},
		{"a burst", every(0, 1), rtt, 100, 1, 1, 0},
		{"as many as a burst may have", every(time.Microsecond, trickleBurst), rtt, 100, trickleBurst, trickleBurst, 0},
		{"a second of 1000 messages", every(time.Millisecond, 1000), rtt, 100, 125, 125 + trickleBurst + 2, trickleGap},
		{"a second of a log", every(4*time.Millisecond, 250), rtt, 4 << 10, 62, 62 + 2*trickleBurst + 2, 2 * trickleGap},
		{"bulk in pieces", every(time.Millisecond, 1000), rtt, 8 << 10, 970, 1000, 2 * trickleGap},
		{"frames that are full", every(time.Millisecond, 1000), rtt, trickleBytes, 1000, 1000, 0},
		{"a short link", every(time.Millisecond, 1000), time.Millisecond, 100, 1000, 1000, 0},
		{"a link without a known round trip", every(time.Millisecond, 1000), 0, 100, 1000, 1000, 0},
	}
	for _, tc := range cases {
		frames, longest := play(tc.writes, tc.rtt, tc.raw)
		if n := len(frames); n < tc.least || n > tc.most {
			t.Errorf("%s: %d frames, want %d to %d", tc.name, n, tc.least, tc.most)
		}
		if longest > tc.longest {
			t.Errorf("%s: a byte waited %v, want at most %v", tc.name, longest, tc.longest)
		}
	}
}

func TestTrickleForgets(t *testing.T) {
	writes := every(time.Millisecond, 500)
	for i := range trickleBurst { // a pause, then a burst: none of it waits
		writes = append(writes, time.Minute+time.Duration(i)*time.Microsecond)
	}
	frames, _ := play(writes, 100*time.Millisecond, 100)
	if tail := frames[len(frames)-trickleBurst:]; tail[0] != time.Minute || tail[trickleBurst-1] != writes[len(writes)-1] {
		t.Fatalf("the burst after a pause left from %v to %v", tail[0], tail[trickleBurst-1])
	}
}

func TestGap(t *testing.T) {
	for _, tc := range []struct{ rtt, want time.Duration }{{0, 0}, {12 * time.Millisecond, time.Millisecond}, {time.Second, trickleGap}} {
		if got := new(trickle).gap(tc.rtt); got != tc.want {
			t.Errorf("round trip %v: %v, want %v", tc.rtt, got, tc.want)
		}
	}
}
