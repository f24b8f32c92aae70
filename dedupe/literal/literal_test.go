package literal

import (
	"bytes"
	"errors"
	"math/rand/v2"
	"testing"

	"pgregory.net/rapid"
)

func newPool(t testing.TB) *Pool {
	p, err := NewPool(2)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(p.Close)
	return p
}

// text is compressible data.
func text(seed uint64, n int) []byte {
	r := rand.New(rand.NewPCG(seed, 5))
	words := []string{"insert ", "into ", "accounts ", "values ", "(", ")", ", ", "0", "17", "4711", "\n"}
	var b []byte
	for len(b) < n {
		b = append(b, words[r.IntN(len(words))]...)
	}
	return b[:n]
}

func TestIndependentFrames(t *testing.T) {
	p := newPool(t)
	src := text(1, 100_000)
	last := len(src)
	for level := Fastest; level <= Better; level++ {
		z, ok := p.Append([]byte("head"), src, level)
		if !ok || string(z[:4]) != "head" {
			t.Fatalf("level %d: not compressed", level)
		}
		if len(z) > last {
			t.Errorf("level %d: %d bytes, the level below %d", level, len(z), last)
		}
		last = len(z)
		got, err := p.Decode(make([]byte, 0, len(src)), z[4:], len(src))
		if err != nil || !bytes.Equal(got, src) {
			t.Fatalf("level %d: %v", level, err)
		}
	}
}

func TestWhatDoesNotShrinkIsLeft(t *testing.T) {
	p := newPool(t)
	r := rand.New(rand.NewPCG(1, 2))
	src := make([]byte, 5000)
	for i := range src {
		src[i] = byte(r.Uint32())
	}
	for _, s := range [][]byte{src, {1}, {}} {
		if out, ok := p.Append([]byte("x"), s, Fastest); ok || string(out) != "x" {
			t.Errorf("%d bytes of noise were coded to %d", len(s), len(out))
		}
	}
}

func TestDecodeRefuses(t *testing.T) {
	p := newPool(t)
	src := text(2, 50_000)
	z, _ := p.Append(nil, src, Fastest)
	bomb, _ := p.Append(nil, make([]byte, 1<<20), Fastest)
	room := make([]byte, 0, 1<<18)
	for name, c := range map[string]struct {
		src  []byte
		want int
	}{
		"shorter than stated": {z, len(src) + 1}, "longer than stated": {z, len(src) - 1}, "cut": {z[:len(z)/2], len(src)},
		"bomb": {bomb, 1 << 18}, "empty": {nil, 10}, "no room": {z, 1 << 19}, "garbage": {[]byte("garbage garbage"), 20},
	} {
		if _, err := p.Decode(room, c.src, c.want); !errors.Is(err, ErrCorrupt) {
			t.Errorf("%s: %v", name, err)
		}
	}
}

func TestStreams(t *testing.T) {
	p := newPool(t)
	rapid.Check(t, func(t *rapid.T) {
		l := p.Lender(64<<20, 4)
		l.Grant(4)
		e := l.Encoder(rapid.IntRange(Fastest, Better).Draw(t, "level"))
		d, err := l.Decoder()
		if e == nil || err != nil {
			t.Fatal("no stream", err)
		}
		src := text(rapid.Uint64().Draw(t, "seed"), 60_000)
		for i, at := 0, 0; at < len(src); i++ {
			n := min(rapid.IntRange(1, 20_000).Draw(t, "piece"), len(src)-at)
			z, begins, err := e.Append([]byte("h"), src[at:at+n])
			if err != nil || begins != (i == 0) || z[0] != 'h' {
				t.Fatalf("piece %d: begins %v, %v", i, begins, err)
			}
			got, err := d.Decode(make([]byte, 0, n), z[1:], n, begins)
			if err != nil || !bytes.Equal(got, src[at:at+n]) {
				t.Fatalf("piece %d: %v", i, err)
			}
			at += n
		}
		e.Close()
		d.Close()
		if l.InUse() != 1 {
			t.Fatalf("%d contexts in use before the peer knows of the end, want 1", l.InUse())
		}
		l.Return(1)
		if l.InUse() != 0 {
			t.Fatalf("%d contexts in use after the end", l.InUse())
		}
	})
}

func TestStreamsGainOverFrames(t *testing.T) {
	p := newPool(t)
	l := p.Lender(64<<20, 1)
	l.Grant(1)
	e := l.Encoder(Fastest)
	src := text(3, 200_000)
	stream, frames := 0, 0
	for at := 0; at < len(src); at += 2000 {
		z, _, _ := e.Append(nil, src[at:at+2000])
		f, _ := p.Append(nil, src[at:at+2000], Fastest)
		stream, frames = stream+len(z), frames+len(f)
	}
	if stream*10 > frames*9 {
		t.Errorf("stream %d bytes, independent frames %d", stream, frames)
	}
}

func TestLimits(t *testing.T) {
	p := newPool(t)
	l := p.Lender(streamEncoderBytes[Fastest]*3, 2)
	if l.Encoder(Fastest) != nil {
		t.Error("a stream before the peer granted any")
	}
	l.Grant(100)
	best := l.Encoder(Better)
	if best == nil || best.Level() != Better && best.Level() != Default {
		t.Fatal("no stream of a higher level while there is memory")
	}
	n := 0
	for l.Encoder(Better) != nil {
		n++
	}
	if n > 2 {
		t.Errorf("%d more streams in the memory of three", n)
	}
	best.Close()
	if l.Encoder(Fastest) == nil {
		t.Error("a stream that was closed did not make room")
	}
	for range 2 + abortedStreams {
		if _, err := l.Decoder(); err != nil {
			t.Fatal(err)
		}
	}
	if _, err := l.Decoder(); !errors.Is(err, ErrNoContext) {
		t.Errorf("one decoder too many: %v", err)
	}
}

func TestStreamRefuses(t *testing.T) {
	p := newPool(t)
	l := p.Lender(64<<20, 8)
	l.Grant(8)
	e := l.Encoder(Fastest)
	src := text(4, 10_000)
	first, _, _ := e.Append(nil, src)
	first = bytes.Clone(first)
	room := make([]byte, 0, 1<<18)
	for name, c := range map[string]struct {
		src  []byte
		want int
	}{
		"less than stated": {first, len(src) + 1}, "cut": {first[:len(first)/2], len(src)},
		"garbage": {[]byte("no zstd at all"), 14}, "empty": {nil, 1},
	} {
		d, err := l.Decoder()
		if err != nil {
			t.Fatal(err)
		}
		if _, err := d.Decode(room, c.src, c.want, true); !errors.Is(err, ErrCorrupt) {
			t.Errorf("%s: %v", name, err)
		}
		d.Close()
	}
	second, _, _ := e.Append(nil, text(5, 10_000))
	for name, c := range map[string]struct {
		room int
		src  []byte
	}{
		"no room":         {len(src) - 1, first},
		"another's piece": {1 << 18, append(bytes.Clone(first), second...)},
	} {
		d, err := l.Decoder()
		if err != nil {
			t.Fatal(err)
		}
		if _, err := d.Decode(make([]byte, 0, c.room), c.src, len(src), true); !errors.Is(err, ErrCorrupt) {
			t.Errorf("%s: %v", name, err)
		}
		d.Close()
	}
}

func FuzzDecode(f *testing.F) {
	p := newPool(f)
	z, _ := p.Append(nil, text(5, 3000), Fastest)
	f.Add(z, 3000)
	f.Add([]byte{0x28, 0xb5, 0x2f, 0xfd}, 100)
	f.Fuzz(func(t *testing.T, src []byte, want int) {
		if want < 0 || want > 1<<18 {
			return
		}
		room := make([]byte, 0, want)
		if out, err := p.Decode(room, src, want); err == nil && len(out) != want {
			t.Fatalf("%d bytes where %d were wanted", len(out), want)
		}
		l := p.Lender(0, 1)
		d, err := l.Decoder()
		if err != nil {
			t.Fatal(err)
		}
		if out, err := d.Decode(room, src, want, true); err == nil && len(out) != want {
			t.Fatalf("%d bytes where %d were wanted", len(out), want)
		}
		d.Close()
	})
}
