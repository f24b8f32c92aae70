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
			ratio, ok := perPayload(r.against(t, link), r.Find(Key{t.Scenario, t.Phase, link, measured}), metric(t.Metric))
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

// perPayload is how many times less a row takes of a metric than another one does. Where both moved bytes in all their runs it is per byte,
// run by run: a load of a given time gets more done, and a very slow column is given less to do.
func perPayload(than, row *Row, m Metric) (float64, bool) {
	if m.Extensive && moved(than) && moved(row) {
		whole := m.Value
		m.Value = func(r Run) (float64, bool) {
			v, ok := whole(r)
			return v / float64(r.PayloadBytes), ok
		}
	}
	ours, ok := Summarize(row, m)
	theirs, have := Summarize(than, m)
	if !ok || !have || ours.Median == 0 {
		return 0, false
	}
	return theirs.Median / ours.Median, true
}

// moved says whether every run of a row that counts has a payload.
func moved(row *Row) bool {
	if row == nil {
		return false
	}
	for _, run := range row.Runs {
		if run.Void == "" && run.PayloadBytes == 0 {
			return false
		}
	}
	return true
}

func (r *Report) against(t Target, link string) *Row {
	if t.Against == "" {
		return r.Baseline(t.Scenario, t.Phase, link, metric(t.Metric))
	}
	return r.Find(Key{t.Scenario, t.Phase, link, t.Against})
}

// Baseline is the row of the better of plain TCP's congestion controls by a metric; nil when none was measured.
func (r *Report) Baseline(scenario, phase, link string, m Metric) *Row {
	var best *Row
	for i := range r.Rows {
		row := &r.Rows[i]
		if row.Scenario != scenario || row.Phase != phase || row.Link != link || !row.Baseline {
			continue
		}
		if _, ok := Summarize(row, m); !ok {
			continue
		}
		if better, ok := perPayload(best, row, m); best == nil || ok && better > 1 {
			best = row
		}
	}
	return best
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
