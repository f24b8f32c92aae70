package history

import (
	"bytes"
	"os"
	"path/filepath"
	"testing"
)

// TestChangedRecords cuts every record on disk and changes its bytes: none is taken for what it is not, and lists end where they are damaged.
func TestChangedRecords(t *testing.T) {
	state := appendState(nil, testLogs())
	meta := appendMeta(nil, 7, 1000)
	anchors := appendAnchors(nil, 7, []uint64{1, 2, 3})
	try := func(b []byte) {
		if logs, ok := parseState(b); ok && !bytes.Equal(b, state) {
			t.Errorf("state %v", logs)
		}
		if _, _, ok := parseMeta(b); ok && !bytes.Equal(b, meta) {
			t.Errorf("length % x", b)
		}
		if _, _, ok := parseAnchors(b); ok && !bytes.Equal(b, anchors) {
			t.Errorf("anchors % x", b)
		}
		if rec, rest := nextAnchors(b); rec != nil && len(rec)+len(rest) != len(b) {
			t.Errorf("%d and %d bytes of %d", len(rec), len(rest), len(b))
		}
	}
	for _, whole := range [][]byte{state, meta, anchors} {
		for n := range len(whole) + 1 {
			try(whole[:n])
		}
		for i := range whole {
			b := bytes.Clone(whole)
			b[i] ^= 0x81
			try(b)
		}
	}
	turned := testLogs()
	turned[1].Tail, turned[1].Head = 9, 8
	if _, ok := parseState(appendState(nil, turned)); ok {
		t.Error("a tail above its head was taken")
	}
	for _, key := range [][]byte{nil, testKey(1)} {
		dir := t.TempDir()
		c, err := newCrypt(key, LogID{1})
		if err != nil {
			t.Fatal(err)
		}
		l := lists{dir: dir, id: LogID{1}, crypt: c}
		if err := l.add(3, 100, []uint64{1, 2, 3}); err != nil {
			t.Fatal(err)
		}
		if err := l.add(4, 200, []uint64{9}); err != nil {
			t.Fatal(err)
		}
		if err := l.close(); err != nil {
			t.Fatal(err)
		}
		name := filepath.Join(dir, anchorsName)
		whole, err := os.ReadFile(name)
		if err != nil {
			t.Fatal(err)
		}
		count := func(b []byte) (n int) {
			if err := os.WriteFile(name, b, 0o600); err != nil {
				t.Fatal(err)
			}
			records, _, err := l.records(0)
			if err != nil {
				return -1
			}
			for rec, rest := nextAnchors(records); rec != nil; rec, rest = nextAnchors(rest) {
				n++
			}
			return n
		}
		if n := count(whole); n != 2 {
			t.Errorf("%d records of 2", n)
		}
		for n := range whole {
			if count(whole[:n]) > 1 {
				t.Errorf("cut at %d of %d two records are whole", n, len(whole))
			}
			b := bytes.Clone(whole)
			b[n] ^= 0x55
			if n > sidecarHeader && count(b) > 1 {
				t.Errorf("byte %d is changed and two records are whole", n)
			}
		}
		if _, _, err := l.records(int64(len(whole)) + 10); err != nil {
			t.Errorf("behind the end: %v", err)
		}
		if err := os.Remove(name); err != nil {
			t.Fatal(err)
		}
		if _, _, err := l.records(0); err == nil {
			t.Error("a list that is not there was read")
		}
	}
}
