package grid

import (
	"bytes"
	"context"
	"encoding/xml"
	"errors"
	"io"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"

	"wanpair/bench/lab/labtest"
	"wanpair/bench/link"
)

func TestMain(m *testing.M) { labtest.Main(m) }

func TestPresets(t *testing.T) {
	for _, name := range Presets() {
		points, err := Preset(name, 0, nil)
		if err != nil || len(points) == 0 {
			t.Fatalf("%s: %d points, %v", name, len(points), err)
		}
		for i, p := range points {
			if _, err := link.Parse(link.Pair{}, strings.Fields(p.LinkWords())...); err != nil {
				t.Errorf("%v: %v", p, err)
			}
			if _, err := FindColumn(p.Column); err != nil {
				t.Errorf("%v: %v", p, err)
			}
			if p.Seconds <= 0 || p.Flows < 1 || p.estimate() <= int(p.Seconds) {
				t.Errorf("%v runs for %g s with %d flows, estimated %d s", p, p.Seconds, p.Flows, p.estimate())
			}
			if slices.Contains(points[:i], p) {
				t.Errorf("%s has %v twice", name, p)
			}
		}
	}
	points, err := Preset("latency", 3, []string{"direct-reno"})
	if err != nil || slices.ContainsFunc(points, func(p Point) bool { return p.Column != "direct-reno" || p.Seconds != 3 }) {
		t.Errorf("replaced columns and time: %v, %v", points, err)
	}
	if _, err := Preset("nonsense", 0, nil); err == nil {
		t.Error("a preset that is none")
	}
}

func TestCross(t *testing.T) {
	points := Cross([]float64{100, 1000}, []float64{20}, [][2]float64{{0, 0}, {1, 4}, {1, 1}}, []float64{1, 4}, []int{1, 10}, []string{"wanpair", "direct-bbr"}, 5)
	if len(points) != 2*3*2*2*2 {
		t.Errorf("%d points", len(points))
	}
	if got, want := points[len(points)-1].String(), "1 Gbit/s, 20 ms, 1 %, queue 4 BDP, 10 flows, direct-bbr"; got != want {
		t.Errorf("the last is %q, want %q", got, want)
	}
	for _, p := range points {
		if p.RateMbit == 1000 && p.QueueBDP == 4 && p.queueBytes() != 10_000_000 {
			t.Errorf("%v has a queue of %d bytes", p, p.queueBytes())
		}
	}
	if got, want := (Point{RateMbit: 2, RTTMillis: 100, LossPercent: 0.5, Burst: 4, QueueBDP: 1}).LinkWords(),
		"both delay=50ms rate=2000000 queue=65536 loss=0.5% burst=4"; got != want {
		t.Errorf("words %q, want %q", got, want)
	}
}

// bulkResult is a result over 100 Mbit/s and 100 ms.
func bulkResult(column string, loss, mbit float64) Result {
	return Result{
		Point:    Point{Kind: Bulk, RateMbit: 100, RTTMillis: 100, LossPercent: loss, QueueBDP: 1, Flows: 1, Column: column, Seconds: 10},
		MeanBits: mbit * 0.9e6, HalfBits: mbit * 1e6, ColdSeconds: 0.5, Congestion: "cubic",
		Series: []Rate{{0.25, 1e6}, {0.5, mbit * 1e6}},
	}
}

func TestFigures(t *testing.T) {
	judge := func(r Result, all ...Result) string {
		var words []string
		for _, f := range r.Figures(append(all, r)) {
			word := f.Name + " " + f.Measured
			if !f.Met {
				word += " missed"
			}
			words = append(words, word)
		}
		return strings.Join(words, ", ")
	}
	failed := bulkResult("wanpair", 0, 95)
	failed.Failure = "crashed"
	resent := bulkResult("wanpair", 1, 90)
	resent.ResentShare = 0.021
	slow := bulkResult("wanpair", 0.1, 500)
	slow.RateMbit, slow.CPUSecondsPerGB = 1000, 13
	many := bulkResult("wanpair", 3, 81)
	many.Flows, many.Jain = 10, 0.94
	one, eight := bulkResult("wanpair-no-governor-1-lane", 1, 2), bulkResult("wanpair-no-governor-8-lanes", 1, 9)
	latency := Result{Point: Point{Kind: Latency, RateMbit: 2, RTTMillis: 100, Column: "wanpair"}, Idle: &Times{MedianMillis: 101.9}, Busy: &Times{P95Millis: 141}}
	bare := latency
	bare.Column, bare.Idle = "direct-bbr", &Times{MedianMillis: 101.2}
	for _, c := range []struct{ name, got, want string }{
		{"reached", judge(bulkResult("wanpair", 0, 93)), "goodput 93.0 Mbit/s, sent again 0.00 %, cold to full rate 0.50 s"},
		{"slow", judge(bulkResult("wanpair", 3, 79)), "goodput 79.0 Mbit/s missed, sent again 0.00 %"},
		{"failed", judge(failed), "goodput 95.0 Mbit/s missed, sent again 0.00 % missed, cold to full rate 0.50 s missed"},
		{"sent again", judge(resent), "goodput 90.0 Mbit/s, sent again 2.10 % missed"},
		{"gigabit", judge(slow), "goodput 500 Mbit/s at 13.0 CPU s/GB missed, sent again 0.00 %"},
		{"many", judge(many), "goodput 81.0 Mbit/s, Jain's index 0.940 missed, sent again 0.00 %"},
		{"lanes", judge(eight, one), "8 lanes over one 4.5x"},
		{"direct", judge(bulkResult("direct-bbr", 0, 10)), ""},
		{"latency", judge(latency), "64 bytes on the idle link, median 100.0 + 1.9 ms missed, 64 bytes beside bulk, p95 100.0 + 41.0 ms missed"},
		{"latency beside a direct one", judge(latency, bare), "64 bytes on the idle link, median 101.2 + 0.7 ms, 64 bytes beside bulk, p95 101.2 + 39.8 ms"},
		{"cut", judge(Result{Point: Point{Kind: Cut, Column: "wanpair"}, ResumeSeconds: 0.3, HeldSeconds: 2.1}), "all went on after the repair 2.10 s missed"},
		{"fair", judge(Result{Point: Point{Kind: Fairness, Column: "wanpair", Beside: "bbr"}, Share: 0.45}), "share beside bbr 45 %"},
		{"unfair", judge(Result{Point: Point{Kind: Fairness, Column: "wanpair", Beside: "bbr"}, Share: 0.71}), "share beside bbr 71 % missed"},
	} {
		if diff := cmp.Diff(c.want, c.got); diff != "" {
			t.Errorf("%s: %s", c.name, diff)
		}
	}
}

func TestShown(t *testing.T) {
	rep := &Report{Gateway: "wanpair <1>", Results: []Result{bulkResult("wanpair", 0, 93), bulkResult("direct-cubic", 0, 90), bulkResult("wanpair", 1, 60)}}
	rep.Results[2].Failure = "the near gateway does not run any more\nlog"
	page, err := rep.HTML()
	if err != nil {
		t.Fatal(err)
	}
	for _, bad := range []string{"<script", "http:", "https:", "url(", "ZgotmplZ", "NaN", "wanpair <1>"} {
		if bytes.Contains(page, []byte(bad)) {
			t.Errorf("the page holds %q", bad)
		}
	}
	parts := strings.Split(string(page), "<svg")[1:]
	if len(parts) != 3 {
		t.Errorf("%d pictures", len(parts))
	}
	for i, part := range parts {
		svg := "<svg" + part[:strings.Index(part, "</svg>")+len("</svg>")]
		for decoder := xml.NewDecoder(strings.NewReader(svg)); ; {
			if _, err := decoder.Token(); errors.Is(err, io.EOF) {
				break
			} else if err != nil {
				t.Fatalf("picture %d: %v", i, err)
			}
		}
	}
	for _, text := range []string{rep.Text(), rep.Markdown()} {
		for _, want := range []string{"FAILED: the near gateway", "NOT REACHED", "reached", "93.0", "wanpair <1>"} {
			if !strings.Contains(text, want) {
				t.Errorf("no %q in\n%s", want, text)
			}
		}
	}
}

func TestStateOfOthers(t *testing.T) {
	path := filepath.Join(t.TempDir(), "state")
	rep := &Report{Format: Format, Gateway: "wanpair a", Results: []Result{bulkResult("wanpair", 0, 93)}}
	if err := rep.Write(path); err != nil {
		t.Fatal(err)
	}
	got, err := open(Plan{State: path, Gateway: "wanpair a"})
	if err != nil {
		t.Fatal(err)
	}
	if diff := cmp.Diff(rep, got); diff != "" {
		t.Error(diff)
	}
	if _, err := open(Plan{State: path, Gateway: "wanpair b"}); !errors.Is(err, ErrOtherGrid) {
		t.Errorf("of another gateway: %v", err)
	}
	if err := os.WriteFile(path, []byte("{"), 0o644); err != nil {
		t.Fatal(err)
	}
	if _, err := open(Plan{State: path}); !errors.Is(err, ErrOtherGrid) {
		t.Errorf("half a file: %v", err)
	}
	if rep, err := open(Plan{State: path + "2"}); err != nil || len(rep.Results) != 0 {
		t.Errorf("no file: %v, %v", rep, err)
	}
}

// TestRun measures one short point of every kind of column over a real link, and goes on from a state file.
func TestRun(t *testing.T) {
	labtest.Require(t)
	dir := t.TempDir()
	binary := filepath.Join(dir, "wanpair")
	if out, err := exec.CommandContext(t.Context(), "go", "build", "-o", binary, "wanpair/cmd/wanpair").CombinedOutput(); err != nil {
		t.Fatalf("build the gateway: %v\n%s", err, out)
	}
	if err := os.Chmod(dir, 0o755); err != nil {
		t.Fatal(err)
	}
	point := Point{Kind: Bulk, RateMbit: 50, RTTMillis: 20, QueueBDP: 1, Flows: 2, Column: "wanpair", Seconds: 3}
	direct := point
	direct.Column = "direct-reno"
	plan := Plan{Points: []Point{point, direct}, Binary: binary, Gateway: "wanpair test", Seed: 1, Tries: 1, StallShare: 1, State: filepath.Join(dir, "state")}
	ctx, stop := context.WithCancel(t.Context())
	defer stop()
	plan.Done = func(Result) { stop() } // interrupted after the first point
	if _, err := Run(ctx, plan); !errors.Is(err, context.Canceled) {
		t.Fatalf("an interrupted run: %v", err)
	}
	measured := 0
	plan.Done = func(r Result) { measured++ }
	rep, err := Run(t.Context(), plan)
	if err != nil {
		t.Fatal(err)
	}
	if measured != 1 || len(rep.Results) != 2 {
		t.Errorf("went on with %d points, of %d results", measured, len(rep.Results))
	}
	if _, err := os.Stat(plan.State); !os.IsNotExist(err) {
		t.Errorf("the state file of a complete run: %v", err)
	}
	for _, r := range rep.Results {
		// No figure of time is asked for: the machine may be busy with others.
		if r.Failure != "" || r.HalfBits <= 0 || r.MeanBits <= 0 || r.Jain <= 0 || r.BeyondShare <= 0 || len(r.Series) == 0 || r.Congestion == "" {
			t.Errorf("%v: %+v", r.Point, r)
		}
		if (r.CPUSecondsPerGB > 0) != (r.Column == "wanpair") {
			t.Errorf("%v: %g CPU seconds per GB", r.Point, r.CPUSecondsPerGB)
		}
	}
}

// TestKinds cuts a link, asks small requests and lets two flows of the kernel compete, all without gateways.
func TestKinds(t *testing.T) {
	labtest.Require(t)
	link := Point{RateMbit: 50, RTTMillis: 20, QueueBDP: 1, Flows: 1, Column: "direct-reno", Seconds: 1}
	cut, latency, fair := link, link, link
	cut.Kind, cut.CutSeconds = Cut, 1
	latency.Kind = Latency
	fair.Kind, fair.Beside = Fairness, "reno"
	rep, err := Run(t.Context(), Plan{Points: []Point{cut, latency, fair}, Seed: 1, Tries: 1, StallShare: 1})
	if err != nil {
		t.Fatal(err)
	}
	for _, r := range rep.Results {
		if r.Failure != "" || len(r.Series) == 0 {
			t.Errorf("%v: failure %q, %d points", r.Point, r.Failure, len(r.Series))
		}
	}
	if r := rep.Results[0]; r.ResumeSeconds <= 0 || r.HeldSeconds <= 0 || r.SilentSeconds <= 0 || r.HalfBits <= 0 {
		t.Errorf("cut: %+v", r)
	}
	if r := rep.Results[1]; r.Idle == nil || r.Busy == nil || r.Idle.MedianMillis < 19.5 || r.Idle.Count < 10 || r.Busy.Count < 3 {
		t.Errorf("latency: idle %v, busy %v", r.Idle, r.Busy)
	}
	if r := rep.Results[2]; r.BesideBits <= 0 || r.MeanBits <= 0 || r.Share <= 0 || r.Share >= 1 {
		t.Errorf("fairness: %+v", r)
	}
}
