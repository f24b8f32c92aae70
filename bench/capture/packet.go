package capture

import (
	"encoding/binary"
	"net/netip"
)

// Link types, from the list at tcpdump.org.
const (
	linkNull     = 0
	linkEthernet = 1
	linkRaw      = 12
	linkRawBSD   = 14
	linkRaw101   = 101
	linkLoop     = 108
	linkSLL      = 113
	linkIPv4     = 228
	linkIPv6     = 229
	linkSLL2     = 276
)

// segment is a TCP segment of a packet.
type segment struct {
	from, to netip.AddrPort
	seq      uint32
	flags    byte
	payload  []byte // what was captured of it
	length   int    // what it was
}

// TCP flags.
const (
	flagFIN = 1
	flagSYN = 2
	flagRST = 4
	flagACK = 16
)

// Ether types.
const (
	etherIPv4 = 0x0800
	etherIPv6 = 0x86dd
	etherVLAN = 0x8100
	etherQinQ = 0x88a8
)

// network strips the link layer; nil when there is no IP packet in it that is understood.
func network(linkType uint32, b []byte) []byte {
	skip := func(n int) []byte {
		if len(b) < n {
			return nil
		}
		return b[n:]
	}
	ether := func(at, header int) []byte {
		for len(b) >= header {
			switch binary.BigEndian.Uint16(b[at:]) {
			case etherIPv4, etherIPv6:
				return b[header:]
			case etherVLAN, etherQinQ:
				at, header = at+4, header+4
			default:
				return nil
			}
		}
		return nil
	}
	switch linkType {
	case linkEthernet:
		return ether(12, 14)
	case linkSLL:
		return ether(14, 16)
	case linkSLL2:
		if len(b) < 20 {
			return nil
		}
		if t := binary.BigEndian.Uint16(b); t != etherIPv4 && t != etherIPv6 {
			return nil
		}
		return b[20:]
	case linkNull, linkLoop:
		return skip(4)
	case linkRaw, linkRawBSD, linkRaw101, linkIPv4, linkIPv6:
		return b
	}
	return nil
}

// parse finds the TCP segment in an IP packet; false when there is none, or a fragment of one.
func parse(b []byte) (segment, bool) {
	if len(b) < 1 {
		return segment{}, false
	}
	switch b[0] >> 4 {
	case 4:
		return parse4(b)
	case 6:
		return parse6(b)
	}
	return segment{}, false
}

const protocolTCP = 6

func parse4(b []byte) (segment, bool) {
	const least = 20
	if len(b) < least {
		return segment{}, false
	}
	header, total := int(b[0]&15)*4, int(binary.BigEndian.Uint16(b[2:]))
	const moreOrOffset = 0x3fff
	if header < least || len(b) < header || b[9] != protocolTCP || binary.BigEndian.Uint16(b[6:])&moreOrOffset != 0 {
		return segment{}, false
	}
	if total == 0 { // a super-packet of a card that segments
		total = len(b)
	}
	return parseTCP(netip.AddrFrom4([4]byte(b[12:])), netip.AddrFrom4([4]byte(b[16:])), b[header:], total-header)
}

func parse6(b []byte) (segment, bool) {
	const header = 40
	if len(b) < header {
		return segment{}, false
	}
	from, to := netip.AddrFrom16([16]byte(b[8:])), netip.AddrFrom16([16]byte(b[24:]))
	next, total := b[6], int(binary.BigEndian.Uint16(b[4:]))
	b = b[header:]
	if total == 0 {
		total = len(b)
	}
	const mostExtensions = 8
	for range mostExtensions {
		if next == protocolTCP {
			return parseTCP(from, to, b, total)
		}
		const hopByHop, routing, destination = 0, 43, 60
		if next != hopByHop && next != routing && next != destination || len(b) < 8 {
			return segment{}, false
		}
		n := int(b[1])*8 + 8
		if len(b) < n {
			return segment{}, false
		}
		next, b, total = b[0], b[n:], total-n
	}
	return segment{}, false
}

// parseTCP reads a TCP header; total is what the IP header says follows it.
func parseTCP(from, to netip.Addr, b []byte, total int) (segment, bool) {
	const least = 20
	if len(b) < least {
		return segment{}, false
	}
	offset := int(b[12]>>4) * 4
	if offset < least || total < offset || len(b) < offset {
		return segment{}, false
	}
	length := total - offset
	return segment{
		from: netip.AddrPortFrom(from, binary.BigEndian.Uint16(b)), to: netip.AddrPortFrom(to, binary.BigEndian.Uint16(b[2:])),
		seq: binary.BigEndian.Uint32(b[4:]), flags: b[13], payload: b[offset:min(len(b), total)], length: length,
	}, true
}
