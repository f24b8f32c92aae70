package intercept

import (
	"net/netip"
	"testing"

	"github.com/google/go-cmp/cmp"
	"pgregory.net/rapid"
)

func TestRanges(t *testing.T) {
	for _, tt := range []struct {
		v4   bool
		in   []netip.Prefix
		want []string
	}{
		{true, nil, nil},
		{true, prefixes("10.0.0.0/8", "fd00::/8", "10.1.0.0/16"), []string{"10.0.0.0/8"}},
		{false, prefixes("10.0.0.0/8", "fd00::/8", "fd00::1/128"), []string{"fd00::/8"}},
		{true, prefixes("10.0.1.0/24", "10.0.0.0/24"), []string{"10.0.0.0/23"}},
		{true, prefixes("10.0.1.0/24", "10.0.2.0/24"), []string{"10.0.1.0-10.0.2.255"}},
		{true, prefixes("10.0.0.9/24"), []string{"10.0.0.0/24"}},
		{true, prefixes("10.0.0.9/32"), []string{"10.0.0.9"}},
		{true, prefixes("0.0.0.0/0", "255.255.255.255/32"), []string{"0.0.0.0/0"}},
		{true, prefixes("0.0.0.0/1", "128.0.0.0/1"), []string{"0.0.0.0/0"}},
		{false, prefixes("::/0"), []string{"::/0"}},
	} {
		var got []string
		for _, r := range rangesOf(tt.v4, tt.in) {
			got = append(got, r.String())
		}
		if diff := cmp.Diff(tt.want, got); diff != "" {
			t.Errorf("%v: %s", tt.in, diff)
		}
	}
}

// The ranges hold exactly the addresses of the prefixes, in order, with gaps between them.
func TestRangesProperty(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		addr := rapid.Custom(func(t *rapid.T) netip.Addr {
			// Few different bytes, so that prefixes meet.
			return netip.AddrFrom4([4]byte(rapid.SliceOfN(rapid.SampledFrom([]byte{0, 1, 2, 127, 128, 254, 255}), 4, 4).Draw(t, "addr")))
		})
		var in []netip.Prefix
		for range rapid.IntRange(0, 12).Draw(t, "n") {
			in = append(in, netip.PrefixFrom(addr.Draw(t, "prefix"), rapid.IntRange(0, 32).Draw(t, "bits")))
		}
		ranges := rangesOf(true, in)
		for n, r := range ranges {
			if r.last.Less(r.first) || n > 0 && !ranges[n-1].last.Next().Less(r.first) {
				t.Fatalf("%v", ranges)
			}
		}
		for range 20 {
			a := addr.Draw(t, "a")
			want, got := false, false
			for _, p := range in {
				want = want || p.Contains(a)
			}
			for _, r := range ranges {
				got = got || r.first.Compare(a) <= 0 && a.Compare(r.last) <= 0
			}
			if got != want {
				t.Fatalf("%v in %v: got %v, want %v", a, ranges, got, want)
			}
		}
		// What the elements say, looked up as the kernel does, is the same.
		s := setContents{interval: true, elements: addrElements(ranges, 0)}
		for range 20 {
			a := addr.Draw(t, "a")
			want := false
			for _, p := range in {
				want = want || p.Contains(a)
			}
			if e, known := s.find(a.AsSlice()); !known || (e != nil) != want {
				t.Fatalf("%v in the elements of %v: got %v, want %v", a, ranges, e, want)
			}
		}
	})
}

func TestJoinPorts(t *testing.T) {
	got := joinPorts([]PortRange{{80, 80}, {1, 5}, {6, 7}, {4, 4}, {65535, 65535}, {79, 90}})
	if diff := cmp.Diff([]PortRange{{1, 7}, {79, 90}, {65535, 65535}}, got); diff != "" {
		t.Error(diff)
	}
}

func TestInterfaceNames(t *testing.T) {
	for name, want := range map[string]bool{
		"lan0": true, "br-office.10": true, "a": true, "abcdefghijklmno": true, "": false, ".": false, "..": false, "abcdefghijklmnop": false,
		"a/b": false, "a b": false, "a:1": false, "a*": false, `a"`: false, "ü": false, "a\x00": false,
	} {
		if got := validInterface(name); got != want {
			t.Errorf("%q: got %v, want %v", name, got, want)
		}
	}
}
