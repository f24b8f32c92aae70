package report

import (
	"bytes"
	_ "embed"
	"fmt"
	"html/template"
	"slices"
	"strings"
)

//go:embed page.html
var page string

// colours is how many colours the page has; further columns share the last one, which is grey.
const colours = 8

// HTML writes the report as one page that needs nothing else: pictures are inline SVG, there is no script.
func (r *Report) HTML(about []About, targets []Target) ([]byte, error) {
	t, err := template.New("page").Parse(page)
	if err != nil {
		return nil, err
	}
	var out bytes.Buffer
	if err := t.Execute(&out, r.page(about, targets)); err != nil {
		return nil, err
	}
	return out.Bytes(), nil
}

type pageView struct {
	Title    string
	Facts    []string
	Targets  []targetView
	Reasons  []string
	Legend   []legendView
	Links    []linkView
	LinkTOC  bool
	Codec    codecView
	Comments []About
}

type codecView struct {
	Text string
	Head []string
	Rows [][]string
}

type targetView struct {
	Scenario, Link, Figure, Asked, Measured string
	Met                                     bool
}

type legendView struct {
	Colour int
	Name   string
}

type linkView struct {
	ID, Name, Params string
	Scenarios        []scenarioView
}

type scenarioView struct {
	Name, Title, Text string
	Pictures          []pictureView
	Rows              []rowView
}

type pictureView struct {
	Title string
	SVG   template.HTML
}

type rowView struct {
	Phase, Column, Payload, Time, Wire, Faster, Fewer, Latency, Cost, Missing string
	Strong                                                                    bool
}

func (r *Report) page(about []About, targets []Target) pageView {
	view := pageView{Title: "wanpair benchmarks", Facts: append(r.Machine.lines(r), r.Notes...)}
	outcomes := r.Judge(targets)
	view.Reasons = reasons(outcomes)
	for _, o := range outcomes {
		view.Targets = append(view.Targets, targetView{
			Scenario: o.Scenario + " " + o.Phase, Link: o.Link, Figure: o.figure(), Asked: Times(o.Least), Measured: Times(o.Ratio), Met: o.Met,
		})
	}
	colour := r.colours()
	for _, column := range distinct(r.Rows, func(row *Row) string { return row.Column }) {
		view.Legend = append(view.Legend, legendView{Colour: colour[column], Name: column})
	}
	known := map[string]About{}
	for _, a := range about {
		known[a.Name] = a
	}
	for i, link := range r.Links() {
		rows := r.ofLink(link, about)
		one := linkView{ID: fmt.Sprintf("link%d", i), Name: link, Params: rows[0].LinkParams}
		for len(rows) > 0 {
			n := 1
			for n < len(rows) && rows[n].Scenario == rows[0].Scenario {
				n++
			}
			one.Scenarios = append(one.Scenarios, r.scenario(rows[:n], known[rows[0].Scenario], colour))
			rows = rows[n:]
		}
		view.Links = append(view.Links, one)
	}
	view.Codec = codecView{Text: strings.ReplaceAll(codecText, "`", ""), Head: codecHead, Rows: r.codecCells()}
	view.LinkTOC = len(view.Links) > 1
	return view
}

// colours gives each column a colour for the whole page; our own is always the first.
func (r *Report) colours() map[string]int {
	colour := map[string]int{measured: 1}
	next := 2
	for _, column := range distinct(r.Rows, func(row *Row) string { return row.Column }) {
		if _, ok := colour[column]; !ok {
			colour[column] = min(next, colours)
			next++
		}
	}
	return colour
}

func (r *Report) scenario(rows []*Row, a About, colour map[string]int) scenarioView {
	view := scenarioView{Name: rows[0].Scenario, Title: a.Title, Text: a.Text}
	if view.Title == "" {
		view.Title = view.Name
	}
	picture := func(title, svg string) {
		if svg != "" {
			view.Pictures = append(view.Pictures, pictureView{Title: title, SVG: template.HTML(svg)}) // our own SVG, every text in it escaped
		}
	}
	for _, p := range []struct{ title, metric string }{
		{"Time", "time"}, {"Bytes on the wire", "wire bytes"}, {"Lag of the replica, most", "lag"}, {"CPU of both gateways", "CPU"}, {"Memory of both gateways, most", "RSS"},
	} {
		picture(p.title, bars(p.title, groupBars(rows, colour, p.metric)))
	}
	picture("Latency", bars("Latency", latencyBars(rows, colour)))
	for _, phase := range phases(rows) {
		title := "Throughput at the client, " + phase
		picture(title, lines(title, "bit/s", seriesOf(rows, phase, colour, func(p Point) float64 { return p.LANBits }), Bits))
		title = "Lag, " + phase
		picture(title, lines(title, "bytes", seriesOf(rows, phase, colour, func(p Point) float64 { return float64(p.LagBytes) }), Bytes))
	}
	for _, row := range rows {
		if row.empty() {
			continue
		}
		view.Rows = append(view.Rows, rowView{
			Phase: row.Phase, Column: row.label(), Payload: payloadText(row), Time: cell(row, "time"), Wire: cell(row, "wire bytes"), Faster: r.gain(row, "time"),
			Fewer: r.gain(row, "wire bytes"), Latency: pairOf(row, "latency p50", "latency p99", " / "), Cost: pairOf(row, "CPU", "RSS", ", "),
			Missing: row.Missing, Strong: row.Column == measured,
		})
	}
	return view
}

func phases(rows []*Row) []string {
	var names []string
	for _, row := range rows {
		if !slices.Contains(names, row.Phase) {
			names = append(names, row.Phase)
		}
	}
	return names
}

func groupBars(rows []*Row, colour map[string]int, name string) []barGroup {
	m := metric(name)
	var groups []barGroup
	for _, phase := range phases(rows) {
		group := barGroup{name: phase}
		for _, row := range rows {
			if s, ok := Summarize(row, m); ok && row.Phase == phase {
				group.bars = append(group.bars, barMark{
					name: row.Column, value: m.Text(s.Median), length: s.Median, spread: [2]float64{s.Min, s.Max}, colour: colour[row.Column],
				})
			}
		}
		if len(group.bars) > 0 {
			groups = append(groups, group)
		}
	}
	return groups
}

// latencyBars has one group for each phase and percentile.
func latencyBars(rows []*Row, colour map[string]int) []barGroup {
	var groups []barGroup
	for _, m := range []string{"latency p50", "latency p99"} {
		for _, g := range groupBars(rows, colour, m) {
			g.name += ", " + m[len("latency "):]
			groups = append(groups, g)
		}
	}
	slices.SortStableFunc(groups, func(a, b barGroup) int {
		return slices.Index(phases(rows), phaseOf(a)) - slices.Index(phases(rows), phaseOf(b))
	})
	return groups
}

func phaseOf(g barGroup) string { return g.name[:len(g.name)-len(", p50")] }

// seriesOf takes, for each column, the run whose time is the median one.
func seriesOf(rows []*Row, phase string, colour map[string]int, of func(Point) float64) []lineMark {
	var marks []lineMark
	for _, row := range rows {
		run := typical(row)
		if row.Phase != phase || run == nil || len(run.Series) < 2 {
			continue
		}
		mark := lineMark{name: row.Column, colour: colour[row.Column]}
		for _, p := range run.Series {
			mark.points = append(mark.points, [2]float64{p.Seconds, of(p)})
		}
		marks = append(marks, mark)
	}
	// Ours is drawn last, so on top.
	slices.SortStableFunc(marks, func(a, b lineMark) int { return b.colour - a.colour })
	return marks
}

// typical is the run in the middle by time; nil when none counts.
func typical(row *Row) *Run {
	var runs []*Run
	for i := range row.Runs {
		if row.Runs[i].Void == "" {
			runs = append(runs, &row.Runs[i])
		}
	}
	if len(runs) == 0 {
		return nil
	}
	slices.SortFunc(runs, func(a, b *Run) int {
		switch {
		case a.Seconds < b.Seconds:
			return -1
		case a.Seconds > b.Seconds:
			return 1
		}
		return 0
	})
	return runs[len(runs)/2]
}
