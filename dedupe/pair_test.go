package dedupe

import (
	"bytes"
	"math/rand/v2"
	"sync"
	"testing"
)

// side is a codec with the messages on their way to it.
type side struct {
	*Codec
	cfg   Config
	inbox [][]byte
}

// tester is what testing.T and rapid.T have in common.
type tester interface {
	Helper()
	Error(args ...any)
	Fatal(args ...any)
	Fatalf(format string, args ...any)
}

// pair is two codecs joined by an in-memory message pipe.
type pair struct {
	t    tester
	mu   sync.Mutex // guards the inboxes: what a disk lost is reported from other goroutines
	a, b *side
	flow uint64

	features Features // of the next session
}

// testConfig is a small cache, on disk when dir is not empty.
func testConfig(dir string) Config {
	return Config{Dir: dir, SizeBytes: 64 << 20, MemoryBytes: 64 << 20, Density: 8, Concurrency: 2}
}

// newPair opens both sides and lets them begin a session.
func newPair(t testing.TB, a, b Config) *pair {
	p := newQuietPair(t, a, b)
	t.Cleanup(func() { p.shut(p.a); p.shut(p.b) })
	return p
}

// newQuietPair is newPair for a test that closes both sides itself.
func newQuietPair(t tester, a, b Config) *pair {
	p := &pair{t: t, a: &side{cfg: a}, b: &side{cfg: b}}
	p.open(p.a)
	p.open(p.b)
	p.begin()
	return p
}

func (p *pair) open(s *side) {
	p.t.Helper()
	c, err := Open(s.cfg)
	if err != nil {
		p.t.Fatal(err)
	}
	s.Codec = c
	c.WaitRebuilt()
}

func (p *pair) shut(s *side) {
	if err := s.Close(); err != nil {
		p.t.Error(err)
	}
}

// restart closes and opens a side and begins a new session.
func (p *pair) restart(s *side) {
	p.t.Helper()
	p.shut(s)
	p.open(s)
	p.begin()
}

// begin starts a new session on both sides.
func (p *pair) begin() {
	p.t.Helper()
	p.mu.Lock()
	p.a.inbox, p.b.inbox = nil, nil
	p.mu.Unlock()
	if err := p.a.Begin(func(m []byte) error { p.deliver(p.b, m); return nil }, p.features); err != nil {
		p.t.Fatal(err)
	}
	if err := p.b.Begin(func(m []byte) error { p.deliver(p.a, m); return nil }, p.features); err != nil {
		p.t.Fatal(err)
	}
	p.pump()
}

// deliver puts a message on its way.
func (p *pair) deliver(to *side, m []byte) {
	p.mu.Lock()
	defer p.mu.Unlock()
	to.inbox = append(to.inbox, m)
}

// take takes the next message to a side.
func (p *pair) take(s *side) (m []byte, ok bool) {
	p.mu.Lock()
	defer p.mu.Unlock()
	if len(s.inbox) == 0 {
		return nil, false
	}
	m, s.inbox = s.inbox[0], s.inbox[1:]
	return m, true
}

// waiting is how many messages are on their way.
func (p *pair) waiting() int {
	p.mu.Lock()
	defer p.mu.Unlock()
	return len(p.a.inbox) + len(p.b.inbox)
}

// pump delivers messages until none are left.
func (p *pair) pump() {
	p.t.Helper()
	for more := true; more; {
		more = false
		for _, s := range []*side{p.a, p.b} {
			m, ok := p.take(s)
			if !ok {
				continue
			}
			more = true
			if err := s.HandleMessage(m); err != nil {
				p.t.Fatal(err)
			}
		}
	}
}

// send moves data as one flow in frames of a size and returns the bytes on the wire. Every frame is acknowledged when it was decoded.
func (p *pair) send(from, to *side, data []byte, frame int) (wire int) {
	p.t.Helper()
	wire, err := p.try(from, to, data, frame)
	if err != nil {
		p.t.Fatal(err)
	}
	return wire
}

func (p *pair) try(from, to *side, data []byte, frame int) (wire int, err error) {
	p.t.Helper()
	return p.tryIn(from, to, 0, data, frame)
}

// tryIn is try for a flow of a scope.
func (p *pair) tryIn(from, to *side, scope uint32, data []byte, frame int) (wire int, err error) {
	p.t.Helper()
	p.flow++
	e, d := from.NewEncoder(p.flow), to.NewDecoder(p.flow)
	defer d.Close()
	e.SetScope(scope)
	d.SetScope(scope)
	for n := uint64(0); ; n++ {
		part := data[:min(frame, len(data))]
		data = data[len(part):]
		f, err := e.Encode(nil, part, n, len(data) == 0)
		if err != nil {
			p.t.Fatal(err)
		}
		wire += len(f)
		out, end, err := d.Decode(nil, f, n, len(part))
		if err != nil {
			e.Close(false)
			p.pump()
			return wire, err
		}
		if !bytes.Equal(out, part) {
			p.t.Fatalf("frame %d came out wrong", n)
		}
		e.Acked(n + 1)
		p.pump()
		if end != (len(data) == 0) {
			p.t.Fatalf("end = %v with %d bytes to go", end, len(data))
		}
		if end {
			e.Close(true)
			p.pump()
			return wire, nil
		}
	}
}

// noise is incompressible data.
func noise(seed uint64, n int) []byte {
	r := rand.New(rand.NewPCG(seed, 0))
	b := make([]byte, n)
	for i := range b {
		b[i] = byte(r.Uint32())
	}
	return b
}

// edit changes some bytes here and there.
func edit(b []byte, seed uint64, edits int) []byte {
	r := rand.New(rand.NewPCG(seed, 1))
	out := bytes.Clone(b)
	for range edits {
		if len(out) == 0 {
			return out
		}
		at := r.IntN(len(out))
		switch r.IntN(3) {
		case 0:
			out[at] ^= 0x55
		case 1:
			out = append(out[:at:at], append([]byte("inserted"), out[at:]...)...)
		default:
			out = append(out[:at:at], out[min(at+7, len(out)):]...)
		}
	}
	return out
}
