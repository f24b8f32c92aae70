package chaos

import (
	"errors"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"wanpair/bench/link"
)

func TestScheduleIsRepeatableAndHasEverything(t *testing.T) {
	plan := Plan{Seconds: 120, Seed: 42}
	faults, conditions, err := plan.choose()
	if err != nil {
		t.Fatal(err)
	}
	var first, again []Event
	seen := map[string]bool{}
	for i := range len(fixed) + len(faults) {
		e := plan.schedule(faults, i)
		first, again = append(first, e), append(again, plan.schedule(faults, i))
		seen[e.Fault] = true
	}
	if diff := cmp.Diff(first, again); diff != "" {
		t.Error(diff)
	}
	for _, k := range faults {
		if !seen[k.name] {
			t.Errorf("a round without %s", k.name)
		}
	}
	for i, f := range fixed {
		if first[i].Fault != f.name || first[i].Victim != f.victim {
			t.Errorf("fault %d is %s, not %s %s", i, first[i].Name(), f.name, f.victim)
		}
	}
	other := Plan{Seconds: 120, Seed: 43}
	if cmp.Equal(first[len(fixed)+1], other.schedule(faults, len(fixed)+1)) {
		t.Error("another seed makes the same faults")
	}
	names := map[string]bool{}
	for i := range 200 {
		name, words, before, hold := plan.condition(conditions, i)
		names[name] = true
		if _, err := link.Parse(link.Pair{}, strings.Fields(calm+" "+words)...); err != nil {
			t.Errorf("%s: %v", words, err)
		}
		if before <= 0 || hold <= 0 {
			t.Errorf("%s lasts %v after %v", name, hold, before)
		}
	}
	if len(names) != len(conditions) {
		t.Errorf("of %d conditions only %v came up", len(conditions), names)
	}
}

func TestHoldsKeepWithinTheirBounds(t *testing.T) {
	for _, seconds := range []int{60, 7200} {
		plan := Plan{Seconds: seconds, Seed: 1}
		faults, _, _ := plan.choose()
		var longest time.Duration
		for i := range 500 {
			e := plan.schedule(faults, i)
			if e.Fault == "cut" {
				longest = max(longest, e.Hold)
				if e.Hold < 100*time.Millisecond {
					t.Errorf("a cut of %v", e.Hold)
				}
			}
		}
		if short := seconds <= shortSeconds; short != (longest <= 4*time.Second) || longest > time.Minute {
			t.Errorf("%d s: the longest cut is %v", seconds, longest)
		}
	}
}

func TestChoiceOfFaults(t *testing.T) {
	faults, conditions, err := Plan{Faults: []string{"cut", "loss"}}.choose()
	if err != nil || len(faults) != 1 || len(conditions) != 1 {
		t.Errorf("got %v, %v, %v", faults, conditions, err)
	}
	if _, _, err := (Plan{Faults: []string{"flood"}}).choose(); !errors.Is(err, ErrFault) {
		t.Errorf("got %v", err)
	}
	e := Plan{Seed: 1}.schedule(faults, 7)
	if e.Fault != "cut" {
		t.Errorf("got %s", e.Name())
	}
}
