package intercept

import (
	"context"
	"errors"
	"net"
	"net/netip"
	"strconv"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
)

var (
	target4, target6     = server4 + ":8000", "[" + server6 + "]:8000"
	raw4, raw6           = "server sees " + client4, "server sees " + client6
	diverted4, diverted6 = "gateway sees " + client4 + " for " + target4, "gateway sees " + client6 + " for " + target6
)

func TestDivertOnlyWhileThePeerIsAlive(t *testing.T) {
	s := newSite(t)
	s.serve(s.server, "server", target4, target6)
	s.want(target4, raw4)
	r := s.start(config(t))
	s.want(target4, raw4)
	s.want(target6, raw6)
	r.alive()
	s.want(target4, diverted4)
	s.want(target6, diverted6)
	r.dead("link_cut")
	s.want(target4, raw4)
	s.want(target6, raw6)
	r.alive()
	s.want(target4, diverted4)
	got := r.counters()
	want := Counters{
		Diverted: map[string]uint64{"nyc": 3},
		Raw:      map[string]uint64{"own_address": 0, "no_peer": 0, "foreign_source": 0, "pass_port": 0, "class_pass": 0, "refused": 0},
		RawPeer:  map[string]map[string]uint64{"nyc": {"peer_down": 2, "link_cut": 2}},
	}
	if diff := cmp.Diff(want, got); diff != "" {
		t.Error(diff)
	}
}

// What a hung process leaves: rules and listeners that nobody serves or refreshes.
func TestAliveSetsRunDry(t *testing.T) {
	s := newSite(t)
	s.serve(s.server, "server", target4, target6)
	r := s.start(config(t))
	r.alive()
	s.want(target4, diverted4)
	r.stop()
	s.eventually(60*time.Second, s.answers(target4, raw4))
	s.eventually(60*time.Second, s.answers(target6, raw6))
}

// What a killed process leaves: rules, with their sets still full, and no listeners.
func TestRawAtOnceWhenTheListenerIsGone(t *testing.T) {
	s := newSite(t)
	s.serve(s.server, "server", target4, target6)
	cfg := config(t)
	cfg.AliveTimeout = time.Hour
	r := s.start(cfg)
	r.alive()
	s.want(target4, diverted4)
	r.stop()
	if err := r.closeListeners(); err != nil {
		t.Fatal(err)
	}
	s.want(target4, raw4)
	s.want(target6, raw6)
	// The next process takes over.
	r.lock.Close()
	next := s.start(config(t))
	s.want(target4, raw4)
	next.alive()
	s.want(target4, diverted4)
	if n := strings.Count(s.gateway.Output("ip", "rule"), "lookup 4600"); n != 1 {
		t.Errorf("%d routing rules after the takeover, want 1", n)
	}
	r.state = stateRemoved // what its process would have removed belongs to the next now
}

func TestAliveNeedsProofOfWork(t *testing.T) {
	s := newSite(t)
	s.serve(s.server, "server", target4)
	cfg := config(t)
	works := make(chan bool, 1)
	works <- true
	cfg.StillAlive = func(peer string) bool {
		w := <-works
		works <- w
		return w && peer == "nyc"
	}
	r := s.start(cfg)
	r.alive()
	s.want(target4, diverted4)
	<-works
	works <- false
	s.eventually(60*time.Second, s.answers(target4, raw4))
	<-works
	works <- true
	s.eventually(60*time.Second, s.answers(target4, diverted4))
}

func TestWhatAlwaysPassesRaw(t *testing.T) {
	s := newSite(t)
	s.server.Address("lo", "10.2.0.1/32", "10.3.0.1/32", "10.2.7.7/32")
	s.client.Address("eth0", "10.7.0.5/24")
	s.gateway.Route("10.1.0.5", "10.7.0.0/24")
	s.gateway.Address("wan0", "10.2.200.1/32") // an address of this gateway inside the peer's subnet
	s.serve(s.gateway, "gateway itself", "10.2.200.1:8000", "10.1.0.1:8000")
	s.serve(s.server, "server", target4, target6, server4+":22", "10.2.0.1:8000", "10.3.0.1:8000", server4+":9000", server4+":9001", "10.2.7.7:9001")
	cfg := config(t)
	cfg.Classes = []Class{
		{Name: "yes", Ports: []PortRange{{9001, 9001}}, Subnets: prefixes("10.2.7.0/24")},
		{Name: "no", Ports: []PortRange{{9000, 9010}}, Pass: true},
		{Name: "never", Ports: []PortRange{{8000, 8000}}, Pass: false, Subnets: prefixes("192.0.2.0/24")},
	}
	r := s.start(cfg)
	r.alive("10.2.0.1", "fd00:2::1")
	for _, tt := range []struct{ target, answer string }{
		{target4, diverted4},
		{server4 + ":22", raw4},
		{"10.2.0.1:8000", raw4},
		{"10.3.0.1:8000", raw4},
		{server4 + ":9000", raw4},
		{server4 + ":9001", raw4},
		{"10.2.7.7:9001", "gateway sees 10.1.0.5 for 10.2.7.7:9001"},
		{"10.2.200.1:8000", "gateway itself sees 10.1.0.5"},
		{"10.1.0.1:8000", "gateway itself sees 10.1.0.5"},
	} {
		s.want(tt.target, tt.answer)
	}
	if got, err := s.askFrom("10.7.0.5:0", target4); got != "server sees 10.7.0.5" {
		t.Errorf("a source outside the own subnets: %q, %v", got, err)
	}
	want := map[string]uint64{"own_address": 3, "no_peer": 1, "foreign_source": 1, "pass_port": 1, "class_pass": 2, "refused": 0}
	if diff := cmp.Diff(want, r.counters().Raw); diff != "" {
		t.Error(diff)
	}
}

func TestRefuse(t *testing.T) {
	s := newSite(t)
	s.serve(s.server, "server", target4, target6, server4+":8001")
	r := s.start(config(t))
	r.alive()
	refuse := func(target string, d time.Duration) {
		s.gateway.Do(func() {
			if err := r.Refuse(netip.MustParseAddrPort(target), d); err != nil {
				t.Error(err)
			}
		})
	}
	for _, tt := range []struct{ target, raw, diverted string }{{target4, raw4, diverted4}, {target6, raw6, diverted6}} {
		s.want(tt.target, tt.diverted)
		refuse(tt.target, time.Hour)
		refuse(tt.target, time.Hour)
		s.want(tt.target, tt.raw)
		refuse(tt.target, 0)
		refuse(tt.target, 0)
		s.want(tt.target, tt.diverted)
		refuse(tt.target, time.Second)
		s.eventually(60*time.Second, s.answers(tt.target, tt.diverted))
	}
	refuse(target4, time.Hour)
	s.want(server4+":8001", "gateway sees 10.1.0.5 for 10.2.0.9:8001")
}

// The SYN of a new connection whose addresses and ports are still known from an intercepted one goes to the listener at once.
func TestClientPortUsedAgain(t *testing.T) {
	s := newSite(t)
	s.serve(s.server, "server", target4, target6)
	r := s.start(config(t))
	r.alive()
	for _, tt := range []struct{ source, target, answer string }{
		{client4 + ":33333", target4, diverted4},
		{"[" + client6 + "]:33333", target6, diverted6},
	} {
		for n := range 4 {
			before := s.repeatedSYNs()
			if got, err := s.askFrom(tt.source, tt.target); got != tt.answer {
				t.Errorf("%d: %q, %v", n, got, err)
			}
			if repeated := s.repeatedSYNs() - before; repeated > 0 {
				t.Errorf("%d: the first packet had to be repeated", n)
			}
		}
	}
	// And passes raw, even if not at once, when the peer is dead.
	r.dead("test")
	for range 2 {
		if got, err := s.askFrom(client4+":33333", target4); got != raw4 {
			t.Errorf("%q, %v", got, err)
		}
	}
}

// repeatedSYNs is how many first packets the client's kernel has sent again.
func (s *site) repeatedSYNs() int {
	s.t.Helper()
	var names []string
	for line := range strings.Lines(s.client.Output("cat", "/proc/net/netstat")) {
		fields := strings.Fields(line)
		if len(fields) == 0 || fields[0] != "TcpExt:" {
			continue
		}
		if names == nil {
			names = fields
			continue
		}
		for i, name := range names {
			if name == "TCPSynRetrans" {
				n, err := strconv.Atoi(fields[i])
				if err != nil {
					s.t.Fatal(err)
				}
				return n
			}
		}
	}
	s.t.Fatal("the kernel does not count repeated first packets")
	return 0
}

func TestPeerCannotDrawOtherTraffic(t *testing.T) {
	s := newSite(t)
	s.server.Address("lo", "10.3.0.1/32")
	s.serve(s.server, "server", target4, "10.3.0.1:8000")
	r := s.start(config(t))
	s.gateway.Do(func() {
		if err := r.SetPeerAlive("nyc", prefixes("0.0.0.0/0", "10.2.0.0/24", "10.3.0.0/16"), nil); err != nil {
			t.Error(err)
		}
		if err := r.SetPeerAlive("tokyo", prefixes("10.3.0.0/16"), nil); err == nil {
			t.Error("an unknown peer was taken")
		}
	})
	s.want(target4, diverted4)
	s.want("10.3.0.1:8000", raw4)
}

func TestNobodyReachesTheListenerDirectly(t *testing.T) {
	s := newSite(t)
	r := s.start(config(t))
	r.alive()
	s.gateway.Do(func() {
		c, err := (&net.Dialer{}).DialContext(context.Background(), "tcp", "127.0.0.1:4601")
		if err != nil {
			return // the reset came during the handshake
		}
		defer c.Close()
		_ = c.SetDeadline(time.Now().Add(15 * time.Second))
		if n, err := c.Read(make([]byte, 1)); err == nil {
			t.Errorf("read %d bytes from the listener", n)
		}
	})
	for _, target := range []string{"10.1.0.1:4601", "[fd00:1::1]:4601"} {
		if got, err := s.ask(target); err == nil {
			t.Errorf("%s: %q", target, got)
		}
	}
}

func TestOrderOfCalls(t *testing.T) {
	s := newSite(t)
	i, err := New(config(t))
	if err != nil {
		t.Fatal(err)
	}
	s.gateway.Do(func() {
		ctx := context.Background()
		for name, err := range map[string]error{
			"run": i.Run(ctx), "alive": i.SetPeerAlive("nyc", nil, nil), "dead": i.SetPeerDead("nyc", ""), "stop": i.StopDiverting(""),
			"refuse": i.Refuse(netip.MustParseAddrPort(target4), time.Second),
		} {
			if !errors.Is(err, ErrState) {
				t.Errorf("%s before install: %v", name, err)
			}
		}
		if _, err := i.Counters(); !errors.Is(err, ErrState) {
			t.Errorf("counters before install: %v", err)
		}
		if err := i.Remove(); err != nil {
			t.Errorf("remove before install: %v", err)
		}
		if err := i.Install(ctx); err != nil {
			t.Error(err)
			return
		}
		if err := i.Install(ctx); !errors.Is(err, ErrState) {
			t.Errorf("second install: %v", err)
		}
		for range 2 {
			if err := i.Remove(); err != nil {
				t.Error(err)
			}
		}
		if _, err := i.Accept(ctx); !errors.Is(err, net.ErrClosed) {
			t.Errorf("accept after remove: %v", err)
		}
		if err := i.Install(ctx); !errors.Is(err, ErrState) {
			t.Errorf("install after remove: %v", err)
		}
	})
	cancelled, cancel := context.WithCancel(context.Background())
	cancel()
	j, _ := New(config(t))
	if _, err := j.Accept(cancelled); !errors.Is(err, context.Canceled) {
		t.Errorf("accept with an ended context: %v", err)
	}
}

func TestStopDiverting(t *testing.T) {
	s := newSite(t)
	s.serve(s.server, "server", target4)
	r := s.start(config(t))
	r.alive()
	// A connection that is here goes on after the stop, as its rule stays.
	var c net.Conn
	s.client.Do(func() {
		var err error
		if c, err = (&net.Dialer{}).DialContext(context.Background(), "tcp", target4); err != nil {
			t.Error(err)
		}
	})
	defer c.Close()
	s.gateway.Do(func() {
		if err := r.StopDiverting("draining"); err != nil {
			t.Error(err)
		}
	})
	s.want(target4, raw4)
	r.alive() // comes too late
	s.want(target4, raw4)
	buf := make([]byte, 100)
	_ = c.SetDeadline(time.Now().Add(15 * time.Second))
	if n, err := c.Read(buf); strings.TrimSpace(string(buf[:n])) != diverted4 {
		t.Errorf("established connection: %q, %v", buf[:n], err)
	}
	if got := r.counters().RawPeer["nyc"]["draining"]; got == 0 {
		t.Error("raw connections after the stop were not counted as draining")
	}
}
