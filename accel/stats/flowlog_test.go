package stats

import (
	"bytes"
	"context"
	"encoding/json"
	"log/slog"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"wanpair/accel/policy"
)

// runFlowLog writes flows through a log and returns once all are in the file.
func runFlowLog(t *testing.T, l *FlowLog, flows ...Flow) {
	t.Helper()
	for _, f := range flows {
		l.Ended(f, OutcomeClean)
	}
	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	if err := l.Run(ctx); err != nil {
		t.Fatal(err)
	}
}

func TestFlowLogLine(t *testing.T) {
	path := filepath.Join(t.TempDir(), "flows.jsonl")
	l, err := NewFlowLog(path, 1<<20, slog.New(slog.DiscardHandler))
	if err != nil {
		t.Fatal(err)
	}
	runFlowLog(t, l, Flow{ID: 7, Source: "10.1.0.1:1", Destination: "evil\n\"host:80", Peer: "nyc", Reason: policy.Encrypted, LAN: Traffic{1, 2}, Started: time.Now().Add(-time.Second)})
	text, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	if bytes.Count(text, []byte("\n")) != 1 {
		t.Fatalf("not one line: %q", text)
	}
	var r FlowRecord
	if err := json.Unmarshal(text, &r); err != nil {
		t.Fatal(err)
	}
	if r.ID != 7 || r.Destination != "evil\n\"host:80" || r.Outcome != OutcomeClean || r.Reason.Number != policy.Encrypted || r.LAN != (Traffic{1, 2}) || r.Seconds < 1 {
		t.Errorf("record %+v", r)
	}
}

func TestFlowLogRotates(t *testing.T) {
	path := filepath.Join(t.TempDir(), "flows.jsonl")
	const limit = 2000
	var flows []Flow
	for i := range 30 {
		flows = append(flows, Flow{ID: uint64(i)})
	}
	for range 3 { // opened again and again: appends
		l, err := NewFlowLog(path, limit, slog.New(slog.DiscardHandler))
		if err != nil {
			t.Fatal(err)
		}
		runFlowLog(t, l, flows...)
	}
	last := ""
	for _, name := range []string{path + ".1", path} {
		text, err := os.ReadFile(name)
		if err != nil {
			t.Fatal(err)
		}
		if len(text) == 0 || len(text) > limit || !strings.HasSuffix(string(text), "\n") {
			t.Errorf("%s has %d bytes", name, len(text))
		}
		for line := range strings.Lines(string(text)) {
			var r FlowRecord
			if err := json.Unmarshal([]byte(line), &r); err != nil {
				t.Errorf("%s: %v in %q", name, err, line)
			}
			last = line
		}
	}
	if !strings.Contains(last, `"id":29`) || !strings.Contains(last, `"outcome":"clean"`) {
		t.Errorf("the last line is %s", last)
	}
}

func TestFlowLogNeverBlocks(t *testing.T) {
	l, err := NewFlowLog(filepath.Join(t.TempDir(), "flows.jsonl"), 1<<20, slog.New(slog.DiscardHandler))
	if err != nil {
		t.Fatal(err)
	}
	for range flowLogQueue + 10 { // nobody writes
		l.Ended(Flow{}, OutcomeReset)
	}
	if got := l.Dropped(); got != 10 {
		t.Errorf("%d dropped, want 10", got)
	}
	runFlowLog(t, l)
}

// TestFlowLogSurvivesTheDisk: a file that cannot be written costs records and one line of warning, and is tried again.
func TestFlowLogSurvivesTheDisk(t *testing.T) {
	if _, err := os.Stat("/dev/full"); err != nil {
		t.Skipf("no /dev/full here: %v", err)
	}
	var warnings bytes.Buffer
	l, err := NewFlowLog("/dev/full", 1<<20, slog.New(slog.NewTextHandler(&warnings, nil)))
	if err != nil {
		t.Fatal(err)
	}
	l.Ended(Flow{}, OutcomeClean)
	l.Ended(Flow{}, OutcomeClean)
	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	_ = l.Run(ctx) // its end reports the disk again
	if l.Dropped() == 0 || strings.Count(warnings.String(), "flow log cannot be written") != 1 {
		t.Errorf("%d dropped, warnings:\n%s", l.Dropped(), warnings.String())
	}
	if _, err := NewFlowLog(filepath.Join(t.TempDir(), "none", "flows.jsonl"), 1<<20, slog.New(slog.DiscardHandler)); err == nil {
		t.Error("a file in no directory was opened")
	}
}
