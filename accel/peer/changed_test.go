package peer

import (
	"bytes"
	"errors"
	"net/netip"
	"testing"
)

// TestChangedInput cuts OPEN bodies and changes their bytes: each is read or refused with a known error.
func TestChangedInput(t *testing.T) {
	var bodies [][]byte
	for _, c := range openCases {
		b, err := appendOpen(nil, c)
		if err != nil {
			t.Fatal(err)
		}
		bodies = append(bodies, b)
	}
	bodies = append(bodies, appendAnswer(nil, netip.MustParseAddrPort("10.2.0.1:1")), appendAnswer(nil, netip.MustParseAddrPort("[fd00::1]:1")))
	try := func(b []byte) {
		if _, err := parseOpen(b); err != nil && !errors.Is(err, ErrOpenBody) {
			t.Errorf("open % x: %v", b, err)
		}
		if _, err := parseAnswer(b); err != nil && !errors.Is(err, ErrOpenBody) {
			t.Errorf("answer % x: %v", b, err)
		}
	}
	for _, body := range bodies {
		for n := range body {
			try(body[:n])
		}
		for i := range body {
			for _, v := range []byte{0, 1, 2, 3, 4, 6, 0x7f, 0x80, 0xff} {
				b := bytes.Clone(body)
				b[i] = v
				try(b)
			}
		}
		for _, more := range [][]byte{{0x80}, {2}, {2, 5, 1}, {3, 0}, {4, 0}, {6, 1, 1}, {8, 1, 1}} {
			try(append(bytes.Clone(body), more...))
		}
	}
	mapped := append([]byte{byte(Forward), 6}, netip.MustParseAddr("::ffff:10.0.0.1").AsSlice()...)
	try(append(mapped, 0, 80, 1, 'x'))
}
