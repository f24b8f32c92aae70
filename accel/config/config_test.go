package config

import (
	"bytes"
	"crypto/ed25519"
	"errors"
	"net/netip"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"github.com/google/go-cmp/cmp/cmpopts"
)

// testKey is a key that depends on n only.
func testKey(n byte) ed25519.PrivateKey {
	return ed25519.NewKeyFromSeed(bytes.Repeat([]byte{n}, ed25519.SeedSize))
}

func testPublic(n byte) ed25519.PublicKey {
	return testKey(n).Public().(ed25519.PublicKey)
}

// minimal is the shortest file that is valid.
func minimal() string {
	return `[site]
name = "ams"
private_key_file = "private.key"

[[peer]]
name = "nyc"
public_keys = ["` + FormatPublicKey(testPublic(2)) + `"]
subnets = ["10.2.0.0/16"]
`
}

func TestParseFull(t *testing.T) {
	src := `[site]
name = "ams"
private_key_file = "/etc/wanpair/private.key"
[cache]
dir = "/cache"
size = "64GiB"
memory = "2GiB"
[tunnel]
listen = "[::]:4601"
bandwidth = "100mbit"
dscp = 18
lanes = 2
governor = false
[[peer]]
name = "nyc"
public_keys = ["` + FormatPublicKey(testPublic(2)) + `", "` + FormatPublicKey(testPublic(3)) + `"]
endpoints = ["198.51.100.7:4600", "gw.example.net:4600"]
subnets = ["10.2.0.0/16", "fd00:2::/64"]
[intercept]
interfaces = ["lan0"]
subnets = ["10.1.0.0/16", "fd00:1::/64"]
pass_ports = [22]
[egress]
source = "own"
[[forward]]
listen = "localhost:5433"
peer = "nyc"
target = "10.2.0.15:5432"
[socks]
listen = "10.1.0.1:1080"
allow = ["10.1.0.0/16"]
[[class]]
name = "voice"
ports = [5060, "16384-32767"]
action = "relay"
share = 20
[[class]]
name = "lab"
subnets = ["10.1.9.0/24"]
action = "pass"
[limits]
flows = 500
memory = "64MiB"
hold = "60s"
[stats]
listen = "0.0.0.0:9460"
allow = ["10.1.0.0/24"]
token = "0123456789abcdef"
[log]
level = "debug"
format = "json"
flow_file = "/var/log/flows"
flow_file_size = "2MiB"
`
	got, err := Parse("full.toml", []byte(src))
	if err != nil {
		t.Fatal(err)
	}
	prefix, addrPort := netip.MustParsePrefix, netip.MustParseAddrPort
	want := &Config{
		File:   "full.toml",
		Site:   Site{Name: "ams", PrivateKeyFile: "/etc/wanpair/private.key"},
		Cache:  Cache{Dir: "/cache", SizeBytes: 64 << 30, MemoryBytes: 2 << 30},
		Tunnel: Tunnel{Listen: addrPort("[::]:4601"), BandwidthBitsPerSec: 100_000_000, DSCP: 18, Lanes: 2},
		Peers: []Peer{{
			Name: "nyc", PublicKeys: []ed25519.PublicKey{testPublic(2), testPublic(3)},
			Endpoints: []string{"198.51.100.7:4600", "gw.example.net:4600"},
			Subnets:   []netip.Prefix{prefix("10.2.0.0/16"), prefix("fd00:2::/64")},
		}},
		Intercept: &Intercept{Interfaces: []string{"lan0"}, Subnets: []netip.Prefix{prefix("10.1.0.0/16"), prefix("fd00:1::/64")}, PassPorts: []uint16{22}},
		Egress:    Egress{Source: SourceOwn},
		Forwards:  []Forward{{Listen: addrPort("127.0.0.1:5433"), Peer: "nyc", Target: "10.2.0.15:5432"}},
		Socks:     &Socks{Listen: addrPort("10.1.0.1:1080"), Allow: []netip.Prefix{prefix("10.1.0.0/16")}},
		Classes: []Class{
			{Name: "voice", Ports: []PortRange{{5060, 5060}, {16384, 32767}}, Action: ActionRelay, History: HistoryOn, SharePercent: 20},
			{Name: "lab", Subnets: []netip.Prefix{prefix("10.1.9.0/24")}, Action: ActionPass, History: HistoryOn},
		},
		Limits: Limits{Flows: 500, MemoryBytes: 64 << 20, Hold: time.Minute},
		Stats:  Stats{Listen: addrPort("0.0.0.0:9460"), Allow: []netip.Prefix{prefix("10.1.0.0/24")}, Token: "0123456789abcdef"},
		Log:    Log{Level: "debug", Format: FormatJSON, FlowFile: "/var/log/flows", FlowFileSizeBytes: 2 << 20},
	}
	if len(got.Warnings) != 0 {
		t.Errorf("warnings: %v", got.Warnings)
	}
	if diff := cmp.Diff(want, got, cmpopts.IgnoreUnexported(Config{}), cmpopts.EquateComparable(netip.Prefix{}, netip.AddrPort{})); diff != "" {
		t.Errorf("Parse (-want +got):\n%s", diff)
	}
}

func TestParseMinimalIsDefaultPlusWhatIsWritten(t *testing.T) {
	got, err := Parse("m.toml", []byte(minimal()))
	if err != nil {
		t.Fatal(err)
	}
	d := Default()
	if diff := cmp.Diff([]any{d.Cache, d.Limits, d.Log}, []any{got.Cache, got.Limits, got.Log}); diff != "" {
		t.Errorf("defaults (-want +got):\n%s", diff)
	}
	if len(got.Warnings) != 1 {
		t.Errorf("a site where nothing can flow gave warnings %v, want one", got.Warnings)
	}
}

// TestFaults holds every fault to its exact line: "after" is put behind the minimal file, unless "whole" replaces it.
func TestFaults(t *testing.T) {
	key := func(n byte) string { return FormatPublicKey(testPublic(n)) }
	tests := []struct {
		name, whole, after string
		want               string // f.toml:LINE: key: problem; advice
	}{
		{name: "unknown key", after: "[cache]\nsise = \"1GiB\"", want: "f.toml:10: cache.sise: unknown key; did you mean cache.size?"},
		{name: "unknown section", after: "[cashe]\nsize = \"1GiB\"", want: "f.toml:9: cashe: unknown key; did you mean cache?"},
		{name: "unknown far", after: "[tunnel]\nfrobnicate = 1", want: "f.toml:10: tunnel.frobnicate: unknown key; see docs/configuration.md for all keys"},
		{name: "bad prefix", after: "[egress]\nallow = [\n\"10.3.0.0/16\",\n\"10.1.0.0/33\"]", want: `f.toml:12: egress.allow: "10.1.0.0/33" is no prefix; write address/bits, such as 10.1.0.0/16`},
		{name: "address for prefix", after: "[egress]\nallow = [\"10.1.0.7\"]", want: `f.toml:10: egress.allow: "10.1.0.7" is no prefix; write 10.1.0.7/32 for this one host`},
		{name: "host bits", after: "[egress]\nallow = [\"10.1.0.7/16\"]", want: `f.toml:10: egress.allow: "10.1.0.7/16" has bits set beyond its length; write 10.1.0.0/16`},
		{name: "mapped prefix", after: "[egress]\nallow = [\"::ffff:10.0.0.0/104\"]", want: `f.toml:10: egress.allow: "::ffff:10.0.0.0/104" is an IPv4 prefix in IPv6 clothes; write it as IPv4`},
		{name: "size that is no size", after: "[cache]\nsize = \"64 gigs\"", want: `f.toml:10: cache.size: "64 gigs" is no size, write a number and a unit such as 64GiB`},
		{name: "size of the wrong kind", after: "[cache]\nsize = 64", want: `f.toml:10: cache.size: the value is of the wrong kind; write it such as size = "64GiB"`},
		{name: "zero size", after: "[cache]\nsize = \"0GiB\"", want: `f.toml:10: cache.size: must not be zero; leave the key out for its default`},
		{name: "small size", after: "[cache]\nsize = \"1MiB\"", want: `f.toml:10: cache.size: 1MiB is too small to be useful; write at least 16MiB`},
		{name: "large size", after: "[cache]\nsize = \"2TiB\"", want: `f.toml:10: cache.size: 2TiB is more than a history can hold; write at most 1TiB`},
		{name: "little memory", after: "[cache]\nmemory = \"1MiB\"", want: `f.toml:10: cache.memory: 1MiB is too small to work with; write at least 32MiB`},
		{name: "little size for two", after: "[cache]\nsize = \"16MiB\"\n[[peer]]\nname = \"sfo\"\npublic_keys = [\"" + key(4) + "\"]\nsubnets = [\"10.4.0.0/16\"]", want: `f.toml:10: cache.size: 16MiB is too small to be useful for 2 peers; write at least 32MiB`},
		{name: "memory against size", after: "[cache]\nsize = \"1TiB\"\nmemory = \"128MiB\"", want: `f.toml:11: cache.memory: 128MiB cannot index a cache of 1TiB; write at least 512MiB here or at most 256GiB as cache.size`},
		{name: "bad rate", after: "[tunnel]\nbandwidth = \"100 MB\"", want: `f.toml:10: tunnel.bandwidth: "100 MB" is no rate, write a number and a unit such as 100mbit`},
		{name: "port zero", after: "[tunnel]\nlisten = \"0.0.0.0:0\"", want: `f.toml:10: tunnel.listen: port 0 is no port to be found at; write one from 1 to 65535`},
		{name: "no port", after: "[tunnel]\nlisten = \"0.0.0.0\"", want: `f.toml:10: tunnel.listen: "0.0.0.0" is no address with a port; write it such as 127.0.0.1:4600 or [::]:4600`},
		{name: "dscp", after: "[tunnel]\ndscp = 64", want: `f.toml:10: tunnel.dscp: 64 is out of range; write a number from 0 to 63`},
		{name: "second peer of that name", after: "[[peer]]\nname = \"nyc\"\npublic_keys = [\"" + key(4) + "\"]\nsubnets = [\"10.4.0.0/16\"]", want: `f.toml:10: peer.name: there are two peers "nyc"; give each its own name, or merge them into one section`},
		{name: "second peer with that key", after: "[[peer]]\nname = \"sfo\"\npublic_keys = [\n\"" + key(2) + "\"]\nsubnets = [\"10.4.0.0/16\"]", want: `f.toml:12: peer.public_keys: this key already stands at peer "nyc"; each site needs a key of its own`},
		{name: "peers overlap", after: "[[peer]]\nname = \"sfo\"\npublic_keys = [\"" + key(4) + "\"]\nsubnets = [\"10.2.128.0/17\"]", want: `f.toml:12: peer.subnets: 10.2.128.0/17 overlaps 10.2.0.0/16 of peer "nyc"; a host can be behind one peer only: correct one of them`},
		{name: "own overlaps peer's", after: "[intercept]\ninterfaces = [\"lan0\"]\nsubnets = [\"10.0.0.0/8\"]", want: `f.toml:8: peer.subnets: 10.2.0.0/16 overlaps this site's own 10.0.0.0/8; a host can be at one site only: correct one of them`},
		{name: "bad key", after: "[[peer]]\nname = \"sfo\"\npublic_keys = [\"abc\"]\nsubnets = [\"10.4.0.0/16\"]", want: `f.toml:11: peer.public_keys: "abc" is no public key, which is base64 for 32 bytes as wanpair keygen prints it`},
		{name: "bad endpoint", after: "[[peer]]\nname = \"sfo\"\npublic_keys = [\"" + key(4) + "\"]\nsubnets = [\"10.4.0.0/16\"]\nendpoints = [\"192.0.2.1\"]", want: `f.toml:13: peer.endpoints: "192.0.2.1" is no host with a port; write it such as 198.51.100.7:4600, [2001:db8::7]:4600 or gw.example.net:4600`},
		{name: "peer incomplete", after: "[[peer]]\nname = \"sfo\"\npublic_keys = [\"" + key(4) + "\"]", want: `f.toml:9: peer.subnets: must be given; write it such as subnets = ["10.2.0.0/16", "fd00:2::/64"]`},
		{name: "peer is no table", whole: "[site]\nname = \"a\"\nprivate_key_file = \"k\"\n[peer]\nname = \"x\"\n", want: `f.toml:4: peer: this section may stand several times; write its header as [[peer]]`},
		{name: "no peer", whole: "[site]\nname = \"a\"\nprivate_key_file = \"k\"\n", want: `f.toml: peer: there is no peer; add a [[peer]] section with name, public_keys and subnets`},
		{name: "syntax", whole: "[site\nname = \"a\"\n", want: `f.toml:1: expected ']' to close table name; correct the TOML syntax at this line`},
		{name: "defined twice", after: "[cache]\ndir = \"a\"\ndir = \"b\"", want: `f.toml:11: cache.dir: key dir is already defined; write it such as dir = "/var/lib/wanpair"`},
		{name: "interface", after: "[intercept]\ninterfaces = [\"a/b\"]\nsubnets = [\"10.1.0.0/16\"]", want: `f.toml:10: intercept.interfaces: "a/b" is no interface name; write a name as ip link shows it`},
		{name: "intercept incomplete", after: "[intercept]\ninterfaces = [\"lan0\"]", want: `f.toml:9: intercept.subnets: must be given; write it such as subnets = ["10.1.0.0/16", "fd00:1::/64"]`},
		{name: "pass port", after: "[intercept]\ninterfaces = [\"lan0\"]\nsubnets = [\"10.1.0.0/16\"]\npass_ports = [22, 70000]", want: `f.toml:12: intercept.pass_ports: 70000 is out of range; write a number from 1 to 65535`},
		{name: "egress source", after: "[egress]\nsource = \"both\"", want: `f.toml:10: egress.source: "both" is no source; write "client" or "own"`},
		{name: "forward to nobody", after: "[[forward]]\nlisten = \"127.0.0.1:1\"\npeer = \"sfo\"\ntarget = \"10.2.0.1:1\"", want: `f.toml:11: forward.peer: there is no peer "sfo"; write the name of one of the [[peer]] sections`},
		{name: "forward elsewhere", after: "[[forward]]\nlisten = \"127.0.0.1:1\"\npeer = \"nyc\"\ntarget = \"10.3.0.1:1\"", want: `f.toml:12: forward.target: 10.3.0.1 is not in the subnets of peer "nyc"; correct the target, the peer or the peer's subnets`},
		{name: "listen twice", after: "[[forward]]\nlisten = \"127.0.0.1:9460\"\npeer = \"nyc\"\ntarget = \"10.2.0.1:1\"", want: `f.toml:10: forward.listen: 127.0.0.1:9460 is already taken by stats.listen; choose another port`},
		{name: "open socks", after: "[socks]\nlisten = \"0.0.0.0:1080\"", want: `f.toml:10: socks.listen: 0.0.0.0:1080 is open to others than this machine; add socks.allow with the clients that may use it, or listen on 127.0.0.1`},
		{name: "open stats", after: "[stats]\nlisten = \"0.0.0.0:9460\"", want: `f.toml:10: stats.listen: 0.0.0.0:9460 is open to others than this machine; add stats.allow or stats.token, or listen on 127.0.0.1`},
		{name: "short token", after: "[stats]\ntoken = \"secret\"", want: `f.toml:10: stats.token: the token is too short to be safe; use at least 16 random characters`},
		{name: "class port", after: "[[class]]\nname = \"x\"\nports = [\"9-1\"]", want: `f.toml:11: class.ports: "9-1" is no port and no range; write a number from 1 to 65535 or a range such as "16384-32767"`},
		{name: "class for all", after: "[[class]]\nname = \"x\"\naction = \"pass\"", want: `f.toml:9: class: the class matches every flow; give it ports or subnets`},
		{name: "class action", after: "[[class]]\nname = \"x\"\nports = [1]\naction = \"drop\"", want: `f.toml:12: class.action: "drop" is no action; write "accelerate", "relay" or "pass"`},
		{name: "shares", after: "[[class]]\nname = \"x\"\nports = [1]\nshare = 60\n[[class]]\nname = \"y\"\nports = [2]\nshare = 50", want: `f.toml:16: class.share: the shares add up to 110 per cent; let them add up to at most 100`},
		{name: "flows against memory", after: "[limits]\nflows = 100000", want: `f.toml:10: limits.flows: 512MiB of memory cannot serve 100000 flows; write limits.memory of at least 3.1GiB or at most 16384 as limits.flows`},
		{name: "hold", after: "[limits]\nhold = \"2 hours\"", want: `f.toml:10: limits.hold: "2 hours" is no duration, write it such as 120s or 2m`},
		{name: "long hold", after: "[limits]\nhold = \"2h\"", want: `f.toml:10: limits.hold: 2h0m0s is too long; write at most 1h0m0s`},
		{name: "level", after: "[log]\nlevel = \"verbose\"", want: `f.toml:10: log.level: "verbose" is no level; write "debug", "info", "warn" or "error"`},
		{name: "site name", whole: strings.Replace(minimal(), `"ams"`, `"Ams 1"`, 1), want: `f.toml:2: site.name: "Ams 1" is no name; use at most 64 of a-z, 0-9, dot, dash and underscore, not beginning with a dot or a dash`},
		{name: "peer named as we are", whole: strings.Replace(minimal(), `"ams"`, `"nyc"`, 1), want: `f.toml:6: peer.name: "nyc" is this site's own name; give the peer the name of the other site`},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			src := tt.whole
			if src == "" {
				src = minimal() + tt.after + "\n"
			}
			_, err := Parse("f.toml", []byte(src))
			if err == nil {
				t.Fatalf("accepted, want %q", tt.want)
			}
			if diff := cmp.Diff(tt.want, err.Error()); diff != "" {
				t.Errorf("fault (-want +got):\n%s", diff)
			}
		})
	}
}

// TestAllFaultsAtOnce mixes faults of every stage: none may hide another.
func TestAllFaultsAtOnce(t *testing.T) {
	src := `[site]
name = 5
private_key_file = "k"
colour = "red"
[cache]
size = "big"
memory = ["1GiB"]
[[peer]]
name = "nyc"
public_keys = ["nonsense", "more"]
subnets = ["10.2.0.0/99", "10.3.0.0/16", "10.3.1.0/24"]
[stats]
listen = "0.0.0.0:9460"
`
	_, err := Parse("f.toml", []byte(src))
	faults, ok := errors.AsType[Faults](err)
	if !ok {
		t.Fatalf("error is %T, want Faults", err)
	}
	var got []string
	for _, f := range faults {
		got = append(got, strings.Fields(f.Error())[0]+" "+f.Key)
	}
	want := []string{
		"f.toml:2: site.name", "f.toml:4: site.colour", "f.toml:6: cache.size", "f.toml:7: cache.memory",
		"f.toml:10: peer.public_keys", "f.toml:10: peer.public_keys", "f.toml:11: peer.subnets", "f.toml:11: peer.subnets", "f.toml:13: stats.listen",
	}
	if diff := cmp.Diff(want, got); diff != "" {
		t.Errorf("faults (-want +got):\n%s\n%v", diff, err)
	}
}

func TestLoad(t *testing.T) {
	dir := t.TempDir()
	keyFile := filepath.Join(dir, "private.key")
	if err := WritePrivateKey(keyFile, testKey(1)); err != nil {
		t.Fatal(err)
	}
	write := func(src string) string {
		file := filepath.Join(dir, "wanpair.toml")
		if err := os.WriteFile(file, []byte(src), 0o600); err != nil {
			t.Fatal(err)
		}
		return file
	}
	good := strings.Replace(minimal(), "private.key", keyFile, 1)

	c, err := Load(write(good))
	if err != nil {
		t.Fatal(err)
	}
	if !c.Site.PrivateKey.Equal(testKey(1)) {
		t.Error("Load did not read the private key")
	}

	fails := func(name, src, want string) {
		t.Helper()
		_, err := Load(write(src))
		if err == nil || !strings.Contains(err.Error(), want) {
			t.Errorf("%s: got %v, want %q in it", name, err, want)
		}
	}
	cacheKey := filepath.Join(dir, "cache.key")
	sealed := strings.Replace(good, "[[peer]]", "[cache]\nkey_file = \""+cacheKey+"\"\n[[peer]]", 1)
	fails("missing cache key", sealed, "cache.key does not exist: make it with wanpair keygen -o")
	if err := WritePrivateKey(cacheKey, testKey(7)); err != nil {
		t.Fatal(err)
	}
	if c, err = Load(write(sealed)); err != nil || !bytes.Equal(c.Cache.Key, testKey(7).Seed()) {
		t.Errorf("key of the cache: %v", err)
	}
	fails("missing key", strings.Replace(good, keyFile, keyFile+".not", 1), "does not exist: make it with wanpair keygen -o")
	fails("own key as the peer's", strings.Replace(good, FormatPublicKey(testPublic(2)), FormatPublicKey(testPublic(1)), 1), "this site's own public key")
	if err := os.Chmod(keyFile, 0o640); err != nil {
		t.Fatal(err)
	}
	fails("loose mode", good, "chmod 600")
	fails("loose mode beside another fault", strings.Replace(good, "10.2.0.0/16", "10.2.0.0", 1), "is no prefix")

	if _, err := Load(filepath.Join(dir, "none.toml")); err == nil || !strings.Contains(err.Error(), "no such file or directory; give the configuration's path") {
		t.Errorf("missing file: %v", err)
	}
}
