package chaos

import (
	"math"
	"math/rand/v2"
	"os"
	"path/filepath"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
)

// cacheOf makes a directory of files that look like a cache.
func cacheOf(t *testing.T) (dir string, before map[string][]byte) {
	t.Helper()
	dir, before = t.TempDir(), map[string][]byte{}
	for i, name := range []string{"a/1", "a/2", "b/c/3", "4", "empty", ballastName} {
		path := filepath.Join(dir, name)
		if err := os.MkdirAll(filepath.Dir(path), 0o755); err != nil {
			t.Fatal(err)
		}
		b := make([]byte, 1000*i)
		if name == "empty" {
			b = nil
		}
		if err := os.WriteFile(path, b, 0o600); err != nil {
			t.Fatal(err)
		}
		before[path] = b
	}
	return dir, before
}

func read(t *testing.T, paths map[string][]byte) map[string][]byte {
	t.Helper()
	out := map[string][]byte{}
	for path := range paths {
		b, err := os.ReadFile(path)
		if err != nil {
			t.Fatal(err)
		}
		out[path] = b
	}
	return out
}

func TestDamageIsRealAndRepeatable(t *testing.T) {
	for _, truncate := range []bool{true, false} {
		damaged, total := false, 0
		for seed := range uint64(10) {
			dir, before := cacheOf(t)
			places, err := damageCache(dir, rand.New(rand.NewPCG(seed, 1)), truncate)
			if err != nil {
				t.Fatal(err)
			}
			total += places
			after := read(t, before)
			for path, b := range after {
				damaged = damaged || !cmp.Equal(b, before[path])
				if !truncate && len(b) != len(before[path]) {
					t.Errorf("flipping bits made %d bytes of %d", len(b), len(before[path]))
				}
				if filepath.Base(path) == ballastName && len(b) != len(before[path]) {
					t.Error("the ballast is no part of the cache")
				}
			}
		}
		if !damaged || total == 0 {
			t.Errorf("%d places, damaged %v (truncate: %v)", total, damaged, truncate)
		}
	}
}

func TestEmptyKeepsTheDirectory(t *testing.T) {
	dir, _ := cacheOf(t)
	if err := empty(dir); err != nil {
		t.Fatal(err)
	}
	entries, err := os.ReadDir(dir)
	if err != nil || len(entries) > 0 {
		t.Errorf("left: %v, %v", entries, err)
	}
}

func TestHowSoonConnectionsPassAgain(t *testing.T) {
	start := time.Unix(1000, 0)
	at := func(ms int, w way) probe {
		return probe{began: start.Add(time.Duration(ms) * time.Millisecond), way: w}
	}
	for name, c := range map[string]struct {
		probes      []probe
		passed      time.Duration
		ok          bool
		accelerated time.Duration
		again       bool
	}{
		"nothing lost": {[]probe{at(-50, accelerated), at(0, raw), at(50, raw), at(100, accelerated)}, 0, true, 100 * time.Millisecond, true},
		"a gap":        {[]probe{at(0, lost), at(50, raw), at(100, lost), at(150, raw), at(200, raw)}, 150 * time.Millisecond, true, 0, false},
		"never":        {[]probe{at(0, raw), at(50, lost)}, 0, false, 0, false},
		"out of order": {[]probe{at(100, raw), at(0, lost), at(50, raw), at(150, accelerated)}, 50 * time.Millisecond, true, 150 * time.Millisecond, true},
		"none at all":  {nil, 0, false, 0, false},
		"lost before":  {[]probe{at(-50, lost), at(0, accelerated)}, 0, true, 0, true},
	} {
		passed, ok := passedAfter(c.probes, start, start.Add(time.Second))
		again, accelerated := acceleratedAfter(c.probes, start)
		if passed != c.passed || ok != c.ok || again != c.accelerated || accelerated != c.again {
			t.Errorf("%s: passing after %v (%v), accelerated after %v (%v)", name, passed, ok, again, accelerated)
		}
	}
}

func TestSlopeOfMemory(t *testing.T) {
	rng := rand.New(rand.NewPCG(1, 1))
	for name, c := range map[string]struct {
		perSecond, noise float64
		growing          bool
	}{
		"growing":       {1000, 0, true},
		"flat":          {0, 1 << 20, false},
		"hidden growth": {100_000, 1 << 20, true},
	} {
		life := Life{}
		for i := range 400 {
			life.Samples = append(life.Samples, Sample{At: time.Unix(int64(i), 0), RSS: 100<<20 + int64(float64(i)*c.perSecond+rng.NormFloat64()*c.noise), Files: i})
		}
		life.condense()
		if life.Seconds != 399 || life.MaxFiles != 399 || c.growing != (life.SlopePerHour > 3*life.SlopeError) || math.Abs(life.SlopePerHour-3600*c.perSecond) > 4*life.SlopeError+1 {
			t.Errorf("%s: %v s, slope %v ± %v bytes per hour", name, life.Seconds, life.SlopePerHour, life.SlopeError)
		}
	}
}

func TestThisProcessIsSeen(t *testing.T) {
	s, err := look(os.Getpid())
	if err != nil || s.RSS < 1<<20 || s.Files < 3 {
		t.Errorf("%+v, %v", s, err)
	}
}
