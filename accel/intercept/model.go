package intercept

import (
	"fmt"
	"net/netip"
	"strings"
	"time"
)

// Labels of raw connections, counters and samples. They are the names package policy gives its reasons.
const (
	ReasonOwnAddress    = "own_address"
	ReasonNoPeer        = "no_peer"
	ReasonForeignSource = "foreign_source"
	ReasonPassPort      = "pass_port"
	ReasonClassPass     = "class_pass"
	ReasonRefused       = "refused"
)

// reasons in the order of their counters. Connections to a peer that is not alive have a counter per peer instead, for only the
// process knows why it let the peer's alive set go.
var reasons = []string{ReasonOwnAddress, ReasonNoPeer, ReasonForeignSource, ReasonPassPort, ReasonClassPass, ReasonRefused}

// ownerComment marks the table as ours: it is the comment of the set named owner.
const ownerComment = "made by wanpair gateway, do not edit"

// Names of sets and chains.
const (
	ownerSet        = "owner"
	lanSet          = "lan"
	probeSet        = "probe"
	localSet        = "local"    // with the family's digit, as all below
	gatewaysSet     = "gateways" // the peers' own addresses
	peersSet        = "peers"
	passPortsSet    = "pass_ports"
	refusedSet      = "refused"
	preroutingChain = "prerouting"
	probeChain      = "probed"
	probeCounter    = "probe"
	synChain        = "syn"
	knownChain      = "known"
	divertChain     = "divert"
)

// maxRefused bounds the destinations that are bypassed because they refuse.
const maxRefused = 16384

// keyType is what a set holds.
type keyType uint8

const (
	keyInterface keyType = iota
	keyMark
	keyAddr4
	keyAddr6
	keyPort
	keyTarget4
	keyTarget6
)

var keyText = [...]string{
	keyInterface: "ifname", keyMark: "mark", keyAddr4: "ipv4_addr", keyAddr6: "ipv6_addr", keyPort: "inet_service",
	keyTarget4: "ipv4_addr . inet_service", keyTarget6: "ipv6_addr . inet_service",
}

// set is a named set: intervals of addresses or ports, single addresses, interface names.
type set struct {
	name     string
	key      keyType
	interval bool
	timeout  time.Duration // of each element; 0 = none
	dynamic  bool          // elements carry timeouts of their own
	size     uint32        // 0 = unbounded
	comment  string

	addrs  []addrRange
	ports  []PortRange
	ifaces []string
}

// chain is a list of rules; the base chain hangs in the hook.
type chain struct {
	name  string
	base  bool
	rules []rule
}

// model is the whole of what is installed: from it both the text of Plan and the netlink messages are made.
type model struct {
	cfg      Config
	sets     []*set
	counters []string
	chains   []*chain
	keys     map[string]string // peer name to the ending of its sets and counters
}

// newModel lays the rules out. listen4 and listen6 are the listeners' addresses; an invalid one switches its family off.
func newModel(cfg Config, listen4, listen6 netip.AddrPort) *model {
	m := &model{cfg: cfg, keys: peerKeys(cfg.Peers)}
	m.addSet(set{name: ownerSet, key: keyMark, comment: ownerComment})
	pre := &chain{name: preroutingChain, base: true}
	// What belongs to a socket of ours: its segments, and the errors about them, without which a server that cannot be reached would only
	// time out and a smaller MTU behind a router of the LAN would never be found.
	var socketRules []rule
	for _, protocol := range []term{isTCP(), isICMP(), isICMPv6()} {
		socketRules = append(socketRules, rule{protocol, ofTransparentSocket(), setMark(cfg.DivertBit), accept()})
	}
	if len(cfg.Interfaces) == 0 {
		pre.rules = socketRules
		m.chains = []*chain{pre}
		return m
	}
	m.addSet(set{name: lanSet, key: keyInterface, ifaces: cfg.Interfaces})
	m.addSet(set{name: probeSet, key: keyInterface})
	// The sockets after the listener: a SYN whose addresses and ports meet a socket in TIME_WAIT belongs to the listener, or the client
	// would have to send it again.
	pre.rules = append([]rule{
		{fromInterface(probeSet), isSYN(), jumpTo(probeChain)},
		{fromInterface(lanSet), isSYN(), jumpTo(synChain)},
	}, socketRules...)
	m.counters = append([]string{probeCounter}, reasons...)
	var families []family
	listeners := map[family]netip.AddrPort{}
	for f, l := range map[family]netip.AddrPort{v4: listen4, v6: listen6} {
		if l.IsValid() {
			listeners[f] = l
		}
	}
	for _, f := range []family{v4, v6} {
		if listeners[f].IsValid() {
			families = append(families, f)
		}
	}

	probed, syn, known, divert := &chain{name: probeChain}, &chain{name: synChain}, &chain{name: knownChain}, &chain{name: divertChain}
	syn.rules = append(syn.rules, rule{toThisHost(), goTo(rawChain(ReasonOwnAddress))})
	var allPeers []netip.Prefix
	for _, p := range cfg.Peers {
		allPeers = append(allPeers, p.Subnets...)
	}
	m.addSet(set{name: passPortsSet, key: keyPort, interval: true, ports: singlePorts(cfg.PassPorts)})
	for _, f := range families {
		probed.rules = append(probed.rules, rule{isTCP(), divertTo(f, listeners[f]), setMark(cfg.DivertBit), count(probeCounter), accept()})
		m.addSet(set{name: gatewaysSet + f.digit(), key: f.addrKey()})
		m.addSet(set{name: peersSet + f.digit(), key: f.addrKey(), interval: true, addrs: rangesOf(bool(f), allPeers)})
		m.addSet(set{name: refusedSet + f.digit(), key: f.targetKey(), dynamic: true, size: maxRefused})
		syn.rules = append(syn.rules,
			rule{addrIn(f, false, gatewaysSet+f.digit()), goTo(rawChain(ReasonOwnAddress))},
			rule{addrIn(f, false, peersSet+f.digit()), goTo(knownChain)})
		if len(cfg.Subnets) > 0 {
			m.addSet(set{name: localSet + f.digit(), key: f.addrKey(), interval: true, addrs: rangesOf(bool(f), cfg.Subnets)})
			known.rules = append(known.rules, rule{addrNotIn(f, true, localSet+f.digit()), goTo(rawChain(ReasonForeignSource))})
		}
		divert.rules = append(divert.rules, rule{targetIn(f, refusedSet+f.digit()), goTo(rawChain(ReasonRefused))})
	}
	syn.rules = append(syn.rules, rule{goTo(rawChain(ReasonNoPeer))})
	known.rules = append(known.rules, rule{portIn(passPortsSet), goTo(rawChain(ReasonPassPort))})
	for i, c := range cfg.Classes {
		to := divertChain
		if c.Pass {
			to = rawChain(ReasonClassPass)
		}
		known.rules = append(known.rules, m.classRules(fmt.Sprintf("class%d", i), c, families, to)...)
	}
	known.rules = append(known.rules, rule{goTo(divertChain)})
	m.addPeers(divert, families, listeners)

	m.chains = []*chain{pre, probed, syn, known, divert}
	for _, r := range reasons {
		m.chains = append(m.chains, m.rawChain(r))
	}
	for _, p := range cfg.Peers {
		m.chains = append(m.chains, m.rawChain(m.keys[p.Name]))
		m.counters = append(m.counters, divertedCounter(m.keys[p.Name]), m.keys[p.Name])
	}
	return m
}

func (m *model) addSet(s set) { m.sets = append(m.sets, &s) }

// addPeers adds each peer's sets and, to the chain that diverts, its rules: alive is diverted, the rest is counted.
func (m *model) addPeers(divert *chain, families []family, listeners map[family]netip.AddrPort) {
	var dead []rule
	for _, p := range m.cfg.Peers {
		key := m.keys[p.Name]
		for _, f := range families {
			ranges := rangesOf(bool(f), p.Subnets)
			if len(ranges) == 0 {
				continue
			}
			m.addSet(set{name: subnetsSet(f, key), key: f.addrKey(), interval: true, addrs: ranges})
			m.addSet(set{name: aliveSet(f, key), key: f.addrKey(), interval: true, timeout: m.cfg.AliveTimeout})
			divert.rules = append(divert.rules, rule{
				addrIn(f, false, aliveSet(f, key)), isTCP(), divertTo(f, listeners[f]), setMark(m.cfg.DivertBit), count(divertedCounter(key)), accept(),
			})
			dead = append(dead, rule{addrIn(f, false, subnetsSet(f, key)), goTo(rawChain(key))})
		}
	}
	divert.rules = append(divert.rules, dead...)
}

// classRules match a class and go to a chain: by port and source, and by port and destination.
func (m *model) classRules(name string, c Class, families []family, to string) []rule {
	var ports rule
	if len(c.Ports) > 0 {
		m.addSet(set{name: name + "_ports", key: keyPort, interval: true, ports: joinPorts(c.Ports)})
		ports = rule{portIn(name + "_ports")}
	}
	if len(c.Subnets) == 0 {
		return []rule{append(ports, goTo(to))}
	}
	var out []rule
	for _, f := range families {
		ranges := rangesOf(bool(f), c.Subnets)
		if len(ranges) == 0 {
			continue
		}
		subnets := name + "_subnets" + f.digit()
		m.addSet(set{name: subnets, key: f.addrKey(), interval: true, addrs: ranges})
		for _, source := range []bool{true, false} {
			r := append(rule{}, ports...)
			out = append(out, append(r, addrIn(f, source, subnets), goTo(to)))
		}
	}
	return out
}

// rawChain counts, and samples, connections that pass raw. It is entered by goto, so its end leads back to the base chain: to the
// socket rule, which clears what may be left of an intercepted connection with the same addresses and ports.
func (m *model) rawChain(label string) *chain {
	c := &chain{name: rawChain(label), rules: []rule{{count(label)}}}
	if m.cfg.SampleGroup >= 0 {
		c.rules = append(c.rules, rule{sample(uint16(m.cfg.SampleGroup), samplePrefix+label)})
	}
	return c
}

// samplePrefix begins the log prefix of samples; the reason's or peer's label follows.
const samplePrefix = "wanpair:"

func rawChain(label string) string           { return "raw_" + label }
func divertedCounter(key string) string      { return "diverted_" + key }
func aliveSet(f family, key string) string   { return "alive" + f.digit() + "_" + key }
func subnetsSet(f family, key string) string { return "subnets" + f.digit() + "_" + key }

func (f family) addrKey() keyType {
	if f == v4 {
		return keyAddr4
	}
	return keyAddr6
}

func (f family) targetKey() keyType {
	if f == v4 {
		return keyTarget4
	}
	return keyTarget6
}

func singlePorts(ports []uint16) []PortRange {
	out := make([]PortRange, len(ports))
	for i, p := range ports {
		out[i] = PortRange{p, p}
	}
	return joinPorts(out)
}

// peerKeys gives each peer a short, unique name that nft takes: peer_ and the letters and digits of its own.
func peerKeys(peers []Peer) map[string]string {
	const longest = 16
	keys, used := map[string]string{}, map[string]bool{}
	for i, p := range peers {
		key := "peer_" + strings.Map(func(r rune) rune {
			switch {
			case r >= 'a' && r <= 'z', r >= '0' && r <= '9':
				return r
			case r >= 'A' && r <= 'Z':
				return r - 'A' + 'a'
			}
			return '_'
		}, p.Name)
		if len(key) > longest || used[key] {
			key = fmt.Sprintf("%.*s_%d", longest, key, i)
		}
		used[key] = true
		keys[p.Name] = key
	}
	return keys
}
