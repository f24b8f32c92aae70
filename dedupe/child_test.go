package dedupe

import (
	"bytes"
	"errors"
	"fmt"
	"io/fs"
	"math/rand/v2"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"

	"go.uber.org/goleak"
	"golang.org/x/sys/unix"

	"wanpair/dedupe/history"
	"wanpair/dedupe/history/remote"
)

// TestMain makes the test binary the store's process when it is started as one.
func TestMain(m *testing.M) {
	if os.Getenv("WANPAIR_TEST_STORE") != "" {
		if err := remote.ServeChild(); err != nil {
			fmt.Fprintln(os.Stderr, err)
			os.Exit(1)
		}
		return
	}
	code := m.Run()
	if left := leaks(); code == 0 && left != "" {
		fmt.Fprintln(os.Stderr, "left behind:", left)
		code = 1
	}
	os.Exit(code)
}

// leaks describes goroutines that ought not to be there. Those of a damaged database, which cannot always be closed, are left alone.
func leaks() string {
	err := goleak.Find()
	if err == nil {
		return ""
	}
	var ours []string
	for _, g := range strings.Split(err.Error(), "Goroutine ")[1:] {
		if !strings.Contains(g, "github.com/dgraph-io/") {
			ours = append(ours, g)
		}
	}
	return strings.Join(ours, "\n")
}

// childConfig is testConfig with the history in a process of its own.
func childConfig(dir string) Config {
	c := testConfig(dir)
	c.MemoryBytes, c.frugal = MinMemoryBytes, true // little stays in memory
	c.StoreCommand, c.StoreEnv = []string{"/proc/self/exe"}, []string{"WANPAIR_TEST_STORE=1"}
	return c
}

// lateBytes is what may have gone as literals because a busy machine's disk did not give a block to the sender in time.
func (p *pair) lateBytes() int { return int(p.a.Stats().DiskLate) * history.BlockBytes }

// children lists the processes that have this one as parent.
func children(t testing.TB) (pids []int) {
	t.Helper()
	files, err := filepath.Glob("/proc/[0-9]*/stat")
	if err != nil {
		t.Fatal(err)
	}
	for _, name := range files {
		b, err := os.ReadFile(name)
		if err != nil {
			continue // it ended
		}
		var pid, parent int
		var state string
		rest := string(b[bytes.LastIndexByte(b, ')')+1:])
		if _, err := fmt.Sscan(rest, &state, &parent); err != nil || parent != os.Getpid() {
			continue
		}
		if _, err := fmt.Sscan(string(b), &pid); err == nil {
			pids = append(pids, pid)
		}
	}
	return pids
}

// sendMissing is send for a disk that fails: frames may miss, and then the flow is tried again.
func (p *pair) sendMissing(from, to *side, data []byte, frame int) (misses int) {
	p.t.Helper()
	for range 100 {
		_, err := p.try(from, to, data, frame)
		if err == nil {
			return misses
		}
		if _, ok := errors.AsType[*MissError](err); !ok {
			p.t.Fatal(err)
		}
		misses++
	}
	p.t.Fatal("the flow never went through")
	return misses
}

// TestStoreKilledUnderLoad kills both sides' stores again and again while data that was seen before goes through.
func TestStoreKilledUnderLoad(t *testing.T) {
	dirs := [2]string{t.TempDir(), t.TempDir()}
	p := newQuietPair(t, childConfig(dirs[0]), childConfig(dirs[1]))
	first := noise(1, 24<<20)
	for at := 0; at < len(first); at += 6 << 20 { // no faster than a busy disk takes it
		p.send(p.a, p.b, first[at:at+6<<20], 200_000)
		p.a.Flush()
		p.b.Flush()
	}
	stop := make(chan struct{})
	var killer sync.WaitGroup
	killer.Go(func() {
		r := rand.New(rand.NewPCG(1, 1))
		for range 4 { // a fifth within a minute would switch the caches off
			select {
			case <-stop:
				return
			case <-time.After(time.Duration(50+r.IntN(150)) * time.Millisecond):
			}
			for _, pid := range children(t) {
				_ = syscall.Kill(pid, syscall.SIGKILL)
			}
		}
	})
	misses := 0
	for i := range uint64(4) {
		misses += p.sendMissing(p.a, p.b, edit(first, i, 50), 200_000)
		misses += p.sendMissing(p.b, p.a, noise(100+i, 2<<20), 60_000)
	}
	close(stop)
	killer.Wait()
	t.Logf("%d misses, restarts %d and %d", misses, p.a.Stats().StoreRestarts, p.b.Stats().StoreRestarts)
	if p.a.Stats().StoreRestarts == 0 {
		t.Error("nothing was killed")
	}
	p.restart(p.a)
	p.restart(p.b)
	t.Logf("held %d and %d bytes", p.a.Stats().CacheBytes, p.b.Stats().CacheBytes)
	if wire := p.send(p.a, p.b, first, 200_000); wire > len(first)/3+p.lateBytes() {
		t.Errorf("after all that %d bytes of %d go over the wire, %d of blocks that came late", wire, len(first), p.lateBytes())
	}
	p.shut(p.a)
	p.shut(p.b)
}

// TestFilesBreakUnderTheStore cuts and removes files while the store has them mapped.
func TestFilesBreakUnderTheStore(t *testing.T) {
	for _, how := range []string{"truncate", "remove", "remove all"} {
		t.Run(how, func(t *testing.T) {
			t.Parallel()
			cfg := childConfig(t.TempDir())
			p := newPair(t, childConfig(t.TempDir()), cfg)
			data := noise(2, 24<<20)
			p.send(p.a, p.b, data, 200_000)
			p.b.Flush()
			err := filepath.WalkDir(cfg.Dir, func(path string, d fs.DirEntry, err error) error {
				switch {
				case err != nil || d.Name() == "lock":
					return nil //nolint:nilerr // gone already
				case how == "remove all" && d.IsDir() && path != cfg.Dir:
					if err := os.RemoveAll(path); err != nil {
						return err
					}
					return fs.SkipDir
				case how == "truncate" && strings.HasSuffix(path, ".vlog"):
					return os.Truncate(path, 100)
				case how == "remove" && d.Type().IsRegular():
					return os.Remove(path)
				}
				return nil
			})
			if err != nil {
				t.Fatal(err)
			}
			misses := 0
			for i := range uint64(3) {
				misses += p.sendMissing(p.a, p.b, edit(data, i, 20), 200_000)
				p.begin()
			}
			t.Logf("%d misses, %+v", misses, p.b.Stats())
		})
	}
}

// TestFullDisk fills a small file system under the cache.
func TestFullDisk(t *testing.T) {
	requireRoot(t)
	dir := t.TempDir()
	if err := unix.Mount("tmpfs", dir, "tmpfs", 0, "size=40m"); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = unix.Unmount(dir, unix.MNT_DETACH) })
	p := newPair(t, childConfig(t.TempDir()), childConfig(filepath.Join(dir, "cache")))
	filler := filepath.Join(dir, "filler")
	if err := os.WriteFile(filler, make([]byte, 20<<20), 0o600); err != nil {
		t.Fatal(err)
	}
	misses := 0
	for i := range uint64(12) {
		misses += p.sendMissing(p.a, p.b, noise(50+i, 3<<20), 200_000)
	}
	p.a.Flush() // or what comes next may not be stored for the sender's backlog
	p.b.Flush()
	eventually(t, "full", func() bool { return p.b.Stats().StoreFull })
	st := p.b.Stats()
	if st.StoreRestarts > 0 || misses > 0 {
		t.Errorf("%d misses, %d restarts: the margin did not hold", misses, st.StoreRestarts)
	}
	if err := os.Remove(filler); err != nil {
		t.Fatal(err)
	}
	eventually(t, "room", func() bool { return !p.b.Stats().StoreFull })
	data := noise(99, 3<<20)
	p.send(p.a, p.b, data, 200_000)
	late := p.lateBytes()
	if wire := p.send(p.a, p.b, data, 200_000); wire > len(data)/100+p.lateBytes()-late {
		t.Errorf("with room again %d bytes of %d go over the wire, %d of blocks that came late", wire, len(data), p.lateBytes()-late)
	}
}

// TestStoppedStore stops the receiver's store: traffic does not stand still, and the peer is asked not to refer to what is out of reach.
func TestStoppedStore(t *testing.T) {
	if testing.Short() {
		t.Skip("takes as long as a hang is tolerated")
	}
	var mu sync.Mutex
	var events []StoreEvent
	cfg := childConfig(t.TempDir())
	cfg.OnStore = func(e StoreEvent) { mu.Lock(); events = append(events, e); mu.Unlock() }
	off := func() bool {
		mu.Lock()
		defer mu.Unlock()
		return len(events) > 0 && events[len(events)-1].Off
	}
	a := testConfig(t.TempDir())
	before := children(t)
	p := newPair(t, a, cfg)
	var store int
	for _, pid := range children(t) {
		if !bytes.Contains([]byte(fmt.Sprint(before)), []byte(fmt.Sprint(pid))) {
			store = pid
		}
	}
	data := noise(3, 24<<20)
	p.send(p.a, p.b, data, 200_000)
	p.b.Flush()
	if err := syscall.Kill(store, syscall.SIGSTOP); err != nil {
		t.Fatal(err)
	}
	began := time.Now()
	misses := p.sendMissing(p.a, p.b, data, 200_000)
	t.Logf("%d misses, through after %v", misses, time.Since(began))
	if misses > 3 {
		t.Error("the peer went on referring to what is out of reach")
	}
	eventually(t, "off", off)
	eventually(t, "the store's successor", func() bool { st := p.b.Stats(); return st.StoreRestarts > 0 && st.StoreOff == "" })
	p.begin()
	if wire := p.send(p.a, p.b, data, 200_000); wire > len(data)/2 {
		t.Errorf("in the next session %d bytes of %d go over the wire", wire, len(data))
	}
}

// eventually polls until ok.
func eventually(t testing.TB, what string, ok func() bool) {
	t.Helper()
	for end := time.Now().Add(30 * time.Second); !ok(); {
		if time.Now().After(end) {
			t.Fatalf("%s: not within 30 s", what)
		}
		time.Sleep(5 * time.Millisecond)
	}
}

// requireRoot skips a test that mounts something, or fails when the tests are to run completely.
func requireRoot(t testing.TB) {
	t.Helper()
	if os.Geteuid() == 0 {
		return
	}
	if os.Getenv("WANPAIR_REQUIRE_ROOT") == "1" {
		t.Fatal("needs root, to mount")
	}
	t.Skip("needs root, to mount")
}
