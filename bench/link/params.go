package link

import (
	"errors"
	"fmt"
	"math"
	"strconv"
	"time"
)

// Limits of the parameters. They keep the arithmetic far from overflow and catch slips of a unit; none is a property of real links.
const (
	maxDelay      = 60 * time.Second
	minRate       = 1_000                // bit/s: a wire packet then takes 12 s
	maxRate       = 1_000_000_000_000    // bit/s
	minQueueBytes = 2 << 10              // one wire packet of 1500 bytes and its overhead
	maxQueueBytes = 16 << 30             //
	maxOverhead   = 1 << 10              // bytes
	minPathMTU    = 68                   // the least IPv4 allows (RFC 791)
	maxPathMTU    = 65535                //
	maxBurst      = 1e6                  // packets
	autoQueueMin  = 64 << 10             // bytes, see Pair.QueueBytes
	defaultGap    = 1 * time.Millisecond // Params.Gap when reordering is asked for without one
)

// ErrParameter is wrapped by every error about a link parameter: an unknown name, a value that is none, a value out of range.
var ErrParameter = errors.New("link parameter")

// Params are the properties of one direction. The zero value is a perfect wire: no delay, no limit, no loss.
type Params struct {
	// Delay is the one-way propagation delay, added after a packet has left the queue.
	Delay time.Duration
	// Jitter is the half width of a uniform deviation of the delay. Order is kept: a packet never passes the one before it.
	Jitter time.Duration
	// RateBitsPerSec is the serialisation rate; 0 is unlimited, and then there is no queue.
	RateBitsPerSec int64
	// QueueBytes bounds the drop-tail queue in front of the rate; 0 means one bandwidth-delay product, see Pair.QueueBytes.
	QueueBytes int64
	// OverheadBytes is added to every wire packet when its share of the rate is worked out (38 for Ethernet with preamble and gap).
	OverheadBytes int
	// Loss is the share of wire packets lost on the way after the queue, 0 to 1.
	Loss float64
	// Burst is the mean length of a run of lost packets (a two-state Gilbert model); up to 1 the losses are independent.
	Burst float64
	// Reorder is the share of wire packets held back by Gap, so that those behind overtake them, 0 to 1.
	Reorder float64
	// Gap is how long a reordered packet is held back; 0 means 1 ms.
	Gap time.Duration
	// MTU is the path's own limit in bytes of an IP packet: larger ones vanish without a word, as behind a misconfigured tunnel. 0 is none.
	MTU int
	// Down cuts the direction: what would enter or leave it meanwhile is lost.
	Down bool
}

// Validate says what is wrong with p, or nil. Every error wraps ErrParameter.
func (p Params) Validate() error {
	bad := func(name, format string, args ...any) error {
		return fmt.Errorf("%w %s: "+format, append([]any{ErrParameter, name}, args...)...)
	}
	switch {
	case p.Delay < 0 || p.Delay > maxDelay:
		return bad("delay", "%v is not within 0 to %v", p.Delay, maxDelay)
	case p.Jitter < 0 || p.Jitter > maxDelay:
		return bad("jitter", "%v is not within 0 to %v", p.Jitter, maxDelay)
	case p.Jitter > p.Delay:
		return bad("jitter", "%v is more than the delay of %v: a packet would arrive before it was sent", p.Jitter, p.Delay)
	case p.Gap < 0 || p.Gap > maxDelay:
		return bad("gap", "%v is not within 0 to %v", p.Gap, maxDelay)
	case p.RateBitsPerSec != 0 && (p.RateBitsPerSec < minRate || p.RateBitsPerSec > maxRate):
		return bad("rate", "%d bit/s is not within 1kbit to 1000gbit (0 is unlimited)", p.RateBitsPerSec)
	case p.QueueBytes != 0 && (p.QueueBytes < minQueueBytes || p.QueueBytes > maxQueueBytes):
		return bad("queue", "%d bytes are not within 2KiB to 16GiB (auto is one bandwidth-delay product)", p.QueueBytes)
	case p.OverheadBytes < 0 || p.OverheadBytes > maxOverhead:
		return bad("overhead", "%d bytes are not within 0 to %d", p.OverheadBytes, maxOverhead)
	case !(p.Loss >= 0 && p.Loss <= 1):
		return bad("loss", "%v is not within 0%% to 100%%", p.Loss)
	case !(p.Reorder >= 0 && p.Reorder <= 1):
		return bad("reorder", "%v is not within 0%% to 100%%", p.Reorder)
	case !(p.Burst >= 0 && p.Burst <= maxBurst):
		return bad("burst", "%v packets are not within 0 to %.0f", p.Burst, maxBurst)
	case p.Burst > 1 && p.Loss > p.Burst/(p.Burst+1):
		return bad("burst", "runs of %v packets cannot add up to a loss of %s, only up to %s: between two runs at least one packet passes",
			p.Burst, formatPercent(p.Loss), formatPercent(p.Burst/(p.Burst+1)))
	case p.MTU != 0 && (p.MTU < minPathMTU || p.MTU > maxPathMTU):
		return bad("mtu", "%d bytes are not within %d to %d (0 is no limit)", p.MTU, minPathMTU, maxPathMTU)
	}
	return nil
}

// Pair holds both directions of a link.
type Pair struct {
	AtoB, BtoA Params
}

// Validate checks both directions.
func (p Pair) Validate() error {
	if err := p.AtoB.Validate(); err != nil {
		return fmt.Errorf("a2b: %w", err)
	}
	if err := p.BtoA.Validate(); err != nil {
		return fmt.Errorf("b2a: %w", err)
	}
	return nil
}

// RTT is the round trip of a small packet over an idle link.
func (p Pair) RTT() time.Duration { return p.AtoB.Delay + p.BtoA.Delay }

// QueueBytes returns the queue limit of a direction as it is in force. Where the parameter is 0 it is one bandwidth-delay product: the
// direction's rate times the round trip of both directions, at least 64 KiB (one super-packet, without which a sender that works in
// super-packets would meet a shallower queue than any it will meet in a router).
func (p Pair) QueueBytes(d Direction) int64 {
	one := p.direction(d)
	if one.QueueBytes != 0 || one.RateBitsPerSec == 0 {
		return one.QueueBytes
	}
	bdp := float64(one.RateBitsPerSec) / 8 * p.RTT().Seconds()
	return min(max(int64(bdp), autoQueueMin), maxQueueBytes)
}

func (p *Pair) direction(d Direction) *Params {
	if d == BtoA {
		return &p.BtoA
	}
	return &p.AtoB
}

// Direction names one of the two ways through a link.
type Direction int

// The two directions; A is the first end given, B the second.
const (
	AtoB Direction = iota
	BtoA
)

// String is the word used on command lines.
func (d Direction) String() string {
	if d == BtoA {
		return "b2a"
	}
	return "a2b"
}

// formatPercent writes the percentage that parsePercent reads back as f, where there is one.
func formatPercent(f float64) string {
	x := f * 100
	for _, candidate := range []float64{x, math.Nextafter(x, 0), math.Nextafter(x, math.Inf(1))} {
		if candidate/100 == f {
			x = candidate
			break
		}
	}
	return strconv.FormatFloat(x, 'f', -1, 64) + "%"
}
