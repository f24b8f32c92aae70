package history

import (
	"bytes"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
)

func epochsConfig(dir string) EpochsConfig {
	return EpochsConfig{Dir: dir, SizeBytes: 1 << 30, BlocksPerEpoch: 4, Writer: 3}
}

func openEpochs(t testing.TB, cfg EpochsConfig) *Epochs {
	t.Helper()
	s, err := OpenEpochs(cfg)
	if err != nil {
		t.Fatal(err)
	}
	return s
}

func closeEpochs(t testing.TB, s *Epochs) {
	t.Helper()
	if err := s.Close(time.Second); err != nil {
		t.Fatal(err)
	}
}

// testLogs are the logs of the tests.
func testLogs() [2]State {
	return [2]State{{ID: LogID{1}, Head: 1 << 40}, {ID: LogID{2}, Head: 1 << 40}}
}

// content is a block's bytes in the tests.
func content(k Key) []byte {
	return bytes.Repeat(fmt.Appendf(nil, "%d/%d ", k.Log, k.Number), 3000)
}

func putAll(t testing.TB, s *Epochs, log uint8, numbers ...uint64) {
	t.Helper()
	for _, n := range numbers {
		k := Key{log, n}
		if err := s.Put(&Sealed{Key: k, Next: n + 1, Scope: uint32(n % 3), Data: content(k), Anchors: []uint64{PackAnchor(50, n)}}); err != nil {
			t.Fatalf("put %v: %v", k, err)
		}
	}
}

// readable lists which of the first blocks can be read.
func readable(t testing.TB, s *Epochs, log uint8, count uint64) (out []uint64) {
	t.Helper()
	for n := range count {
		k := Key{log, n}
		data, about, err := s.Get(k)
		switch {
		case errors.Is(err, ErrAbsent):
			continue
		case err != nil:
			t.Fatalf("get %v: %v", k, err)
		case !bytes.Equal(data, content(k)) || about != (About{n + 1, uint32(n % 3)}):
			t.Fatalf("get %v: wrong bytes", k)
		}
		out = append(out, n)
	}
	return out
}

func want(t testing.TB, what string, got []uint64, text string) {
	t.Helper()
	if fmt.Sprint(got) != text {
		t.Errorf("%s: %v, not %s", what, got, text)
	}
}

func TestEpochsReopen(t *testing.T) {
	cfg := epochsConfig(t.TempDir())
	s := openEpochs(t, cfg)
	if err := s.SetLogs(testLogs()); err != nil {
		t.Fatal(err)
	}
	putAll(t, s, 0, 0, 1, 2, 3, 4, 9, 5)
	putAll(t, s, 1, 2, 6)
	if err := s.Note(Key{0, 2}, 0); err != nil {
		t.Fatal(err)
	}
	closeEpochs(t, s)

	s = openEpochs(t, cfg)
	defer closeEpochs(t, s)
	if diff := cmp.Diff(testLogs(), s.Logs()); diff != "" {
		t.Error(diff)
	}
	extents := [2][]Extent{{{0, 0, 4}, {0, 4, 4}, {0, 9, 4}}, {{1, 2, 4}, {1, 6, 4}}}
	if diff := cmp.Diff(extents, s.Status().Extents); diff != "" {
		t.Error(diff)
	}
	want(t, "own log", readable(t, s, 0, 12), "[0 1 2 3 4 5 9]")
	want(t, "peer's log", readable(t, s, 1, 12), "[2 6]")
	list, err := s.Lengths(extents[0][0], 0)
	if err != nil || len(list) != 3 || list[2].Number != 3 {
		t.Errorf("lengths: %v, %v", list, err)
	}
	putAll(t, s, 0, 6, 20) // an epoch that was closed, and a new one
	want(t, "after writing on", readable(t, s, 0, 21), "[0 1 2 3 4 5 6 9 20]")
}

func TestEpochsDropAndReset(t *testing.T) {
	cfg := epochsConfig(t.TempDir())
	s := openEpochs(t, cfg)
	logs := testLogs()
	if err := s.SetLogs(logs); err != nil {
		t.Fatal(err)
	}
	putAll(t, s, 0, 0, 4, 8)
	putAll(t, s, 1, 0, 4)
	logs[0].Tail = 8 << BlockShift
	logs[1] = State{ID: LogID{7}}
	if err := s.SetLogs(logs); err != nil {
		t.Fatal(err)
	}
	putAll(t, s, 1, 1) // the same name as an epoch that goes
	want(t, "own log", readable(t, s, 0, 12), "[8]")
	want(t, "peer's log", readable(t, s, 1, 12), "[1]")
	if err := s.Put(&Sealed{Key: Key{0, 3}, Data: []byte("late")}); !errors.Is(err, ErrAbsent) {
		t.Errorf("a block below the tail: %v", err)
	}
	closeEpochs(t, s)
	entries, err := os.ReadDir(cfg.Dir)
	if err != nil {
		t.Fatal(err)
	}
	for _, d := range entries {
		if strings.HasPrefix(d.Name(), doomedPrefix) {
			t.Errorf("%s was left behind", d.Name())
		}
	}
}

func TestManyEpochsFewOpen(t *testing.T) {
	cfg := epochsConfig(t.TempDir())
	cfg.BlocksPerEpoch = 1
	s := openEpochs(t, cfg)
	defer closeEpochs(t, s)
	if err := s.SetLogs(testLogs()); err != nil {
		t.Fatal(err)
	}
	const n = maxOpen + 8
	for i := range uint64(n) {
		putAll(t, s, 0, i)
	}
	if got := readable(t, s, 0, n); len(got) != n {
		t.Errorf("%d of %d can be read", len(got), n)
	}
	open, written := 0, 0
	for _, e := range s.epochs[0] {
		o, w := e.isOpen()
		if o {
			open++
		}
		if w {
			written++
		}
	}
	if open > maxOpen+1 || written > maxWritten+1 {
		t.Errorf("%d open, %d for writing", open, written)
	}
}

// TestDamagedDirectories breaks something of a closed cache: it opens, and what is not touched can be read.
func TestDamagedDirectories(t *testing.T) {
	first := Extent{0, 0, 4}.name()
	for _, c := range []struct {
		name   string
		damage func(dir string) error
		want   string
	}{
		{"state cut", func(dir string) error { return os.Truncate(filepath.Join(dir, "state"), 10) }, "[]"},
		{"state gone", func(dir string) error { return os.Remove(filepath.Join(dir, "state")) }, "[]"},
		{"database gone", func(dir string) error { return os.RemoveAll(filepath.Join(dir, first, "blocks")) }, "[4 5]"},
		{"epoch gone", func(dir string) error { return os.RemoveAll(filepath.Join(dir, first)) }, "[4 5]"},
		{"manifest cut", func(dir string) error { return os.Truncate(filepath.Join(dir, first, "blocks", "MANIFEST"), 3) }, "[4 5]"},
		{"values cut", func(dir string) error { return os.Truncate(filepath.Join(dir, first, "blocks", "000001.vlog"), 30) }, "[4 5]"},
		{"a file of that name", func(dir string) error {
			return errors.Join(os.RemoveAll(filepath.Join(dir, first)), os.WriteFile(filepath.Join(dir, first), nil, 0o600))
		}, "[4 5]"},
		{"overlapping epochs", func(dir string) error { return os.Mkdir(filepath.Join(dir, Extent{0, 2, 4}.name()), 0o700) }, "[0 1 4 5]"},
		{"lists gone", func(dir string) error {
			return errors.Join(os.Remove(filepath.Join(dir, first, lengthsName)), os.Remove(filepath.Join(dir, first, anchorsName)))
		}, "[0 1 4 5]"},
	} {
		t.Run(c.name, func(t *testing.T) {
			cfg := epochsConfig(t.TempDir())
			s := openEpochs(t, cfg)
			if err := s.SetLogs(testLogs()); err != nil {
				t.Fatal(err)
			}
			putAll(t, s, 0, 0, 1, 4, 5)
			closeEpochs(t, s)
			if err := c.damage(cfg.Dir); err != nil {
				t.Fatal(err)
			}
			s = openEpochs(t, cfg)
			defer closeEpochs(t, s)
			if err := s.SetLogs(testLogs()); err != nil {
				t.Fatal(err)
			}
			want(t, "readable", readable(t, s, 0, 12), c.want)
			if c.name != "a file of that name" {
				putAll(t, s, 0, 2)
			}
			putAll(t, s, 0, 6, 30)
			if got := readable(t, s, 0, 31); got[len(got)-1] != 30 {
				t.Errorf("what was written since: %v", got)
			}
		})
	}
}

func TestSizeIsKept(t *testing.T) {
	cfg := epochsConfig(t.TempDir())
	cfg.SizeBytes = 8 << 20
	s := openEpochs(t, cfg)
	defer closeEpochs(t, s)
	if err := s.SetLogs(testLogs()); err != nil {
		t.Fatal(err)
	}
	data := make([]byte, BlockBytes)
	var err error
	for n := uint64(0); err == nil && n < 100; n++ {
		err = s.Put(&Sealed{Key: Key{0, n}, Data: data})
	}
	if !errors.Is(err, ErrNoRoom) {
		t.Errorf("a hundred blocks in 8 MiB: %v", err)
	}
	if du := diskBytes(cfg.Dir); du > cfg.SizeBytes+2<<20 {
		t.Errorf("%d bytes on disk", du)
	}
}

func TestInspectAndVerify(t *testing.T) {
	dir := t.TempDir()
	if _, err := Inspect(filepath.Join(dir, "none"), nil); !errors.Is(err, os.ErrNotExist) {
		t.Errorf("no directory: %v", err)
	}
	cfg := epochsConfig(dir)
	s := openEpochs(t, cfg)
	if err := s.SetLogs(testLogs()); err != nil {
		t.Fatal(err)
	}
	putAll(t, s, 0, 0, 1, 2, 3, 4)
	putAll(t, s, 1, 8)
	info, err := Inspect(dir, nil)
	if err != nil || !info.InUse || len(info.Epochs[0]) != 2 || info.Epochs[0][0].Blocks != 4 || info.Epochs[1][0].First != 8 {
		t.Errorf("while it is open: %+v, %v", info, err)
	}
	if _, err := Verify(t.Context(), dir, nil, nil); !errors.Is(err, ErrLocked) {
		t.Errorf("verify while it is open: %v", err)
	}
	closeEpochs(t, s)
	calls := 0
	r, err := Verify(t.Context(), dir, nil, func(done, all int) {
		if calls++; done != calls || all != 6 {
			t.Errorf("progress %d of %d", done, all)
		}
	})
	if err != nil || r.Blocks != 6 || r.Damaged != 0 || calls != 6 {
		t.Errorf("a sound cache: %+v, %v", r, err)
	}
	flip(t, filepath.Join(dir, Extent{0, 0, 4}.name(), "blocks", "000001.vlog"), content(Key{0, 2}))
	if r, err = Verify(t.Context(), dir, nil, nil); err != nil || r.Blocks != 6 || r.Damaged != 1 {
		t.Errorf("a flipped byte: %+v, %v", r, err)
	}
}

// flip changes a byte in the middle of what is found in a file.
func flip(t testing.TB, name string, what []byte) {
	t.Helper()
	b, err := os.ReadFile(name)
	if err != nil {
		t.Fatal(err)
	}
	at := bytes.Index(b, what)
	if at < 0 {
		t.Fatal("the block is not in the file")
	}
	f, err := os.OpenFile(name, os.O_WRONLY, 0)
	if err != nil {
		t.Fatal(err)
	}
	defer f.Close()
	if _, err := f.WriteAt([]byte{^b[at+500]}, int64(at+500)); err != nil {
		t.Fatal(err)
	}
}
