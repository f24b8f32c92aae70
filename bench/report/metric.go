package report

import (
	"fmt"
	"math"
	"slices"
	"time"
)

// Metric is something that is measured in every run of a row. Less is better in all of them.
type Metric struct {
	Name string
	// Floor is the relative difference below which two medians count as equal whatever the runs say.
	Floor float64
	// Extensive metrics grow with the payload.
	Extensive bool
	// Value takes it from a run; false when the run has none.
	Value func(Run) (float64, bool)
	// Text writes a value with its unit.
	Text func(float64) string
}

// Metrics lists all of them. Time and CPU vary with what else the machine does; bytes hardly do.
func Metrics() []Metric {
	latency := func(of func(*Latency) float64) func(Run) (float64, bool) {
		return func(r Run) (float64, bool) {
			if r.Latency == nil {
				return 0, false
			}
			return of(r.Latency), true
		}
	}
	positive := func(of func(Run) float64) func(Run) (float64, bool) {
		return func(r Run) (float64, bool) { v := of(r); return v, v > 0 }
	}
	return []Metric{
		{"time", 0.05, true, positive(func(r Run) float64 { return r.Seconds }), Seconds},
		{"wire bytes", 0.02, true, positive(func(r Run) float64 { return float64(r.Wire.Sum()) }), Bytes},
		{"latency p50", 0.05, false, latency(func(l *Latency) float64 { return l.P50 }), Seconds},
		{"latency p99", 0.15, false, latency(func(l *Latency) float64 { return l.P99 }), Seconds},
		{"lag", 0.15, false, positive(func(r Run) float64 { return float64(r.LagBytes) }), Bytes},
		{"CPU", 0.10, true, positive(func(r Run) float64 { return r.CPUSeconds }), Seconds},
		{"RSS", 0.10, false, positive(func(r Run) float64 { return float64(r.RSSBytes) }), Bytes},
	}
}

// metric returns the one of that name.
func metric(name string) Metric {
	all := Metrics()
	return all[slices.IndexFunc(all, func(m Metric) bool { return m.Name == name })]
}

// Summary is what the runs of a row say about one metric.
type Summary struct {
	Runs   int     `json:"runs"`
	Min    float64 `json:"min"`
	Median float64 `json:"median"`
	Max    float64 `json:"max"`
}

// Spread is the distance between the extremes as a share of the median.
func (s Summary) Spread() float64 {
	if s.Median == 0 {
		return 0
	}
	return (s.Max - s.Min) / s.Median
}

// Summarize takes the runs that count; false when none has the metric.
func Summarize(row *Row, m Metric) (Summary, bool) {
	if row == nil {
		return Summary{}, false
	}
	var values []float64
	for _, run := range row.Runs {
		if run.Void != "" {
			continue
		}
		if v, ok := m.Value(run); ok {
			values = append(values, v)
		}
	}
	if len(values) == 0 {
		return Summary{}, false
	}
	slices.Sort(values)
	n := len(values)
	median := values[n/2]
	if n%2 == 0 {
		median = (values[n/2-1] + values[n/2]) / 2
	}
	return Summary{Runs: n, Min: values[0], Median: median, Max: values[n-1]}, true
}

// Percentiles turns single durations into a Latency; nil for none. It sorts its argument.
func Percentiles(durations []time.Duration) *Latency {
	if len(durations) == 0 {
		return nil
	}
	slices.Sort(durations)
	at := func(p float64) float64 { // nearest rank
		return durations[max(0, int(math.Ceil(p*float64(len(durations))))-1)].Seconds()
	}
	return &Latency{Count: int64(len(durations)), P50: at(0.5), P90: at(0.9), P99: at(0.99), Max: at(1)}
}

// significant is how many digits figures are shown with.
const significant = 3

// digits writes v with three significant digits and no exponent.
func digits(v float64) string {
	if v == 0 {
		return "0"
	}
	before := func(v float64) int { return int(math.Floor(math.Log10(math.Abs(v)))) + 1 }
	behind := significant - before(v)
	scale := math.Pow10(behind)
	behind = significant - before(math.Round(v*scale)/scale) // 9.999 is 10.0, not 10.00
	return fmt.Sprintf("%.*f", max(0, behind), v)
}

// Seconds writes a duration given in seconds.
func Seconds(v float64) string {
	switch {
	case v == 0:
		return "0 s"
	case v < 1e-3:
		return digits(v*1e6) + " µs"
	case v < 1:
		return digits(v*1e3) + " ms"
	}
	return digits(v) + " s"
}

// Bytes writes a size in decimal units, as links are sold.
func Bytes(v float64) string { return scaled(v, "B") }

// Bits writes a rate.
func Bits(v float64) string { return scaled(v, "bit/s") }

func scaled(v float64, unit string) string {
	const step = 1000
	for _, prefix := range []string{"", "k", "M", "G"} {
		if v < step {
			if prefix == "" {
				return fmt.Sprintf("%.0f %s", v, unit)
			}
			return digits(v) + " " + prefix + unit
		}
		v /= step
	}
	return digits(v) + " T" + unit
}

// Times writes a ratio.
func Times(v float64) string {
	switch {
	case math.IsInf(v, 0) || math.IsNaN(v):
		return "–"
	case v >= 100:
		return fmt.Sprintf("%.0fx", v)
	case v >= 10:
		return fmt.Sprintf("%.1fx", v)
	}
	return fmt.Sprintf("%.2fx", v)
}
