package lab_test

import (
	"bufio"
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"os/exec"
	"slices"
	"strings"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"wanpair/bench/lab"
	"wanpair/bench/lab/labtest"
	"wanpair/bench/link"
)

// abandonVariable makes the test binary build a lab, say its name and wait to be killed; its value is "detached" or something else.
const abandonVariable = "WANPAIR_LAB_TEST_ABANDON"

func TestMain(m *testing.M) {
	labtest.Setup()
	if mode := os.Getenv(abandonVariable); mode != "" {
		abandon(mode)
	}
	os.Exit(m.Run())
}

func abandon(mode string) {
	l, err := lab.Up(context.Background(), lab.Config{Detached: mode == "detached"})
	if err != nil {
		fmt.Println("error:", err)
		os.Exit(1)
	}
	if err := l.Command(context.Background(), lab.Server, "sleep", "1000").Start(); err != nil {
		fmt.Println("error:", err)
		os.Exit(1)
	}
	fmt.Println(l.Name)
	_, _ = io.Copy(io.Discard, os.Stdin)
	os.Exit(0)
}

// abandoned starts a process that builds a lab, and returns both; the process ends, without taking the lab down, when end is called.
func abandoned(t *testing.T, mode string) (name string, process *exec.Cmd, end func()) {
	t.Helper()
	labtest.Require(t)
	cmd := exec.Command("/proc/self/exe")
	cmd.Env = append(os.Environ(), abandonVariable+"="+mode)
	stdin, err := cmd.StdinPipe()
	if err != nil {
		t.Fatal(err)
	}
	out, err := cmd.StdoutPipe()
	if err != nil {
		t.Fatal(err)
	}
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = cmd.Process.Kill(); _ = cmd.Wait() })
	line, err := bufio.NewReader(out).ReadString('\n')
	if err != nil || strings.HasPrefix(line, "error") {
		t.Fatalf("no lab was built: %q, %v", line, err)
	}
	name = strings.TrimSpace(line)
	t.Cleanup(func() { _ = lab.Remove(name) })
	if found := traces(t, name); len(found) < len(lab.Nodes()) {
		t.Fatalf("the lab %s has only %v", name, found)
	}
	return name, cmd, func() {
		_ = stdin.Close()
		_ = cmd.Wait()
	}
}

func waitFor(t *testing.T, what string, condition func() bool) {
	t.Helper()
	for deadline := time.Now().Add(60 * time.Second); !condition(); {
		if time.Now().After(deadline) {
			t.Fatalf("waited in vain: %s", what)
		}
		time.Sleep(5 * time.Millisecond)
	}
}

func TestLabEndsWithAKilledOwner(t *testing.T) {
	name, owner, _ := abandoned(t, "attached")
	if err := owner.Process.Kill(); err != nil {
		t.Fatal(err)
	}
	waitFor(t, "the emulator takes the lab down", func() bool { return len(traces(t, name)) == 0 })
}

func TestSweepFindsWhatNobodyTookDown(t *testing.T) {
	name, owner, _ := abandoned(t, "attached")
	if pid, ok := lab.OwnerOf(name); !ok || pid != owner.Process.Pid {
		t.Fatalf("%s belongs to %d, want %d", name, pid, owner.Process.Pid)
	}
	if removed, err := lab.Sweep(); err != nil || slices.Contains(removed, name) {
		t.Fatalf("a lab that is alive was swept: %v, %v", removed, err)
	}
	if err := unix.Kill(lab.EmulatorOf(name), unix.SIGKILL); err != nil {
		t.Fatal(err)
	}
	if err := errors.Join(owner.Process.Kill(), ignoreExit(owner.Wait())); err != nil {
		t.Fatal(err)
	}
	if found := traces(t, name); len(found) < len(lab.Nodes()) {
		t.Fatalf("nothing is left to sweep: %v", found)
	}
	removed, err := lab.Sweep()
	if err != nil || !slices.Contains(removed, name) {
		t.Errorf("swept %v, %v, want %s", removed, err, name)
	}
	if found := traces(t, name); len(found) > 0 {
		t.Errorf("left behind: %v", found)
	}
}

func ignoreExit(err error) error {
	if exit := (*exec.ExitError)(nil); errors.As(err, &exit) {
		return nil
	}
	return err
}

func TestDetachedLabStaysUntilRemoved(t *testing.T) {
	name, _, end := abandoned(t, "detached")
	end()
	l, err := lab.Open(name)
	if err != nil {
		t.Fatal(err)
	}
	if err := l.SetLink(t.Context(), "both", "delay=3ms"); err != nil {
		t.Fatalf("the link went with its owner: %v", err)
	}
	if !slices.Contains(lab.List(), name) {
		t.Errorf("%s is not in %v", name, lab.List())
	}
	if err := l.Down(); err != nil {
		t.Fatal(err)
	}
	if found := traces(t, name); len(found) > 0 {
		t.Errorf("left behind: %v", found)
	}
}

func TestTerminatedDetachedLinkTakesItsLabAlong(t *testing.T) {
	name, _, end := abandoned(t, "detached")
	end()
	if err := unix.Kill(lab.EmulatorOf(name), unix.SIGTERM); err != nil {
		t.Fatal(err)
	}
	waitFor(t, "the emulator takes the lab down", func() bool { return len(traces(t, name)) == 0 })
}

func TestRemoveAfterACrashOfTheLink(t *testing.T) {
	l := labtest.Up(t, lab.Config{Name: fmt.Sprintf("c%d", os.Getpid())})
	if err := unix.Kill(lab.EmulatorOf(l.Name), unix.SIGKILL); err != nil {
		t.Fatal(err)
	}
	waitFor(t, "the link is gone", func() bool { return lab.EmulatorOf(l.Name) == 0 })
	if _, err := l.LinkStats(t.Context()); err == nil {
		t.Error("a dead link has stats")
	}
	if err := lab.Remove(l.Name); err != nil {
		t.Fatal(err)
	}
	if found := traces(t, l.Name); len(found) > 0 {
		t.Errorf("left behind: %v", found)
	}
}

func TestBareLinkJoinsTwoNamespaces(t *testing.T) {
	// Two labs lend the namespaces.
	one, two := labtest.Up(t, lab.Config{}), labtest.Up(t, lab.Config{})
	bare := labtest.Up(t, lab.Config{
		Name: fmt.Sprintf("b%d", os.Getpid()), Link: "delay=1ms",
		Ends: &[2]link.End{{Namespace: one.Namespace(lab.Client), Device: "x0"}, {Namespace: two.Namespace(lab.Client), Device: "x1"}},
	})
	for _, end := range []struct {
		l       *lab.Lab
		device  string
		address string
	}{{one, "x0", "fd00:77::1/64"}, {two, "x1", "fd00:77::2/64"}} {
		out, err := end.l.Command(t.Context(), lab.Client, "ip", "addr", "add", end.address, "dev", end.device, "nodad").CombinedOutput()
		if err != nil {
			t.Fatalf("%v: %s", err, out)
		}
	}
	echo(t, two, lab.Client, "[fd00:77::2]:7")
	if err := one.WaitTCP(t.Context(), lab.Client, "[fd00:77::2]:7", 60*time.Second); err != nil {
		t.Error(err)
	}
	if _, err := lab.Up(t.Context(), lab.Config{Name: bare.Name, Ends: &[2]link.End{{Device: "x"}, {Device: "y"}}}); !errors.Is(err, lab.ErrExists) {
		t.Errorf("second link of that name: %v", err)
	}
	if err := bare.Down(); err != nil {
		t.Fatal(err)
	}
	if _, err := one.Command(t.Context(), lab.Client, "ip", "link", "show", "x0").CombinedOutput(); err == nil {
		t.Error("the device outlived its link")
	}
	if found := traces(t, one.Name); len(found) < len(lab.Nodes()) {
		t.Error("the namespaces that were lent are gone")
	}
}

func TestNamesAreChecked(t *testing.T) {
	for _, name := range []string{"../x", "a b", "-x", strings.Repeat("x", 31), "a/b"} {
		if _, err := lab.Up(t.Context(), lab.Config{Name: name}); !errors.Is(err, lab.ErrName) {
			t.Errorf("up %q: %v", name, err)
		}
		if err := lab.Remove(name); !errors.Is(err, lab.ErrName) {
			t.Errorf("remove %q: %v", name, err)
		}
		if _, err := lab.Open(name); !errors.Is(err, lab.ErrName) {
			t.Errorf("open %q: %v", name, err)
		}
	}
	if _, err := lab.Up(t.Context(), lab.Config{Servers: 1000}); err == nil {
		t.Error("a lab of a thousand servers was built")
	}
	for name, want := range map[string]int{"wp12": 12, "wp12b3": 12, "wp": 0, "wpx": 0, "lab": 0, "wp0": 0, "wp-1": 0} {
		if pid, ok := lab.OwnerOf(name); ok != (want != 0) || ok && pid != want {
			t.Errorf("%s belongs to %d, %v, want %d", name, pid, ok, want)
		}
	}
}
