package dedupe

import (
	"path/filepath"
	"syscall"
	"testing"
	"time"

	"wanpair/bench/faultfs"
)

// mountFaulty mounts a faulty file system and returns its directory.
func mountFaulty(t *testing.T) (string, *faultfs.Disk) {
	t.Helper()
	requireRoot(t)
	dir := t.TempDir()
	disk, err := faultfs.Mount(t.TempDir(), dir, ".vlog")
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := disk.Close(); err != nil {
			t.Error(err)
		}
	})
	return dir, disk
}

// TestFaultyDisk lets reads and writes of the receiver's cache fail or hang while data that was seen before goes through, and looks that the cache
// is of use again afterwards.
func TestFaultyDisk(t *testing.T) {
	for _, c := range []struct {
		name   string
		faults faultfs.Faults
	}{
		{"reads fail", faultfs.Faults{Read: syscall.EIO}},
		{"writes fail", faultfs.Faults{Write: syscall.EIO}},
		{"writes find no space", faultfs.Faults{Write: syscall.ENOSPC}},
		{"reads hang", faultfs.Faults{Read: syscall.EIO, Hang: true}},
	} {
		t.Run(c.name, func(t *testing.T) {
			if testing.Short() && c.name == "reads hang" {
				t.Skip("takes as long as a hang is tolerated")
			}
			dir, disk := mountFaulty(t)
			p := newPair(t, testConfig(t.TempDir()), childConfig(filepath.Join(dir, "cache")))
			first := noise(5, 16<<20)
			p.send(p.a, p.b, first, 200_000)
			p.restart(p.b) // so that nothing is in the pages of the process
			disk.Set(c.faults)
			misses := 0
			began := time.Now()
			for i := range uint64(3) {
				misses += p.sendMissing(p.a, p.b, edit(first, i, 20), 200_000)
				misses += p.sendMissing(p.a, p.b, noise(20+i, 4<<20), 200_000)
			}
			st := p.b.Stats()
			if c.faults.Write != 0 {
				p.restart(p.b) // mapped pages are written at the end
			}
			t.Logf("%d misses in %v, %d faults, restarts %d, off %q", misses, time.Since(began).Round(time.Millisecond), disk.Met(), st.StoreRestarts, st.StoreOff)
			disk.Set(faultfs.Faults{})
			// With too much waiting for its disk, which other work may hold up, neither side stores anything.
			eventually(t, "the store works again", func() bool {
				st := p.b.Stats()
				return st.StoreOff == "" && st.WriteBacklogBytes == 0 && p.a.Stats().WriteBacklogBytes == 0
			})
			p.a.Flush() // what its own disk, slow in company, does not take is not referred to later
			p.begin()
			again := noise(77, 4<<20)
			p.sendMissing(p.a, p.b, again, 200_000)
			late := p.lateBytes()
			if wire := p.send(p.a, p.b, again, 200_000); wire > len(again)/10+p.lateBytes()-late {
				t.Errorf("afterwards %d bytes of %d go over the wire: %+v, %+v", wire, len(again), p.a.Stats(), p.b.Stats())
			}
		})
	}
}
