package link

import (
	"errors"
	"fmt"
	"math"
	"time"
)

// ErrInexact is wrapped by what Stats.Check returns.
var ErrInexact = errors.New("the link was not exact")

// Counters are what a direction counts since the last reset. Packets are wire packets; bytes are those of their IP packets.
// Offered = Delivered + the six kinds of drops + errors on the way out + those under way.
type Counters struct {
	OfferedPackets   uint64 `json:"offered_packets"`
	OfferedBytes     uint64 `json:"offered_bytes"`
	DeliveredPackets uint64 `json:"delivered_packets"`
	DeliveredBytes   uint64 `json:"delivered_bytes"`
	LossDrops        uint64 `json:"loss_drops"`   // by Params.Loss
	QueueDrops       uint64 `json:"queue_drops"`  // the queue was full
	MTUDrops         uint64 `json:"mtu_drops"`    // longer than Params.MTU
	CutDrops         uint64 `json:"cut_drops"`    // by Params.Down
	MemoryDrops      uint64 `json:"memory_drops"` // the emulator's memory was full: the measurement is void
	ErrorDrops       uint64 `json:"error_drops"`  // the device refused them
	ReorderedPackets uint64 `json:"reordered_packets"`
	Errors           uint64 `json:"errors"` // reads and writes that failed, packets that were not understood

	LateOver1ms uint64 `json:"late_over_1ms"` // deliveries and wake-ups more than 1 ms late

	lateMax         int64
	stalledNanos    int64
	maxBacklogNanos int64
	underWay        uint64
}

func (c *Counters) late(nanos int64) {
	c.lateMax = max(c.lateMax, nanos)
	if nanos > int64(time.Millisecond) {
		c.LateOver1ms++
	}
}

// stall counts that the link stood still, once however many packets it was late for.
func (c *Counters) stall(nanos int64) {
	if nanos > int64(time.Millisecond) {
		c.stalledNanos += nanos
	}
}

// reset forgets everything but what is under way.
func (c *Counters) reset() { *c = Counters{underWay: c.underWay} }

// DirectionStats is what one direction did since the last reset.
type DirectionStats struct {
	Params          string `json:"params"` // as Parse reads them
	QueueLimitBytes int64  `json:"queue_limit_bytes"`
	Counters
	UnderWayPackets        uint64  `json:"under_way_packets"` // queued or propagating now
	QueuedBytes            int64   `json:"queued_bytes"`      // waiting now
	MaxQueuedBytes         int64   `json:"max_queued_bytes"`  // the most that waited, overhead included
	LateMaxSeconds         float64 `json:"late_max_seconds"`  // the latest delivery or wake-up
	StalledSeconds         float64 `json:"stalled_seconds"`   // all the time in which the emulator stood still for more than 1 ms
	DeliveredBitsPerSecond float64 `json:"delivered_bits_per_second"`
}

// Stats is what a link did since the last reset (or since it started).
type Stats struct {
	Seconds  float64        `json:"seconds"`  // since the reset
	Seed     uint64         `json:"seed"`     // of the random sequences
	Realtime bool           `json:"realtime"` // both threads run under SCHED_FIFO
	AtoB     DirectionStats `json:"a2b"`
	BtoA     DirectionStats `json:"b2a"`
}

// Direction returns one of the two.
func (s *Stats) Direction(d Direction) *DirectionStats {
	if d == BtoA {
		return &s.BtoA
	}
	return &s.AtoB
}

// CheckStalls says why a long measurement is to be thrown away: the link stood still for more than that share of its time, its memory was
// full, or it met errors. Over minutes a machine shared with others stops the best emulator now and then; a share of 0.001 moves a
// throughput by as much and no more, where Check would refuse every run.
func (s *Stats) CheckStalls(share float64) error {
	for _, d := range []Direction{AtoB, BtoA} {
		if one := s.Direction(d); one.StalledSeconds > share*s.Seconds {
			return fmt.Errorf("%w: %v stood still for %.3f of %.1f s", ErrInexact, d, one.StalledSeconds, s.Seconds)
		}
	}
	return s.Check(math.MaxInt64)
}

// Check says why a measurement made since the last reset is to be thrown away: the link was later than the limit, its memory was full, or
// it met errors. It returns nil for an honest link; else an error that wraps ErrInexact.
func (s *Stats) Check(limit time.Duration) error {
	for _, d := range []Direction{AtoB, BtoA} {
		one := s.Direction(d)
		switch {
		case one.LateMaxSeconds > limit.Seconds():
			return fmt.Errorf("%w: %v was %.1f ms late (limit %v, %d times over 1 ms)", ErrInexact, d, one.LateMaxSeconds*1e3, limit, one.LateOver1ms)
		case one.MemoryDrops > 0:
			return fmt.Errorf("%w: %v dropped %d packets because the emulator's memory was full", ErrInexact, d, one.MemoryDrops)
		case one.Errors > 0:
			return fmt.Errorf("%w: %v met %d errors", ErrInexact, d, one.Errors)
		}
	}
	return nil
}
