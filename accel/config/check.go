package config

import (
	"cmp"
	"crypto/ed25519"
	"fmt"
	"net"
	"net/netip"
	"slices"
	"strings"
)

// Bounds that Validate holds a configuration to.
const (
	// Per peer, as package dedupe takes them.
	minCacheSizeBytes   = 16 << 20
	maxCacheSizeBytes   = 1 << 40
	minCacheMemoryBytes = 32 << 20

	// sizePerMemory is the largest disk size per byte of memory. At the sparsest anchors, one in 32 KiB, the index needs 8 bytes per anchor and two fifths of
	// the memory are for it, so that at 2048 there are 1.25 anchors per slot: 1.3 cost 3 % of the ratio, 5 nearly all of it.
	sizePerMemory = 2048

	// FlowFloorBytes is the credit every admitted flow has for certain. All floors together may be half of limits.memory.
	FlowFloorBytes = 16 << 10
	// flowCreditBytes is what a new flow may be sent at once where there is memory for it.
	flowCreditBytes = 64 << 10

	minFlowFileBytes = 1 << 20

	// minBandwidthBitsPerSec is what package transport takes as a ceiling.
	minBandwidthBitsPerSec = 64_000
	minTokenLength         = 16
	maxNameLength          = 64
)

// Validate checks a Config made by hand in the same way as Parse does. All faults come back at once, as Faults.
func (c *Config) Validate() error {
	return c.check().asError()
}

// fault makes a Fault for a key given by its path with indices. An element without a line of its own takes its list's, a key that is not there its section's.
func (c *Config) fault(path, problem, advice string) Fault {
	line := 0
	for p := path; p != "" && line == 0; p = parent(p) {
		line = c.where[p].line
	}
	return Fault{File: c.File, Line: line, Key: plain(path), Problem: problem, Advice: advice}
}

func parent(path string) string {
	return path[:max(0, strings.LastIndexAny(path, ".["))]
}

// reported says whether a fault about this key, or about a part of its value, was already found while it was read.
func (c *Config) reported(path string) bool {
	if c.where[path].broken {
		return true
	}
	for p, at := range c.where {
		if at.broken && strings.HasPrefix(p, path+"[") {
			return true
		}
	}
	return false
}

// checker collects the faults of a Config as a whole.
type checker struct {
	*Config
	faults Faults
}

func (k *checker) bad(path, problem, advice string) {
	if !k.reported(path) {
		k.faults = append(k.faults, k.fault(path, problem, advice))
	}
}

func (k *checker) warn(path, problem, advice string) {
	k.Warnings = append(k.Warnings, k.fault(path, problem, advice))
}

// missing reports a key that must be given and is empty.
func (k *checker) missing(path string, empty bool) {
	if !empty {
		return
	}
	ref, _ := lookup(plain(path))
	k.bad(path, "must be given", "write it such as "+lastPart(ref.Name)+" = "+ref.Example)
}

func (c *Config) check() Faults {
	c.Warnings = nil
	k := checker{Config: c}
	k.site()
	k.cache()
	k.peers()
	k.intercept()
	k.egress()
	k.listeners()
	k.classes()
	k.limits()
	k.stats()
	k.log()
	k.tunnel()
	return k.faults
}

func (k *checker) tunnel() {
	if b := k.Tunnel.BandwidthBitsPerSec; b != 0 && b < minBandwidthBitsPerSec {
		k.bad("tunnel.bandwidth", FormatRate(b)+" would starve the tunnel's own messages", "write at least "+FormatRate(minBandwidthBitsPerSec))
	}
}

func (k *checker) site() {
	k.missing("site.name", k.Site.Name == "")
	k.name("site.name", k.Site.Name)
	k.missing("site.private_key_file", k.Site.PrivateKeyFile == "" && k.Site.PrivateKey == nil)
}

// name checks that a name is safe in metrics, logs and file names.
func (k *checker) name(path, s string) {
	ok := len(s) <= maxNameLength && !strings.HasPrefix(s, ".") && !strings.HasPrefix(s, "-")
	for _, ch := range []byte(s) {
		ok = ok && (ch >= 'a' && ch <= 'z' || ch >= '0' && ch <= '9' || ch == '-' || ch == '_' || ch == '.')
	}
	if !ok {
		k.bad(path, fmt.Sprintf("%q is no name", s), "use at most 64 of a-z, 0-9, dot, dash and underscore, not beginning with a dot or a dash")
	}
}

func (k *checker) cache() {
	k.missing("cache.dir", k.Cache.Dir == "")
	peers := int64(max(1, len(k.Peers))) // they share evenly
	perPeer := ""
	if peers > 1 {
		perPeer = fmt.Sprintf(" for %d peers", peers)
	}
	switch size := k.Cache.SizeBytes; {
	case size < minCacheSizeBytes*peers:
		k.bad("cache.size", FormatSize(size)+" is too small to be useful"+perPeer, "write at least "+FormatSize(minCacheSizeBytes*peers))
	case size > maxCacheSizeBytes*peers:
		k.bad("cache.size", FormatSize(size)+" is more than a history can hold"+perPeer, "write at most "+FormatSize(maxCacheSizeBytes*peers))
	}
	if k.Cache.MemoryBytes < minCacheMemoryBytes*peers {
		k.bad("cache.memory", FormatSize(k.Cache.MemoryBytes)+" is too small to work with"+perPeer, "write at least "+FormatSize(minCacheMemoryBytes*peers))
	} else if k.Cache.SizeBytes/sizePerMemory > k.Cache.MemoryBytes && !k.reported("cache.size") {
		k.bad("cache.memory", fmt.Sprintf("%s cannot index a cache of %s", FormatSize(k.Cache.MemoryBytes), FormatSize(k.Cache.SizeBytes)),
			fmt.Sprintf("write at least %s here or at most %s as cache.size", FormatSize(k.Cache.SizeBytes/sizePerMemory), FormatSize(k.Cache.MemoryBytes*sizePerMemory)))
	}
}

func (k *checker) peers() {
	if len(k.Peers) == 0 && k.where["peer"].line == 0 {
		k.bad("peer", "there is no peer", "add a [[peer]] section with name, public_keys and subnets")
	}
	type owned struct {
		prefix netip.Prefix
		peer   int
	}
	var taken []owned
	keys := map[string]string{} // public key to the peer's name
	names := map[string]bool{}
	for i, p := range k.Peers {
		at := fmt.Sprintf("peer[%d]", i)
		k.missing(at+".name", p.Name == "")
		k.name(at+".name", p.Name)
		if p.Name != "" && p.Name == k.Site.Name {
			k.bad(at+".name", fmt.Sprintf("%q is this site's own name", p.Name), "give the peer the name of the other site")
		}
		if names[p.Name] && p.Name != "" {
			k.bad(at+".name", fmt.Sprintf("there are two peers %q", p.Name), "give each its own name, or merge them into one section")
		}
		names[p.Name] = true

		k.missing(at+".public_keys", len(p.PublicKeys) == 0)
		for j, key := range p.PublicKeys {
			if other, used := keys[string(key)]; used {
				k.bad(fmt.Sprintf("%s.public_keys[%d]", at, j), fmt.Sprintf("this key already stands at peer %q", other), "each site needs a key of its own")
			}
			keys[string(key)] = p.Name
			if len(key) != ed25519.PublicKeySize {
				k.bad(fmt.Sprintf("%s.public_keys[%d]", at, j), "the key has the wrong length", "")
			}
		}

		k.missing(at+".subnets", len(p.Subnets) == 0)
		for j, s := range p.Subnets {
			path := fmt.Sprintf("%s.subnets[%d]", at, j)
			for _, t := range taken {
				switch {
				case !t.prefix.Overlaps(s):
				case t.peer == i:
					k.bad(path, fmt.Sprintf("%s overlaps %s of the same peer", s, t.prefix), "remove one of them")
				default:
					k.bad(path, fmt.Sprintf("%s overlaps %s of peer %q", s, t.prefix, k.Peers[t.peer].Name), "a host can be behind one peer only: correct one of them")
				}
			}
			taken = append(taken, owned{s, i})
			for _, own := range k.OwnSubnets() {
				if own.Overlaps(s) {
					k.bad(path, fmt.Sprintf("%s overlaps this site's own %s", s, own), "a host can be at one site only: correct one of them")
				}
			}
		}
	}
}

func (k *checker) intercept() {
	in := k.Intercept
	if in == nil {
		return
	}
	k.missing("intercept.interfaces", len(in.Interfaces) == 0)
	for i, name := range in.Interfaces {
		// IFNAMSIZ is 16 with the final zero; the kernel refuses these characters (dev_valid_name).
		if name == "" || len(name) > 15 || strings.ContainsAny(name, "/: \t\n") || name == "." || name == ".." {
			k.bad(fmt.Sprintf("intercept.interfaces[%d]", i), fmt.Sprintf("%q is no interface name", name), "write a name as ip link shows it")
		}
	}
	k.missing("intercept.subnets", len(in.Subnets) == 0)
	k.overlaps("intercept.subnets", in.Subnets)
}

// overlaps reports prefixes of one list that cover each other: rules made from them could not be loaded.
func (k *checker) overlaps(path string, list []netip.Prefix) {
	for j, s := range list {
		for _, t := range list[:j] {
			if s.Overlaps(t) {
				k.bad(fmt.Sprintf("%s[%d]", path, j), fmt.Sprintf("%s overlaps %s", s, t), "remove one of them")
			}
		}
	}
}

func (k *checker) egress() {
	switch k.Egress.Source {
	case SourceByKind, SourceClient, SourceOwn:
	default:
		k.bad("egress.source", fmt.Sprintf("%q is no source", string(k.Egress.Source)), `write "client" or "own"`)
	}
	k.overlaps("egress.allow", k.Egress.Allow)
	if k.Intercept != nil && len(k.Egress.Allow) > 0 {
		k.warn("egress.allow", "has no effect beside [intercept], whose subnets are what peers may dial", "remove it")
	}
	if k.Intercept == nil && len(k.Egress.Allow) == 0 && len(k.Forwards) == 0 && k.Socks == nil {
		k.warn("peer", "nothing is intercepted, forwarded or allowed to be dialled, so no traffic will flow", "add [intercept], [[forward]], [socks] or [egress] allow")
	}
}

// listeners checks the TCP addresses, which must differ, and what stands with them.
func (k *checker) listeners() {
	taken := map[netip.AddrPort]string{}
	claim := func(path string, a netip.AddrPort) {
		if !a.IsValid() {
			return
		}
		if other, used := taken[a]; used {
			k.bad(path, fmt.Sprintf("%s is already taken by %s", a, other), "choose another port")
			return
		}
		taken[a] = plain(path)
	}
	claim("stats.listen", k.Stats.Listen)
	for i, f := range k.Forwards {
		at := fmt.Sprintf("forward[%d]", i)
		k.missing(at+".listen", !f.Listen.IsValid())
		claim(at+".listen", f.Listen)
		k.missing(at+".peer", f.Peer == "")
		k.missing(at+".target", f.Target == "")
		peer, known := k.Peer(f.Peer)
		if f.Peer != "" && !known {
			k.bad(at+".peer", fmt.Sprintf("there is no peer %q", f.Peer), "write the name of one of the [[peer]] sections")
		}
		host, _, _ := net.SplitHostPort(f.Target)
		addr, err := netip.ParseAddr(host)
		if known && err == nil && len(peer.Subnets) > 0 && !slices.ContainsFunc(peer.Subnets, func(s netip.Prefix) bool { return s.Contains(addr) }) {
			k.bad(at+".target", fmt.Sprintf("%s is not in the subnets of peer %q", addr, peer.Name), "correct the target, the peer or the peer's subnets")
		}
	}
	if k.Socks == nil {
		return
	}
	k.missing("socks.listen", !k.Socks.Listen.IsValid())
	claim("socks.listen", k.Socks.Listen)
	if k.Socks.Listen.IsValid() && !k.Socks.Listen.Addr().IsLoopback() && len(k.Socks.Allow) == 0 {
		k.bad("socks.listen", k.Socks.Listen.String()+" is open to others than this machine", "add socks.allow with the clients that may use it, or listen on 127.0.0.1")
	}
}

func (k *checker) classes() {
	names := map[string]bool{}
	shares := 0
	for i, class := range k.Classes {
		at := fmt.Sprintf("class[%d]", i)
		k.missing(at+".name", class.Name == "")
		k.name(at+".name", class.Name)
		if names[class.Name] && class.Name != "" {
			k.bad(at+".name", fmt.Sprintf("there are two classes %q", class.Name), "give each its own name")
		}
		names[class.Name] = true
		switch class.Action {
		case ActionAccelerate, ActionRelay:
		case ActionPass:
			if class.SharePercent != 0 {
				k.bad(at+".share", "a class that passes does not use the tunnel and can have no share", "remove the share or change the action")
			}
		default:
			k.bad(at+".action", fmt.Sprintf("%q is no action", string(class.Action)), `write "accelerate", "relay" or "pass"`)
		}
		switch {
		case class.History != HistoryOn && class.History != HistoryOff && class.History != HistoryOwn && class.History != "":
			k.bad(at+".history", fmt.Sprintf("%q is neither on, off nor own", string(class.History)), `write "on", "off" or "own"`)
		case (class.History == HistoryOff || class.History == HistoryOwn) && class.Action != ActionAccelerate:
			k.warn(at+".history", fmt.Sprintf("makes no difference where the action is %q", string(class.Action)), "leave it out")
		}
		if len(class.Ports) == 0 && len(class.Subnets) == 0 && !k.reported(at+".ports") && !k.reported(at+".subnets") {
			k.bad(at, "the class matches every flow", "give it ports or subnets")
		}
		shares += class.SharePercent
		if shares > 100 {
			k.bad(at+".share", fmt.Sprintf("the shares add up to %d per cent", shares), "let them add up to at most 100")
			shares = 0 // say it once
		}
	}
}

func (k *checker) limits() {
	if k.Limits.Flows < 1 {
		k.bad("limits.flows", "at least one flow must be allowed", "")
	}
	if need := int64(k.Limits.Flows) * 2 * FlowFloorBytes; k.Limits.MemoryBytes < need {
		path := cmp.Or(map[bool]string{true: "limits.memory"}[k.where["limits.memory"].line > 0], "limits.flows")
		k.bad(path, fmt.Sprintf("%s of memory cannot serve %d flows", FormatSize(k.Limits.MemoryBytes), k.Limits.Flows),
			fmt.Sprintf("write limits.memory of at least %s or at most %d as limits.flows", FormatSize(need), k.Limits.MemoryBytes/(2*FlowFloorBytes)))
	} else if n := k.LinkFlows(); n < k.Limits.Flows {
		k.warn("limits.flows", fmt.Sprintf("%d peers share limits.memory, so that one of them may open at most %d flows here at the same time", len(k.Peers), n),
			fmt.Sprintf("write limits.memory of at least %s if one peer may have them all", FormatSize(need*int64(len(k.Peers)))))
	}
}

// LinkMemoryBytes is each peer's part of limits.memory.
func (c *Config) LinkMemoryBytes() int64 { return c.Limits.MemoryBytes / int64(max(len(c.Peers), 1)) }

// FlowCreditBytes is what a new flow may be sent before its reader has said anything. Half of a link's memory is kept for as many flows as
// limits.flows allows: where that leaves little for each it is less than a fast start would like, and never less than FlowFloorBytes.
func (c *Config) FlowCreditBytes() int64 {
	const step = 1 << 10
	return min(max(c.LinkMemoryBytes()/2/int64(max(c.Limits.Flows, 1))/step*step, FlowFloorBytes), flowCreditBytes)
}

// LinkFlows is how many flows one peer may open here at the same time; further ones of its connections pass raw.
func (c *Config) LinkFlows() int { return int(c.LinkMemoryBytes() / 2 / c.FlowCreditBytes()) }

func (k *checker) stats() {
	if k.Stats.Token != "" && len(k.Stats.Token) < minTokenLength {
		k.bad("stats.token", "the token is too short to be safe", fmt.Sprintf("use at least %d random characters", minTokenLength))
	}
	if k.Stats.Listen.IsValid() && !k.Stats.Listen.Addr().IsLoopback() && len(k.Stats.Allow) == 0 && k.Stats.Token == "" {
		k.bad("stats.listen", k.Stats.Listen.String()+" is open to others than this machine", "add stats.allow or stats.token, or listen on 127.0.0.1")
	}
}

func (k *checker) log() {
	if !slices.Contains([]string{"debug", "info", "warn", "error"}, k.Log.Level) {
		k.bad("log.level", fmt.Sprintf("%q is no level", k.Log.Level), `write "debug", "info", "warn" or "error"`)
	}
	if k.Log.Format != FormatText && k.Log.Format != FormatJSON {
		k.bad("log.format", fmt.Sprintf("%q is no format", string(k.Log.Format)), `write "text" or "json"`)
	}
	if k.Log.FlowFileSizeBytes < minFlowFileBytes {
		k.bad("log.flow_file_size", FormatSize(k.Log.FlowFileSizeBytes)+" is too small to be useful", "write at least "+FormatSize(minFlowFileBytes))
	}
}
