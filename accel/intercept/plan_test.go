package intercept

import (
	"context"
	"flag"
	"net/netip"
	"os"
	"path/filepath"
	"regexp"
	"strings"
	"testing"

	"wanpair/accel/internal/nstest"

	"github.com/google/go-cmp/cmp"
)

var update = flag.Bool("update", false, "write the golden files anew")

// planConfigs cover every kind of rule and set.
func planConfigs() map[string]Config {
	return map[string]Config{
		"far": {},
		"pair": {
			Interfaces: []string{"lan0"},
			Subnets:    prefixes("10.1.0.0/16", "fd00:1::/64"),
			Peers:      []Peer{{Name: "nyc", Subnets: prefixes("10.2.0.0/16", "fd00:2::/64")}},
			PassPorts:  []uint16{22},
		},
		"everything": {
			Interfaces: []string{"lan0", "br-office.10"},
			Subnets:    prefixes("10.1.0.0/16", "10.1.128.0/17", "192.168.0.0/24", "192.168.1.0/24", "192.168.2.0/24"),
			Peers: []Peer{
				{Name: "nyc", Subnets: prefixes("10.2.0.0/16", "fd00:2::/64")},
				{Name: "São Paulo", Subnets: prefixes("10.3.0.0/16", "10.3.7.1/32", "255.0.0.0/8")},
				{Name: "six", Subnets: prefixes("fd00:6::/48", "ff00::/8")},
			},
			PassPorts: []uint16{22, 23, 24, 3389, 65535},
			Classes: []Class{
				{Name: "voice", Ports: []PortRange{{5060, 5061}, {16384, 32767}, {30000, 65535}}, Pass: true},
				{Name: "backup", Subnets: prefixes("10.1.9.0/24", "fd00:9::/64")},
				{Name: "lab", Ports: []PortRange{{80, 80}}, Subnets: prefixes("10.1.8.0/24"), Pass: true},
				{Name: "rest of the lab", Subnets: prefixes("10.1.8.0/24"), Pass: true},
			},
			DivertBit: 0x10, OwnBit: 0x20, RouteTable: 77, RulePriority: 5, Port: 9999, SampleGroup: -1, Table: "wp_test", AliveTimeout: 2500e6,
		},
		"default routes": {
			Interfaces: []string{"lan0"}, Peers: []Peer{{Name: "all", Subnets: prefixes("0.0.0.0/0", "::/0")}}, DisableIPv6: true,
		},
	}
}

func TestPlanGolden(t *testing.T) {
	for name, cfg := range planConfigs() {
		got, err := Plan(cfg)
		if err != nil {
			t.Errorf("%s: %v", name, err)
			continue
		}
		file := filepath.Join("testdata", "plan", strings.ReplaceAll(name, " ", "_")+".nft")
		if *update {
			if err := os.WriteFile(file, []byte(got), 0o644); err != nil {
				t.Fatal(err)
			}
		}
		want, err := os.ReadFile(file)
		if err != nil {
			t.Fatal(err)
		}
		if diff := cmp.Diff(string(want), got); diff != "" {
			t.Errorf("%s (run with -update if this is meant): %s", name, diff)
		}
	}
}

// The text nft loads and the netlink messages make the very same table: nft lists both alike. The routing commands too.
func TestPlanIsWhatInstallDoes(t *testing.T) {
	for name, cfg := range planConfigs() {
		t.Run(name, func(t *testing.T) {
			plan, err := Plan(cfg)
			if err != nil {
				t.Fatal(err)
			}
			rules, commands := splitPlan(plan)
			byText := nstest.New(t, "text")
			if out, err := byText.Input(rules, "nft", "-c", "-f", "-"); err != nil {
				t.Fatalf("nft -c: %v\n%s\n%s", err, out, rules)
			}
			if out, err := byText.Input(rules, "nft", "-f", "-"); err != nil {
				t.Fatalf("nft: %v\n%s", err, out)
			}
			if out, err := byText.Input(commands, "sh", "-e"); err != nil {
				t.Fatalf("ip: %v\n%s\n%s", err, out, commands)
			}
			byNetlink := nstest.New(t, "netlink")
			cfg.Probe = ProbeOff
			i, err := New(cfg)
			if err != nil {
				t.Fatal(err)
			}
			byNetlink.Do(func() {
				if err := i.Install(context.Background()); err != nil {
					t.Error(err)
				}
			})
			if diff := cmp.Diff(listing(byText), listing(byNetlink)); diff != "" {
				t.Errorf("text (-) and netlink (+) differ:\n%s", diff)
			}
			byNetlink.Do(func() {
				if err := i.Remove(); err != nil {
					t.Error(err)
				}
			})
			if diff := cmp.Diff(listing(nstest.New(t, "fresh")), listing(byNetlink)); diff != "" {
				t.Errorf("left after remove (+):\n%s", diff)
			}
		})
	}
}

// splitPlan parts the nft text from the ip commands.
func splitPlan(plan string) (rules, commands string) {
	for line := range strings.Lines(plan) {
		if strings.HasPrefix(line, "ip -") {
			commands += line
		} else {
			rules += line
		}
	}
	return rules, commands
}

var routeNoise = regexp.MustCompile(`packets \d+ bytes \d+| (proto 46|proto static|pref medium|metric 1024|scope host)|proto 46`)

// listing is everything this package can change.
func listing(ns *nstest.NS) string {
	all := ns.Output("nft", "list", "ruleset")
	for _, family := range []string{"-4", "-6"} {
		all += ns.Output("ip", family, "rule") + ns.Output("sh", "-c", "ip "+family+" route show table all | grep -v 'table local\\|^unreachable\\|dev lo proto kernel' || true")
	}
	return routeNoise.ReplaceAllString(all, "")
}

func TestPlanRefuses(t *testing.T) {
	peer := func(p ...Peer) Config { return Config{Interfaces: []string{"lan0"}, Peers: p} }
	for name, cfg := range map[string]Config{
		"two bits":           {DivertBit: 3},
		"same bits":          {DivertBit: 4, OwnBit: 4},
		"no bit":             {DivertBit: 0x8000_0000, OwnBit: 0x8000_0001},
		"port":               {Port: 65536},
		"negative port":      {Port: -1},
		"table main":         {RouteTable: 254},
		"priority":           {RulePriority: 32766},
		"alive timeout":      {AliveTimeout: 1},
		"group":              {SampleGroup: 65536},
		"table name":         {Table: "a b"},
		"table number first": {Table: "1a"},
		"interface":          {Interfaces: []string{"a b"}},
		"interface quote":    {Interfaces: []string{`a"b`}},
		"interface wildcard": {Interfaces: []string{"lan*"}},
		"interface long":     {Interfaces: []string{"abcdefghijklmnop"}},
		"interface empty":    {Interfaces: []string{""}},
		"peer empty":         peer(Peer{}),
		"peer twice":         peer(Peer{Name: "a"}, Peer{Name: "a"}),
		"peer prefix":        peer(Peer{Name: "a", Subnets: []netip.Prefix{{}}}),
		"peer mapped":        peer(Peer{Name: "a", Subnets: prefixes("::ffff:10.0.0.0/104")}),
		"too many":           peer(Peer{Name: "a", Subnets: make([]netip.Prefix, 257)}),
		"class ports":        {Classes: []Class{{Ports: []PortRange{{2, 1}}}}},
		"class prefix":       {Classes: []Class{{Subnets: []netip.Prefix{{}}}}},
		"own subnets":        {Subnets: []netip.Prefix{{}}},
	} {
		if _, err := Plan(cfg); err == nil {
			t.Errorf("%s: no error", name)
		}
		if _, err := New(cfg); err == nil {
			t.Errorf("%s: New took it", name)
		}
	}
}

func TestPeerKeysAreUnique(t *testing.T) {
	keys := peerKeys([]Peer{{Name: "a-b"}, {Name: "a_b"}, {Name: "A B"}, {Name: "averylongnameindeed"}, {Name: "averylongnameindeedtoo"}, {Name: "ü"}})
	seen := map[string]bool{}
	for name, k := range keys {
		if seen[k] || !validIdentifier(k) {
			t.Errorf("%q: key %q is used twice or not valid", name, k)
		}
		seen[k] = true
	}
	if keys["a-b"] != "peer_a_b" {
		t.Errorf("got %q", keys["a-b"])
	}
}
