package dedupe

import (
	"bytes"
	"strings"
	"testing"
)

// oneFrame encodes and decodes data as a flow of one frame and returns its bytes on the wire.
func (p *pair) oneFrame(from, to *side, data []byte, apart bool) []byte {
	p.t.Helper()
	p.flow++
	e, d := from.NewEncoder(p.flow), to.NewDecoder(p.flow)
	defer d.Close()
	if apart {
		e.KeepApart()
	}
	f, err := e.Encode(nil, data, 0, true)
	if err != nil {
		p.t.Fatal(err)
	}
	out, end, err := d.Decode(nil, f, 0, len(data))
	if err != nil || !end || !bytes.Equal(out, data) {
		p.t.Fatalf("%d bytes of %d, end %v, %v", len(out), len(data), end, err)
	}
	e.Acked(1)
	e.Close(true)
	p.pump()
	return f
}

// TestKeptApart: what a flow that is kept apart puts on the wire does not depend on what was sent before, by others or by its like, and nobody
// else gains from it. So neither size nor time says what the history holds.
func TestKeptApart(t *testing.T) {
	p := newPair(t, testConfig(""), testConfig(""))
	random := noise(3, 100_000)
	text := []byte(strings.Repeat("the quick brown fox jumps over the lazy dog. ", 2000))
	cold := p.oneFrame(p.a, p.b, random, true)
	coldText := p.oneFrame(p.a, p.b, text, true)
	if n := len(p.oneFrame(p.a, p.b, random, false)); n < len(random) {
		t.Errorf("another flow gains from what was kept apart: %d of %d bytes", n, len(random))
	}
	if n := len(p.oneFrame(p.a, p.b, random, false)); n > len(random)/100 {
		t.Errorf("the history does not work: %d of %d bytes the second time", n, len(random))
	}
	if warm := p.oneFrame(p.a, p.b, random, true); !bytes.Equal(warm, cold) {
		t.Errorf("%d bytes while the history holds the same, %d before", len(warm), len(cold))
	}
	if warm := p.oneFrame(p.a, p.b, text, true); !bytes.Equal(warm, coldText) {
		t.Errorf("%d bytes of text the second time, %d the first", len(warm), len(coldText))
	}
	if len(coldText) > len(text)/10 {
		t.Errorf("text is not compressed: %d of %d bytes", len(coldText), len(text))
	}
}

// TestEncryptedOnDisk: a codec with a key finds its history again after a restart, with another key it begins anew.
func TestEncryptedOnDisk(t *testing.T) {
	cfg, far := testConfig(t.TempDir()), testConfig(t.TempDir())
	cfg.Key, far.Key = bytes.Repeat([]byte{1}, 32), bytes.Repeat([]byte{2}, 32)
	p := newPair(t, cfg, far)
	data := noise(4, 3<<20)
	p.send(p.a, p.b, data, 200_000)
	p.restart(p.a)
	p.restart(p.b)
	if wire := p.send(p.a, p.b, data, 200_000); wire > len(data)/20 {
		t.Errorf("after a restart %d bytes of %d go over the wire", wire, len(data))
	}
	p.b.cfg.Key = bytes.Repeat([]byte{3}, 32)
	p.restart(p.b)
	if wire := p.send(p.a, p.b, data, 200_000); wire < len(data) {
		t.Errorf("after the key changed %d bytes of %d go over the wire", wire, len(data))
	}
	if wire := p.send(p.a, p.b, data, 200_000); wire > len(data)/20 {
		t.Errorf("with the new key %d bytes of %d go over the wire the second time", wire, len(data))
	}
	cfg.Key = []byte("too short")
	if _, err := Open(cfg); err == nil {
		t.Error("a short key was taken")
	}
}

// scoped sends data as a flow of a scope.
func (p *pair) scoped(from, to *side, scope uint32, data []byte) (wire int) {
	p.t.Helper()
	wire, err := p.tryIn(from, to, scope, data, 100_000)
	if err != nil {
		p.t.Fatal(err)
	}
	return wire
}

// TestScopes: what flows of one scope sent is found by those of the same scope, on both sides, in both directions and after a restart, and by
// no others.
func TestScopes(t *testing.T) {
	p := newPair(t, testConfig(t.TempDir()), testConfig(t.TempDir()))
	const n = 700_000
	data := noise(5, n)
	for i, c := range []struct {
		up    bool
		scope uint32
		known bool
	}{
		{true, 1, false}, {true, 2, false}, {true, 0, false}, {true, 1, true}, {false, 1, true}, {false, 2, true}, {false, 0, true}, {false, 3, false},
		{true, 3, true}, // 3's came from the other side
	} {
		from, to := p.a, p.b
		if !c.up {
			from, to = p.b, p.a
		}
		if wire := p.scoped(from, to, c.scope, data); c.known && wire > n/20 || !c.known && wire < n {
			t.Errorf("step %d, %+v: %d bytes on the wire of %d", i, c, wire, n)
		}
	}
	p.restart(p.a)
	p.restart(p.b)
	for scope, known := range []bool{true, true, true, true, false} {
		if wire := p.scoped(p.a, p.b, uint32(scope), data); known && wire > n/20 || !known && wire < n {
			t.Errorf("scope %d after a restart: %d bytes on the wire of %d", scope, wire, n)
		}
	}
}

// TestManyScopes: more scopes than blocks can be open at once; each finds its own again and nobody else's.
func TestManyScopes(t *testing.T) {
	p := newPair(t, testConfig(""), testConfig(""))
	const n = 20_000
	data := noise(6, n)
	scopes := 2*p.a.plan.OpenBlocks + 10
	for round, known := range []bool{false, true} {
		for scope := range scopes {
			if wire := p.scoped(p.a, p.b, uint32(scope), data); known && wire > n/10 || !known && wire < n {
				t.Fatalf("round %d, scope %d of %d: %d bytes on the wire of %d", round, scope, scopes, wire, n)
			}
		}
	}
}
