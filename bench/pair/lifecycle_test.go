package pair_test

import (
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"golang.org/x/sync/errgroup"

	"wanpair/bench/lab"
	"wanpair/bench/pair"
)

// TestTermDrains: what runs when a gateway is told to stop may end in peace, what does not end in time is reset, and the exit status is 0.
func TestTermDrains(t *testing.T) {
	t.Parallel()
	w := newWorldWith(t, lab.Config{Link: "both delay=10ms rate=20mbit queue=1m"}, pair.Config{})
	conns := w.accepts(t, "7400")
	for _, g := range []*pair.Gateway{w.Near, w.Far} {
		t.Run(g.Name, func(t *testing.T) {
			var group errgroup.Group
			const size = 2 << 20 // a second or so
			for i, fam := range families() {
				c := w.connect(t, fam.server, "7400")
				s := next(t, conns)
				for side, from := range []interface {
					CloseWrite() error
					Write([]byte) (int, error)
				}{c, s} {
					group.Go(func() error { return errors.Join(sendStream(from, uint64(10*i+side), size), from.CloseWrite()) })
				}
				group.Go(func() error { return expectStream(s, uint64(10*i), size) })
				group.Go(func() error { return expectStream(c, uint64(10*i+1), size) })
			}
			var idle func() error
			if g == w.Near { // it takes the whole drain, so once is enough
				c := w.connect(t, families()[0].server, "7400")
				must(t, talk(c, next(t, conns), 4))
				idle = readOn(c)
			}
			must(t, g.Stop(w.ctx)) // an exit status other than 0 is an error
			if err := group.Wait(); err != nil {
				t.Errorf("a transfer that was running: %v", err)
			}
			if g == w.Near {
				if err := idle(); !isReset(err) {
					t.Errorf("a connection that did not end saw %v instead of a reset", err)
				}
			}
			must(t, g.Start(w.ctx))
			w.waitUp(patience)
		})
	}
}

// TestReload changes at runtime what can be, under running connections, which must not notice.
func TestReload(t *testing.T) {
	t.Parallel()
	w := newWorldWith(t, lab.Config{Link: testLink}, pair.Config{LogLevel: "info", NearExtra: "[limits]\nflows = 1000"})
	w.serve("7401", echoServer)
	w.serve("7402", echoServer)
	established := w.establish(t, "7401")
	reloaded := func(t *testing.T) float64 { return w.events(t, w.Near, "reloaded") }
	raw := func(t *testing.T, reason string) {
		t.Helper()
		before := w.passed(t, w.Near, reason)
		for _, fam := range families() {
			must(t, w.echo(fam.server, "7402", patience))
		}
		if n := w.passed(t, w.Near, reason) - before; n < 2 { // a first packet that is repeated counts again
			t.Errorf("%v connections passed raw as %s, want 2", n, reason)
		}
	}
	accelerated := func(t *testing.T) {
		t.Helper()
		w.acceleratedAgain(t, "7402")
	}
	// The door follows a new limit a moment after the reload; what it did is an event.
	limited := func(t *testing.T, kind string, before float64) {
		t.Helper()
		eventually(t, patience, "the rules follow the limit", func() error {
			if w.events(t, w.Near, kind) == before {
				return errors.New("not yet")
			}
			return nil
		})
	}
	overloads, reliefs := w.events(t, w.Near, "overload"), w.events(t, w.Near, "overload_over")
	for _, step := range []struct {
		name     string
		old, new string
		check    func(t *testing.T)
	}{
		{"a port passes", "[intercept]\n", "[intercept]\npass_ports = [7402]\n", func(t *testing.T) { raw(t, "pass_port") }},
		{"and no more", "pass_ports = [7402]\n", "", accelerated},
		{"a class passes", "[stats]", "[[class]]\nname = \"c\"\nports = [\"7402\"]\naction = \"pass\"\n[stats]", func(t *testing.T) { raw(t, "class_pass") }},
		{"and no more", "[[class]]\nname = \"c\"\nports = [\"7402\"]\naction = \"pass\"\n", "", accelerated},
		{"fewer flows", "flows = 1000", "flows = 2", func(t *testing.T) {
			limited(t, "overload", overloads)
			raw(t, "flow_limit")
		}},
		{"and more again", "flows = 2", "flows = 1000", func(t *testing.T) {
			limited(t, "overload_over", reliefs)
			accelerated(t)
		}},
		{"debug log", `level = "info"`, `level = "debug"`, func(t *testing.T) {
			accelerated(t)
			logContains(t, w.Near, "level=DEBUG")
		}},
	} {
		t.Run(step.name, func(t *testing.T) {
			before := reloaded(t)
			edit(t, w.Near, step.old, step.new)
			must(t, w.Near.Reload())
			eventually(t, patience, "the reload", func() error {
				if reloaded(t) == before {
					return errors.New("not seen")
				}
				return nil
			})
			step.check(t)
			for _, r := range established {
				must(t, r.say())
			}
		})
	}
	t.Run("a file with faults changes nothing", func(t *testing.T) {
		edit(t, w.Near, "flows = 1000", "flows = \"many\"")
		must(t, w.Near.Reload())
		logContains(t, w.Near, "was not taken over")
		accelerated(t)
		for _, r := range established {
			must(t, r.say())
		}
	})
}

// TestKeyRotation gives the far gateway a new key in the documented order; running connections notice no reload, and at no moment is
// traffic stopped.
func TestKeyRotation(t *testing.T) {
	t.Parallel()
	w := newWorld(t, testLink)
	w.serve("7403", echoServer)
	established := w.establish(t, "7403")
	old := w.Far.PublicKey()
	fresh, err := w.Far.NewKey(w.ctx)
	must(t, err)
	// The near side accepts both.
	edit(t, w.Near, fmt.Sprintf("[%q]", old), fmt.Sprintf("[%q, %q]", old, fresh))
	must(t, w.Near.Reload())
	logContains(t, w.Near, "peer.public_keys")
	for _, r := range established {
		must(t, r.say())
	}
	// The far side takes the new one, which needs a restart.
	for _, r := range established {
		must(t, r.c.Close())
	}
	must(t, w.Far.Stop(w.ctx))
	must(t, w.Far.Start(w.ctx))
	w.waitUp(patience)
	established = w.establish(t, "7403")
	// The near side forgets the old one.
	edit(t, w.Near, fmt.Sprintf("[%q, %q]", old, fresh), fmt.Sprintf("[%q]", fresh))
	must(t, w.Near.Reload())
	time.Sleep(500 * time.Millisecond) // what a wrong reload would break
	for _, r := range established {
		must(t, r.say())
	}
	// A key that is not accepted any more is no good for a new link; the one that stands goes on until either side ends it.
	edit(t, w.Near, fresh, old)
	must(t, w.Near.Reload())
	for _, r := range established {
		must(t, r.say())
		must(t, r.c.Close())
	}
	must(t, w.Far.Stop(w.ctx))
	must(t, w.Far.Start(w.ctx))
	eventually(t, patience, "the refusal said", func() error {
		if out := w.must(lab.GatewayA, binary, "status", "-c", w.Near.ConfigPath()); !strings.Contains(out, "key") {
			return errors.New(out)
		}
		return nil
	})
	w.rawAfter(t, "7403", time.Now())
	edit(t, w.Near, old, fresh)
	must(t, w.Near.Reload())
	w.waitUp(patience)
}

// TestUpgradeOneSideAtATime runs two builds against each other. WANPAIR_OLD_REF names the version before; without it, it is the latest
// tag, or an earlier commit. Where there is no history it is the same sources with another version stamped.
func TestUpgradeOneSideAtATime(t *testing.T) {
	t.Parallel()
	w := newWorld(t, testLink)
	w.serve("7404", echoServer)
	dir := t.TempDir()
	must(t, os.Chmod(dir, 0o755))
	oldBinary, newBinary := filepath.Join(dir, "old"), filepath.Join(dir, "new")
	buildOld(t, oldBinary)
	build(t, ".", newBinary, "v99.0-new")
	check := func(name string) {
		t.Helper()
		w.acceleratedAgain(t, "7404")
		for _, r := range w.establish(t, "7404") {
			for range 3 {
				if err := r.say(); err != nil {
					t.Errorf("%s: %v", name, err)
				}
			}
			must(t, r.c.Close())
		}
	}
	become := func(g *pair.Gateway, path string) {
		t.Helper()
		must(t, g.Stop(w.ctx))
		g.SetBinary(path)
		must(t, g.Start(w.ctx))
	}
	become(w.Near, oldBinary)
	become(w.Far, oldBinary)
	check("both old")
	become(w.Near, newBinary)
	check("near new, far old")
	status := w.must(lab.GatewayA, newBinary, "status", "-c", w.Near.ConfigPath())
	if !strings.Contains(status, "v99.0-new") || !strings.Contains(status, "v1.0-old") {
		t.Errorf("the status does not name both versions:\n%s", status)
	}
	become(w.Near, oldBinary)
	become(w.Far, newBinary)
	check("near old, far new")
	become(w.Near, newBinary)
	check("both new")
}

func build(t *testing.T, root, output, version string) {
	t.Helper()
	if err := tryBuild(t, root, output, version); err != nil {
		t.Fatal(err)
	}
}

func tryBuild(t *testing.T, root, output, version string) error {
	t.Helper()
	cmd := exec.CommandContext(t.Context(), "go", "build", "-o", output, "-ldflags", "-X main.version="+version, "wanpair/cmd/wanpair")
	cmd.Dir = root
	if out, err := cmd.CombinedOutput(); err != nil {
		return fmt.Errorf("build %s: %w\n%s", version, err, out)
	}
	return nil
}

// commitsBefore is how far back the version before is looked for where nothing is tagged: further than one change goes.
const commitsBefore = 20

// buildOld builds the version before, or this one by another name where that cannot be had: no history, or modules that are not here.
func buildOld(t *testing.T, output string) {
	t.Helper()
	git := func(args ...string) string {
		out, err := exec.CommandContext(t.Context(), "git", args...).Output()
		if err != nil {
			return ""
		}
		return strings.TrimSpace(string(out))
	}
	wanted := os.Getenv("WANPAIR_OLD_REF")
	ref := wanted
	if ref == "" {
		ref = git("describe", "--tags", "--abbrev=0")
	}
	if ref == "" {
		earlier := strings.Fields(git("rev-list", "--first-parent", fmt.Sprintf("--max-count=%d", commitsBefore+1), "HEAD"))
		if len(earlier) > 1 {
			ref = earlier[len(earlier)-1]
		}
	}
	err := errors.New("there is no history")
	if ref != "" {
		t.Logf("the version before is %s", ref)
		sources := t.TempDir()
		cmd := exec.CommandContext(t.Context(), "sh", "-ec", `cd "$(git rev-parse --show-toplevel)"; git archive "$0" | tar -x -C "$1"`, ref, sources)
		var out []byte
		if out, err = cmd.CombinedOutput(); err != nil {
			err = fmt.Errorf("sources of %s: %w\n%s", ref, err, out)
		} else {
			err = tryBuild(t, sources, output, "v1.0-old")
		}
	}
	switch {
	case err == nil:
	case wanted != "":
		t.Fatal(err)
	default:
		t.Logf("the version before cannot be had, so it is this one with another name: %v", err)
		build(t, ".", output, "v1.0-old")
	}
}
