package scenario

import (
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"strings"
	"time"

	"wanpair/bench/report"
)

// ErrOtherPlan is wrapped when a state file belongs to another plan or another build.
var ErrOtherPlan = errors.New("state file of another benchmark")

// state is what an interrupted benchmark needs to go on.
type state struct {
	Commit   string
	Runs     int
	Transfer time.Duration
	Seed     uint64
	Late     time.Duration
	Done     []item
	Report   report.Report

	path string
	done map[item]bool
}

// openState reads the state file of the plan, or begins anew when there is none.
func openState(plan Plan, machine report.Machine) (*state, error) {
	fresh := &state{
		Commit: machine.Commit, Runs: plan.Runs, Transfer: plan.Transfer, Seed: plan.Seed, Late: plan.Late, path: plan.State, done: map[item]bool{},
		Report: report.Report{Started: time.Now().UTC().Truncate(time.Second), Machine: machine, Seed: plan.Seed},
	}
	fresh.Report.Notes = []string{
		fmt.Sprintf("%s: sizes are what the link carries in about %v at its full rate, where the data allow it; runs of each column: %d", plan.what(), plan.Transfer, plan.Runs),
		"a direct column's repetition of the same bytes is not measured again: plain TCP remembers nothing",
	}
	if plan.State == "" {
		return fresh, nil
	}
	data, err := os.ReadFile(plan.State)
	if errors.Is(err, fs.ErrNotExist) {
		return fresh, nil
	}
	if err != nil {
		return nil, err
	}
	old := &state{path: plan.State, done: map[item]bool{}}
	if err := json.Unmarshal(data, old); err != nil {
		return nil, fmt.Errorf("%s: %w: %w", plan.State, ErrOtherPlan, err)
	}
	if old.Commit != fresh.Commit || old.Runs != fresh.Runs || old.Transfer != fresh.Transfer || old.Seed != fresh.Seed || old.Late != fresh.Late {
		return nil, fmt.Errorf("%s: %w: remove it to begin anew, or ask for %d runs of %v with seed %d at commit %s", plan.State, ErrOtherPlan,
			old.Runs, old.Transfer, old.Seed, old.Commit)
	}
	for _, it := range old.Done {
		old.done[it] = true
	}
	return old, nil
}

// what names the plan's scenarios and links.
func (p Plan) what() string {
	var scenarios, links []string
	for _, s := range p.Scenarios {
		scenarios = append(scenarios, s.Name)
	}
	for _, l := range p.Links {
		links = append(links, l.Name)
	}
	name := strings.Join(scenarios, ", ")
	if len(scenarios) == len(All()) {
		name = "all scenarios"
	}
	return name + " over " + strings.Join(links, ", ")
}

func (s *state) isDone(it item) bool { return s.done[it] }

// finish notes that an item is done and saves everything.
func (s *state) finish(it item) error {
	s.done[it] = true
	s.Done = append(s.Done, it)
	if s.path == "" {
		return nil
	}
	data, err := json.Marshal(s)
	if err != nil {
		return err
	}
	return report.WriteFile(s.path, data)
}

// remove ends a benchmark that is complete.
func (s *state) remove() error {
	if s.path == "" {
		return nil
	}
	if err := os.Remove(s.path); err != nil && !errors.Is(err, fs.ErrNotExist) {
		return err
	}
	return nil
}
