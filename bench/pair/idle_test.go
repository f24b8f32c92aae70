package pair_test

import (
	"fmt"
	"io"
	"net"
	"os"
	"strconv"
	"strings"
	"testing"
	"time"

	"golang.org/x/sync/errgroup"
	"golang.org/x/sys/unix"

	"wanpair/bench/lab"
	"wanpair/bench/pair"
)

// maxIdleFlowBytes is what an idle flow may cost each gateway, resident.
const maxIdleFlowBytes = 16 << 10

// maxIdleShare is what 10,000 idle flows may cost each gateway of one processor.
const maxIdleShare = 0.01

// idleLimits let more flows in than the test holds.
const idleLimits = "[limits]\nflows = 12000\n"

// resident is the process's anonymous memory: what it holds itself, without the files it maps.
func resident(t *testing.T, g *pair.Gateway) int64 {
	t.Helper()
	b, err := os.ReadFile(fmt.Sprintf("/proc/%d/status", g.PID()))
	if err != nil {
		t.Fatal(err)
	}
	for line := range strings.Lines(string(b)) {
		if rest, ok := strings.CutPrefix(line, "RssAnon:"); ok {
			kib, err := strconv.ParseInt(strings.Fields(rest)[0], 10, 64)
			if err != nil {
				t.Fatal(err)
			}
			return kib << 10
		}
	}
	t.Fatal("no RssAnon in /proc")
	return 0
}

// ticks is the processor time of a process so far.
func ticks(t *testing.T, g *pair.Gateway) time.Duration {
	t.Helper()
	b, err := os.ReadFile(fmt.Sprintf("/proc/%d/stat", g.PID()))
	if err != nil {
		t.Fatal(err)
	}
	fields := strings.Fields(string(b[strings.LastIndexByte(string(b), ')')+2:]))
	var sum int64
	for _, f := range fields[11:13] { // utime, stime
		n, _ := strconv.ParseInt(f, 10, 64)
		sum += n
	}
	return time.Duration(sum) * time.Second / 100 // USER_HZ
}

// echoVariable makes the test binary an echo server on the port it names: where there are more connections than one process may have
// descriptors, the two ends must not live in the same.
const echoVariable = "WANPAIR_TEST_ECHO"

func echoProcess(port string) error {
	l, err := net.Listen("tcp", ":"+port)
	if err != nil {
		return err
	}
	for {
		c, err := l.Accept()
		if err != nil {
			return err
		}
		// Not by splicing: that takes two more descriptors for each connection.
		go func() {
			_, _ = io.CopyBuffer(struct{ io.Writer }{c}, struct{ io.Reader }{c}, make([]byte, 512))
			c.Close()
		}()
	}
}

// serveApart is serve with echoServer in a process of its own.
func (w *world) serveApart(port string) {
	w.t.Helper()
	self, err := os.Executable()
	w.check(err)
	cmd := w.lab.Command(w.ctx, lab.Server, self)
	cmd.Env = append(os.Environ(), echoVariable+"="+port)
	cmd.Stdout, cmd.Stderr = os.Stderr, os.Stderr
	w.check(cmd.Start())
	w.t.Cleanup(func() {
		_ = cmd.Process.Kill()
		_ = cmd.Wait()
	})
	w.check(w.lab.WaitTCP(w.ctx, lab.Server, net.JoinHostPort("127.0.0.1", port), patience))
}

// TestIdleFlowsAreSmall opens many connections that say one word each and then stay, and holds the gateways to what each may cost.
// WANPAIR_SOAK=1 makes it the promised number and looks at the processor for longer.
func TestIdleFlowsAreSmall(t *testing.T) {
	// Garbage of the opening that waits for its collection does not grow with the flows: with few of them it is allowed for.
	n, watch, garbage := 3000, 2*time.Second, int64(12<<20)
	if soak() {
		var files unix.Rlimit
		must(t, unix.Getrlimit(unix.RLIMIT_NOFILE, &files))
		n, watch, garbage = int(min(10_000, files.Max-2000)), 30*time.Second, 0
	}
	w := newWorldWith(t, lab.Config{Link: testLink}, pair.Config{LogLevel: "info", NearExtra: idleLimits, FarExtra: idleLimits})
	w.serveApart("7010")
	open := func(count int) {
		var group errgroup.Group
		group.SetLimit(32)
		for i := range count {
			group.Go(func() error {
				c, err := w.lab.Dial(w.ctx, lab.Client, "tcp", net.JoinHostPort(families()[i%2].server, "7010"))
				if err != nil {
					return err
				}
				t.Cleanup(func() { c.Close() })
				if _, err = c.Write([]byte("hello")); err != nil {
					return err
				}
				_, err = io.ReadFull(c, make([]byte, 5))
				return err
			})
		}
		must(t, group.Wait())
	}
	active := func(g *pair.Gateway) int {
		p, err := g.Peer(w.ctx)
		must(t, err)
		return p.FlowsActive
	}
	// openUntil opens connections until so many are carried. A machine that stands still for a second lets some pass raw: then the rest is
	// opened few at a time, and only while new ones are carried.
	openUntil := func(want int) {
		const few, mostRaw = 200, 4000 // both ends of a raw one take descriptors all the same
		before := active(w.Near)
		opened := want - before
		open(opened)
		for have := active(w.Near); have < want; have = active(w.Near) {
			if raw := opened - (have - before); raw > mostRaw {
				t.Fatalf("%d flows carried, want %d; %d raw: %v", have, want, raw, w.passedByReason(t, w.Near))
			}
			w.acceleratedAgain(t, "7010")
			n := min(want-have, few)
			open(n)
			opened += n
		}
	}
	// What the first flows cost is the gateway warming up.
	const warm = 200
	openUntil(warm)
	before := []int64{resident(t, w.Near), resident(t, w.Far)}
	openUntil(warm + n)
	for i, g := range []*pair.Gateway{w.Near, w.Far} {
		carried := active(g)
		if carried < warm+n {
			t.Errorf("%s carries %d flows, want %d", g.Name, carried, warm+n)
		}
		grown := resident(t, g) - before[i]
		each := grown / int64(carried-warm)
		start := ticks(t, g)
		time.Sleep(watch) // what is measured is what it does meanwhile
		share := (ticks(t, g) - start).Seconds() / watch.Seconds()
		t.Logf("%s: %d bytes per idle flow; processor while %d flows idle: %.2f %%", g.Name, each, carried, 100*share)
		if limit := int64(carried-warm)*maxIdleFlowBytes + garbage; grown > limit {
			t.Errorf("%s: %d bytes more for %d idle flows, want at most %d", g.Name, grown, carried-warm, limit)
		}
		if soak() && share >= maxIdleShare {
			t.Errorf("%s: %.2f %% of a processor while %d flows idle, want less than %.0f %%", g.Name, 100*share, carried, 100*maxIdleShare)
		}
	}
}
