package intercept

import (
	"encoding/binary"
	"fmt"
	"net/netip"
	"strings"

	"github.com/google/nftables"
	"github.com/google/nftables/binaryutil"
	"github.com/google/nftables/expr"
	"golang.org/x/sys/unix"
)

// A term is one part of a rule. It knows both its forms, the text nft takes and the expressions the kernel takes, so that what is
// printed and what is installed cannot say different things.
type term struct {
	text  string
	exprs []expr.Any
}

// family is the IP version of a rule.
type family bool

const (
	v4 family = true
	v6 family = false
)

func (f family) ip() string {
	if f == v4 {
		return "ip"
	}
	return "ip6"
}

func (f family) digit() string {
	if f == v4 {
		return "4"
	}
	return "6"
}

// nfproto loads the address family of the packet and compares it, which nft derives from the word ip or ip6.
func (f family) nfproto() []expr.Any {
	proto := byte(unix.NFPROTO_IPV6)
	if f == v4 {
		proto = unix.NFPROTO_IPV4
	}
	return []expr.Any{
		&expr.Meta{Key: expr.MetaKeyNFPROTO, Register: 1},
		&expr.Cmp{Op: expr.CmpOpEq, Register: 1, Data: []byte{proto}},
	}
}

// address loads the source or destination address into register 1.
func (f family) address(source bool) expr.Any {
	p := &expr.Payload{DestRegister: 1, Base: expr.PayloadBaseNetworkHeader, Offset: 24, Len: 16}
	if f == v4 {
		p.Offset, p.Len = 16, 4
	}
	if source {
		p.Offset -= p.Len
	}
	return p
}

func isTCPExprs() []expr.Any {
	return []expr.Any{
		&expr.Meta{Key: expr.MetaKeyL4PROTO, Register: 1},
		&expr.Cmp{Op: expr.CmpOpEq, Register: 1, Data: []byte{unix.IPPROTO_TCP}},
	}
}

func lookup(set string) *expr.Lookup { return &expr.Lookup{SourceRegister: 1, SetName: set} }

// isTCP matches TCP.
func isTCP() term { return term{text: "meta l4proto tcp", exprs: isTCPExprs()} }

// isICMP and isICMPv6 match control messages. What follows of ofTransparentSocket looks at the packet that an error is about.
func isICMP() term   { return isProtocol("icmp", unix.IPPROTO_ICMP) }
func isICMPv6() term { return isProtocol("ipv6-icmp", unix.IPPROTO_ICMPV6) }

func isProtocol(name string, number byte) term {
	return term{text: "meta l4proto " + name, exprs: []expr.Any{
		&expr.Meta{Key: expr.MetaKeyL4PROTO, Register: 1},
		&expr.Cmp{Op: expr.CmpOpEq, Register: 1, Data: []byte{number}},
	}}
}

// isSYN matches the first packet of a TCP connection; the rule must have matched TCP already in its expressions.
func isSYN() term {
	// The flags are byte 13 of the TCP header: FIN 0x01, SYN 0x02, RST 0x04, ACK 0x10.
	return term{text: "tcp flags syn / fin,syn,rst,ack", exprs: append(isTCPExprs(),
		&expr.Payload{DestRegister: 1, Base: expr.PayloadBaseTransportHeader, Offset: 13, Len: 1},
		&expr.Bitwise{SourceRegister: 1, DestRegister: 1, Len: 1, Mask: []byte{0x17}, Xor: []byte{0}},
		&expr.Cmp{Op: expr.CmpOpEq, Register: 1, Data: []byte{0x02}},
	)}
}

// fromInterface matches the name of the interface a packet came in by.
func fromInterface(set string) term {
	return term{
		text:  "iifname @" + set,
		exprs: []expr.Any{&expr.Meta{Key: expr.MetaKeyIIFNAME, Register: 1}, lookup(set)},
	}
}

// addrIn matches the source or destination address against a set; it brings the match of the family with it.
func addrIn(f family, source bool, set string) term {
	dir := "daddr"
	if source {
		dir = "saddr"
	}
	return term{
		text:  fmt.Sprintf("%s %s @%s", f.ip(), dir, set),
		exprs: append(f.nfproto(), f.address(source), lookup(set)),
	}
}

// addrNotIn matches addresses of the family that are not in a set.
func addrNotIn(f family, source bool, set string) term {
	t := addrIn(f, source, set)
	t.text = strings.Replace(t.text, "@", "!= @", 1)
	t.exprs[len(t.exprs)-1].(*expr.Lookup).Invert = true
	return t
}

// portIn matches the destination port.
func portIn(set string) term {
	return term{
		text: "tcp dport @" + set,
		exprs: append(isTCPExprs(),
			&expr.Payload{DestRegister: 1, Base: expr.PayloadBaseTransportHeader, Offset: 2, Len: 2}, lookup(set)),
	}
}

// targetIn matches destination address and port together.
func targetIn(f family, set string) term {
	// The set's key lies in consecutive 32-bit registers from register 1 on; the port comes after the address.
	portRegister := uint32(unix.NFT_REG_2)
	if f == v4 {
		portRegister = unix.NFT_REG32_01
	}
	exprs := append(f.nfproto(), isTCPExprs()...)
	return term{
		text: fmt.Sprintf("%s daddr . tcp dport @%s", f.ip(), set),
		exprs: append(exprs, f.address(false),
			&expr.Payload{DestRegister: portRegister, Base: expr.PayloadBaseTransportHeader, Offset: 2, Len: 2}, lookup(set)),
	}
}

// toThisHost matches destinations that are addresses of this host, as its routing has it at that moment.
func toThisHost() term {
	return term{text: "fib daddr type local", exprs: []expr.Any{
		&expr.Fib{Register: 1, ResultADDRTYPE: true, FlagDADDR: true},
		&expr.Cmp{Op: expr.CmpOpEq, Register: 1, Data: binaryutil.NativeEndian.PutUint32(unix.RTN_LOCAL)},
	}}
}

// ofTransparentSocket matches packets for which this host has a transparent socket, connected or waiting in TIME_WAIT.
func ofTransparentSocket() term {
	return term{text: "socket transparent 1", exprs: []expr.Any{
		&expr.Socket{Key: expr.SocketKeyTransparent, Register: 1},
		&expr.Cmp{Op: expr.CmpOpEq, Register: 1, Data: []byte{1}},
	}}
}

// count counts the packet in a named counter.
func count(name string) term {
	return term{text: fmt.Sprintf("counter name %q", name), exprs: []expr.Any{&expr.Objref{Type: unix.NFT_OBJECT_COUNTER, Name: name}}}
}

// sample sends a few packets per second to an NFLOG group, headers only.
func sample(group uint16, prefix string) term {
	const perSecond, burst = 5, 10
	return term{
		text: fmt.Sprintf("limit rate %d/second burst %d packets log prefix %q group %d snaplen %d", perSecond, burst, prefix, group, sampleBytes),
		exprs: []expr.Any{
			&expr.Limit{Type: expr.LimitTypePkts, Rate: perSecond, Unit: expr.LimitTimeSecond, Burst: burst},
			&expr.Log{
				Key:   1<<unix.NFTA_LOG_PREFIX | 1<<unix.NFTA_LOG_GROUP | 1<<unix.NFTA_LOG_SNAPLEN,
				Group: group, Snaplen: sampleBytes, Data: []byte(prefix),
			},
		},
	}
}

// sampleBytes of a packet hold its IP and TCP headers: 40 and 20 bytes at least, options included in most cases.
const sampleBytes = 96

// divertTo hands the packet to the listener on a loopback address without changing it. Without such a listener the rule ends here
// and the packet goes its way: that is what makes a dead process harmless.
func divertTo(f family, to netip.AddrPort) term {
	proto := byte(unix.NFPROTO_IPV6)
	if f == v4 {
		proto = unix.NFPROTO_IPV4
	}
	return term{text: fmt.Sprintf("tproxy %s to %s", f.ip(), to), exprs: []expr.Any{
		&expr.Immediate{Register: 1, Data: to.Addr().AsSlice()},
		&expr.Immediate{Register: 2, Data: binary.BigEndian.AppendUint16(nil, to.Port())},
		&expr.TProxy{Family: proto, TableFamily: byte(nftables.TableFamilyINet), RegAddr: 1, RegPort: 2},
	}}
}

// setMark sets one bit of the packet's mark and leaves the others.
func setMark(bit uint32) term {
	return term{text: fmt.Sprintf("meta mark set meta mark or 0x%08x", bit), exprs: []expr.Any{
		&expr.Meta{Key: expr.MetaKeyMARK, Register: 1},
		&expr.Bitwise{
			SourceRegister: 1, DestRegister: 1, Len: 4,
			Mask: binaryutil.NativeEndian.PutUint32(^bit), Xor: binaryutil.NativeEndian.PutUint32(bit),
		},
		&expr.Meta{Key: expr.MetaKeyMARK, SourceRegister: true, Register: 1},
	}}
}

func accept() term {
	return term{text: "accept", exprs: []expr.Any{&expr.Verdict{Kind: expr.VerdictAccept}}}
}

func jumpTo(chain string) term {
	return term{text: "jump " + chain, exprs: []expr.Any{&expr.Verdict{Kind: expr.VerdictJump, Chain: chain}}}
}

func goTo(chain string) term {
	return term{text: "goto " + chain, exprs: []expr.Any{&expr.Verdict{Kind: expr.VerdictGoto, Chain: chain}}}
}

// rule is a list of terms, matched in order.
type rule []term

func (r rule) text() string {
	words := make([]string, len(r))
	for i, t := range r {
		words[i] = t.text
	}
	return strings.Join(words, " ")
}

// exprs gives the rule's expressions; ids are the transaction's numbers of the sets, which lookups of new sets need.
func (r rule) exprs(ids map[string]uint32) []expr.Any {
	var out []expr.Any
	for _, t := range r {
		for _, e := range t.exprs {
			if l, ok := e.(*expr.Lookup); ok {
				l.SetID = ids[l.SetName]
			}
			out = append(out, e)
		}
	}
	return out
}
