package pair_test

import (
	"errors"
	"fmt"
	"io"
	"net"
	"os"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"wanpair/bench/lab"
	"wanpair/bench/pair"
)

// soak says whether the long forms of tests are wanted.
func soak() bool { return os.Getenv("WANPAIR_SOAK") == "1" }

// TestNewConnectionsPerSecond opens connections at a steady rate, whether the earlier ones are over or not, and loses none. WANPAIR_SOAK=1
// makes it the promised minute; otherwise it lasts some seconds.
func TestNewConnectionsPerSecond(t *testing.T) {
	const rate = 2000 // per second, promised
	duration := 3 * time.Second
	if soak() {
		duration = time.Minute
	}
	const addresses = 4 // ports of one client address alone would not last a minute
	w := newWorldWith(t, lab.Config{Link: "both delay=5ms rate=1gbit queue=4m", Clients: addresses, Servers: addresses}, pair.Config{LogLevel: "info"})
	w.serve("7300", func(c *net.TCPConn) {
		defer c.Close()
		var b [16]byte
		if n, err := io.ReadFull(c, b[:]); err == nil {
			_, _ = c.Write(b[:n])
		}
	})
	exchange := func(i int) error {
		server := lab.ServerAddr(i % addresses).String()
		if i/addresses%2 == 1 {
			server = lab.ServerAddr6(i % addresses).String()
		}
		c, err := w.lab.Dial(w.ctx, lab.Client, "tcp", net.JoinHostPort(server, "7300"))
		if err != nil {
			return err
		}
		defer c.Close()
		if err := c.SetDeadline(time.Now().Add(3 * patience)); err != nil { // late is not lost
			return err
		}
		if err := sendStream(c, uint64(i), 16); err != nil {
			return err
		}
		return expectStream(c, uint64(i), 16) // and the server's clean end
	}
	for i := range 200 { // warm
		must(t, exchange(i))
	}
	before := w.diverted(t)
	total := int(duration.Seconds() * rate)
	// A machine that cannot keep up offers less; its clients must not run out of descriptors and blame the gateways.
	underWay := 300
	if soak() {
		underWay = 3000
	}
	slots := make(chan struct{}, underWay)
	var group sync.WaitGroup
	var lost atomic.Int64
	var first atomic.Pointer[error]
	begun := time.Now()
	for i := range total {
		if ahead := time.Until(begun.Add(time.Duration(i) * time.Second / rate)); ahead > 0 {
			time.Sleep(ahead) // the rate is the point
		}
		slots <- struct{}{}
		group.Go(func() {
			defer func() { <-slots }()
			if err := exchange(i); err != nil {
				lost.Add(1)
				first.CompareAndSwap(nil, &err)
			}
		})
	}
	offered := time.Since(begun)
	group.Wait()
	done := time.Since(begun)
	t.Logf("%d connections offered in %v (%.0f/s), all over after %v", total, offered, float64(total)/offered.Seconds(), done)
	if n := lost.Load(); n > 0 {
		t.Errorf("%d of %d connections were lost, the first by: %v", n, total, *first.Load())
		for _, g := range []*pair.Gateway{w.Near, w.Far} {
			for name, v := range w.metrics(t, g) {
				if strings.HasPrefix(name, "wanpair_flows_total{") {
					t.Logf("%s: %s %v", g.Name, name, v)
				}
			}
		}
	}
	carried := w.diverted(t) - before
	t.Logf("%v of them went through the tunnel, raw: %v", carried, w.passedByReason(t, w.Near))
	if carried == 0 {
		t.Error("none of them were accelerated")
	}
}

// TestFlowLimit: connections beyond limits.flows pass raw, past the process, with the reason in metrics, status and flow list; they do so
// until a good part of the flows has ended, so that the gateway does not change its mind with every connection.
func TestFlowLimit(t *testing.T) {
	t.Parallel()
	const limit = 40
	w := newWorldWith(t, lab.Config{Link: testLink}, pair.Config{NearExtra: fmt.Sprintf("[limits]\nflows = %d", limit)})
	w.serve("7301", echoServer)
	fams := families()
	open := func(i int) *running {
		r := &running{c: w.connect(t, fams[i%2].server, "7301"), seed: uint64(1000 * i)}
		must(t, r.c.SetDeadline(time.Now().Add(time.Minute)))
		must(t, r.say())
		return r
	}
	active := func() float64 { return w.metrics(t, w.Near)[`wanpair_flows_active{peer="far"}`] }
	var held []*running
	overloads := w.events(t, w.Near, "overload")
	for i := 0; active() < limit; i++ { // a machine that stands still for a second lets some pass raw
		if i == 3*limit {
			t.Fatalf("%v flows of %d connections", active(), i)
		}
		held = append(held, open(i))
	}
	full := len(held)
	closed := func(n float64) func() error {
		return func() error {
			if w.events(t, w.Near, "overload") == n {
				return errors.New("the door is open")
			}
			return nil
		}
	}
	eventually(t, patience, "the rules follow", closed(overloads))
	before := w.passed(t, w.Near, "flow_limit")
	for i := range 20 {
		held = append(held, open(full+i))
	}
	if n := active(); n > limit {
		t.Errorf("%v flows in the process, the limit is %d", n, limit)
	}
	if n := w.passed(t, w.Near, "flow_limit") - before; n < 20 {
		t.Errorf("%v connections counted as raw because of the limit, want 20", n)
	}
	status := w.must(lab.GatewayA, binary, "status", "-c", w.Near.ConfigPath())
	if !strings.Contains(status, "flow_limit") {
		t.Errorf("the status does not speak of the limit:\n%s", status)
	}
	// A few flows less are not room enough.
	for _, r := range held[:2] {
		r.c.Close()
	}
	eventually(t, patience, "fewer", func() error {
		if n := active(); n > limit-1 {
			return fmt.Errorf("%v flows", n)
		}
		return nil
	})
	before = w.passed(t, w.Near, "flow_limit")
	held = append(held, open(1000))
	if n := w.passed(t, w.Near, "flow_limit") - before; n < 1 {
		t.Errorf("with room for two the next connection was taken: %v passed", n)
	}
	for _, r := range held[2 : full/2] {
		r.c.Close()
	}
	eventually(t, patience, "accelerated again", func() error {
		before := w.diverted(t)
		open(2000).c.Close()
		if w.diverted(t) == before {
			return errors.New("raw")
		}
		return nil
	})
	for i, r := range held[full/2:] {
		if err := r.say(); err != nil {
			t.Errorf("connection %d: %v", i, err)
		}
	}
}
