package link

import (
	"math"
	"math/rand/v2"
	"time"
)

// line is the arithmetic of one direction: when a wire packet that is offered now leaves the queue, whether it is lost, when it arrives.
// It holds no packet and reads no clock; times are nanoseconds of any monotonic clock and must not go backwards.
type line struct {
	params     Params
	queueBytes int64 // queue limit in force
	queueNanos int64 // the same as serialisation time; the whole backlog is kept as time
	gap        int64

	freeAt    int64 // when the last admitted packet has been serialised
	freeRest  int64 // what freeAt is short of, in 1/rate nanoseconds: so the rate is exact over any number of packets
	lastDue   int64 // arrival of the last packet that kept its place
	bad       bool  // Gilbert state: packets are lost while it lasts
	enterBad  float64
	leaveBad  float64
	lossRand  *rand.Rand // one generator for each cause, so that turning one knob leaves the sequence of the others as it was
	delayRand *rand.Rand
	swapRand  *rand.Rand

	counters Counters
}

// fate is what becomes of a wire packet on the line.
type fate uint8

const (
	passed  fate = iota // arrives in its place
	held                // arrives Gap later than its place
	dropped             // counted by cause already
)

func newLine(seed uint64, d Direction) *line {
	l := &line{}
	l.reseed(seed, d)
	l.configure(Params{}, 0)
	return l
}

// reseed starts the random sequences anew: the same seed gives the same sequence for the same packets.
func (l *line) reseed(seed uint64, d Direction) {
	generator := func(cause uint64) *rand.Rand { return rand.New(rand.NewPCG(seed, uint64(d)<<8|cause)) }
	l.lossRand, l.delayRand, l.swapRand = generator(1), generator(2), generator(3)
	l.bad = false
}

// configure sets new properties; queueBytes is the limit in force. What is queued or under way keeps the time it was given.
func (l *line) configure(p Params, queueBytes int64) {
	if p.RateBitsPerSec != l.params.RateBitsPerSec {
		l.freeRest = 0
	}
	l.params, l.queueBytes, l.queueNanos = p, queueBytes, 0
	if p.RateBitsPerSec > 0 {
		l.queueNanos = int64(math.Ceil(float64(queueBytes) * 8e9 / float64(p.RateBitsPerSec)))
	}
	l.gap = int64(p.Gap)
	if p.Reorder > 0 && p.Gap == 0 {
		l.gap = int64(defaultGap)
	}
	// In the bad state every packet is lost. It is left with probability 1/burst, so runs have that mean; it is entered with the
	// probability that makes its share of all packets the loss.
	if p.Burst > 1 && p.Loss < 1 {
		l.leaveBad = 1 / p.Burst
		l.enterBad = p.Loss * l.leaveBad / (1 - p.Loss)
	} else {
		l.bad = false
	}
}

// offer decides about one wire packet of ipBytes that arrives at now. It returns when its last bit has left the queue.
func (l *line) offer(now int64, ipBytes int) (leaves int64, f fate) {
	p, c := &l.params, &l.counters
	c.OfferedPackets++
	c.OfferedBytes += uint64(ipBytes)
	if p.Down {
		c.CutDrops++
		return 0, dropped
	}
	if p.MTU > 0 && ipBytes > p.MTU {
		c.MTUDrops++
		return 0, dropped
	}
	if l.freeAt < now {
		l.freeAt, l.freeRest = now, 0
	}
	if p.RateBitsPerSec > 0 {
		work := int64(ipBytes+p.OverheadBytes)*8*int64(time.Second) + l.freeRest
		nanos := work / p.RateBitsPerSec
		backlog := l.freeAt - now + nanos
		if backlog > l.queueNanos {
			c.QueueDrops++
			return 0, dropped
		}
		l.freeAt += nanos
		l.freeRest = work % p.RateBitsPerSec
		c.maxBacklogNanos = max(c.maxBacklogNanos, backlog)
	}
	if l.lose() {
		c.LossDrops++
		return 0, dropped
	}
	if p.Reorder > 0 && l.swapRand.Float64() < p.Reorder {
		c.ReorderedPackets++
		return l.freeAt, held
	}
	return l.freeAt, passed
}

// arrival turns the time a piece left the queue into the time it is due at the other end.
func (l *line) arrival(leaves int64, f fate) int64 {
	due := leaves + int64(l.params.Delay)
	if l.params.Jitter > 0 {
		due += int64((l.delayRand.Float64()*2 - 1) * float64(l.params.Jitter))
	}
	if f == held {
		return max(due, l.lastDue) + l.gap
	}
	l.lastDue = max(due, l.lastDue)
	return l.lastDue
}

func (l *line) lose() bool {
	p := &l.params
	switch {
	case p.Loss <= 0:
		return false
	case p.Burst <= 1 || p.Loss >= 1:
		return l.lossRand.Float64() < p.Loss
	case l.bad:
		l.bad = l.lossRand.Float64() >= l.leaveBad
	default:
		l.bad = l.lossRand.Float64() < l.enterBad
	}
	return l.bad
}

// serialisation is how long n bytes keep the line busy.
func (l *line) serialisation(n int) time.Duration {
	if l.params.RateBitsPerSec == 0 {
		return 0
	}
	return time.Duration(float64(n) * 8e9 / float64(l.params.RateBitsPerSec))
}

// queuedBytes is what waits in the queue at now, overhead included.
func (l *line) queuedBytes(now int64) int64 { return l.nanosToBytes(l.freeAt - now) }

func (l *line) nanosToBytes(nanos int64) int64 {
	return int64(max(0, float64(nanos)) * float64(l.params.RateBitsPerSec) / 8e9)
}
