package grid

import (
	"fmt"
	"strings"
	"text/tabwriter"
)

// head and cells are the columns of the tables.
func head() []string {
	return []string{"link", "task", "column", "mean Mbit/s", "second half", "sent again", "beyond", "CPU s/GB", "Jain", "cold s", "queue ms", "latency idle", "beside bulk", "remarks"}
}

// cells is one line of the tables.
func (r *Result) cells() []string {
	mbit := func(v float64) string { return orNothing(v != 0, "%.1f", v/1e6) }
	remarks := []string{r.Congestion}
	if r.Kind == Cut && r.Failure == "" {
		remarks = append(remarks, fmt.Sprintf("after the repair: bulk went on %.2f s, held answer %.2f s, silent flow %.2f s", r.ResumeSeconds, r.HeldSeconds, r.SilentSeconds))
	}
	if r.Kind == Fairness {
		remarks = append(remarks, fmt.Sprintf("kernel's %s %.1f Mbit/s, our share %.0f %%", r.Beside, r.BesideBits/1e6, r.Share*100))
	}
	if r.GapSeconds > 1 {
		remarks = append(remarks, fmt.Sprintf("nothing came for %.1f s", r.GapSeconds))
	}
	if d := r.Drops; d != (Drops{}) {
		remarks = append(remarks, fmt.Sprintf("the machine dropped %d packets at the gateways' sockets, %d at the link's device", d.Socket+d.Send, d.Device))
	}
	if r.Void != "" {
		remarks = append(remarks, "does not count: "+r.Void)
	}
	if r.Failure != "" {
		first, _, _ := strings.Cut(r.Failure, "\n")
		remarks = append(remarks, "FAILED: "+first)
	}
	bulk := r.Kind == Bulk && r.HalfBits > 0
	cold := orNothing(bulk, "%.2f", r.ColdSeconds)
	if r.ColdSeconds < 0 {
		cold = "never"
	}
	return []string{
		r.Link(), r.Task(), r.Column, mbit(r.MeanBits), mbit(r.HalfBits), orNothing(bulk, "%.2f %%", r.ResentShare*100), orNothing(bulk, "%.1f %%", r.BeyondShare*100),
		orNothing(r.CPUSecondsPerGB > 0, "%.1f", r.CPUSecondsPerGB), orNothing(r.Jain > 0, "%.3f", r.Jain), cold,
		orNothing(r.QueueMillis > 0, "%.1f", r.QueueMillis), r.Idle.String(), r.Busy.String(), strings.Join(remarks, "; "),
	}
}

func orNothing(show bool, format string, v float64) string {
	if !show {
		return ""
	}
	return fmt.Sprintf(format, v)
}

// Line is the result in one line, for those who watch.
func (r *Result) Line() string {
	parts := []string{}
	for i, cell := range r.cells()[3:] {
		if cell == "" {
			continue
		}
		if name := head()[3+i]; name != "remarks" {
			cell = name + " " + cell
		}
		parts = append(parts, cell)
	}
	return r.String() + ": " + strings.Join(parts, ", ")
}

// Text writes all results as a table for a terminal, then the figures.
func (r *Report) Text() string {
	var b strings.Builder
	for _, fact := range r.facts() {
		fmt.Fprintf(&b, "%s\n", fact)
	}
	w := tabwriter.NewWriter(&b, 0, 0, 2, ' ', 0)
	fmt.Fprintf(w, "\n%s\n", strings.Join(head(), "\t"))
	for i := range r.Results {
		fmt.Fprintf(w, "%s\n", strings.Join(r.Results[i].cells(), "\t"))
	}
	fmt.Fprintf(w, "\nfigure\tasked for\tmeasured\t\n")
	for i := range r.Results {
		one := &r.Results[i]
		for _, f := range one.Figures(r.Results) {
			fmt.Fprintf(w, "%s: %s\t%s\t%s\t%s\n", one, f.Name, f.Asked, f.Measured, verdict(f.Met))
		}
	}
	_ = w.Flush() // a Builder takes everything
	return b.String()
}

func verdict(met bool) string {
	if met {
		return "reached"
	}
	return "NOT REACHED"
}

// facts are what readers must know of the run.
func (r *Report) facts() []string {
	m := r.Machine
	return append([]string{
		fmt.Sprintf("measured %s, %s; %d cores of %s, kernel %s, %s", r.Started.UTC().Format("2006-01-02 15:04 UTC"), r.Gateway, m.Cores, m.CPU, m.Kernel, m.Go),
		"both gateways, client, server and the link's emulator share the machine",
	}, r.Notes...)
}

// Markdown writes the facts, the figures and all results as tables of a document.
func (r *Report) Markdown() string {
	var b strings.Builder
	for _, fact := range r.facts() {
		fmt.Fprintf(&b, "- %s\n", fact)
	}
	row := func(cells []string) {
		b.WriteString("|")
		for _, cell := range cells {
			fmt.Fprintf(&b, " %s |", strings.ReplaceAll(cell, "|", `\|`))
		}
		b.WriteString("\n")
	}
	table := func(head []string) {
		b.WriteString("\n")
		row(head)
		b.WriteString(strings.Repeat("|---", len(head)) + "|\n")
	}
	table([]string{"point", "figure", "asked for", "measured", ""})
	for i := range r.Results {
		for _, f := range r.Results[i].Figures(r.Results) {
			row([]string{r.Results[i].String(), f.Name, f.Asked, f.Measured, verdict(f.Met)})
		}
	}
	table(head())
	for i := range r.Results {
		row(r.Results[i].cells())
	}
	return b.String()
}
