package dedupe

import (
	"bytes"
	"errors"
	"fmt"
	"math/rand/v2"
	"os"
	"path/filepath"
	"testing"

	"pgregory.net/rapid"
)

// chaos drives two codecs with random steps: flows in both directions, frames of any size, late frames, acknowledgements and messages, aborts,
// new sessions, restarts and damage. Whatever happens a frame decodes to its bytes or fails with a *MissError.
type chaos struct {
	*pair
	pick   func(n int) int // uniform in [0, n)
	flows  []*chaosFlow
	shared [][]byte // contents that flows send pieces of
	misses int
	waits  int
	frames int
}

// chaosFlow is one direction of one flow.
type chaosFlow struct {
	from, to *side
	enc      *Encoder
	dec      *Decoder
	data     []byte
	sent     uint64 // next frame number
	wire     []chaosFrame
	decoded  uint64
	acked    uint64
	ended    bool
	waiting  bool // the first frame on the wire waits in the decoder
}

type chaosFrame struct{ raw, payload []byte }

func newChaos(p *pair, pick func(int) int) *chaos {
	c := &chaos{pair: p, pick: pick}
	base := noise(9, 200_000)
	text := bytes.Repeat([]byte("select * from accounts where id = 4711 order by name;\n"), 3000)
	c.shared = [][]byte{base, text, edit(base, 1, 5), edit(text, 2, 40), noise(10, 90_000), append(bytes.Clone(text[:50_000]), base...)}
	return c
}

// step does one random thing.
func (c *chaos) step() {
	if len(c.flows) == 0 || len(c.flows) < 6 && c.pick(8) == 0 {
		c.start()
		return
	}
	f := c.flows[c.pick(len(c.flows))]
	switch n := c.pick(20); {
	case n < 8:
		c.encode(f)
	case n < 13:
		c.decode(f)
	case n < 16:
		c.ack(f)
	case n < 19:
		c.message()
	default:
		if c.pick(6) == 0 {
			c.abort(f)
		}
	}
}

func (c *chaos) start() {
	f := &chaosFlow{from: c.a, to: c.b}
	if c.pick(3) == 0 {
		f.from, f.to = c.b, c.a
	}
	c.flow++
	f.enc, f.dec = f.from.NewEncoder(c.flow), f.to.NewDecoder(c.flow)
	scope := uint32(c.pick(3))
	f.enc.SetScope(scope)
	f.dec.SetScope(scope)
	src := c.shared[c.pick(len(c.shared))]
	at := c.pick(len(src))
	f.data = src[at : at+c.pick(len(src)-at+1)]
	if c.pick(3) == 0 {
		f.data = edit(append([]byte("x"), f.data...), uint64(c.pick(1000)), 3)
	}
	c.flows = append(c.flows, f)
}

func (c *chaos) encode(f *chaosFlow) {
	if f.ended || len(f.wire) > 8 {
		return
	}
	n := []int{1, 10, 100, 1000, 5000, 70_000, MaxFrameBytes}[c.pick(7)]
	raw := f.data[:min(len(f.data), c.pick(n)+1)]
	f.data = f.data[len(raw):]
	f.ended = len(f.data) == 0
	payload, err := f.enc.Encode(nil, raw, f.sent, f.ended)
	if err != nil {
		c.t.Fatalf("encode: %v", err)
	}
	f.sent++
	if c.pick(4) > 0 {
		f.enc.Share()
	}
	f.wire = append(f.wire, chaosFrame{raw, payload})
}

func (c *chaos) decode(f *chaosFlow) {
	if len(f.wire) == 0 {
		return
	}
	fr := f.wire[0]
	prefix := []byte("prefix")
	var out []byte
	var end bool
	var err error
	if f.waiting {
		out, end, err = f.dec.Resume(!f.dec.Asked() && c.pick(10) == 0)
	} else {
		c.frames++
		out, end, err = f.dec.Decode(bytes.Clone(prefix), fr.payload, f.decoded, len(fr.raw))
	}
	if f.waiting = errors.Is(err, ErrWait); f.waiting {
		c.waits++
		return
	}
	f.wire = f.wire[1:]
	if err != nil {
		miss := (*MissError)(nil)
		if !errors.As(err, &miss) {
			c.t.Fatalf("decode: %v", err)
		}
		c.misses++
		c.abort(f)
		return
	}
	if !bytes.Equal(out, append(prefix, fr.raw...)) {
		c.t.Fatal("wrong bytes")
	}
	f.decoded++
	if end != (f.ended && len(f.wire) == 0) {
		c.t.Fatalf("end = %v", end)
	}
}

func (c *chaos) ack(f *chaosFlow) {
	if f.acked < f.decoded {
		f.acked += 1 + uint64(c.pick(int(f.decoded-f.acked)))
		f.enc.Acked(f.acked)
	}
	if f.ended && f.acked == f.sent {
		f.enc.Close(true)
		f.dec.Close()
		c.drop(f)
	}
}

func (c *chaos) message() {
	s := c.a
	if c.pick(2) == 0 {
		s = c.b
	}
	if m, ok := c.take(s); ok {
		if err := s.HandleMessage(m); err != nil {
			c.t.Fatalf("message: %v", err)
		}
	}
}

func (c *chaos) abort(f *chaosFlow) {
	f.enc.Close(false)
	f.dec.Close()
	c.drop(f)
}

func (c *chaos) drop(f *chaosFlow) {
	for i, x := range c.flows {
		if x == f {
			c.flows = append(c.flows[:i], c.flows[i+1:]...)
			return
		}
	}
}

// session begins a new session: whatever was under way is gone.
func (c *chaos) session() {
	for len(c.flows) > 0 {
		c.abort(c.flows[0])
	}
	c.begin()
}

// finish ends all flows and sends everything once more.
func (c *chaos) finish() {
	for rounds := 0; len(c.flows) > 0; rounds++ {
		if rounds > 100_000 {
			c.t.Fatalf("%d flows do not end", len(c.flows))
		}
		f := c.flows[rounds%len(c.flows)] // one may wait for another
		c.encode(f)
		c.decode(f)
		c.ack(f)
		for c.waiting() > 0 {
			c.message()
		}
	}
}

// TestAnySplittingAndInterleaving has no damage, so no frame may miss either.
func TestAnySplittingAndInterleaving(t *testing.T) {
	waits, ahead, repairs := 0, int64(0), int64(0)
	rapid.Check(t, func(t *rapid.T) {
		seed := rapid.Uint64().Draw(t, "seed")
		r := rand.New(rand.NewPCG(seed, 1))
		p := newQuietPair(t, testConfig(""), testConfig(""))
		if seed%4 > 0 {
			p.features = AllFeatures
			p.begin()
		}
		c := newChaos(p, r.IntN)
		for range 400 {
			c.step()
			if r.IntN(150) == 0 {
				c.session()
			}
		}
		c.finish()
		p.shut(p.a)
		p.shut(p.b)
		if c.misses > 0 {
			t.Fatalf("%d misses without any damage", c.misses)
		}
		waits += c.waits
		ahead += p.a.Stats().AheadFrames + p.b.Stats().AheadFrames
		repairs += p.a.Stats().Repairs + p.b.Stats().Repairs
		if n := p.a.Stats().RepairKeptBytes + p.b.Stats().RepairKeptBytes; n != 0 {
			t.Fatalf("%d bytes are kept of frames that are through", n)
		}
	})
	t.Logf("%d frames referred ahead, %d waits, %d repairs", ahead, waits, repairs)
	if ahead == 0 || waits == 0 || repairs == 0 {
		t.Error("no frame waited, or none was repaired: the test shows nothing")
	}
}

// TestDamage restarts and damages either side's cache at any moment.
func TestDamage(t *testing.T) {
	first, seeds := uint64(0), uint64(3)
	if s := os.Getenv("WANPAIR_DAMAGE_SEEDS"); s != "" { // "first,count" for longer runs
		if _, err := fmt.Sscanf(s, "%d,%d", &first, &seeds); err != nil {
			t.Fatal(err)
		}
	}
	for seed := first; seed < first+seeds; seed++ {
		t.Run(fmt.Sprint(seed), func(t *testing.T) {
			t.Parallel()
			r := rand.New(rand.NewPCG(seed, 2))
			dirA, dirB := t.TempDir(), t.TempDir()
			p := newQuietPair(t, smallConfig(dirA), smallConfig(dirB))
			if seed%3 > 0 {
				p.features = AllFeatures
				p.begin()
			}
			c := newChaos(p, r.IntN)
			for range 4 {
				for range 250 {
					c.step()
				}
				s := p.a
				if r.IntN(2) == 0 {
					s = p.b
				}
				for len(c.flows) > 0 {
					c.abort(c.flows[0])
				}
				switch r.IntN(4) {
				case 0: // while it runs, though not while it opens a database: Badger ends the process when its files vanish then
					s.Flush()
					damage(t, r, s.cfg.Dir)
					c.begin()
				case 1:
					p.restart(s)
				default:
					p.shut(s)
					damage(t, r, s.cfg.Dir)
					p.open(s)
					p.begin()
				}
			}
			c.finish()
			p.shut(p.a)
			p.shut(p.b)
			repairs := p.a.Stats().Repairs + p.b.Stats().Repairs
			t.Logf("%d frames, %d misses, %d repairs", c.frames, c.misses, repairs)
			if p.features.Repair && c.misses > 0 {
				t.Errorf("%d misses where the other side could have been asked", c.misses)
			}
		})
	}
}

// smallConfig makes epochs of a few blocks.
func smallConfig(dir string) Config {
	c := testConfig(dir)
	c.SizeBytes = MinSizeBytes * 2
	c.MemoryBytes = MinMemoryBytes
	return c
}

// damage deletes, cuts or flips something below dir.
func damage(t testing.TB, r *rand.Rand, dir string) {
	if r.IntN(5) == 0 {
		entries, err := os.ReadDir(dir)
		if err != nil {
			t.Fatal(err)
		}
		for _, e := range entries {
			if err := os.RemoveAll(filepath.Join(dir, e.Name())); err != nil {
				t.Fatal(err)
			}
		}
		return
	}
	var files []string
	_ = filepath.WalkDir(dir, func(path string, d os.DirEntry, err error) error {
		if err == nil && d.Type().IsRegular() && d.Name() != "lock" {
			files = append(files, path)
		}
		return nil
	})
	for range 1 + r.IntN(3) {
		if len(files) == 0 {
			return
		}
		name := files[r.IntN(len(files))]
		st, err := os.Stat(name)
		if err != nil {
			continue // damaged before
		}
		t.Logf("damage %s of %d bytes", name[len(dir):], st.Size())
		switch r.IntN(3) {
		case 0:
			err = os.Remove(name)
		case 1:
			err = os.Truncate(name, r.Int64N(st.Size()+1))
		default:
			err = flip(name, r.Int64N(st.Size()+1))
		}
		if err != nil {
			t.Fatal(err)
		}
	}
}

// flip inverts some bytes of a file.
func flip(name string, at int64) error {
	f, err := os.OpenFile(name, os.O_RDWR, 0)
	if err != nil {
		return err
	}
	defer f.Close()
	b := make([]byte, 64)
	n, _ := f.ReadAt(b, at) // what lies behind the end is not flipped
	for i := range b[:n] {
		b[i] ^= 0xff
	}
	_, err = f.WriteAt(b[:n], at)
	return err
}
