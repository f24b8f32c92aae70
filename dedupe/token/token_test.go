package token

import (
	"encoding/binary"
	"encoding/hex"
	"errors"
	"testing"

	"github.com/google/go-cmp/cmp"
	"github.com/google/go-cmp/cmp/cmpopts"
	"pgregory.net/rapid"
)

func TestGoldenTokens(t *testing.T) {
	var c Cursor
	var b []byte
	for _, x := range []Copy{
		{Literal: 3, Length: 300, Log: 0, Position: 1000},
		{Literal: 7, Length: 20, Log: 0, Position: 1307}, // on the same diagonal
		{Literal: 0, Length: 20, Log: 0, Position: 1300}, // back by 27
		{Literal: 1, Length: 5, Log: 1, Position: 1 << 40},
		{Literal: 0, Length: 5, Log: 0, Position: 1320},
	} {
		b = c.Append(b, x)
	}
	want := "03ac02941f" + "071400" + "00146a" + "0105fdffffffff7f" + "01" + "00050100"
	if got := hex.EncodeToString(b); got != want {
		t.Errorf("tokens\n got %s\nwant %s", got, want)
	}
}

func TestGoldenHeader(t *testing.T) {
	h := Header{
		End: true, Literals: Zstd, Again: AgainBitmap, RawBytes: 262144, Checksum: 0x0102030405060708,
		Stores: []Store{{Position: 262144, Length: 5}}, Copies: 2, TokenBytes: 6, TokenRawBytes: 6, LiteralRawBytes: 40, LiteralBytes: 30,
		TotalBytes: 262144, TotalHash: 0x1112131415161718,
	}
	want := "47" + "808010" + "0102030405060708" + "01" + "808010" + "05" + "02" + "06" + "28" + "1e" + "0000000000040000" + "1112131415161718"
	if got := hex.EncodeToString(AppendHeader(nil, &h)); got != want {
		t.Errorf("header\n got %s\nwant %s", got, want)
	}
}

// drawCopies draws a sequence of copies that fits in a frame.
func drawCopies(t *rapid.T) []Copy {
	return rapid.SliceOfN(rapid.Custom(func(t *rapid.T) Copy {
		return Copy{
			Literal: rapid.IntRange(0, 1000).Draw(t, "literal"), Length: rapid.IntRange(1, MaxRawBytes).Draw(t, "length"),
			Log: rapid.Uint8Range(0, 1).Draw(t, "log"), Position: rapid.Uint64Range(0, maxPosition).Draw(t, "position"),
		}
	}), 0, 40).Draw(t, "copies")
}

func TestCursorRoundTrip(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		var w, r Cursor
		for range rapid.IntRange(1, 4).Draw(t, "frames") {
			want := drawCopies(t)
			var b []byte
			for _, x := range want {
				b = w.Append(b, x)
			}
			var got []Copy
			for range want {
				x, rest, err := r.Next(b)
				if err != nil {
					t.Fatal(err)
				}
				b = rest
				got = append(got, x)
			}
			if diff := cmp.Diff(want, got, cmpopts.EquateEmpty()); diff != "" || len(b) != 0 {
				t.Fatalf("%d bytes left (-want +got):\n%s", len(b), diff)
			}
			n := rapid.IntRange(0, 500).Draw(t, "trail")
			w.Trail(n)
			r.Trail(n)
			if w.Expected() != r.Expected() || w.Log() != r.Log() {
				t.Fatal("the two ends expect different positions")
			}
		}
	})
}

func TestTrailIsPartOfTheDiagonal(t *testing.T) {
	var c Cursor
	c.Append(nil, Copy{Literal: 0, Length: 10, Position: 100})
	c.Trail(7)
	if b := c.Append(nil, Copy{Literal: 2, Length: 3, Position: 119}); b[2] != 0 {
		t.Errorf("a copy on the diagonal behind trailing literals costs %x", b)
	}
}

// frame is a valid payload for a header.
func frame(h Header, tokens, bitmap, lits []byte) []byte {
	b := AppendHeader(nil, &h)
	b = append(b, tokens...)
	b = append(b, bitmap...)
	return append(b, lits...)
}

func TestParseHeader(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		lits := rapid.SliceOfN(rapid.Byte(), 0, 50).Draw(t, "lits")
		h := Header{
			End: rapid.Bool().Draw(t, "end"), TokensZstd: rapid.Bool().Draw(t, "tz"), ContextCloses: rapid.Bool().Draw(t, "closes"),
			Literals: LiteralMode(rapid.IntRange(0, 3).Draw(t, "mode")), Again: Again(rapid.IntRange(0, 2).Draw(t, "again")),
			RawBytes: rapid.IntRange(1000, MaxRawBytes).Draw(t, "raw"), Checksum: rapid.Uint64().Draw(t, "sum"),
			Copies: rapid.IntRange(0, 9).Draw(t, "copies"), LiteralRawBytes: len(lits), LiteralBytes: len(lits),
		}
		for range rapid.IntRange(0, MaxStores).Draw(t, "stores") {
			n := rapid.IntRange(1, 100).Draw(t, "n")
			h.Stores = append(h.Stores, Store{rapid.Uint64Range(0, maxPosition>>BlockShift-1).Draw(t, "block")<<BlockShift + uint64(rapid.IntRange(0, BlockBytes-n).Draw(t, "at")), n})
		}
		tokens := make([]byte, 3*h.Copies)
		h.TokenBytes, h.TokenRawBytes = len(tokens), len(tokens)
		if h.End {
			h.TotalBytes, h.TotalHash = rapid.Uint64().Draw(t, "total"), rapid.Uint64().Draw(t, "hash")
		}
		bitmap := make([]byte, h.BitmapBytes())
		var f Frame
		if err := f.Parse(frame(h, tokens, bitmap, lits)); err != nil {
			t.Fatal(err)
		}
		if diff := cmp.Diff(h, f.Header, cmpopts.EquateEmpty()); diff != "" {
			t.Fatalf("header (-want +got):\n%s", diff)
		}
		if string(f.Literal) != string(lits) || len(f.Tokens) != len(tokens) || len(f.Bitmap) != len(bitmap) {
			t.Fatal("parts cut in the wrong places")
		}
	})
}

func TestParseRefuses(t *testing.T) {
	ok := Header{RawBytes: 100, Copies: 1, TokenBytes: 3, TokenRawBytes: 3, LiteralRawBytes: 90, LiteralBytes: 90}
	lits, tokens := make([]byte, 90), make([]byte, 3)
	with := func(f func(*Header)) []byte {
		h := ok
		f(&h)
		return frame(h, tokens, nil, lits)
	}
	var f Frame
	if err := f.Parse(frame(ok, tokens, nil, lits)); err != nil {
		t.Fatal(err)
	}
	for name, b := range map[string][]byte{
		"empty":                  {},
		"one byte behind":        append(frame(ok, tokens, nil, lits), 0),
		"one byte short":         frame(ok, tokens, nil, lits)[:len(frame(ok, tokens, nil, lits))-1],
		"raw too long":           with(func(h *Header) { h.RawBytes = MaxRawBytes + 1 }),
		"more copies than raw":   with(func(h *Header) { h.Copies = 27 }),
		"copies without tokens":  with(func(h *Header) { h.Copies = 2 }),
		"literals above raw":     with(func(h *Header) { h.LiteralRawBytes = 101 }),
		"raw literals differ":    with(func(h *Header) { h.LiteralRawBytes = 80 }),
		"again 3":                with(func(h *Header) { h.Again = 3 }),
		"store beyond its block": with(func(h *Header) { h.Stores = []Store{{BlockBytes - 1, 2}} }),
		"stores above raw":       with(func(h *Header) { h.Stores = []Store{{0, 101}} }),
		"empty store":            with(func(h *Header) { h.Stores = []Store{{0, 0}} }),
		"token bomb":             with(func(h *Header) { h.TokensZstd, h.TokenRawBytes = true, MaxTokenRawBytes+1 }),
	} {
		if err := f.Parse(b); !errors.Is(err, ErrGrammar) {
			t.Errorf("%s: %v", name, err)
		}
	}
}

func TestMessages(t *testing.T) {
	for _, m := range []Message{
		{Kind: KindLog, Which: 1, ID: LogID{1, 2, 3}, Writer: 77, Tail: 1 << 18, Head: 1 << 40},
		{Kind: KindHeld, Ranges: []Range{{1, 2}, {100, 1 << 30}}, Shorts: []Short{{7, 100}}},
		{Kind: KindReady},
		{Kind: KindSeal, Block: 9, Length: 262144},
		{Kind: KindRetract, Ranges: []Range{{5, 1}}},
		{Kind: KindTail, Tail: 1 << 33},
		{Kind: KindTailAck, Tail: 0},
		{Kind: KindContexts, Contexts: 32},
		{Kind: KindNeed, Flow: 1 << 40, Frame: 7, Parts: []Part{{0, 1}, {1, 5}, {100, MaxRawBytes - 100}}},
		{Kind: KindBytes, Flow: 9, Frame: 1 << 33, Offset: MaxRawBytes - 3, Data: []byte("abc")},
	} {
		got, err := ParseMessage(m.Append(nil))
		if err != nil {
			t.Errorf("kind %d: %v", m.Kind, err)
			continue
		}
		if diff := cmp.Diff(m, got, cmpopts.EquateEmpty()); diff != "" {
			t.Errorf("kind %d (-want +got):\n%s", m.Kind, diff)
		}
	}
	full := Message{Kind: KindHeld}
	for i := range uint64(MaxRanges) {
		full.Shorts = append(full.Shorts, Short{1<<43 + i, BlockBytes - 1})
	}
	if n := len(full.Append(nil)); n > MaxMessageBytes {
		t.Errorf("a full HELD has %d bytes", n)
	}
}

func TestMessagesRefused(t *testing.T) {
	log := (&Message{Kind: KindLog, Tail: 5, Head: 4}).Append(nil)
	many := binary.AppendUvarint([]byte{byte(KindRetract)}, MaxRanges)
	for name, b := range map[string][]byte{
		"empty": {}, "unknown": {99}, "need": {byte(KindNeed)}, "empty part": {byte(KindNeed), 1, 1, 1, 5, 0},
		"parts overlap": {byte(KindNeed), 1, 1, 2, 0, 5, 4, 5}, "bytes beyond a frame": append((&Message{Kind: KindBytes, Offset: MaxRawBytes}).Append(nil), 1),
		"more than a message's bytes": (&Message{Kind: KindBytes, Data: make([]byte, MaxDataBytes+1)}).Append(nil), "new log": {byte(KindNewLog)}, "tail above head": log, "counts more than it has": many,
		"ready with a body": {byte(KindReady), 1}, "which 2": {byte(KindHeld), 2, 0, 0}, "cut": {byte(KindSeal), 1},
	} {
		if _, err := ParseMessage(b); !errors.Is(err, ErrGrammar) {
			t.Errorf("%s: %v", name, err)
		}
	}
}

func FuzzFrame(f *testing.F) {
	h := Header{RawBytes: 100, Copies: 1, TokenBytes: 3, TokenRawBytes: 3, LiteralRawBytes: 90, LiteralBytes: 90, Again: AgainBitmap, Stores: []Store{{5, 90}}}
	f.Add(frame(h, []byte{1, 10, 0}, []byte{1}, make([]byte, 90)))
	f.Add(frame(Header{End: true}, nil, nil, nil))
	f.Add([]byte{0xff, 0x80, 0x80, 0x10})
	f.Fuzz(func(t *testing.T, b []byte) {
		var fr Frame
		if fr.Parse(b) != nil {
			return
		}
		if fr.RawBytes > MaxRawBytes || fr.LiteralRawBytes > fr.RawBytes || len(fr.Stores) > MaxStores || fr.TokenRawBytes > MaxTokenRawBytes && fr.TokensZstd {
			t.Fatalf("accepted %+v", fr.Header)
		}
		again := AppendHeader(nil, &fr.Header)
		again = append(append(append(again, fr.Tokens...), fr.Bitmap...), fr.Literal...)
		var second Frame
		if err := second.Parse(again); err != nil {
			t.Fatalf("what was written again is refused: %v", err)
		}
		if diff := cmp.Diff(fr.Header, second.Header, cmpopts.EquateEmpty()); diff != "" {
			t.Fatal(diff)
		}
	})
}

func FuzzTokens(f *testing.F) {
	var c Cursor
	f.Add(c.Append(c.Append(nil, Copy{1, 40, 0, 1 << 20}), Copy{0, 30, 1, 77}))
	f.Add([]byte{0x80, 0x80, 0x80, 0x80, 0x80, 0x80, 0x80, 0x80, 0x80, 0x80, 1})
	f.Fuzz(func(t *testing.T, b []byte) {
		var r, w Cursor
		var out []byte
		for len(b) > 0 {
			x, rest, err := r.Next(b)
			if err != nil {
				if !errors.Is(err, ErrGrammar) {
					t.Fatal(err)
				}
				return
			}
			if x.Literal > MaxRawBytes || x.Length > MaxRawBytes || x.Length < 1 || x.Log > 1 {
				t.Fatalf("accepted %+v", x)
			}
			out = w.Append(out[:0], x)
			b = rest
		}
		if r.Expected() != w.Expected() || r.Log() != w.Log() {
			t.Fatal("reading and writing the same tokens end in different states")
		}
	})
}

func FuzzMessage(f *testing.F) {
	for _, m := range []Message{
		{Kind: KindLog, Head: 1 << 30}, {Kind: KindHeld, Ranges: []Range{{1, 2}}, Shorts: []Short{{3, 4}}}, {Kind: KindReady},
		{Kind: KindSeal, Block: 3, Length: 5}, {Kind: KindRetract, Ranges: []Range{{1, 2}}}, {Kind: KindTail, Tail: 9}, {Kind: KindContexts, Contexts: 3}, {Kind: KindNeed, Flow: 3, Frame: 2, Parts: []Part{{5, 6}}}, {Kind: KindBytes, Flow: 1, Frame: 1, Data: []byte("x")},
	} {
		f.Add(m.Append(nil))
	}
	f.Fuzz(func(t *testing.T, b []byte) {
		m, err := ParseMessage(b)
		if err != nil {
			return
		}
		second, err := ParseMessage(m.Append(nil))
		if err != nil {
			t.Fatal(err)
		}
		if diff := cmp.Diff(m, second, cmpopts.EquateEmpty()); diff != "" {
			t.Fatal(diff)
		}
	})
}
