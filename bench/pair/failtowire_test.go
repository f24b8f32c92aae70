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
			const tries = 3 // a busy machine may be late once
			for try := 1; ; try++ {
				slowest := w.killUnder(t, victim, conns)
				t.Logf("resets beside the killed gateway arrived within %v", slowest)
				if slowest <= killIsSeenWithin {
					return
				}
				if try == tries {
					t.Fatalf("resets took %v, want at most %v", slowest, killIsSeenWithin)
				}
			}
		})
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
		eventually(t, 5*time.Second, "new connections raw over "+fam.name, func() error { return w.echoOn(fam, conns) })
	}
	// The ends beyond the other gateway are held, as in a cut, until it is known that the flows are gone for good.
	must(t, victim.Start(w.ctx))
	w.waitUp(patience)
	up := time.Now()
	group.Wait()
	for _, e := range ends {
		if !isReset(e.err) {
			t.Errorf("%s saw %v instead of a reset", e.what, e.err)
		}
		if e.beside {
			slowest = max(slowest, e.at.Sub(killed))
		} else if took := e.at.Sub(up); took > 5*time.Second {
			t.Errorf("%s, beyond the other gateway, saw it only %v after that one was back", e.what, took)
		}
	}
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

// rawWithin makes new connections until one works, each given little time, and says how long after begin that was.
func (w *world) rawWithin(t *testing.T, fam family, port string, begin time.Time, promise time.Duration) {
	t.Helper()
	for {
		err := w.echo(fam.server, port, 300*time.Millisecond)
		took := time.Since(begin)
		if err == nil {
			t.Logf("%s: new connections work after %v", fam.name, took)
			return
		}
		if took > promise {
			t.Fatalf("%s: new connections do not work %v after the fault: %v", fam.name, took, err)
		}
	}
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
			established := w.establish(t, "7201")
			hung := time.Now()
			must(t, victim.Signal(syscall.SIGSTOP))
			defer func() { _ = victim.Signal(syscall.SIGCONT) }()
			for _, fam := range families() {
				w.rawWithin(t, fam, "7201", hung, promise)
			}
			must(t, victim.Signal(syscall.SIGCONT))
			for _, r := range established {
				if err := r.say(); err != nil {
					t.Errorf("an established connection, after the hang: %v", err)
				}
			}
			w.waitUp(patience)
			before := w.diverted(t)
			must(t, w.echo(families()[0].server, "7201", patience))
			if w.diverted(t) == before {
				t.Error("new connections are not accelerated again")
			}
		})
	}
}

// TestTunnelCut takes away the tunnel's packets while the bare link works: a firewall that blocks UDP.
func TestTunnelCut(t *testing.T) {
	t.Parallel()
	w := newWorld(t, testLink)
	w.serve("7202", echoServer)
	established := w.establish(t, "7202")
	cut := time.Now()
	w.must(lab.GatewayB, "nft", fmt.Sprintf("add table inet cut; add chain inet cut in { type filter hook prerouting priority -400; };"+
		"add rule inet cut in udp dport %d drop; add rule inet cut in udp sport %d drop", pair.TunnelPort, pair.TunnelPort))
	for _, fam := range families() {
		w.rawWithin(t, fam, "7202", cut, 5*time.Second)
	}
	if n := w.passed(t, w.Near, "peer_connecting") + w.passed(t, w.Near, "peer_down"); n < 2 {
		t.Errorf("%v connections counted as raw for want of the peer", n)
	}
	w.must(lab.GatewayB, "nft", "delete table inet cut")
	mended := time.Now()
	for _, r := range established {
		if err := r.say(); err != nil {
			t.Errorf("an established connection, after the cut: %v", err)
		}
	}
	t.Logf("established connections flow again %v after the repair", time.Since(mended))
	w.waitUp(patience)
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
				began := time.Now()
				err := w.echo(fam.server, port, 10*time.Second)
				l.mu.Lock()
				if err == nil {
					l.worked++
				} else {
					l.failed = append(l.failed, fmt.Errorf("%s, after %v: %w", fam.name, time.Since(began), err))
				}
				l.mu.Unlock()
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
				l.since()
				must(t, end())
				time.Sleep(300 * time.Millisecond) // connections come
				must(t, g.Start(w.ctx))
				w.waitUp(patience)
				time.Sleep(300 * time.Millisecond) // and are accelerated again
				worked, failed := l.since()
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
				l.since()
				fault.do(n)
				time.Sleep(2500 * time.Millisecond) // what is promised for healing, and some
				worked, failed := l.since()
				t.Logf("%d connections worked, %d failed: %v", worked, len(failed), errors.Join(failed...))
				before := w.diverted(t)
				for _, fam := range families() {
					must(t, w.echo(fam.server, "7205", 5*time.Second))
				}
				if w.diverted(t) == before {
					t.Error("connections are not accelerated again")
				}
				for _, r := range established {
					if err := r.say(); err != nil {
						t.Errorf("an established connection: %v", err)
					}
				}
				if _, failed := l.since(); len(failed) > 0 {
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
	tightened := time.Now()
	w.must(lab.GatewayA, "nft", fmt.Sprintf("add table inet fw; add chain inet fw input { type filter hook input priority 0; policy drop; };"+
		"add rule inet fw input iifname lo meta mark and 0x01000000 == 0 accept; add rule inet fw input udp dport %d accept; add rule inet fw input udp sport %d accept;"+
		"add rule inet fw input meta l4proto { icmp, ipv6-icmp } accept", pair.TunnelPort, pair.TunnelPort))
	for _, fam := range families() {
		w.rawWithin(t, fam, "7206", tightened, 5*time.Second)
	}
	eventually(t, patience, "counted by its reason", func() error {
		if w.passed(t, w.Near, "intercept_fault") == 0 {
			return errors.New("none")
		}
		return nil
	})
	if _, code, err := w.Near.Get(w.ctx, "/healthz"); err != nil || code != 503 {
		t.Errorf("health: %d, %v", code, err)
	}
	w.must(lab.GatewayA, "nft", "delete table inet fw")
	eventually(t, patience, "accelerated again", func() error {
		before := w.diverted(t)
		if err := w.echo(lab.ServerIP4, "7206", patience); err != nil {
			return err
		}
		if w.diverted(t) == before {
			return errors.New("raw")
		}
		return nil
	})
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
		group.Go(func() error { return w.echo(families()[i%2].server, "7207", 5*time.Second) })
	}
	must(t, group.Wait())
	if n := w.diverted(t); n < count/2 {
		t.Logf("%v of %d connections were accelerated", n, count)
	}
}
