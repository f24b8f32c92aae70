package chaos

import (
	"errors"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"
)

func sample() *Result {
	r := newResult(Plan{Seconds: 100, Seed: 5, Gateway: "wanpair <test>"})
	r.Transfers["own client: down"] = map[Outcome]int{Whole: 7, Broken: 2}
	r.Timeline = []Second{{Whole: 3}, {Whole: 4, Broken: 2}}
	r.Records = []FaultRecord{
		{Event: Event{Fault: "kill", Victim: near, Hold: time.Second}, At: time.Second, Passed: true, Accelerated: true, AcceleratedAfter: 300 * time.Millisecond, Probes: 9},
		{Event: Event{Fault: "kill", Victim: near}, Condition: "loss=3%", PassedAfter: time.Hour},
		{Event: Event{Fault: "cut"}, Deaths: 1},
	}
	r.Findings = []Finding{{Fault: "cut", What: "stalled: something"}}
	return r
}

func TestReportsNameWhatHappened(t *testing.T) {
	r := sample()
	text := r.Text()
	for _, want := range []string{"own client: down", "kill near", "0.30 s", "never", "stalled: something", "violations: 0"} {
		if !strings.Contains(text, want) {
			t.Errorf("the text lacks %q:\n%s", want, text)
		}
	}
	page, err := r.HTML()
	if err != nil {
		t.Fatal(err)
	}
	for _, want := range []string{"No wrong byte", "9 transfers", "wanpair &lt;test&gt;", `class="ill"`} {
		if !strings.Contains(string(page), want) {
			t.Errorf("the page lacks %q", want)
		}
	}
	r.Violations = []Violation{{What: "wrong byte"}}
	if page, err := r.HTML(); err != nil || strings.Contains(string(page), "No wrong byte") {
		t.Errorf("a page with a violation says all is well (%v)", err)
	}
}

func TestInterruptedCampaignGoesOn(t *testing.T) {
	plan := Plan{Seconds: 100, Seed: 5, Gateway: "wanpair <test>", State: filepath.Join(t.TempDir(), "state")}
	r := sample()
	r.DoneSeconds, r.NextFault = 40, 3
	if err := r.save(plan); err != nil {
		t.Fatal(err)
	}
	again, err := resume(plan)
	if err != nil || again.DoneSeconds != 40 || again.NextFault != 3 || again.Transfers["own client: down"][Whole] != 7 {
		t.Fatalf("got %+v, %v", again, err)
	}
	other := plan
	other.Seed++
	if fresh, err := resume(other); err != nil || fresh.DoneSeconds != 0 {
		t.Errorf("another seed goes on with it: %v", err)
	}
	again.Complete = true
	if err := again.save(plan); err != nil {
		t.Fatal(err)
	}
	if fresh, err := resume(plan); err != nil || fresh.DoneSeconds != 0 {
		t.Errorf("a finished campaign goes on: %v", err)
	}
	s, err := readState(plan.State)
	if err != nil || s.Current != nil || len(s.Done) != 1 {
		t.Errorf("finished ones: %+v, %v", s, err)
	}
	if err := os.WriteFile(plan.State, []byte("{"), 0o600); err != nil {
		t.Fatal(err)
	}
	if _, err := resume(plan); err == nil {
		t.Error("a broken state file is taken for none")
	}
}

func TestAccountStopsAtAViolation(t *testing.T) {
	stopped := 0
	a := newAccount(func() { stopped++ })
	a.begin("cut")
	a.end("x", Whole, 10, nil)
	a.end("x", Broken, 0, errors.New("reset"))
	if stopped != 0 {
		t.Error("stopped without a violation")
	}
	a.end("x", Wrong, 0, errWrongByte)
	a.violate("seen by the server")
	if stopped != 2 || len(a.violations) != 2 || !strings.Contains(a.violations[0].What, "cut") {
		t.Errorf("stopped %d times, violations %v", stopped, a.violations)
	}
	for range 3 * maxAlike {
		a.find("same", "again")
	}
	if len(a.findings) != maxAlike || a.suppressed["same"] != 3*maxAlike {
		t.Errorf("%d findings kept of %d", len(a.findings), a.suppressed["same"])
	}
}
