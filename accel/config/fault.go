package config

import (
	"fmt"
	"slices"
	"strings"
	"unicode"
)

// Fault is one thing wrong with a configuration.
type Fault struct {
	File    string
	Line    int    // 1-based; 0: the fault belongs to no line, such as a missing section
	Key     string // dotted, such as "peer.subnets"; empty for a syntax error
	Problem string // what is wrong
	Advice  string // what to do
}

// Error gives the fault in one line: where, which key, what is wrong, what to do.
func (f Fault) Error() string {
	var b strings.Builder
	if f.File != "" {
		b.WriteString(f.File)
		if f.Line > 0 {
			fmt.Fprintf(&b, ":%d", f.Line)
		}
		b.WriteString(": ")
	}
	if f.Key != "" {
		b.WriteString(f.Key)
		b.WriteString(": ")
	}
	b.WriteString(f.Problem)
	if f.Advice != "" {
		b.WriteString("; ")
		b.WriteString(f.Advice)
	}
	return strings.Map(printable, b.String())
}

// printable keeps a key or text of the file from breaking the line or the terminal.
func printable(r rune) rune {
	if unicode.IsPrint(r) {
		return r
	}
	return '?'
}

// Faults is a list of faults as one error, a line each.
type Faults []Fault

// Error gives one line per fault.
func (fs Faults) Error() string {
	lines := make([]string, len(fs))
	for i, f := range fs {
		lines[i] = f.Error()
	}
	return strings.Join(lines, "\n")
}

// asError returns nil for an empty list, so that it compares equal to nil, and the faults in the order of their lines otherwise.
func (fs Faults) asError() error {
	if len(fs) == 0 {
		return nil
	}
	slices.SortStableFunc(fs, func(a, b Fault) int { return a.Line - b.Line })
	return fs
}
