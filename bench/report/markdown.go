package report

import (
	"fmt"
	"slices"
	"strings"
)

// About describes a scenario for readers.
type About struct {
	Name, Title, Text string
}

// Markdown writes the report as a document: what it was measured on, the figures to reach, one table per link. Scenarios are in the order
// in which they are described; about may leave some out.
func (r *Report) Markdown(about []About, targets []Target) string {
	var b strings.Builder
	b.WriteString("# Benchmarks\n\nWritten by `wanbench run` and `wanbench report` (`--markdown FILE`); do not edit. ")
	b.WriteString("Ratios within one run count; absolute figures depend on the machine. Time and bytes are medians, ± is half the distance between the extremes. ")
	b.WriteString("Bytes are what was offered to the link in both directions: IP packets with all headers and retransmissions. Every byte that arrived was checked by its hash.\n\n")
	for _, line := range r.Machine.lines(r) {
		fmt.Fprintf(&b, "- %s\n", line)
	}
	for _, note := range r.Notes {
		fmt.Fprintf(&b, "- %s\n", note)
	}
	if outcomes := r.Judge(targets); len(outcomes) > 0 {
		b.WriteString("\n## Figures to reach\n\nRatios against the better of plain TCP's cubic and bbr, or against the column named.\n\n")
		b.WriteString("| scenario | link | figure | asked for | measured | |\n|---|---|---|---|---|---|\n")
		for _, o := range outcomes {
			fmt.Fprintf(&b, "| %s %s | %s | %s | %s | %s | %s |\n", o.Scenario, o.Phase, o.Link, o.figure(), Times(o.Least), Times(o.Ratio), o.word())
		}
		if reasons := reasons(outcomes); len(reasons) > 0 {
			b.WriteString("\nWhat is not reached, and what is known of the reason:\n\n")
			for _, reason := range reasons {
				fmt.Fprintf(&b, "- %s\n", reason)
			}
		}
	}
	for _, link := range r.Links() {
		fmt.Fprintf(&b, "\n## %s\n\n", link)
		r.markdownLink(&b, link, about)
	}
	r.markdownCodec(&b)
	if len(about) > 0 {
		b.WriteString("\n## Scenarios\n\n")
		for _, a := range about {
			fmt.Fprintf(&b, "- **%s**: %s\n", a.Name, a.Text)
		}
	}
	return b.String()
}

func (m Machine) lines(r *Report) []string {
	return []string{
		fmt.Sprintf("measured %s, commit %s, %s, seed %d", r.Started.UTC().Format("2006-01-02 15:04 UTC"), m.Commit, m.Go, r.Seed),
		fmt.Sprintf("%d cores of %s, %s of memory, kernel %s; both gateways, all servers and clients and the link's emulator share them",
			m.Cores, m.CPU, Bytes(float64(m.MemoryBytes)), m.Kernel),
	}
}

// reasons lists, once each, why figures are not reached, with the scenarios and phases it keeps from it.
func reasons(outcomes []Outcome) []string {
	var order []string
	names := map[string][]string{}
	for _, o := range outcomes {
		if o.Met || o.Why == "" {
			continue
		}
		if names[o.Why] == nil {
			order = append(order, o.Why)
		}
		if name := o.Scenario + " " + o.Phase; !slices.Contains(names[o.Why], name) {
			names[o.Why] = append(names[o.Why], name)
		}
	}
	var list []string
	for _, why := range order {
		list = append(list, strings.Join(names[why], ", ")+": "+why)
	}
	return list
}

func (o Outcome) figure() string {
	figure := map[string]string{"time": "faster", "wire bytes": "fewer bytes", "latency p50": "lower median latency"}[o.Metric]
	if figure == "" {
		figure = "less " + o.Metric
	}
	if o.Against != "" {
		figure += " than " + o.Against
	}
	return figure
}

func (o Outcome) word() string {
	if o.Met {
		return "reached"
	}
	return "**not reached**"
}

// markdownLink writes the rows of one link, baselines' ratios beside the rows that are none.
func (r *Report) markdownLink(b *strings.Builder, link string, about []About) {
	rows := r.ofLink(link, about)
	if len(rows) == 0 {
		return
	}
	fmt.Fprintf(b, "`%s`\n\n", rows[0].LinkParams)
	b.WriteString("| scenario | column | payload | time | on the wire | faster | fewer bytes | latency p50 / p99 | gateways' CPU, RSS |\n|---|---|---|---|---|---|---|---|---|\n")
	for _, row := range rows {
		if row.empty() {
			continue
		}
		fmt.Fprintf(b, "| %s %s | %s |", row.Scenario, row.Phase, row.label())
		if row.Missing != "" {
			fmt.Fprintf(b, " not run: %s | | | | | | |\n", row.Missing)
			continue
		}
		fmt.Fprintf(b, " %s | %s | %s | %s | %s | %s | %s |\n", payloadText(row), cell(row, "time"), cell(row, "wire bytes"),
			r.gain(row, "time"), r.gain(row, "wire bytes"), pairOf(row, "latency p50", "latency p99", " / "), pairOf(row, "CPU", "RSS", ", "))
	}
}

// ofLink lists a link's rows: scenarios as described, then by phase and column as measured.
func (r *Report) ofLink(link string, about []About) []*Row {
	var names []string
	known := map[string]bool{}
	for _, a := range about {
		names, known[a.Name] = append(names, a.Name), true
	}
	for _, name := range distinct(r.Rows, func(row *Row) string { return row.Scenario }) {
		if !known[name] {
			names = append(names, name)
		}
	}
	var rows []*Row
	for _, name := range names {
		var phases []string
		for i := range r.Rows {
			if row := &r.Rows[i]; row.Scenario == name && row.Link == link {
				phases = append(phases, row.Phase)
			}
		}
		done := map[string]bool{}
		for _, phase := range phases {
			if done[phase] {
				continue
			}
			done[phase] = true
			for i := range r.Rows {
				if row := &r.Rows[i]; row.Scenario == name && row.Link == link && row.Phase == phase {
					rows = append(rows, row)
				}
			}
		}
	}
	return rows
}

// empty says that there is nothing to show: a phase that the column does not play.
func (row *Row) empty() bool { return len(row.Runs) == 0 && row.Missing == "" }

// label is the column with what TCP it was.
func (row *Row) label() string {
	var what []string
	for _, s := range []string{row.Congestion, row.Buffers} {
		if s != "" {
			what = append(what, s)
		}
	}
	if len(what) == 0 {
		return row.Column
	}
	return row.Column + " (" + strings.Join(what, ", ") + ")"
}

func cell(row *Row, name string) string {
	m := metric(name)
	s, ok := Summarize(row, m)
	if !ok {
		return "–"
	}
	text := m.Text(s.Median)
	if s.Runs > 1 {
		text += fmt.Sprintf(" ±%.0f %%", s.Spread()*50)
	}
	return text
}

func pairOf(row *Row, first, second, between string) string {
	a, b := cell(row, first), cell(row, second)
	if a == "–" && b == "–" {
		return ""
	}
	return a + between + b
}

// gain is how many times less than the better baseline.
func (r *Report) gain(row *Row, name string) string {
	if row.Baseline {
		return ""
	}
	ratio, ok := perPayload(r.Baseline(row.Scenario, row.Phase, row.Link, metric(name)), row, metric(name))
	if !ok {
		return "–"
	}
	return Times(ratio)
}
