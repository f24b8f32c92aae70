package report

import "math"

// Target is a figure to reach: how many times less of a metric a column takes than the better of the baselines (or than another column),
// in one report.
type Target struct {
	Scenario, Phase string
	// Link on which it is meant; "" is every link measured.
	Link   string
	Metric string
	// Against names the column to beat; "" is the better of the baselines.
	Against string
	// Least is the ratio asked for.
	Least float64
	// Why says what keeps it from being reached, where that is known; shown when it is not reached.
	Why string
}

// measured is the column that targets speak of.
const measured = "wanpair"

// Outcome is one target on one link.
type Outcome struct {
	Target
	// Ratio is what was reached, NaN when one of the sides is missing.
	Ratio float64
	Met   bool
}

// Judge looks at every target on every link of the report it is meant for. Targets of which nothing was measured are left out.
func (r *Report) Judge(targets []Target) []Outcome {
	var outcomes []Outcome
	for _, t := range targets {
		for _, link := range r.Links() {
			if t.Link != "" && t.Link != link {
				continue
			}
			ours, ok := Summarize(r.Find(Key{t.Scenario, t.Phase, link, measured}), metric(t.Metric))
			if !ok {
				continue
			}
			theirs, ok := r.against(t, link)
			if !ok {
				continue
			}
			ratio := math.Inf(1)
			if ours.Median > 0 {
				ratio = theirs / ours.Median
			}
			one := t
			one.Link = link
			outcomes = append(outcomes, Outcome{Target: one, Ratio: ratio, Met: ratio >= t.Least})
		}
	}
	return outcomes
}

func (r *Report) against(t Target, link string) (float64, bool) {
	if t.Against != "" {
		s, ok := Summarize(r.Find(Key{t.Scenario, t.Phase, link, t.Against}), metric(t.Metric))
		return s.Median, ok
	}
	return r.Baseline(t.Scenario, t.Phase, link, metric(t.Metric))
}

// Baseline is the least median that a baseline column reached: the better of plain TCP's congestion controls.
func (r *Report) Baseline(scenario, phase, link string, m Metric) (float64, bool) {
	best, found := math.Inf(1), false
	for i := range r.Rows {
		row := &r.Rows[i]
		if row.Scenario != scenario || row.Phase != phase || row.Link != link || !row.Baseline {
			continue
		}
		if s, ok := Summarize(row, m); ok {
			best, found = min(best, s.Median), true
		}
	}
	return best, found
}

// Links lists the links in the order of their first rows.
func (r *Report) Links() []string { return distinct(r.Rows, func(row *Row) string { return row.Link }) }

func distinct(rows []Row, of func(*Row) string) []string {
	var seen []string
	known := map[string]bool{}
	for i := range rows {
		if v := of(&rows[i]); !known[v] {
			known[v] = true
			seen = append(seen, v)
		}
	}
	return seen
}
