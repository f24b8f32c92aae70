package intercept

import (
	"errors"
	"fmt"
	"log/slog"
	"math/bits"
	"net/netip"
	"time"

	"wanpair/accel/edge"
)

// Defaults of Config.
const (
	// DefaultPort is where the loopback listeners wait; no packet on any wire ever carries it.
	DefaultPort = 4601
	// DefaultDivertBit and DefaultOwnBit are two high bits of the packet mark that none of the programs commonly found on a router
	// uses: wg-quick 0xca6c, Kubernetes 0xc000, mwan3 0x3f00, Tailscale 0xff0000, Cilium 0xf00 (Calico's default mask does cover
	// them, and can be changed).
	DefaultDivertBit = 0x0100_0000
	DefaultOwnBit    = 0x0200_0000
	// DefaultRouteTable and DefaultRulePriority: before main (32766) and before the priorities VPN programs use (from 5000 on).
	DefaultRouteTable   = 4600
	DefaultRulePriority = 100
	// DefaultAliveTimeout is after how long without a refresh a peer's traffic passes raw: the longest a hung process can hurt.
	DefaultAliveTimeout = 3 * time.Second
	// DefaultSampleGroup is the NFLOG group that samples of raw connections go to.
	DefaultSampleGroup = 4600
	// DefaultTable is the nftables table, in family inet.
	DefaultTable = "wanpair"
)

// refreshEvery is how often the alive sets are refreshed: three chances within the default timeout.
const refreshEvery = time.Second

// maxPrefixes bounds the prefixes of one list, as the tunnel's hello does.
const maxPrefixes = 256

// Config says what is intercepted. Zero fields mean the defaults above.
type Config struct {
	Log *slog.Logger // nil: nothing is logged

	// Interfaces are where the site's own hosts are. With none, nothing is intercepted and no listener is opened, but the rule that
	// brings answers into transparent sockets is installed: what a far gateway needs that dials as the client.
	Interfaces []string
	Subnets    []netip.Prefix // the site's own hosts, sources of intercepted connections; none: any source
	Peers      []Peer
	PassPorts  []uint16 // destination ports never intercepted
	Classes    []Class  // the first that matches counts

	Port              int // of the loopback listeners
	DivertBit, OwnBit uint32
	RouteTable        int
	RulePriority      int
	AliveTimeout      time.Duration
	SampleGroup       int // NFLOG group; < 0: no samples
	Table             string
	Edge              edge.Options
	Probe             ProbeMode
	DisableIPv4       bool // tests of hosts with one family only
	DisableIPv6       bool // also found out: a host without IPv6 has none here

	// StillAlive is asked before each refresh of a peer's alive set, every second: false lets the set run dry as if SetPeerDead
	// had been called. It must not block, nor call the Interceptor. It is where proof of work comes in: an alive set must not be
	// refreshed by a mere ticker while the data path stands still. nil: a peer is alive from SetPeerAlive to SetPeerDead.
	StillAlive func(peer string) bool
	// OnFault is told when diverting had to be suspended for all peers (fault non-nil) and when it goes on (nil). It must not block.
	OnFault func(fault error)
}

// Peer is another site: connections to its subnets are intercepted while it is alive.
type Peer struct {
	Name    string
	Subnets []netip.Prefix
}

// PortRange holds the ports First to Last, both included.
type PortRange struct{ First, Last uint16 }

// Class is a set of connections with a common treatment: those whose destination port is in Ports (or any, when empty) and whose
// source or destination is in Subnets (or any).
type Class struct {
	Name    string
	Ports   []PortRange
	Subnets []netip.Prefix
	Pass    bool // pass raw; otherwise intercepted like connections without a class
}

// ProbeMode says when the path of diverted packets is probed.
type ProbeMode uint8

// The probe modes.
const (
	ProbeIfPossible ProbeMode = iota // a probe that is lost is an error; one that cannot be made (no /dev/net/tun) is a warning
	ProbeRequired                    // a probe that cannot be made is an error too
	ProbeOff
)

// withDefaults fills what is not set.
func (c Config) withDefaults() Config {
	def := func(p *int, v int) {
		if *p == 0 {
			*p = v
		}
	}
	if c.Log == nil {
		c.Log = slog.New(slog.DiscardHandler)
	}
	def(&c.Port, DefaultPort)
	def(&c.RouteTable, DefaultRouteTable)
	def(&c.RulePriority, DefaultRulePriority)
	def(&c.SampleGroup, DefaultSampleGroup)
	if c.DivertBit == 0 {
		c.DivertBit = DefaultDivertBit
	}
	if c.OwnBit == 0 {
		c.OwnBit = DefaultOwnBit
	}
	if c.AliveTimeout == 0 {
		c.AliveTimeout = DefaultAliveTimeout
	}
	if c.Table == "" {
		c.Table = DefaultTable
	}
	return c
}

// validate joins all faults of a Config with its defaults filled in.
func (c Config) validate() error {
	var faults []error
	add := func(format string, args ...any) { faults = append(faults, fmt.Errorf("intercept: "+format, args...)) }
	if bits.OnesCount32(c.DivertBit) != 1 || bits.OnesCount32(c.OwnBit) != 1 || c.DivertBit == c.OwnBit {
		add("divert mark %#x and own mark %#x must be two different single bits", c.DivertBit, c.OwnBit)
	}
	if c.Port < 1 || c.Port > 65535 {
		add("port %d is out of range", c.Port)
	}
	if c.RouteTable < 1 || c.RouteTable >= 253 && c.RouteTable <= 255 || int64(c.RouteTable) > 1<<32-1 {
		add("routing table %d cannot be used", c.RouteTable)
	}
	if c.RulePriority < 1 || c.RulePriority > 32765 {
		add("rule priority %d must be from 1 to 32765, before the main table", c.RulePriority)
	}
	if c.AliveTimeout < 2*refreshEvery {
		add("alive timeout %v is shorter than two refreshes, %v", c.AliveTimeout, 2*refreshEvery)
	}
	if c.SampleGroup > 65535 {
		add("sample group %d is out of range", c.SampleGroup)
	}
	if !validIdentifier(c.Table) {
		add("table name %q must be letters, digits and underscores", c.Table)
	}
	for _, name := range c.Interfaces {
		if !validInterface(name) {
			add("interface name %q is not valid", name)
		}
	}
	prefixes := func(what string, ps []netip.Prefix) {
		if len(ps) > maxPrefixes {
			add("%s: %d prefixes, at most %d are possible", what, len(ps), maxPrefixes)
		}
		for _, p := range ps {
			if !p.IsValid() || p.Addr().Is4In6() || p.Addr().Zone() != "" {
				add("%s: prefix %v is not valid", what, p)
			}
		}
	}
	prefixes("own subnets", c.Subnets)
	names := map[string]bool{}
	for _, p := range c.Peers {
		if p.Name == "" || names[p.Name] {
			add("peer name %q is empty or used twice", p.Name)
		}
		names[p.Name] = true
		prefixes("peer "+p.Name, p.Subnets)
	}
	for _, class := range c.Classes {
		prefixes("class "+class.Name, class.Subnets)
		for _, r := range class.Ports {
			if r.First > r.Last {
				add("class %s: port range %d-%d is upside down", class.Name, r.First, r.Last)
			}
		}
	}
	return errors.Join(faults...)
}

func validIdentifier(s string) bool {
	if s == "" || len(s) > 31 {
		return false
	}
	for i, r := range s {
		letter := r >= 'a' && r <= 'z' || r >= 'A' && r <= 'Z' || r == '_'
		if !letter && (i == 0 || r < '0' || r > '9') {
			return false
		}
	}
	return true
}

// validInterface follows dev_valid_name of the kernel, and refuses what would need quoting in a rule.
func validInterface(s string) bool {
	if s == "" || len(s) > 15 || s == "." || s == ".." {
		return false
	}
	for _, r := range s {
		if r <= ' ' || r > '~' || r == '/' || r == ':' || r == '"' || r == '*' || r == '\\' {
			return false
		}
	}
	return true
}
