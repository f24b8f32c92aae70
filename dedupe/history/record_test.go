package history

import (
	"bytes"
	"encoding/hex"
	"testing"

	"github.com/google/go-cmp/cmp"
)

func TestGoldenBlock(t *testing.T) {
	rec := appendBlock(nil, LogID{1, 2, 3}, 9, 77, About{Next: 5}, []byte("bytes of a block"))
	want := "77704231" + "01020300000000000000000000000000" + "0000000000000009" + "000000000000004d" + "0000000000000005" + "00000010" + "SUM" + hex.EncodeToString([]byte("bytes of a block"))
	got := hex.EncodeToString(rec[:48]) + "SUM" + hex.EncodeToString(rec[56:])
	if got != want {
		t.Errorf("record\n got %s\nwant %s", got, want)
	}
	if sum := hex.EncodeToString(rec[48:56]); sum != "2905a443a2aef4b9" {
		t.Errorf("checksum %s: caches on disk would go cold", sum)
	}
}

func TestBlockRecord(t *testing.T) {
	for _, about := range []About{{Next: 3}, {Next: 3, Scope: 4}} {
		testBlockRecord(t, about)
	}
}

func testBlockRecord(t *testing.T, about About) {
	id := LogID{1}
	data := bytes.Repeat([]byte("x"), BlockBytes)
	rec := appendBlock([]byte("before"), id, 1, 2, about, data)[6:]
	got, read, err := parseBlock(rec, id, 2)
	if err != nil || read != about || !bytes.Equal(got, data) {
		t.Fatal(read, err)
	}
	if _, _, err := parseBlock(rec, LogID{2}, 2); err == nil {
		t.Error("a block of another log passed")
	}
	if _, _, err := parseBlock(rec, id, 4); err == nil {
		t.Error("another block passed")
	}
	for i := 0; i < len(rec); i += 1 + i/3 {
		rec[i] ^= 0x40
		if _, _, err := parseBlock(rec, id, 2); err == nil {
			t.Errorf("flipped byte %d passed", i)
		}
		rec[i] ^= 0x40
		if _, _, err := parseBlock(rec[:i], id, 2); err == nil {
			t.Errorf("a record cut at %d passed", i)
		}
	}
}

func TestStateRecord(t *testing.T) {
	want := [2]State{{LogID{1}, 5, 7}, {LogID{2}, 0, 1 << 50}}
	rec := appendState(nil, want)
	got, ok := parseState(rec)
	if diff := cmp.Diff(want, got); !ok || diff != "" {
		t.Fatal(diff)
	}
	for i := range rec {
		rec[i] ^= 1
		if _, ok := parseState(rec); ok {
			t.Errorf("flipped byte %d passed", i)
		}
		rec[i] ^= 1
	}
}

func FuzzBlockRecord(f *testing.F) {
	f.Add(appendBlock(nil, LogID{1}, 1, 2, About{Next: 3}, []byte("data")), uint64(2))
	f.Add(appendBlock(nil, LogID{1}, 1, 2, About{Next: 3, Scope: 4}, []byte("data")), uint64(2))
	f.Add([]byte(blockMagic), uint64(0))
	f.Fuzz(func(t *testing.T, rec []byte, number uint64) {
		id := LogID{1}
		data, about, err := parseBlock(rec, id, number)
		if err != nil {
			return
		}
		writer := appendBlock(nil, id, 0, number, about, data)
		if len(writer) != len(rec) || !bytes.Equal(writer[56:], rec[56:]) {
			t.Fatal("accepted what writing does not make")
		}
	})
}

func FuzzLists(f *testing.F) {
	f.Add(appendMeta(nil, 7, 1000))
	f.Add(appendAnchors(nil, 7, []uint64{1, 2, 3}))
	f.Add(appendState(nil, [2]State{}))
	f.Fuzz(func(t *testing.T, rec []byte) {
		if number, n, ok := parseMeta(rec); ok && !bytes.Equal(appendMeta(nil, number, n)[:12], rec[:12]) {
			t.Fatal("meta")
		}
		if number, packed, ok := parseAnchors(rec); ok && !bytes.Equal(appendAnchors(nil, number, packed), rec) {
			t.Fatal("anchors")
		}
		if logs, ok := parseState(rec); ok && !bytes.Equal(appendState(nil, logs), rec) {
			t.Fatal("state")
		}
	})
}
