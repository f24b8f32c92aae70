package grid

import (
	"errors"
	"math"
	"strings"
	"testing"
	"time"

	"pgregory.net/rapid"
)

// steady makes samples of one flow that runs at a rate of bytes per second from a time on, every 20 ms for 10 s.
func steady(bytesPerSecond float64, from time.Duration) []sample {
	var samples []sample
	for at := time.Duration(0); at <= 10*time.Second; at += 20 * time.Millisecond {
		n := int64(max(0, (at-from).Seconds()) * bytesPerSecond)
		samples = append(samples, sample{at: at, total: n, flows: []int64{n}, queued: -1})
	}
	return samples
}

func near(t *testing.T, name string, got, want, tolerance float64) {
	t.Helper()
	if math.Abs(got-want) > tolerance {
		t.Errorf("%s is %g, want %g", name, got, want)
	}
}

func TestRates(t *testing.T) {
	const run = 10 * time.Second
	samples := steady(1e6, 2*time.Second)
	near(t, "mean", rate(samples, 0, run, total), 6.4e6, 1)
	near(t, "second half", secondHalf(samples, run, total), 8e6, 1)
	near(t, "second half of the flow", secondHalf(samples, run, ofFlow(0)), 8e6, 1)
	near(t, "between two samples", received(samples, 3010*time.Millisecond, total), 1.01e6, 1)
	near(t, "after the last one", received(samples, time.Minute, total), 8e6, 1)
	near(t, "of nothing", received(nil, time.Second, total), 0, 0)
	near(t, "of no time", rate(samples, run, run, total), 0, 0)
	near(t, "before the first one", received([]sample{{at: time.Second, total: 100}}, time.Second/2, total), 50, 1e-9)
}

func TestColdTime(t *testing.T) {
	const run = 10 * time.Second
	// The window of 300 ms that carries 90 % begins 30 ms before the flow does.
	if got := coldTime(steady(1e6, 2*time.Second), run); got < 1960*time.Millisecond || got > 1980*time.Millisecond {
		t.Errorf("full rate from 2 s on: %v", got)
	}
	if got := coldTime(steady(1e6, 0), run); got != 0 {
		t.Errorf("full rate at once: %v", got)
	}
	if got := coldTime(steady(1e6, time.Hour), run); got >= 0 {
		t.Errorf("nothing ever came: %v", got)
	}
}

func TestLongestGap(t *testing.T) {
	samples := steady(1e6, 0)
	for i := range samples { // nothing between 6 and 7.5 s
		if samples[i].at > 6*time.Second && samples[i].at < 7500*time.Millisecond {
			samples[i].total = 6e6
		}
	}
	near(t, "gap", longestGap(samples, 5*time.Second, 10*time.Second).Seconds(), 1.48, 1e-9)
	near(t, "gap before", longestGap(samples, 0, 5*time.Second).Seconds(), 0, 1e-9)
	near(t, "gap of nothing", longestGap(steady(0, 0), 5*time.Second, 10*time.Second).Seconds(), 5, 1e-9)
}

func TestJain(t *testing.T) {
	for _, c := range []struct {
		values []float64
		want   float64
	}{{[]float64{5, 5, 5}, 1}, {[]float64{9, 0, 0}, 1.0 / 3}, {[]float64{1, 2}, 0.9}, {nil, 0}, {[]float64{0, 0}, 0}} {
		near(t, "index", jain(c.values), c.want, 1e-12)
	}
	rapid.Check(t, func(t *rapid.T) {
		values := rapid.SliceOfN(rapid.Float64Range(0.001, 1e9), 1, 50).Draw(t, "values")
		if j := jain(values); j < 1/float64(len(values))-1e-9 || j > 1+1e-9 {
			t.Fatalf("index %g of %d values", j, len(values))
		}
	})
}

func TestPercentile(t *testing.T) {
	var took []time.Duration
	for i := 20; i >= 1; i-- {
		took = append(took, time.Duration(i)*time.Millisecond)
	}
	got := timesOf(took)
	if want := (Times{Count: 20, MedianMillis: 10, P95Millis: 19, MaxMillis: 20}); *got != want {
		t.Errorf("got %+v, want %+v", *got, want)
	}
	if timesOf(nil) != nil || percentile(nil, 0.5) != 0 {
		t.Error("percentiles of nothing")
	}
	if percentile([]time.Duration{7}, 0) != 7 || percentile([]time.Duration{7}, 1) != 7 {
		t.Error("percentiles of one")
	}
}

func TestResentShare(t *testing.T) {
	// 1000 packets of 1500 bytes with 52 of headers, 10 of them sent twice.
	near(t, "share", resentShare(1010, 1010*1500, 1000*1448, tcpHeaders), 0.01, 1e-9)
	near(t, "nothing", resentShare(0, 0, 0, tcpHeaders), 0, 0)
	near(t, "headers only", resentShare(10, 520, 1, tcpHeaders), 0, 0)
}

func TestQueueMean(t *testing.T) {
	samples := []sample{{at: 1, queued: 100}, {at: 2, queued: -1}, {at: 3, queued: 300}, {at: 9, queued: 1000}}
	near(t, "queue", queue(samples, 1, 3), 200, 0)
	near(t, "queue never looked at", queue(samples, 4, 5), 0, 0)
}

func TestStream(t *testing.T) {
	a, b, other := newStream(1), newStream(1), newStream(2)
	first := append([]byte(nil), a.next()...)
	if string(first) == string(other.next()) {
		t.Error("two streams are alike")
	}
	second := append([]byte(nil), a.next()...)
	all := append(first, second...)
	for len(all) > 0 { // in other pieces than it was made in
		n := min(len(all), 10_007)
		if err := b.check(all[:n]); err != nil {
			t.Fatal(err)
		}
		all = all[n:]
	}
	wrong := append([]byte(nil), a.next()...)
	wrong[1234] ^= 1
	if err := b.check(wrong); !errors.Is(err, ErrDiffers) || !strings.Contains(err.Error(), "at 525522") {
		t.Errorf("a wrong byte gave %v", err)
	}
}

func TestParseDrops(t *testing.T) {
	const snmp = "Ip: Forwarding\nIp: 1\nUdp: InDatagrams NoPorts InErrors OutDatagrams RcvbufErrors SndbufErrors InCsumErrors\nUdp: 10 0 7 20 7 2 0\nUdpLite: x\n"
	const dev = "Inter-| Receive | Transmit\n face |bytes\n    lo: 1 2 3 4 5 6 7 8 9 10 11 12 13 14 15 16\n  wan0: 1 2 3 4 5 6 7 8 9 10 11 44 13 14 15 16\n"
	got, err := parseDrops(snmp, dev, "wan0")
	if want := (Drops{Socket: 7, Send: 2, Device: 44}); err != nil || got != want {
		t.Errorf("got %+v, %v, want %+v", got, err, want)
	}
	for _, c := range [][2]string{{"", dev}, {"Udp: a\nUdp: 1\n", dev}, {snmp, ""}, {"Udp: RcvbufErrors SndbufErrors\nUdp: x y\n", dev}} {
		if _, err := parseDrops(c[0], c[1], "wan0"); err == nil {
			t.Errorf("no error for %q", c)
		}
	}
}

func TestSeries(t *testing.T) {
	got := series(steady(1e6, time.Second), 2*time.Second, total)
	if len(got) != 8 || got[0] != (Rate{Seconds: 0.25}) || got[7].Seconds != 2 {
		t.Fatalf("series %v", got)
	}
	near(t, "last rate", got[7].Bits, 8e6, 1)
}

// TestReceivedGrows checks that what had arrived never shrinks over time and ends at the last count.
func TestReceivedGrows(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		var samples []sample
		var last sample
		for range rapid.IntRange(1, 30).Draw(t, "samples") {
			last.at += time.Duration(rapid.Int64Range(1, 1e9).Draw(t, "pause"))
			last.total += rapid.Int64Range(0, 1e9).Draw(t, "bytes")
			samples = append(samples, last)
		}
		before := 0.0
		for at := time.Duration(0); at <= last.at; at += max(1, last.at/97) {
			now := received(samples, at, total)
			if now < before-1e-6 || now > float64(last.total) {
				t.Fatalf("%g bytes at %v, %g before, %d in the end", now, at, before, last.total)
			}
			before = now
		}
		if got := received(samples, last.at, total); got != float64(last.total) {
			t.Fatalf("%g bytes in the end, want %d", got, last.total)
		}
	})
}
