package chaos_test

import (
	"context"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"wanpair/bench/chaos"
	"wanpair/bench/lab/labtest"
)

func TestMain(m *testing.M) {
	labtest.Main(m)
}

// The short campaign: two minutes, a fixed seed. Its first faults are the five that must be had: kill near, kill far, hang, cut, wipe.
// Slow links are left to longer campaigns: beside other work on the machine, what they show depends on it.
func TestShortCampaign(t *testing.T) {
	labtest.Require(t)
	dir, err := os.MkdirTemp("", "wanpair-chaos-")
	if err != nil {
		t.Fatal(err)
	}
	if err := os.Chmod(dir, 0o755); err != nil { // PostgreSQL runs as a user of its own
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if t.Failed() {
			t.Logf("everything is kept in %s", dir)
			return
		}
		if err := os.RemoveAll(dir); err != nil {
			t.Error(err)
		}
	})
	binary := filepath.Join(dir, "wanpair")
	if out, err := exec.Command("go", "build", "-o", binary, "wanpair/cmd/wanpair").CombinedOutput(); err != nil {
		t.Fatalf("build the gateway: %v\n%s", err, out)
	}
	faults := []string{"kill", "hang", "cut", "wipe", "flip", "full", "udp", "flush", "routing", "descriptors", "restart", "loss", "burst", "reorder"}
	ctx, cancel := context.WithTimeout(t.Context(), 4*time.Minute)
	defer cancel()
	result, err := chaos.Run(ctx, chaos.Plan{Seconds: 110, Seed: 1, Faults: faults, Binary: binary, Dir: filepath.Join(dir, "campaign"), Keep: true, Log: lines{t}, Gateway: "under test"})
	if result != nil {
		t.Log("\n" + result.Text())
	}
	if err != nil {
		t.Fatal(err) // a wrong byte or a clean end of a truncated flow are among them
	}
	seen := map[string]bool{}
	for _, f := range result.Records {
		seen[f.Name()] = true
		if !f.Accelerated {
			t.Errorf("%s: connections were not accelerated again", f.Name())
		}
		if !f.Passed && f.Condition == "" {
			t.Errorf("%s: connections did not pass again", f.Name())
		}
	}
	for _, name := range []string{"kill near", "kill far", "hang near", "cut", "wipe far"} {
		if !seen[name] {
			t.Errorf("%s did not happen", name)
		}
	}
	if whole := result.Total()[chaos.Whole]; whole < 500 {
		t.Errorf("only %d transfers came through whole", whole)
	}
	for _, f := range result.Findings {
		switch {
		case strings.HasPrefix(f.What, "left out:"): // a program that is not installed
		case strings.HasPrefix(f.What, "died:") && !result.StoreProcess && (strings.HasPrefix(f.Fault, "full") || strings.HasPrefix(f.Fault, "descriptors")):
			// Badger ends its process when its files or descriptors give out; a store within the gateway takes the gateway along.
			t.Logf("[%s] %s", f.Fault, f.What)
		default:
			t.Errorf("[%s] %s", f.Fault, f.What)
		}
	}
	page, err := result.HTML()
	if err != nil || len(page) == 0 {
		t.Errorf("the page: %v", err)
	}
}

// lines writes to a test's log.
type lines struct{ t *testing.T }

func (l lines) Write(p []byte) (int, error) {
	l.t.Log(fmt.Sprintf("%s", p[:max(len(p)-1, 0)]))
	return len(p), nil
}

// Forty readers take nothing while 80 MB are pushed at them: everything beside them and everything later is right, and memory stays within the budget. How
// much others are slowed down is measured by wanbench stalled, not asserted here.
func TestStalledReaders(t *testing.T) {
	labtest.Require(t)
	dir := t.TempDir()
	binary := filepath.Join(dir, "wanpair")
	if out, err := exec.Command("go", "build", "-o", binary, "wanpair/cmd/wanpair").CombinedOutput(); err != nil {
		t.Fatalf("build the gateway: %v\n%s", err, out)
	}
	ctx, cancel := context.WithTimeout(t.Context(), 5*time.Minute)
	defer cancel()
	result, err := chaos.Stall(ctx, chaos.StallPlan{Binary: binary, Dir: filepath.Join(dir, "stall"), Readers: 40, PushBytes: 80e6, Runs: 1, RunBytes: 1e6, Seed: 1, Log: lines{t}})
	if err != nil {
		t.Fatal(err)
	}
	t.Log("\n" + result.Text())
	if result.Whole != 40 {
		t.Errorf("%d of 40 readers got everything", result.Whole)
	}
	for side, most := range result.MaxRSS {
		if most > result.BudgetBytes {
			t.Errorf("%s held %d MiB of %d", side, most>>20, result.BudgetBytes>>20)
		}
	}
}
