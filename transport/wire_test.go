package transport

import (
	"bytes"
	"errors"
	"math"
	"net/netip"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"github.com/google/go-cmp/cmp/cmpopts"
	"pgregory.net/rapid"
)

func sampleHello() Hello {
	return Hello{
		MinVersion: 1, MaxVersion: 3, Features: FeatureStreamingLiterals,
		Instance: [16]byte{1, 2, 3}, PeerInstance: [16]byte{4, 5},
		Lane: 2, Lanes: 8, Role: RoleStandby, InitialCredit: 65536, Floors: 4096, Site: "ams",
		OwnSubnets:  []netip.Prefix{netip.MustParsePrefix("10.1.0.0/16"), netip.MustParsePrefix("fd00:1::/64")},
		PeerSubnets: []netip.Prefix{netip.MustParsePrefix("0.0.0.0/0")},
		OwnAddrs:    []netip.Addr{netip.MustParseAddr("10.1.0.1"), netip.MustParseAddr("fd00::1")},
		WallClock:   time.Unix(1700000000, 123), Software: "1.2.3",
	}
}

var compareHello = cmp.Options{
	cmpopts.EquateEmpty(), cmpopts.EquateComparable(netip.Prefix{}, netip.Addr{}),
}

func TestHelloRoundTrip(t *testing.T) {
	want := sampleHello()
	got, err := parseHello(appendHello(nil, &want))
	if err != nil {
		t.Fatal(err)
	}
	if d := cmp.Diff(want, got, compareHello); d != "" {
		t.Fatal(d)
	}
}

// TestHelloBytes pins the wire: these bytes are what docs/protocol.md says.
func TestHelloBytes(t *testing.T) {
	h := Hello{
		MinVersion: 1, MaxVersion: 1, Instance: [16]byte(bytes.Repeat([]byte{0xaa}, 16)),
		InitialCredit: 300, Floors: 2, Lane: 1, Lanes: 4, Role: RoleActive, Site: "a",
		OwnSubnets: []netip.Prefix{netip.MustParsePrefix("10.0.0.0/8")}, Software: "v",
	}
	want := "WPR1" +
		"\x01\x02\x01\x01" + "\x02\x01\x00" +
		"\x03\x10" + strings.Repeat("\xaa", 16) + "\x05\x10" + strings.Repeat("\x00", 16) +
		"\x07\x02\x01\x04" + "\x09\x01\x01" + "\x0b\x02\xac\x02" + "\x0d\x01\x02" + "\x04\x02\x01a" +
		"\x06\x06\x04\x08\x0a\x00\x00\x00" + "\x08\x00" + "\x0a\x00" + "\x0e\x02\x01v"
	if got := string(appendHello(nil, &h)); got != want {
		t.Fatalf("got  %q\nwant %q", got, want)
	}
}

func TestFrameHeaderRoundTrip(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		h := frameHeader{
			flow:   rapid.Uint64().Draw(t, "flow"),
			number: rapid.Uint64Range(0, maxOffset).Draw(t, "number"),
			offset: rapid.Uint64Range(0, maxOffset).Draw(t, "offset"),
			rawLen: rapid.IntRange(1, maxRawLength).Draw(t, "raw length"),
			fin:    rapid.Bool().Draw(t, "fin"),
		}
		if rapid.Bool().Draw(t, "ack") {
			h.ack, h.ackNext = true, rapid.Uint64().Draw(t, "next")
			h.ackCredit = rapid.Uint64Range(0, maxOffset).Draw(t, "credit")
		}
		if h.number == 0 {
			h.open, h.offset = true, 0
			h.openBody = rapid.SliceOfN(rapid.Byte(), 1, 100).Draw(t, "open body")
		}
		h.payloadLen = rapid.IntRange(1, MaxPayload(h.rawLen)).Draw(t, "payload")
		b := appendFrameHeader(nil, &h)
		if len(b) > maxFrameHeader+len(h.openBody) {
			t.Fatalf("header of %d bytes", len(b))
		}
		for n := range b {
			if _, _, err := parseFrameHeader(b[:n]); !errors.Is(err, errShort) {
				t.Fatalf("%d of %d bytes: %v", n, len(b), err)
			}
		}
		got, n, err := parseFrameHeader(append(b, 1, 2, 3))
		if err != nil || n != len(b) {
			t.Fatalf("parsed %d of %d bytes: %v", n, len(b), err)
		}
		if d := cmp.Diff(h, got, cmp.AllowUnexported(frameHeader{})); d != "" {
			t.Fatal(d)
		}
	})
}

func TestFrameHeaderBytes(t *testing.T) {
	h := frameHeader{fin: true, flow: 300, number: 2, offset: 1 << 20, rawLen: 5, payloadLen: 9}
	want := "\x10\x02\xac\x02\x02\x80\x80\x40\x05\x09"
	if got := string(appendFrameHeader(nil, &h)); got != want {
		t.Fatalf("got %q, want %q", got, want)
	}
	h = frameHeader{flow: 1, number: 2, offset: 3, rawLen: 5, ack: true, ackNext: 300, ackCredit: 6, payloadLen: 9}
	want = "\x10\x04\x01\x02\x03\x05\xac\x02\x06\x09"
	if got := string(appendFrameHeader(nil, &h)); got != want {
		t.Fatalf("got %q, want %q", got, want)
	}
	h = frameHeader{open: true, flow: 1, openBody: []byte("xy")}
	want = "\x10\x01\x01\x00\x00\x00\x02xy\x00"
	if got := string(appendFrameHeader(nil, &h)); got != want {
		t.Fatalf("got %q, want %q", got, want)
	}
}

func TestFrameHeaderRules(t *testing.T) {
	ok := frameHeader{flow: 1, number: 1, offset: 10, rawLen: 5, payloadLen: 9}
	cases := []struct {
		name   string
		change func(*frameHeader)
	}{
		{"first frame without OPEN", func(h *frameHeader) { h.number, h.offset = 0, 0 }},
		{"OPEN later", func(h *frameHeader) { h.open = true }},
		{"first frame with an offset", func(h *frameHeader) { h.open, h.number = true, 0 }},
		{"raw length", func(h *frameHeader) { h.rawLen = maxRawLength + 1 }},
		{"payload", func(h *frameHeader) { h.payloadLen = maxPayload + 1 }},
		{"payload beyond the raw length", func(h *frameHeader) { h.payloadLen = 5 + payloadSlack + 1 }},
		{"no payload", func(h *frameHeader) { h.payloadLen = 0 }},
		{"FIN without payload", func(h *frameHeader) { h.fin, h.rawLen, h.payloadLen = true, 0, 0 }},
		{"empty", func(h *frameHeader) { h.rawLen = 0 }},
		{"offset", func(h *frameHeader) { h.offset = maxOffset + 1 }},
		{"number", func(h *frameHeader) { h.number = math.MaxUint64 }},
		{"credit", func(h *frameHeader) { h.ack, h.ackCredit = true, maxOffset+1 }},
		{"open body", func(h *frameHeader) {
			*h = frameHeader{open: true, openBody: make([]byte, maxOpenBody+1)}
		}},
	}
	if _, _, err := parseFrameHeader(appendFrameHeader(nil, &ok)); err != nil {
		t.Fatal(err)
	}
	for _, tc := range cases {
		h := ok
		tc.change(&h)
		if _, _, err := parseFrameHeader(appendFrameHeader(nil, &h)); !errors.Is(err, ErrMalformed) {
			t.Errorf("%s: %v", tc.name, err)
		}
	}
}

func TestRecordReader(t *testing.T) {
	var b []byte
	b = appendToken(b, recPing, 1<<40)
	b = appendRecord(b, recAck, appendAck(nil, ackEntry{1, 2, 300}))
	b = appendMsg(b, 5, []byte{KindCodec, 9})
	b = appendGoAway(b, 1, "bye")
	b = appendInfo(b, infoReceiveRate, 1000)
	rr := newRecordReader(bytes.NewReader(b))
	next := func(want uint64) []byte {
		t.Helper()
		typ, body, err := rr.next()
		if err != nil || typ != want {
			t.Fatalf("record 0x%02x, %v; want 0x%02x", typ, err, want)
		}
		return body
	}
	if v, err := parseToken(next(recPing)); err != nil || v != 1<<40 {
		t.Fatal(v, err)
	}
	if err := parseAcks(next(recAck), func(e ackEntry) error {
		if e != (ackEntry{1, 2, 300}) {
			t.Fatal(e)
		}
		return nil
	}); err != nil {
		t.Fatal(err)
	}
	if seq, m, err := parseMsg(next(recMsg)); err != nil || seq != 5 || m[1] != 9 {
		t.Fatal(seq, m, err)
	}
	if code, reason, err := parseGoAway(next(recGoAway)); err != nil || code != 1 || reason != "bye" {
		t.Fatal(code, reason, err)
	}
	if k, v, err := parseInfo(next(recInfo)); err != nil || k != infoReceiveRate || v != 1000 {
		t.Fatal(k, v, err)
	}
}

func FuzzHello(f *testing.F) {
	h := sampleHello()
	f.Add(appendHello(nil, &h))
	f.Add([]byte("WPR1"))
	f.Add([]byte("WPR1\x06\xff\xff\xff\xff\xff\xff\xff\xff\xff\x01"))
	f.Fuzz(func(t *testing.T, b []byte) {
		h, err := parseHello(b)
		if err != nil {
			if !errors.Is(err, ErrMalformed) {
				t.Fatalf("error of no kind: %v", err)
			}
			return
		}
		again, err := parseHello(appendHello(nil, &h))
		if err != nil {
			t.Fatalf("own hello: %v", err)
		}
		if a, b := appendHello(nil, &h), appendHello(nil, &again); !bytes.Equal(a, b) {
			t.Fatalf("%q\n%q", a, b)
		}
	})
}

func FuzzFrameHeader(f *testing.F) {
	f.Add(appendFrameHeader(nil, &frameHeader{open: true, flow: 2, openBody: []byte("o")}))
	f.Add(appendFrameHeader(nil, &frameHeader{fin: true, flow: 2, number: 7, offset: 9, rawLen: 1, payloadLen: 2}))
	f.Add(appendFrameHeader(nil, &frameHeader{flow: 2, number: 7, offset: 9, rawLen: 1, ack: true, ackNext: 1, ackCredit: 1 << 20, payloadLen: 2}))
	f.Add([]byte{0x10, 3})
	f.Fuzz(func(t *testing.T, b []byte) {
		h, n, err := parseFrameHeader(b)
		switch {
		case err == nil:
			if n > len(b) || h.payloadLen > maxPayload || h.rawLen > maxRawLength || len(h.openBody) > maxOpenBody {
				t.Fatalf("%+v out of %d bytes", h, n)
			}
			again, _, err := parseFrameHeader(appendFrameHeader(nil, &h))
			if err != nil {
				t.Fatal(err)
			}
			if d := cmp.Diff(h, again, cmp.AllowUnexported(frameHeader{}), cmpopts.EquateEmpty()); d != "" {
				t.Fatal(d)
			}
		case errors.Is(err, errShort):
			if len(b) > maxFrameHeader+maxOpenBody {
				t.Fatalf("%d bytes are no header yet", len(b))
			}
		case !errors.Is(err, ErrMalformed):
			t.Fatalf("error of no kind: %v", err)
		}
	})
}

// FuzzRecords feeds a control stream to the parsers of every record.
func FuzzRecords(f *testing.F) {
	f.Add(appendToken(nil, recPing, 1))
	f.Add(appendRecord(nil, recAck, appendAck(nil, ackEntry{1, 2, 3})))
	f.Add(appendMsg(nil, 1, appendAbort(nil, 3, AbortReset)))
	f.Add(appendGoAway(appendInfo(nil, infoCreditFree, 1<<30), 0, "x"))
	f.Add([]byte{0x09, 0xff, 0xff, 0xff, 0xff, 0x0f})
	f.Fuzz(func(t *testing.T, b []byte) {
		rr := newRecordReader(bytes.NewReader(b))
		for {
			typ, body, err := rr.next()
			if err != nil {
				return
			}
			if len(body) > maxRecordBytes {
				t.Fatalf("body of %d bytes", len(body))
			}
			switch typ {
			case recPing, recPong:
				_, err = parseToken(body)
			case recAck:
				err = parseAcks(body, func(e ackEntry) error {
					if e.credit > maxOffset {
						t.Fatalf("credit %d", e.credit)
					}
					return nil
				})
			case recMsg:
				var m []byte
				if _, m, err = parseMsg(body); err == nil && m[0] == msgAbort {
					_, _, err = parseAbort(m[1:])
				}
			case recMsgAck:
				_, err = parseUv(body)
			case recGoAway:
				_, _, err = parseGoAway(body)
			case recInfo:
				_, _, err = parseInfo(body)
			case recHello:
				_, err = parseHello(body)
			}
			if err != nil && !errors.Is(err, ErrMalformed) {
				t.Fatalf("record 0x%02x: error of no kind: %v", typ, err)
			}
		}
	})
}

func TestSeenSet(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		var s seenSet
		model := make(map[uint64]bool)
		for _, n := range rapid.SliceOf(rapid.Uint64Range(0, 60)).Draw(t, "numbers") {
			if s.has(n) != model[n] {
				t.Fatalf("has(%d) = %v", n, s.has(n))
			}
			if !s.add(n) {
				t.Fatalf("no room for %d", n)
			}
			model[n] = true
		}
		for n := range uint64(62) {
			if s.has(n) != model[n] {
				t.Fatalf("has(%d) = %v", n, s.has(n))
			}
		}
		for i := 1; i < len(s.iv); i++ {
			if s.iv[i-1].hi+1 >= s.iv[i].lo {
				t.Fatalf("intervals %v", s.iv)
			}
		}
	})
}

func TestSeenSetIsBounded(t *testing.T) {
	var s seenSet
	for n := uint64(0); s.add(n); n += 2 {
		if n > 4*maxSeenGaps {
			t.Fatal("grows without end")
		}
	}
	if !s.add(1) || !s.has(1) {
		t.Fatal("a number that closes a gap is refused")
	}
	if !s.has(math.MaxUint64) && !s.add(3) {
		t.Fatal("a number that closes a gap is refused")
	}
}

func TestBuffers(t *testing.T) {
	var p buffers
	for _, n := range []int{1, 511, 512, 513, 65536, 262144, 262145, largestBuffer} {
		b := p.get(n)
		if len(b) != n || cap(b) > 2*max(n, 256) {
			t.Errorf("get(%d): length %d, capacity %d", n, len(b), cap(b))
		}
		p.put(b)
		if c := p.get(n); len(c) != n {
			t.Errorf("get(%d) again: length %d", n, len(c))
		}
	}
	p.put(make([]byte, 700)) // of other origin
	p.put(nil)
	if b := p.get(600); cap(b) != 1024 {
		t.Errorf("a slice of other origin was lent: capacity %d", cap(b))
	}
}
