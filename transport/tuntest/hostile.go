package tuntest

import (
	"bytes"
	"context"
	"encoding/binary"
	"errors"
	"io"
	"strings"
	"testing"
	"time"

	"wanpair/transport"
)

// wait polls for what no channel tells. It gives up with the test's own
// deadline, not with one of its own.
func wait(ok func() bool) {
	tick := time.NewTicker(time.Millisecond)
	defer tick.Stop()
	for !ok() {
		<-tick.C
	}
}

// wire is the bytes of docs/protocol.md, written down a second time so that
// the suite does not use the code it checks.
type wire []byte

func (w wire) uv(v uint64) wire  { return binary.AppendUvarint(w, v) }
func (w wire) u8(v ...byte) wire { return append(w, v...) }
func (w wire) raw(b []byte) wire { return append(w, b...) }
func (w wire) field(key uint64, value wire) wire {
	return w.uv(key).uv(uint64(len(value))).raw(value)
}

func record(typ uint64, body []byte) wire {
	return wire{}.uv(typ).uv(uint64(len(body))).raw(body)
}

// hello is a valid HELLO of a hand-driven end. Its instance is smaller than any
// drawn at random, so the hand's flow numbers are even.
func hello(instance byte, change func(map[uint64]wire)) []byte {
	fields := map[uint64]wire{
		1:  wire{}.uv(1).uv(1),
		3:  append(make(wire, 15), instance), // smaller than any random one: its flows are even
		5:  make(wire, 16),
		7:  wire{}.uv(0).uv(1),
		9:  wire{}.u8(0),
		11: wire{}.uv(64 << 10),
		13: wire{}.uv(100),
	}
	if change != nil {
		change(fields)
	}
	body := wire("WPR1")
	for key := range uint64(64) {
		if v, ok := fields[key]; ok {
			body = body.field(key, v)
		}
	}
	return record(1, body)
}

// frame is a frame stream's bytes; payload is raw bytes with one byte in front,
// as everywhere in the suite.
type frame struct {
	kind, flags          byte
	flow, number, offset uint64
	rawLen               int
	ack                  wire // next and credit, with flag 4
	open                 []byte
	payload              []byte
	payloadLen           int
}

func (f frame) bytes() []byte {
	kind := f.kind
	if kind == 0 {
		kind = 0x10
	}
	w := wire{}.u8(kind, f.flags).uv(f.flow).uv(f.number).uv(f.offset).uv(uint64(f.rawLen))
	w = w.raw(f.ack)
	if f.flags&1 != 0 {
		w = w.uv(uint64(len(f.open))).raw(f.open)
	}
	n := f.payloadLen
	if n == 0 {
		n = len(f.payload)
	}
	return w.uv(uint64(n)).raw(f.payload)
}

// data is frame number n of flow with raw length one.
func data(flow, n uint64) frame {
	return frame{flow: flow, number: n, offset: n - 1, rawLen: 1, payload: []byte{prefix, byte(n)}}
}

// byHand is a link whose only lane has a hand at its other end.
type byHand struct {
	*End
	s    *transport.Session
	lane transport.Lane
	done chan struct{}
	err  error
}

// newByHand starts a link named b with one lane and the hello exchanged.
func newByHand(t *testing.T, c Connect, change func(*transport.LinkConfig)) *byHand {
	t.Helper()
	return newByHandWith(t, c, hello(7, nil), change)
}

func newByHandWith(t *testing.T, c Connect, hello []byte, change func(*transport.LinkConfig)) *byHand {
	t.Helper()
	cfg := Config("b")
	if change != nil {
		change(&cfg)
	}
	h := &byHand{End: NewEnd(t, cfg), done: make(chan struct{})}
	h.dial(t, c)
	h.write(t, hello)
	h.s = h.Session()
	readRecord(t, h.lane.Control())
	go drain(h.lane)
	return h
}

// again is a further lane of the same link, with its own hand.
func (h *byHand) again(t *testing.T, c Connect, hello []byte) *byHand {
	t.Helper()
	n := &byHand{End: h.End, done: make(chan struct{})}
	n.dial(t, c)
	n.write(t, hello)
	return n
}

func (h *byHand) dial(t *testing.T, c Connect) {
	a, b := c(t)
	h.lane = a
	h.serve(b, &h.err, h.done)
	t.Cleanup(func() { a.Close(transport.LaneNone, "") })
}

// drain reads and drops what the link says.
func drain(lane transport.Lane) { _, _ = io.Copy(io.Discard, lane.Control()) }

func (h *byHand) write(t *testing.T, b []byte) {
	t.Helper()
	if _, err := h.lane.Control().Write(b); err != nil {
		t.Fatal(err)
	}
}

// readRecord reads one record byte by byte.
func readRecord(t *testing.T, r io.Reader) (typ uint64, body []byte) {
	t.Helper()
	br := byteReader{r}
	typ, err := binary.ReadUvarint(br)
	if err != nil {
		t.Fatal(err)
	}
	n, err := binary.ReadUvarint(br)
	if err != nil {
		t.Fatal(err)
	}
	body = make([]byte, n)
	if _, err := io.ReadFull(r, body); err != nil {
		t.Fatal(err)
	}
	return typ, body
}

type byteReader struct{ io.Reader }

func (r byteReader) ReadByte() (byte, error) {
	var b [1]byte
	_, err := io.ReadFull(r, b[:])
	return b[0], err
}

// send sends the bytes of one frame stream.
func (h *byHand) send(t *testing.T, b []byte) {
	t.Helper()
	w, err := h.lane.OpenFrame(context.Background())
	if err != nil {
		t.Fatal(err)
	}
	if _, err := w.Write(b); err != nil && !errors.Is(err, transport.ErrFrameRefused) {
		t.Fatal(err)
	}
	_ = w.Close()
}

func (h *byHand) open(t *testing.T, flow uint64) *transport.Flow {
	t.Helper()
	h.send(t, frame{flags: 1, flow: flow, open: []byte("o")}.bytes())
	f, err := h.s.Accept(context.Background())
	if err != nil {
		t.Fatalf("accept: %v; session: %v", err, h.s.Err())
	}
	return f
}

func earlyFrames(t *testing.T, c Connect) {
	h := newByHand(t, c, nil)
	fin := data(2, 3)
	fin.flags = 2
	for _, f := range []frame{data(2, 2), fin, data(2, 1)} {
		h.send(t, f.bytes())
	}
	f := h.open(t, 2)
	for n := range uint64(3) {
		fr, err := f.Receive()
		if err != nil {
			t.Fatal(err)
		}
		if fr.Number != n+1 || fr.Payload[1] != byte(n+1) || fr.Fin != (n == 2) {
			t.Fatalf("frame %d: %+v", n+1, fr)
		}
	}
}

func duplicates(t *testing.T, c Connect) {
	h := newByHand(t, c, nil)
	f := h.open(t, 2)
	for _, n := range []uint64{1, 1, 3, 3, 2, 1, 4} {
		h.send(t, data(2, n).bytes())
	}
	for n := range uint64(4) {
		fr, err := f.Receive()
		if err != nil {
			t.Fatal(err)
		}
		if fr.Number != n+1 {
			t.Fatalf("frame %d, want %d", fr.Number, n+1)
		}
	}
	h.send(t, frame{flags: 1, flow: 2, open: []byte("o")}.bytes())
	wait(func() bool { return h.Link.Stats().Duplicates == 4 })
	if n := h.Link.Stats().FrameErrors; n != 0 {
		t.Fatalf("%d frames counted as errors", n)
	}
	// Frames of a flow that has ended fall without a word.
	f.Abort(transport.AbortReset)
	h.send(t, data(2, 5).bytes())
	h.send(t, data(2, 1<<40).bytes())
	g := h.open(t, 4)
	if h.Link.Stats().FrameErrors != 0 || g.Err() != nil {
		t.Fatal("a frame of a flow that has ended was counted as an error")
	}
}

// frameAcks: a frame that goes out takes along what its flow has to acknowledge, if the other side knows of that, and what a frame brought
// along counts.
func frameAcks(t *testing.T, c Connect) {
	for _, knows := range []bool{true, false} {
		h := newByHandWith(t, c, hello(7, func(m map[uint64]wire) {
			if knows {
				m[2] = wire{}.uv(1 << 3)
			}
		}), nil)
		f := h.open(t, 2)
		if err := f.Answer([]byte("a")); err != nil {
			t.Fatal(err)
		}
		acked := make(chan uint64, 1000)
		f.SetOnAcked(func(next uint64) { acked <- next })
		seen := 0
		for n := uint64(1); n <= 200 && (!knows || seen == 0); n++ {
			d := data(2, n)
			d.flags, d.ack = 4, wire{}.uv(n).uv(1000)
			h.send(t, d.bytes())
			fr, err := f.Receive()
			if err != nil {
				t.Fatal(err)
			}
			if got := <-acked; got != n {
				t.Fatalf("acknowledged below %d, want %d", got, n)
			}
			f.Acknowledge(fr.Number)
			number, err := f.Send([]byte{prefix, 1}, 1, false)
			if err != nil || number != n {
				t.Fatalf("sent frame %d: %v", number, err)
			}
			for got := uint64(0); got != n; { // the answer comes first
				r, err := h.lane.AcceptFrame(t.Context())
				if err != nil {
					t.Fatal(err)
				}
				b, err := io.ReadAll(r)
				if err != nil || len(b) < 8 {
					t.Fatalf("frame %q: %v", b, err)
				}
				got, _ = binary.Uvarint(b[3:])
				if b[1]&4 != 0 {
					seen++
				}
			}
		}
		if knows != (seen > 0) {
			t.Fatalf("other side knows of acknowledgements in frames: %v, but %d came", knows, seen)
		}
		h.Stop()
	}
}

func hostileFrames(t *testing.T, c Connect) {
	far := data(2, 1)
	far.number = 6000
	beyond := data(2, 1)
	beyond.offset = 1 << 40
	gap := data(2, 1)
	gap.offset = 5
	long := data(2, 1)
	long.payload = make([]byte, 2+4097)
	huge := data(2, 1)
	huge.payloadLen = 1 << 40
	short := data(2, 1)
	short.payloadLen = 3
	extra := data(2, 1)
	extra.payloadLen = 1
	open := data(2, 1)
	open.flags = 1
	empty := data(2, 1)
	empty.rawLen = 0
	flags := data(2, 1)
	flags.flags = 0x80
	acks := data(2, 1)
	acks.flags, acks.ack = 4, wire{}.uv(1).uv(0)
	rawHuge := data(2, 1)
	rawHuge.rawLen = 1 << 30
	cases := []struct {
		name  string
		frame []byte
		lane  bool // the lane ends, not only the flow
		only  bool // only the stream is reset
	}{
		{"too far ahead", far.bytes(), false, false},
		{"beyond the credit", beyond.bytes(), false, false},
		{"gap in the offsets", gap.bytes(), false, false},
		{"acknowledges a frame never sent", acks.bytes(), false, false},
		{"ends inside the payload", short.bytes(), false, false},
		{"bytes behind the payload", extra.bytes(), false, false},
		{"payload longer than the raw length allows", long.bytes(), true, false},
		{"impossible payload length", huge.bytes(), true, false},
		{"impossible raw length", rawHuge.bytes(), true, false},
		{"OPEN in a later frame", open.bytes(), true, false},
		{"empty", empty.bytes(), true, false},
		{"unknown flags", flags.bytes(), true, false},
		{"unknown kind", frame{kind: 0x11}.bytes(), false, true},
		{"no bytes", nil, true, false},
		{"ends inside the header", []byte{0x10, 0, 2}, true, false},
		{"number above 64 bits", wire{0x10, 0}.raw(bytes.Repeat([]byte{0xff}, 12)), true, false},
		{"flow this side never opened", data(3, 1).bytes(), true, false},
	}
	for _, tc := range cases {
		h := newByHand(t, c, nil)
		f := h.open(t, 2)
		h.send(t, tc.frame)
		switch {
		case tc.lane:
			<-h.done
			var le *transport.LaneError
			if !errors.As(h.err, &le) || le.Code != transport.LaneProtocol || le.Remote {
				t.Fatalf("%s: lane ended with %v", tc.name, h.err)
			}
			if f.Err() != nil {
				t.Fatalf("%s: the flow ended with %v", tc.name, f.Err())
			}
		case tc.only:
			wait(func() bool { return h.Link.Stats().FrameErrors == 1 })
			h.open(t, 4)
		default:
			<-f.Done()
			var ae *transport.AbortError
			if !errors.As(f.Err(), &ae) || ae.Code != transport.AbortFrame || ae.Remote {
				t.Fatalf("%s: flow ended with %v", tc.name, f.Err())
			}
			wait(func() bool { return h.Link.Stats().FrameErrors == 1 })
			h.open(t, 4) // the lane goes on
		}
		h.Stop()
	}
}

func hostileRecords(t *testing.T, c Connect) {
	cases := []struct {
		name    string
		record  []byte
		session bool // the session cannot go on
	}{
		{"too long", wire{}.uv(7).uv(1 << 20), false},
		{"type above 64 bits", bytes.Repeat([]byte{0xff}, 12), false},
		{"unknown odd type", record(0x77, nil), false},
		{"second hello", hello(7, nil), false},
		{"short PING", record(3, []byte{1}), false},
		{"PONG of a ping never sent", record(5, make([]byte, 7)), false},
		{"PONG from the future", record(5, []byte{0, 0, 0, 0, 0, 0, 1, 0}), false},
		{"empty ACK", record(7, nil), true},
		{"half an ACK", record(7, []byte{1, 2}), true},
		{"MSG without a kind", record(9, []byte{0}), true},
		{"MSG of an unknown kind", record(9, []byte{0, 99}), true},
		{"MSG too far ahead", record(9, wire{}.uv(1<<20).u8(2)), true},
		{"ABORT cut short", record(9, []byte{0, 1, 2}), true},
		{"ABORT of a flow never opened", record(9, []byte{0, 1, 99, 1}), true},
		{"MSGACK of a message never sent", record(11, wire{}.uv(1000)), true},
		{"GOAWAY cut short", record(13, nil), false},
		{"empty INFO", record(14, nil), false},
	}
	for _, tc := range cases {
		h := newByHand(t, c, nil)
		f := h.open(t, 2)
		h.write(t, tc.record)
		<-h.done
		var le *transport.LaneError
		if !errors.As(h.err, &le) || le.Code != transport.LaneProtocol || le.Remote || le.Reason == "" {
			t.Fatalf("%s: lane ended with %v", tc.name, h.err)
		}
		if tc.session {
			<-h.s.Done()
			<-f.Done()
		} else if h.s.Err() != nil || f.Err() != nil {
			t.Fatalf("%s: session ended with %v, flow with %v", tc.name, h.s.Err(), f.Err())
		}
		h.Stop()
	}
	// What a later version may send is skipped.
	h := newByHand(t, c, nil)
	h.write(t, record(0x40, make([]byte, 65536)))
	h.write(t, record(14, []byte{200, 1, 5}))
	h.open(t, 2)
}

func hostileHellos(t *testing.T, c Connect) {
	with := func(key uint64, v wire) []byte {
		return hello(7, func(f map[uint64]wire) { f[key] = v })
	}
	cases := []struct {
		name  string
		hello []byte
		code  transport.LaneCode
		text  string
	}{
		{"garbage", bytes.Repeat([]byte("GET / HTTP/1.1\r\n"), 10), transport.LaneProtocol, ""},
		{"another record first", record(3, make([]byte, 8)), transport.LaneProtocol, "before the hello"},
		{"wrong magic", record(1, []byte("WPR2")), transport.LaneProtocol, "magic"},
		{"magic alone", record(1, []byte("WPR1")), transport.LaneProtocol, "version"},
		{"newer version", with(1, wire{}.uv(2).uv(3)), transport.LaneVersion, "version 1, the other 2 to 3"},
		{"versions the wrong way round", with(1, wire{}.uv(3).uv(1)), transport.LaneProtocol, "lowest"},
		{"unknown odd field", with(31, wire{1}), transport.LaneProtocol, "field 31"},
		{"zero instance", with(3, make(wire, 16)), transport.LaneProtocol, "instance"},
		{"short instance", with(3, make(wire, 15)), transport.LaneProtocol, "field 3"},
		{"long instance", with(3, make(wire, 17)), transport.LaneProtocol, "field 3"},
		{"unknown role", with(9, wire{9}), transport.LaneProtocol, "role"},
		{"too much credit", with(11, wire{}.uv(1<<30)), transport.LaneProtocol, "credit"},
		{"prefix too long", with(6, wire{4, 33, 1, 2, 3, 4}), transport.LaneProtocol, "prefix"},
		{"family unknown", with(6, wire{5, 8, 1, 2, 3, 4}), transport.LaneProtocol, "family"},
		{"too many prefixes", with(6, bytes.Repeat([]byte{4, 8, 1, 2, 3, 4}, 300)), transport.LaneProtocol, "too many"},
		{"site too long", with(4, wire{}.uv(2000).raw(make([]byte, 2000))), transport.LaneProtocol, "too long"},
	}
	for _, tc := range cases {
		h := &byHand{End: NewEnd(t, Config("b")), done: make(chan struct{})}
		h.dial(t, c)
		h.write(t, tc.hello)
		<-h.done
		var le *transport.LaneError
		if !errors.As(h.err, &le) || le.Code != tc.code || le.Remote || !strings.Contains(le.Reason, tc.text) {
			t.Fatalf("%s: lane ended with %v", tc.name, h.err)
		}
		// The other side is told the same.
		_, err := io.Copy(io.Discard, h.lane.Control())
		if !errors.As(err, &le) || le.Code != tc.code || !le.Remote || !strings.Contains(le.Reason, tc.text) {
			t.Fatalf("%s: the other side sees %v", tc.name, err)
		}
		if h.Link.Session() != nil {
			t.Fatalf("%s: a session began", tc.name)
		}
		h.Stop()
	}
	h := &byHand{End: NewEnd(t, Config("b")), done: make(chan struct{})}
	h.dial(t, c)
	h.write(t, with(30, wire{1, 2, 3})) // an even field of a later version
	h.Session()
}

// staleHello: a hello that was overtaken by a newer one must not end the
// session it does not know of.
func staleHello(t *testing.T, c Connect) {
	h := newByHand(t, c, nil)
	f := h.open(t, 2)
	refused := func(lane *byHand) {
		t.Helper()
		<-lane.done
		var le *transport.LaneError
		if !errors.As(lane.err, &le) || le.Code != transport.LaneRefused {
			t.Fatalf("lane ended with %v", lane.err)
		}
	}
	refused(h.again(t, c, hello(7, func(fields map[uint64]wire) { fields[5] = bytes.Repeat([]byte{9}, 16) })))
	if h.s.Err() != nil || f.Err() != nil {
		t.Fatal("a stale hello ended the session")
	}
	// The same instance without a session yet: it joins.
	h.again(t, c, hello(7, nil))
	wait(func() bool { return len(h.Link.Stats().Lanes) == 2 })
	// A new process, then a late hello of the old one.
	h.again(t, c, hello(8, nil))
	h.Session()
	<-f.Done()
	instance := h.Link.Instance()
	refused(h.again(t, c, hello(7, nil)))
	if h.Link.Session() == nil || h.Link.Instance() == instance {
		t.Fatal("the new session must live, under a new name to come")
	}
}
