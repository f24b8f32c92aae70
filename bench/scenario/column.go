package scenario

import (
	"fmt"
	"slices"
	"strings"
)

// Column is one way to carry the bytes.
type Column struct {
	Name string
	// Congestion control of clients and servers, and their largest buffers in bytes; 0 is the kernel's default.
	Congestion  string
	BufferBytes int
	// NoScaling switches window scaling off: the window is 64 KB, as with old or badly set up ends.
	NoScaling bool
	// Gateway puts a pair of wanpair between them.
	Gateway bool
	// Tool names what a user would pick instead; scenarios say which they know.
	Tool string
	// Baseline marks plain TCP as it comes, which others are measured against.
	Baseline bool
	// Everywhere marks the columns measured on every link; the others are measured on the full ones, and there only in a full plan.
	Everywhere bool
	// NoLink takes delay, rate and loss away: what clients and servers need by themselves, which no tunnel can save.
	NoLink bool
	// Calculated marks the column that is worked out from sizes.
	Calculated bool
}

// bigBuffer is 128 MB: more than any link of the benchmark can have under way.
const bigBuffer = 128 << 20

// Columns are all of them, in the order in which they are shown.
func Columns() []Column {
	return []Column{
		{Name: "direct-cubic", Congestion: "cubic", Baseline: true, Everywhere: true},
		{Name: "direct-bbr", Congestion: "bbr", Baseline: true, Everywhere: true},
		{Name: "wanpair", Congestion: "cubic", Gateway: true, Everywhere: true},
		{Name: "direct-cubic-128m", Congestion: "cubic", BufferBytes: bigBuffer},
		{Name: "direct-bbr-128m", Congestion: "bbr", BufferBytes: bigBuffer},
		{Name: "direct-64k", Congestion: "cubic", NoScaling: true},
		{Name: "kcptun", Congestion: "cubic", Tool: "kcptun"},
		{Name: "ssh -C", Congestion: "bbr", Tool: "ssh -C"},
		{Name: "rsync -z", Congestion: "bbr", Tool: "rsync -z"},
		{Name: "no link", Congestion: "cubic", NoLink: true},
		{Name: "ideal", Calculated: true},
	}
}

// remembers says whether what was sent before can make a later phase cheaper. It cannot with plain TCP, whose repetitions are therefore
// not measured twice; rsync finds its own files again.
func (c Column) remembers() bool { return c.Gateway || c.Tool == "rsync -z" }

// phases are those that the column plays: all, but only the first one for the direct columns that are not the baseline.
func (c Column) phases(s *Scenario) []string {
	var played []string
	for i, phase := range s.Phases {
		if c.remembers() || ((c.Baseline || c.NoLink) && repeats(phase) == "") || i == 0 {
			played = append(played, phase)
		}
	}
	return played
}

// words are the parameters of the link that the column has.
func (c Column) words(l Link) string {
	if c.NoLink {
		return "both delay=0s"
	}
	return l.Words()
}

// Buffers describes the TCP buffers for readers.
func (c Column) Buffers() string {
	switch {
	case c.Calculated:
		return ""
	case c.NoScaling:
		return "64 KB window"
	case c.BufferBytes > 0:
		return fmt.Sprintf("%d MB buffers", c.BufferBytes>>20)
	}
	return "default buffers"
}

// applies says whether the column is measured for a scenario on a link. Other settings of plain TCP take the most time and are the least
// surprising, so a plan that is not full leaves them out.
func (c Column) applies(s *Scenario, l Link, full bool) bool {
	switch {
	case c.Tool != "":
		return l.Full && slices.Contains(s.Alternatives, c.Tool)
	case c.Everywhere || l.Name == windowLink && c.NoScaling:
		return true
	case c.Calculated, c.NoLink:
		return l.Full
	}
	return l.Full && full
}

// windowLink is the link on which a 64 KB window hurts most.
const windowLink = "1g-100ms"

// FindColumns looks columns up by name; none named is nil, which means: those that apply.
func FindColumns(names []string) ([]Column, error) {
	var found []Column
	all := Columns()
	for _, name := range names {
		i := slices.IndexFunc(all, func(c Column) bool { return c.Name == name })
		if i < 0 {
			var known []string
			for _, c := range all {
				known = append(known, c.Name)
			}
			return nil, fmt.Errorf("no column %q: there are %s", name, strings.Join(known, ", "))
		}
		found = append(found, all[i])
	}
	return found, nil
}
