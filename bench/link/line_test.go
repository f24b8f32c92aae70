package link

import (
	"math"
	"math/big"
	"testing"
	"time"

	"pgregory.net/rapid"
)

// lineWith returns a line in force with words for both directions.
func lineWith(t rapid.TB, words ...string) *line {
	t.Helper()
	pair, err := Parse(Pair{}, words...)
	if err != nil {
		t.Fatal(err)
	}
	l := newLine(1, AtoB)
	l.configure(pair.AtoB, pair.QueueBytes(AtoB))
	return l
}

func TestPacketsLeaveAtTheRate(t *testing.T) {
	l := lineWith(t, "rate=12mbit", "delay=10ms")
	// 1500 bytes at 12 Mbit/s take 1 ms; the first one goes out at once, the others behind it.
	for i := range 3 {
		leaves, f := l.offer(0, 1500)
		if want := int64(i+1) * int64(time.Millisecond); leaves != want || f != passed {
			t.Errorf("packet %d leaves at %d (%v), want %d", i, leaves, f, want)
		}
		if due, want := l.arrival(leaves, f), leaves+int64(10*time.Millisecond); due != want {
			t.Errorf("packet %d is due at %d, want %d", i, due, want)
		}
	}
	if got := l.queuedBytes(int64(time.Millisecond)); got != 3000 {
		t.Errorf("%d bytes are queued after 1 ms, want 3000", got)
	}
	// After a pause the line is idle: no credit is saved up.
	now := int64(time.Second)
	if leaves, _ := l.offer(now, 1500); leaves != now+int64(time.Millisecond) {
		t.Errorf("after a pause the packet leaves %d ns later, want 1 ms", leaves-now)
	}
}

func TestUnlimitedLineHasNoQueue(t *testing.T) {
	l := lineWith(t, "delay=1ms")
	for range 100_000 {
		if leaves, f := l.offer(7, 65535); leaves != 7 || f != passed {
			t.Fatalf("packet leaves at %d (%v), want at once", leaves, f)
		}
	}
}

func TestRateIsExactOverManyPackets(t *testing.T) {
	// Serialisation times that are no whole nanoseconds must not add up to an error.
	for _, rate := range []int64{7777, 999_999_937, 3_000_000_000, 700_000_000_001} {
		l := newLine(1, AtoB)
		l.configure(Params{RateBitsPerSec: rate, OverheadBytes: 38}, maxQueueBytes)
		const packets, size = 10_000, 1461
		var leaves int64
		for range packets {
			leaves, _ = l.offer(0, size)
		}
		want := new(big.Int).Div(new(big.Int).Mul(big.NewInt(packets*(size+38)*8), big.NewInt(1e9)), big.NewInt(rate)).Int64()
		if leaves != want {
			t.Errorf("%d bit/s: %d packets take %d ns, want %d", rate, packets, leaves, want)
		}
	}
}

// TestQueueAgainstModel compares with a queue that is a list of packets.
func TestQueueAgainstModel(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		const rate = 8_000_000 // a byte per microsecond
		limit := rapid.Int64Range(minQueueBytes, 20_000).Draw(t, "queue")
		overhead := rapid.IntRange(0, 50).Draw(t, "overhead")
		l := newLine(1, AtoB)
		l.configure(Params{RateBitsPerSec: rate, OverheadBytes: overhead}, limit)
		type packet struct{ leaves, bytes int64 }
		var queue []packet
		var now, free int64
		for range rapid.IntRange(1, 60).Draw(t, "packets") {
			now += rapid.Int64Range(0, 3000).Draw(t, "pause µs") * 1000
			size := rapid.IntRange(20, 1500).Draw(t, "size")
			wire := int64(size + overhead)
			var waiting int64 // bits of the packet under way that are still here count
			for _, p := range queue {
				waiting += min(p.bytes, max(0, (p.leaves-now)/1000))
			}
			leaves, f := l.offer(now, size)
			if fits := waiting+wire <= limit; fits != (f == passed) {
				t.Fatalf("at %d: %d bytes wait of %d, packet of %d: %v", now, waiting, limit, wire, f)
			}
			if f == passed {
				free = max(free, now) + wire*1000
				queue = append(queue, packet{free, wire})
				if leaves != free {
					t.Fatalf("leaves at %d, want %d", leaves, free)
				}
			}
		}
		c := l.counters
		if c.OfferedPackets != uint64(len(queue))+c.QueueDrops {
			t.Fatalf("%d offered, %d passed, %d dropped", c.OfferedPackets, len(queue), c.QueueDrops)
		}
		if l.nanosToBytes(c.maxBacklogNanos) > limit {
			t.Fatalf("the queue held %d bytes of %d", l.nanosToBytes(c.maxBacklogNanos), limit)
		}
	})
}

// losses offers packets and returns how many were lost, and in how many runs.
func losses(l *line, packets int) (lost, runs int) {
	before := false
	for range packets {
		_, f := l.offer(0, 1500)
		if f == dropped {
			lost++
			if !before {
				runs++
			}
		}
		before = f == dropped
	}
	return lost, runs
}

func TestLossHasItsShareAndBurst(t *testing.T) {
	const packets = 2_000_000
	for _, c := range []struct {
		loss, burst float64
	}{{0.001, 0}, {0.01, 1}, {0.03, 0}, {0.3, 0}, {0.01, 4}, {0.001, 10}, {0.2, 4}, {0.5, 1.5}} {
		l := newLine(1, AtoB)
		l.configure(Params{Loss: c.loss, Burst: c.burst}, 0)
		lost, runs := losses(l, packets)
		share, mean := float64(lost)/packets, float64(lost)/float64(runs)
		wantMean := c.burst
		if c.burst <= 1 {
			wantMean = 1 / (1 - c.loss) // runs of independent losses are geometric
		}
		// Four standard deviations: of a count of independent runs, whose lengths scatter too.
		tolerance := 4 * math.Sqrt(2*wantMean/(c.loss*packets))
		if math.Abs(share/c.loss-1) > tolerance {
			t.Errorf("loss %v burst %v: lost %v, off by more than %.1f %%", c.loss, c.burst, share, tolerance*100)
		}
		if math.Abs(mean/wantMean-1) > tolerance {
			t.Errorf("loss %v burst %v: mean run of %v packets, want %v", c.loss, c.burst, mean, wantMean)
		}
	}
}

func TestLossOfEverythingAndOfNothing(t *testing.T) {
	for _, c := range []struct {
		words string
		lost  int
	}{{"loss=0", 0}, {"loss=100%", 1000}, {"burst=5", 0}, {"loss=100% burst=1", 1000}} {
		l := newLine(1, AtoB)
		pair, err := Parse(Pair{}, splitWords(c.words)...)
		if err != nil {
			t.Fatal(err)
		}
		l.configure(pair.AtoB, 0)
		if lost, _ := losses(l, 1000); lost != c.lost {
			t.Errorf("%q: %d of 1000 lost, want %d", c.words, lost, c.lost)
		}
	}
}

func TestSeedRepeatsTheFates(t *testing.T) {
	fates := func(l *line) (all []fate) {
		for range 10_000 {
			_, f := l.offer(0, 100)
			all = append(all, f)
		}
		return all
	}
	same := func(a, b []fate) bool {
		for i := range a {
			if a[i] != b[i] {
				return false
			}
		}
		return true
	}
	lossy := Params{Loss: 0.05, Burst: 3, Reorder: 0.05}
	l := newLine(7, AtoB)
	l.configure(lossy, 0)
	first := fates(l)
	if same(first, fates(l)) {
		t.Error("the sequence repeats itself")
	}
	l.reseed(7, AtoB)
	if !same(first, fates(l)) {
		t.Error("the same seed gave another sequence")
	}
	l.reseed(7, BtoA)
	if same(first, fates(l)) {
		t.Error("both directions share a sequence")
	}
	l.reseed(7, AtoB)
	jittery := lossy
	jittery.Delay, jittery.Jitter = time.Second, time.Second
	l.configure(jittery, 0)
	var withJitter []fate
	for range 10_000 {
		leaves, f := l.offer(0, 100)
		l.arrival(leaves, f)
		withJitter = append(withJitter, f)
	}
	if !same(first, withJitter) {
		t.Error("jitter changed which packets are lost")
	}
}

func TestJitterKeepsOrderAndBounds(t *testing.T) {
	const delay, jitter = int64(20 * time.Millisecond), int64(5 * time.Millisecond)
	l := newLine(1, AtoB)
	l.configure(Params{Delay: time.Duration(delay), Jitter: time.Duration(jitter)}, 0)
	var last, least, most int64 = 0, math.MaxInt64, 0
	for i := range int64(10_000) {
		now := i * 1_000_000_000 // far apart: order does not bind
		leaves, f := l.offer(now, 100)
		due := l.arrival(leaves, f)
		least, most = min(least, due-now), max(most, due-now)
	}
	if least < delay-jitter || most > delay+jitter || least > delay-jitter*9/10 || most < delay+jitter*9/10 {
		t.Errorf("delays of %v to %v, want all of %v to %v", time.Duration(least), time.Duration(most), time.Duration(delay-jitter), time.Duration(delay+jitter))
	}
	start := int64(10_001) * 1_000_000_000
	for i := range int64(10_000) {
		leaves, f := l.offer(start+i*1000, 100)
		due := l.arrival(leaves, f)
		if due < last {
			t.Fatalf("packet %d is due at %d, before the one before it at %d", i, due, last)
		}
		last = due
	}
}

func TestHeldPacketsAreOvertaken(t *testing.T) {
	l := lineWith(t, "delay=10ms", "reorder=10%", "gap=2ms")
	const packets = 10_000
	var heldCount int
	var lastInPlace int64
	for i := range int64(packets) {
		now := i * 100_000
		leaves, f := l.offer(now, 100)
		due := l.arrival(leaves, f)
		switch f {
		case held:
			heldCount++
			if want := now + int64(12*time.Millisecond); due != want {
				t.Fatalf("held packet is due at %d, want %d", due, want)
			}
		case passed:
			if want := now + int64(10*time.Millisecond); due != want || due < lastInPlace {
				t.Fatalf("packet is due at %d, want %d", due, want)
			}
			lastInPlace = due
		case dropped:
			t.Fatal("dropped")
		}
	}
	if heldCount < packets/12 || heldCount > packets/8 || uint64(heldCount) != l.counters.ReorderedPackets {
		t.Errorf("%d of %d packets were held (counted %d), want about a tenth", heldCount, packets, l.counters.ReorderedPackets)
	}
	if l := lineWith(t, "reorder=1%"); l.gap != int64(defaultGap) {
		t.Errorf("the gap is %d, want the default", l.gap)
	}
}

func TestCutAndPathMTU(t *testing.T) {
	l := lineWith(t, "mtu=1400", "rate=1mbit")
	for _, c := range []struct {
		bytes int
		want  fate
	}{{1400, passed}, {1401, dropped}, {40, passed}} {
		if _, f := l.offer(0, c.bytes); f != c.want {
			t.Errorf("%d bytes: %v, want %v", c.bytes, f, c.want)
		}
	}
	queued := l.freeAt
	p := l.params
	p.Down = true
	l.configure(p, l.queueBytes)
	if _, f := l.offer(0, 100); f != dropped {
		t.Error("a packet passed a cut line")
	}
	if l.freeAt != queued {
		t.Error("what did not get in took a share of the rate")
	}
	if c := l.counters; c.MTUDrops != 1 || c.CutDrops != 1 || c.OfferedPackets != 4 {
		t.Errorf("counted %+v", c)
	}
}

func TestNewRateKeepsWhatIsQueued(t *testing.T) {
	l := lineWith(t, "rate=12mbit")
	first, _ := l.offer(0, 1500)
	p := l.params
	p.RateBitsPerSec = 120e6
	l.configure(p, 64<<10)
	second, _ := l.offer(0, 1500)
	if first != int64(time.Millisecond) || second != first+int64(100*time.Microsecond) {
		t.Errorf("packets leave at %d and %d, want 1 ms and 1.1 ms", first, second)
	}
}
