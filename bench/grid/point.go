package grid

import (
	"fmt"
	"strconv"
	"time"
)

// Kind says what is measured at a point.
type Kind string

// The kinds.
const (
	Bulk     Kind = "bulk"
	Latency  Kind = "latency"
	Cut      Kind = "cut"
	Fairness Kind = "fairness"
)

// Point is one measurement to make. Both directions of its link are alike.
type Point struct {
	Kind        Kind    `json:"kind"`
	RateMbit    float64 `json:"rate_mbit"` // 1e6 bit/s
	RTTMillis   float64 `json:"rtt_ms"`
	LossPercent float64 `json:"loss_percent,omitempty"`
	Burst       float64 `json:"burst,omitempty"`  // mean packets lost in a row, 0 or 1: independently
	QueueBDP    float64 `json:"queue_bdp"`        // bandwidth-delay products, of which the emulator makes at least 64 KiB
	Flows       int     `json:"flows"`            // bulk flows through the column
	Column      string  `json:"column"`           // name of one of Columns
	Beside      string  `json:"beside,omitempty"` // congestion control of the kernel's flow: fairness only
	CutSeconds  float64 `json:"cut_seconds,omitempty"`
	Seconds     float64 `json:"seconds"` // how long bulk flows run; with cut: before it and after the repair
}

// minQueueBytes is the least queue: what the emulator itself takes as least.
const minQueueBytes = 64 << 10

// bdpBytes is what the link holds under way.
func (p Point) bdpBytes() float64 { return p.RateMbit * 1e6 / 8 * p.RTTMillis / 1e3 }

// queueBytes is the limit of the drop-tail queue.
func (p Point) queueBytes() int64 { return max(minQueueBytes, int64(p.QueueBDP*p.bdpBytes())) }

// LinkWords are the parameters of the link as the emulator reads them.
func (p Point) LinkWords() string {
	words := fmt.Sprintf("both delay=%v rate=%d queue=%d", p.rtt()/2, int64(p.RateMbit*1e6), p.queueBytes())
	if p.LossPercent > 0 {
		words += fmt.Sprintf(" loss=%s%%", number(p.LossPercent))
		if p.Burst > 1 {
			words += " burst=" + number(p.Burst)
		}
	}
	return words
}

// Link names the link for readers: 100 Mbit/s, 100 ms, 0.1 %.
func (p Point) Link() string {
	rate := number(p.RateMbit) + " Mbit/s"
	if p.RateMbit >= 1000 {
		rate = number(p.RateMbit/1000) + " Gbit/s"
	}
	name := fmt.Sprintf("%s, %s ms, %s %%", rate, number(p.RTTMillis), number(p.LossPercent))
	if p.Burst > 1 {
		name += " in bursts of " + number(p.Burst)
	}
	if p.QueueBDP != 1 {
		name += ", queue " + number(p.QueueBDP) + " BDP"
	}
	return name
}

// Task names what is done on the link.
func (p Point) Task() string {
	switch {
	case p.Kind == Cut:
		return fmt.Sprintf("cut of %s s", number(p.CutSeconds))
	case p.Kind == Fairness:
		return "beside " + p.Beside
	case p.Kind == Latency:
		return "latency"
	case p.Flows == 1:
		return "1 flow"
	}
	return fmt.Sprintf("%d flows", p.Flows)
}

// String names the point in one line.
func (p Point) String() string { return p.Link() + ", " + p.Task() + ", " + p.Column }

func (p Point) rtt() time.Duration { return time.Duration(p.RTTMillis * float64(time.Millisecond)) }

func (p Point) run() time.Duration { return time.Duration(p.Seconds * float64(time.Second)) }

// estimate is how many seconds the point takes with all that goes before and after.
func (p Point) estimate() int {
	const around = 3
	s := p.Seconds + around
	switch p.Kind {
	case Latency:
		s += (idleTime(p.rtt()) + settleTime(p.rtt())).Seconds()
	case Cut:
		s += p.Seconds + p.CutSeconds
	case Bulk, Fairness:
	}
	return int(s)
}

// number writes v as short as it can be.
func number(v float64) string { return strconv.FormatFloat(v, 'f', -1, 64) }
