package intercept

import (
	"fmt"
	"net"
	"net/netip"

	"github.com/google/nftables"
	"github.com/google/nftables/expr"
)

// clientPort and serverPort of the sample packets: ports no firewall names.
const (
	clientPort = 49877
	serverPort = 47123
)

// journey is one way packets take through this host that must stay open.
type journey struct {
	code     string
	what     string // of the packet, for the text
	hook     *nftables.ChainHook
	from, to []netip.Prefix
	in       []string // interfaces; nil: by the route
	flags    byte
	ctState  uint32
	mark     uint32
	remedy   string
	swallows bool
	somePort bool // it is enough if connections to some ports pass: the others may be meant to be dropped
}

// journeys lists them: what is diverted, what comes back to sockets that carry a client's address, and what passes raw.
func (h *host) journeys() []journey {
	own, peers := h.cfg.Subnets, h.peerSubnets()
	letMark := fmt.Sprintf("Accept packets with the mark bit in its chain, for example: meta mark and 0x%08x != 0 accept.", h.cfg.DivertBit)
	var out []journey
	if len(h.cfg.Interfaces) > 0 {
		out = append(out,
			journey{
				code: "prerouting_drop", what: "first packets of connections to peers", hook: nftables.ChainHookPrerouting, from: own, to: peers,
				in: h.cfg.Interfaces, flags: flagSYN, ctState: expr.CtStateBitNEW, remedy: "Let connections from the own subnets to the peers' through.", swallows: true,
			},
			journey{
				code: "input_drop", what: "diverted connections", hook: nftables.ChainHookInput, from: own, to: peers,
				in: h.cfg.Interfaces, flags: flagSYN, ctState: expr.CtStateBitNEW, mark: h.cfg.DivertBit, remedy: letMark, swallows: true,
			},
			journey{
				code: "forward_drop", what: "raw connections to peers", hook: nftables.ChainHookForward, from: own, to: peers,
				in: h.cfg.Interfaces, flags: flagSYN, ctState: expr.CtStateBitNEW,
				remedy: forwardBothWays, somePort: true,
			},
			journey{
				code: "forward_drop", what: "raw connections from peers", hook: nftables.ChainHookForward, from: peers, to: own,
				flags: flagSYN, ctState: expr.CtStateBitNEW, remedy: forwardBothWays, somePort: true,
			})
	}
	return append(out,
		journey{
			code: "input_answers_drop", what: "servers' answers to connections made with a client's address", hook: nftables.ChainHookInput, from: own, to: peers,
			in: h.cfg.Interfaces, flags: flagSYN | flagACK, ctState: expr.CtStateBitESTABLISHED, mark: h.cfg.DivertBit, remedy: letMark,
		})
}

const forwardBothWays = "Let connections between the own and the peers' subnets be forwarded both ways (with Docker: in the chain DOCKER-USER)."

// checkFirewalls sends sample packets through the rules of others, in thought.
func (h *host) checkFirewalls() {
	rules, err := readRuleset(h.cfg.Table)
	if err != nil {
		h.add(Warning, "firewall_unknown", "Check by hand that no rule drops diverted or forwarded connections.", "the rules of this host cannot be read: %v", err)
		return
	}
	index := map[string]uint32{}
	if links, err := net.Interfaces(); err == nil {
		for _, l := range links {
			index[l.Name] = uint32(l.Index)
		}
	}
	for _, j := range h.journeys() {
		for _, f := range h.cfg.families() {
			from, to := h.sample(f, j.from), h.sample(f, j.to)
			if !from.IsValid() || !to.IsValid() {
				continue
			}
			in := j.in
			if len(in) == 0 {
				in = []string{routeTo(from, 0)}
			}
			for _, iif := range in {
				p := traveller{
					family: f, hook: *j.hook, iif: iif, ifIndex: index, mark: j.mark, ctState: j.ctState,
					packet: segment{from: netip.AddrPortFrom(from, clientPort), to: netip.AddrPortFrom(to, serverPort), flags: j.flags}.append(nil),
				}
				if j.hook == nftables.ChainHookForward {
					p.oif = routeTo(to, 0)
				}
				h.judge(rules, j, p)
			}
		}
	}
}

// judge adds a finding when a journey ends in a drop, or may.
func (h *host) judge(rules *ruleset, j journey, p traveller) {
	o, by := rules.verdict(p)
	if o == dropped && j.somePort {
		p.anyPort = true
		o, by = rules.verdict(p)
	}
	switch {
	case o == dropped:
		f := h.add(Fatal, j.code, j.remedy, "%s drops %s (IPv%s, interface %s)", by, j.what, p.family.digit(), p.iif)
		f.Swallows = j.swallows
	case o&dropped != 0:
		f := h.add(Warning, j.code, j.remedy, "%s may drop %s (IPv%s, interface %s): it depends on what cannot be told from its rules", by, j.what, p.family.digit(), p.iif)
		f.Swallows = j.swallows
	}
}
