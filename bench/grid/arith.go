package grid

import (
	"math"
	"slices"
	"time"
)

// sample is what all flows together and each of them had received at a time.
type sample struct {
	at    time.Duration // since the flows began
	total int64
	flows []int64
	// queued are the bytes that waited in the link's queue towards the client; -1 where that was not asked.
	queued int64
}

// received is how many bytes had arrived at a time, interpolated between the samples around it. Before the first sample there was nothing;
// after the last one it is what the last one says. pick takes the count from a sample.
func received(samples []sample, at time.Duration, pick func(sample) int64) float64 {
	i, found := slices.BinarySearchFunc(samples, at, func(s sample, at time.Duration) int { return int(s.at - at) })
	switch {
	case len(samples) == 0:
		return 0
	case found:
		return float64(pick(samples[i]))
	case i == len(samples):
		return float64(pick(samples[i-1]))
	}
	var before sample
	from := 0.0
	if i > 0 {
		before = samples[i-1]
		from = float64(pick(before))
	}
	share := float64(at-before.at) / float64(samples[i].at-before.at)
	return from + share*(float64(pick(samples[i]))-from)
}

func total(s sample) int64 { return s.total }

func ofFlow(i int) func(sample) int64 { return func(s sample) int64 { return s.flows[i] } }

// rate is bit/s between two times.
func rate(samples []sample, from, to time.Duration, pick func(sample) int64) float64 {
	if to <= from {
		return 0
	}
	return (received(samples, to, pick) - received(samples, from, pick)) * 8 / (to - from).Seconds()
}

// secondHalf is bit/s in the second half of a run: slow start hides in a mean.
func secondHalf(samples []sample, run time.Duration, pick func(sample) int64) float64 {
	return rate(samples, run/2, run, pick)
}

// Of what counts as having reached the full rate: the share of the second half's rate, and the time over which it is looked at.
const (
	fullShare  = 0.9
	fullWindow = 300 * time.Millisecond
	fullStep   = 10 * time.Millisecond
)

// coldTime is how long after the start the flows ran at full rate for the first time: the beginning of the first window that carried it.
// It is negative when none did.
func coldTime(samples []sample, run time.Duration) time.Duration {
	want := fullShare * secondHalf(samples, run, total)
	for from := time.Duration(0); from+fullWindow <= run && want > 0; from += fullStep {
		if rate(samples, from, from+fullWindow, total) >= want {
			return from
		}
	}
	return -1
}

// longestGap is the longest time in [from, to] in which nothing arrived, as far as the samples tell.
func longestGap(samples []sample, from, to time.Duration) time.Duration {
	var longest time.Duration
	last := from
	count := int64(-1)
	for _, s := range samples {
		if s.at < from || s.at > to {
			continue
		}
		if s.total != count {
			count, last = s.total, s.at
		}
		longest = max(longest, s.at-last)
	}
	return longest
}

// jain is Jain's index of fairness: 1 when all are equal, 1/n when one has everything.
func jain(values []float64) float64 {
	var sum, squares float64
	for _, v := range values {
		sum += v
		squares += v * v
	}
	if squares == 0 {
		return 0
	}
	return sum * sum / (float64(len(values)) * squares)
}

// percentile is the value by nearest rank; it sorts its argument.
func percentile(durations []time.Duration, share float64) time.Duration {
	if len(durations) == 0 {
		return 0
	}
	slices.Sort(durations)
	rank := int(math.Ceil(share * float64(len(durations))))
	return durations[min(len(durations), max(1, rank))-1]
}

// Header bytes of a full packet that are not the user's. TCP: IPv4 20, TCP 20, timestamps 12. The tunnel: IPv4 20, UDP 8, QUIC's short
// header about 8, its tag 16, STREAM frame header about 8.
const (
	tcpHeaders    = 52
	tunnelHeaders = 60
)

// resentShare estimates the share of the user's bytes that was sent more than once, from what entered the link and what arrived in the
// same time: packets without their headers are taken to be the user's bytes.
func resentShare(packets, bytes, goodput float64, headers int) float64 {
	payload := bytes - packets*float64(headers)
	if payload <= 0 || goodput <= 0 {
		return 0
	}
	return payload/goodput - 1
}
