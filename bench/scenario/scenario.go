package scenario

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"strings"
	"time"

	"wanpair/bench/report"
	"wanpair/bench/server"
)

// Phases that most scenarios have.
const (
	cold    = "cold"
	again   = "again"
	changed = "changed"
)

// ErrTooLong is wrapped when the smallest real case of a scenario would take too long over a link.
var ErrTooLong = errors.New("left out: even the smallest real case takes too long directly over this link")

// ErrDiffers is wrapped when what arrived is not what was sent. It ends the benchmark: nothing else matters then.
var ErrDiffers = errors.New("what arrived is not what was sent")

// Scenario is one thing that people do over a WAN.
type Scenario struct {
	Name, Title, Text string
	Phases            []string
	// Tools are the programs it needs, Sets the corpora.
	Tools, Sets []string
	// Root marks those that need the real root, for other users or for /run.
	Root bool
	// Alternatives are the tools it knows to use instead; see Column.Tool.
	Alternatives []string
	// Prepare makes the material for one link.
	Prepare func(ctx context.Context, kit Kit) (Material, error)
}

// Kit is what a scenario makes its material from.
type Kit struct {
	Dir    string // empty, and open to other users
	Corpus string
	Link   Link
	// Bytes is how much one phase should move.
	Bytes int64
	Seed  uint64
}

// Material is what all plays of a scenario over one link share.
type Material struct {
	// Open sets the stage for one play.
	Open func(ctx context.Context, stage Stage) (Play, error)
	// Ideal is, per phase, what the best delta coder would send: see ideal.
	Ideal map[string]Sizes
	// Close stops what the material itself started; may be nil.
	Close func() error
}

// Sizes are payload and wire bytes.
type Sizes struct{ Payload, Wire int64 }

// Stage is where a play is played.
type Stage struct {
	Kit
	Client, Server server.Place
	Column         Column
	Dir            string // of this play alone
}

// Play is one scenario by one column.
type Play interface {
	// Phase prepares, measures and checks one phase.
	Phase(ctx context.Context, phase string, m *Meter) (report.Run, error)
	// Close stops what the play started.
	Close() error
}

// Work is what a measured function says of itself.
type Work struct {
	// Bytes that the application received or sent.
	Bytes   int64
	Latency *report.Latency
	Lag     []server.Lag
	// Took replaces the time from beginning to end, for load generators that run for a given time; 0 keeps it.
	Took time.Duration
}

// repeats says which earlier phase a phase repeats byte for byte, "" for none. For whoever remembers nothing it is the same again.
func repeats(phase string) string {
	if phase == again || phase == "second site" {
		return cold
	}
	return ""
}

// All lists the scenarios in the order in which they are shown.
func All() []*Scenario {
	return slices.Concat(databaseScenarios(), releaseScenarios(), shareScenarios(), fileScenarios(), webScenarios(), cipherScenarios(), bulkScenarios())
}

// Find looks scenarios up by name or by a prefix that ends before a dash; none named is all.
func Find(names []string) ([]*Scenario, error) {
	all := All()
	if len(names) == 0 {
		return all, nil
	}
	var found []*Scenario
	for _, name := range names {
		n := len(found)
		for _, s := range all {
			if s.Name == name || strings.HasPrefix(s.Name, name+"-") {
				found = append(found, s)
			}
		}
		if len(found) == n {
			return nil, fmt.Errorf("no scenario %q: wanbench list shows them", name)
		}
	}
	return found, nil
}

// Abouts describes the scenarios for a report.
func Abouts() []report.About {
	var abouts []report.About
	for _, s := range All() {
		abouts = append(abouts, report.About{Name: s.Name, Title: s.Title, Text: s.Text})
	}
	return abouts
}

// same compares hashes; an error wraps ErrDiffers.
func same(what, got, want string) error {
	if got != want {
		return fmt.Errorf("%s: %w", what, ErrDiffers)
	}
	return nil
}
