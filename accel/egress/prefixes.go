package egress

import (
	"fmt"
	"net/netip"
)

// prefixes is a list of subnets; the lists of a site are short, so looking through it beats a tree.
type prefixes []netip.Prefix

func newPrefixes(in []netip.Prefix) (prefixes, error) {
	out := make(prefixes, 0, len(in))
	for _, p := range in {
		if !p.IsValid() {
			return nil, fmt.Errorf("invalid prefix %v", p)
		}
		if p.Addr().Is4In6() {
			if p.Bits() < 96 {
				return nil, fmt.Errorf("prefix %v mixes IPv4 and IPv6", p)
			}
			p = netip.PrefixFrom(p.Addr().Unmap(), p.Bits()-96)
		}
		out = append(out, p.Masked())
	}
	return out, nil
}

// contain: an address with a zone is in none, since a zone means nothing to another host.
func (ps prefixes) contain(a netip.Addr) bool {
	for _, p := range ps {
		if p.Contains(a) {
			return true
		}
	}
	return false
}
