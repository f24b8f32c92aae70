// Package history keeps the bytes of the two logs of a link: open and hot blocks in memory, sealed blocks in Badger.
//
// A log is a sequence of 256 KiB blocks with numbers that are never used twice. On disk, blocks lie in epochs: directories of a Badger
// database each, removed as a whole, oldest first, so that the space is bounded without collecting garbage. Beside the blocks each epoch keeps
// the list of their lengths, read when the store opens, and the list of their anchors, read when the index is rebuilt.
//
// The package promises that damage is never an error for its user: a block that cannot be read, or whose checksum or log id is wrong, is a
// block that is not held; an epoch that does not open is an empty one; Open fails only when the directory cannot be made or another
// process uses it. What it lost it reports through [Config.Lost]. Writing happens in one goroutine, never in the caller's.
package history

import (
	"bytes"
	"crypto/rand"
	"errors"
	"fmt"
	"maps"
	"os"
	"path/filepath"
	"slices"
	"sync"
	"sync/atomic"
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
	Dir            string // "" keeps the history in memory only
	SizeBytes      int64  // on disk, both logs, as du counts
	HotBytes       int64  // sealed blocks in memory
	BlocksPerEpoch uint64
	Writer         uint64 // instance of this process, stored with every block
	// Lost is told of blocks of one log that were held and are no more; it is called without locks, from any goroutine.
	Lost func(log uint8, blocks []uint64)
}

// ErrLocked is returned by Open when another process uses the directory.
var ErrLocked = errors.New("cache directory is in use by another process")

// Store holds both logs. Create it with Open.
type Store struct {
	cfg  Config
	hot  *hot
	lock *os.File

	mu     sync.Mutex
	cond   sync.Cond // a job was added or done
	logs   [2]State
	epochs [2][]*epoch // ascending
	jobs   []job
	busy   bool
	closed bool
	fetch  chan Key
	quit   chan struct{}
	loads  map[Key]*load

	disk    atomic.Int64 // bytes on disk
	backlog atomic.Int64 // bytes waiting to be written
	wait    sync.WaitGroup

	// Reads and Writes count blocks that came from disk and went there; Failed counts blocks that could not be written or read.
	Reads, Writes, Failed atomic.Int64
}

// job is something for the writer goroutine: a block to write, or a removal.
type job struct {
	block *Block
	run   func()
}

// load is a disk read that several callers wait for.
type load struct {
	done  chan struct{}
	block *Block
}

// readAhead is how many blocks of a log are fetched behind one that was read after its predecessor.
const readAhead = 4

// Open opens or creates the store.
func Open(cfg Config) (*Store, error) {
	if cfg.Lost == nil {
		cfg.Lost = func(uint8, []uint64) {}
	}
	cfg.BlocksPerEpoch = min(max(cfg.BlocksPerEpoch, 1), maxBlocksSanity)
	s := &Store{cfg: cfg, hot: newHot(cfg.HotBytes), fetch: make(chan Key, 64), quit: make(chan struct{}), loads: map[Key]*load{}}
	s.cond.L = &s.mu
	if cfg.Dir != "" {
		if err := os.MkdirAll(cfg.Dir, 0o700); err != nil {
			return nil, fmt.Errorf("cache directory: %w", err)
		}
		var err error
		if s.lock, err = lockDir(cfg.Dir); err != nil {
			return nil, err
		}
		s.scan()
	}
	if s.logs[0].ID == (LogID{}) {
		_, _ = rand.Read(s.logs[0].ID[:]) // never fails
	}
	s.saveState()
	s.wait.Go(s.work)
	s.wait.Go(s.prefetch)
	return s, nil
}

// scan reads what is on disk. What it cannot make sense of it removes.
func (s *Store) scan() {
	rec, _ := os.ReadFile(s.path("state")) // missing and damaged are the same: nothing is known
	logs, ok := parseState(rec)
	if ok {
		s.logs = logs
	}
	entries, _ := os.ReadDir(s.cfg.Dir)
	for _, d := range entries {
		e, named := parseName(d.Name())
		if !d.IsDir() || !named {
			continue
		}
		e.dir = s.path(d.Name())
		e.id = s.logs[e.log].ID
		end := (e.first + e.count) << BlockShift
		if !ok || e.id == (LogID{}) || end <= s.logs[e.log].Tail || s.overlaps(e) || !mayOpen(e.dir, e.database()) {
			_ = os.RemoveAll(e.dir) // what stays counts against nothing and is tried again at the next start
			continue
		}
		s.epochs[e.log] = append(s.epochs[e.log], e)
		s.disk.Add(diskBytes(e.dir))
	}
	for i := range s.epochs {
		slices.SortFunc(s.epochs[i], func(a, b *epoch) int {
			if a.first < b.first {
				return -1
			}
			return 1
		})
	}
}

// overlaps tells whether an epoch covers blocks that another one covers.
func (s *Store) overlaps(e *epoch) bool {
	for _, o := range s.epochs[e.log] {
		if e.first < o.first+o.count && o.first < e.first+e.count {
			return true
		}
	}
	return false
}

func (s *Store) path(name string) string { return filepath.Join(s.cfg.Dir, name) }

// saveState writes the file that names the logs, whole or not at all. Failure costs a cold cache after the next start.
func (s *Store) saveState() {
	if s.cfg.Dir == "" {
		return
	}
	s.mu.Lock()
	rec := appendState(nil, s.logs)
	s.mu.Unlock()
	if old, err := os.ReadFile(s.path("state")); err == nil && bytes.Equal(old, rec) {
		return
	}
	if err := os.WriteFile(s.path("state.new"), rec, 0o600); err != nil {
		s.Failed.Add(1)
		return
	}
	if err := os.Rename(s.path("state.new"), s.path("state")); err != nil {
		s.Failed.Add(1)
	}
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
		s.saveState()
	}
}

// Held calls f for every block of a log that disk and memory hold, with its length, and returns the first block above all of them.
func (s *Store) Held(log uint8, f func(number uint64, length int)) (end uint64) {
	s.mu.Lock()
	epochs := slices.Clone(s.epochs[log])
	tail := s.logs[log].Tail
	s.mu.Unlock()
	for _, e := range epochs {
		lengths, err := e.lengths()
		if err != nil {
			continue
		}
		for number, n := range lengths {
			if number<<BlockShift >= tail {
				f(number, n)
				end = max(end, number+1)
			}
		}
	}
	for _, b := range s.hot.open(log) {
		f(b.Number, b.Len())
		end = max(end, b.Number+1)
	}
	return end
}

// Get returns a block that is open, hot or on disk, or nil.
func (s *Store) Get(k Key) *Block {
	if b := s.hot.get(k); b != nil {
		return b
	}
	b := s.load(k)
	if b != nil && k.Number > 0 && s.hot.get(Key{k.Log, k.Number - 1}) != nil {
		for i := range uint64(readAhead) {
			select {
			case s.fetch <- Key{k.Log, k.Number + 1 + i}:
			default: // the disk is behind already
			}
		}
	}
	return b
}

// Hot returns a block that is in memory, or nil.
func (s *Store) Hot(k Key) *Block { return s.hot.get(k) }

// find returns the epoch of a block, or nil.
func (s *Store) find(k Key) *epoch {
	s.mu.Lock()
	defer s.mu.Unlock()
	for _, e := range slices.Backward(s.epochs[k.Log]) {
		if e.covers(k.Number) {
			return e
		}
	}
	return nil
}

// load reads a block from disk; callers that want the same one share the read.
func (s *Store) load(k Key) *Block {
	e := s.find(k)
	if e == nil {
		return nil
	}
	s.mu.Lock()
	if l := s.loads[k]; l != nil {
		s.mu.Unlock()
		<-l.done
		return l.block
	}
	l := &load{done: make(chan struct{})}
	s.loads[k] = l
	s.mu.Unlock()

	data, next, gone, err := e.read(k.Number)
	s.emptied(e, gone)
	if err == nil {
		b := &Block{Key: k}
		b.buf.Store(&data)
		b.fill.Store(uint32(len(data)))
		b.sealed.Store(true)
		b.next.Store(next)
		s.Reads.Add(1)
		lost := s.hot.release(b, evictable)
		if l.block = s.hot.get(k); l.block == nil {
			l.block = b
		}
		s.report(lost)
	} else {
		s.Failed.Add(1)
	}
	s.mu.Lock()
	delete(s.loads, k)
	s.mu.Unlock()
	close(l.done)
	return l.block
}

// emptied reports the blocks that an epoch lost when its database did not open.
func (s *Store) emptied(e *epoch, blocks map[uint64]int) {
	if len(blocks) == 0 {
		return
	}
	s.Failed.Add(int64(len(blocks)))
	lost := slices.Collect(maps.Keys(blocks))
	s.cfg.Lost(e.log, lost)
}

func (s *Store) report(lost []Key) {
	for log := range uint8(2) {
		var blocks []uint64
		for _, k := range lost {
			if k.Log == log {
				blocks = append(blocks, k.Number)
			}
		}
		if len(blocks) > 0 {
			s.cfg.Lost(log, blocks)
		}
	}
}

// prefetch reads ahead until Close.
func (s *Store) prefetch() {
	for {
		select {
		case <-s.quit:
			return
		case k := <-s.fetch:
			if s.hot.get(k) == nil {
				s.load(k)
			}
		}
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
	if s.cfg.Dir == "" {
		s.report(s.hot.release(b, orphan))
		return
	}
	s.backlog.Add(BlockBytes)
	s.add(job{block: b})
}

// add queues a job for the writer goroutine.
func (s *Store) add(j job) {
	s.mu.Lock()
	s.jobs = append(s.jobs, j)
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
	to := orphan
	if e := s.epochFor(b.Key); e != nil {
		data := b.Bytes()
		rec := appendBlock(make([]byte, 0, blockHeader+len(data)), e.id, s.cfg.Writer, b.Number, b.next.Load(), data)
		gone, err := e.write(b.Number, rec, len(data), packed)
		s.emptied(e, gone)
		if err == nil {
			to = evictable
			s.Writes.Add(1)
			s.disk.Add(int64(len(rec) + 64 + 8*len(packed) + anchorHeader + metaRecord))
		} else {
			s.Failed.Add(1)
		}
	}
	s.report(s.hot.release(b, to))
}

// epochFor returns the epoch of a block that is to be written, a new one when there is none, nil when there is no space.
func (s *Store) epochFor(k Key) *epoch {
	if s.disk.Load() > s.cfg.SizeBytes || !roomOnDisk(s.cfg.Dir) {
		return nil
	}
	if e := s.find(k); e != nil {
		return e
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	if k.Number<<BlockShift < s.logs[k.Log].Tail {
		return nil
	}
	list := s.epochs[k.Log]
	at := len(list)
	for at > 0 && list[at-1].first > k.Number {
		at--
	}
	e := &epoch{log: k.Log, first: k.Number, count: s.cfg.BlocksPerEpoch, id: s.logs[k.Log].ID}
	if at < len(list) {
		e.count = min(e.count, list[at].first-e.first)
	}
	e.dir = s.path(e.name())
	if err := os.MkdirAll(e.dir, 0o700); err != nil {
		return nil
	}
	s.epochs[k.Log] = slices.Insert(list, at, e)
	s.disk.Add(1 << 20) // Badger's own files
	return e
}

// Forget drops a block that turned out to be wrong or that the other side closed shorter: length is what is still held of it.
func (s *Store) Forget(k Key, length int) {
	if length == 0 {
		s.hot.drop(func(x Key) bool { return x == k })
	}
	if s.cfg.Dir == "" {
		return
	}
	if e := s.find(k); e != nil {
		s.add(job{run: func() { _ = e.note(k.Number, length) }}) // a lost note is found out again by the next reader
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
	var gone []*epoch
	s.epochs[log] = slices.DeleteFunc(s.epochs[log], func(e *epoch) bool {
		drop := (e.first+e.count)<<BlockShift <= tail
		if drop {
			gone = append(gone, e)
		}
		return drop
	})
	s.mu.Unlock()
	s.saveState()
	s.hot.drop(func(k Key) bool { return k.Log == log && k.Number<<BlockShift < tail })
	s.removeLater(gone)
}

func (s *Store) removeLater(gone []*epoch) {
	for _, e := range gone {
		s.add(job{run: func() {
			n := diskBytes(e.dir)
			if err := e.remove(); err != nil {
				s.Failed.Add(1)
			}
			s.disk.Add(-n)
		}})
	}
}

// Reset drops a log and begins another one in its place.
func (s *Store) Reset(log uint8, id LogID) {
	s.mu.Lock()
	gone := s.epochs[log]
	s.epochs[log] = nil
	s.logs[log] = State{ID: id}
	s.mu.Unlock()
	s.saveState()
	s.hot.drop(func(k Key) bool { return k.Log == log })
	s.removeLater(gone)
	if len(gone) > 0 {
		s.Flush() // an epoch of the new log may have the name of an old one
	}
}

// OldestEpoch returns the position behind the oldest epoch of a log when it has at least two.
func (s *Store) OldestEpoch(log uint8) (end uint64, ok bool) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if len(s.epochs[log]) < 2 {
		return 0, false
	}
	e := s.epochs[log][0]
	return (e.first + e.count) << BlockShift, true
}

// EachAnchors reads the anchor lists on disk, newest epoch first, until f returns false.
func (s *Store) EachAnchors(f func(k Key, packed []uint64) bool) {
	s.mu.Lock()
	lists := [2][]*epoch{slices.Clone(s.epochs[0]), slices.Clone(s.epochs[1])}
	s.mu.Unlock()
	for len(lists[0])+len(lists[1]) > 0 {
		for log := range lists {
			n := len(lists[log])
			if n == 0 {
				continue
			}
			e := lists[log][n-1]
			lists[log] = lists[log][:n-1]
			if !e.eachAnchors(func(number uint64, packed []uint64) bool { return f(Key{uint8(log), number}, packed) }) {
				return
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
	z := Sizes{Disk: s.disk.Load(), Backlog: s.backlog.Load()}
	z.Hot, z.Open = s.hot.sizes()
	s.mu.Lock()
	defer s.mu.Unlock()
	for i := range z.PerLog {
		z.PerLog[i] = int64(len(s.epochs[i])) * int64(s.cfg.BlocksPerEpoch) * BlockBytes
	}
	return z
}

// Backlog is the number of bytes that wait for the disk.
func (s *Store) Backlog() int64 { return s.backlog.Load() }

// Disk is the number of bytes on disk.
func (s *Store) Disk() int64 { return s.disk.Load() }

// Open lists the open blocks of a log.
func (s *Store) Open(log uint8) []*Block {
	return slices.DeleteFunc(s.hot.open(log), func(b *Block) bool { return b.Sealed() })
}

// Close seals all open blocks, writes what waits and gives the directory free.
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
	s.mu.Lock()
	s.closed = true
	close(s.quit)
	s.mu.Unlock()
	s.cond.Broadcast()
	s.wait.Wait()
	s.saveState()
	for _, list := range s.epochs {
		for _, e := range list {
			if err := e.close(); err != nil {
				s.Failed.Add(1) // files that vanished or cannot be written: found out at the next start
			}
		}
	}
	if s.lock != nil {
		return s.lock.Close()
	}
	return nil
}
