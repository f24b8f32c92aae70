package dedupe

import (
	"bytes"
	"fmt"
	"testing"
)

func TestRepeatIsCheap(t *testing.T) {
	for _, dir := range []bool{false, true} {
		for _, frame := range []int{MaxFrameBytes, 60000, 4096, 100} {
			t.Run(fmt.Sprintf("disk=%v/frame=%d", dir, frame), func(t *testing.T) {
				a, b := testConfig(""), testConfig("")
				if dir {
					a, b = testConfig(t.TempDir()), testConfig(t.TempDir())
				}
				p := newPair(t, a, b)
				data := noise(1, 1<<20)
				if frame == 100 {
					data = data[:1<<17]
				}
				cold := p.send(p.a, p.b, data, frame)
				warm := p.send(p.a, p.b, data, frame)
				back := p.send(p.b, p.a, data, frame)
				frames := (len(data) + frame - 1) / frame
				if limit := len(data) + 40*frames + 100; cold > limit {
					t.Errorf("cold: %d bytes, at most %d", cold, limit)
				}
				if limit := 45*frames + 3000; warm > limit || back > limit {
					t.Errorf("warm: %d bytes, back: %d bytes, at most %d", warm, back, limit)
				}
			})
		}
	}
}

func TestEditedCopy(t *testing.T) {
	p := newPair(t, testConfig(""), testConfig(""))
	data := noise(2, 2<<20)
	p.send(p.a, p.b, data, MaxFrameBytes)
	const edits = 50
	if wire := p.send(p.a, p.b, edit(data, 3, edits), MaxFrameBytes); wire > edits*60+1000 {
		t.Errorf("%d edits cost %d bytes", edits, wire)
	}
}

func TestRestart(t *testing.T) {
	data := noise(4, 3<<20)
	for _, who := range []string{"a", "b", "both"} {
		t.Run(who, func(t *testing.T) {
			p := newPair(t, testConfig(t.TempDir()), testConfig(t.TempDir()))
			p.send(p.a, p.b, data, 100000)
			if who != "b" {
				p.restart(p.a)
			}
			if who != "a" {
				p.restart(p.b)
			}
			if wire := p.send(p.a, p.b, data, MaxFrameBytes); wire > 10000 {
				t.Errorf("after the restart the repeat costs %d bytes", wire)
			}
			if wire := p.send(p.b, p.a, data, MaxFrameBytes); wire > 10000 {
				t.Errorf("the other way it costs %d bytes", wire)
			}
		})
	}
}

// Both sides count the same bytes: found again, new, and of those the ones that do not shrink, which the receiver tells by how they came.
func TestBothSidesCountTheSame(t *testing.T) {
	p := newPair(t, testConfig(""), testConfig(""))
	text := bytes.Repeat([]byte("the same line again and again, as in a log\n"), 20_000)
	random := noise(9, 2<<20)
	p.send(p.a, p.b, text, 60000)
	p.send(p.a, p.b, random, 60000)
	p.send(p.a, p.b, random, 60000)
	sent, got := p.a.Stats(), p.b.Stats()
	if sent.MatchedBytes != got.MatchedInBytes || sent.LiteralBytes != got.LiteralInBytes || sent.LiteralCodedBytes != got.LiteralInCoded {
		t.Errorf("sent %d found, %d new as %d; received %d, %d as %d", sent.MatchedBytes, sent.LiteralBytes, sent.LiteralCodedBytes,
			got.MatchedInBytes, got.LiteralInBytes, got.LiteralInCoded)
	}
	if n, least := got.OpaqueInBytes, int64(len(random))*9/10; n < least || n > int64(len(random)) {
		t.Errorf("%d bytes received did not shrink, want %d to %d", n, least, len(random))
	}
}
