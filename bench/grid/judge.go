package grid

import "fmt"

// Figure is what a result is to reach, and whether it did.
type Figure struct {
	Name     string
	Asked    string
	Measured string
	Met      bool
}

// goodputs are the figures of the bulk points: Mbit/s of the second half over a link with a queue of one bandwidth-delay product, one flow
// or many. A gigabit may be missed where a machine's CPU is the limit, at most cpuOfGigabit seconds for each GB.
func goodputs() []struct{ rate, rtt, loss, burst, least float64 } {
	return []struct{ rate, rtt, loss, burst, least float64 }{
		{100, 100, 0, 0, 93}, {100, 100, 0.1, 0, 92}, {100, 100, 1, 0, 88}, {100, 100, 3, 0, 80}, {100, 100, 1, 4, 80},
		{500, 20, 0.1, 0, 440}, {1000, 100, 0, 0, 800}, {1000, 100, 0.1, 0, 600}, {20, 300, 0.5, 0, 18},
	}
}

// Further figures.
const (
	leastJain       = 0.95
	cpuOfGigabit    = 12.0 // seconds per GB
	gigabit         = 1000
	mostResent      = 0.01 // beyond the link's loss
	mostColdSeconds = 1.5  // on 100 Mbit/s, 100 ms
	mostResume      = 2.0  // seconds after a repair
	leastShare      = 0.3  // beside a flow of the kernel's, for either
	idleMillis      = 1.0  // beyond the round trip, median
	busyMillis      = 20.0 // beyond it beside a bulk flow, 95th percentile, at 100 Mbit/s
	busySlowMillis  = 40.0 // the same at 2 Mbit/s
	slowMbit        = 10
	leastLanesGain  = 4.0 // of eight lanes without governor over one
)

// judgedColumn is the column the figures are about.
const judgedColumn = "wanpair"

// Figures judges a result; all are the results of the same report, for figures that compare two.
func (r *Result) Figures(all []Result) []Figure {
	var f []Figure
	add := func(met bool, name, asked, measured string, args ...any) {
		f = append(f, Figure{Name: name, Asked: asked, Measured: fmt.Sprintf(measured, args...), Met: met && r.Failure == "" && r.Void == ""})
	}
	if r.Column == "wanpair-no-governor-8-lanes" && r.Kind == Bulk {
		one := r.Point
		one.Column = "wanpair-no-governor-1-lane"
		for i := range all {
			if all[i].Point == one && all[i].HalfBits > 0 {
				gain := r.HalfBits / all[i].HalfBits
				add(gain >= leastLanesGain, "8 lanes over one", fmt.Sprintf(">= %gx", leastLanesGain), "%.1fx", gain)
			}
		}
	}
	if r.Column != judgedColumn {
		return f
	}
	switch r.Kind {
	case Bulk:
		r.bulkFigures(add)
	case Latency:
		r.latencyFigures(add, r.bareRTT(all))
	case Cut:
		worst := max(r.ResumeSeconds, r.HeldSeconds, r.SilentSeconds)
		add(worst > 0 && worst <= mostResume, "all went on after the repair", fmt.Sprintf("<= %g s", mostResume), "%.2f s", worst)
	case Fairness:
		add(r.Share >= leastShare && r.Share <= 1-leastShare, "share beside "+r.Beside, fmt.Sprintf("%.0f to %.0f %%", leastShare*100, (1-leastShare)*100), "%.0f %%", r.Share*100)
	}
	return f
}

type addFigure func(met bool, name, asked, measured string, args ...any)

func (r *Result) bulkFigures(add addFigure) {
	for _, g := range goodputs() {
		if g.rate != r.RateMbit || g.rtt != r.RTTMillis || g.loss != r.LossPercent || g.burst != r.Burst || r.QueueBDP != 1 {
			continue
		}
		mbit := r.HalfBits / 1e6
		asked, met := fmt.Sprintf(">= %g Mbit/s", g.least), mbit >= g.least
		if g.rate >= gigabit {
			asked += fmt.Sprintf(", or <= %g CPU s/GB", cpuOfGigabit)
			met = met || r.HalfBits > 0 && r.CPUSecondsPerGB <= cpuOfGigabit
			add(met, "goodput", asked, "%.0f Mbit/s at %.1f CPU s/GB", mbit, r.CPUSecondsPerGB)
		} else {
			add(met, "goodput", asked, "%.1f Mbit/s", mbit)
		}
	}
	if r.Flows > 1 {
		add(r.Jain >= leastJain, "Jain's index", fmt.Sprintf(">= %g", leastJain), "%.3f", r.Jain)
	}
	most := r.LossPercent/100 + mostResent
	add(r.HalfBits > 0 && r.ResentShare <= most, "sent again", fmt.Sprintf("<= %.1f %%", most*100), "%.2f %%", r.ResentShare*100)
	if r.RateMbit == 100 && r.RTTMillis == 100 && r.Flows == 1 && r.LossPercent == 0 {
		add(r.ColdSeconds >= 0 && r.ColdSeconds <= mostColdSeconds, "cold to full rate", fmt.Sprintf("<= %g s", mostColdSeconds), "%.2f s", r.ColdSeconds)
	}
}

// bareRTT is the round trip that such small requests have over the idle link: as a direct column measured it in the same run, with the time
// that their packets need at the link's rate, else the link's delay.
func (r *Result) bareRTT(all []Result) float64 {
	for i := range all {
		same := all[i].Point
		same.Column = r.Column
		if column, err := FindColumn(all[i].Column); err == nil && !column.Gateway && same == r.Point && all[i].Idle != nil && all[i].Void == "" {
			return all[i].Idle.MedianMillis
		}
	}
	return r.RTTMillis
}

func (r *Result) latencyFigures(add addFigure, rtt float64) {
	if r.Idle != nil {
		add(r.Idle.MedianMillis <= rtt+idleMillis, "64 bytes on the idle link, median", fmt.Sprintf("<= RTT + %g ms", idleMillis), "%.1f + %.1f ms", rtt,
			r.Idle.MedianMillis-rtt)
	}
	if r.Busy != nil {
		most := busyMillis
		if r.RateMbit < slowMbit {
			most = busySlowMillis
		}
		add(r.Busy.P95Millis <= rtt+most, "64 bytes beside bulk, p95", fmt.Sprintf("<= RTT + %g ms", most), "%.1f + %.1f ms", rtt, r.Busy.P95Millis-rtt)
	}
}
