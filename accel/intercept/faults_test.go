package intercept

import (
	"context"
	"errors"
	"fmt"
	"strings"
	"testing"
	"time"

	"wanpair/accel/internal/nstest"

	"github.com/google/go-cmp/cmp"
)

// A host that would swallow what is diverted is refused before anything is, and nothing stays behind.
func TestProbeFindsBlackHoles(t *testing.T) {
	for _, tt := range []struct {
		name   string
		break_ func(s *site)
		want   string
	}{
		{"src_valid_mark everywhere", func(s *site) { s.gateway.Sysctl("ipv4/conf/all/src_valid_mark", "1") }, "IPv4"},
		{"input policy drop", func(s *site) {
			s.nft("table inet fw { chain in { type filter hook input priority filter; policy drop; iifname lo accept; }; }")
		}, "IPv4 got no answer, IPv6 got no answer"},
		{"input rule drops one family", func(s *site) {
			s.nft("table ip6 fw { chain in { type filter hook input priority filter; policy accept; meta mark and 0x1000000 != 0 drop; }; }")
		}, "IPv6"},
		{"an earlier chain takes the SYN away", func(s *site) {
			s.nft("table inet fw { chain p { type filter hook prerouting priority raw; policy accept; tcp flags syn / syn,ack drop; }; }")
		}, "IPv4 got no answer, IPv6 got no answer"},
		{"legacy iptables input policy", func(s *site) { s.gateway.Output("iptables-legacy", "-P", "INPUT", "DROP") }, "IPv4"},
	} {
		t.Run(tt.name, func(t *testing.T) {
			s := newSite(t)
			tt.break_(s)
			before := listing(s.gateway)
			_, err := s.install(config(t))
			if !errors.Is(err, ErrSwallowed) || !strings.Contains(fmt.Sprint(err), tt.want) {
				t.Fatalf("got %v, want %v with %q", err, ErrSwallowed, tt.want)
			}
			t.Log(err)
			if diff := cmp.Diff(before, listing(s.gateway)); diff != "" {
				t.Errorf("left behind (+):\n%s", diff)
			}
			if links := s.gateway.Output("ip", "-o", "link"); strings.Contains(links, probeDevice) {
				t.Errorf("probe interface left behind:\n%s", links)
			}
		})
	}
}

// A gateway that is told to stop while its first probe is under way stops: that nobody took the probe is no black hole then.
func TestStopDuringTheFirstProbe(t *testing.T) {
	s := newSite(t)
	s.nft("table inet fw { chain in { type filter hook input priority filter; policy drop; iifname lo accept; }; }") // else it is over too soon
	before := listing(s.gateway)
	i, err := New(config(t))
	if err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithTimeout(t.Context(), probeTry/2)
	defer cancel()
	err = s.gateway.Run(func() error { return i.Install(ctx) })
	if !errors.Is(err, context.DeadlineExceeded) || errors.Is(err, ErrSwallowed) {
		t.Errorf("got %v, want %v", err, context.DeadlineExceeded)
	}
	if diff := cmp.Diff(before, listing(s.gateway)); diff != "" {
		t.Errorf("left behind (+):\n%s", diff)
	}
}

func (s *site) nft(text string) {
	s.t.Helper()
	if out, err := s.gateway.Input(text, "nft", "-f", "-"); err != nil {
		s.t.Fatal(err, out)
	}
}

func TestProbeOffAndRequired(t *testing.T) {
	s := newSite(t)
	s.gateway.Sysctl("ipv4/conf/all/src_valid_mark", "1")
	cfg := config(t)
	cfg.Probe = ProbeOff
	r := s.start(cfg)
	r.stop()
	r.remove()
	// A device of the probe's name, made by somebody, makes it impossible.
	s.gateway.Output("ip", "link", "add", probeDevice, "type", "veth")
	cfg.Probe = ProbeRequired
	if _, err := s.install(cfg); !errors.Is(err, ErrProbeImpossible) {
		t.Errorf("required: got %v", err)
	}
	cfg.Probe = ProbeIfPossible
	i, err := s.install(cfg)
	if err != nil {
		t.Fatalf("if possible: got %v", err)
	}
	s.gateway.Do(func() { _ = i.Remove() })
}

// With the probe out of the way the watchdog alone ends a black hole; the probe then sees when it is over.
func TestWatchdog(t *testing.T) {
	s := newSite(t)
	s.serve(s.server, "server", target4)
	faults := make(chan error, 100)
	cfg := config(t)
	cfg.OnFault = func(err error) { faults <- err }
	r := s.start(cfg)
	r.alive()
	s.want(target4, diverted4)
	s.gateway.Sysctl("ipv4/conf/all/src_valid_mark", "1")
	s.eventually(60*time.Second, s.answers(target4, raw4))
	if err := <-faults; !errors.Is(err, ErrSwallowed) {
		t.Errorf("fault: %v", err)
	}
	if err := r.Fault(); !errors.Is(err, ErrSwallowed) {
		t.Errorf("Fault: %v", err)
	}
	s.eventually(60*time.Second, func() error {
		if n := r.counters().RawPeer["nyc"][ReasonFault]; n == 0 {
			return errors.New("no raw connection was put down to the fault")
		}
		return nil
	})
	s.gateway.Sysctl("ipv4/conf/all/src_valid_mark", "0")
	s.eventually(60*time.Second, s.answers(target4, diverted4))
	if err := r.Fault(); err != nil {
		t.Errorf("Fault after it is over: %v", err)
	}
}

// A process whose accepting stands still is a black hole too.
func TestWatchdogWhenNobodyAccepts(t *testing.T) {
	s := newSite(t)
	s.serve(s.server, "server", target4)
	r := s.start(config(t))
	r.alive()
	s.want(target4, diverted4)
	r.stop() // the answering ends with it
	next := &running{Interceptor: r.Interceptor, s: s}
	ctx, cancel := context.WithCancel(context.Background())
	defer func() { cancel(); next.wg.Wait() }()
	next.wg.Go(func() { _ = s.gateway.Run(func() error { return r.Run(ctx) }) })
	next.alive()
	// Clients' first connections hang until the watchdog acts, later ones pass raw.
	s.eventually(60*time.Second, s.answers(target4, raw4))
}

func TestHealing(t *testing.T) {
	s := newSite(t)
	s.serve(s.server, "server", target4, target6)
	r := s.start(config(t))
	r.alive("10.2.0.1")
	s.want(target4, diverted4)
	for _, tt := range []struct{ name, command string }{
		{"ruleset flushed", "nft flush ruleset"},
		{"table deleted", "nft delete table inet wanpair"},
		{"table flushed", "nft flush table inet wanpair"},
		{"a chain flushed", "nft flush chain inet wanpair known"},
		{"rules of IPv4 removed", "ip rule del priority 100"},
		{"routes of IPv6 flushed", "ip -6 route flush table 4600"},
		{"loopback down and up", "ip link set lo down; ip link set lo up"},
		{"everything at once", "nft flush ruleset; ip rule del priority 100; ip -6 rule del priority 100; ip route flush table 4600"},
	} {
		s.gateway.Output("sh", "-c", tt.command)
		s.eventually(60*time.Second, s.answers(target4, diverted4))
		s.eventually(60*time.Second, s.answers(target6, diverted6))
		if n := strings.Count(s.gateway.Output("ip", "rule"), "lookup 4600"); n != 1 {
			t.Errorf("%s: %d routing rules", tt.name, n)
		}
		if got := s.table(); !strings.Contains(got, "10.2.0.1") {
			t.Errorf("%s: the peer's own addresses are missing:\n%s", tt.name, got)
		}
	}
	before := r.counters().Diverted["nyc"]
	s.gateway.Output("nft", "flush", "ruleset")
	s.eventually(60*time.Second, s.answers(target4, diverted4))
	if after := r.counters().Diverted["nyc"]; after <= before {
		t.Errorf("the counter ran backwards, from %d to %d", before, after)
	}
}

func TestInterfaceGoesAndComes(t *testing.T) {
	s := newSite(t)
	s.serve(s.server, "server", target4)
	r := s.start(config(t))
	r.alive()
	s.want(target4, diverted4)
	s.gateway.DelLink("lan0")
	nstest.Join(t,
		nstest.End{NS: s.client, Name: "eth0", Addrs: []string{client4 + "/24", client6 + "/64"}},
		nstest.End{NS: s.gateway, Name: "lan0", Addrs: []string{"10.1.0.1/24", "fd00:1::1/64"}})
	s.client.Route("10.1.0.1", "0.0.0.0/0")
	s.want(target4, diverted4)
}

// Somebody tightens the firewall while traffic flows: found by a probe even if nobody connects.
func TestFirewallTightenedLater(t *testing.T) {
	s := newSite(t)
	faults := make(chan error, 100)
	cfg := config(t)
	cfg.OnFault = func(err error) { faults <- err }
	r := s.start(cfg)
	r.alive()
	s.nft("table inet fw { chain in { type filter hook input priority filter; policy drop; }; }")
	select {
	case err := <-faults:
		if !errors.Is(err, ErrSwallowed) {
			t.Error(err)
		}
	case <-time.After(60 * time.Second):
		t.Fatal("not found")
	}
	s.gateway.Output("nft", "delete", "table", "inet", "fw")
	select {
	case err := <-faults:
		if err != nil {
			t.Error(err)
		}
	case <-time.After(60 * time.Second):
		t.Fatal("not over")
	}
}

func TestNothingOfOthersIsTouched(t *testing.T) {
	for _, tt := range []struct {
		name, setUp string
		want        error
	}{
		{"table", "nft add table inet wanpair; nft add chain inet wanpair theirs", ErrForeignTable},
		{"rule to our table", "ip rule add from 10.99.0.0/16 lookup 4600", ErrConflict},
		{"our mark bit", "ip -6 rule add fwmark 0x1000000/0xff000000 lookup 77", ErrConflict},
		{"full mark with our bit", "ip rule add fwmark 0x1000001 lookup 77", ErrConflict},
		{"route in our table", "ip route add 10.99.0.0/16 dev lan0 table 4600", ErrConflict},
	} {
		t.Run(tt.name, func(t *testing.T) {
			s := newSite(t)
			s.gateway.Output("sh", "-e", "-c", tt.setUp)
			before := listing(s.gateway)
			if _, err := s.install(config(t)); !errors.Is(err, tt.want) {
				t.Errorf("got %v, want %v", err, tt.want)
			}
			if diff := cmp.Diff(before, listing(s.gateway)); diff != "" {
				t.Error(diff)
			}
		})
	}
	t.Run("neighbours", func(t *testing.T) {
		s := newSite(t)
		s.gateway.Output("sh", "-e", "-c", `nft add table inet other; nft add table ip wanpair; nft add chain ip wanpair theirs
			ip rule add priority 100 fwmark 0x2/0x2 lookup 77; ip rule add fwmark 0xca6c lookup 51820; ip route add 10.99.0.0/16 dev lan0 table 77`)
		before := listing(s.gateway)
		r := s.start(config(t))
		r.alive()
		r.stop()
		r.remove()
		if diff := cmp.Diff(before, listing(s.gateway)); diff != "" {
			t.Error(diff)
		}
	})
}

func TestOneProcessPerNamespace(t *testing.T) {
	s := newSite(t)
	r := s.start(config(t))
	before := listing(s.gateway)
	_, err := s.install(config(t))
	if !errors.Is(err, ErrRunning) || !strings.Contains(err.Error(), "process ") {
		t.Errorf("got %v, want %v", err, ErrRunning)
	}
	if diff := cmp.Diff(before, listing(s.gateway)); diff != "" {
		t.Error(diff)
	}
	r.stop()
	r.remove()
	second := s.start(config(t))
	second.alive()
}

func TestPortInUse(t *testing.T) {
	s := newSite(t)
	s.serve(s.gateway, "somebody", "[::1]:4601")
	before := listing(s.gateway)
	if _, err := s.install(config(t)); err == nil || !strings.Contains(err.Error(), "[::1]:4601") {
		t.Errorf("got %v", err)
	}
	if diff := cmp.Diff(before, listing(s.gateway)); diff != "" {
		t.Error(diff)
	}
	s.serve(s.gateway, "somebody", "127.0.0.1:4601") // the other listener was closed again
}

func TestHostWithoutIPv6(t *testing.T) {
	s := newSite(t)
	s.serve(s.server, "server", target4)
	s.gateway.Sysctl("ipv6/conf/all/disable_ipv6", "1")
	s.gateway.Sysctl("ipv6/conf/default/disable_ipv6", "1")
	r := s.start(config(t))
	r.alive()
	s.want(target4, diverted4)
	if got := s.table(); strings.Contains(got, "alive6") {
		t.Errorf("rules for IPv6:\n%s", got)
	}
}

// The far side has nothing to intercept: only the rule for its transparent sockets.
func TestFarSide(t *testing.T) {
	s := newSite(t)
	cfg := config(t)
	cfg.Interfaces = nil
	r := s.start(cfg)
	r.alive()
	r.dead("test")
	got := s.table()
	if !strings.Contains(got, "socket transparent 1") || strings.Contains(got, "tproxy") || strings.Contains(got, "alive4") {
		t.Errorf("far side:\n%s", got)
	}
	s.gateway.Output("nft", "flush", "ruleset")
	s.gateway.Output("ip", "rule", "del", "priority", "100")
	s.eventually(60*time.Second, func() error {
		if !strings.Contains(s.table(), "socket transparent 1") || !strings.Contains(s.gateway.Output("ip", "rule"), "lookup 4600") {
			return errors.New("not put back")
		}
		return nil
	})
	if c := r.counters(); len(c.Diverted) != 0 {
		t.Errorf("%+v", c)
	}
}
