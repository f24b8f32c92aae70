package anchor

import (
	"bytes"
	"math/rand/v2"
	"testing"

	"github.com/google/go-cmp/cmp"
	"pgregory.net/rapid"
)

// sample is a fixed pseudo-random stream (PCG, seed 1, 2).
func sample(n int) []byte {
	r := rand.New(rand.NewPCG(1, 2))
	b := make([]byte, n)
	for i := range b {
		b[i] = byte(r.Uint32())
	}
	return b
}

// points lists the anchors of b with the scanner.
func points(b []byte, density int) (at []int) {
	var h uint64
	for i := 0; i < len(b); {
		n, hh, ok := Scan(h, Mask(density), b[i:])
		i, h = i+n, hh
		if ok && i >= Window {
			at = append(at, i)
		}
	}
	return at
}

// slowPoints computes every window's hash from nothing.
func slowPoints(b []byte, density int) (at []int) {
	for i := Window; i <= len(b); i++ {
		var h uint64
		for _, c := range b[i-Roller : i] {
			h = h*2 + gear[c]
		}
		if h>>(64-density) == 0 {
			at = append(at, i)
		}
	}
	return at
}

func TestGoldenAnchors(t *testing.T) {
	b := sample(4096)
	if diff := cmp.Diff([]int{96, 532, 602, 1242, 1365, 1544, 1617, 1714, 2147, 2181, 2403, 2656, 2736, 2941, 3078, 3178, 3296, 3437, 3912, 3970, 4092}, points(b, 8)); diff != "" {
		t.Errorf("anchors of the fixed stream changed; caches on disk would go cold (-want +got):\n%s", diff)
	}
	if got, want := Fingerprint(b), uint64(0x1f7ad0681406); got != want {
		t.Errorf("Fingerprint = %#x, want %#x", got, want)
	}
}

func TestScanAgreesWithSlowModel(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		b := rapid.SliceOfN(rapid.Byte(), 0, 3000).Draw(t, "bytes")
		d := rapid.IntRange(2, MaxDensity).Draw(t, "density")
		if diff := cmp.Diff(slowPoints(b, d), points(b, d)); diff != "" {
			t.Fatalf("density %d (-slow +scan):\n%s", d, diff)
		}
	})
}

func TestMasksNest(t *testing.T) {
	b := sample(1 << 18)
	dense := map[int]bool{}
	for _, p := range points(b, MinDensity) {
		dense[p] = true
	}
	for d := MinDensity + 1; d <= MaxDensity; d++ {
		for _, p := range points(b, d) {
			if !dense[p] {
				t.Fatalf("anchor %d of density %d is none of density %d", p, d, MinDensity)
			}
		}
	}
}

func TestDensity(t *testing.T) {
	b := sample(1 << 20)
	for d := MinDensity; d <= 12; d++ {
		want := len(b) >> d
		if got := len(points(b, d)); got < want*8/10 || got > want*12/10 {
			t.Errorf("density %d: %d anchors in 1 MiB, want about %d", d, got, want)
		}
	}
}

func TestRollTakesTheLastWindow(t *testing.T) {
	b := sample(100)
	if Roll(7, b) != Roll(0, b[100-Roller:]) {
		t.Error("the hash depends on more than the last 64 bytes")
	}
}

func TestCompare(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		a := rapid.SliceOfN(rapid.Byte(), 0, 1200).Draw(t, "a")
		b := bytes.Clone(a)
		for range rapid.IntRange(0, 3).Draw(t, "edits") {
			if len(b) > 0 {
				b[rapid.IntRange(0, len(b)-1).Draw(t, "at")] ^= 1
			}
		}
		b = b[:rapid.IntRange(0, len(b)).Draw(t, "cut")]
		f := 0
		for f < len(a) && f < len(b) && a[f] == b[f] {
			f++
		}
		if got := Forward(a, b); got != f {
			t.Fatalf("Forward = %d, want %d", got, f)
		}
		k := 0
		for k < len(a) && k < len(b) && a[len(a)-1-k] == b[len(b)-1-k] {
			k++
		}
		if got := Backward(a, b); got != k {
			t.Fatalf("Backward = %d, want %d", got, k)
		}
	})
}

func BenchmarkScan(b *testing.B) {
	s := sample(1 << 18)
	b.SetBytes(int64(len(s)))
	for b.Loop() {
		points(s, 8)
	}
}

func BenchmarkForward(b *testing.B) {
	s := sample(1 << 18)
	c := bytes.Clone(s)
	b.SetBytes(int64(len(s)))
	for b.Loop() {
		Forward(s, c)
	}
}
