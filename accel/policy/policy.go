package policy

import (
	"maps"
	"net/netip"
	"slices"

	"github.com/cespare/xxhash/v2"

	"wanpair/accel/config"
)

//go:generate go test -run TestReasonsDocument -update

// Action is what is done with a connection.
type Action uint8

// The actions.
const (
	Accelerate Action = iota // dedupe, compress, tunnel
	Compress                 // compress and tunnel, without the history
	Relay                    // tunnel only
	Pass                     // not touched
)

// String returns the action, as it is written in the configuration where it can be.
func (a Action) String() string {
	switch a {
	case Accelerate:
		return string(config.ActionAccelerate)
	case Compress:
		return "compress"
	case Relay:
		return string(config.ActionRelay)
	default:
		return string(config.ActionPass)
	}
}

// LinkState is how the link to a peer stands.
type LinkState uint8

// The states of a link.
const (
	LinkDown LinkState = iota
	LinkConnecting
	LinkUp
)

// Situation is what the gateway knows about itself and the peer in question when it asks. The zero value is a gateway whose peer is down.
type Situation struct {
	Link       LinkState // to the peer that owns the destination
	Draining   bool      // this gateway or the peer is stopping
	Refused    bool      // the destination refused a connection recently
	FlowsFull  bool      // limits.flows is reached
	MemoryFull bool      // limits.memory has no room for one more flow
	Overloaded bool      // short of descriptors or of processor time
}

// Decision is what happens to a connection and why.
type Decision struct {
	Action Action
	Reason Reason // None when Action is Accelerate
	Peer   string // "" when the destination belongs to none
	Class  string // "" when no class matches
	Scope  uint32 // the history it has part in: 0 is that of all flows whose class has none of its own
}

// scope numbers the history of a class: by its name, so that both sites mean the same one.
func scope(class string) uint32 {
	return max(1, uint32(xxhash.Sum64String(class)))
}

// Policy holds the rules of one configuration. It never changes: see WithPeerAddrs.
type Policy struct {
	sources   []netip.Prefix // our own hosts; empty: any source
	ownAddrs  map[netip.Addr]bool
	peerAddrs map[string][]netip.Addr
	passPorts map[uint16]bool
	peers     []config.Peer
	classes   []config.Class
}

// New makes a Policy from a configuration that was validated. ownAddrs are this gateway's addresses.
func New(c *config.Config, ownAddrs []netip.Addr) *Policy {
	p := &Policy{
		peerAddrs: map[string][]netip.Addr{},
		passPorts: map[uint16]bool{},
		peers:     slices.Clone(c.Peers),
		classes:   slices.Clone(c.Classes),
	}
	p = p.WithOwnAddrs(ownAddrs)
	if c.Intercept != nil {
		p.sources = slices.Clone(c.Intercept.Subnets)
		for _, port := range c.Intercept.PassPorts {
			p.passPorts[port] = true
		}
	}
	return p
}

// WithOwnAddrs returns a Policy for a gateway that has these addresses now.
func (p *Policy) WithOwnAddrs(addrs []netip.Addr) *Policy {
	q := *p
	q.ownAddrs = make(map[netip.Addr]bool, len(addrs))
	for _, a := range addrs {
		q.ownAddrs[a.Unmap()] = true
	}
	return &q
}

// WithPeerAddrs returns a Policy that also knows the addresses a peer announced as its gateway's own. They replace earlier ones of that peer.
func (p *Policy) WithPeerAddrs(peer string, addrs []netip.Addr) *Policy {
	q := *p
	q.peerAddrs = maps.Clone(p.peerAddrs)
	q.peerAddrs[peer] = slices.Clone(addrs)
	return &q
}

// Peer returns the name of the peer a destination belongs to.
func (p *Policy) Peer(dst netip.Addr) (string, bool) {
	dst = dst.Unmap()
	for _, peer := range p.peers {
		if contains(peer.Subnets, dst) {
			return peer.Name, true
		}
	}
	return "", false
}

// Decide says what happens to a new intercepted connection. s describes the peer that Peer returns for the destination; it does not matter when there is none.
func (p *Policy) Decide(src, dst netip.AddrPort, s Situation) Decision {
	return p.decide(src, dst, s, true)
}

// DecideForward says the same for a connection made to one of our own listeners, a forward or SOCKS5: where it came from and the intercepted ports do not matter.
func (p *Policy) DecideForward(src, dst netip.AddrPort, s Situation) Decision {
	return p.decide(src, dst, s, false)
}

// decide asks what never changes for this pair of addresses first, then what the moment brings: so the reason given is the one that would remain.
func (p *Policy) decide(src, dst netip.AddrPort, s Situation, intercepted bool) Decision {
	from, to := src.Addr().Unmap(), dst.Addr().Unmap()
	peer, known := p.Peer(to)
	class, classed := p.class(from, to, dst.Port())
	d := Decision{Action: Pass, Peer: peer, Class: class.Name}
	if classed && class.History == config.HistoryOwn {
		d.Scope = scope(class.Name)
	}
	switch {
	case intercepted && (p.isGateway(from) || p.isGateway(to)):
		d.Reason = OwnAddress
	case !known:
		d.Reason = NoPeer
	case intercepted && len(p.sources) > 0 && !contains(p.sources, from):
		d.Reason = ForeignSource
	case intercepted && p.passPorts[dst.Port()]:
		d.Reason = PassPort
	case classed && class.Action == config.ActionPass:
		d.Reason = ClassPass
	case s.Draining:
		d.Reason = Draining
	case s.Link == LinkConnecting:
		d.Reason = PeerConnecting
	case s.Link != LinkUp:
		d.Reason = PeerDown
	case s.Refused:
		d.Reason = Refused
	case s.Overloaded:
		d.Reason = Overload
	case s.FlowsFull:
		d.Reason = FlowLimit
	case s.MemoryFull:
		d.Reason = MemoryLimit
	case classed && class.Action == config.ActionRelay:
		d.Action, d.Reason = Relay, ClassRelay
	case classed && class.History == config.HistoryOff:
		d.Action, d.Reason = Compress, ClassHistory
	default:
		d.Action, d.Reason = Accelerate, None
	}
	return d
}

// ClassOf is the class of a flow the peer opened: the one the peer named if there is one of that name here, else the one its addresses belong to. dst
// may be invalid where only a name is known.
func (p *Policy) ClassOf(named string, src, dst netip.AddrPort) string {
	if named != "" && slices.ContainsFunc(p.classes, func(c config.Class) bool { return c.Name == named }) {
		return named
	}
	if !dst.IsValid() {
		return ""
	}
	c, _ := p.class(src.Addr().Unmap(), dst.Addr().Unmap(), dst.Port())
	return c.Name
}

func (p *Policy) isGateway(a netip.Addr) bool {
	if p.ownAddrs[a] {
		return true
	}
	for _, addrs := range p.peerAddrs {
		if slices.Contains(addrs, a) {
			return true
		}
	}
	return false
}

// class returns the first class that matches.
func (p *Policy) class(from, to netip.Addr, port uint16) (config.Class, bool) {
	for _, c := range p.classes {
		ports := len(c.Ports) == 0 || slices.ContainsFunc(c.Ports, func(r config.PortRange) bool { return r.Contains(port) })
		subnets := len(c.Subnets) == 0 || contains(c.Subnets, from) || contains(c.Subnets, to)
		if ports && subnets {
			return c, true
		}
	}
	return config.Class{}, false
}

func contains(list []netip.Prefix, a netip.Addr) bool {
	return slices.ContainsFunc(list, func(p netip.Prefix) bool { return p.Contains(a) })
}
