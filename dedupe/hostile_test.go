package dedupe

import (
	"encoding/binary"
	"errors"
	"math/rand/v2"
	"runtime"
	"testing"

	"wanpair/dedupe/literal"
	"wanpair/dedupe/token"
)

// victim is a codec in a session with a peer that says what it likes.
func victim(t testing.TB) *Codec {
	t.Helper()
	c, err := Open(Config{SizeBytes: MinSizeBytes, MemoryBytes: MinMemoryBytes, Density: 8, Concurrency: 2})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := c.Close(); err != nil {
			t.Error(err)
		}
	})
	if err := c.Begin(func([]byte) error { return nil }, AllFeatures); err != nil {
		t.Fatal(err)
	}
	return c
}

// hostileSeeds are frames and messages as they ought to be, and some that lie.
func hostileSeeds(t testing.TB) (frames, messages [][]byte) {
	t.Helper()
	p := newPair(t, testConfig(""), testConfig(""))
	e := p.a.NewEncoder(1)
	random, text := noise(1, 5000), edit([]byte("text text text text text text text and so on and so on and so on"), 1, 3)
	for n, src := range [][]byte{random, text, random, append(random[1000:3000], text...), nil} {
		f, err := e.Encode(nil, src, uint64(n), n == 4)
		if err != nil {
			t.Fatal(err)
		}
		frames = append(frames, f)
		e.Acked(uint64(n + 1))
	}
	id := make([]byte, 16)
	for _, m := range []token.Message{
		{Kind: token.KindLog, ID: [16]byte(id), Head: 1 << 40},
		{Kind: token.KindLog, Which: 1, ID: [16]byte(id), Tail: 5, Head: 1 << 62},
		{Kind: token.KindHeld, Ranges: []token.Range{{First: 0, Count: 1 << 40}}, Shorts: []token.Short{{Block: 3, Length: 9}}},
		{Kind: token.KindReady},
		{Kind: token.KindSeal, Block: 1 << 40, Length: 100},
		{Kind: token.KindRetract, Ranges: []token.Range{{First: 0, Count: 1 << 45}}},
		{Kind: token.KindTail, Tail: 1 << 50},
		{Kind: token.KindTailAck, Tail: 1 << 50},
		{Kind: token.KindContexts, Contexts: 1 << 20},
		{Kind: token.KindNeed, Flow: 1, Frame: 1, Parts: []token.Part{{Offset: 1, Length: MaxFrameBytes - 1}}},
		{Kind: token.KindBytes, Flow: 1, Frame: 1, Offset: 4, Data: []byte("some")},
	} {
		messages = append(messages, m.Append(nil))
	}
	return frames, messages
}

// FuzzHostilePeer lets an authenticated peer send anything: frames for three flows and messages, in any order. Nothing panics, an error is one of
// those that the callers know, and what is decoded has the length that was announced.
func FuzzHostilePeer(f *testing.F) {
	frames, messages := hostileSeeds(f)
	script := func(items ...[]byte) (out []byte) {
		for i, b := range items {
			out = append(out, byte(i)) // what it is: see below
			out = binary.BigEndian.AppendUint16(out, uint16(len(b)))
			out = append(out, b...)
		}
		return out
	}
	f.Add(script(append(append([][]byte{}, messages[:4]...), frames...)...), uint32(5000))
	f.Add(script(frames...), uint32(len(frames[1])))
	f.Add(script(messages...), uint32(0))
	for _, m := range messages {
		f.Add(script(m), uint32(0))
	}
	f.Fuzz(func(t *testing.T, script []byte, rawLen uint32) {
		c := victim(t)
		var decoders [3]*Decoder
		for i := range decoders {
			decoders[i] = c.NewDecoder(uint64(2 * i))
			defer decoders[i].Close()
		}
		for len(script) >= 3 {
			what := script[0]
			n := min(int(binary.BigEndian.Uint16(script[1:])), len(script)-3)
			item := script[3 : 3+n]
			script = script[3+n:]
			if err := c.HandleMessage(item); err != nil && !errors.Is(err, ErrGrammar) {
				t.Fatalf("message: %v", err)
			}
			want := int(rawLen % (MaxFrameBytes + 1))
			var head token.Frame
			if head.Parse(item) == nil && what%4 != 0 {
				want = head.RawBytes // else the lie would end it at once
			}
			d := decoders[what%3]
			out, _, err := d.Decode(nil, item, 1, want)
			for late := range 5 { // bytes on their way, all copies, the whole frame
				if !errors.Is(err, ErrWait) {
					break
				}
				if late == 4 {
					t.Fatal("the frame waits for ever")
				}
				out, _, err = d.Resume(true)
			}
			miss := (*MissError)(nil)
			switch {
			case err == nil && len(out) != want:
				t.Fatalf("%d bytes instead of %d", len(out), want)
			case err != nil && !errors.Is(err, ErrGrammar) && !errors.Is(err, ErrChecksum) && !errors.Is(err, ErrClosed) && !errors.As(err, &miss):
				t.Fatalf("frame: %v", err)
			}
		}
	})
}

// TestHostilePeerHoldsNoMemory sends thousands of messages and frames that name far more than they bring. Afterwards the codec holds no more than ten
// times what it was sent, beside what a codec holds that was sent nothing.
func TestHostilePeerHoldsNoMemory(t *testing.T) {
	pool, err := literal.NewPool(1)
	if err != nil {
		t.Fatal(err)
	}
	defer pool.Close()
	bomb, ok := pool.Append(nil, make([]byte, MaxFrameBytes), literal.Fastest)
	if !ok || len(bomb) > 1000 {
		t.Fatalf("the bomb is %d bytes", len(bomb))
	}
	frame := func(h token.Header, body []byte) []byte { return append(token.AppendHeader(nil, &h), body...) }
	frames := [][]byte{
		frame(token.Header{RawBytes: MaxFrameBytes, LiteralRawBytes: MaxFrameBytes, LiteralBytes: len(bomb), Literals: token.Zstd}, bomb),
		frame(token.Header{RawBytes: MaxFrameBytes, LiteralRawBytes: MaxFrameBytes, LiteralBytes: len(bomb), Literals: token.StreamBegin}, bomb),
		frame(token.Header{RawBytes: MaxFrameBytes, LiteralRawBytes: 10, LiteralBytes: len(bomb), Literals: token.Zstd}, bomb), // more than it says
		frame(token.Header{RawBytes: MaxFrameBytes, LiteralRawBytes: MaxFrameBytes, LiteralBytes: 10}, make([]byte, 10)),
	}
	_, messages := hostileSeeds(t)
	c := victim(t)
	grown := func() int64 {
		runtime.GC()
		var m runtime.MemStats
		runtime.ReadMemStats(&m)
		return int64(m.HeapAlloc)
	}
	dst := make([]byte, 0, MaxFrameBytes)
	sent := 0
	rng := rand.New(rand.NewPCG(1, 1))
	round := func(rounds int) {
		for i := range rounds {
			for _, b := range frames {
				d := c.NewDecoder(uint64(2 * i))
				_, _, _ = d.Decode(dst, b, 1, MaxFrameBytes) // whatever it says
				d.Close()
				sent += len(b)
			}
			for _, b := range messages[4:] {
				_ = c.HandleMessage(b) // likewise
				sent += len(b)
			}
			m := token.Message{Kind: token.KindRetract}
			for range 20 {
				m.Ranges = append(m.Ranges, token.Range{First: rng.Uint64N(1 << 40), Count: 1 + rng.Uint64N(1<<20)})
			}
			b := m.Append(nil)
			_ = c.HandleMessage(b) // likewise
			sent += len(b)
		}
	}
	round(5) // what is lent is made now
	before := grown()
	sent = 0
	round(1000)
	if more := grown() - before; more > 10*int64(sent) {
		t.Errorf("%d bytes sent, %d bytes held", sent, more)
	} else {
		t.Logf("%d bytes sent, %d bytes held", sent, more)
	}
}

// FuzzCipher looks for ciphertext in any bytes, however they are cut.
func FuzzCipher(f *testing.F) {
	f.Add([]byte("SSH-2.0-x\r\n\x00\x00\x00\x0c\x0a\x15"), uint8(3))
	f.Add([]byte{22, 3, 1, 0, 5, 1, 0, 0, 1, 0, 23, 3, 3, 0, 2, 1, 2}, uint8(4))
	f.Add([]byte{22, 3, 1, 0, 5, 1, 0, 0, 1, 0, 99, 3, 3}, uint8(9))
	tls := []byte{22, 3, 1, 0, 5, 1, 0, 0, 1, 0, 20, 3, 3, 0, 1, 1, 23, 3, 3, 0, 40}
	tls = append(tls, make([]byte, 40)...)
	ssh := append([]byte("SSH-2.0-OpenSSH_9\r\n"), 0, 0, 0, 12, 10, 20, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 12, 10, 21)
	ssh = append(ssh, make([]byte, 60)...)
	for _, b := range [][]byte{tls, ssh, append([]byte("SSH-2.0-"), make([]byte, 400)...), append([]byte("SSH-2.0-x\n"), 0xff, 0xff, 0xff, 0xff, 1, 1), []byte("plain text")} {
		for _, cut := range []uint8{0, 4, 5, 63} {
			f.Add(b, cut)
		}
	}
	f.Fuzz(func(t *testing.T, data []byte, cut uint8) {
		var w cipher
		for len(data) > 0 {
			n := min(len(data), 1+int(cut)%64)
			w.feed(data[:n])
			data = data[n:]
			if w.skip < 0 || w.skip > maxSSHPacket || w.have < 0 || w.have >= len(w.header) {
				t.Fatalf("%+v", w)
			}
		}
	})
}
