package report

import (
	"fmt"
	"strings"
	"text/tabwriter"
)

// Text writes the rows as a plain table for a terminal.
func (r *Report) Text() string {
	var b strings.Builder
	w := tabwriter.NewWriter(&b, 0, 0, 2, ' ', 0)
	for _, link := range r.Links() {
		fmt.Fprintf(w, "%s\ncolumn\tpayload\ttime\ton the wire\tfaster\tfewer bytes\tlatency p50 / p99\tCPU, RSS\n", link)
		last := ""
		for _, row := range r.ofLink(link, nil) {
			if row.empty() {
				continue
			}
			if name := row.Scenario + ", " + row.Phase; name != last {
				last = name
				fmt.Fprintf(w, "%s\n", name)
			}
			if row.Missing != "" {
				fmt.Fprintf(w, "  %s\tnot run: %s\n", row.Column, row.Missing)
				continue
			}
			fmt.Fprintf(w, "  %s\t%s\t%s\t%s\t%s\t%s\t%s\t%s\n", row.Column, payloadText(row), cell(row, "time"), cell(row, "wire bytes"),
				r.gain(row, "time"), r.gain(row, "wire bytes"), pairOf(row, "latency p50", "latency p99", " / "), pairOf(row, "CPU", "RSS", ", "))
			for _, run := range row.Runs {
				if run.Void != "" {
					fmt.Fprintf(w, "    a run does not count: %s\n", run.Void)
				}
			}
		}
	}
	_ = w.Flush() // a Builder takes everything
	return b.String()
}

// payloadText is the payload, with the files where they count.
func payloadText(row *Row) string {
	text := Bytes(payload(row))
	for _, run := range row.Runs {
		if run.Items > 0 {
			return fmt.Sprintf("%s, %d files", text, run.Items)
		}
	}
	return text
}

// payload is the most that a run of the row moved.
func payload(row *Row) float64 {
	most := 0.0
	for _, run := range row.Runs {
		most = max(most, float64(run.PayloadBytes))
	}
	return most
}
