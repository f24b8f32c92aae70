package pair_test

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"os"
	"sync"
	"syscall"
	"testing"
	"time"

	"golang.org/x/sync/errgroup"

	"wanpair/bench/lab"
	"wanpair/bench/pair"
)

// killIsSeenWithin is what is promised for the ends of a killed gateway.
const killIsSeenWithin = 100 * time.Millisecond

// TestKillIsSeenAsReset kills either gateway while connections are in every state. The ends beside it see resets within the time
// promised, and the ends beyond the other gateway see resets as well once the gateway is back; nobody sees a clean end.
func TestKillIsSeenAsReset(t *testing.T) {
	w := newWorld(t, testLink)
	conns := w.accepts(t, "7200")
	for _, victim := range []*pair.Gateway{w.Near, w.Far} {
		t.Run(victim.Name, func(t *testing.T) {
			promised(t, "resets beside the killed gateway", killIsSeenWithin, func() time.Duration { return w.killUnder(t, victim, conns) })
		})
	}
}

// promised measures how long something took, up to three times: a busy machine is late once, a gateway that does not keep what is promised
// is late each time.
func promised(t *testing.T, what string, promise time.Duration, measure func() time.Duration) {
	t.Helper()
	const tries = 3
	for try := 1; ; try++ {
		took := measure()
		t.Logf("%s: %v", what, took)
		if took <= promise || t.Failed() {
			return
		}
		if try == tries {
			t.Fatalf("%s: took more than %v %d times, at last %v", what, promise, tries, took)
		}
	}
}

// killUnder opens connections, kills the gateway, starts it again and says when the slowest of the ends beside it saw its reset.
func (w *world) killUnder(t *testing.T, victim *pair.Gateway, conns <-chan *net.TCPConn) (slowest time.Duration) {
	t.Helper()
	w.waitUp(patience)
	type end struct {
		what   string
		beside bool // the killed gateway is its neighbour
		err    error
		at     time.Time
		read   func() error
	}
	var ends []*end
	add := func(what string, c *net.TCPConn, isClient bool, read func() error) {
		ends = append(ends, &end{what: what, beside: isClient == (victim == w.Near), read: read})
		must(t, c.SetDeadline(time.Now().Add(patience)))
	}
	for _, fam := range families() {
		for _, state := range []string{"idle", "client sends", "server sends", "client has ended", "server has ended"} {
			c := w.connect(t, fam.server, "7200")
			s := next(t, conns)
			must(t, talk(c, s, 1))
			what := fam.name + ", " + state
			sending := func(from *net.TCPConn) func() error {
				done := make(chan error, 1)
				go func() { done <- sendStream(from, 1, 1<<40) }()
				return func() error { return <-done }
			}
			clientSees, serverSees := readOn(c), readOn(s)
			switch state {
			case "client sends":
				clientSees = sending(c)
			case "server sends":
				serverSees = sending(s)
			case "client has ended":
				must(t, c.CloseWrite())
				must(t, expectStream(s, 0, 0))
				serverSees = func() error { return awaitHangup(s) }
			case "server has ended":
				must(t, s.CloseWrite())
				must(t, expectStream(c, 0, 0))
				clientSees = func() error { return awaitHangup(c) }
			}
			add(what+": the client", c, true, clientSees)
			add(what+": the server", s, false, serverSees)
		}
	}
	var group sync.WaitGroup
	for _, e := range ends {
		group.Go(func() { e.err, e.at = e.read(), time.Now() })
	}
	time.Sleep(200 * time.Millisecond) // transfers get going
	killed := time.Now()
	must(t, victim.Kill())
	for _, fam := range families() {
		eventually(t, patience, "new connections raw over "+fam.name, func() error { return w.echoOn(fam, conns) })
	}
	// The ends beyond the other gateway are held, as in a cut, until it is known that the flows are gone for good.
	must(t, victim.Start(w.ctx))
	w.waitUp(patience)
	up := time.Now()
	group.Wait()
	var beyond time.Duration
	for _, e := range ends {
		if !isReset(e.err) {
			t.Errorf("%s saw %v instead of a reset", e.what, e.err)
		}
		if e.beside {
			slowest = max(slowest, e.at.Sub(killed))
		} else {
			beyond = max(beyond, e.at.Sub(up))
		}
	}
	t.Logf("resets beyond the other gateway: %v after the killed one was back", max(beyond, 0))
	return slowest
}

// echoOn makes one connection to a server whose connections the test takes, and talks.
func (w *world) echoOn(fam family, conns <-chan *net.TCPConn) error {
	ctx, cancel := context.WithTimeout(w.ctx, time.Second)
	defer cancel()
	c, err := w.lab.Dial(ctx, lab.Client, "tcp", net.JoinHostPort(fam.server, "7200"))
	if err != nil {
		return err
	}
	defer c.Close()
	if err := c.SetDeadline(time.Now().Add(5 * time.Second)); err != nil {
		return err
	}
	select {
	case s := <-conns:
		defer s.Close()
		return talk(c.(*net.TCPConn), s, 5)
	case <-time.After(time.Second):
		return errors.New("the server got no connection")
	}
}

// rawAfter makes new connections, each given little time, until one works for each family, and says how long after begin that was.
func (w *world) rawAfter(t *testing.T, port string, begin time.Time) time.Duration {
	t.Helper()
	for _, fam := range families() {
		for {
			err := w.echo(fam.server, port, 300*time.Millisecond)
			if err == nil {
				break
			}
			if took := time.Since(begin); took > 2*patience {
				t.Fatalf("%s: new connections do not work %v after the fault: %v", fam.name, took, err)
			}
		}
	}
	return time.Since(begin)
}

// running is a connection that says a line a moment, forth and back, and must survive.
type running struct {
	c    *net.TCPConn
	seed uint64
}

func (w *world) establish(t *testing.T, port string) []*running {
	t.Helper()
	var out []*running
	for _, fam := range families() {
		c := w.connect(t, fam.server, port)
		must(t, c.SetDeadline(time.Now().Add(time.Minute)))
		r := &running{c: c, seed: 77}
		must(t, r.say())
		out = append(out, r)
	}
	return out
}

// say sends the next stretch to an echo server and expects it back.
func (r *running) say() error {
	r.seed++
	const size = 30_000
	if err := sendStream(r.c, r.seed, size); err != nil {
		return err
	}
	return expectStream(io.LimitReader(r.c, size), r.seed, size)
}

// TestHungGateways stops the processes, which then answer nobody and clean up nothing.
func TestHungGateways(t *testing.T) {
	t.Parallel()
	w := newWorld(t, testLink)
	w.serve("7201", echoServer)
	// The set's time-out, what the other side needs to notice, and the attempt under way.
	const promise = 3*time.Second + time.Second
	for _, victim := range []*pair.Gateway{w.Near, w.Far} {
		t.Run(victim.Name, func(t *testing.T) {
			promised(t, "new connections raw after the hang began", promise, func() time.Duration {
				w.waitUp(patience)
				established := w.establish(t, "7201")
				hung := time.Now()
				must(t, victim.Signal(syscall.SIGSTOP))
				defer func() { _ = victim.Signal(syscall.SIGCONT) }()
				took := w.rawAfter(t, "7201", hung)
				must(t, victim.Signal(syscall.SIGCONT))
				for _, r := range established {
					if err := r.say(); err != nil {
						t.Errorf("an established connection, after the hang: %v", err)
					}
				}
				return took
			})
			w.acceleratedAgain(t, "7201")
		})
	}
}

// TestTunnelCut takes away the tunnel's packets while the bare link works: a firewall that blocks UDP.
func TestTunnelCut(t *testing.T) {
	t.Parallel()
	w := newWorld(t, testLink)
	w.serve("7202", echoServer)
	promised(t, "new connections raw after the cut", 5*time.Second, func() time.Duration {
		w.waitUp(patience)
		established := w.establish(t, "7202")
		cut := time.Now()
		w.must(lab.GatewayB, "nft", fmt.Sprintf("add table inet cut; add chain inet cut in { type filter hook prerouting priority -400; };"+
			"add rule inet cut in udp dport %d drop; add rule inet cut in udp sport %d drop", pair.TunnelPort, pair.TunnelPort))
		took := w.rawAfter(t, "7202", cut)
		w.must(lab.GatewayB, "nft", "delete table inet cut")
		mended := time.Now()
		for _, r := range established {
			if err := r.say(); err != nil {
				t.Errorf("an established connection, after the cut: %v", err)
			}
		}
		t.Logf("established connections flow again %v after the repair", time.Since(mended))
		return took
	})
	if n := w.passed(t, w.Near, "peer_connecting") + w.passed(t, w.Near, "peer_down"); n < 2 {
		t.Errorf("%v connections counted as raw for want of the peer", n)
	}
	w.acceleratedAgain(t, "7202")
}

// acceleratedAgain waits until new connections of both families go through the tunnel.
func (w *world) acceleratedAgain(t *testing.T, port string) {
	t.Helper()
	w.waitUp(patience)
	for _, fam := range families() {
		eventually(t, patience, "accelerated again over "+fam.name, func() error {
			before := w.diverted(t)
			if err := w.echo(fam.server, port, patience); err != nil {
				return err
			}
			if w.diverted(t) == before {
				return errors.New("raw")
			}
			return nil
		})
	}
}

// TestLinkCut cuts the link itself in the middle of transfers both ways.
func TestLinkCut(t *testing.T) {
	t.Parallel()
	w := newWorld(t, "both delay=10ms rate=40mbit queue=1m")
	conns := w.accepts(t, "7203")
	const size = 8 << 20
	var group sync.WaitGroup
	for i, fam := range families() {
		c := w.connect(t, fam.server, "7203")
		s := next(t, conns)
		for side, ends := range [][2]*net.TCPConn{{c, s}, {s, c}} {
			seed := uint64(10*i + side)
			must(t, ends[0].SetDeadline(time.Now().Add(time.Minute)))
			group.Go(func() {
				if err := errors.Join(sendStream(ends[0], seed, size), ends[0].CloseWrite()); err != nil {
					t.Error(err)
				}
			})
			group.Go(func() {
				if err := expectStream(ends[1], seed, size); err != nil {
					t.Error(err)
				}
			})
		}
	}
	for range 2 {
		time.Sleep(700 * time.Millisecond) // the transfers go on
		must(t, w.lab.SetLink(w.ctx, "down"))
		time.Sleep(2 * time.Second) // nothing gets through
		must(t, w.lab.SetLink(w.ctx, "up"))
	}
	group.Wait()
	w.tunnelled()
}

// load is a stream of short connections that never pauses for long.
type load struct {
	stop   chan struct{}
	group  sync.WaitGroup
	gate   sync.RWMutex // held for reading by each connection
	mu     sync.Mutex
	worked int
	failed []error
}

func (w *world) load(port string) *load {
	l := &load{stop: make(chan struct{})}
	for i := range 6 {
		l.group.Go(func() {
			for n := i; ; n++ {
				select {
				case <-l.stop:
					return
				default:
				}
				fam := families()[n%2]
				l.gate.RLock()
				began := time.Now()
				err := w.echo(fam.server, port, 2*patience)
				l.mu.Lock()
				if err == nil {
					l.worked++
				} else {
					l.failed = append(l.failed, fmt.Errorf("%s, after %v: %w", fam.name, time.Since(began), err))
				}
				l.mu.Unlock()
				l.gate.RUnlock()
				time.Sleep(2 * time.Millisecond) // leaves the machine some room
			}
		})
	}
	return l
}

// since gives what happened since the last call.
func (l *load) since() (worked int, failed []error) {
	l.mu.Lock()
	defer l.mu.Unlock()
	worked, failed = l.worked, l.failed
	l.worked, l.failed = 0, nil
	return worked, failed
}

// quiesce waits until what runs has ended, while nothing new begins, and gives what happened since the last call.
func (l *load) quiesce() (worked int, failed []error) {
	l.gate.Lock()
	defer l.gate.Unlock()
	return l.since()
}

func (l *load) end() {
	close(l.stop)
	l.group.Wait()
}

// TestRestartsUnderLoad stops, kills and starts both gateways while connections come all the time. An orderly stop costs none of them; a
// kill costs those that were under way, by a reset, and no other.
func TestRestartsUnderLoad(t *testing.T) {
	t.Parallel()
	w := newWorldWith(t, lab.Config{Link: testLink}, pair.Config{LogLevel: "info"})
	w.serve("7204", echoServer)
	l := w.load("7204")
	defer l.end()
	for _, g := range []*pair.Gateway{w.Near, w.Far} {
		for name, end := range map[string]func() error{
			"stop": func() error { return g.Stop(w.ctx) },
			"kill": g.Kill,
		} {
			t.Run(name+" "+g.Name, func(t *testing.T) {
				w.waitUp(patience)
				l.quiesce()
				must(t, end())
				time.Sleep(300 * time.Millisecond) // connections come
				must(t, g.Start(w.ctx))
				w.waitUp(patience)
				time.Sleep(300 * time.Millisecond) // and are accelerated again
				worked, failed := l.quiesce()
				t.Logf("%d connections worked, %d failed", worked, len(failed))
				if worked == 0 {
					t.Error("no connection worked")
				}
				for _, err := range failed {
					if name == "stop" || !isReset(err) {
						t.Errorf("a connection failed: %v", err)
					}
				}
			})
		}
	}
}

// TestRulesLostUnderLoad takes away what leads packets to the gateway: rules, routes, the interface.
func TestRulesLostUnderLoad(t *testing.T) {
	t.Parallel()
	w := newWorld(t, testLink)
	w.serve("7205", echoServer)
	established := w.establish(t, "7205")
	l := w.load("7205")
	defer l.end()
	for _, fault := range []struct {
		name string
		do   func(lab.Node)
	}{
		{"nftables flushed", func(n lab.Node) { w.must(n, "nft", "flush", "ruleset") }},
		{"routing rules deleted", func(n lab.Node) {
			w.must(n, "ip", "-4", "rule", "del", "priority", "100")
			w.must(n, "ip", "-6", "rule", "del", "priority", "100")
		}},
		{"the interface down and up", func(n lab.Node) {
			fam := families()
			addrs := map[lab.Node][2]string{lab.GatewayA: {fam[0].gatewayALAN, fam[1].gatewayALAN}, lab.GatewayB: {fam[0].gatewayBLAN, fam[1].gatewayBLAN}}[n]
			w.must(n, "ip", "link", "set", lab.LANDevice, "down")
			w.must(n, "ip", "link", "set", lab.LANDevice, "up")
			w.must(n, "ip", "address", "replace", addrs[1]+"/64", "dev", lab.LANDevice, "nodad") // going down took it away
		}},
	} {
		for _, n := range []lab.Node{lab.GatewayA, lab.GatewayB} {
			t.Run(fault.name+" on "+string(n), func(t *testing.T) {
				l.quiesce()
				fault.do(n)
				w.acceleratedAgain(t, "7205")
				for _, r := range established {
					if err := r.say(); err != nil {
						t.Errorf("an established connection: %v", err)
					}
				}
				worked, failed := l.quiesce() // what met the fault has ended
				t.Logf("while it healed %d connections worked, %d failed: %v", worked, len(failed), errors.Join(failed...))
				eventually(t, patience, "connections work", func() error {
					if worked, _ := l.since(); worked == 0 {
						return errors.New("none yet")
					}
					return nil
				})
				if _, failed := l.quiesce(); len(failed) > 0 {
					t.Errorf("afterwards: %v", errors.Join(failed...))
				}
			})
		}
	}
}

// TestFirewallSwallowsDivertedPackets: somebody loads a firewall that drops what the rules bring to this host.
func TestFirewallSwallowsDivertedPackets(t *testing.T) {
	t.Parallel()
	w := newWorld(t, testLink)
	w.serve("7206", echoServer)
	must(t, w.echo(lab.ServerIP4, "7206", patience))
	promised(t, "new connections raw after the firewall was tightened", 5*time.Second, func() time.Duration {
		w.acceleratedAgain(t, "7206")
		tightened := time.Now()
		w.must(lab.GatewayA, "nft", fmt.Sprintf("add table inet fw; add chain inet fw input { type filter hook input priority 0; policy drop; };"+
			"add rule inet fw input iifname lo meta mark and 0x01000000 == 0 accept; add rule inet fw input udp dport %d accept; add rule inet fw input udp sport %d accept;"+
			"add rule inet fw input meta l4proto { icmp, ipv6-icmp } accept", pair.TunnelPort, pair.TunnelPort))
		took := w.rawAfter(t, "7206", tightened)
		eventually(t, patience, "counted by its reason, and the health bad", func() error {
			if err := w.echo(lab.ServerIP4, "7206", patience); err != nil {
				return err
			}
			if _, code, err := w.Near.Get(w.ctx, "/healthz"); err != nil || code != 503 {
				return fmt.Errorf("health: %d, %w", code, err)
			}
			if w.passed(t, w.Near, "intercept_fault") == 0 {
				return errors.New("none")
			}
			return nil
		})
		w.must(lab.GatewayA, "nft", "delete table inet fw")
		return took
	})
	w.acceleratedAgain(t, "7206")
}

// TestLogThatNobodyReads wedges what a gateway writes to: a full pipe blocks every write to it. Connections must go on, one way or the
// other.
func TestLogThatNobodyReads(t *testing.T) {
	t.Parallel()
	w := newWorld(t, testLink)
	w.serve("7207", echoServer)
	must(t, w.Near.Stop(w.ctx))
	r, out, err := os.Pipe()
	must(t, err)
	defer r.Close()
	cmd := w.lab.Command(w.ctx, lab.GatewayA, binary, "gateway", "-c", w.Near.ConfigPath())
	cmd.Stdout, cmd.Stderr = out, out
	must(t, cmd.Start())
	out.Close()
	defer func() {
		_ = cmd.Process.Kill()
		_ = cmd.Wait()
	}()
	w.check(w.Far.WaitState(w.ctx, "up"))
	const count = 600 // a line of the debug log each: more than a pipe takes
	var group errgroup.Group
	group.SetLimit(8)
	for i := range count {
		group.Go(func() error { return w.echo(families()[i%2].server, "7207", patience) })
	}
	must(t, group.Wait())
	if n := w.diverted(t); n < count/2 {
		t.Logf("%v of %d connections were accelerated", n, count)
	}
}
