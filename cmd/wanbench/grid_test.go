package main

import (
	"strings"
	"testing"

	"wanpair/bench/grid"
)

// gridFlags is what the flags are when none is given.
func gridFlags() gridCmd {
	return gridCmd{RTTs: []string{"100ms"}, Losses: []string{"0%"}, Queues: []string{"1"}, Flows: []int{1}, Columns: []string{"direct-reno"}}
}

func TestGridPlan(t *testing.T) {
	c := gridFlags()
	c.Rates, c.RTTs, c.Losses, c.Queues = []string{"20mbit", "1gbit"}, []string{"20ms", "300ms"}, []string{"0.5%", "1%/4"}, []string{"1", "4"}
	c.Flows, c.Seconds, c.JSON = []int{1, 10}, 4, "out.json"
	plan, err := c.plan()
	if err != nil {
		t.Fatal(err)
	}
	if len(plan.Points) != 2*2*2*2*2 || plan.State != "out.json.state" || plan.Gateway != "no gateway" {
		t.Errorf("%d points, state %q, gateway %q", len(plan.Points), plan.State, plan.Gateway)
	}
	want := grid.Point{
		Kind: grid.Bulk, RateMbit: 1000, RTTMillis: 300, LossPercent: 1, Burst: 4, QueueBDP: 4, Flows: 10, Column: "direct-reno", Seconds: 4,
	}
	if got := plan.Points[len(plan.Points)-1]; got != want {
		t.Errorf("the last point is %+v, want %+v", got, want)
	}

	c = gridFlags()
	c.Preset = []string{"all"}
	if plan, err = c.plan(); err != nil || len(plan.Points) < 20 {
		t.Errorf("all presets are %d points, %v", len(plan.Points), err)
	}
	c = gridFlags()
	if plan, err = c.plan(); err != nil || len(plan.Points) != 2 {
		t.Errorf("nothing said is %d points, %v", len(plan.Points), err)
	}
}

func TestGridRefuses(t *testing.T) {
	for _, c := range []struct {
		want   string
		change func(*gridCmd)
	}{
		{"unlimited", func(c *gridCmd) { c.Rates = []string{"unlimited"} }},
		{"100 apples", func(c *gridCmd) { c.Rates = []string{"100 apples"} }},
		{"no duration", func(c *gridCmd) { c.Rates, c.RTTs = []string{"1mbit"}, []string{"10"} }},
		{"no percentage", func(c *gridCmd) { c.Rates, c.Losses = []string{"1mbit"}, []string{"1"} }},
		{"burst=x", func(c *gridCmd) { c.Rates, c.Losses = []string{"1mbit"}, []string{"1%/x"} }},
		{"--queues 0", func(c *gridCmd) { c.Rates, c.Queues = []string{"1mbit"}, []string{"0"} }},
		{"--flows 0", func(c *gridCmd) { c.Rates, c.Flows = []string{"1mbit"}, []int{0} }},
		{"--seconds", func(c *gridCmd) { c.Seconds = 0.5 }},
		{"no preset", func(c *gridCmd) { c.Preset = []string{"tables"} }},
		{"no column", func(c *gridCmd) { c.Columns = []string{"cubic"} }},
		{"no gateway to measure", func(c *gridCmd) { c.Columns, c.Binary = []string{"wanpair"}, "/nonexistent" }},
	} {
		flags := gridFlags()
		c.change(&flags)
		if _, err := flags.plan(); err == nil || !strings.Contains(err.Error(), c.want) {
			t.Errorf("want an error with %q, got %v", c.want, err)
		}
	}
}
