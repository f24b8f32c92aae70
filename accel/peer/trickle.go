package peer

import "time"

// Many small frames in a row cost more than what is in them: headers, a seal and acknowledgements each. So a flow that keeps sending them is held
// to one for each gap, and what the application writes meanwhile goes together. Requests and answers, and bursts of them, never meet it: only who has
// sent trickleBurst small frames more than the gaps allow.
const (
	trickleBytes = 16 << 10 // a frame for less than this is small
	trickleBurst = 32       // small frames that leave at once after a pause
	// gapShare is the part of a round trip that a byte may wait at most, trickleGap its bound.
	gapShare   = 12
	trickleGap = 8 * time.Millisecond
	// A direction whose small frames have this many bytes moves bulk in pieces, a log for example: its gap is twice as long.
	pieceBytes = 2 << 10
	// A direction that moves fastBytes within fastTime is not held up, nor for as long afterwards: what a socket can hold meanwhile would bound it.
	fastBytes = 200 << 10
	fastTime  = 100 * time.Millisecond
)

// trickle spaces the small frames of one flow's direction. The zero value is a flow that has sent none.
type trickle struct {
	next time.Time // when a flow that spends no burst may send
	mean int       // bytes that its small frames stood for of late

	since    time.Time // when the present fastTime began
	moved    int       // bytes since then
	movedOld int       // in the one before
}

// gap is the distance of small frames on a link of that round trip.
func (t *trickle) gap(rtt time.Duration) time.Duration {
	gap := min(rtt/gapShare, trickleGap)
	if t.mean >= pieceBytes {
		gap *= 2
	}
	return gap
}

// wait is how long the next frame should wait; at most a gap.
func (t *trickle) wait(now time.Time, rtt time.Duration) time.Duration {
	if t.roll(now); max(t.moved, t.movedOld) >= fastBytes {
		return 0
	}
	gap := t.gap(rtt)
	return min(max(max(t.next.Sub(now), 0)-(trickleBurst-1)*gap, 0), gap)
}

// sent notes a frame that stands for rawBytes. One that is not small spends nothing: who moves bulk fills his frames without waiting.
func (t *trickle) sent(now time.Time, rawBytes int, rtt time.Duration) {
	t.roll(now)
	t.moved += rawBytes
	if rawBytes >= trickleBytes {
		return
	}
	t.mean += (rawBytes - t.mean) / 8
	if t.next.Before(now) {
		t.next = now
	}
	t.next = t.next.Add(t.gap(rtt))
}

// roll begins a new fastTime when the present one is over.
func (t *trickle) roll(now time.Time) {
	switch past := now.Sub(t.since); {
	case past >= 2*fastTime:
		t.since, t.moved, t.movedOld = now, 0, 0
	case past >= fastTime:
		t.since, t.moved, t.movedOld = now, 0, t.moved
	}
}
