package main

import (
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"time"

	"wanpair/bench/corpus"
	"wanpair/bench/lab"
	"wanpair/bench/report"
	"wanpair/bench/scenario"
)

// runCmd measures scenarios over the emulated link, all columns in one run.
type runCmd struct {
	Scenarios []string      `arg:"" optional:"" help:"Names, or what names begin with (release, web); see list. None: all."`
	Link      []string      `placeholder:"NAME" help:"Links, see list; may be given more than once. Default: 10m-100ms. 'all' is every one."`
	Column    []string      `placeholder:"NAME" help:"Columns, see list. Default: those that apply."`
	Full      bool          `help:"Measure plain TCP with large buffers and with a 64 KB window as well, where the list says all columns."`
	Runs      int           `default:"1" help:"Runs of each column; three or more for figures with a spread."`
	Transfer  time.Duration `default:"8s" help:"How long one phase should take directly; sizes follow from it. At most 60s."`
	For       time.Duration `placeholder:"TIME" help:"Stop after about so long; with --json the same command goes on from there."`
	Seed      uint64        `default:"1" help:"Of the link's loss and of the load generators."`
	Late      time.Duration `default:"10ms" help:"How late the link's emulator may have been at worst for a run to count."`
	Corpus    string        `placeholder:"DIR" help:"Where the corpora are, and are made when missing. Default: wanbench below the user's cache directory."`
	Binary    string        `placeholder:"FILE" help:"The wanpair binary; default: beside this one. 'none' measures without it."`
	Logs      string        `placeholder:"DIR" help:"Keep the gateways' logs of runs that failed here."`
	JSON      string        `name:"json" placeholder:"FILE" help:"Write the results; FILE.state lets an interrupted run go on."`
	HTML      string        `name:"html" placeholder:"FILE" help:"Write one page with pictures."`
	Markdown  string        `placeholder:"FILE" help:"Write the tables as a document."`
}

// Run measures, writes what was asked for and prints the tables.
func (c runCmd) Run() error {
	plan, err := c.plan()
	if err != nil {
		return err
	}
	ctx, stop := interrupted()
	defer stop()
	if err := c.corpora(plan); err != nil { // before Enter: afterwards there is no network
		return err
	}
	if err := lab.Enter(); err != nil {
		return fmt.Errorf("run makes network namespaces: %w", err)
	}
	var b *bar
	plan.Progress = func(what string, done, total int) {
		if b == nil {
			b = newBar(total)
		}
		b.step(what, done)
	}
	result, err := scenario.Run(ctx, plan, report.ThisMachine(commit))
	if b != nil {
		b.finish()
	}
	if err != nil && plan.State != "" && (ctx.Err() != nil || errors.Is(err, scenario.ErrLater)) {
		return fmt.Errorf("%w: the same command goes on where this one stopped", err)
	}
	if result != nil && len(result.Rows) > 0 {
		err = errors.Join(err, c.write(result))
	}
	return err
}

func (c runCmd) plan() (scenario.Plan, error) {
	plan := scenario.Plan{Runs: c.Runs, Transfer: c.Transfer, Seed: c.Seed, Late: c.Late, Corpus: c.Corpus, Binary: c.Binary, Logs: c.Logs, Full: c.Full}
	const longest = time.Minute
	if c.Transfer < time.Second/2 || c.Transfer > longest {
		return plan, fmt.Errorf("--transfer %v is not within 0.5s to %v", c.Transfer, longest)
	}
	if c.For > 0 {
		plan.Until = time.Now().Add(c.For)
	}
	var err error
	if plan.Scenarios, err = scenario.Find(c.Scenarios); err != nil {
		return plan, err
	}
	if plan.Columns, err = scenario.FindColumns(c.Column); err != nil {
		return plan, err
	}
	switch {
	case len(c.Link) == 0:
		plan.Links = scenario.Links()[:1]
	case slices.Equal(c.Link, []string{"all"}):
		plan.Links = scenario.Links()
	}
	for _, name := range c.Link {
		if len(plan.Links) == len(scenario.Links()) {
			break
		}
		l, err := scenario.FindLink(name)
		if err != nil {
			return plan, err
		}
		plan.Links = append(plan.Links, l)
	}
	if c.JSON != "" {
		plan.State = c.JSON + ".state"
	}
	if plan.Corpus == "" {
		cache, err := os.UserCacheDir()
		if err != nil {
			return plan, fmt.Errorf("--corpus is needed: %w", err)
		}
		plan.Corpus = filepath.Join(cache, "wanbench")
	}
	if plan.Corpus, err = filepath.Abs(plan.Corpus); err != nil {
		return plan, err
	}
	return plan, c.binary(&plan)
}

// binary finds the gateway.
func (c runCmd) binary(plan *scenario.Plan) error {
	switch c.Binary {
	case "none":
		plan.Binary = ""
		return nil
	case "":
		self, err := os.Executable()
		if err != nil {
			return err
		}
		plan.Binary = filepath.Join(filepath.Dir(self), "wanpair")
	}
	path, err := filepath.Abs(plan.Binary)
	if err != nil {
		return err
	}
	if _, err := os.Stat(path); err != nil {
		return fmt.Errorf("no gateway to measure: %w: make build makes it, --binary none leaves it out", err)
	}
	plan.Binary = path
	return nil
}

// corpora makes what the scenarios need and is not there.
func (c runCmd) corpora(plan scenario.Plan) error {
	if lab.Entered() {
		return nil
	}
	var sets []string
	for _, s := range plan.Scenarios {
		for _, set := range s.Sets {
			if files, err := corpus.Files(plan.Corpus, set); err == nil && len(files) > 0 || slices.Contains(sets, set) {
				continue
			}
			sets = append(sets, set)
		}
	}
	if len(sets) == 0 {
		return nil
	}
	fmt.Fprintf(os.Stderr, "wanbench: first the data: %s, into %s\n", strings.Join(sets, ", "), plan.Corpus)
	return corpusCmd{Dir: plan.Corpus, Sets: sets, Scale: 1}.Run()
}

// write writes the files asked for and prints the tables.
func (c runCmd) write(r *report.Report) error {
	var faults []error
	text := r.Markdown(scenario.Abouts(), scenario.Targets())
	if c.JSON != "" {
		faults = append(faults, r.Write(c.JSON))
	}
	if c.HTML != "" {
		page, err := r.HTML(scenario.Abouts(), scenario.Targets())
		if err == nil {
			err = report.WriteFile(c.HTML, page)
		}
		faults = append(faults, err)
	}
	if c.Markdown != "" {
		faults = append(faults, report.WriteFile(c.Markdown, []byte(text)))
	}
	_, err := fmt.Print(r.Text())
	return errors.Join(append(faults, err)...)
}

// listCmd shows what can be run.
type listCmd struct{}

// Run prints scenarios, links and columns.
func (listCmd) Run() error {
	fmt.Println("scenarios:")
	for _, s := range scenario.All() {
		fmt.Printf("  %-14s %s (%s)\n", s.Name, s.Title, strings.Join(s.Phases, ", "))
	}
	fmt.Println("links:")
	for _, l := range scenario.Links() {
		full := ""
		if l.Full {
			full = "  (all columns with --full)"
		}
		fmt.Printf("  %-16s %s%s\n", l.Name, l.Words(), full)
	}
	fmt.Println("columns:")
	for _, col := range scenario.Columns() {
		what := []string{col.Congestion, col.Buffers()}
		switch {
		case col.NoLink:
			what = append(what, "without delay, rate and loss: what clients and servers need by themselves")
		case col.Calculated:
			what = []string{"zstd --patch-from at the link's rate, worked out"}
		}
		fmt.Printf("  %-18s %s\n", col.Name, strings.Join(what, ", "))
	}
	return nil
}

// compareCmd says what got better or worse.
type compareCmd struct {
	Old string `arg:"" help:"JSON of the earlier run."`
	New string `arg:"" help:"JSON of the later run."`
}

// errWorse makes the exit status 1.
var errWorse = errors.New("something got worse")

// Run prints the differences beyond the noise; something worse is an error.
func (c compareCmd) Run() error {
	before, err := report.Read(c.Old)
	if err != nil {
		return err
	}
	after, err := report.Read(c.New)
	if err != nil {
		return err
	}
	changes := report.Compare(before, after)
	if _, err := fmt.Print(report.CompareText(changes)); err != nil {
		return err
	}
	if report.Count(changes, report.Worse) > 0 {
		return errWorse
	}
	return nil
}
