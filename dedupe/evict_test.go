package dedupe

import "testing"

// TestEvictionAfterASessionThatEndedInBetween ends a session while a tail is on its way, held up by a frame that nobody acknowledges. The epochs below
// it must go all the same, or the cache is full for ever.
func TestEvictionAfterASessionThatEndedInBetween(t *testing.T) {
	a, b := testConfig(t.TempDir()), testConfig(t.TempDir())
	a.SizeBytes, b.SizeBytes = 16<<20, 16<<20
	p := newPair(t, a, b)
	fresh := uint64(0)
	push := func() {
		fresh++
		p.send(p.a, p.b, noise(1000+fresh, 1<<20), MaxFrameBytes)
		p.a.store.Flush()
		p.b.store.Flush()
	}
	p.flow++
	if _, err := p.a.NewEncoder(p.flow).Encode(nil, noise(1, 10_000), 0, false); err != nil {
		t.Fatal(err)
	}
	for !p.a.moving() {
		if fresh > 100 {
			t.Fatal("no eviction began")
		}
		push()
	}
	tail := p.a.logs[own].tail.Load()
	p.begin()
	for _, s := range []*side{p.a, p.b} {
		for log := range uint8(2) {
			if got, want := s.store.State(log).Tail, s.logs[log].tail.Load(); got != want {
				t.Errorf("the store's tail of log %d is %d, the log's %d", log, got, want)
			}
		}
	}
	stored := p.a.Stats().StoredBytes
	for range 40 { // more than the cache holds
		push()
	}
	if got := p.a.Stats().StoredBytes - stored; got < 30<<20 {
		t.Errorf("only %d bytes of %d stored after the session that ended in between", got, 40<<20)
	}
	if p.a.logs[own].tail.Load() <= tail {
		t.Error("the tail stands still")
	}
	for _, s := range []*side{p.a, p.b} {
		if z := s.Stats(); z.CacheBytes > z.CacheCapacityBytes {
			t.Errorf("%d bytes on disk, %d allowed", z.CacheBytes, z.CacheCapacityBytes)
		}
	}
}
