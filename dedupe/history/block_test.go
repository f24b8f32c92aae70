package history

import (
	"bytes"
	"errors"
	"sync"
	"testing"

	"pgregory.net/rapid"
)

func TestAppendAndRead(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		b := newBlock(Key{0, 7})
		var want []byte
		for range rapid.IntRange(0, 12).Draw(t, "appends") {
			p := bytes.Repeat([]byte{byte(len(want))}, rapid.SampledFrom([]int{0, 1, 100, 20_000, 100_000}).Draw(t, "n"))
			at := len(want) + rapid.SampledFrom([]int{0, 0, 0, 1, -1}).Draw(t, "off")
			err := b.Append(at, p)
			fits := at == len(want) && len(want)+len(p) <= BlockBytes
			if fits != (err == nil) {
				t.Fatalf("append of %d at %d into %d: %v", len(p), at, len(want), err)
			}
			if fits {
				want = append(want, p...)
			}
			if !bytes.Equal(b.Bytes(), want) || b.Room() != BlockBytes-len(want) {
				t.Fatal("block does not hold what was appended")
			}
		}
		limit := rapid.IntRange(0, BlockBytes).Draw(t, "limit")
		b.seal(limit)
		if b.Room() != 0 || b.Len() != min(limit, len(want)) || !errors.Is(b.Append(b.Len(), []byte{1}), ErrSealed) {
			t.Fatal("a sealed block is open")
		}
	})
}

// TestReadWhileAppending lets the race detector look at a reader beside a writer.
func TestReadWhileAppending(t *testing.T) {
	b := newBlock(Key{})
	var wg sync.WaitGroup
	wg.Go(func() {
		for i := range 256 {
			_ = b.Append(i*1024, bytes.Repeat([]byte{byte(i)}, 1024))
		}
	})
	wg.Go(func() {
		for b.Len() < BlockBytes {
			p := b.Bytes()
			for i := 0; i < len(p); i += 1024 {
				if p[i] != byte(i/1024) {
					t.Error("a byte was visible before it was written")
					return
				}
			}
		}
	})
	wg.Wait()
}

func TestNext(t *testing.T) {
	b := newBlock(Key{})
	if _, ok := b.Next(); ok {
		t.Error("an empty block knows where its flow goes on")
	}
	b.SetNext(0)
	if p, ok := b.Next(); !ok || p != 0 {
		t.Error("position 0 is not a position")
	}
}

func TestPackAnchor(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		end, fp := rapid.IntRange(1, BlockBytes).Draw(t, "end"), rapid.Uint64Range(0, 1<<46-1).Draw(t, "fp")
		if e, f := UnpackAnchor(PackAnchor(end, fp)); e != end || f != fp {
			t.Fatalf("%d %#x came back as %d %#x", end, fp, e, f)
		}
	})
}
