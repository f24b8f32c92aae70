package report

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
	Ratio float64 // what was reached
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
			theirs, ok := r.against(t, link)
			if !ok {
				continue
			}
			ratio, ok := perPayload(theirs, r.Find(Key{t.Scenario, t.Phase, link, measured}), metric(t.Metric))
			if !ok {
				continue
			}
			one := t
			one.Link = link
			outcomes = append(outcomes, Outcome{Target: one, Ratio: ratio, Met: ratio >= t.Least})
		}
	}
	return outcomes
}

// amount is a median with the payload it was measured with.
type amount struct{ value, payload float64 }

// perPayload is how many times less a row takes of a metric than something else does. Where both moved bytes it is per byte: a load of a
// given time gets more done, and a very slow column is given less to do.
func perPayload(than amount, row *Row, m Metric) (float64, bool) {
	s, ok := Summarize(row, m)
	if !ok || s.Median == 0 || than.value == 0 {
		return 0, false
	}
	ratio := than.value / s.Median
	if p := payload(row); m.Extensive && p > 0 && than.payload > 0 {
		ratio *= p / than.payload
	}
	return ratio, true
}

func (r *Report) against(t Target, link string) (amount, bool) {
	if t.Against == "" {
		return r.Baseline(t.Scenario, t.Phase, link, metric(t.Metric))
	}
	row := r.Find(Key{t.Scenario, t.Phase, link, t.Against})
	s, ok := Summarize(row, metric(t.Metric))
	if !ok {
		return amount{}, false
	}
	return amount{s.Median, payload(row)}, true
}

// Baseline is the least median, for its payload, that a baseline column reached: the better of plain TCP's congestion controls.
func (r *Report) Baseline(scenario, phase, link string, m Metric) (amount, bool) {
	var best amount
	found := false
	for i := range r.Rows {
		row := &r.Rows[i]
		if row.Scenario != scenario || row.Phase != phase || row.Link != link || !row.Baseline {
			continue
		}
		s, ok := Summarize(row, m)
		if !ok {
			continue
		}
		if better, ok := perPayload(best, row, m); !found || ok && better > 1 {
			best = amount{s.Median, payload(row)}
		}
		found = true
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
