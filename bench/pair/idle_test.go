package pair_test

import (
	"fmt"
	"io"
	"net"
	"os"
	"strconv"
	"strings"
	"sync"
	"testing"
	"time"

	"wanpair/bench/lab"
	"wanpair/bench/pair"
)

// maxIdleFlowBytes is what an idle flow may cost each gateway, resident.
const maxIdleFlowBytes = 16 << 10

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

// TestIdleFlowsAreSmall opens many connections that say one word each and then stay. WANPAIR_IDLE_FLOWS sets how many.
func TestIdleFlowsAreSmall(t *testing.T) {
	n := 4000
	if v, err := strconv.Atoi(os.Getenv("WANPAIR_IDLE_FLOWS")); err == nil {
		n = v
	}
	w := newWorld(t, testLink)
	w.serve("7010", echoServer)
	open := func(count int) {
		var group sync.WaitGroup
		work := make(chan struct{}, count)
		for range count {
			work <- struct{}{}
		}
		close(work)
		for range 32 {
			group.Go(func() {
				for range work {
					c, err := w.lab.Dial(w.ctx, lab.Client, "tcp", net.JoinHostPort(lab.ServerIP4, "7010"))
					if err != nil {
						t.Error(err)
						return
					}
					t.Cleanup(func() { c.Close() })
					_, err = c.Write([]byte("hello"))
					if err == nil {
						_, err = io.ReadFull(c, make([]byte, 5))
					}
					if err != nil {
						t.Error(err)
						return
					}
				}
			})
		}
		group.Wait()
	}
	// What the first flows cost is the gateway warming up.
	open(200)
	w.waitStats(w.Near, "settled", func(p pair.PeerStats) bool { return p.FlowsActive >= 200 })
	before := []int64{resident(t, w.Near), resident(t, w.Far)}
	open(n)
	w.waitStats(w.Near, "carrying them all", func(p pair.PeerStats) bool { return p.FlowsActive >= 200+n })
	for i, g := range []*pair.Gateway{w.Near, w.Far} {
		each := (resident(t, g) - before[i]) / int64(n)
		start := ticks(t, g)
		time.Sleep(2 * time.Second) // what is measured is what it does meanwhile
		t.Logf("%s: %d bytes per idle flow; processor while %d flows idle: %.1f %%", g.Name, each, 200+n, (ticks(t, g)-start).Seconds()/2*100)
		if each > maxIdleFlowBytes {
			t.Errorf("%s: %d bytes per idle flow, want at most %d", g.Name, each, maxIdleFlowBytes)
		}
	}
}
