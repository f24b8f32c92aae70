package index

import (
	"math/rand/v2"
	"slices"
	"sync"
	"testing"

	"pgregory.net/rapid"
)

// lookup returns the hits of a fingerprint as a slice.
func lookup(ix *Index, fp uint64) []Hit {
	var h [Bucket]Hit
	return h[:ix.Lookup(fp, &h)]
}

func TestFindsWhatWasInserted(t *testing.T) {
	ix := New(1 << 16)
	r := rand.New(rand.NewPCG(3, 4))
	ix.SetHead(0, 1<<30)
	ix.SetHead(1, 1<<30)
	type put struct {
		fp  uint64
		hit Hit
	}
	var puts []put
	for range 1 << 13 { // an eighth full: hardly a bucket overflows
		p := put{r.Uint64() >> 18, Hit{uint8(r.IntN(2)), r.Uint64N(1<<30) + 32}}
		puts = append(puts, p)
		ix.Insert(p.fp, p.hit.Log, p.hit.Position)
	}
	lost := 0
	for _, p := range puts {
		if !slices.Contains(lookup(ix, p.fp), p.hit) {
			lost++
		}
	}
	if lost > 8 {
		t.Errorf("%d of %d entries lost in a table an eighth full", lost, len(puts))
	}
}

func TestPositionsBeyond40Bits(t *testing.T) {
	ix := New(64)
	head := uint64(5)<<40 + 1000
	ix.SetTail(0, head-1<<30)
	ix.SetHead(0, head)
	for i, p := range []uint64{head, head - 1, head - 999, head - 1001, head - 1<<30} {
		fp := uint64(i)
		ix.Insert(fp, 0, p)
		if !slices.Contains(lookup(ix, fp), Hit{0, p}) {
			t.Errorf("position %#x came back as %v", p, lookup(ix, fp))
		}
	}
}

func TestTail(t *testing.T) {
	ix := New(64)
	ix.SetHead(1, 10000)
	ix.Insert(7, 1, 500)
	ix.SetTail(1, 501)
	if h := lookup(ix, 7); len(h) != 0 {
		t.Errorf("an entry below the tail was found: %v", h)
	}
	ix.SetTail(1, 500)
	if h := lookup(ix, 7); len(h) != 1 {
		t.Error("an entry at the tail was not found")
	}
}

func TestOldestGivesWayAndTwinsAreFew(t *testing.T) {
	ix := New(Bucket) // one bucket
	ix.SetHead(0, 1<<20)
	for i := range uint64(Bucket) {
		ix.Insert(i, 0, 1000+i)
	}
	ix.Insert(100, 0, 2000)
	if len(lookup(ix, 0)) != 0 || len(lookup(ix, 1)) != 1 || len(lookup(ix, 100)) != 1 {
		t.Error("not the oldest entry gave way")
	}
	for i := range uint64(5) {
		ix.Insert(100, 0, 3000+i)
	}
	got := lookup(ix, 100)
	slices.SortFunc(got, func(a, b Hit) int { return int(a.Position) - int(b.Position) })
	if !slices.Equal(got, []Hit{{0, 3002}, {0, 3003}, {0, 3004}}) {
		t.Errorf("twins = %v, want the three newest", got)
	}
	if len(lookup(ix, 3)) != 1 {
		t.Error("one name's many places pushed out another name")
	}
}

func TestOlderEntriesDoNotPushOutNewerOnes(t *testing.T) {
	ix := New(Bucket)
	ix.SetHead(0, 1<<20)
	for i := range uint64(Bucket) {
		ix.Insert(i, 0, 5000+i)
	}
	ix.Insert(100, 0, 4000)
	if len(lookup(ix, 100)) != 0 || len(lookup(ix, 0)) != 1 {
		t.Error("an entry older than the whole bucket pushed out a newer one")
	}
	ix.Insert(7, 0, 6000)
	ix.Insert(7, 0, 6001)
	ix.Insert(7, 0, 3000)
	if got := lookup(ix, 7); slices.Contains(got, Hit{0, 3000}) || !slices.Contains(got, Hit{0, 6000}) {
		t.Errorf("twins = %v, want the newer three", got)
	}
}

func TestModel(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		ix := New(1 << 12)
		heads := [Logs]uint64{rapid.Uint64Range(1, 1<<45).Draw(t, "head0"), rapid.Uint64Range(1, 1<<45).Draw(t, "head1")}
		model := map[Hit]uint64{}
		for range rapid.IntRange(1, 200).Draw(t, "n") {
			log := rapid.Uint8Range(0, 1).Draw(t, "log")
			heads[log] += rapid.Uint64Range(1, 1<<20).Draw(t, "step")
			ix.SetHead(log, heads[log])
			fp := rapid.Uint64Range(0, 1<<46-1).Draw(t, "fp")
			ix.Insert(fp, log, heads[log])
			model[Hit{log, heads[log]}] = fp
		}
		for h, fp := range model {
			for _, got := range lookup(ix, fp) {
				if _, ok := model[got]; !ok {
					t.Fatalf("lookup of %#x invented %v", fp, got)
				}
			}
			_ = h
		}
	})
}

func TestConcurrent(t *testing.T) {
	ix := New(1 << 10)
	ix.SetHead(0, 1<<30)
	var wg sync.WaitGroup
	for g := range uint64(4) {
		wg.Go(func() {
			r := rand.New(rand.NewPCG(g, 1))
			for range 5000 {
				fp := r.Uint64() >> 18
				ix.Insert(fp, uint8(g&1), r.Uint64N(1<<30)+1)
				lookup(ix, fp)
			}
		})
	}
	wg.Wait()
}

func BenchmarkLookupMiss(b *testing.B) {
	ix := New(1 << 22)
	r := rand.New(rand.NewPCG(1, 1))
	var h [Bucket]Hit
	for b.Loop() {
		ix.Lookup(r.Uint64()>>18, &h)
	}
}
