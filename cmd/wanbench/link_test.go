package main

import (
	"encoding/json"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"

	"wanpair/bench/lab"
	"wanpair/bench/lab/labtest"
	"wanpair/bench/link"
)

func TestLinkByHand(t *testing.T) {
	labtest.Require(t)
	name := fmt.Sprintf("h%d", os.Getpid())
	t.Cleanup(func() {
		if err := lab.Remove(name); err != nil {
			t.Error(err)
		}
	})
	ok := func(args ...string) string {
		t.Helper()
		out, errs, err := wanbench(t, args...)
		if err != nil {
			t.Fatalf("wanbench %s: %v: %s", strings.Join(args, " "), err, errs)
		}
		return out
	}
	if out := ok("link", "up", "--name", name, "--seed", "5", "both", "delay=2ms", "a2b", "rate=20mbit"); !strings.Contains(out, "a2b delay=2ms rate=20mbit\n") {
		t.Errorf("up said %q", out)
	}
	if _, errs, err := wanbench(t, "link", "up", "--name", name); err == nil || !strings.Contains(errs, "wanbench link down --name "+name) {
		t.Errorf("a second lab of that name: %v, %q", err, errs)
	}
	if out := ok("link", "list"); !strings.Contains(out, name) {
		t.Errorf("list does not know %s: %q", name, out)
	}
	if out := ok("link", "exec", "--name", name, "srv", "cat", "/proc/sys/net/ipv4/ip_forward"); strings.TrimSpace(out) != "0" {
		t.Errorf("the server forwards: %q", out)
	}
	if out := ok("link", "exec", "--name", name, "gwA", "--", "ip", "-o", "addr"); !strings.Contains(out, lab.GatewayAWANIP4) {
		t.Errorf("gateway A has %q", out)
	}
	_, _, err := wanbench(t, "link", "exec", "--name", name, "cli", "sh", "-c", "exit 7")
	if exit := (*exec.ExitError)(nil); !errors.As(err, &exit) || exit.ExitCode() != 7 {
		t.Errorf("a program that exits with 7 gave %v", err)
	}
	ok("link", "set", "--name", name, "b2a", "loss=1%", "burst=3")
	ok("link", "reset", "--name", name)
	var stats link.Stats
	if err := json.Unmarshal([]byte(ok("link", "stats", "--json", "--name", name)), &stats); err != nil {
		t.Fatal(err)
	}
	if stats.Seed != 5 || stats.BtoA.Params != "delay=2ms loss=1% burst=3" || stats.AtoB.QueueLimitBytes != 64<<10 {
		t.Errorf("stats: %+v", stats)
	}
	if out := ok("link", "stats", "--name", name); !strings.Contains(out, "delivered packets") {
		t.Errorf("stats: %q", out)
	}
	ok("link", "down", "--name", name)
	if _, errs, err := wanbench(t, "link", "down", "--name", name); err == nil || !strings.Contains(errs, "no lab "+name) {
		t.Errorf("a second down: %v, %q", err, errs)
	}
}

func TestLinkRefusesWhatMakesNoSense(t *testing.T) {
	name := fmt.Sprintf("r%d", os.Getpid())
	for _, c := range []struct {
		args []string
		want string
	}{
		{[]string{"link", "up", "--name", name, "loss=1"}, "percentage"},
		{[]string{"link", "up", "--name", name, "--bare"}, "--ns-a and --ns-b"},
		{[]string{"link", "up", "--name", name, "--ns-a", "x"}, "--bare"},
		{[]string{"link", "up", "--name", "../x"}, "letters, digits"},
		{[]string{"link", "set", "--name", name, "down"}, "wanbench link list"},
		{[]string{"link", "stats", "--name", name}, "no lab " + name},
		{[]string{"link", "exec", "--name", name, "router", "true"}, "router"},
		{[]string{"link", "set"}, "params"},
	} {
		_, errs, err := wanbench(t, c.args...)
		if err == nil || !strings.Contains(errs, c.want) {
			t.Errorf("wanbench %s: %v, %q, want something about %q", strings.Join(c.args, " "), err, errs, c.want)
		}
	}
}

func TestStatsForPeople(t *testing.T) {
	s := link.Stats{Seconds: 10, Realtime: true}
	s.AtoB = link.DirectionStats{
		Params: "delay=50ms", QueueLimitBytes: 65536, MaxQueuedBytes: 1500, UnderWayPackets: 2, LateMaxSeconds: 0.0004, DeliveredBitsPerSecond: 1.2e6,
		Counters: link.Counters{OfferedPackets: 1000, DeliveredPackets: 988, DeliveredBytes: 1_500_000, LossDrops: 10},
	}
	var out strings.Builder
	if err := printStats(&out, &s); err != nil {
		t.Fatal(err)
	}
	want := `10.0 s                   a2b                   b2a
parameters               delay=50ms            
offered packets          1000                  0
delivered packets        988                   0
delivered bytes          1500000               0
mean Mbit/s              1.200                 0.000
lost on the way          10 (1.000 %)          0
dropped by the queue     0                     0
dropped by the cut       0                     0
dropped by the path MTU  0                     0
reordered                0                     0
queue, most of limit     1500 of 65536 bytes   0 of 0 bytes
under way now            2                     0
latest                   0.400 ms, 0 over 1 ms  0.000 ms, 0 over 1 ms
`
	got, verdict, _ := strings.Cut(out.String(), "stood still")
	if diff := cmp.Diff(squeeze(want), squeeze(got)); diff != "" {
		t.Errorf("(-want +got):\n%s", diff)
	}
	if !strings.Contains(verdict, "\nexact:") {
		t.Errorf("the verdict is %q", verdict)
	}
	for _, c := range []struct {
		stalled float64
		want    string
	}{{0.004, "measure latency again"}, {0.04, "throw the measurement away"}} {
		s.BtoA.LateMaxSeconds, s.BtoA.StalledSeconds = 0.004, c.stalled
		out.Reset()
		if err := printStats(&out, &s); err != nil || !strings.Contains(out.String(), c.want) {
			t.Errorf("stalled for %v s: %v, %q", c.stalled, err, out.String())
		}
	}
}

// squeeze makes one blank of several, so that the test is about words, not columns.
func squeeze(s string) []string {
	var lines []string
	for line := range strings.Lines(s) {
		lines = append(lines, strings.Join(strings.Fields(line), " "))
	}
	return lines
}
