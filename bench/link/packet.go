package link

import (
	"encoding/binary"
	"errors"
)

// The kernel puts this header before every packet of a TUN device opened with IFF_VNET_HDR (virtio 1.2, section 5.1.6): flags, GSO type,
// header length, segment size, checksum start, checksum offset; the last four are 16 bits in the machine's own order.
const (
	vnetBytes = 10

	vnetFlags        = 0
	vnetGSOType      = 1
	vnetGSOSize      = 4
	vnetChecksumFrom = 6

	vnetNeedsChecksum = 1

	gsoNone  = 0
	gsoTCPv4 = 1
	gsoTCPv6 = 4
	gsoUDP   = 5    // USO: UDP datagrams of one size
	gsoECN   = 0x80 // flag beside the type
)

// maxPacketBytes is the longest that a TUN device hands over: the vnet header and 64 KiB of IP packet.
const maxPacketBytes = vnetBytes + 65535

// maxHeaderBytes bounds vnet, IP (with options or extension headers) and TCP headers together: 60 bytes each for IPv4 and TCP, and room
// for the extension headers of IPv6. Packets with longer headers are refused, not carried wrongly.
const maxHeaderBytes = 512

var errMalformed = errors.New("malformed packet from the device")

// super describes a packet as it came from the device: one segment, or a super-packet of several.
type super struct {
	segments    int
	ipv6, tcp   bool
	ipBytes     int // IP header
	headerBytes int // IP and transport headers; each segment carries its own copy
	size        int // payload bytes of each segment but the last
	payload     int // payload bytes of all segments
	total       int // IP bytes as handed over, headers once
}

// parseSuper reads the headers of a packet of n bytes in all; head holds its first bytes, all headers at least.
func parseSuper(head []byte, n int) (super, error) {
	if n < vnetBytes+20 || n > maxPacketBytes || len(head) < min(n, maxHeaderBytes) {
		return super{}, errMalformed
	}
	s := super{segments: 1, total: n - vnetBytes}
	kind := head[vnetGSOType] &^ gsoECN
	if kind == gsoNone {
		return s, nil
	}
	ip := head[vnetBytes:]
	s.ipv6 = ip[0]>>4 == 6
	s.size = int(binary.NativeEndian.Uint16(head[vnetGSOSize:]))
	// A super-packet has no checksums yet; the kernel says where the transport header starts, whatever is before it.
	s.ipBytes = int(binary.NativeEndian.Uint16(head[vnetChecksumFrom:]))
	known := min(len(ip), maxHeaderBytes-vnetBytes)
	if head[vnetFlags]&vnetNeedsChecksum == 0 || s.size == 0 || s.ipBytes < 20 || s.ipv6 && s.ipBytes < 40 {
		return super{}, errMalformed
	}
	switch {
	case kind == gsoTCPv4 && !s.ipv6, kind == gsoTCPv6 && s.ipv6:
		s.tcp = true
		if s.ipBytes+20 > known {
			return super{}, errMalformed
		}
		s.headerBytes = s.ipBytes + int(ip[s.ipBytes+12]>>4)*4
		if s.headerBytes < s.ipBytes+20 {
			return super{}, errMalformed
		}
	case kind == gsoUDP:
		s.headerBytes = s.ipBytes + 8
	default:
		return super{}, errMalformed
	}
	if s.headerBytes > known || s.headerBytes >= s.total {
		return super{}, errMalformed
	}
	s.payload = s.total - s.headerBytes
	s.segments = (s.payload + s.size - 1) / s.size
	return s, nil
}

// segmentBytes is the IP packet that segment i is on the wire.
func (s *super) segmentBytes(i int) int {
	if s.segments == 1 {
		return s.total
	}
	return s.headerBytes + min(s.size, s.payload-i*s.size)
}

// span is the part of the payload that segments from i up to j carry.
func (s *super) span(i, j int) (from, to int) { return i * s.size, min(j*s.size, s.payload) }

// rewrite turns head, a copy of the headers of super-packet s with the vnet header before them, into the headers of the piece that
// carries its segments from i up to j. Checksums stay as the kernel leaves them on super-packets: the IPv4 header's is complete, the
// transport's covers the pseudo-header only and is completed by whoever takes the packet off the device.
func (s *super) rewrite(head []byte, i, j int) {
	from, to := s.span(i, j)
	ip := head[vnetBytes : vnetBytes+s.headerBytes]
	transport := ip[s.ipBytes:]
	transportBytes := s.headerBytes - s.ipBytes + to - from
	if j-i == 1 {
		head[vnetGSOType] = gsoNone
		binary.NativeEndian.PutUint16(head[vnetGSOSize:], 0)
	}
	var pseudo uint32
	if s.ipv6 {
		binary.BigEndian.PutUint16(ip[4:], uint16(s.ipBytes-40+transportBytes))
		pseudo = sum16(ip[8:40])
	} else {
		binary.BigEndian.PutUint16(ip[2:], uint16(s.ipBytes+transportBytes))
		binary.BigEndian.PutUint16(ip[4:], binary.BigEndian.Uint16(ip[4:])+uint16(i)) // identification counts per segment
		ip[10], ip[11] = 0, 0
		binary.BigEndian.PutUint16(ip[10:], ^fold(sum16(ip[:s.ipBytes])))
		pseudo = sum16(ip[12:20])
	}
	if s.tcp {
		binary.BigEndian.PutUint32(transport[4:], binary.BigEndian.Uint32(transport[4:])+uint32(from))
		const fin, psh, cwr = 0x01, 0x08, 0x80
		if j != s.segments {
			transport[13] &^= fin | psh // they belong to the last segment
		}
		if i != 0 {
			transport[13] &^= cwr // it belongs to the first (RFC 3168, section 6.1.2)
		}
		binary.BigEndian.PutUint16(transport[16:], fold(pseudo+6+uint32(transportBytes)))
		return
	}
	binary.BigEndian.PutUint16(transport[4:], uint16(transportBytes))
	binary.BigEndian.PutUint16(transport[6:], fold(pseudo+17+uint32(transportBytes)))
}

// sum16 adds b as big-endian 16-bit words (RFC 1071); b has an even length of at most 64 KiB.
func sum16(b []byte) (s uint32) {
	for ; len(b) >= 2; b = b[2:] {
		s += uint32(binary.BigEndian.Uint16(b))
	}
	return s
}

func fold(s uint32) uint16 {
	for s>>16 != 0 {
		s = s&0xffff + s>>16
	}
	return uint16(s)
}
