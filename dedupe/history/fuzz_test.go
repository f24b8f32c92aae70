package history

import (
	"os"
	"path/filepath"
	"testing"
)

// FuzzFiles puts any bytes where a file of a cache ought to be: the cache opens or the file is refused, with and without a key, and what is read
// from it is within bounds.
func FuzzFiles(f *testing.F) {
	x := Extent{0, 0, 8}
	for _, key := range [][]byte{nil, testKey(1)} {
		dir := f.TempDir()
		c, err := newCrypt(key, LogID{1})
		if err != nil {
			f.Fatal(err)
		}
		l := lists{dir: dir, id: LogID{1}, crypt: c}
		if err := l.add(3, 100, []uint64{1, 2, 3}); err != nil {
			f.Fatal(err)
		}
		if err := l.add(4, BlockBytes, []uint64{9}); err != nil {
			f.Fatal(err)
		}
		if err := l.close(); err != nil {
			f.Fatal(err)
		}
		if err := os.WriteFile(filepath.Join(dir, "MANIFEST"), []byte("manifest"), 0o600); err != nil {
			f.Fatal(err)
		}
		if err := writeSums(dir, dir); err != nil {
			f.Fatal(err)
		}
		for _, name := range []string{lengthsName, anchorsName, sumsName} {
			b, err := os.ReadFile(filepath.Join(dir, name))
			if err != nil {
				f.Fatal(err)
			}
			f.Add(b, key != nil)
			f.Add(b[:len(b)-1], key != nil)
		}
		top, err := newCrypt(key, LogID{})
		if err != nil {
			f.Fatal(err)
		}
		f.Add(cryptState(testLogs(), top), key != nil)
	}
	f.Add([]byte(sumsMagic+"\xff"), false)
	f.Fuzz(func(t *testing.T, b []byte, encrypted bool) {
		dir := t.TempDir()
		for _, name := range []string{lengthsName, anchorsName, sumsName, "state"} {
			if err := os.WriteFile(filepath.Join(dir, name), b, 0o600); err != nil {
				t.Fatal(err)
			}
		}
		var key []byte
		if encrypted {
			key = testKey(1)
		}
		c, err := newCrypt(key, LogID{1})
		if err != nil {
			t.Fatal(err)
		}
		l := lists{dir: dir, id: LogID{1}, crypt: c}
		held, _ := l.lengths(x) // a list that is refused is empty
		for _, h := range held {
			if !x.Covers(h.Number) || h.Length <= 0 || h.Length > BlockBytes {
				t.Errorf("%+v", h)
			}
		}
		for offset := int64(0); ; {
			records, next, err := l.records(offset)
			if err != nil || len(records) == 0 {
				break
			}
			if len(records) > MaxAnchorBytes || next <= offset || next > int64(len(b)) {
				t.Fatalf("%d bytes of records up to %d of %d", len(records), next, len(b))
			}
			offset = next
			for rec, rest := nextAnchors(records); rec != nil; rec, rest = nextAnchors(rest) {
				if _, _, ok := parseAnchors(rec); !ok {
					t.Error("a record that does not parse was passed on")
				}
			}
		}
		checkSums(dir, dir)
		if info, err := Inspect(dir, key); err == nil && info.Logs[0].Tail > info.Logs[0].Head {
			t.Errorf("logs %+v", info.Logs)
		}
	})
}

// FuzzNames reads any name of a directory.
func FuzzNames(f *testing.F) {
	f.Add(Extent{0, 0, 8}.name())
	f.Add(Extent{1, 1 << 40, maxBlocksSanity}.name())
	f.Add("own-0000000000000001-00000000")
	f.Fuzz(func(t *testing.T, s string) {
		if x, ok := parseName(s); ok && (x.name() != s || !x.Valid()) {
			t.Errorf("%q is read as %v", s, x)
		}
	})
}
