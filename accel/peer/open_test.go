package peer

import (
	"bytes"
	"errors"
	"net/netip"
	"testing"

	"github.com/google/go-cmp/cmp"
	"github.com/google/go-cmp/cmp/cmpopts"
)

var openCases = []OpenRequest{
	{Kind: Intercepted, Client: netip.MustParseAddrPort("10.1.0.2:40000"), Target: netip.MustParseAddrPort("10.2.0.2:80")},
	{Kind: Intercepted, Client: netip.MustParseAddrPort("[fd00:1::2]:40000"), Target: netip.MustParseAddrPort("[fd00:2::2]:443"), Class: "bulk", Relay: true},
	{Kind: Intercepted, Client: netip.MustParseAddrPort("10.1.0.2:40001"), Target: netip.MustParseAddrPort("10.2.0.2:80"), NoHistory: true},
	{Kind: Intercepted, Client: netip.MustParseAddrPort("10.1.0.2:40001"), Target: netip.MustParseAddrPort("10.2.0.2:80"), Class: "tenant", Scope: 0xfedcba98},
	{Kind: Forward, Client: netip.MustParseAddrPort("127.0.0.1:5"), TargetName: "db.example.net:5432"},
	{Kind: echo},
	{Kind: Warm},
}

var compareAddrs = cmpopts.EquateComparable(netip.AddrPort{})

func TestOpenRoundTrip(t *testing.T) {
	for _, want := range openCases {
		b, err := appendOpen(nil, want)
		if err != nil {
			t.Fatal(err)
		}
		got, err := parseOpen(b)
		if err != nil {
			t.Fatalf("%x: %v", b, err)
		}
		if d := cmp.Diff(want, got, compareAddrs); d != "" {
			t.Error(d)
		}
		if len(b) > 1 {
			if _, err := parseOpen(b[:len(b)/2]); !errors.Is(err, ErrOpenBody) {
				t.Errorf("half a body: %v", err)
			}
		}
	}
}

// The bytes of protocol C1 and C2, so that they do not drift.
func TestOpenGolden(t *testing.T) {
	b, err := appendOpen(nil, openCases[0])
	if err != nil {
		t.Fatal(err)
	}
	want := []byte{1, 4, 10, 1, 0, 2, 0x9c, 0x40, 4, 10, 2, 0, 2, 0, 80}
	if !bytes.Equal(b, want) {
		t.Errorf("got % x, want % x", b, want)
	}
	answer := appendAnswer(nil, netip.MustParseAddrPort("10.2.0.1:1000"))
	if want := []byte{0, 4, 10, 2, 0, 1, 0x03, 0xe8}; !bytes.Equal(answer, want) {
		t.Errorf("got % x, want % x", answer, want)
	}
	if got, err := parseAnswer(answer); err != nil || got.Port() != 1000 {
		t.Errorf("got %v, %v", got, err)
	}
}

func TestOpenRefusesOddFields(t *testing.T) {
	b, _ := appendOpen(nil, OpenRequest{Kind: echo})
	if _, err := parseOpen(append(b, 12, 1, 0)); err != nil {
		t.Errorf("an unknown even field must be skipped: %v", err)
	}
	if _, err := parseOpen(append(b, 9, 1, 0)); !errors.Is(err, ErrOpenBody) {
		t.Errorf("an unknown odd field must be refused: %v", err)
	}
}

// A peer that does not know that a flow is to be kept out of the history finds one that is to be passed on as it is.
func TestNoHistoryIsRelayForOldPeers(t *testing.T) {
	with, err := appendOpen(nil, OpenRequest{Kind: echo, NoHistory: true})
	if err != nil {
		t.Fatal(err)
	}
	relay, err := appendOpen(nil, OpenRequest{Kind: echo, Relay: true})
	if err != nil {
		t.Fatal(err)
	}
	if rest, ok := bytes.CutPrefix(with, relay); !ok || !bytes.Equal(rest, []byte{keyNoHistory, 1, 1}) || keyNoHistory%2 != 0 {
		t.Errorf("% x does not begin with % x and one field that may be ignored", with, relay)
	}
}

func FuzzOpen(f *testing.F) {
	for _, c := range openCases {
		b, err := appendOpen(nil, c)
		if err != nil {
			f.Fatal(err)
		}
		f.Add(b)
	}
	f.Fuzz(func(t *testing.T, b []byte) {
		r, err := parseOpen(b)
		if err != nil {
			return
		}
		again, err := appendOpen(nil, r)
		if err != nil {
			t.Fatalf("parsed but not written: %+v: %v", r, err)
		}
		back, err := parseOpen(again)
		if err != nil {
			t.Fatal(err)
		}
		if d := cmp.Diff(r, back, compareAddrs); d != "" {
			t.Error(d)
		}
	})
}

func FuzzAnswer(f *testing.F) {
	f.Add(appendAnswer(nil, netip.MustParseAddrPort("[fd00::1]:1")))
	f.Fuzz(func(t *testing.T, b []byte) {
		local, err := parseAnswer(b)
		if err == nil && !bytes.HasPrefix(b, appendAnswer(nil, local)) {
			t.Errorf("%x read as %v", b, local)
		}
	})
}
