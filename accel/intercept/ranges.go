package intercept

import (
	"net/netip"
	"slices"
)

// addrRange holds the addresses first to last, both included, of one family.
type addrRange struct{ first, last netip.Addr }

// rangesOf gives the addresses of one family (v4 or not) in a list of prefixes as disjoint ranges in order, overlaps and
// neighbours joined: the form interval sets take.
func rangesOf(v4 bool, prefixes []netip.Prefix) []addrRange {
	var all []addrRange
	for _, p := range prefixes {
		if p.Addr().Is4() == v4 {
			all = append(all, addrRange{p.Masked().Addr(), lastOf(p)})
		}
	}
	slices.SortFunc(all, func(a, b addrRange) int { return a.first.Compare(b.first) })
	var out []addrRange
	for _, r := range all {
		if n := len(out); n > 0 && (out[n-1].last.Compare(r.first) >= 0 || out[n-1].last.Next() == r.first) {
			if out[n-1].last.Less(r.last) {
				out[n-1].last = r.last
			}
			continue
		}
		out = append(out, r)
	}
	return out
}

// lastOf is the highest address of a prefix.
func lastOf(p netip.Prefix) netip.Addr {
	b := p.Addr().AsSlice()
	for i := p.Bits(); i < len(b)*8; i++ {
		b[i/8] |= 0x80 >> (i % 8)
	}
	a, _ := netip.AddrFromSlice(b)
	return a
}

// String writes a range as nft does: a prefix where it is one.
func (r addrRange) String() string {
	if r.first == r.last {
		return r.first.String()
	}
	for bits := range r.first.BitLen() {
		if p := netip.PrefixFrom(r.first, bits); p.Masked().Addr() == r.first && lastOf(p) == r.last {
			return p.String()
		}
	}
	return r.first.String() + "-" + r.last.String()
}

// addrsOf gives the addresses of one family, in order and without repeats.
func addrsOf(v4 bool, addrs []netip.Addr) []netip.Addr {
	var out []netip.Addr
	for _, a := range addrs {
		if a = a.Unmap().WithZone(""); a.IsValid() && a.Is4() == v4 {
			out = append(out, a)
		}
	}
	slices.SortFunc(out, netip.Addr.Compare)
	return slices.Compact(out)
}

// joinPorts makes disjoint ranges in order.
func joinPorts(in []PortRange) []PortRange {
	all := slices.Clone(in)
	slices.SortFunc(all, func(a, b PortRange) int { return int(a.First) - int(b.First) })
	var out []PortRange
	for _, r := range all {
		if n := len(out); n > 0 && int(out[n-1].Last)+1 >= int(r.First) {
			out[n-1].Last = max(out[n-1].Last, r.Last)
			continue
		}
		out = append(out, r)
	}
	return out
}
