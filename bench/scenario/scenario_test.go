package scenario

import (
	"archive/tar"
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"wanpair/bench/lab/labtest"
	"wanpair/bench/link"
	"wanpair/bench/report"
	"wanpair/bench/server"
)

func TestMain(m *testing.M) { labtest.Main(m) }

func TestLinksAreUnderstood(t *testing.T) {
	for _, l := range Links() {
		p, err := link.Parse(link.Pair{}, strings.Fields(l.Words())...)
		if err != nil {
			t.Fatalf("%s: %v", l.Name, err)
		}
		if p.RTT() != l.RTT || p.AtoB.RateBitsPerSec != l.RateBitsPerSec || p.BtoA.Loss*100 < l.LossPercent-1e-9 {
			t.Errorf("%s became %+v", l.Name, p)
		}
		if found, err := FindLink(l.Name); err != nil || found != l {
			t.Errorf("FindLink(%q): %v %v", l.Name, found, err)
		}
	}
	if _, err := FindLink("nonsense"); err == nil {
		t.Error("an unknown link was found")
	}
}

func TestPayloadsFitTheTime(t *testing.T) {
	for _, l := range Links() {
		n := l.Payload(time.Minute)
		if n > l.BytesIn(time.Minute) || l.LossPercent == 0 && n != l.BytesIn(time.Minute) || n < 2<<20 {
			t.Errorf("%s: %d bytes", l.Name, n)
		}
	}
	lossy, err := FindLink("100m-100ms-1%")
	if err != nil {
		t.Fatal(err)
	}
	if n := lossy.Payload(time.Minute); n < 9<<20 || n > 12<<20 { // 1.4 Mbit/s for a minute
		t.Errorf("%d bytes at 1 %% loss", n)
	}
}

func TestScenariosAreWhole(t *testing.T) {
	names := map[string]*Scenario{}
	for _, s := range All() {
		if names[s.Name] != nil || s.Title == "" || s.Text == "" || len(s.Phases) == 0 || len(s.Tools) == 0 && !strings.HasPrefix(s.Name, "bulk") || s.Prepare == nil {
			t.Errorf("%s is not whole or not alone", s.Name)
		}
		names[s.Name] = s
		for _, phase := range s.Phases {
			if from := repeats(phase); from != "" && !slices.Contains(s.Phases, from) {
				t.Errorf("%s: %s repeats %s, which it does not have", s.Name, phase, from)
			}
		}
		for _, tool := range s.Alternatives {
			if !slices.ContainsFunc(Columns(), func(c Column) bool { return c.Tool == tool }) {
				t.Errorf("%s: no column for %s", s.Name, tool)
			}
		}
	}
	for _, target := range Targets() {
		s := names[target.Scenario]
		if s == nil || !slices.Contains(s.Phases, target.Phase) {
			t.Errorf("no scenario or phase for the target %+v", target)
		}
		if target.Link != "" {
			if _, err := FindLink(target.Link); err != nil {
				t.Error(err)
			}
		}
	}
}

func TestFind(t *testing.T) {
	for _, c := range []struct {
		names []string
		want  []string
	}{
		{[]string{"dump"}, []string{"dump"}},
		{[]string{"release"}, []string{"release-http", "release-rsync", "release-git"}},
		{[]string{"web"}, []string{"web", "web-new", "web-http2"}},
	} {
		found, err := Find(c.names)
		var got []string
		for _, s := range found {
			got = append(got, s.Name)
		}
		if diff := cmp.Diff(c.want, got); err != nil || diff != "" {
			t.Errorf("%v: %v %s", c.names, err, diff)
		}
	}
	if _, err := Find([]string{"dum"}); err == nil {
		t.Error("a name that is none was found")
	}
}

func TestColumnsPlayWhatTheyMust(t *testing.T) {
	s := &Scenario{Name: "x", Phases: []string{cold, again, changed}, Alternatives: []string{"kcptun"}}
	full, other := Links()[0], Links()[1]
	want := map[string][]string{
		"direct-cubic": {cold, changed}, "direct-bbr": {cold, changed}, "wanpair": {cold, again, changed}, "direct-cubic-128m": {cold},
		"direct-bbr-128m": {cold}, "direct-64k": {cold}, "kcptun": {cold}, "no link": {cold, changed}, "ideal": {cold},
	}
	got := map[string][]string{}
	everywhere := 0
	var plain []string
	for _, c := range Columns() {
		if c.applies(s, full, true) {
			got[c.Name] = c.phases(s)
		}
		if c.applies(s, other, true) {
			everywhere++
		}
		if c.applies(s, full, false) {
			plain = append(plain, c.Name)
		}
	}
	if diff := cmp.Diff(want, got); diff != "" {
		t.Error(diff)
	}
	if diff := cmp.Diff([]string{"direct-cubic", "direct-bbr", "wanpair", "kcptun", "no link", "ideal"}, plain); diff != "" {
		t.Error(diff)
	}
	if everywhere != 3 {
		t.Errorf("%d columns on a link that is not full", everywhere)
	}
}

// releaseCorpus makes two small releases of real sources: this package, then with one file changed.
func releaseCorpus(t *testing.T) string {
	t.Helper()
	dir := t.TempDir()
	if err := os.Mkdir(filepath.Join(dir, "source"), 0o755); err != nil {
		t.Fatal(err)
	}
	sources, err := filepath.Glob("../*/*.go")
	if err != nil || len(sources) < 10 {
		t.Fatal(err, len(sources))
	}
	for i, version := range []string{"v1.33.0", "v1.33.1"} {
		f, err := os.Create(filepath.Join(dir, "source", version+".tar"))
		if err != nil {
			t.Fatal(err)
		}
		w := tar.NewWriter(f)
		for n, name := range sources {
			data, err := os.ReadFile(name)
			if err != nil {
				t.Fatal(err)
			}
			if n == 3 && i == 1 {
				data = append(data, "// the next release\n"...)
			}
			header := &tar.Header{Name: "kubernetes/" + strings.TrimPrefix(name, "../"), Mode: 0o644, Size: int64(len(data)), Typeflag: tar.TypeReg}
			if err := w.WriteHeader(header); err != nil {
				t.Fatal(err)
			}
			if _, err := w.Write(data); err != nil {
				t.Fatal(err)
			}
		}
		if err := errors.Join(w.Close(), f.Close()); err != nil {
			t.Fatal(err)
		}
	}
	return dir
}

func smallPlan(t *testing.T, names ...string) Plan {
	t.Helper()
	scenarios, err := Find(names)
	if err != nil {
		t.Fatal(err)
	}
	columns, err := FindColumns([]string{"direct-bbr", "ideal"})
	if err != nil {
		t.Fatal(err)
	}
	fast, err := FindLink("45m-60ms")
	if err != nil {
		t.Fatal(err)
	}
	// Late is what a busy test machine may be: the figures do not matter here.
	return Plan{Scenarios: scenarios, Links: []Link{fast}, Columns: columns, Runs: 1, Transfer: time.Second / 4, Seed: 1, Corpus: releaseCorpus(t), Late: time.Minute}
}

func TestRunInALab(t *testing.T) {
	labtest.Require(t)
	if err := server.Require("nginx", "curl", "zstd"); err != nil {
		if os.Getenv(labtest.RequireVariable) == "1" {
			t.Fatal(err)
		}
		t.Skip(err)
	}
	plan := smallPlan(t, "bulk-1", "bulk-10", "release-http")
	plan.State = filepath.Join(t.TempDir(), "state")
	r, err := Run(t.Context(), plan, report.Machine{Commit: "test"})
	if err != nil {
		t.Fatal(err)
	}
	for _, s := range plan.Scenarios {
		for _, phase := range s.Phases {
			row := r.Find(report.Key{Scenario: s.Name, Phase: phase, Link: "45m-60ms", Column: "direct-bbr"})
			if row == nil || row.Missing != "" || len(row.Runs) != 1 {
				t.Errorf("%s %s: %+v", s.Name, phase, row)
				continue
			}
			run := row.Runs[0]
			if run.Seconds <= 0 || run.PayloadBytes <= 0 || run.Wire.BtoA < run.PayloadBytes || run.Void != "" {
				t.Errorf("%s %s: %+v", s.Name, phase, run)
			}
			if (run.SameAs != "") != (repeats(phase) != "") {
				t.Errorf("%s %s was taken from %q", s.Name, phase, run.SameAs)
			}
		}
	}
	if _, err := os.Stat(plan.State); !errors.Is(err, os.ErrNotExist) {
		t.Errorf("the state file is left: %v", err)
	}
}

// fake is a scenario without programs, for the runner itself.
func fake(prepare func(context.Context, Kit) (Material, error)) *Scenario {
	return &Scenario{Name: "fake", Title: "Fake", Text: "Nothing.", Phases: []string{cold, again}, Prepare: prepare}
}

func fakePlan(t *testing.T, s *Scenario) Plan {
	plan := smallPlan(t, "bulk-1")
	plan.Scenarios, plan.Columns = []*Scenario{s}, plan.Columns[:1]
	return plan
}

func TestWrongBytesEndEverything(t *testing.T) {
	labtest.Require(t)
	s := fake(func(context.Context, Kit) (Material, error) {
		return Material{Open: func(context.Context, Stage) (Play, error) {
			return &phasePlay{phase: func(ctx context.Context, phase string, m *Meter) (report.Run, error) {
				run, err := m.Measure(ctx, func(context.Context) (Work, error) { return Work{Bytes: 1}, nil })
				return run, errors.Join(err, same("file", "got", "want"))
			}}, nil
		}}, nil
	})
	if _, err := Run(t.Context(), fakePlan(t, s), report.Machine{}); !errors.Is(err, ErrDiffers) {
		t.Errorf("got %v", err)
	}
}

func TestFailureIsInTheReport(t *testing.T) {
	s := fake(func(context.Context, Kit) (Material, error) { return Material{}, fmt.Errorf("no data: %w", ErrTooLong) })
	r, err := Run(t.Context(), fakePlan(t, s), report.Machine{})
	if err != nil {
		t.Fatal(err)
	}
	if row := r.Find(report.Key{Scenario: "fake", Phase: cold, Link: "45m-60ms", Column: "direct-bbr"}); row == nil || !strings.Contains(row.Missing, "too long") {
		t.Errorf("%+v", row)
	}
}

func TestInterruptedRunGoesOn(t *testing.T) {
	labtest.Require(t)
	ctx, cancel := context.WithCancel(t.Context())
	var played []string
	s := fake(func(context.Context, Kit) (Material, error) {
		return Material{Open: func(context.Context, Stage) (Play, error) {
			return &phasePlay{phase: func(ctx context.Context, phase string, m *Meter) (report.Run, error) {
				played = append(played, phase)
				if len(played) == 2 {
					cancel()
				}
				return m.Measure(ctx, func(ctx context.Context) (Work, error) { return Work{Bytes: 1}, ctx.Err() })
			}}, nil
		}}, nil
	})
	plan := fakePlan(t, s)
	plan.Runs, plan.State = 2, filepath.Join(t.TempDir(), "state")
	if _, err := Run(ctx, plan, report.Machine{Commit: "a"}); !errors.Is(err, context.Canceled) {
		t.Fatalf("interrupted: %v", err)
	}
	if _, err := Run(t.Context(), plan, report.Machine{Commit: "b"}); !errors.Is(err, ErrOtherPlan) {
		t.Errorf("another commit: %v", err)
	}
	r, err := Run(t.Context(), plan, report.Machine{Commit: "a"})
	if err != nil {
		t.Fatal(err)
	}
	if diff := cmp.Diff([]string{cold, cold, cold}, played); diff != "" { // the one done, the one interrupted, and that one again
		t.Error(diff)
	}
	if row := r.Find(report.Key{Scenario: "fake", Phase: again, Link: "45m-60ms", Column: "direct-bbr"}); row == nil || len(row.Runs) != 2 {
		t.Errorf("%+v", row)
	}
}

func TestRunStopsInTime(t *testing.T) {
	s := fake(func(context.Context, Kit) (Material, error) {
		return Material{Open: func(context.Context, Stage) (Play, error) { return nil, errors.New("began all the same") }}, nil
	})
	plan := fakePlan(t, s)
	plan.Until = time.Now().Add(time.Second) // setting up alone takes longer
	r, err := Run(t.Context(), plan, report.Machine{})
	if !errors.Is(err, ErrLater) || len(r.Rows) > 0 {
		t.Errorf("%v, %d rows", err, len(r.Rows))
	}
}

func TestUsageOfThisProcess(t *testing.T) {
	u, err := treeUsage(os.Getpid())
	if err != nil || u.rss < 1<<20 {
		t.Errorf("%+v %v", u, err)
	}
	if got := statFields([]byte("12 (a b) c) S 1 2 3")); !slices.Equal(got, []string{"S", "1", "2", "3"}) {
		t.Errorf("%q", got)
	}
}

func TestLagGoesToTheNearestPoint(t *testing.T) {
	points := []report.Point{{Seconds: 0.2}, {Seconds: 0.4}, {Seconds: 0.6}}
	got := withLag(points, []server.Lag{{Since: 300 * time.Millisecond, Bytes: 5}, {Since: 500 * time.Millisecond, Bytes: 7}})
	var lags []int64
	for _, p := range got {
		lags = append(lags, p.LagBytes)
	}
	if diff := cmp.Diff([]int64{0, 5, 7}, lags); diff != "" {
		t.Error(diff)
	}
}
