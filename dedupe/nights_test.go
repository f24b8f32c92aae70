package dedupe

import (
	"bytes"
	"fmt"
	"io/fs"
	"math/rand/v2"
	"os"
	"path/filepath"
	"slices"
	"syscall"
	"testing"
)

// dump is a database as a dump writes it: a table of rows whose balance changes, and one to which every change adds a row.
type dump struct {
	balance []int
	history bytes.Buffer
}

func newDump(rows int) *dump { return &dump{balance: make([]int, rows)} }

func (d *dump) day(r *rand.Rand, changes int) {
	for range changes {
		row, by := r.IntN(len(d.balance)), r.IntN(10000)-5000
		d.balance[row] += by
		fmt.Fprintf(&d.history, "%d\t%d\t%016x%016x%016x\n", row, by, r.Uint64(), r.Uint64(), r.Uint64())
	}
}

func (d *dump) bytes() []byte {
	var b bytes.Buffer
	for i, v := range d.balance {
		fmt.Fprintf(&b, "%d\t%d\t%d\t%x\n", i, i%100, v, uint64(i)*0x9e3779b97f4a7c15)
	}
	b.Write(d.history.Bytes())
	return b.Bytes()
}

// disk is what du counts of a directory.
func diskUsage(t *testing.T, dir string) (sum int64) {
	t.Helper()
	err := filepath.WalkDir(dir, func(name string, _ fs.DirEntry, err error) error {
		var st syscall.Stat_t
		if err == nil {
			err = syscall.Lstat(name, &st)
		}
		if os.IsNotExist(err) {
			return nil // a part of the cache went meanwhile
		}
		sum += st.Blocks * 512
		return err
	})
	if err != nil {
		t.Fatal(err)
	}
	return sum
}

// TestTenNights sends a database's dump ten nights in a row through a cache that holds three of them. What is still in use must not fall out with the
// oldest epochs, whether it is stored anew each night because something close to it changed, or is found in one piece where it was first seen: every
// night costs about what the second did. All the while the disk space stays below the cache's size.
func TestTenNights(t *testing.T) {
	const size = 16 << 20
	a, b := testConfig(t.TempDir()), testConfig(t.TempDir())
	a.SizeBytes, b.SizeBytes = size, size
	p := newPair(t, a, b)
	r := rand.New(rand.NewPCG(1, 1))
	d := newDump(175_000) // 4.9 MB, and 65 kB more each night
	var second int
	for night := 1; night <= 10; night++ {
		data := d.bytes()
		wire := 0
		for part := range slices.Chunk(data, 512<<10) {
			wire += p.send(p.a, p.b, part, MaxFrameBytes)
			p.a.Flush() // a link is slower than the disk
			p.b.Flush()
			p.pump()
		}
		t.Logf("night %d: %d bytes, %d on the wire", night, len(data), wire)
		switch {
		case night == 1 && 3*len(data) > size:
			t.Fatalf("the cache does not hold three dumps of %d bytes", len(data))
		case night == 2:
			second = wire
		case night > 2 && float64(wire) > 1.2*float64(second):
			t.Errorf("night %d costs %d bytes, night 2 did %d", night, wire, second)
		}
		for _, dir := range []string{a.Dir, b.Dir} {
			if n := diskUsage(t, dir); n > size {
				t.Errorf("night %d: %d bytes on disk in a cache of %d", night, n, size)
			}
		}
		d.day(r, 1000)
	}
	if p.a.Stats().StoreEpochs == 0 || p.a.logs[own].tail.Load() == 0 {
		t.Error("nothing was dropped: the cache was never full")
	}
}
