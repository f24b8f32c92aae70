package history

import (
	"bytes"
	"fmt"
	"slices"
	"sync"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"
)

// fakeDisk is a Disk in memory that can be slow, full or broken.
type fakeDisk struct {
	mu      sync.Mutex
	logs    [2]State
	blocks  map[Key]Sealed
	status  Status
	changed func()
	delay   time.Duration // of every Get
	putErr  error
	getErr  error
	hang    chan struct{} // Get and Put wait for it when it is not nil
	gets    int
}

func newFakeDisk() *fakeDisk {
	return &fakeDisk{blocks: map[Key]Sealed{}, changed: func() {}, status: Status{Extents: [2][]Extent{{{0, 0, 8}, {0, 8, 8}}, {{1, 0, 8}}}}}
}

func (d *fakeDisk) Logs() [2]State       { return [2]State{{ID: LogID{1}, Head: 1 << 30}, {ID: LogID{2}}} }
func (d *fakeDisk) Watch(changed func()) { d.changed = changed }
func (d *fakeDisk) Note(Key, int) error  { return nil }

func (d *fakeDisk) SetLogs(logs [2]State) error {
	d.mu.Lock()
	defer d.mu.Unlock()
	d.logs = logs
	return nil
}

func (d *fakeDisk) wait() {
	d.mu.Lock()
	hang, delay := d.hang, d.delay
	d.mu.Unlock()
	if hang != nil {
		<-hang
	}
	time.Sleep(delay)
}

func (d *fakeDisk) Get(k Key) ([]byte, About, error) {
	d.wait()
	d.mu.Lock()
	defer d.mu.Unlock()
	d.gets++
	b, ok := d.blocks[k]
	switch {
	case d.getErr != nil:
		return nil, About{}, d.getErr
	case !ok:
		return nil, About{}, ErrAbsent
	}
	return bytes.Clone(b.Data), About{b.Next, b.Scope}, nil
}

func (d *fakeDisk) Put(b *Sealed) error {
	d.wait()
	d.mu.Lock()
	defer d.mu.Unlock()
	if d.putErr == nil {
		d.blocks[b.Key] = *b
	}
	return d.putErr
}

func (d *fakeDisk) Lengths(x Extent, from uint64) (out []Holding, err error) {
	d.mu.Lock()
	defer d.mu.Unlock()
	for n := max(x.First, from); n < x.First+x.Count && len(out) < 3; n++ {
		if b, ok := d.blocks[Key{x.Log, n}]; ok {
			out = append(out, Holding{n, len(b.Data)})
		}
	}
	return out, nil
}

func (d *fakeDisk) Anchors(x Extent, offset int64) ([]byte, int64, error) {
	var all []byte
	for n := x.First; n < x.First+x.Count; n++ {
		if b, ok := d.blocks[Key{x.Log, n}]; ok {
			all = appendAnchors(all, n, b.Anchors)
		}
	}
	rec, _ := nextAnchors(all[min(int(offset), len(all)):])
	return rec, offset + int64(len(rec)), nil
}

func (d *fakeDisk) Status() Status {
	d.mu.Lock()
	defer d.mu.Unlock()
	return d.status
}

func (d *fakeDisk) Close(time.Duration) error {
	d.mu.Lock()
	defer d.mu.Unlock()
	if d.hang != nil {
		close(d.hang)
		d.hang = nil
	}
	return nil
}

// lostList collects what a store reports as lost.
type lostList struct {
	mu   sync.Mutex
	list []string
}

func (l *lostList) add(log uint8, blocks []uint64) {
	l.mu.Lock()
	defer l.mu.Unlock()
	for _, b := range blocks {
		l.list = append(l.list, fmt.Sprint(log, "/", b))
	}
	slices.Sort(l.list)
}

func (l *lostList) String() string {
	l.mu.Lock()
	defer l.mu.Unlock()
	return fmt.Sprint(l.list)
}

// fill seals blocks of the own log with their number as content.
func fill(t testing.TB, s *Store, numbers ...uint64) {
	t.Helper()
	for _, n := range numbers {
		b := s.New(Key{Number: n})
		if b == nil {
			t.Fatalf("block %d is taken", n)
		}
		if err := b.Append(0, bytes.Repeat([]byte{byte(n)}, BlockBytes)); err != nil {
			t.Fatal(err)
		}
		b.AddAnchor(100, n)
		s.Seal(b, BlockBytes)
	}
}

func isBlock(b *Block, n uint64) bool {
	return b != nil && b.Len() == BlockBytes && b.Bytes()[7] == byte(n)
}

// bubble runs f with a store on a fake disk and little memory.
func bubble(t *testing.T, cfg Config, f func(t *testing.T, s *Store, d *fakeDisk, lost *lostList)) {
	synctest.Test(t, func(t *testing.T) {
		d, lost := newFakeDisk(), &lostList{}
		cfg.Disk, cfg.Lost = d, lost.add
		if cfg.HotBytes == 0 {
			cfg.HotBytes = 2 * BlockBytes
		}
		s := Open(cfg)
		f(t, s, d, lost)
		_ = s.Close() // some tests leave a disk that hangs
	})
}

func TestBlocksComeBackFromDisk(t *testing.T) {
	bubble(t, Config{}, func(t *testing.T, s *Store, _ *fakeDisk, lost *lostList) {
		fill(t, s, 0, 1, 2, 3, 4, 5, 6, 7, 8, 9)
		s.Flush()
		for n := range uint64(10) {
			if b, gone := s.Get(Key{Number: n}); gone || !isBlock(b, n) {
				t.Errorf("block %d: %v, gone %v", n, b, gone)
			}
		}
		if b, gone := s.Get(Key{Number: 10}); b != nil || !gone {
			t.Errorf("a block that never was: %v, gone %v", b, gone)
		}
		if lost.String() != "[]" {
			t.Errorf("lost %v", lost)
		}
	})
}

func TestNobodyWaitsLongerThanAsked(t *testing.T) {
	bubble(t, Config{QuickWait: 20 * time.Millisecond, LongWait: 2 * time.Second, CloseWait: time.Second}, func(t *testing.T, s *Store, d *fakeDisk, lost *lostList) {
		fill(t, s, 0, 1, 2, 3, 4, 5)
		s.Flush()
		var cold []uint64 // which two stayed in memory depends on when they were written
		for n := range uint64(6) {
			if s.Hot(Key{Number: n}) == nil {
				cold = append(cold, n)
			}
		}
		if len(cold) < 4 {
			t.Fatalf("only %v have to be read", cold)
		}
		d.mu.Lock()
		d.hang = make(chan struct{})
		d.mu.Unlock()
		took := func(f func(Key) (*Block, bool), n uint64) time.Duration {
			began := time.Now()
			if b, gone := f(Key{Number: n}); b != nil || gone {
				t.Errorf("block %d: %v, gone %v", n, b, gone)
			}
			return time.Since(began)
		}
		if d := took(s.Quick, cold[0]); d != 20*time.Millisecond {
			t.Errorf("the first took %v", d)
		}
		if d := took(s.Quick, cold[1]); d != 0 {
			t.Errorf("the second took %v: the disk stands still already", d)
		}
		if d := took(s.Get, cold[2]); d != 1980*time.Millisecond {
			t.Errorf("the one that had to have it took %v", d)
		}
		if d := took(s.Get, cold[3]); d != 0 {
			t.Errorf("the next took %v", d)
		}
		fill(t, s, 20, 21) // writing hangs, and nobody notices
		if b, _ := s.Quick(Key{Number: 20}); !isBlock(b, 20) {
			t.Error("a block that waits for the disk cannot be read")
		}
		if lost.String() != "[]" {
			t.Errorf("lost %v", lost)
		}
		began := time.Now()
		if err := s.Close(); err == nil || time.Since(began) > 3*time.Second {
			t.Errorf("close: %v after %v", err, time.Since(began))
		}
	})
}

func TestSlowDiskIsWaitedForWhileItAnswers(t *testing.T) {
	bubble(t, Config{QuickWait: 20 * time.Millisecond, LongWait: 2 * time.Second}, func(t *testing.T, s *Store, d *fakeDisk, _ *lostList) {
		fill(t, s, 0, 2, 4, 6, 8)
		s.Flush()
		d.mu.Lock()
		d.delay = 15 * time.Millisecond
		d.mu.Unlock()
		for _, n := range []uint64{0, 2, 4, 6} {
			if b, _ := s.Quick(Key{Number: n}); !isBlock(b, n) {
				t.Errorf("block %d took too long", n)
			}
		}
	})
}

func TestBlocksThatCannotBeWrittenAreLostLate(t *testing.T) {
	bubble(t, Config{}, func(t *testing.T, s *Store, d *fakeDisk, lost *lostList) {
		d.putErr = ErrNoRoom
		fill(t, s, 0, 1)
		s.Flush()
		if b, _ := s.Get(Key{Number: 0}); !isBlock(b, 0) || lost.String() != "[]" {
			t.Errorf("a block in memory: %v, lost %v", b, lost)
		}
		fill(t, s, 2, 3, 4)
		s.Flush()
		if n := len(lost.list); n != 3 {
			t.Errorf("memory for two of five, lost %v", lost)
		}
	})
}

func TestBacklogIsBounded(t *testing.T) {
	bubble(t, Config{BacklogBytes: 3 * BlockBytes, CloseWait: time.Second, LongWait: time.Second, QuickWait: time.Second}, func(t *testing.T, s *Store, d *fakeDisk, lost *lostList) {
		s.Flush()
		d.mu.Lock()
		d.hang = make(chan struct{})
		d.mu.Unlock()
		fill(t, s, 0, 1, 2, 3, 4, 5, 6, 7, 8)
		if s.Backlog() != 3*BlockBytes {
			t.Errorf("backlog of %d blocks", s.Backlog()/BlockBytes)
		}
		if n := len(lost.list); n != 4 {
			t.Errorf("three wait, two stay in memory, lost %v", lost)
		}
	})
}

func TestDamagedBlocksAreLostOnce(t *testing.T) {
	bubble(t, Config{}, func(t *testing.T, s *Store, d *fakeDisk, lost *lostList) {
		fill(t, s, 0, 1, 2, 3, 4)
		s.Flush()
		d.mu.Lock()
		delete(d.blocks, Key{Number: 1})
		d.mu.Unlock()
		for range 3 {
			if b, gone := s.Get(Key{Number: 1}); b != nil || !gone {
				t.Errorf("%v, gone %v", b, gone)
			}
		}
		synctest.Wait() // the loss is reported when the reader has its answer
		if lost.String() != "[0/1]" {
			t.Errorf("lost %v", lost)
		}
	})
}

func TestEpochGivenUpByTheDisk(t *testing.T) {
	bubble(t, Config{}, func(t *testing.T, s *Store, d *fakeDisk, lost *lostList) {
		fill(t, s, 0, 1, 7, 8, 9)
		s.Flush()
		d.mu.Lock()
		d.status.Extents[0] = []Extent{{0, 8, 8}}
		d.mu.Unlock()
		d.changed()
		if lost.String() != "[0/0 0/1 0/7]" {
			t.Errorf("lost %v", lost)
		}
	})
}

func TestDropAndReset(t *testing.T) {
	bubble(t, Config{}, func(t *testing.T, s *Store, d *fakeDisk, lost *lostList) {
		fill(t, s, 0, 1, 8, 9, 10)
		s.Flush()
		if end, ok := s.OldestEpoch(0); !ok || end != 8<<BlockShift {
			t.Errorf("oldest epoch ends at %d, %v", end, ok)
		}
		s.DropBelow(0, 8<<BlockShift)
		if _, ok := s.OldestEpoch(0); ok {
			t.Error("the epoch that is being dropped still counts")
		}
		if b, gone := s.Get(Key{Number: 0}); b != nil || !gone {
			t.Errorf("dropped block: %v, gone %v", b, gone)
		}
		d.mu.Lock()
		d.delay = time.Second
		d.mu.Unlock()
		done := make(chan *Block)
		go func() { b, _ := s.Get(Key{Number: 8}); done <- b }()
		synctest.Wait()
		s.Reset(0, LogID{9})
		if b := <-done; b != nil {
			t.Error("a block of the old log came after the reset")
		}
		s.Flush()
		if d.logs[0].ID != (LogID{9}) || lost.String() != "[]" {
			t.Errorf("the disk knows %v, lost %v", d.logs, lost)
		}
	})
}

// TestReadAhead reads a long log from end to end with little memory: what follows is fetched before it is asked for, and nothing is evicted before
// it was read. The blocks fetched ahead arrive in any order.
func TestReadAhead(t *testing.T) {
	const n = 40
	bubble(t, Config{}, func(t *testing.T, s *Store, d *fakeDisk, _ *lostList) {
		d.mu.Lock()
		d.status.Extents = [2][]Extent{{{0, 0, n}}}
		d.mu.Unlock()
		for i := range uint64(n) {
			fill(t, s, i)
		}
		s.Flush()
		cold := Open(Config{Disk: d, HotBytes: 6 * readAhead * BlockBytes})
		cold.Held(0, func(uint64, int) {})
		for i := range uint64(n) {
			if i >= 2 && cold.Hot(Key{Number: i}) == nil {
				t.Errorf("block %d was not fetched ahead", i)
			}
			if b, _ := cold.Get(Key{Number: i}); b == nil {
				t.Fatalf("block %d is missing", i)
			}
			synctest.Wait() // for what is fetched ahead
		}
		if d.gets != n {
			t.Errorf("%d reads of %d blocks", d.gets, n)
		}
		_ = cold.Close() // of a disk in memory
	})
}

func TestHeldAndAnchors(t *testing.T) {
	bubble(t, Config{}, func(t *testing.T, s *Store, d *fakeDisk, _ *lostList) {
		fill(t, s, 0, 1, 2, 3, 4, 5, 9)
		s.Flush()
		s2 := Open(Config{Disk: d, HotBytes: 1 << 20})
		var held []uint64
		if end := s2.Held(0, func(n uint64, length int) { held = append(held, n) }); end != 10 || fmt.Sprint(held) != "[0 1 2 3 4 5 9]" {
			t.Errorf("held %v, end %d", held, end)
		}
		var seen []uint64
		s2.EachAnchors(func(k Key, packed []uint64) bool {
			if end, fp := UnpackAnchor(packed[0]); end != 100 || fp != k.Number {
				t.Errorf("anchor of block %d: %d, %d", k.Number, end, fp)
			}
			seen = append(seen, k.Number)
			return true
		})
		if fmt.Sprint(seen) != "[9 0 1 2 3 4 5]" {
			t.Errorf("anchors of %v", seen)
		}
		_ = s2.Close() // of a disk in memory
	})
}

// TestUnusedMemory fills a store with more than its sealed blocks are sure of: they take what open blocks and others leave, and give it back.
func TestUnusedMemory(t *testing.T) {
	var spare atomic.Int64
	cfg := Config{HotBytes: 4 * BlockBytes, OpenBytes: 4 * BlockBytes, Spare: spare.Load}
	bubble(t, cfg, func(t *testing.T, s *Store, _ *fakeDisk, _ *lostList) {
		spare.Store(4 * BlockBytes)
		held := func() int64 { return s.Sizes().Hot / BlockBytes }
		next := uint64(0)
		seal := func(n int) {
			t.Helper()
			for range n {
				b := s.New(Key{Log: 0, Number: next})
				b.Reserve(BlockBytes)
				if err := b.Append(0, make([]byte, BlockBytes)); err != nil {
					t.Fatal(err)
				}
				s.Seal(b, BlockBytes)
				s.Flush()
				next++
			}
		}
		seal(16)
		if n := held(); n != 12 {
			t.Errorf("%d sealed blocks in memory, want all 12 that fit while nobody else takes any", n)
		}
		open := []*Block{s.New(Key{Log: 1, Number: 1}), s.New(Key{Log: 1, Number: 2}), s.New(Key{Log: 1, Number: 3})}
		seal(1)
		if n := held(); n != 9 {
			t.Errorf("%d sealed blocks beside %d open ones, want 9", n, len(open))
		}
		spare.Store(0)
		seal(1)
		if n := held(); n != 5 {
			t.Errorf("%d sealed blocks when the spare memory is used, want 5", n)
		}
		for i := range uint64(8) {
			open = append(open, s.New(Key{Log: 1, Number: 10 + i}))
		}
		seal(1)
		if n := held(); n != 4 {
			t.Errorf("%d sealed blocks beside %d open ones, want the 4 that are theirs", n, len(open))
		}
	})
}
