// Package history keeps the bytes of the two logs of a link: open and hot blocks in memory, sealed blocks on a [Disk].
//
// A log is a sequence of 256 KiB blocks with numbers that are never used twice. On disk, blocks lie in epochs: directories of a Badger
// database each, removed as a whole, oldest first, so that the space is bounded without collecting garbage. Beside the blocks each epoch keeps
// the list of their lengths, read when the store opens, and the list of their anchors, read when the index is rebuilt.
//
// The nouns: a [Store] is what the codec uses, it never fails and never waits longer than it was told to. A [Disk] holds sealed blocks and may be
// as slow or dead as hardware can be: [Epochs] is one in this process, package remote has one in a child process. Writing happens in one goroutine,
// never in the caller's; reading in a goroutine per block, for which callers wait as long as they like.
//
// The package promises that damage is never an error for its user: a block that cannot be read, or whose checksum or log id is wrong, is a
// block that is not held; an epoch that does not open is an empty one. What it lost it reports through [Config.Lost].
package history

import (
	"crypto/rand"
	"errors"
	"slices"
	"sync"
	"sync/atomic"
	"time"
)

// LogID names a log: 16 random bytes.
type LogID [16]byte

// State is what the store remembers of a log.
type State struct {
	ID         LogID
	Tail, Head uint64 // positions: the first live one, the first one above everything used
}

// Config says where and how much.
type Config struct {
	Disk         Disk  // nil keeps the history in memory only; the store closes it
	HotBytes     int64 // sealed blocks in memory
	OpenBytes    int64 // set aside for blocks being filled or waiting for the disk: what they do not take holds sealed ones too
	BacklogBytes int64 // sealed blocks that may wait for the disk; beyond it they are not written; 0 is no limit

	// Spare is how many bytes more sealed blocks may take at present, because what they are meant for has no use for them; nil is none. It is called
	// with locks held and must not call the store.
	Spare func() int64

	// QuickWait and LongWait bound what Quick and Get wait for the disk, CloseWait what Close does; 0 waits as long as it takes.
	QuickWait, LongWait, CloseWait time.Duration

	// Lost is told of blocks of one log that were held and are no more; it is called without locks, from any goroutine.
	Lost func(log uint8, blocks []uint64)
}

// Store holds both logs. Create it with Open.
type Store struct {
	cfg  Config
	disk Disk
	hot  *hot

	mu      sync.Mutex
	cond    sync.Cond // a job was added or done
	logs    [2]State
	present [2]presence // on disk
	resets  [2]int      // logs replaced, and the disk not yet told
	jobs    []job
	busy    bool
	closed  bool
	loads   map[Key]*load
	idle    time.Time // when the disk gave the last answer, or was first asked since

	backlog atomic.Int64 // bytes waiting to be written
	wait    sync.WaitGroup

	// Reads and Writes count blocks that came from disk and went there; Failed counts blocks that could not be written or read, Late
	// those for which a caller did not wait any longer.
	Reads, Writes, Failed, Late atomic.Int64
}

// job is something for the writer goroutine: a block to write, or something else to tell the disk.
type job struct {
	block *Block
	run   func()
}

// Open opens the store on a disk.
func Open(cfg Config) *Store {
	if cfg.Lost == nil {
		cfg.Lost = func(uint8, []uint64) {}
	}
	s := &Store{cfg: cfg, disk: cfg.Disk, hot: newHot(cfg.HotBytes, cfg.OpenBytes, cfg.Spare), loads: map[Key]*load{}, present: [2]presence{{}, {}}}
	s.cond.L = &s.mu
	if s.disk != nil {
		s.logs = s.disk.Logs()
		s.disk.Watch(s.reconcile)
	}
	if s.logs[0].ID == (LogID{}) {
		_, _ = rand.Read(s.logs[0].ID[:]) // never fails
	}
	s.wait.Go(s.work)
	s.tellLogs()
	return s
}

// State returns what is known of a log.
func (s *Store) State(log uint8) State {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.logs[log]
}

// SetHead raises a log's head; it is remembered over a restart.
func (s *Store) SetHead(log uint8, head uint64) {
	s.mu.Lock()
	raised := head > s.logs[log].Head
	if raised {
		s.logs[log].Head = head
	}
	s.mu.Unlock()
	if raised {
		s.tellLogs()
	}
}

// tellLogs sends the present ids, tails and heads to the disk. What goes wrong costs a cold cache after the next start.
func (s *Store) tellLogs() {
	if s.disk == nil {
		return
	}
	s.add(job{run: func() {
		s.mu.Lock()
		logs, resets := s.logs, s.resets
		s.mu.Unlock()
		if err := s.disk.SetLogs(logs); err != nil {
			s.Failed.Add(1)
		}
		s.mu.Lock()
		for log := range resets {
			s.resets[log] -= resets[log]
		}
		s.mu.Unlock()
	}})
}

// Held calls f for every block of a log that disk and memory hold, with its length, and returns the first block above all of them. Blocks on
// disk can be read only after Held has named them.
func (s *Store) Held(log uint8, f func(number uint64, length int)) (end uint64) {
	tail := s.State(log).Tail >> BlockShift
	for _, x := range s.extents(log) {
		for from := uint64(0); ; {
			list, err := s.disk.Lengths(x, from)
			if err != nil || len(list) == 0 {
				break
			}
			for _, h := range list {
				if h.Number < tail {
					continue
				}
				s.mu.Lock()
				s.present[log].add(h.Number)
				s.mu.Unlock()
				f(h.Number, h.Length)
			}
			from = list[len(list)-1].Number + 1
			end = max(end, from)
		}
	}
	for _, b := range s.hot.open(log) {
		f(b.Number, b.Len())
		end = max(end, b.Number+1)
	}
	return end
}

// extents lists the epochs of a log that are on disk and not being given up.
func (s *Store) extents(log uint8) []Extent {
	if s.disk == nil {
		return nil
	}
	all := s.disk.Status().Extents[log]
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.resets[log] > 0 {
		return nil
	}
	live := make([]Extent, 0, len(all))
	for _, x := range all {
		if x.end() > s.logs[log].Tail {
			live = append(live, x)
		}
	}
	return live
}

// reconcile finds blocks that went with an epoch that the disk gave up.
func (s *Store) reconcile() {
	for log := range uint8(2) {
		live := s.extents(log)
		var lost []uint64
		s.mu.Lock()
		if s.resets[log] == 0 {
			s.present[log].removeIf(func(number uint64) bool {
				gone := !slices.ContainsFunc(live, func(x Extent) bool { return x.Covers(number) })
				if gone {
					lost = append(lost, number)
				}
				return gone
			})
		}
		s.mu.Unlock()
		s.reportIn(log, lost)
	}
}

// report tells of lost blocks.
func (s *Store) report(lost []Key) {
	for log := range uint8(2) {
		var blocks []uint64
		for _, k := range lost {
			if k.Log == log {
				blocks = append(blocks, k.Number)
			}
		}
		s.reportIn(log, blocks)
	}
}

func (s *Store) reportIn(log uint8, blocks []uint64) {
	if len(blocks) > 0 {
		s.Failed.Add(int64(len(blocks)))
		s.cfg.Lost(log, blocks)
	}
}

// New returns a new open block, or nil when the number is taken.
func (s *Store) New(k Key) *Block {
	b := newBlock(k)
	if !s.hot.pin(b) {
		return nil
	}
	return b
}

// Seal closes an open block at limit, when it is longer, and hands it to the writer.
func (s *Store) Seal(b *Block, limit int) {
	if !b.seal(limit) {
		return
	}
	if b.Len() == 0 {
		s.hot.drop(func(k Key) bool { return k == b.Key })
		return
	}
	if s.disk == nil || s.cfg.BacklogBytes > 0 && s.backlog.Load() >= s.cfg.BacklogBytes {
		s.report(s.hot.release(b, orphan))
		return
	}
	s.backlog.Add(BlockBytes)
	s.add(job{block: b})
}

// add queues a job for the writer goroutine.
func (s *Store) add(j job) {
	s.mu.Lock()
	if !s.closed {
		s.jobs = append(s.jobs, j)
	}
	s.mu.Unlock()
	s.cond.Broadcast()
}

// work does the jobs, one after the other, until Close and the last one.
func (s *Store) work() {
	s.mu.Lock()
	defer s.mu.Unlock()
	for {
		for len(s.jobs) == 0 && !s.closed {
			s.cond.Wait()
		}
		if len(s.jobs) == 0 {
			return
		}
		j := s.jobs[0]
		s.jobs[0] = job{}
		s.jobs = s.jobs[1:]
		s.busy = true
		s.mu.Unlock()
		if j.block != nil {
			s.write(j.block)
		} else {
			j.run()
		}
		s.mu.Lock()
		s.busy = false
		s.cond.Broadcast()
	}
}

// Flush waits until everything sealed so far is on disk or given up.
func (s *Store) Flush() {
	s.mu.Lock()
	defer s.mu.Unlock()
	for len(s.jobs) > 0 || s.busy {
		s.cond.Wait()
	}
}

// write puts a sealed block on disk.
func (s *Store) write(b *Block) {
	defer s.backlog.Add(-BlockBytes)
	b.mu.Lock()
	packed := b.anchors
	b.anchors = nil
	b.mu.Unlock()
	if len(packed) > maxAnchors {
		packed = packed[:maxAnchors]
	}
	if s.hot.get(b.Key) != b {
		return // dropped while it waited
	}
	to := orphan
	if err := s.disk.Put(&Sealed{Key: b.Key, Next: b.next.Load(), Scope: b.Scope(), Data: b.Bytes(), Anchors: packed}); err != nil {
		s.Failed.Add(1)
	} else if s.hot.get(b.Key) != b { // dropped while it was written
		_ = s.disk.Note(b.Key, 0) // see Forget
		return
	} else {
		to = evictable
		s.Writes.Add(1)
		s.mu.Lock()
		s.present[b.Log].add(b.Number)
		s.mu.Unlock()
	}
	s.report(s.hot.release(b, to))
}

// Forget drops a block that turned out to be wrong or that the other side closed shorter: length is what is still held of it.
func (s *Store) Forget(k Key, length int) {
	if length == 0 {
		s.hot.drop(func(x Key) bool { return x == k })
	}
	s.mu.Lock()
	on := s.present[k.Log].has(k.Number)
	if on && length == 0 {
		s.present[k.Log].remove(k.Number)
	}
	s.mu.Unlock()
	if on {
		s.add(job{run: func() { _ = s.disk.Note(k, length) }}) // a lost note is found out again by the next reader
	}
}

// DropBelow gives up everything of a log below a position. The files go in the background.
func (s *Store) DropBelow(log uint8, tail uint64) {
	s.mu.Lock()
	if tail <= s.logs[log].Tail {
		s.mu.Unlock()
		return
	}
	s.logs[log].Tail = tail
	s.logs[log].Head = max(s.logs[log].Head, tail)
	s.present[log].removeIf(func(number uint64) bool { return number<<BlockShift < tail })
	s.mu.Unlock()
	s.tellLogs()
	s.hot.drop(func(k Key) bool { return k.Log == log && k.Number<<BlockShift < tail })
}

// Reset drops a log and begins another one in its place.
func (s *Store) Reset(log uint8, id LogID) {
	s.mu.Lock()
	s.logs[log] = State{ID: id}
	s.present[log] = presence{}
	s.resets[log]++
	for k := range s.loads {
		if k.Log == log {
			delete(s.loads, k) // what comes is of the old log
		}
	}
	s.mu.Unlock()
	s.hot.drop(func(k Key) bool { return k.Log == log })
	if s.disk == nil {
		s.mu.Lock()
		s.resets[log]--
		s.mu.Unlock()
		return
	}
	s.tellLogs()
}

// OldestEpoch returns the position behind the oldest epoch of a log when it has at least two.
func (s *Store) OldestEpoch(log uint8) (end uint64, ok bool) {
	if live := s.extents(log); len(live) >= 2 {
		return live[0].end(), true
	}
	return 0, false
}

// EachAnchors reads the anchor lists on disk, newest epoch first, until f returns false.
func (s *Store) EachAnchors(f func(k Key, packed []uint64) bool) {
	lists := [2][]Extent{s.extents(0), s.extents(1)}
	for len(lists[0])+len(lists[1]) > 0 {
		for log := range lists {
			n := len(lists[log])
			if n == 0 {
				continue
			}
			x := lists[log][n-1]
			lists[log] = lists[log][:n-1]
			if !s.anchorsOf(x, f) {
				return
			}
		}
	}
}

// anchorsOf reads one epoch's list.
func (s *Store) anchorsOf(x Extent, f func(k Key, packed []uint64) bool) bool {
	for offset := int64(0); ; {
		records, next, err := s.disk.Anchors(x, offset)
		if err != nil || len(records) == 0 || next <= offset {
			return true
		}
		offset = next
		for rec, rest := nextAnchors(records); rec != nil; rec, rest = nextAnchors(rest) {
			if number, packed, ok := parseAnchors(rec); ok && x.Covers(number) && !f(Key{x.Log, number}, packed) {
				return false
			}
		}
	}
}

// Sizes are the store's present sizes in bytes.
type Sizes struct {
	Disk, Hot, Open, Backlog int64
	PerLog                   [2]int64 // live positions
}

// Sizes returns the present sizes.
func (s *Store) Sizes() Sizes {
	z := Sizes{Disk: s.Disk(), Backlog: s.backlog.Load()}
	z.Hot, z.Open = s.hot.sizes()
	for log := range uint8(2) {
		for _, x := range s.extents(log) {
			z.PerLog[log] += int64(x.Count) * BlockBytes
		}
	}
	return z
}

// Backlog is the number of bytes that wait for the disk.
func (s *Store) Backlog() int64 { return s.backlog.Load() }

// Disk is the number of bytes on disk.
func (s *Store) Disk() int64 { return s.Status().Bytes }

// Status is what the disk says of itself.
func (s *Store) Status() Status {
	if s.disk == nil {
		return Status{}
	}
	return s.disk.Status()
}

// Writable tells whether what is sealed now is likely to be kept.
func (s *Store) Writable() bool {
	st := s.Status()
	return !st.Full && st.Off == ""
}

// Open lists the open blocks of a log.
func (s *Store) Open(log uint8) []*Block {
	return slices.DeleteFunc(s.hot.open(log), func(b *Block) bool { return b.Sealed() })
}

// Close seals all open blocks, writes what waits and closes the disk.
func (s *Store) Close() error {
	s.mu.Lock()
	if s.closed {
		s.mu.Unlock()
		return nil
	}
	s.mu.Unlock()
	for log := range uint8(2) {
		for _, b := range s.Open(log) {
			s.Seal(b, BlockBytes)
		}
	}
	s.tellLogs()
	s.mu.Lock()
	s.closed = true
	s.mu.Unlock()
	s.cond.Broadcast()
	if s.disk == nil {
		s.wait.Wait()
		return nil
	}
	var late atomic.Bool
	if s.cfg.CloseWait > 0 {
		// A disk that is closed under the writer answers everything at once, with errors.
		defer time.AfterFunc(s.cfg.CloseWait, func() {
			late.Store(true)
			_ = s.disk.Close(0)
		}).Stop()
	}
	s.Flush()
	err := s.disk.Close(s.cfg.CloseWait)
	s.wait.Wait()
	if late.Load() {
		return errors.Join(err, ErrUnavailable)
	}
	return err
}
