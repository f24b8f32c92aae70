package main

import (
	"cmp"
	"fmt"
	"slices"
	"strings"
	"time"

	"wanpair/accel/stats"
)

// topView is what wanpair top shows: the state of the gateway, a list of flows, and how the user wants it.
type topView struct {
	report stats.Report
	flows  []topFlow
	total  int
	fault  error // of the last look

	seen   map[uint64]uint64 // flow to LAN bytes at the last look
	seenAt time.Time

	sort     int // number of the column
	reverse  bool
	filter   string
	typing   bool // keys go into the filter
	first    int  // flow at the top of the list
	paused   bool
	done     bool
	changed  bool // since it was drawn
	refilter bool // the filter changed: look again at once
}

// topFlow is a flow with its rate.
type topFlow struct {
	stats.FlowReport
	lan, wan uint64
	now      float64 // LAN bits per second since the last look
}

func (f topFlow) gain() *float64 {
	if f.lan == 0 || f.wan == 0 {
		return nil
	}
	g := float64(f.lan) / float64(f.wan)
	return &g
}

// topLine is a line of the view.
type topLine struct {
	text string
	bold bool
}

// topColumnSpec describes a column of the list. Wide ones share what is left of the width.
type topColumnSpec struct {
	name  string
	width int // 0: wide
	right bool
	text  func(f topFlow) string
	order func(a, b topFlow) int // as people expect it first: much before little
}

// columnNamed returns the number of a column; names are checked by the command line.
func columnNamed(name string) int {
	return max(0, slices.IndexFunc(topColumns(), func(c topColumnSpec) bool { return c.name == name }))
}

func topColumns() []topColumnSpec {
	value := func(r *float64) float64 {
		if r == nil {
			return -1
		}
		return *r
	}
	return []topColumnSpec{
		{"now", 13, true, func(f topFlow) string { return rateOrNothing(f.now) }, func(a, b topFlow) int { return cmp.Compare(b.now, a.now) }},
		{"lan", 10, true, func(f topFlow) string { return size(int64(f.lan)) }, func(a, b topFlow) int { return cmp.Compare(b.lan, a.lan) }},
		{"wan", 10, true, func(f topFlow) string { return size(int64(f.wan)) }, func(a, b topFlow) int { return cmp.Compare(b.wan, a.wan) }},
		{"gain", 8, true, func(f topFlow) string { return factor(f.gain()) }, func(a, b topFlow) int { return cmp.Compare(value(b.gain()), value(a.gain())) }},
		{"age", 9, true, func(f topFlow) string { return age(f.AgeSeconds) }, func(a, b topFlow) int { return cmp.Compare(b.AgeSeconds, a.AgeSeconds) }},
		{"id", 8, true, func(f topFlow) string { return fmt.Sprint(f.ID) }, func(a, b topFlow) int { return cmp.Compare(a.ID, b.ID) }},
		{"source", 0, false, func(f topFlow) string { return f.Source }, func(a, b topFlow) int { return strings.Compare(a.Source, b.Source) }},
		{"destination", 0, false, func(f topFlow) string { return f.Destination }, func(a, b topFlow) int { return strings.Compare(a.Destination, b.Destination) }},
		{"state", 12, false, func(f topFlow) string { return string(f.State) }, func(a, b topFlow) int { return strings.Compare(string(a.State), string(b.State)) }},
		{"reason", 15, false, func(f topFlow) string { return reasonName(f.Reason) }, func(a, b topFlow) int { return strings.Compare(reasonName(b.Reason), reasonName(a.Reason)) }},
	}
}

func rateOrNothing(bits float64) string {
	if bits == 0 {
		return ""
	}
	return rate(bits)
}

func reasonName(r *stats.ReasonReport) string {
	if r == nil {
		return ""
	}
	return r.Name
}

// update takes what a look brought.
func (v *topView) update(now time.Time, report stats.Report, flows stats.FlowsReport) {
	elapsed := now.Sub(v.seenAt).Seconds()
	v.report, v.total = report, flows.Total
	v.flows = make([]topFlow, 0, len(flows.Flows))
	seen := make(map[uint64]uint64, len(flows.Flows))
	for _, f := range flows.Flows {
		t := topFlow{FlowReport: f, lan: f.LAN.Sent + f.LAN.Received, wan: f.WAN.Sent + f.WAN.Received}
		if before, known := v.seen[f.ID]; known && elapsed > 0 && t.lan > before {
			t.now = float64(t.lan-before) * 8 / elapsed
		}
		seen[f.ID] = t.lan
		v.flows = append(v.flows, t)
	}
	v.seen, v.seenAt = seen, now
}

// lines draws the view for a terminal of that size.
func (v *topView) lines(width, height int) []topLine {
	out := v.head()
	columns := topColumns()
	wide := width - (len(columns) - 1)
	for _, c := range columns {
		wide -= c.width
	}
	wide = max(10, wide/2)
	row := func(text func(i int, c topColumnSpec) string) string {
		cells := make([]string, len(columns))
		for i, c := range columns {
			cells[i] = column(text(i, c), cmp.Or(c.width, wide), c.right)
		}
		return strings.Join(cells, " ")
	}
	out = append(out, topLine{row(func(i int, c topColumnSpec) string {
		if i != v.sort {
			return c.name
		}
		return c.name + map[bool]string{false: "*", true: "^"}[v.reverse]
	}), true})

	slices.SortStableFunc(v.flows, func(a, b topFlow) int {
		order := cmp.Or(columns[v.sort].order(a, b), cmp.Compare(a.ID, b.ID))
		if v.reverse {
			return -order
		}
		return order
	})
	room := max(0, height-len(out))
	v.first = max(0, min(v.first, len(v.flows)-room))
	for _, f := range v.flows[v.first:min(len(v.flows), v.first+room)] {
		out = append(out, topLine{row(func(_ int, c topColumnSpec) string { return c.text(f) }), false})
	}
	out = out[:min(len(out), max(1, height))]
	for i := range out {
		out[i].text = strings.TrimRight(fits(out[i].text, width), " ")
	}
	return out
}

// head draws what stands above the list.
func (v *topView) head() []topLine {
	r := v.report
	state := "healthy"
	switch {
	case v.fault != nil:
		state = v.fault.Error()
	case r.Health != "ok":
		state = r.Health
	case r.Ready != "ok":
		state = r.Ready
	}
	if v.paused {
		state = "PAUSED; " + state
	}
	out := []topLine{{fmt.Sprintf("wanpair %s  %s  up %s  %s", r.Site, r.Version, age(r.UptimeSeconds), state), true}}
	for _, p := range r.Peers {
		t := p.Throughput
		out = append(out,
			topLine{fmt.Sprintf("%-10s %-10s RTT %s, loss %.2f %%, %d lanes, %d flows, %d held", p.Name, p.State, milliseconds(p.RTTSeconds), 100*p.LossRatio, p.Lanes, p.FlowsActive, p.FlowsHeld), false},
			topLine{fmt.Sprintf("           sent LAN %s WAN %s (60 s: %s)   received LAN %s WAN %s (60 s: %s)",
				rate(t.LAN.Sent), rate(t.WAN.Sent), factor(p.ReductionRatio60s), rate(t.LAN.Received), rate(t.WAN.Received), factor(p.ReceivedReductionRatio60s)), false})
	}
	shown := fmt.Sprintf("%d flows", v.total)
	if len(v.flows) < v.total {
		shown = fmt.Sprintf("%d of %d flows", len(v.flows), v.total)
	}
	keys := "q quit, s sort, r reverse, / filter, space pause"
	switch {
	case v.typing:
		keys = "filter: " + v.filter + "_"
	case v.filter != "":
		keys = "filter: " + v.filter + " (Esc clears)"
	}
	return append(out, topLine{fmt.Sprintf("cache %s of %s   %s   %s", size(r.Cache.SizeBytes), size(r.Cache.CapacityBytes), shown, keys), false}, topLine{})
}
