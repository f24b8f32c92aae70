package report

import (
	"fmt"
	"strings"
)

// Verdict is what a comparison says of one metric of one row.
type Verdict string

// The verdicts. Same means: within the noise.
const (
	Better Verdict = "better"
	Worse  Verdict = "worse"
	Same   Verdict = "same"
	Gone   Verdict = "gone" // measured in the old report only
	New    Verdict = "new"  // measured in the new report only
)

// Change is one metric of one row in two reports.
type Change struct {
	Key
	Metric   Metric
	Verdict  Verdict
	Old, New Summary
}

// singleRunFactor widens the floor where a row has one run only and so says nothing about its own noise.
const singleRunFactor = 3

// Compare goes through all rows of both reports. Two summaries differ when their ranges do not overlap and their medians are further
// apart than the metric's floor.
func Compare(before, after *Report) []Change {
	var changes []Change
	for i := range before.Rows {
		row := &before.Rows[i]
		changes = append(changes, compareRow(row, after.Find(row.Key), row.Key)...)
	}
	for i := range after.Rows {
		row := &after.Rows[i]
		if before.Find(row.Key) == nil {
			changes = append(changes, compareRow(nil, row, row.Key)...)
		}
	}
	return changes
}

func compareRow(before, after *Row, key Key) []Change {
	var changes []Change
	for _, m := range Metrics() {
		o, hadOld := Summarize(before, m)
		n, hasNew := Summarize(after, m)
		change := Change{Key: key, Metric: m, Old: o, New: n}
		switch {
		case !hadOld && !hasNew:
			continue
		case !hasNew:
			change.Verdict = Gone
		case !hadOld:
			change.Verdict = New
		default:
			change.Verdict = judge(m, o, n)
		}
		changes = append(changes, change)
	}
	return changes
}

func judge(m Metric, o, n Summary) Verdict {
	floor := m.Floor
	if o.Runs < 2 || n.Runs < 2 {
		floor *= singleRunFactor
	}
	switch {
	case n.Min > o.Max && n.Median > o.Median*(1+floor):
		return Worse
	case n.Max < o.Min && n.Median < o.Median/(1+floor):
		return Better
	}
	return Same
}

// Count says how many changes have the verdict.
func Count(changes []Change, v Verdict) int {
	n := 0
	for _, c := range changes {
		if c.Verdict == v {
			n++
		}
	}
	return n
}

// CompareText writes the changes for people: all that is not the same, then the counts.
func CompareText(changes []Change) string {
	var b strings.Builder
	for _, c := range changes {
		name := fmt.Sprintf("%s %s, %s, %s: %s", c.Scenario, c.Phase, c.Link, c.Column, c.Metric.Name)
		switch c.Verdict {
		case Same:
		case Gone:
			fmt.Fprintf(&b, "gone    %s was %s\n", name, c.Metric.Text(c.Old.Median))
		case New:
			fmt.Fprintf(&b, "new     %s is %s\n", name, c.Metric.Text(c.New.Median))
		default:
			fmt.Fprintf(&b, "%-7s %s from %s (±%.0f %%) to %s (±%.0f %%), %+.0f %%\n", c.Verdict, name, c.Metric.Text(c.Old.Median), c.Old.Spread()*50,
				c.Metric.Text(c.New.Median), c.New.Spread()*50, (c.New.Median/c.Old.Median-1)*100)
		}
	}
	fmt.Fprintf(&b, "%d better, %d worse, %d the same within the noise, %d gone, %d new\n",
		Count(changes, Better), Count(changes, Worse), Count(changes, Same), Count(changes, Gone), Count(changes, New))
	return b.String()
}
