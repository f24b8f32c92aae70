package scenario

import (
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"time"

	"wanpair/bench/corpus"
	"wanpair/bench/report"
	"wanpair/bench/server"
)

// Plan says what to measure.
type Plan struct {
	Scenarios []*Scenario
	Links     []Link
	// Columns to measure; nil is those that apply to each scenario and link.
	Columns []Column
	// Full measures plain TCP with other buffers and windows as well, on the links that are marked so.
	Full bool
	// Runs of each column.
	Runs int
	// Transfer is how long one phase should take directly at the full rate; sizes follow from it.
	Transfer time.Duration
	Seed     uint64
	// Corpus is the directory of the corpora; the sets that are needed must be there.
	Corpus string
	// Binary is the gateway's; "" leaves wanpair's column out.
	Binary string
	// Late is how late the link may have been at worst for a run to count.
	Late time.Duration
	// State is the file by which an interrupted benchmark goes on; "" keeps none.
	State string
	// Until is when to stop: what would take longer, as estimated, is not begun. Zero is never.
	Until time.Time
	// Logs is where the gateways' logs, in full detail, of plays that failed are kept; "" keeps none.
	Logs string
	// Dir is where servers and caches have their files; "" is a new directory below the system's for temporary files.
	Dir string
	// Progress is told what is done now, and how much of the whole, in estimated seconds; nil is nobody.
	Progress func(what string, done, total int)
}

// ErrLater is wrapped when Plan.Until came before all was measured. With Plan.State the same plan goes on from there.
var ErrLater = errors.New("stopped in time, with more to measure")

// voidTries is how often a play is played again when the link was late.
const voidTries = 2

// phaseTimeout ends a phase that hangs: several times what the slowest column may need.
const phaseTimeout = 8 * time.Minute

// item is one play of the plan.
type item struct {
	Scenario, Link, Column string
	Run                    int
}

// runner carries a plan out.
type runner struct {
	plan  Plan
	state *state
	dir   string
	done  int // estimated seconds
	total int
	// substitute names, for congestion controls that cannot be set here, the one used instead.
	substitute map[string]string
}

// Run carries a plan out and returns what it measured. What cannot be run, for want of a program or of root, is in the report with the reason.
// An error that wraps ErrDiffers means that bytes were wrong.
func Run(ctx context.Context, plan Plan, machine report.Machine) (*report.Report, error) {
	if plan.Progress == nil {
		plan.Progress = func(string, int, int) {}
	}
	plan.Runs = max(1, plan.Runs)
	st, err := openState(plan, machine)
	if err != nil {
		return nil, err
	}
	r := &runner{plan: plan, state: st, dir: plan.Dir, substitute: map[string]string{}}
	for _, name := range []string{"cubic", "bbr"} {
		undo, ok := allow(name)
		defer undo()
		if !ok {
			r.substitute[name] = fallback
		}
	}
	if r.dir == "" {
		if r.dir, err = os.MkdirTemp("", "wanbench"); err != nil {
			return nil, err
		}
		defer os.RemoveAll(r.dir)
	}
	if err := os.Chmod(r.dir, 0o755); err != nil { // PostgreSQL's user must reach its data
		return nil, err
	}
	for _, s := range plan.Scenarios {
		for _, l := range plan.Links {
			for _, c := range r.columns(s, l) {
				r.total += plan.Runs * r.estimate(s, c)
			}
		}
	}
	for _, s := range plan.Scenarios {
		for _, l := range plan.Links {
			if err := r.scenario(ctx, s, l); err != nil {
				return &st.Report, fmt.Errorf("%s over %s: %w", s.Name, l.Name, err)
			}
		}
	}
	plan.Progress("done", r.total, r.total)
	return &st.Report, st.remove()
}

// columns are those to measure.
func (r *runner) columns(s *Scenario, l Link) []Column {
	var chosen []Column
	for _, c := range Columns() {
		if other := r.substitute[c.Congestion]; other != "" {
			c.Congestion = other
		}
		switch {
		case c.Tool != "" && !slices.Contains(s.Alternatives, c.Tool), c.Gateway && r.plan.Binary == "":
		case r.plan.Columns == nil && c.applies(s, l, r.plan.Full), slices.ContainsFunc(r.plan.Columns, func(p Column) bool { return p.Name == c.Name }):
			chosen = append(chosen, c)
		}
	}
	return chosen
}

// estimate is how many seconds a play takes, for the progress bar.
func (r *runner) estimate(s *Scenario, c Column) int {
	const setUp = 3 * time.Second
	phase := r.plan.Transfer
	switch {
	case c.Gateway:
		phase /= 3
	case c.NoLink:
		phase /= 5
	}
	if c.Calculated {
		return 0
	}
	return int((setUp + time.Duration(len(c.phases(s)))*phase) / time.Second)
}

// scenario plays one scenario over one link by all columns.
func (r *runner) scenario(ctx context.Context, s *Scenario, l Link) error {
	columns := r.columns(s, l)
	var todo []item
	for run := range r.plan.Runs {
		for _, c := range columns {
			it := item{s.Name, l.Name, c.Name, run}
			if r.state.isDone(it) {
				r.done += r.estimate(s, c)
			} else {
				todo = append(todo, it)
			}
		}
	}
	if len(todo) == 0 {
		return nil
	}
	missing := r.impossible(s)
	var material Material
	dir := filepath.Join(r.dir, "material")
	if missing == nil {
		r.plan.Progress(s.Name+" over "+l.Name+": prepare", r.done, r.total)
		if err := os.Mkdir(dir, 0o755); err != nil {
			return err
		}
		defer os.RemoveAll(dir)
		material, missing = s.Prepare(ctx, r.kit(dir, l))
		if material.Close != nil {
			defer material.Close()
		}
		if ctx.Err() != nil {
			return ctx.Err()
		}
	}
	for _, it := range todo {
		c := columns[slices.IndexFunc(columns, func(c Column) bool { return c.Name == it.Column })]
		r.plan.Progress(fmt.Sprintf("%s over %s: %s, run %d of %d", s.Name, l.Name, c.Name, it.Run+1, r.plan.Runs), r.done, r.total)
		if last := r.plan.Until; !last.IsZero() && missing == nil && time.Now().Add(time.Duration(r.estimate(s, c))*time.Second).After(last) {
			return ErrLater
		}
		if err := r.play(ctx, s, l, c, it, material, missing); err != nil {
			return err
		}
		r.done += r.estimate(s, c)
		if err := r.state.finish(it); err != nil {
			return err
		}
	}
	return nil
}

// impossible says why a scenario cannot be played here, or nil.
func (r *runner) impossible(s *Scenario) error {
	if err := server.Require(s.Tools...); err != nil {
		return err
	}
	if s.Root && !isRoot() {
		return errors.New("needs the real root")
	}
	for _, set := range s.Sets {
		files, err := corpus.Files(r.plan.Corpus, set)
		if err != nil {
			return err
		}
		if len(files) == 0 {
			return fmt.Errorf("corpus %s is not there: wanbench corpus %s %s makes it", set, r.plan.Corpus, set)
		}
	}
	return nil
}

func (r *runner) kit(dir string, l Link) Kit {
	return Kit{Dir: dir, Corpus: r.plan.Corpus, Link: l, Bytes: l.Payload(r.plan.Transfer), Seed: r.plan.Seed}
}

// play plays one item and puts what it measured, or why it did not, into the report.
func (r *runner) play(ctx context.Context, s *Scenario, l Link, c Column, it item, material Material, missing error) error {
	rows := r.rows(s, l, c)
	switch {
	case missing != nil:
		rows[0].Missing = oneLine(missing)
		return nil
	case c.Calculated:
		for _, row := range rows {
			if sizes, ok := material.Ideal[row.Phase]; ok && it.Run == 0 {
				row.Runs = append(row.Runs, report.Run{
					Seconds: l.Carry(sizes.Wire).Seconds(), PayloadBytes: sizes.Payload, Wire: report.Wire{BtoA: sizes.Wire}, Calculated: true,
				})
			}
		}
		return nil
	}
	for try := 0; ; try++ {
		runs, err := r.stageAndPlay(ctx, s, l, c, it, material, try)
		switch {
		case err != nil && (ctx.Err() != nil || errors.Is(err, ErrDiffers)):
			return err
		case err != nil:
			rows[0].Missing = oneLine(err)
			return nil
		}
		void := false
		for i, phase := range s.Phases {
			run, ok := runs[phase]
			if from := repeats(phase); !ok && from != "" {
				if run, ok = runs[from]; ok {
					run.SameAs, run.Series = from, nil
				}
			}
			if ok {
				rows[i].Runs = append(rows[i].Runs, run)
				void = void || run.Void != ""
			}
		}
		if !void || try == voidTries {
			return nil
		}
	}
}

// rows are the report's rows of a column, one for each phase, in order. What is missing is said in the first one.
func (r *runner) rows(s *Scenario, l Link, c Column) []*report.Row {
	for _, phase := range s.Phases {
		row := r.state.Report.Row(report.Key{Scenario: s.Name, Phase: phase, Link: l.Name, Column: c.Name})
		row.LinkParams, row.Congestion, row.Buffers, row.Baseline = c.words(l), c.Congestion, c.Buffers(), c.Baseline
	}
	var rows []*report.Row // looked up again: making one may have moved the others
	for _, phase := range s.Phases {
		rows = append(rows, r.state.Report.Find(report.Key{Scenario: s.Name, Phase: phase, Link: l.Name, Column: c.Name}))
	}
	return rows
}

// stageAndPlay plays one play in a lab and a directory of its own.
func (r *runner) stageAndPlay(ctx context.Context, s *Scenario, l Link, c Column, it item, material Material, try int) (runs map[string]report.Run, err error) {
	dir := filepath.Join(r.dir, "play")
	if err := os.Mkdir(dir, 0o755); err != nil {
		return nil, err
	}
	defer func() { err = errors.Join(err, os.RemoveAll(dir)) }()
	const tryStep = 1_000_003 // so that a repeated play meets other losses
	set, err := buildSet(ctx, r.plan, l, c, dir, r.plan.Seed+uint64(it.Run)+uint64(try)*tryStep)
	if err != nil {
		return nil, err
	}
	defer func() {
		err = errors.Join(err, set.close())
		if err != nil { // after close: what a gateway says at its end is the most telling
			err = errors.Join(err, set.saveLogs(r.plan.Logs, s.Name+" "+l.Name))
		}
	}()
	play, err := material.Open(ctx, Stage{
		Kit: r.kit(filepath.Join(r.dir, "material"), l), Client: set.client, Server: set.server, Column: c, Dir: dir,
	})
	if err != nil {
		return nil, err
	}
	defer func() { err = errors.Join(err, play.Close()) }()
	runs = make(map[string]report.Run)
	for _, phase := range c.phases(s) {
		phaseCtx, cancel := context.WithTimeout(ctx, phaseTimeout)
		run, err := play.Phase(phaseCtx, phase, set.meter)
		cancel()
		if err != nil {
			return nil, fmt.Errorf("%s, %s: %w", c.Name, phase, err)
		}
		if why, err := set.carried(ctx, run); err != nil {
			return nil, err
		} else if why != "" && run.Void == "" {
			run.Void = why
		}
		runs[phase] = run
	}
	return runs, nil
}
