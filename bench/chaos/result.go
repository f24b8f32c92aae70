package chaos

import (
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"maps"
	"os"
	"slices"
	"strings"
	"sync"
	"text/tabwriter"
	"time"

	"wanpair/bench/report"
)

// Usage is what an idle gateway holds.
type Usage struct {
	Side        victim `json:"side"`
	Goroutines  int    `json:"goroutines"`
	Descriptors int    `json:"descriptors"`
	Sockets     int    `json:"sockets"`
	Flows       int    `json:"flows"`
	RSS         int64  `json:"rss_bytes"` // with the store's process
}

func (s Sample) report(side victim) Usage {
	return Usage{side, s.Goroutines, s.Files, s.Sockets, s.Flows, s.RSS}
}

// FaultRecord is one fault and what new connections met.
type FaultRecord struct {
	Event
	At time.Duration `json:"at"` // since the campaign began
	// Condition of the link at the time, besides the fault; figures taken under one say little.
	Condition string        `json:"condition,omitempty"`
	Took      time.Duration `json:"took,omitempty"` // the stop of an orderly restart
	// PassedAfter is how long after the injection new connections got through again, raw or accelerated, and kept getting through.
	PassedAfter time.Duration `json:"passed_after"`
	Passed      bool          `json:"passed"`
	// AcceleratedAfter is how long after the repair the first new connection went through the pair.
	AcceleratedAfter time.Duration `json:"accelerated_after"`
	Accelerated      bool          `json:"accelerated"`
	Probes           int           `json:"probes"`
	Raw              int           `json:"probes_raw"`
	Lost             int           `json:"probes_lost"`
	// Why probes were lost: reset when they met the old state, timeout when they met nobody.
	Why    map[string]int `json:"probes_lost_why,omitempty"`
	Deaths int            `json:"deaths,omitempty"` // of gateways, by themselves
	Places int            `json:"places,omitempty"` // of the cache that were damaged
	// Met is how many reads, writes and syncs of the cache a failing disk met, StoresDied how many processes of stores ended under gateways that
	// went on.
	Met        int `json:"operations_met,omitempty"`
	StoresDied int `json:"stores_died,omitempty"`
}

func (r FaultRecord) line() string {
	passed, again := "nothing passed", "not accelerated again"
	if r.Passed {
		passed = fmt.Sprintf("passing after %.2f s", r.PassedAfter.Seconds())
	}
	switch {
	case r.Hurried:
		again = "then the next one"
	case r.Accelerated:
		again = fmt.Sprintf("accelerated %.2f s after the repair", r.AcceleratedAfter.Seconds())
	}
	line := fmt.Sprintf("%-20s held %5.1f s: %s, %s; of %d probes %d raw, %d lost", r.Name(), r.Hold.Seconds(), passed, again, r.Probes, r.Raw, r.Lost)
	for _, why := range slices.Sorted(maps.Keys(r.Why)) {
		line += fmt.Sprintf(", %d %s", r.Why[why], strings.TrimSpace(why))
	}
	if r.Places > 0 {
		line += fmt.Sprintf(", %d places damaged", r.Places)
	}
	if r.Met > 0 {
		line += fmt.Sprintf(", %d operations of the disk met it", r.Met)
	}
	if r.StoresDied > 0 {
		line += fmt.Sprintf(", %d stores died", r.StoresDied)
	}
	if r.Deaths > 0 {
		line += fmt.Sprintf(", %d gateways died by themselves", r.Deaths)
	}
	if r.Condition != "" {
		line += " (link: " + r.Condition + ")"
	}
	return line
}

// Result is what a campaign saw.
type Result struct {
	mu sync.Mutex

	Machine report.Machine `json:"machine"`
	Gateway string         `json:"gateway"`
	Seed    uint64         `json:"seed"`
	Seconds int            `json:"seconds"`
	Faults  []string       `json:"faults,omitempty"` // chosen ones; none: all
	Fast    bool           `json:"fast,omitempty"`
	Started time.Time      `json:"started"`
	// DoneSeconds and NextFault say where an interrupted campaign goes on.
	DoneSeconds int  `json:"done_seconds"`
	NextFault   int  `json:"next_fault"`
	Complete    bool `json:"complete"`

	Transfers  map[string]map[Outcome]int `json:"transfers"` // by kind
	Bytes      int64                      `json:"bytes"`
	Probes     map[string]int             `json:"probes"`
	Violations []Violation                `json:"violations"`
	Findings   []Finding                  `json:"findings"`
	Alike      map[string]int             `json:"findings_by_topic"` // with those beyond the first ones of a kind
	Records    []FaultRecord              `json:"fault_records"`
	Conditions map[string]int             `json:"conditions"`
	Skipped    map[string]string          `json:"skipped"`
	Timeline   []Second                   `json:"timeline"`
	Lives      []Life                     `json:"lives"`
	Baseline   []Usage                    `json:"baseline"`
	Idle       []Usage                    `json:"idle_at_the_end"`
	Link       string                     `json:"link"`
	// StoreProcess says whether the gateways keep their stores in processes of their own.
	StoreProcess bool `json:"store_process"`
}

func newResult(plan Plan) *Result {
	return &Result{Machine: report.ThisMachine(plan.Commit), Gateway: plan.Gateway, Seed: plan.Seed, Seconds: plan.Seconds, Faults: plan.Faults, Fast: plan.Fast, Started: time.Now(),
		Transfers: map[string]map[Outcome]int{}, Probes: map[string]int{}, Alike: map[string]int{}, Conditions: map[string]int{}, Skipped: map[string]string{}}
}

func (r *Result) addFault(f FaultRecord) {
	r.mu.Lock()
	defer r.mu.Unlock()
	r.Records = append(r.Records, f)
}

func (r *Result) countCondition(name string) {
	r.mu.Lock()
	defer r.mu.Unlock()
	r.Conditions[name]++
}

func (r *Result) skip(fault string, why error) {
	r.mu.Lock()
	defer r.mu.Unlock()
	r.Skipped[fault] = why.Error()
}

func (r *Result) baselineSockets(side victim) int {
	for _, u := range r.Baseline {
		if u.Side == side {
			return u.Sockets
		}
	}
	return 0
}

// restore puts what an interrupted campaign had counted into the account.
func (r *Result) restore(a *account) {
	a.mu.Lock()
	defer a.mu.Unlock()
	for kind, outcomes := range r.Transfers {
		a.transfers[kind] = maps.Clone(outcomes)
	}
	a.bytes, a.findings, a.seconds = r.Bytes, r.Findings, r.Timeline
	maps.Copy(a.suppressed, r.Alike)
}

// take copies the account.
func (r *Result) take(c *campaign) {
	r.mu.Lock()
	defer r.mu.Unlock()
	a := c.account
	a.mu.Lock()
	defer a.mu.Unlock()
	r.Transfers = map[string]map[Outcome]int{}
	for kind, outcomes := range a.transfers {
		r.Transfers[kind] = maps.Clone(outcomes)
	}
	r.Bytes, r.Violations, r.Findings, r.Timeline = a.bytes, slices.Clone(a.violations), slices.Clone(a.findings), slices.Clone(a.seconds)
	r.Alike = maps.Clone(a.suppressed)
	r.DoneSeconds = min(int(time.Since(a.began).Seconds()), r.Seconds)
	r.Complete = r.DoneSeconds >= r.Seconds
	r.Lives = nil
	for _, k := range c.keepers() {
		r.Lives = append(r.Lives, k.summary()...)
	}
	if p := c.prober; p != nil {
		p.mu.Lock()
		r.Probes = map[string]int{"raw": p.raw + c.earlier["raw"], "accelerated": p.accel + c.earlier["accelerated"], "lost": p.lost + c.earlier["lost"]}
		p.mu.Unlock()
	}
}

// stateFile holds the campaign that is going on and those that are done.
type stateFile struct {
	Current *Result   `json:"current,omitempty"`
	Done    []*Result `json:"done"`
}

func readState(path string) (stateFile, error) {
	var s stateFile
	text, err := os.ReadFile(path)
	if errors.Is(err, fs.ErrNotExist) {
		return s, nil
	}
	if err == nil {
		err = json.Unmarshal(text, &s)
	}
	if err != nil {
		return s, fmt.Errorf("state of earlier campaigns: %w", err)
	}
	return s, nil
}

func (s stateFile) write(path string) error {
	text, err := json.Marshal(s)
	if err != nil {
		return err
	}
	return report.WriteFile(path, text)
}

// resume returns the result to go on with: that of the plan's interrupted campaign, or a new one.
func resume(plan Plan) (*Result, error) {
	fresh := newResult(plan)
	if plan.State == "" {
		return fresh, nil
	}
	s, err := readState(plan.State)
	if err != nil {
		return nil, err
	}
	if old := s.Current; old != nil && old.Seed == plan.Seed && old.Seconds == plan.Seconds && slices.Equal(old.Faults, plan.Faults) && old.Fast == plan.Fast &&
		old.Gateway == plan.Gateway && len(old.Violations) == 0 && !old.Complete {
		return old, nil
	}
	return fresh, nil
}

// checkpointEvery is in seconds.
const checkpointEvery = 10

// checkpoint saves where the campaign is, now and then.
func (r *Result) checkpoint(c *campaign) error {
	if c.plan.State == "" || int(time.Since(c.account.began).Seconds())%checkpointEvery != 0 {
		return nil
	}
	r.take(c)
	return r.save(c.plan)
}

// save writes the state file: a campaign that is over joins those that are done.
func (r *Result) save(plan Plan) error {
	if plan.State == "" {
		return nil
	}
	s, err := readState(plan.State)
	if err != nil {
		return err
	}
	r.mu.Lock()
	defer r.mu.Unlock()
	s.Current = r
	if r.Complete || len(r.Violations) > 0 {
		s.Current, s.Done = nil, append(s.Done, r)
	}
	return s.write(plan.State)
}

// Total counts transfers by outcome.
func (r *Result) Total() map[Outcome]int {
	sum := map[Outcome]int{}
	for _, outcomes := range r.Transfers {
		for o, n := range outcomes {
			sum[o] += n
		}
	}
	return sum
}

// span is the figures of one kind of fault.
type span struct {
	name                 string
	count                int
	passed, again        []time.Duration // of those on a calm link
	roughPassed          []time.Duration // of those on a link that was also slow, lossy or the like
	roughAgain           []time.Duration
	neverPassed, noAgain int
	deaths, places       int
	met, stores          int
}

// spans groups the faults by name and victim.
func (r *Result) spans() []span {
	var out []span
	for _, f := range r.Records {
		i := slices.IndexFunc(out, func(s span) bool { return s.name == f.Name() })
		if i < 0 {
			i, out = len(out), append(out, span{name: f.Name()})
		}
		s := &out[i]
		s.count++
		s.deaths += f.Deaths
		s.places += f.Places
		s.met += f.Met
		s.stores += f.StoresDied
		if f.Hurried {
			continue // nobody waited to see
		}
		switch {
		case f.Condition != "" && f.Passed:
			s.roughPassed = append(s.roughPassed, f.PassedAfter)
		case f.Condition != "":
		case f.Passed:
			s.passed = append(s.passed, f.PassedAfter)
		default:
			s.neverPassed++
		}
		switch {
		case f.Condition != "" && f.Accelerated:
			s.roughAgain = append(s.roughAgain, f.AcceleratedAfter)
		case f.Condition != "":
		case f.Accelerated:
			s.again = append(s.again, f.AcceleratedAfter)
		default:
			s.noAgain++
		}
	}
	slices.SortFunc(out, func(a, b span) int { return strings.Compare(a.name, b.name) })
	return out
}

// median and worst of durations, in seconds, as text.
func figures(d []time.Duration) (median, worst string) {
	if len(d) == 0 {
		return "–", "–"
	}
	d = slices.Sorted(slices.Values(d))
	return fmt.Sprintf("%.2f s", d[len(d)/2].Seconds()), fmt.Sprintf("%.2f s", d[len(d)-1].Seconds())
}

// Text is the report for a terminal.
func (r *Result) Text() string {
	var b strings.Builder
	w := tabwriter.NewWriter(&b, 0, 0, 2, ' ', 0)
	fmt.Fprintf(&b, "chaos: %d of %d s, seed %d, %s\n%s, %d cores, kernel %s\n\n", r.DoneSeconds, r.Seconds, r.Seed, r.Gateway, r.Machine.CPU, r.Machine.Cores, r.Machine.Kernel)
	row := func(cells ...any) {
		for i, cell := range cells {
			if i > 0 {
				fmt.Fprint(w, "\t")
			}
			fmt.Fprint(w, cell)
		}
		fmt.Fprintln(w)
	}
	head := []any{"transfers"}
	for _, o := range Outcomes() {
		head = append(head, string(o))
	}
	row(head...)
	outcomes := func(name string, counts map[Outcome]int) {
		cells := []any{name}
		for _, o := range Outcomes() {
			cells = append(cells, counts[o])
		}
		row(cells...)
	}
	for _, kind := range slices.Sorted(maps.Keys(r.Transfers)) {
		outcomes(kind, r.Transfers[kind])
	}
	outcomes("all", r.Total())
	row()
	row("fault", "count", "new connections pass after: median", "worst", "rough link", "accelerated after the repair: median", "worst", "rough link", "gateways died", "stores died", "places damaged", "operations met")
	for _, s := range r.spans() {
		passed, worst := figures(s.passed)
		again, worstAgain := figures(s.again)
		if s.neverPassed > 0 {
			worst = "never"
		}
		if s.noAgain > 0 {
			worstAgain = "never"
		}
		_, rough := figures(s.roughPassed)
		_, roughAgain := figures(s.roughAgain)
		row(s.name, s.count, passed, worst, rough, again, worstAgain, roughAgain, s.deaths, s.stores, s.places, s.met)
	}
	w.Flush()
	fmt.Fprintf(&b, "(median and worst are of faults on the calm link, \"rough link\" is the worst while it also lost, reordered, was slow or small; probes %d accelerated, %d raw, %d lost)\n", r.Probes["accelerated"], r.Probes["raw"], r.Probes["lost"])
	if len(r.Conditions) > 0 {
		b.WriteString("conditions of the link:")
		for _, name := range slices.Sorted(maps.Keys(r.Conditions)) {
			fmt.Fprintf(&b, " %s %d", name, r.Conditions[name])
		}
		b.WriteString("\n")
	}
	for _, name := range slices.Sorted(maps.Keys(r.Skipped)) {
		fmt.Fprintf(&b, "left out: %s: %s\n", name, r.Skipped[name])
	}
	b.WriteString("\n")
	row("idle", "goroutines", "descriptors", "sockets", "flows", "RSS MiB")
	for _, set := range []struct {
		when string
		list []Usage
	}{{"before", r.Baseline}, {"at the end", r.Idle}} {
		for _, u := range set.list {
			row(string(u.Side)+" "+set.when, u.Goroutines, u.Descriptors, u.Sockets, u.Flows, u.RSS>>20)
		}
	}
	w.Flush()
	if life := r.longest(); life != nil {
		fmt.Fprintf(&b, "longest life of a process: %s, %.0f s, at most %d MiB and %d descriptors, RSS slope over its second half %+.1f MiB/h (standard error %.1f)\n",
			life.Side, life.Seconds, life.MaxRSS>>20, life.MaxFiles, life.SlopePerHour/(1<<20), life.SlopeError/(1<<20))
	}
	fmt.Fprintf(&b, "\nfindings: %d\n", len(r.Findings))
	for _, f := range r.Findings {
		fmt.Fprintf(&b, "  %7.1f s  [%s] %s\n", f.At.Seconds(), f.Fault, f.What)
	}
	for topic, n := range r.Alike {
		if n > maxAlike {
			fmt.Fprintf(&b, "  and %d more of %q\n", n-maxAlike, topic)
		}
	}
	fmt.Fprintf(&b, "violations: %d\n", len(r.Violations))
	for _, v := range r.Violations {
		fmt.Fprintf(&b, "  %7.1f s  %s\n", v.At.Seconds(), v.What)
	}
	return b.String()
}

// longest is the life of the process that lived longest.
func (r *Result) longest() *Life {
	var best *Life
	for i := range r.Lives {
		if best == nil || r.Lives[i].Seconds > best.Seconds {
			best = &r.Lives[i]
		}
	}
	return best
}

// Write writes the result as JSON.
func (r *Result) Write(path string) error {
	text, err := json.MarshalIndent(r, "", "  ")
	if err != nil {
		return err
	}
	return report.WriteFile(path, append(text, '\n'))
}
