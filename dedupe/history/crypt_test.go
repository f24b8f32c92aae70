package history

import (
	"bytes"
	"encoding/binary"
	"errors"
	"math/rand/v2"
	"os"
	"path/filepath"
	"testing"

	"github.com/google/go-cmp/cmp"
)

// testKey makes a key of a byte.
func testKey(b byte) []byte { return bytes.Repeat([]byte{b}, KeyBytes) }

// encryptedCache writes a closed cache with a key.
func encryptedCache(t testing.TB, key []byte) EpochsConfig {
	t.Helper()
	cfg := epochsConfig(t.TempDir())
	cfg.Key = key
	s := openEpochs(t, cfg)
	if err := s.SetLogs(testLogs()); err != nil {
		t.Fatal(err)
	}
	putAll(t, s, 0, 0, 1, 4, 5)
	putAll(t, s, 1, 0, 1)
	closeEpochs(t, s)
	return cfg
}

// files reads all files below a directory.
func files(t testing.TB, dir string) map[string][]byte {
	t.Helper()
	out := map[string][]byte{}
	err := filepath.WalkDir(dir, func(path string, d os.DirEntry, err error) error {
		if err == nil && d.Type().IsRegular() {
			out[path], err = os.ReadFile(path)
		}
		return err
	})
	if err != nil {
		t.Fatal(err)
	}
	return out
}

// TestNothingInClear looks for blocks, anchors and lengths in the files of a cache with and without a key.
func TestNothingInClear(t *testing.T) {
	block := content(Key{0, 4})
	anchor := binary.BigEndian.AppendUint64(nil, PackAnchor(50, 4))
	length := appendMeta(nil, 4, len(block))
	state := appendState(nil, testLogs())
	for _, c := range []struct {
		key   []byte
		found bool
	}{{nil, true}, {testKey(1), false}} {
		cfg := encryptedCache(t, c.key)
		for name, what := range map[string][]byte{"block": block[:64], "anchor": anchor, "length": length, "state": state} {
			found := false
			for _, b := range files(t, cfg.Dir) {
				found = found || bytes.Contains(b, what)
			}
			if found != c.found {
				t.Errorf("with key %x a %s in clear: %v", c.key, name, found)
			}
		}
	}
}

func TestEncryptedCache(t *testing.T) {
	cfg := encryptedCache(t, testKey(1))
	s := openEpochs(t, cfg)
	if diff := cmp.Diff(testLogs(), s.Logs()); diff != "" {
		t.Error(diff)
	}
	want(t, "own log", readable(t, s, 0, 12), "[0 1 4 5]")
	putAll(t, s, 0, 2, 8)
	if err := s.Note(Key{0, 1}, 0); err != nil {
		t.Fatal(err)
	}
	list, err := s.Lengths(Extent{0, 0, 4}, 0)
	if err != nil || len(list) != 2 || list[1].Number != 2 || list[1].Length != len(content(Key{0, 2})) {
		t.Errorf("lengths: %v, %v", list, err)
	}
	store := Open(Config{Disk: s})
	got := map[uint64]bool{}
	store.EachAnchors(func(k Key, packed []uint64) bool {
		if len(packed) != 1 || packed[0] != PackAnchor(50, k.Number) {
			t.Errorf("anchors of %v: %x", k, packed)
		}
		got[k.Number] = k.Log == 0 || got[k.Number]
		return true
	})
	if len(got) != 6 || !got[8] {
		t.Errorf("anchors of %v", got)
	}
	if err := store.Close(); err != nil {
		t.Fatal(err)
	}
	r, err := Verify(t.Context(), cfg.Dir, testKey(1), nil)
	if err != nil || r.Damaged != 0 || r.Blocks != 7 {
		t.Errorf("verify: %+v, %v", r, err)
	}
}

// TestOtherKey opens a cache with another key, none, or one it did not have: it is cold, usable, and what was there is gone.
func TestOtherKey(t *testing.T) {
	for _, c := range []struct {
		name         string
		before, then []byte
	}{
		{"another key", testKey(1), testKey(2)},
		{"no key any more", testKey(1), nil},
		{"a key for the first time", nil, testKey(2)},
	} {
		t.Run(c.name, func(t *testing.T) {
			cfg := encryptedCache(t, c.before)
			if _, err := Inspect(cfg.Dir, c.then); !errors.Is(err, ErrKey) {
				t.Errorf("inspect: %v", err)
			}
			cfg.Key = c.then
			s := openEpochs(t, cfg)
			if logs := s.Logs(); logs != [2]State{} {
				t.Errorf("logs %v", logs)
			}
			if err := s.SetLogs(testLogs()); err != nil {
				t.Fatal(err)
			}
			want(t, "readable", readable(t, s, 0, 12), "[]")
			putAll(t, s, 0, 3)
			closeEpochs(t, s)
			s = openEpochs(t, cfg)
			want(t, "written since", readable(t, s, 0, 12), "[3]")
			closeEpochs(t, s)
			if _, err := os.Stat(filepath.Join(cfg.Dir, Extent{0, 4, 4}.name())); !errors.Is(err, os.ErrNotExist) {
				t.Errorf("an epoch of before is left: %v", err)
			}
		})
	}
	if _, err := OpenEpochs(EpochsConfig{Dir: t.TempDir(), Key: []byte("short")}); err == nil {
		t.Error("a key of five bytes was taken")
	}
}

// TestEncryptedDamage flips and cuts files at random: the cache opens, and what it gives is right.
func TestEncryptedDamage(t *testing.T) {
	for seed := range uint64(12) {
		r := rand.New(rand.NewPCG(seed, 8))
		cfg := encryptedCache(t, testKey(1))
		for name, b := range files(t, cfg.Dir) {
			if len(b) == 0 || r.IntN(3) == 0 {
				continue
			}
			if r.IntN(3) == 0 {
				b = b[:r.IntN(len(b))]
			}
			for range min(len(b), 5) {
				b[r.IntN(len(b))] ^= 1 << r.IntN(8)
			}
			if err := os.WriteFile(name, b, 0o600); err != nil {
				t.Fatal(err)
			}
		}
		s := openEpochs(t, cfg)
		if err := s.SetLogs(testLogs()); err != nil {
			t.Fatal(err)
		}
		for log := range uint8(2) {
			for _, n := range readable(t, s, log, 12) { // fails on wrong bytes
				if n > 5 {
					t.Errorf("seed %d: block %d was never written", seed, n)
				}
			}
		}
		putAll(t, s, 0, 40)
		closeEpochs(t, s)
	}
}

// TestRecordsAreNotExchanged moves a sealed record to where another one belongs.
func TestRecordsAreNotExchanged(t *testing.T) {
	c, err := newCrypt(testKey(1), LogID{1})
	if err != nil {
		t.Fatal(err)
	}
	other, err := newCrypt(testKey(1), LogID{2})
	if err != nil {
		t.Fatal(err)
	}
	rec := c.append(nil, []byte("record"), aboutBlock, blockKey(0, 1)...)
	if got, err := c.open(nil, rec, aboutBlock, blockKey(0, 1)...); err != nil || string(got) != "record" {
		t.Fatalf("%q, %v", got, err)
	}
	for name, open := range map[string]func() ([]byte, error){
		"another block":   func() ([]byte, error) { return c.open(nil, rec, aboutBlock, blockKey(0, 2)...) },
		"another kind":    func() ([]byte, error) { return c.open(nil, rec, aboutAnchors, blockKey(0, 1)...) },
		"another log":     func() ([]byte, error) { return other.open(nil, rec, aboutBlock, blockKey(0, 1)...) },
		"shorter than it": func() ([]byte, error) { return c.open(nil, rec[:10], aboutBlock, blockKey(0, 1)...) },
	} {
		if _, err := open(); !errors.Is(err, ErrDamaged) {
			t.Errorf("%s: %v", name, err)
		}
	}
}
