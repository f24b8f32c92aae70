package policy

import (
	"flag"
	"net/netip"
	"os"
	"path/filepath"
	"regexp"
	"testing"

	"github.com/google/go-cmp/cmp"
	"pgregory.net/rapid"

	"wanpair/accel/config"
)

var update = flag.Bool("update", false, "rewrite generated documents")

func prefixes(list ...string) []netip.Prefix {
	var out []netip.Prefix
	for _, s := range list {
		out = append(out, netip.MustParsePrefix(s))
	}
	return out
}

func testPolicy() *Policy {
	c := config.Default()
	c.Peers = []config.Peer{
		{Name: "nyc", Subnets: prefixes("10.2.0.0/16", "fd00:2::/64")},
		{Name: "sfo", Subnets: prefixes("10.3.0.0/16")},
	}
	c.Intercept = &config.Intercept{Subnets: prefixes("10.1.0.0/16", "fd00:1::/64"), PassPorts: []uint16{22}}
	c.Classes = []config.Class{
		{Name: "voice", Ports: []config.PortRange{{First: 5060, Last: 5060}, {First: 16384, Last: 32767}}, Action: config.ActionRelay},
		{Name: "lab", Subnets: prefixes("10.1.9.0/24"), Action: config.ActionPass},
		{Name: "tenant", Subnets: prefixes("10.1.8.0/24"), Action: config.ActionAccelerate, History: config.HistoryOff},
		{Name: "guest", Subnets: prefixes("10.1.7.0/24"), Action: config.ActionAccelerate, History: config.HistoryOwn},
		{Name: "db", Ports: []config.PortRange{{First: 5432, Last: 5432}}, Subnets: prefixes("10.2.7.0/24"), Action: config.ActionAccelerate},
	}
	return New(c, []netip.Addr{netip.MustParseAddr("10.1.0.1")}).WithPeerAddrs("nyc", []netip.Addr{netip.MustParseAddr("10.2.0.1")})
}

func TestDecide(t *testing.T) {
	up := Situation{Link: LinkUp}
	tests := []struct {
		name     string
		src, dst string
		s        Situation
		want     Decision
	}{
		{"accelerated", "10.1.2.3:40000", "10.2.3.4:80", up, Decision{Accelerate, None, "nyc", "", 0}},
		{"accelerated IPv6", "[fd00:1::3]:40000", "[fd00:2::4]:80", up, Decision{Accelerate, None, "nyc", "", 0}},
		{"mapped addresses", "[::ffff:10.1.2.3]:40000", "[::ffff:10.2.3.4]:80", up, Decision{Accelerate, None, "nyc", "", 0}},
		{"second peer", "10.1.2.3:40000", "10.3.3.4:80", up, Decision{Accelerate, None, "sfo", "", 0}},
		{"class accelerates", "10.1.2.3:40000", "10.2.7.4:5432", up, Decision{Accelerate, None, "nyc", "db", 0}},
		{"class needs port and subnet", "10.1.2.3:40000", "10.2.8.4:5432", up, Decision{Accelerate, None, "nyc", "", 0}},
		{"class relays", "10.1.2.3:40000", "10.2.3.4:16384", up, Decision{Relay, ClassRelay, "nyc", "voice", 0}},
		{"class without history", "10.1.8.3:40000", "10.2.3.4:80", up, Decision{Compress, ClassHistory, "nyc", "tenant", 0}},
		{"class with a history of its own", "10.1.7.3:40000", "10.2.3.4:80", up, Decision{Accelerate, None, "nyc", "guest", 0xfe374bd8}},
		{"first class counts", "10.1.9.3:40000", "10.2.3.4:5060", up, Decision{Relay, ClassRelay, "nyc", "voice", 0}},
		{"class passes", "10.1.9.3:40000", "10.2.3.4:80", up, Decision{Pass, ClassPass, "nyc", "lab", 0}},
		{"pass port", "10.1.2.3:40000", "10.2.3.4:22", up, Decision{Pass, PassPort, "nyc", "", 0}},
		{"from this gateway", "10.1.0.1:40000", "10.2.3.4:80", up, Decision{Pass, OwnAddress, "nyc", "", 0}},
		{"to the peer's gateway", "10.1.2.3:40000", "10.2.0.1:80", up, Decision{Pass, OwnAddress, "nyc", "", 0}},
		{"no peer", "10.1.2.3:40000", "192.0.2.1:80", up, Decision{Pass, NoPeer, "", "", 0}},
		{"foreign source", "10.9.2.3:40000", "10.2.3.4:80", up, Decision{Pass, ForeignSource, "nyc", "", 0}},
		{"down", "10.1.2.3:40000", "10.2.3.4:80", Situation{}, Decision{Pass, PeerDown, "nyc", "", 0}},
		{"connecting", "10.1.2.3:40000", "10.2.3.4:80", Situation{Link: LinkConnecting}, Decision{Pass, PeerConnecting, "nyc", "", 0}},
		{"draining", "10.1.2.3:40000", "10.2.3.4:80", Situation{Link: LinkUp, Draining: true}, Decision{Pass, Draining, "nyc", "", 0}},
		{"refused", "10.1.2.3:40000", "10.2.3.4:80", Situation{Link: LinkUp, Refused: true}, Decision{Pass, Refused, "nyc", "", 0}},
		{"overload", "10.1.2.3:40000", "10.2.3.4:80", Situation{Link: LinkUp, Overloaded: true, FlowsFull: true}, Decision{Pass, Overload, "nyc", "", 0}},
		{"flows", "10.1.2.3:40000", "10.2.3.4:80", Situation{Link: LinkUp, FlowsFull: true, MemoryFull: true}, Decision{Pass, FlowLimit, "nyc", "", 0}},
		{"memory", "10.1.2.3:40000", "10.2.3.4:80", Situation{Link: LinkUp, MemoryFull: true}, Decision{Pass, MemoryLimit, "nyc", "", 0}},
		{"rule before situation", "10.1.2.3:40000", "10.2.3.4:22", Situation{}, Decision{Pass, PassPort, "nyc", "", 0}},
	}
	p := testPolicy()
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			got := p.Decide(netip.MustParseAddrPort(tt.src), netip.MustParseAddrPort(tt.dst), tt.s)
			if diff := cmp.Diff(tt.want, got); diff != "" {
				t.Errorf("Decide (-want +got):\n%s", diff)
			}
		})
	}
}

func TestDecideForwardIgnoresWhereItComesFrom(t *testing.T) {
	p := testPolicy()
	got := p.DecideForward(netip.MustParseAddrPort("127.0.0.1:40000"), netip.MustParseAddrPort("10.2.3.4:22"), Situation{Link: LinkUp})
	if want := (Decision{Accelerate, None, "nyc", "", 0}); got != want {
		t.Errorf("DecideForward = %+v, want %+v", got, want)
	}
}

func TestWithPeerAddrsLeavesTheOldPolicyAlone(t *testing.T) {
	p := testPolicy()
	q := p.WithPeerAddrs("nyc", []netip.Addr{netip.MustParseAddr("10.2.0.2")})
	src, up := netip.MustParseAddrPort("10.1.2.3:40000"), Situation{Link: LinkUp}
	for _, tt := range []struct {
		p    *Policy
		dst  string
		want Reason
	}{{p, "10.2.0.1:80", OwnAddress}, {p, "10.2.0.2:80", None}, {q, "10.2.0.1:80", None}, {q, "10.2.0.2:80", OwnAddress}} {
		if got := tt.p.Decide(src, netip.MustParseAddrPort(tt.dst), up).Reason; got != tt.want {
			t.Errorf("%s: %v, want %v", tt.dst, got, tt.want)
		}
	}
}

// TestDecisionIsAlwaysExplained: whatever is asked, a connection is accelerated or has a reason whose table row names the same action.
func TestDecisionIsAlwaysExplained(t *testing.T) {
	p := testPolicy()
	rapid.Check(t, func(t *rapid.T) {
		addr := rapid.Custom(func(t *rapid.T) netip.AddrPort {
			b := [4]byte{10, rapid.Byte().Draw(t, "site") % 5, rapid.Byte().Draw(t, "net") % 11, rapid.Byte().Draw(t, "host")}
			return netip.AddrPortFrom(netip.AddrFrom4(b), rapid.SampledFrom([]uint16{22, 80, 5060, 5432, 20000}).Draw(t, "port"))
		})
		s := Situation{
			Link:     LinkState(rapid.IntRange(0, 3).Draw(t, "link")),
			Draining: rapid.Bool().Draw(t, "draining"), Refused: rapid.Bool().Draw(t, "refused"),
			FlowsFull: rapid.Bool().Draw(t, "flows"), MemoryFull: rapid.Bool().Draw(t, "memory"),
			Overloaded: rapid.Bool().Draw(t, "overload"),
		}
		src, dst := addr.Draw(t, "src"), addr.Draw(t, "dst")
		for _, d := range []Decision{p.Decide(src, dst, s), p.DecideForward(src, dst, s)} {
			if (d.Action == Accelerate) != (d.Reason == None) {
				t.Fatalf("%+v is not explained", d)
			}
			if d.Reason != None && d.Reason.Explain().Action != d.Action {
				t.Fatalf("%+v, but reason %v means %v", d, d.Reason, d.Reason.Explain().Action)
			}
			if d.Action != Pass && s.Link != LinkUp {
				t.Fatalf("%+v over a link that is not up", d)
			}
		}
	})
}

func TestReasonsAreComplete(t *testing.T) {
	rows := Reasons()
	if len(rows) != int(lastReason) {
		t.Fatalf("%d rows for %d reasons", len(rows), lastReason)
	}
	names := map[string]bool{}
	label := regexp.MustCompile(`^[a-z]+(_[a-z]+)*$`)
	for i, e := range rows {
		if int(e.Reason) != i+1 {
			t.Errorf("row %d has number %d", i, e.Reason)
		}
		if names[e.Name] || !label.MatchString(e.Name) || e.Text == "" || e.Remedy == "" || e.Action == Accelerate {
			t.Errorf("row %d is incomplete or its name not new: %+v", i, e)
		}
		names[e.Name] = true
		if e.Reason.String() != e.Name {
			t.Errorf("%d is called %v, want %v", e.Reason, e.Reason, e.Name)
		}
	}
	if got := Reason(200).Explain().Name; got != "unknown" {
		t.Errorf("a reason from the future is %q", got)
	}
}

func TestReasonsDocument(t *testing.T) {
	file := filepath.Join("..", "..", "docs", "reasons.md")
	if *update {
		if err := os.WriteFile(file, []byte(Markdown()), 0o644); err != nil {
			t.Fatal(err)
		}
	}
	got, err := os.ReadFile(file)
	if err != nil {
		t.Fatal(err)
	}
	if diff := cmp.Diff(Markdown(), string(got)); diff != "" {
		t.Errorf("docs/reasons.md is out of date, run go generate ./accel/policy (-want +got):\n%s", diff)
	}
}

func BenchmarkDecide(b *testing.B) {
	p := testPolicy()
	src, dst := netip.MustParseAddrPort("10.1.2.3:40000"), netip.MustParseAddrPort("10.3.3.4:80")
	b.ReportAllocs()
	for b.Loop() {
		p.Decide(src, dst, Situation{Link: LinkUp})
	}
}
