package dedupe

import (
	"testing"

	"wanpair/dedupe/history"
	"wanpair/dedupe/token"
)

// TestStoreOffTakesBackShortBlocks: a side whose store goes off takes back what only the disk holds, blocks held short among full ones. The
// other side takes note; it once ended the session over the order.
func TestStoreOffTakesBackShortBlocks(t *testing.T) {
	p := newPair(t, testConfig(t.TempDir()), smallConfig(t.TempDir()))
	// Each aborted flow leaves its last block short.
	for seed := range uint64(4) {
		p.flow++
		e, d := p.a.NewEncoder(p.flow), p.b.NewDecoder(p.flow)
		data := noise(seed, 700_000)
		for n := uint64(0); len(data) > 0; n++ {
			part := data[:min(len(data), 100_000)]
			data = data[len(part):]
			f, err := e.Encode(nil, part, n, false)
			if err != nil {
				t.Fatal(err)
			}
			if _, _, err := d.Decode(nil, f, n, len(part)); err != nil {
				t.Fatal(err)
			}
			e.Acked(n + 1)
		}
		e.Close(false)
		d.Close()
		p.pump()
	}
	p.b.Flush()
	p.restart(p.b) // nothing is in memory any more
	held := 0
	p.a.logs[own].ledger.Held(func(first, count uint64) {
		for b := first; b < first+count; b++ {
			held += p.a.logs[own].ledger.Both(b)
		}
	}, func(b uint64, _ int) { held += p.a.logs[own].ledger.Both(b) })
	if held == 0 {
		t.Fatal("nothing is held by both sides: the test shows nothing")
	}
	p.b.withdraw()
	p.pump() // fails on a message that is not understood
	p.a.logs[own].ledger.Held(func(first, count uint64) {
		for b := first; b < first+count; b++ {
			if n := p.a.logs[own].ledger.Both(b); n > 0 {
				t.Errorf("%d bytes of block %d may still be referenced", n, b)
			}
		}
	}, func(b uint64, _ int) {
		if n := p.a.logs[own].ledger.Both(b); n > 0 {
			t.Errorf("%d bytes of block %d may still be referenced", n, b)
		}
	})
}

// TestRetractInAnyOrder: ranges that overlap and do not ascend are understood.
func TestRetractInAnyOrder(t *testing.T) {
	p := newPair(t, testConfig(""), testConfig(""))
	p.send(p.a, p.b, noise(1, 2<<20), MaxFrameBytes)
	m := token.Message{Kind: token.KindRetract, Ranges: []token.Range{{First: 5, Count: 1}, {First: 1, Count: 2}, {First: 0, Count: 3}, {First: 2, Count: 1 << 40}}}
	if err := p.a.HandleMessage(m.Append(nil)); err != nil {
		t.Fatal(err)
	}
	for b := range p.a.logs[own].head.Load() >> history.BlockShift {
		if n := p.a.logs[own].ledger.Both(b); n > 0 {
			t.Errorf("%d bytes of block %d may still be referenced", n, b)
		}
	}
}
