package main

import (
	"fmt"
	"io"
	"path/filepath"
	"strings"
	"text/tabwriter"

	"wanpair/bench/rival"
)

// printCodecRows writes a table for people, and a second one with what others made of the files.
func printCodecRows(w io.Writer, rows []codecRow) error {
	t := tabwriter.NewWriter(w, 0, 0, 2, ' ', tabwriter.AlignRight)
	many, others := false, false
	for _, r := range rows {
		many, others = many || r.ManyRatio > 0, others || len(r.Others) > 0
	}
	head := "file\traw MB\twire bytes\tratio\tstored/raw\tencode MB/s\tdecode MB/s\tprocess CPU s\tRAM MiB\tdisk MiB\tdisk reads\tverified\t"
	if many {
		head += "interleaved ratio\t"
	}
	fmt.Fprintln(t, head)
	for _, r := range rows {
		fmt.Fprintf(t, "%s\t%.1f\t%d\t%.2f\t%.3f\t%.0f\t%.0f\t%.2f\t%d\t%d\t%d\t%v\t", filepath.Base(r.File), float64(r.RawBytes)/1e6, r.WireBytes, r.Ratio,
			float64(r.StoredBytes)/float64(max(r.RawBytes, 1)), r.EncodeRate, r.DecodeRate, r.ProcessCPU, r.MemoryBytes>>20, r.DiskBytes>>20, r.DiskReads, r.Verified)
		if many {
			fmt.Fprintf(t, "%.2f\t", r.ManyRatio)
		}
		fmt.Fprintln(t)
	}
	if err := t.Flush(); err != nil || !others {
		return err
	}
	fmt.Fprintln(w)
	t = tabwriter.NewWriter(w, 0, 0, 2, ' ', tabwriter.AlignRight)
	fmt.Fprintln(t, "file\tby\twire bytes\tratio\tMB/s\tours over theirs\t")
	for _, r := range rows {
		for _, o := range r.Others {
			fmt.Fprintf(t, "%s\t%s\t%d\t%.2f\t%.1f\t%.2f\t\n", filepath.Base(r.File), o.Name, o.WireBytes, o.Ratio, o.Rate, r.over(o))
		}
	}
	return t.Flush()
}

// markdownCodecRows writes two tables for a document: files seen for the first time, and files that came after one like them. A cell of another
// program is its ratio, and its MB per second of CPU time in parentheses.
func markdownCodecRows(w io.Writer, rows []codecRow, flows int) error {
	for _, first := range []bool{false, true} {
		var part []codecRow
		for _, r := range rows {
			if r.First == first {
				part = append(part, r)
			}
		}
		if len(part) == 0 {
			continue
		}
		if _, err := io.WriteString(w, markdownCodec(part, first, flows)+"\n"); err != nil {
			return err
		}
	}
	return nil
}

// markdownCodec is one table.
func markdownCodec(rows []codecRow, first bool, flows int) string {
	head := []string{"file, seen before: one like it", "ratio"}
	if first {
		head[0] = "file, seen before: nothing"
	}
	many := rows[0].ManyRatio > 0
	if many {
		head = append(head, fmt.Sprintf("%d flows", flows))
	}
	head = append(head, "encode MB/s", "decode MB/s")
	var others []rival.Result
	for _, r := range rows {
		if len(r.Others) > len(others) {
			others = r.Others
		}
	}
	for _, o := range others {
		head = append(head, o.Name)
	}
	if len(others) > 0 {
		head = append(head, "ours over the best")
	}
	var b strings.Builder
	fmt.Fprintf(&b, "| %s |\n|%s\n", strings.Join(head, " | "), strings.Repeat("---|", len(head)))
	for _, r := range rows {
		name := filepath.Join(filepath.Base(filepath.Dir(r.File)), filepath.Base(r.File))
		cells := []string{name, ratio(r.Ratio)}
		if many {
			cells = append(cells, ratio(r.ManyRatio))
		}
		cells = append(cells, fmt.Sprintf("%.0f", r.EncodeRate), fmt.Sprintf("%.0f", r.DecodeRate))
		best := 0.0
		for _, o := range r.Others {
			cells = append(cells, fmt.Sprintf("%s (%s)", ratio(o.Ratio), significant(o.Rate)))
			if over := r.over(o); best == 0 || over < best {
				best = over
			}
		}
		switch {
		case len(r.Others) > 0:
			cells = append(cells, fmt.Sprintf("%.2f", best))
		case len(others) > 0:
			cells = append(cells, make([]string, len(others)+1)...)
		}
		fmt.Fprintf(&b, "| %s |\n", strings.Join(cells, " | "))
	}
	return b.String()
}

// ratio writes a ratio with three digits or all those before the point; near 1 the digits behind it are what counts.
func ratio(r float64) string {
	if r < 2 {
		return fmt.Sprintf("%.3f", r)
	}
	return significant(r)
}

// significant writes a number with three digits, or all those before the point.
func significant(v float64) string {
	switch {
	case v < 10:
		return fmt.Sprintf("%.2f", v)
	case v < 100:
		return fmt.Sprintf("%.1f", v)
	}
	return fmt.Sprintf("%.0f", v)
}
