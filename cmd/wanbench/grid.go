package main

import (
	"context"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"time"

	"wanpair/bench/grid"
	"wanpair/bench/lab"
	"wanpair/bench/link"
	"wanpair/bench/report"
)

// gridCmd measures the tunnel beside the kernel's TCP over a grid of links.
type gridCmd struct {
	Preset   []string `placeholder:"NAME" help:"Named sets of points: quick, table, lanes, latency, cut, fairness, or all of them; several are measured in one run. Without any and without --rates: quick."`
	Rates    []string `placeholder:"RATE" help:"Rates of a grid of your own, such as 20mbit,1gbit."`
	RTTs     []string `name:"rtts" default:"100ms" help:"Its round trips."`
	Losses   []string `default:"0%" help:"Its losses, in both directions; 1%/4 is 1 % in bursts of 4 packets on average."`
	Queues   []string `default:"1" help:"Its queues in bandwidth-delay products."`
	Flows    []int    `default:"1" help:"Its numbers of flows."`
	Columns  []string `placeholder:"NAME" help:"Ways to carry the bytes: wanpair, wanpair-1-lane, wanpair-no-governor(-1-lane, -8-lanes), direct-cubic, direct-reno, direct-bbr, direct-cubic-128m, direct-bbr-128m. Default: wanpair,direct-cubic,direct-bbr, or those of the preset."`
	Seconds  float64  `help:"How long bulk flows run; default 15, or what the preset takes."`
	Tries    int      `default:"3" help:"How often a point is measured at most while the link is not exact."`
	Stalls   float64  `default:"0.2" placeholder:"PERCENT" help:"Share of its time that the link's emulator may have stood still for a run to count, in per cent."`
	Seed     uint64   `default:"1" help:"Of the link's loss."`
	Binary   string   `placeholder:"FILE" help:"The wanpair binary; default: beside this one."`
	JSON     string   `name:"json" placeholder:"FILE" help:"Write the results; FILE.state lets an interrupted run go on."`
	HTML     string   `name:"html" placeholder:"FILE" help:"Write one page with pictures."`
	Markdown string   `placeholder:"FILE" help:"Write the tables as a document."`
	State    string   `placeholder:"FILE" help:"The file that lets an interrupted run go on, if not FILE.state of --json."`
	Keep     string   `placeholder:"DIR" help:"Keep the gateways' configurations and logs."`
}

// Run measures, prints each result when it is there, then the table, and writes what was asked for.
func (c gridCmd) Run() error {
	plan, err := c.plan()
	if err != nil {
		return err
	}
	if err := lab.Enter(); err != nil {
		return fmt.Errorf("link-grid makes network namespaces: %w", err)
	}
	ctx, stop := interrupted()
	defer stop()
	var b *bar
	plan.Progress = func(what string, done, total int) {
		if b == nil {
			b = newBar(total)
		}
		b.step(what, done)
	}
	plan.Done = func(r grid.Result) {
		if !b.terminal {
			fmt.Fprintln(os.Stderr, "  "+r.Line())
		}
	}
	result, err := grid.Run(ctx, plan)
	if b != nil {
		b.finish()
	}
	if err != nil && ctx.Err() != nil && plan.State != "" {
		return fmt.Errorf("%w: the same command goes on where this one stopped", err)
	}
	if result == nil || len(result.Results) == 0 {
		return err
	}
	faults := []error{err}
	if c.JSON != "" {
		faults = append(faults, result.Write(c.JSON))
	}
	if c.HTML != "" {
		page, err := result.HTML()
		if err == nil {
			err = report.WriteFile(c.HTML, page)
		}
		faults = append(faults, err)
	}
	if c.Markdown != "" {
		faults = append(faults, report.WriteFile(c.Markdown, []byte(result.Markdown())))
	}
	_, err = fmt.Print(result.Text())
	return errors.Join(append(faults, err)...)
}

func (c gridCmd) plan() (grid.Plan, error) {
	plan := grid.Plan{Seed: c.Seed, Tries: c.Tries, StallShare: c.Stalls / 100, State: c.State, Keep: c.Keep, Machine: report.ThisMachine(commit)}
	if c.State == "" && c.JSON != "" {
		plan.State = c.JSON + ".state"
	}
	const longest = 10 * time.Minute
	if c.Seconds < 0 || c.Seconds > longest.Seconds() || c.Seconds > 0 && c.Seconds < 1 {
		return plan, fmt.Errorf("--seconds %g is not within 1 to %g", c.Seconds, longest.Seconds())
	}
	for _, name := range c.Columns {
		if _, err := grid.FindColumn(name); err != nil {
			return plan, err
		}
	}
	if len(c.Preset) == 0 && len(c.Rates) == 0 {
		c.Preset = []string{"quick"}
	}
	if slices.Equal(c.Preset, []string{"all"}) {
		c.Preset = grid.Presets()
	}
	for _, name := range c.Preset {
		points, err := grid.Preset(name, c.Seconds, c.Columns)
		if err != nil {
			return plan, err
		}
		plan.Points = append(plan.Points, points...)
	}
	points, err := c.cross()
	if err != nil {
		return plan, err
	}
	plan.Points = append(plan.Points, points...)
	return plan, c.binary(&plan)
}

// cross reads the flags of a grid of the user's own.
func (c gridCmd) cross() ([]grid.Point, error) {
	var rates, rtts, queues []float64
	var losses [][2]float64
	parse := func(word string) (link.Params, error) {
		p, err := link.Parse(link.Pair{}, word)
		return p.AtoB, err
	}
	for _, text := range c.Rates {
		p, err := parse("rate=" + text)
		if err != nil {
			return nil, err
		}
		if p.RateBitsPerSec == 0 {
			return nil, fmt.Errorf("--rates %s: a link of the grid needs a rate", text)
		}
		rates = append(rates, float64(p.RateBitsPerSec)/1e6)
	}
	for _, text := range c.RTTs {
		p, err := parse("delay=" + text)
		if err != nil {
			return nil, err
		}
		rtts = append(rtts, p.Delay.Seconds()*1e3)
	}
	for _, text := range c.Losses {
		loss, burst, _ := strings.Cut(text, "/")
		words := []string{"loss=" + loss}
		if burst != "" {
			words = append(words, "burst="+burst)
		}
		p, err := link.Parse(link.Pair{}, words...)
		if err != nil {
			return nil, err
		}
		percent, err := strconv.ParseFloat(strings.TrimSuffix(loss, "%"), 64)
		if err != nil {
			return nil, err
		}
		losses = append(losses, [2]float64{percent, p.AtoB.Burst})
	}
	for _, text := range c.Queues {
		q, err := strconv.ParseFloat(text, 64)
		if err != nil || !(q > 0 && q <= 100) {
			return nil, fmt.Errorf("--queues %s: want a number of bandwidth-delay products above 0, at most 100", text)
		}
		queues = append(queues, q)
	}
	for _, n := range c.Flows {
		if n < 1 || n > 1000 {
			return nil, fmt.Errorf("--flows %d: want 1 to 1000", n)
		}
	}
	columns, seconds := c.Columns, c.Seconds
	if len(columns) == 0 {
		columns = []string{"wanpair", "direct-cubic", "direct-bbr"}
	}
	if seconds == 0 {
		seconds = 15
	}
	return grid.Cross(rates, rtts, losses, queues, c.Flows, columns, seconds), nil
}

// binary finds the gateway and asks what it is; where no column needs one there may be none.
func (c gridCmd) binary(plan *grid.Plan) error {
	needed := false
	for _, p := range plan.Points {
		column, err := grid.FindColumn(p.Column)
		if err != nil {
			return err
		}
		needed = needed || column.Gateway
	}
	if !needed {
		plan.Gateway = "no gateway"
		return nil
	}
	path := c.Binary
	if path == "" {
		self, err := os.Executable()
		if err != nil {
			return err
		}
		path = filepath.Join(filepath.Dir(self), "wanpair")
	}
	path, err := filepath.Abs(path)
	if err != nil {
		return err
	}
	ctx, cancel := context.WithTimeout(context.Background(), 10*time.Second)
	defer cancel()
	out, err := exec.CommandContext(ctx, path, "version").Output()
	if err != nil {
		return fmt.Errorf("no gateway to measure: %w: make build makes it, --binary names another", err)
	}
	plan.Binary, plan.Gateway = path, strings.Join(strings.Fields(string(out)), " ")
	return nil
}
