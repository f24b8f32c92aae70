package dedupe

import (
	"sync"
	"testing"
	"time"
)

// TestDiskStaysWithinItsSize sends six times what the caches hold, in both directions, and asks the file system all the while what they take. Blocks are
// counted as du does, epochs that are being removed included.
func TestDiskStaysWithinItsSize(t *testing.T) {
	const size = 24 << 20
	a, b := childConfig(t.TempDir()), childConfig(t.TempDir())
	a.SizeBytes, b.SizeBytes = size, size
	p := newPair(t, a, b)
	stop := make(chan struct{})
	var most [2]int64
	var looks int
	var looking sync.WaitGroup
	looking.Go(func() {
		for {
			for i, dir := range []string{a.Dir, b.Dir} {
				most[i] = max(most[i], diskUsage(t, dir))
			}
			looks++
			select {
			case <-stop:
				return
			case <-time.After(5 * time.Millisecond):
			}
		}
	})
	for i := range uint64(4 * size >> 21) {
		from, to := p.a, p.b
		if i%4 == 3 {
			from, to = to, from
		}
		p.send(from, to, noise(i, 2<<20), 200_000)
		if i%2 == 0 { // else faster than a busy disk: what does not fit is not stored
			p.a.Flush()
			p.b.Flush()
		}
		p.pump()
	}
	close(stop)
	looking.Wait()
	t.Logf("at most %d and %d bytes of %d, in %d looks; tails %d and %d", most[0], most[1], size, looks, p.a.logs[own].tail.Load(), p.b.logs[own].tail.Load())
	for i, n := range most {
		if n > size {
			t.Errorf("side %d takes %d bytes on disk, %d are allowed", i, n, size)
		}
	}
	for _, s := range []*side{p.a, p.b} {
		if s.logs[own].tail.Load() == 0 {
			t.Error("a log was never shortened: the cache was not full")
		}
	}
}
