package intercept

import (
	"net/netip"
	"testing"

	"pgregory.net/rapid"
)

func drawSegment(t *rapid.T) segment {
	addr := func(name string, n int) netip.Addr {
		a, _ := netip.AddrFromSlice(rapid.SliceOfN(rapid.Byte(), n, n).Draw(t, name))
		return a
	}
	n := rapid.SampledFrom([]int{4, 16}).Draw(t, "family")
	port := rapid.Uint16()
	return segment{
		from: netip.AddrPortFrom(addr("from", n), port.Draw(t, "source port")), to: netip.AddrPortFrom(addr("to", n), port.Draw(t, "port")),
		seq: rapid.Uint32().Draw(t, "seq"), ack: rapid.Uint32().Draw(t, "ack"), flags: rapid.Byte().Draw(t, "flags"),
	}
}

func TestSegmentRoundTrip(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		s := drawSegment(t)
		packet := s.append(nil)
		got, ok := parseSegment(packet)
		if !ok || got != s {
			t.Fatalf("got %+v, %v; want %+v", got, ok, s)
		}
		for n := range packet {
			if _, ok := parseSegment(packet[:n]); ok {
				t.Fatalf("parsed from %d of %d bytes", n, len(packet))
			}
		}
		// The checksums add up to zero with what they cover.
		if s.from.Addr().Is4() && fold(checksum(0, packet[:20])) != 0xffff {
			t.Fatal("IP checksum")
		}
		sum := checksum(checksum(0, s.from.Addr().AsSlice()), s.to.Addr().AsSlice())
		if fold(checksum(checksum(sum, []byte{0, 6, 0, 20}), packet[len(packet)-20:])) != 0xffff {
			t.Fatal("TCP checksum")
		}
	})
}

func FuzzParseSegment(f *testing.F) {
	f.Add([]byte{})
	f.Add(segment{from: netip.MustParseAddrPort("192.0.2.1:1"), to: netip.MustParseAddrPort("198.51.100.1:9"), flags: flagSYN}.append(nil))
	f.Add(segment{from: netip.MustParseAddrPort("[2001:db8::1]:1"), to: netip.MustParseAddrPort("[2001:db8::2]:9"), flags: flagRST}.append(nil))
	f.Add([]byte{0x4f, 0, 0, 60, 0, 0, 0, 0, 64, 6})
	f.Fuzz(func(t *testing.T, p []byte) {
		if s, ok := parseSegment(p); ok && (!s.from.Addr().IsValid() || s.from.Addr().Is4() != s.to.Addr().Is4()) {
			t.Errorf("%+v", s)
		}
	})
}
