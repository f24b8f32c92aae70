package link

import (
	"encoding/binary"
	"fmt"
	"math/rand/v2"
	"slices"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
	"pgregory.net/rapid"
)

func splitWords(s string) []string { return strings.Fields(s) }

// shape describes a super-packet to build.
type shape struct {
	ipv6, tcp bool
	options   int // bytes of IP options or extension header
	tcpWords  int // header length of TCP in 32-bit words
	size      int
	payload   int
	flags     byte
}

func genShape(t *rapid.T) shape {
	s := shape{
		ipv6:     rapid.Bool().Draw(t, "ipv6"),
		tcp:      rapid.Bool().Draw(t, "tcp"),
		tcpWords: rapid.IntRange(5, 15).Draw(t, "tcp header words"),
		size:     rapid.IntRange(1, 1460).Draw(t, "segment size"),
		flags:    rapid.Byte().Draw(t, "tcp flags") | 0x10,
	}
	segments := rapid.IntRange(2, 44).Draw(t, "segments")
	s.payload = (segments-1)*s.size + rapid.IntRange(1, s.size).Draw(t, "last segment")
	if s.ipv6 {
		s.options = 8 * rapid.IntRange(0, 3).Draw(t, "extension header")
	} else {
		s.options = 4 * rapid.IntRange(0, 10).Draw(t, "ip options")
	}
	return s
}

// packet builds the super-packet as the kernel would hand it over.
func (s shape) packet(seed uint64) []byte {
	r := rand.New(rand.NewPCG(seed, 0))
	ipBytes := 20 + s.options
	if s.ipv6 {
		ipBytes = 40 + s.options
	}
	l4 := 8
	if s.tcp {
		l4 = s.tcpWords * 4
	}
	b := make([]byte, vnetBytes+ipBytes+l4+s.payload)
	for i := range b {
		b[i] = byte(r.Uint32())
	}
	ip := b[vnetBytes:]
	transport := ip[ipBytes:]
	protocol := byte(17)
	if s.tcp {
		protocol = 6
	}
	clear(b[:vnetBytes])
	b[vnetFlags] = vnetNeedsChecksum
	binary.NativeEndian.PutUint16(b[vnetGSOSize:], uint16(s.size))
	binary.NativeEndian.PutUint16(b[vnetChecksumFrom:], uint16(ipBytes))
	binary.NativeEndian.PutUint16(b[vnetChecksumFrom+2:], 6)
	b[vnetGSOType] = gsoUDP
	if s.tcp {
		binary.NativeEndian.PutUint16(b[vnetChecksumFrom+2:], 16)
		b[vnetGSOType] = gsoTCPv4
		if s.ipv6 {
			b[vnetGSOType] = gsoTCPv6
		}
	}
	if s.ipv6 {
		ip[0] = 6 << 4
		binary.BigEndian.PutUint16(ip[4:], uint16(len(ip)-40))
		ip[6] = protocol
		if s.options > 0 {
			ip[6] = 60 // destination options
			ip[40], ip[41] = protocol, byte(s.options/8-1)
		}
	} else {
		ip[0] = 4<<4 | byte(ipBytes/4)
		binary.BigEndian.PutUint16(ip[2:], uint16(len(ip)))
		ip[6], ip[7], ip[9] = 0x40, 0, protocol
		putIPChecksum(ip[:ipBytes])
	}
	if s.tcp {
		transport[12] = byte(s.tcpWords) << 4
		transport[13] = s.flags
		binary.BigEndian.PutUint16(transport[16:], pseudoSum(ip, ipBytes))
	} else {
		binary.BigEndian.PutUint16(transport[4:], uint16(len(transport)))
		binary.BigEndian.PutUint16(transport[6:], pseudoSum(ip, ipBytes))
	}
	return b
}

// The reference works on one byte after the other, with a sum as wide as it needs, and never looks at partial sums of others.

func onesComplement(words ...[]byte) uint16 {
	var sum uint64
	for _, b := range words {
		for i, c := range b {
			if i%2 == 0 {
				sum += uint64(c) << 8
			} else {
				sum += uint64(c)
			}
		}
	}
	for sum > 0xffff {
		sum = sum>>16 + sum&0xffff
	}
	return uint16(sum)
}

func putIPChecksum(header []byte) {
	header[10], header[11] = 0, 0
	binary.BigEndian.PutUint16(header[10:], ^onesComplement(header))
}

// pseudoSum is the sum over the pseudo-header of the transport packet that follows ipBytes of headers.
func pseudoSum(ip []byte, ipBytes int) uint16 {
	length := len(ip) - ipBytes
	if ip[0]>>4 == 6 {
		protocol := ip[6]
		if protocol == 60 {
			protocol = ip[40]
		}
		return onesComplement(ip[8:40], []byte{byte(length >> 24), byte(length >> 16), byte(length >> 8), byte(length), 0, 0, 0, protocol})
	}
	return onesComplement(ip[12:20], []byte{0, ip[9], byte(length >> 8), byte(length)})
}

// segmentReference cuts a super-packet, or a piece of one, into finished wire packets with complete checksums, the way a network card does.
func segmentReference(t rapid.TB, b []byte) (wire [][]byte) {
	t.Helper()
	ipBytes := int(binary.NativeEndian.Uint16(b[vnetChecksumFrom:]))
	offset := int(binary.NativeEndian.Uint16(b[vnetChecksumFrom+2:]))
	ip := b[vnetBytes:]
	isTCP := offset == 16
	header := ipBytes + 8
	if isTCP {
		header = ipBytes + int(ip[ipBytes+12]>>4)*4
	}
	size := int(binary.NativeEndian.Uint16(b[vnetGSOSize:]))
	if b[vnetGSOType] == gsoNone {
		size = len(ip) - header
	}
	if got, want := binary.BigEndian.Uint16(ip[ipBytes+offset:]), pseudoSum(ip, ipBytes); got != want && got^want != 0xffff {
		t.Fatalf("partial checksum is %#x, the pseudo-header sums to %#x", got, want)
	}
	if ip[0]>>4 == 4 && onesComplement(ip[:ipBytes]) != 0xffff {
		t.Fatalf("IPv4 header checksum is wrong")
	}
	for at, i := 0, 0; at < len(ip)-header; at, i = at+size, i+1 {
		end := min(at+size, len(ip)-header)
		p := append(slices.Clone(ip[:header]), ip[header+at:header+end]...)
		if p[0]>>4 == 6 {
			binary.BigEndian.PutUint16(p[4:], uint16(len(p)-40))
		} else {
			binary.BigEndian.PutUint16(p[2:], uint16(len(p)))
			binary.BigEndian.PutUint16(p[4:], binary.BigEndian.Uint16(ip[4:])+uint16(i))
			putIPChecksum(p[:ipBytes])
		}
		transport := p[ipBytes:]
		if isTCP {
			binary.BigEndian.PutUint32(transport[4:], binary.BigEndian.Uint32(transport[4:])+uint32(at))
			if end != len(ip)-header {
				transport[13] &^= 0x09
			}
			if i > 0 {
				transport[13] &^= 0x80
			}
		} else {
			binary.BigEndian.PutUint16(transport[4:], uint16(len(transport)))
		}
		transport[offset], transport[offset+1] = 0, 0
		pseudo := pseudoSum(p, ipBytes)
		binary.BigEndian.PutUint16(transport[offset:], ^onesComplement([]byte{byte(pseudo >> 8), byte(pseudo)}, transport))
		wire = append(wire, p)
	}
	return wire
}

// piece cuts segments i to j out of packet b as the path does.
func piece(s *super, b []byte, i, j int) []byte {
	from, to := s.span(i, j)
	header := vnetBytes + s.headerBytes
	p := append(slices.Clone(b[:header]), b[header+from:header+to]...)
	s.rewrite(p[:header], i, j)
	return p
}

func TestPiecesBecomeTheSameWirePackets(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		sh := genShape(t)
		b := sh.packet(rapid.Uint64().Draw(t, "seed"))
		s, err := parseSuper(b, len(b))
		if err != nil {
			t.Fatalf("%+v: %v", sh, err)
		}
		want := segmentReference(t, b)
		if s.segments != len(want) {
			t.Fatalf("%d segments, want %d", s.segments, len(want))
		}
		for i, w := range want {
			if s.segmentBytes(i) != len(w) {
				t.Fatalf("segment %d has %d bytes, want %d", i, s.segmentBytes(i), len(w))
			}
		}
		var got [][]byte
		for i := 0; i < s.segments; {
			j := rapid.IntRange(i+1, s.segments).Draw(t, "end of piece")
			got = append(got, segmentReference(t, piece(&s, b, i, j))...)
			i = j
		}
		if diff := cmp.Diff(want, got); diff != "" {
			t.Fatalf("%+v cut in pieces (-want +got):\n%s", sh, diff)
		}
	})
}

func TestParseRefusesWhatItDoesNotKnow(t *testing.T) {
	good := shape{tcp: true, tcpWords: 5, size: 1000, payload: 5000, flags: 0x10}.packet(1)
	for _, c := range []struct {
		name   string
		change func(b []byte) []byte
	}{
		{"too short", func(b []byte) []byte { return b[:vnetBytes+19] }},
		{"headers only", func(b []byte) []byte { return b[:vnetBytes+40] }},
		{"cut in the TCP header", func(b []byte) []byte { return b[:vnetBytes+30] }},
		{"no segment size", func(b []byte) []byte { b[4], b[5] = 0, 0; return b }},
		{"no partial checksum", func(b []byte) []byte { b[vnetFlags] = 0; return b }},
		{"transport header far away", func(b []byte) []byte { binary.NativeEndian.PutUint16(b[6:], 4000); return b }},
		{"transport header inside the IP header", func(b []byte) []byte { binary.NativeEndian.PutUint16(b[6:], 4); return b }},
		{"TCP header of 8 bytes", func(b []byte) []byte { b[vnetBytes+20+12] = 2 << 4; return b }},
		{"family and type differ", func(b []byte) []byte { b[vnetGSOType] = gsoTCPv6; return b }},
		{"unknown type", func(b []byte) []byte { b[vnetGSOType] = 3; return b }},
	} {
		b := c.change(slices.Clone(good))
		if s, err := parseSuper(b, len(b)); err == nil {
			t.Errorf("%s: read as %+v", c.name, s)
		}
	}
	if s, err := parseSuper(good, len(good)); err != nil || s.segments != 5 {
		t.Errorf("the unchanged packet: %+v, %v", s, err)
	}
	ecn := slices.Clone(good)
	ecn[vnetGSOType] |= gsoECN
	if s, err := parseSuper(ecn, len(ecn)); err != nil || s.segments != 5 {
		t.Errorf("with the ECN flag: %+v, %v", s, err)
	}
}

func FuzzParseSuper(f *testing.F) {
	for i, sh := range []shape{
		{tcp: true, tcpWords: 5, size: 100, payload: 450, flags: 0x18}, {tcp: true, ipv6: true, tcpWords: 8, size: 1440, payload: 9000, flags: 0x90},
		{size: 300, payload: 900}, {ipv6: true, options: 8, size: 1, payload: 7},
	} {
		f.Add(sh.packet(uint64(i)))
	}
	f.Fuzz(func(t *testing.T, b []byte) {
		s, err := parseSuper(b, len(b))
		if err != nil {
			return
		}
		total := 0
		for i := range s.segments {
			if n := s.segmentBytes(i); n < 20 || n > len(b)-vnetBytes {
				t.Fatalf("segment %d of %+v has %d bytes", i, s, n)
			}
			from, to := s.span(i, i+1)
			total += to - from
		}
		if s.segments > 1 {
			if total != s.payload {
				t.Fatalf("%+v: segments carry %d bytes", s, total)
			}
			for _, cut := range []int{1, s.segments / 2, s.segments - 1} {
				left, right := piece(&s, b, 0, cut), piece(&s, b, cut, s.segments)
				for _, p := range [][]byte{left, right} {
					if again, err := parseSuper(p, len(p)); err != nil {
						t.Fatalf("a piece of %+v is not understood: %+v, %v", s, again, err)
					}
				}
			}
		}
	})
}

func ExampleParse() {
	p, err := Parse(Pair{}, "both", "delay=50ms", "rate=20mbit", "a2b", "loss=0.1%")
	fmt.Println(p, err)
	fmt.Println(p.RTT(), p.QueueBytes(AtoB))
	// Output:
	// a2b delay=50ms rate=20mbit loss=0.1% b2a delay=50ms rate=20mbit <nil>
	// 100ms 250000
}
