package dedupe

import (
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"runtime"
	"runtime/metrics"
	"strings"
	"testing"
)

// goSources is text that is really there: the Go installation's own source files, up to n bytes.
func goSources(t *testing.T, n int) []byte {
	t.Helper()
	var all []byte
	err := filepath.WalkDir(filepath.Join(runtime.GOROOT(), "src"), func(name string, d fs.DirEntry, err error) error {
		if err != nil || !d.Type().IsRegular() || !strings.HasSuffix(name, ".go") {
			return err
		}
		text, err := os.ReadFile(name)
		if all = append(all, text...); len(all) >= n {
			return fs.SkipAll
		}
		return err
	})
	if err != nil || len(all) < n {
		if os.Getenv("WANPAIR_REQUIRE_ROOT") == "1" {
			t.Fatalf("the Go installation has %d bytes of source, %d are needed: %v", len(all), n, err)
		}
		t.Skipf("the Go installation has %d bytes of source, %d are needed: %v", len(all), n, err)
	}
	return all[:n:n]
}

// heapInUse is what the heap holds after a collection, stacks included.
func heapInUse() (sum int64) {
	runtime.GC()
	all := []metrics.Sample{{Name: "/memory/classes/heap/objects:bytes"}, {Name: "/memory/classes/heap/stacks:bytes"}}
	metrics.Read(all)
	for _, s := range all {
		sum += int64(s.Value.Uint64())
	}
	return sum
}

// anonymous is the memory of a process that belongs to no file.
func anonymous(t *testing.T, pid int) (bytes int64) {
	t.Helper()
	text, err := os.ReadFile(fmt.Sprintf("/proc/%d/status", pid))
	if err != nil {
		return 0 // it ended
	}
	for line := range strings.Lines(string(text)) {
		if rest, ok := strings.CutPrefix(line, "RssAnon:"); ok {
			if _, err := fmt.Sscan(rest, &bytes); err != nil {
				t.Fatal(err)
			}
		}
	}
	return bytes << 10
}

// TestMemoryStaysWithinItsSize sends more than cache.memory through both sides, cold, again and edited, as several flows at once, and looks all the
// while at what both hold: the heap after a collection, the index, which lies outside of it, and the processes that keep the histories. Far smaller
// memories are exceeded: the store's process takes about 30 MiB and what waits for the disk 16 MiB, whatever they are.
func TestMemoryStaysWithinItsSize(t *testing.T) {
	if testing.Short() {
		t.Skip("collects garbage for ten seconds")
	}
	const memory, rounds = 256 << 20, 5
	text := goSources(t, 48<<20)
	other := noise(7, 16<<20)
	before := heapInUse()
	a, b := childConfig(t.TempDir()), childConfig(t.TempDir())
	for _, c := range []*Config{&a, &b} {
		c.SizeBytes, c.MemoryBytes, c.Density, c.Concurrency = 1<<30, memory, 0, 0
	}
	p := newPair(t, a, b)
	var most, mostHeap, mostStore int64
	look := func() {
		heap, store := heapInUse()-before, int64(0)
		for _, pid := range children(t) {
			store += anonymous(t, pid)
		}
		mostHeap, mostStore = max(mostHeap, heap), max(mostStore, store)
		most = max(most, heap+store+p.a.Stats().IndexBytes+p.b.Stats().IndexBytes)
	}
	sent := 0
	for round := range rounds {
		seed := uint64(round)
		for at := 0; at < len(text); at += 4 << 20 {
			p.sendMany(p.a, p.b, edit(text[at:at+4<<20], seed*100+uint64(at), 50*round), 4)
			sent += 4 << 20
			look()
		}
		p.sendMany(p.b, p.a, edit(other, seed, 50*round), 4)
		sent += len(other)
		look()
	}
	t.Logf("%d MiB sent; at most %d MiB held by both: heap %d, stores %d, index %d each", sent>>20, most>>20, mostHeap>>20, mostStore>>20, p.a.Stats().IndexBytes>>20)
	if sent < memory {
		t.Fatalf("only %d bytes were sent", sent)
	}
	if mostStore == 0 {
		t.Error("no process of a store was seen")
	}
	if most > 2*memory {
		t.Errorf("two caches of %d bytes held %d", memory, most)
	}
}

// sendMany sends data as n flows at once, a part each, frame by frame in turn.
func (p *pair) sendMany(from, to *side, data []byte, n int) (wire int) {
	p.t.Helper()
	type lane struct {
		e    *Encoder
		d    *Decoder
		rest []byte
		next uint64
	}
	var lanes []*lane
	for i := range n {
		p.flow++
		lanes = append(lanes, &lane{from.NewEncoder(p.flow), to.NewDecoder(p.flow), data[len(data)*i/n : len(data)*(i+1)/n], 0})
	}
	for live := n; live > 0; {
		for _, l := range lanes {
			if l.e == nil {
				continue
			}
			part := l.rest[:min(64<<10, len(l.rest))]
			l.rest = l.rest[len(part):]
			f, err := l.e.Encode(nil, part, l.next, len(l.rest) == 0)
			if err != nil {
				p.t.Fatal(err)
			}
			wire += len(f)
			out, _, err := l.d.Decode(nil, f, l.next, len(part))
			if err != nil || string(out) != string(part) {
				p.t.Fatalf("frame %d came out wrong: %v", l.next, err)
			}
			l.next++
			l.e.Acked(l.next)
			p.pump()
			if len(l.rest) == 0 {
				l.e.Close(true)
				l.d.Close()
				l.e = nil
				live--
			}
		}
	}
	return wire
}
