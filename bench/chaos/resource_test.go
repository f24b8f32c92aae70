package chaos

import (
	"errors"
	"fmt"
	"os"
	"os/exec"
	"strconv"
	"syscall"
	"testing"
	"time"
)

// TestStarvedProcessIsKilled lets a process that wants ever more memory have 8 MiB.
func TestStarvedProcessIsKilled(t *testing.T) {
	g, err := newCgroup(fmt.Sprintf("wanpair-chaos-test-%d", os.Getpid()))
	if errors.Is(err, errNotHere) && os.Getenv("WANPAIR_REQUIRE_ROOT") != "1" {
		t.Skip(err) // not every machine lets even root make one
	}
	if err != nil {
		t.Fatal(err)
	}
	defer func() {
		if err := g.remove(); err != nil {
			t.Error(err)
		}
	}()
	if err := g.write(g.limit, strconv.Itoa(8<<20)); err != nil {
		t.Fatal(err)
	}
	// It waits until it is in the group, and has another limit in case the group does not work.
	cmd := exec.CommandContext(t.Context(), "sh", "-c", "ulimit -v 1000000; read x; exec tail /dev/zero")
	in, err := cmd.StdinPipe()
	if err != nil {
		t.Fatal(err)
	}
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	if err := g.write("cgroup.procs", strconv.Itoa(cmd.Process.Pid)); err != nil {
		t.Fatal(errors.Join(err, cmd.Process.Kill(), cmd.Wait()))
	}
	if _, err := in.Write([]byte("\n")); err != nil {
		t.Fatal(err)
	}
	err = cmd.Wait()
	exit := (*exec.ExitError)(nil)
	if !errors.As(err, &exit) || exit.Sys().(syscall.WaitStatus).Signal() != syscall.SIGKILL {
		t.Errorf("it ended with %v", err)
	}
}

// TestFastPlan: holds are short, some faults follow at once, and the same seed makes the same ones.
func TestFastPlan(t *testing.T) {
	plan := Plan{Seconds: 600, Seed: 5, Fast: true, Faults: []string{"kill", "flip"}}
	faults, _, err := plan.choose()
	if err != nil {
		t.Fatal(err)
	}
	hurried := 0
	for i := range 300 {
		e := plan.schedule(faults, i)
		if e.Hold > 300*time.Millisecond {
			t.Errorf("held for %v", e.Hold)
		}
		if e.Hurried {
			hurried++
		}
		if e != plan.schedule(faults, i) {
			t.Error("not repeatable")
		}
	}
	if hurried < 60 || hurried > 140 {
		t.Errorf("%d of 300 are hurried", hurried)
	}
}
