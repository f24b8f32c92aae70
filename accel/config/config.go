package config

import (
	"crypto/ed25519"
	"net/netip"
	"time"
)

// Config is the configuration of one site. Parse and Load fill every field; see Default for what is not written in the file.
type Config struct {
	File string // where it was read from, for messages

	Site      Site
	Cache     Cache
	Tunnel    Tunnel
	Peers     []Peer
	Intercept *Intercept // nil: nothing is intercepted
	Egress    Egress
	Forwards  []Forward
	Socks     *Socks // nil: no SOCKS5 listener
	Classes   []Class
	Limits    Limits
	Stats     Stats
	Log       Log

	// Warnings are things that are allowed but probably not meant. They never stop a start.
	Warnings Faults

	where positions // lines of the keys as written; nil in a Config made by hand
}

// Site names this side of the link.
type Site struct {
	Name           string
	PrivateKeyFile string
	PrivateKey     ed25519.PrivateKey // read by Load, nil after Parse
}

// Cache bounds the history kept on disk and the memory that goes with it.
type Cache struct {
	Dir         string
	KeyFile     string // empty: the history is kept in clear
	Key         []byte // 32 bytes of it, read by Load, nil after Parse
	SizeBytes   int64  // on disk, both logs of all peers together, as du counts
	MemoryBytes int64  // index, hot and open blocks, zstd contexts, the store's process; not the page cache
}

// Tunnel describes the UDP side of the gateway.
type Tunnel struct {
	Listen              netip.AddrPort
	BandwidthBitsPerSec int64 // ceiling for what is sent to all peers together; 0: found out
	DSCP                int   // 0 to 63, set on every tunnel packet
	Lanes               int   // QUIC connections per peer
	Governor            bool  // false: quic-go's own congestion control
}

// Peer is another site.
type Peer struct {
	Name       string
	PublicKeys []ed25519.PublicKey // any of them is accepted
	Endpoints  []string            // host:port of its boxes; empty: it dials us
	Subnets    []netip.Prefix      // masked, never overlapping another peer's or our own
}

// Intercept describes the transparent gateway.
type Intercept struct {
	Interfaces []string
	Subnets    []netip.Prefix // our own hosts: sources of intercepted flows, targets of the peers' flows
	PassPorts  []uint16       // never intercepted, in either direction
}

// EgressSource says from which address a target is dialled.
type EgressSource string

// The values of [egress] source. The zero value lets the kind of the flow decide: client for intercepted flows, own for forwards and SOCKS5.
const (
	SourceByKind EgressSource = ""
	SourceClient EgressSource = "client"
	SourceOwn    EgressSource = "own"
)

// Egress describes how this side dials for its peers.
type Egress struct {
	Source EgressSource
	Allow  []netip.Prefix // targets peers may reach where there is no [intercept] section
}

// Forward is one local port that leads to one target behind a peer.
type Forward struct {
	Listen netip.AddrPort
	Peer   string
	Target string // host:port; a name is resolved by the peer
}

// Socks is the SOCKS5 listener.
type Socks struct {
	Listen netip.AddrPort
	Allow  []netip.Prefix // clients; loopback is always allowed
}

// ClassAction is what happens to the flows of a class.
type ClassAction string

// The values of [[class]] action.
const (
	ActionAccelerate ClassAction = "accelerate" // dedupe, compress, tunnel
	ActionRelay      ClassAction = "relay"      // tunnel only
	ActionPass       ClassAction = "pass"       // not touched
)

// ClassHistory says whether the flows of a class take part in the history.
type ClassHistory string

// The values of [[class]] history. The zero value is on.
const (
	HistoryOn  ClassHistory = "on"
	HistoryOff ClassHistory = "off" // neither stored nor looked up, in both directions: compressed only
	HistoryOwn ClassHistory = "own" // stored and looked up among the flows of classes of this name only, on both sides
)

// PortRange holds the ports First to Last, both included.
type PortRange struct{ First, Last uint16 }

// Contains says whether p lies in the range.
func (r PortRange) Contains(p uint16) bool { return r.First <= p && p <= r.Last }

// Class is a set of flows with a common treatment. The first class that matches a flow counts. A flow matches when its destination port is listed (or none
// is) and its source or destination lies in one of the subnets (or none is listed).
type Class struct {
	Name         string
	Ports        []PortRange
	Subnets      []netip.Prefix
	Action       ClassAction
	History      ClassHistory
	SharePercent int // of the bandwidth, when classes compete; 0: what is left, shared with all other flows
}

// Limits bound what the gateway takes on.
type Limits struct {
	Flows       int           // at the same time, over all peers
	MemoryBytes int64         // credit of all flows together: raw bytes received and not yet taken by their readers
	Hold        time.Duration // how long flows survive a lost link; 0: they end with it
}

// Stats describes the HTTP endpoint for people and programs.
type Stats struct {
	Listen netip.AddrPort
	Allow  []netip.Prefix // clients beyond loopback
	Token  string         // bearer token asked of clients beyond loopback; empty: none
}

// LogFormat is how log lines are written.
type LogFormat string

// The values of [log] format.
const (
	FormatText LogFormat = "text"
	FormatJSON LogFormat = "json"
)

// Log describes what is written where.
type Log struct {
	Level             string // debug, info, warn, error
	Format            LogFormat
	FlowFile          string // one JSON record per ended flow; empty: none
	FlowFileSizeBytes int64  // the file is rotated at this size, one old file is kept
}

// OwnSubnets returns the prefixes this site stands for: its intercepted subnets or, without interception, what its peers may dial. They are announced
// to the peers and are the only targets dialled for them.
func (c *Config) OwnSubnets() []netip.Prefix {
	if c.Intercept != nil {
		return c.Intercept.Subnets
	}
	return c.Egress.Allow
}

// Peer returns the peer of that name.
func (c *Config) Peer(name string) (Peer, bool) {
	for _, p := range c.Peers {
		if p.Name == name {
			return p, true
		}
	}
	return Peer{}, false
}

// Shares are the per cents of the bandwidth of the classes that have one, by name; nil when none has.
func (c *Config) Shares() map[string]int {
	var shares map[string]int
	for _, class := range c.Classes {
		if class.SharePercent == 0 {
			continue
		}
		if shares == nil {
			shares = make(map[string]int)
		}
		shares[class.Name] = class.SharePercent
	}
	return shares
}

// Default returns the configuration before anything is read. This is the only place where defaults are set.
func Default() *Config {
	return &Config{
		Cache: Cache{
			Dir:         "/var/lib/wanpair",
			SizeBytes:   16 << 30,
			MemoryBytes: 1 << 30,
		},
		Tunnel: Tunnel{
			Listen:   netip.MustParseAddrPort("0.0.0.0:4600"),
			Lanes:    4,
			Governor: true,
		},
		Limits: Limits{
			Flows:       10_000,
			MemoryBytes: 512 << 20,
			Hold:        120 * time.Second,
		},
		Stats: Stats{Listen: netip.MustParseAddrPort("127.0.0.1:9460")},
		Log: Log{
			Level:             "info",
			Format:            FormatText,
			FlowFileSizeBytes: 100 << 20,
		},
	}
}
