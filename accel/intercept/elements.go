package intercept

import (
	"encoding/binary"
	"net/netip"
	"time"

	"github.com/google/nftables"
	"github.com/google/nftables/binaryutil"
)

// addrElements gives ranges as the kernel's interval sets take them: the first address, and the one after the last as an end mark.
// A range up to the highest address has no end.
func addrElements(ranges []addrRange, timeout time.Duration) []nftables.SetElement {
	out := make([]nftables.SetElement, 0, 2*len(ranges))
	for _, r := range ranges {
		after := r.last.Next()
		out = append(out, nftables.SetElement{Key: r.first.AsSlice(), Timeout: timeout, IntervalOpen: !after.IsValid()})
		if after.IsValid() {
			out = append(out, nftables.SetElement{Key: after.AsSlice(), IntervalEnd: true})
		}
	}
	return out
}

func portElements(ports []PortRange) []nftables.SetElement {
	var out []nftables.SetElement
	for _, p := range ports {
		open := p.Last == 65535
		out = append(out, nftables.SetElement{Key: binary.BigEndian.AppendUint16(nil, p.First), IntervalOpen: open})
		if !open {
			out = append(out, nftables.SetElement{Key: binary.BigEndian.AppendUint16(nil, p.Last+1), IntervalEnd: true})
		}
	}
	return out
}

func interfaceElement(name string, timeout time.Duration) nftables.SetElement {
	key := make([]byte, 16) // IFNAMSIZ, padded with zeros
	copy(key, name)
	return nftables.SetElement{Key: key, Timeout: timeout}
}

func addressElements(addrs []netip.Addr) []nftables.SetElement {
	out := make([]nftables.SetElement, len(addrs))
	for i, a := range addrs {
		out[i] = nftables.SetElement{Key: a.AsSlice()}
	}
	return out
}

// targetElement is an address and a port in a concatenated key, each part filled up to whole 32-bit words.
func targetElement(t netip.AddrPort, timeout time.Duration) nftables.SetElement {
	key := binary.BigEndian.AppendUint16(t.Addr().AsSlice(), t.Port())
	return nftables.SetElement{Key: append(key, 0, 0), Timeout: timeout}
}

// elements are what the set holds from the start.
func (s *set) elements() []nftables.SetElement {
	out := append(addrElements(s.addrs, 0), portElements(s.ports)...)
	for _, name := range s.ifaces {
		out = append(out, interfaceElement(name, 0))
	}
	return out
}

// nft gives the set as the library takes it.
func (s *set) nft(t *nftables.Table) *nftables.Set {
	out := &nftables.Set{
		Table: t, Name: s.name, Interval: s.interval, HasTimeout: s.timeout > 0 || s.dynamic, Timeout: s.timeout,
		Size: s.size, Comment: s.comment,
	}
	switch s.key {
	case keyInterface:
		out.KeyType, out.KeyByteOrder = nftables.TypeIFName, binaryutil.NativeEndian
	case keyMark:
		out.KeyType, out.KeyByteOrder = nftables.TypeMark, binaryutil.NativeEndian
	case keyAddr4:
		out.KeyType, out.KeyByteOrder = nftables.TypeIPAddr, binaryutil.BigEndian
	case keyAddr6:
		out.KeyType, out.KeyByteOrder = nftables.TypeIP6Addr, binaryutil.BigEndian
	case keyPort:
		out.KeyType, out.KeyByteOrder = nftables.TypeInetService, binaryutil.BigEndian
	case keyTarget4, keyTarget6:
		addr := nftables.TypeIPAddr
		if s.key == keyTarget6 {
			addr = nftables.TypeIP6Addr
		}
		out.KeyType = nftables.MustConcatSetType(addr, nftables.TypeInetService)
		out.Concatenation = true
	}
	return out
}
