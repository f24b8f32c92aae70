package pair_test

import (
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"wanpair/bench/lab"
	"wanpair/bench/pair"
)

// gasp lets a process run for a moment now and then, as on a machine that has no processor to spare, until the returned function is called.
func gasp(t *testing.T, g *pair.Gateway) (relieve func()) {
	t.Helper()
	stop := make(chan struct{})
	var group sync.WaitGroup
	group.Go(func() {
		for {
			_ = g.Signal(syscall.SIGSTOP)
			select {
			case <-stop:
				_ = g.Signal(syscall.SIGCONT)
				return
			case <-time.After(250 * time.Millisecond):
			}
			_ = g.Signal(syscall.SIGCONT)
			time.Sleep(20 * time.Millisecond)
		}
	})
	return sync.OnceFunc(func() { close(stop); group.Wait() })
}

// TestProcessorOverloaded starves either gateway of processor time without stopping it. The near one lets new connections pass raw, says
// why, and takes them again when it is over; beside either, what is established goes on.
func TestProcessorOverloaded(t *testing.T) {
	t.Parallel()
	w := newWorld(t, testLink)
	w.serve("7800", echoServer)
	for _, victim := range []*pair.Gateway{w.Near, w.Far} {
		t.Run(victim.Name, func(t *testing.T) {
			w.acceleratedAgain(t, "7800")
			established := w.establish(t, "7800")
			before, events := w.passed(t, victim, "overload"), w.events(t, victim, "overload")
			relieve := gasp(t, victim)
			defer relieve()
			if victim == w.Near {
				eventually(t, 2*patience, "new connections raw for the overload", func() error {
					for _, fam := range families() {
						if err := w.echo(fam.server, "7800", patience); err != nil {
							return err
						}
					}
					all, err := readMetrics(w.ctx, victim)
					if err != nil {
						return err
					}
					if n := all[`wanpair_flows_passed_total{reason="overload"}`] - before; n < 2 {
						return fmt.Errorf("%v", n)
					}
					return nil
				})
			} else { // it takes the peer's flows as long as it can: it is the near one that decides
				time.Sleep(2 * time.Second) // the strain lasts
			}
			relieve()
			for _, r := range established {
				must(t, r.c.SetDeadline(time.Now().Add(patience)))
				if err := r.say(); err != nil {
					t.Errorf("an established connection: %v", err)
				}
			}
			if victim == w.Near && w.events(t, victim, "overload") == events {
				t.Error("no event says so")
			}
			w.acceleratedAgain(t, "7800")
		})
	}
}

// limited makes a gateway run with fewer descriptors from its next start on.
func limited(t *testing.T, w *world, g *pair.Gateway, descriptors int) {
	t.Helper()
	script := filepath.Join(w.dir, g.Name+"-limited")
	must(t, os.WriteFile(script, fmt.Appendf(nil, "#!/bin/sh\nulimit -n %d\nexec %s \"$@\"\n", descriptors, binary), 0o755))
	must(t, g.Stop(w.ctx))
	g.SetBinary(script)
	must(t, g.Start(w.ctx))
	w.waitUp(patience)
}

// TestFewDescriptors: a gateway that may have few descriptors takes as many connections as it has descriptors for; more pass raw, until
// there is room to spare.
func TestFewDescriptors(t *testing.T) {
	t.Parallel()
	w := newWorld(t, testLink)
	w.serve("7801", echoServer)
	const descriptors, most = 160, 40 // half of them are kept for everything else, and a flow may need two
	limited(t, w, w.Near, descriptors)
	fams := families()
	open := func(i int) *running {
		r := &running{c: w.connect(t, fams[i%2].server, "7801"), seed: uint64(1000 * i)}
		must(t, r.c.SetDeadline(time.Now().Add(2*time.Minute)))
		must(t, r.say())
		return r
	}
	var held []*running
	for i := range 3 * most {
		held = append(held, open(i))
	}
	if n := w.passed(t, w.Near, "overload"); n == 0 {
		t.Errorf("none of %d connections passed raw for want of descriptors: %v", len(held), w.passedByReason(t, w.Near))
	}
	for i, r := range held {
		if err := r.say(); err != nil {
			t.Errorf("connection %d: %v", i, err)
		}
	}
	if out := w.must(lab.GatewayA, binary, "status", "-c", w.Near.ConfigPath()); !strings.Contains(out, "overload") {
		t.Errorf("the status does not say so:\n%s", out)
	}
	for _, r := range held {
		must(t, r.c.Close())
	}
	w.acceleratedAgain(t, "7801")
}

// TestAcceptingStandsStill wedges a living process: it may have no further descriptors, so that it accepts nothing any more. The watchdog
// of the rules sees to it that new connections pass raw; afterwards all is as before.
func TestAcceptingStandsStill(t *testing.T) {
	t.Parallel()
	w := newWorld(t, testLink)
	w.serve("7802", echoServer)
	promised(t, "new connections raw after the gateway stopped accepting", 5*time.Second, func() time.Duration {
		w.acceleratedAgain(t, "7802")
		established := w.establish(t, "7802")
		var was unix.Rlimit
		must(t, unix.Prlimit(w.Near.PID(), unix.RLIMIT_NOFILE, nil, &was))
		must(t, unix.Prlimit(w.Near.PID(), unix.RLIMIT_NOFILE, &unix.Rlimit{Cur: 3, Max: was.Max}, nil))
		took := w.rawAfter(t, "7802", time.Now())
		for _, r := range established {
			if err := r.say(); err != nil {
				t.Errorf("an established connection meanwhile: %v", err)
			}
		}
		must(t, unix.Prlimit(w.Near.PID(), unix.RLIMIT_NOFILE, &was, nil))
		for _, r := range established {
			if err := r.say(); err != nil {
				t.Errorf("an established connection afterwards: %v", err)
			}
		}
		return took
	})
	if w.passed(t, w.Near, "intercept_fault") < 1 {
		t.Errorf("raw, but not for the fault: %v", w.passedByReason(t, w.Near))
	}
	w.acceleratedAgain(t, "7802")
}

// TestPeerWithoutRoom: the far gateway has memory for few flows. The near one does not open more, and carries the others raw.
func TestPeerWithoutRoom(t *testing.T) {
	t.Parallel()
	const room = 12
	w := newWorldWith(t, lab.Config{Link: testLink}, pair.Config{FarExtra: fmt.Sprintf("[limits]\nflows = %d\nmemory = \"%dKiB\"", room, room*32)})
	w.serve("7803", echoServer)
	var held []*running
	for range 2 * room {
		held = append(held, w.establish(t, "7803")...)
	}
	for i, r := range held {
		if err := r.say(); err != nil {
			t.Errorf("connection %d: %v", i, err)
		}
	}
	if n := w.listedFor(t, "peer_limit", 17); n == 0 {
		t.Errorf("none of %d connections is raw because the peer has no room", len(held))
	}
	for _, r := range held {
		must(t, r.c.Close())
	}
	eventually(t, patience, "counted when they have ended", func() error {
		if w.passed(t, w.Near, "peer_limit") == 0 {
			return errors.New("none")
		}
		return nil
	})
	w.acceleratedAgain(t, "7803")
}

// listedFor is how many running connections are listed with a reason.
func (w *world) listedFor(t *testing.T, name string, number int) (n int) {
	t.Helper()
	for _, f := range w.listed(t, w.Near) {
		if f.Reason != nil && f.Reason.Name == name && f.Reason.Number == number {
			n++
		}
	}
	return n
}

// TestMemoryLimit: a gateway whose peers share little memory lets the connections that find none of it for their credit pass raw, past the
// process, says why, and takes them again when most have ended.
func TestMemoryLimit(t *testing.T) {
	t.Parallel()
	const flows, peers = 40, 4 // each peer has a quarter of 40 times 32 KiB: credit for 20 flows of 16 KiB
	const room = flows * 2 / peers
	extra := fmt.Sprintf("[limits]\nflows = %d\nmemory = \"%dKiB\"\n", flows, 32*flows)
	for i := 1; i < peers; i++ {
		key, err := exec.Command(binary, "keygen", "-o", filepath.Join(t.TempDir(), "key")).Output()
		must(t, err)
		extra += fmt.Sprintf("[[peer]]\nname = \"absent%d\"\npublic_keys = [%q]\nsubnets = [\"10.7.%d.0/24\"]\n", i, strings.TrimSpace(string(key)), i)
	}
	w := newWorldWith(t, lab.Config{Link: testLink}, pair.Config{NearExtra: extra, CacheMemory: "512MiB"})
	w.serve("7806", echoServer)
	var held []*running
	for range room {
		held = append(held, w.establish(t, "7806")...) // two each
	}
	eventually(t, patience, "connections raw for want of memory", func() error {
		held = append(held, w.establish(t, "7806")...)
		if w.passed(t, w.Near, "memory_limit") == 0 {
			return fmt.Errorf("%v", w.passedByReason(t, w.Near))
		}
		return nil
	})
	if n := w.metrics(t, w.Near)[`wanpair_flows_active{peer="far"}`]; n < room/2 || n > room+2 {
		t.Errorf("%v flows have the memory of %d", n, room)
	}
	if n := w.passed(t, w.Near, "flow_limit"); n > 0 {
		t.Errorf("%v connections raw for the number of flows, which was not reached", n)
	}
	if out := w.must(lab.GatewayA, binary, "status", "-c", w.Near.ConfigPath()); !strings.Contains(out, "memory_limit") {
		t.Errorf("the status does not say so:\n%s", out)
	}
	for i, r := range held {
		if err := r.say(); err != nil {
			t.Errorf("connection %d: %v", i, err)
		}
	}
	for _, r := range held {
		must(t, r.c.Close())
	}
	w.acceleratedAgain(t, "7806")
}
