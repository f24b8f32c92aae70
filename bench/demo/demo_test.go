package demo_test

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"runtime"
	"slices"
	"strconv"
	"strings"
	"testing"
	"time"

	"wanpair/bench/demo"
	"wanpair/bench/lab/labtest"
)

func TestMain(m *testing.M) { labtest.Main(m) }

// patience bounds a demo with little data over a fast link, on a busy machine.
const patience = 5 * time.Minute

// fastLink keeps the demo short; what it shows is the same.
const fastLink = "both delay=5ms rate=200mbit queue=512k"

// programs builds both programs where others may run them.
func programs(t *testing.T) string {
	t.Helper()
	dir, err := os.MkdirTemp("", "wanpair-programs-") //nolint:usetesting // others run what is in it
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { os.RemoveAll(dir) })
	if err := os.Chmod(dir, 0o755); err != nil {
		t.Fatal(err)
	}
	cmd := exec.CommandContext(t.Context(), "go", "build", "-o", dir, "wanpair/cmd/wanpair", "wanpair/cmd/wanbench")
	cmd.Env = append(os.Environ(), "CGO_ENABLED=0")
	if out, err := cmd.CombinedOutput(); err != nil {
		t.Fatalf("%v\n%s", err, out)
	}
	return dir
}

// leftovers are the directories of demos.
func leftovers(t *testing.T) []string {
	t.Helper()
	dirs, err := filepath.Glob(filepath.Join(os.TempDir(), "wanpair-demo-*"))
	if err != nil {
		t.Fatal(err)
	}
	return dirs
}

// processes are those that run a program of a directory.
func processes(t *testing.T, dir string) (found []string) {
	t.Helper()
	all, err := filepath.Glob("/proc/[0-9]*/exe")
	if err != nil {
		t.Fatal(err)
	}
	for _, exe := range all {
		if target, err := os.Readlink(exe); err == nil && strings.HasPrefix(target, dir+"/") {
			found = append(found, exe+" "+target)
		}
	}
	return found
}

// checkTable reads the last table of a demo's output: it must have all rows, and the second time must have taken few bytes.
func checkTable(t *testing.T, out string) {
	t.Helper()
	_, table, ok := strings.Cut(out, "every byte checked:")
	if !ok {
		t.Fatalf("no table:\n%s", out)
	}
	wire := map[string]float64{}
	for _, m := range regexp.MustCompile(`(?m)^  (direct TCP|wanpair, cold|wanpair, again|wanpair, \d+ files edited).* ([0-9.]+) MB on the wire`).FindAllStringSubmatch(table, -1) {
		mb, err := strconv.ParseFloat(m[2], 64)
		if err != nil {
			t.Fatal(err)
		}
		wire[strings.TrimLeft(m[1], "0123456789")] = mb
	}
	if len(wire) != 4 {
		t.Fatalf("%d rows:\n%s", len(wire), out)
	}
	direct, cold, again := wire["direct TCP"], wire["wanpair, cold"], wire["wanpair, again"]
	if cold >= direct || again > direct/50 {
		t.Errorf("%.3f MB directly, %.3f cold, %.3f again", direct, cold, again)
	}
	if !strings.Contains(out, "stats of the near one: http://127.0.0.1:") {
		t.Errorf("the address of the stats is not named:\n%s", out)
	}
}

// TestDemo runs the demo with little data and looks at what it says and leaves.
func TestDemo(t *testing.T) {
	labtest.Require(t)
	dir := programs(t)
	before := leftovers(t)
	ctx, cancel := context.WithTimeout(t.Context(), patience)
	defer cancel()
	var out bytes.Buffer
	err := demo.Run(ctx, demo.Config{
		Binary: filepath.Join(dir, "wanpair"), Tree: filepath.Join(runtime.GOROOT(), "src", "net"), MaxBytes: 8 << 20, LinkWords: fastLink, Out: &out,
	})
	if err != nil {
		t.Fatalf("%v\n%s", err, out.String())
	}
	checkTable(t, out.String())
	if after := leftovers(t); !slices.Equal(after, before) {
		t.Errorf("directories left: %v, before %v", after, before)
	}
	if left := processes(t, dir); len(left) > 0 {
		t.Errorf("processes left: %v", left)
	}
	for _, pattern := range []string{"/run/netns/wp%d*", "/run/wanpair-lab/wp%d*"} {
		if names, err := filepath.Glob(fmt.Sprintf(pattern, os.Getpid())); err != nil || len(names) > 0 {
			t.Errorf("left behind: %v, %v", names, err)
		}
	}
}

// asNobody runs a command as a user without rights, who may open /dev/net/tun only if the machine allows it to everybody: tun says whether
// it does. The device is one of a mount namespace of its own.
const asNobody = `set -e
mknod "$1/tun" c 10 200
chmod "$2" "$1/tun"
mount --bind "$1/tun" /dev/net/tun
shift 2
exec setpriv --reuid 65534 --regid 65534 --clear-groups --no-new-privs "$@"`

// TestDemoWithoutRoot: where the kernel lets users make namespaces the demo runs in one; where it does not, it says in a line what it needs.
func TestDemoWithoutRoot(t *testing.T) {
	labtest.RequireRoot(t) // to be somebody else
	dir := programs(t)
	home := t.TempDir()
	for _, d := range []string{home, filepath.Dir(home)} { // the user may look and write here
		if err := os.Chmod(d, 0o777); err != nil {
			t.Fatal(err)
		}
	}
	run := func(t *testing.T, mode string, args ...string) (string, error) {
		t.Helper()
		work := t.TempDir()
		ctx, cancel := context.WithTimeout(t.Context(), patience)
		defer cancel()
		cmd := exec.CommandContext(ctx, "unshare", append([]string{"--mount", "--propagation", "private", "sh", "-c", asNobody, "sh", work, mode}, args...)...)
		cmd.Env = append(os.Environ(), "HOME="+home, "TMPDIR="+home)
		cmd.Dir = "/"
		cmd.WaitDelay = 10 * time.Second
		out, err := cmd.CombinedOutput()
		return string(out), err
	}
	demoArgs := []string{filepath.Join(dir, "wanbench"), "demo", "--tree", filepath.Join(runtime.GOROOT(), "src", "net"), "--link", fastLink}
	saysWhatItNeeds := func(t *testing.T, out string, err error) {
		t.Helper()
		if exit := (*exec.ExitError)(nil); !errors.As(err, &exit) || exit.ExitCode() <= 0 {
			t.Errorf("%v, want an exit status above 0", err)
		}
		if text := strings.TrimSpace(out); strings.Count(text, "\n") > 0 || !strings.Contains(text, "needs root, or a kernel that lets users") {
			t.Errorf("want one line that says what is needed:\n%s", out)
		}
	}
	t.Run("no TUN device", func(t *testing.T) {
		out, err := run(t, "600", demoArgs...)
		saysWhatItNeeds(t, out, err)
	})
	t.Run("in a user namespace", func(t *testing.T) {
		possible := true
		if out, err := run(t, "666", "unshare", "--user", "--map-root-user", "--mount", "--net", "true"); err != nil {
			t.Logf("this kernel does not let users make namespaces: %v\n%s", err, out)
			possible = false
		}
		out, err := run(t, "666", demoArgs...)
		if !possible {
			saysWhatItNeeds(t, out, err)
			return
		}
		if err != nil {
			t.Fatalf("%v\n%s", err, out)
		}
		checkTable(t, out)
		if left, err := filepath.Glob(filepath.Join(home, "*")); err != nil || len(left) > 0 {
			t.Errorf("left behind: %v, %v", left, err)
		}
		if left := processes(t, dir); len(left) > 0 {
			t.Errorf("processes left: %v", left)
		}
	})
}
