package grid

import (
	"fmt"
	"time"
)

// Result is what was measured at a point. Zero means not measured, except where a field says otherwise.
type Result struct {
	Point
	// Congestion control that the server's connections used in fact.
	Congestion string `json:"congestion"`

	// MeanBits and HalfBits are the goodput of all bulk flows together in bit/s: from the first connect on, and in the second half. FlowBits
	// is the second half of each, Jain their index.
	MeanBits float64   `json:"mean_bits_per_second,omitempty"`
	HalfBits float64   `json:"second_half_bits_per_second,omitempty"`
	FlowBits []float64 `json:"flow_bits_per_second,omitempty"`
	Jain     float64   `json:"jain,omitempty"`

	// BeyondShare is what entered the link towards the client beyond the goodput, all headers included, as a share of the goodput; ResentShare
	// estimates that without headers: what was sent more than once. Both of the whole run.
	BeyondShare float64 `json:"beyond_share,omitempty"`
	ResentShare float64 `json:"resent_share,omitempty"`
	// CPUSecondsPerGB is of both gateways with their children, over the whole run; RSSBytes the most each held, together.
	CPUSecondsPerGB float64 `json:"cpu_seconds_per_gb,omitempty"`
	RSSBytes        int64   `json:"rss_bytes,omitempty"`
	// ColdSeconds is how long it took from the first connect to the first 300 ms at 90 % of the second half's rate; -1: never.
	ColdSeconds float64 `json:"cold_seconds,omitempty"`
	// QueueMillis is how long the link's queue was on average in the second half, QueueMaxMillis the most of the whole run, as delay.
	QueueMillis    float64 `json:"queue_ms,omitempty"`
	QueueMaxMillis float64 `json:"queue_max_ms,omitempty"`
	// GapSeconds is the longest time in the second half without a byte.
	GapSeconds float64 `json:"gap_seconds,omitempty"`

	// Idle and Busy are requests and answers of 64 bytes on the idle link and beside the bulk flows.
	Idle *Times `json:"idle,omitempty"`
	Busy *Times `json:"busy,omitempty"`

	// After a cut, in seconds from the repair: until the bulk flow went on, until a request asked during the cut was answered, and until one
	// was that was asked right after it on a connection that had been silent throughout.
	ResumeSeconds float64 `json:"resume_seconds,omitempty"`
	HeldSeconds   float64 `json:"held_seconds,omitempty"`
	SilentSeconds float64 `json:"silent_seconds,omitempty"`

	// BesideBits is the goodput of the kernel's flow beside ours over the whole run, Share our part of both.
	BesideBits float64 `json:"beside_bits_per_second,omitempty"`
	Share      float64 `json:"share,omitempty"`

	// Drops of the link towards the client.
	LossDrops  uint64 `json:"loss_drops"`
	QueueDrops uint64 `json:"queue_drops"`

	// Drops are packets that the machine lost beside these.
	Drops Drops `json:"machine_drops"`

	// Series is the goodput over time, and that of the kernel's flow.
	Series       []Rate `json:"series,omitempty"`
	BesideSeries []Rate `json:"beside_series,omitempty"`

	LateMillis float64 `json:"link_late_ms"` // the link's worst
	Tries      int     `json:"tries"`        // how often it was measured until the link was exact
	// Void says why the figures do not count: the link was not exact. Failure says what went wrong with the flows or the gateways.
	Void    string `json:"void,omitempty"`
	Failure string `json:"failure,omitempty"`
}

// Times are how long answers took.
type Times struct {
	Count        int     `json:"count"`
	MedianMillis float64 `json:"median_ms"`
	P95Millis    float64 `json:"p95_ms"`
	MaxMillis    float64 `json:"max_ms"`
}

func timesOf(took []time.Duration) *Times {
	if len(took) == 0 {
		return nil
	}
	return &Times{Count: len(took), MedianMillis: millis(percentile(took, 0.5)), P95Millis: millis(percentile(took, 0.95)), MaxMillis: millis(percentile(took, 1))}
}

// String shows median, 95th percentile and worst.
func (t *Times) String() string {
	if t == nil {
		return ""
	}
	return fmt.Sprintf("%.1f / %.1f / %.1f ms", t.MedianMillis, t.P95Millis, t.MaxMillis)
}

func millis(d time.Duration) float64 { return d.Seconds() * 1e3 }

// Rate is one point of a series.
type Rate struct {
	Seconds float64 `json:"t"`
	Bits    float64 `json:"bits_per_second"`
}

// seriesStep is the distance of two points of a series.
const seriesStep = 250 * time.Millisecond

// series is the goodput over time.
func series(samples []sample, run time.Duration, pick func(sample) int64) []Rate {
	var rates []Rate
	for at := seriesStep; at <= run; at += seriesStep {
		rates = append(rates, Rate{Seconds: at.Seconds(), Bits: rate(samples, at-seriesStep, at, pick)})
	}
	return rates
}
