package intercept

import (
	"context"
	"encoding/binary"
	"errors"
	"fmt"
	"regexp"
	"slices"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
)

// findings gives the codes found in the gateway's namespace, with their severity.
func (s *site) findings(cfg Config) []string {
	var out []string
	s.gateway.Do(func() {
		for _, f := range CheckHost(cfg) {
			out = append(out, f.Severity.String()+" "+f.Code)
			s.t.Logf("%v %s: %s. %s", f.Severity, f.Code, f.Text, f.Remedy)
			if !strings.HasSuffix(f.Remedy, ".") || strings.HasSuffix(f.Text, ".") {
				s.t.Errorf("%s: punctuation", f.Code)
			}
		}
	})
	slices.Sort(out)
	return slices.Compact(out)
}

func TestHostInOrder(t *testing.T) {
	s := newSite(t)
	if got := s.findings(config(t)); len(got) != 0 {
		t.Errorf("findings on a host in order: %v", got)
	}
	// Nor does a running gateway find its own rules in its way.
	r := s.start(config(t))
	r.alive()
	if got := s.findings(config(t)); len(got) != 0 {
		t.Errorf("findings beside a running gateway: %v", got)
	}
}

// closed ends a list of rules with a semicolon, if it has any.
func closed(rules string) string {
	if rules = strings.TrimRight(rules, "; "); rules == "" {
		return ""
	}
	return rules + ";"
}

func TestCheckHost(t *testing.T) {
	firewall := func(input, forward string) string {
		return fmt.Sprintf(`table inet fw {
			set office { type ipv4_addr; flags interval; elements = { 10.1.0.0/16, 10.7.0.0/24 }; }
			set names { type ifname; elements = { "lan0", "wan0" }; }
			chain mine { tcp dport 22 accept; ip saddr 10.1.0.0/24 accept; }
			chain deep { jump mine; return; }
			chain dead_end { counter; }
			chain in { type filter hook input priority filter; policy drop; %s }
			chain through { type filter hook forward priority filter; policy drop; %s }
		}`, closed(input), closed(forward))
	}
	const established = "ct state established,related accept; iifname lo accept; "
	for _, tt := range []struct {
		name, setUp, nft string
		only4            bool
		want             []string
	}{
		{"no forwarding", "sysctl -qw net.ipv4.ip_forward=0 net.ipv6.conf.all.forwarding=0", "", false, []string{"fatal ip6_forward", "fatal ip_forward"}},
		{"src_valid_mark of the interface", "sysctl -qw net.ipv4.conf.lan0.src_valid_mark=1", "", false, []string{"fatal src_valid_mark"}},
		{"cookies only", "sysctl -qw net.ipv4.tcp_syncookies=2", "", false, []string{"fatal syncookies"}},
		{"strict, another way back", "sysctl -qw net.ipv4.conf.all.rp_filter=1; ip route add 10.1.0.0/16 via 10.9.0.2; ip addr del 10.1.0.1/24 dev lan0", "", false, []string{"warning rp_filter"}},
		{"strict and in order", "sysctl -qw net.ipv4.conf.all.rp_filter=1", "", false, nil},
		{"loose", "sysctl -qw net.ipv4.conf.all.rp_filter=2; ip route add 10.1.0.0/16 via 10.9.0.2; ip addr del 10.1.0.1/24 dev lan0", "", false, nil},
		{"interface missing", "ip link set lan0 down; ip link set lan0 name other", "", false, []string{"warning interface_missing"}},
		{"foreign table", "nft add table inet wanpair", "", false, []string{"fatal table_in_use"}},
		{"mark bit in use", "ip rule add fwmark 0x1000000/0x1000000 lookup 77", "", false, []string{"fatal routing_in_use"}},

		{"drop everything", "", firewall("", ""), true, []string{"fatal forward_drop", "fatal input_answers_drop", "fatal input_drop"}},
		{"usual server rules", "", firewall(established+"tcp dport { 22, 443 } accept;", established), true, []string{"fatal forward_drop", "fatal input_drop"}},
		{"by mark", "", firewall(established+"meta mark and 0x1000000 != 0 accept;", "iifname { lan0, wan0 } accept;"), true, nil},
		{"by interface", "", firewall(established+"iifname lan0 accept;", "iifname @names oifname @names accept;"), true, nil},
		{"by interface number", "", firewall(established+"iif lan0 accept;", "iif lan0 oif wan0 accept; iif wan0 oif lan0 accept;"), true, nil},
		{"by address", "", firewall(established+"ip saddr @office accept;", "ip saddr 10.1.0.0/16 ip daddr 10.2.0.0/16 accept; ip saddr 10.2.0.0-10.2.255.255 accept;"), true, nil},
		{"other addresses", "", firewall(established+"ip saddr 10.6.0.0/16 accept; ip saddr != @office accept;", "accept"), true, []string{"fatal input_drop"}},
		{"verdict map", "", firewall("ct state vmap { established : accept, related : accept, invalid : drop, new : jump mine };", "ct state vmap { established : accept, invalid : drop }; accept;"), true, nil},
		{"jump and return", "", firewall(established+"jump deep;", "goto mine;"), true, []string{"warning forward_drop"}},
		{"some ports only", "", firewall(established+"accept;", established+"tcp dport { 443, 5432 } accept;"), true, []string{"warning forward_drop"}},
		{"goto does not come back", "", firewall(established+"goto dead_end; accept;", "jump dead_end; accept;"), true, []string{"fatal input_drop"}},
		{"port range", "", firewall(established+"tcp dport 40000-50000 accept;", "tcp dport > 1023 accept;"), true, nil},
		{"port map with ranges", "", firewall(established+"tcp dport vmap { 1-1023 : drop, 40000-50000 : accept };", "accept;"), true, nil},
		{"limited", "", firewall(established+"limit rate 10/second accept;", "accept;"), true, []string{"warning input_drop"}},
		{"of a user", "", firewall(established+"meta skuid 0 accept; meta cpu 0 accept;", "accept;"), true, []string{"warning input_drop"}},
		{"reverse path rule", "", firewall(established+"accept;", "fib saddr . iif oif missing drop; accept;"), true, []string{"warning forward_drop"}},
		{"reject", "", "table inet fw { chain in { type filter hook input priority filter; policy accept; tcp flags syn / syn,ack iifname lan0 reject; }; }", false, []string{"fatal input_drop"}},
		{"one family", "", "table ip6 fw { chain in { type filter hook input priority filter; policy drop; ct state established accept; }; }", false, []string{"fatal input_drop"}},
		{"first packets dropped early", "", "table inet fw { chain p { type filter hook prerouting priority raw; policy accept; tcp flags syn / fin,syn,rst,ack drop; }; }", false, []string{"fatal prerouting_drop"}},
		{"second table", "", "table inet a { chain in { type filter hook input priority 0; policy accept; accept; }; }; table inet b { chain in { type filter hook input priority 1; policy drop; ct state established accept; }; }", true, []string{"fatal input_drop"}},
		{"nat chains do not count", "", "table inet fw { chain n { type nat hook prerouting priority dstnat; policy accept; tcp dport 1 redirect; }; }", false, nil},

		{"iptables nft", "iptables-nft -P INPUT DROP; iptables-nft -A INPUT -m conntrack --ctstate ESTABLISHED,RELATED -j ACCEPT; iptables-nft -A INPUT -p tcp --dport 22 -j ACCEPT; ip6tables-nft -P FORWARD ACCEPT", "", true, []string{"fatal input_drop"}},
		{"docker", `iptables-nft -P FORWARD DROP; iptables-nft -N DOCKER-USER; iptables-nft -A FORWARD -j DOCKER-USER; iptables-nft -A DOCKER-USER -j RETURN
			iptables-nft -A FORWARD -o docker0 -m conntrack --ctstate RELATED,ESTABLISHED -j ACCEPT; iptables-nft -A FORWARD -i docker0 ! -o docker0 -j ACCEPT`, "", true, []string{"fatal forward_drop"}},
		{"docker, let through", `iptables-nft -P FORWARD DROP; iptables-nft -N DOCKER-USER; iptables-nft -A FORWARD -j DOCKER-USER; iptables-nft -A DOCKER-USER -i lan0 -p tcp --dport 1000:60000 -m comment --comment x -j ACCEPT; iptables-nft -A DOCKER-USER -o lan0 -j ACCEPT`, "", true, nil},
		{"legacy policy", "iptables-legacy -P INPUT DROP; ip6tables-legacy -P FORWARD DROP", "", false, []string{"fatal forward_drop", "fatal input_drop"}},
		{"legacy policy with rules", "iptables-legacy -P INPUT DROP; iptables-legacy -A INPUT -i lan0 -j ACCEPT", "", false, []string{"warning input_drop"}},
	} {
		t.Run(tt.name, func(t *testing.T) {
			s := newSite(t)
			if tt.setUp != "" {
				s.gateway.Output("sh", "-e", "-c", tt.setUp)
			}
			if tt.nft != "" {
				s.nft(tt.nft)
			}
			cfg := config(t)
			if tt.only4 {
				cfg.DisableIPv6 = true
			}
			counted := regexp.MustCompile(`packets \d+ bytes \d+`) // the kernel's own IPv6 messages count, too
			rules := func() string { return counted.ReplaceAllString(s.table(), "") }
			before := rules()
			if diff := cmp.Diff(tt.want, s.findings(cfg)); diff != "" {
				t.Error(diff)
			}
			if diff := cmp.Diff(before, rules()); diff != "" {
				t.Errorf("the check changed the rules: %s", diff)
			}
			// What it says about diverted connections is what the probe meets.
			i, err := New(cfg)
			if err != nil {
				t.Fatal(err)
			}
			err = s.gateway.Run(func() error { return i.Install(context.Background()) })
			swallowed := errors.Is(err, ErrSwallowed)
			s.gateway.Do(func() { _ = i.Remove() })
			for _, code := range []string{"fatal input_drop", "fatal src_valid_mark", "fatal syncookies", "fatal prerouting_drop"} {
				// Rules for lan0 alone do not concern the probe's interface.
				if slices.Contains(tt.want, code) && !swallowed && !strings.Contains(tt.setUp+tt.nft, "lan0") {
					t.Errorf("%s, yet the probe arrives: %v", code, err)
				}
			}
			if len(tt.want) == 0 && err != nil && !strings.Contains(tt.setUp+tt.nft, "lan0") && !strings.Contains(tt.nft, "ip saddr") && !strings.Contains(tt.nft, "dport") {
				t.Errorf("nothing found, yet: %v", err)
			}
		})
	}
}

func TestCheckHostFarSide(t *testing.T) {
	s := newSite(t)
	cfg := config(t)
	cfg.Interfaces = nil
	s.nft("table inet fw { chain in { type filter hook input priority filter; policy drop; tcp dport 22 accept; }; }")
	if diff := cmp.Diff([]string{"fatal input_answers_drop"}, s.findings(cfg)); diff != "" {
		t.Error(diff)
	}
}

func FuzzParseLegacy(f *testing.F) {
	info := make([]byte, iptInfoLen)
	binary.NativeEndian.PutUint32(info[32:], 0xe)
	f.Add(true, info, make([]byte, 400))
	f.Add(false, info, make([]byte, 600))
	f.Add(true, []byte{}, []byte{})
	f.Fuzz(func(t *testing.T, is4 bool, info, entries []byte) {
		parseLegacy(family(is4), info, entries)
	})
}
