package intercept

import (
	"encoding/binary"
	"net/netip"

	"golang.org/x/sys/unix"
)

// A segment is a TCP segment without data, as the probe sends and receives it below the kernel's own TCP.
type segment struct {
	from, to netip.AddrPort // of one family
	seq, ack uint32
	flags    byte
}

// TCP flags.
const (
	flagSYN = 0x02
	flagRST = 0x04
	flagACK = 0x10
)

const tcpHeaderLen = 20

// append writes the segment as an IP packet.
func (s segment) append(b []byte) []byte {
	tcp := make([]byte, tcpHeaderLen)
	binary.BigEndian.PutUint16(tcp[0:], s.from.Port())
	binary.BigEndian.PutUint16(tcp[2:], s.to.Port())
	binary.BigEndian.PutUint32(tcp[4:], s.seq)
	binary.BigEndian.PutUint32(tcp[8:], s.ack)
	tcp[12] = tcpHeaderLen / 4 << 4
	tcp[13] = s.flags
	binary.BigEndian.PutUint16(tcp[14:], 65535) // window
	from, to := s.from.Addr().AsSlice(), s.to.Addr().AsSlice()
	sum := checksum(0, from)
	sum = checksum(sum, to)
	sum = checksum(sum, []byte{0, unix.IPPROTO_TCP, 0, tcpHeaderLen})
	binary.BigEndian.PutUint16(tcp[16:], ^fold(checksum(sum, tcp)))

	if s.from.Addr().Is4() {
		ip := make([]byte, 20)
		ip[0] = 4<<4 | 5
		binary.BigEndian.PutUint16(ip[2:], uint16(len(ip)+len(tcp)))
		ip[8], ip[9] = 64, unix.IPPROTO_TCP // time to live
		copy(ip[12:], from)
		copy(ip[16:], to)
		binary.BigEndian.PutUint16(ip[10:], ^fold(checksum(0, ip)))
		return append(append(b, ip...), tcp...)
	}
	ip := make([]byte, 40)
	ip[0] = 6 << 4
	binary.BigEndian.PutUint16(ip[4:], tcpHeaderLen)
	ip[6], ip[7] = unix.IPPROTO_TCP, 64 // hop limit
	copy(ip[8:], from)
	copy(ip[24:], to)
	return append(append(b, ip...), tcp...)
}

// parseSegment reads the TCP header of an IP packet, of which the rest may be missing; ok is false for anything else.
func parseSegment(p []byte) (s segment, ok bool) {
	if len(p) < 1 {
		return s, false
	}
	var from, to []byte
	var headerLen int
	switch p[0] >> 4 {
	case 4:
		headerLen = int(p[0]&0x0f) * 4
		if headerLen < 20 || len(p) < headerLen || p[9] != unix.IPPROTO_TCP || binary.BigEndian.Uint16(p[6:])&0x1fff != 0 {
			return s, false // not TCP, or not the first fragment
		}
		from, to = p[12:16], p[16:20]
	case 6:
		headerLen = 40
		if len(p) < headerLen || p[6] != unix.IPPROTO_TCP {
			return s, false
		}
		from, to = p[8:24], p[24:40]
	default:
		return s, false
	}
	tcp := p[headerLen:]
	if len(tcp) < tcpHeaderLen {
		return s, false
	}
	src, _ := netip.AddrFromSlice(from)
	dst, _ := netip.AddrFromSlice(to)
	return segment{
		from: netip.AddrPortFrom(src, binary.BigEndian.Uint16(tcp[0:])), to: netip.AddrPortFrom(dst, binary.BigEndian.Uint16(tcp[2:])),
		seq: binary.BigEndian.Uint32(tcp[4:]), ack: binary.BigEndian.Uint32(tcp[8:]), flags: tcp[13],
	}, true
}

// checksum adds 16-bit words (RFC 1071); the lengths here are all even.
func checksum(sum uint32, b []byte) uint32 {
	for ; len(b) >= 2; b = b[2:] {
		sum += uint32(b[0])<<8 | uint32(b[1])
	}
	return sum
}

func fold(sum uint32) uint16 {
	for sum > 0xffff {
		sum = sum>>16 + sum&0xffff
	}
	return uint16(sum)
}
