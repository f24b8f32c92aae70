package history

import (
	"cmp"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"time"
)

// How many databases stay open: one being written costs some 12 MB of memory, one being read some 3 MB and five descriptors.
const (
	maxWritten = 4
	maxOpen    = 32
)

// measureEvery is after how many blocks the size of an epoch is taken from the file system again.
const measureEvery = 64

// doomedPrefix begins the names of directories that are being removed.
const doomedPrefix = "gone-"

// EpochsConfig says where sealed blocks lie and how much room they have.
type EpochsConfig struct {
	Dir            string
	SizeBytes      int64 // both logs, as du counts
	BlocksPerEpoch uint64
	Writer         uint64 // instance of this process, stored with every block
	Key            []byte // KeyBytes long: everything is encrypted with it; nil: nothing is. What was written otherwise is given up
}

// Epochs is the Disk in this process: one Badger database per epoch.
type Epochs struct {
	cfg   EpochsConfig
	lock  *os.File
	crypt crypt // of the file that names the logs
	found [2]State
	total atomic.Int64
	full  atomic.Bool
	clock atomic.Int64

	mu      sync.Mutex
	logs    [2]State
	crypts  [2]crypt    // of the logs
	epochs  [2][]*epoch // ascending
	extents [2][]Extent // the same, made anew with every change
	doomed  int         // directories being removed or still to be
	changed func()
	listed  struct { // the lengths of the extent that is being listed
		Extent
		holdings []Holding
	}
	trimming sync.Mutex
	removals sync.WaitGroup
}

var _ Disk = (*Epochs)(nil)

// OpenEpochs opens or creates a directory of epochs. It fails when the directory cannot be made or locked; damage is less to read.
func OpenEpochs(cfg EpochsConfig) (*Epochs, error) {
	cfg.BlocksPerEpoch = min(max(cfg.BlocksPerEpoch, 1), maxBlocksSanity)
	s := &Epochs{cfg: cfg, changed: func() {}}
	var err error
	if s.crypt, err = newCrypt(cfg.Key, LogID{}); err != nil {
		return nil, err
	}
	if err := os.MkdirAll(cfg.Dir, 0o700); err != nil {
		return nil, err
	}
	if s.lock, err = lockDir(cfg.Dir); err != nil {
		return nil, err
	}
	if err := s.scan(); err != nil {
		return nil, errors.Join(err, s.lock.Close())
	}
	return s, nil
}

// scan reads what is there. What it cannot make sense of it removes.
func (s *Epochs) scan() error {
	rec, _ := os.ReadFile(s.path("state")) // missing and damaged are the same: nothing is known
	logs, ok := openState(rec, s.crypt)
	if ok {
		s.logs, s.found = logs, logs
	}
	var err error
	if s.crypts, err = newCrypts(s.cfg.Key, s.logs); err != nil {
		return err
	}
	entries, _ := os.ReadDir(s.cfg.Dir)
	for _, d := range entries {
		if d.IsDir() && strings.HasPrefix(d.Name(), doomedPrefix) {
			s.removeDir(s.path(d.Name()), 0)
			continue
		}
		x, named := parseName(d.Name())
		if !d.IsDir() || !named {
			continue
		}
		e := newEpoch(x, s.cfg.Dir, s.logs[x.Log].ID, s.crypts[x.Log])
		if !ok || e.id == (LogID{}) || x.end() <= s.logs[x.Log].Tail || s.overlaps(x) || !mayOpen(e.dir, e.database()) {
			s.doom(e)
			continue
		}
		e.bytes.Store(diskBytes(e.dir))
		s.total.Add(e.bytes.Load())
		s.epochs[x.Log] = append(s.epochs[x.Log], e)
	}
	for log := range s.epochs {
		slices.SortFunc(s.epochs[log], func(a, b *epoch) int { return cmp.Compare(a.First, b.First) })
		s.listExtents(log)
	}
	return nil
}

// overlaps tells whether an extent covers blocks that another one covers.
func (s *Epochs) overlaps(x Extent) bool {
	return slices.ContainsFunc(s.epochs[x.Log], func(o *epoch) bool { return x.First < o.First+o.Count && o.First < x.First+x.Count })
}

func (s *Epochs) path(name string) string { return filepath.Join(s.cfg.Dir, name) }

// listExtents remakes the list of a log's extents. The caller holds the lock, or is alone.
func (s *Epochs) listExtents(log int) {
	list := make([]Extent, 0, len(s.epochs[log]))
	for _, e := range s.epochs[log] {
		list = append(list, e.Extent)
	}
	s.extents[log] = list
}

// Logs returns what was found at Open.
func (s *Epochs) Logs() [2]State { return s.found }

// Watch sets the function that is told of changes.
func (s *Epochs) Watch(changed func()) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.changed = changed
}

// SetLogs gives up what does not belong to the logs as stated and remembers them.
func (s *Epochs) SetLogs(logs [2]State) error {
	crypts, err := newCrypts(s.cfg.Key, logs)
	if err != nil {
		return err
	}
	s.mu.Lock()
	var gone []*epoch
	for log := range logs {
		other := logs[log].ID != s.logs[log].ID
		s.epochs[log] = slices.DeleteFunc(s.epochs[log], func(e *epoch) bool {
			drop := other || e.end() <= logs[log].Tail
			if drop {
				gone = append(gone, e)
			}
			return drop
		})
		s.listExtents(log)
	}
	s.logs, s.crypts = logs, crypts
	s.mu.Unlock()
	for _, e := range gone {
		s.doom(e)
	}
	return s.save(logs)
}

// save writes the file that names the logs, whole or not at all. Failure costs a cold cache after the next start.
func (s *Epochs) save(logs [2]State) error {
	if old, err := os.ReadFile(s.path("state")); err == nil {
		if there, ok := openState(old, s.crypt); ok && there == logs {
			return nil
		}
	}
	rec := cryptState(logs, s.crypt)
	if err := os.MkdirAll(s.cfg.Dir, 0o700); err != nil { // somebody may have taken it away
		return err
	}
	if err := os.WriteFile(s.path("state.new"), rec, 0o600); err != nil {
		return err
	}
	return os.Rename(s.path("state.new"), s.path("state"))
}

// doom moves an epoch out of the way, so that its name is free, and removes it in the background.
func (s *Epochs) doom(e *epoch) {
	e.retire()
	s.mu.Lock()
	s.doomed++
	to := s.path(fmt.Sprintf("%s%d-%d-%s", doomedPrefix, os.Getpid(), s.doomed, e.name()))
	s.mu.Unlock()
	if err := os.Rename(e.dir, to); err != nil {
		to = e.dir
	}
	s.removeDir(to, e.bytes.Load())
}

// removeDir removes a directory in the background. What stays is tried again at the next start.
func (s *Epochs) removeDir(dir string, size int64) {
	s.removals.Go(func() {
		_ = os.RemoveAll(dir)
		s.total.Add(-size)
		s.mu.Lock()
		changed := s.changed
		s.mu.Unlock()
		changed()
	})
}

// discard gives up an epoch that turned out to be damaged.
func (s *Epochs) discard(e *epoch) {
	s.mu.Lock()
	n := len(s.epochs[e.Log])
	s.epochs[e.Log] = slices.DeleteFunc(s.epochs[e.Log], func(x *epoch) bool { return x == e })
	mine := len(s.epochs[e.Log]) < n
	s.listExtents(int(e.Log))
	s.mu.Unlock()
	if mine {
		s.doom(e)
	}
}

// find returns the epoch of a block, or nil.
func (s *Epochs) find(k Key) *epoch {
	s.mu.Lock()
	defer s.mu.Unlock()
	for _, e := range slices.Backward(s.epochs[k.Log]) {
		if e.Covers(k.Number) {
			return e
		}
	}
	return nil
}

// Get reads a block.
func (s *Epochs) Get(k Key) (data []byte, about About, err error) {
	e := s.find(k)
	if e == nil {
		return nil, about, ErrAbsent
	}
	e.lastRead.Store(s.clock.Add(1))
	data, about, err = e.read(k.Number)
	if errors.Is(err, errDiscard) {
		s.discard(e)
	}
	switch {
	case errors.Is(err, ErrUnavailable):
		return nil, About{}, err
	case err != nil:
		return nil, About{}, fmt.Errorf("%w: %w", ErrAbsent, err)
	}
	s.trim(e)
	return data, about, nil
}

// Put writes a block.
func (s *Epochs) Put(b *Sealed) error {
	if s.total.Load() > s.cfg.SizeBytes || !s.room() {
		return ErrNoRoom
	}
	e, err := s.epochFor(b.Key)
	if err != nil {
		return err
	}
	e.lastPut.Store(s.clock.Add(1))
	rec := appendBlock(make([]byte, 0, scopedHeader+len(b.Data)), e.id, s.cfg.Writer, b.Number, About{b.Next, b.Scope}, b.Data)
	if e.crypt.on() {
		rec = e.crypt.append(make([]byte, 0, len(rec)+e.crypt.overhead()), rec, aboutBlock, blockKey(b.Log, b.Number)...)
	}
	if err := e.write(b, rec); err != nil {
		if errors.Is(err, errDiscard) {
			s.discard(e)
		}
		return fmt.Errorf("epoch %s: %w", e.name(), err)
	}
	s.grow(e, int64(len(rec)+64+8*len(b.Anchors)+anchorHeader+metaRecord))
	s.trim(e)
	return nil
}

// grow counts what was written, by estimate and now and then by the file system's own figure.
func (s *Epochs) grow(e *epoch, n int64) {
	if e.unsized.Add(1)%measureEvery == 1 {
		n = diskBytes(e.dir) - e.bytes.Load()
	}
	e.bytes.Add(n)
	s.total.Add(n)
}

// room looks whether the file system has space to spare.
func (s *Epochs) room() bool {
	ok := roomOnDisk(s.cfg.Dir, s.full.Load())
	s.full.Store(!ok)
	return ok
}

// Probe looks at the file system without writing, for a status that is fresh.
func (s *Epochs) Probe() { s.room() }

// epochFor returns the epoch of a block that is to be written, a new one when there is none.
func (s *Epochs) epochFor(k Key) (*epoch, error) {
	if e := s.find(k); e != nil {
		return e, nil
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	if k.Number<<BlockShift < s.logs[k.Log].Tail || s.logs[k.Log].ID == (LogID{}) {
		return nil, ErrAbsent
	}
	list := s.epochs[k.Log]
	at := len(list)
	for at > 0 && list[at-1].First > k.Number {
		at--
	}
	x := Extent{Log: k.Log, First: k.Number, Count: s.cfg.BlocksPerEpoch}
	if at < len(list) {
		x.Count = min(x.Count, list[at].First-x.First)
	}
	if !x.Valid() {
		return nil, ErrAbsent
	}
	e := newEpoch(x, s.cfg.Dir, s.logs[k.Log].ID, s.crypts[k.Log])
	if err := os.MkdirAll(e.dir, 0o700); err != nil {
		return nil, err
	}
	s.epochs[k.Log] = slices.Insert(list, at, e)
	s.listExtents(int(k.Log))
	return e, nil
}

// trim closes databases that were not used for longest when too many are open; keep stays.
func (s *Epochs) trim(keep *epoch) {
	if !s.trimming.TryLock() {
		return // somebody is at it
	}
	defer s.trimming.Unlock()
	s.mu.Lock()
	all := slices.Concat(s.epochs[0], s.epochs[1])
	s.mu.Unlock()
	var open, written []*epoch
	for _, e := range all {
		is, write := e.isOpen()
		if !is {
			continue
		}
		open = append(open, e)
		if write {
			written = append(written, e)
		}
	}
	s.closeOldest(written, maxWritten, keep, (*epoch).putTime)
	s.closeOldest(open, maxOpen, keep, (*epoch).useTime)
}

func (e *epoch) putTime() int64 { return e.lastPut.Load() }
func (e *epoch) useTime() int64 { return max(e.lastPut.Load(), e.lastRead.Load()) }

// closeOldest closes all but limit of a list.
func (s *Epochs) closeOldest(list []*epoch, limit int, keep *epoch, used func(*epoch) int64) {
	if len(list) <= limit {
		return
	}
	slices.SortFunc(list, func(a, b *epoch) int { return cmp.Compare(used(a), used(b)) })
	for _, e := range list[:len(list)-limit] {
		if e != keep {
			_ = e.close() // what was committed is there; the next open looks at the rest
		}
	}
}

// Note changes what is held of a block.
func (s *Epochs) Note(k Key, length int) error {
	e := s.find(k)
	if e == nil {
		return ErrAbsent
	}
	return e.note(k.Number, length)
}

// extent returns the epoch that is exactly x.
func (s *Epochs) extent(x Extent) *epoch {
	if e := s.find(Key{x.Log, x.First}); e != nil && e.Extent == x {
		return e
	}
	return nil
}

// Lengths lists what an extent holds.
func (s *Epochs) Lengths(x Extent, from uint64) ([]Holding, error) {
	e := s.extent(x)
	if e == nil {
		return nil, ErrAbsent
	}
	s.mu.Lock()
	list := s.listed.holdings
	if from == 0 || s.listed.Extent != x {
		list = nil
	}
	s.mu.Unlock()
	if list == nil {
		var err error
		if list, err = e.lists.lengths(x); err != nil {
			return nil, err
		}
		s.mu.Lock()
		s.listed.Extent, s.listed.holdings = x, list
		s.mu.Unlock()
	}
	at, _ := slices.BinarySearchFunc(list, from, func(h Holding, n uint64) int { return cmp.Compare(h.Number, n) })
	list = list[at:]
	if len(list) == 0 {
		s.mu.Lock()
		s.listed.holdings = nil
		s.mu.Unlock()
	}
	return list[:min(len(list), MaxHoldings)], nil
}

// Anchors reads an extent's anchor list.
func (s *Epochs) Anchors(x Extent, offset int64) (records []byte, next int64, err error) {
	e := s.extent(x)
	if e == nil {
		return nil, 0, ErrAbsent
	}
	return e.lists.records(offset)
}

// Status returns sizes and extents.
func (s *Epochs) Status() Status {
	s.mu.Lock()
	defer s.mu.Unlock()
	return Status{Bytes: s.total.Load(), Extents: s.extents, Full: s.full.Load()}
}

// Close closes all epochs and gives the directory free. The limit is not kept: it is for a Disk that can be left behind.
func (s *Epochs) Close(time.Duration) error {
	s.removals.Wait()
	for _, list := range s.epochs {
		for _, e := range list {
			_ = e.close() // files that vanished or cannot be written: found out at the next start
		}
	}
	return s.lock.Close()
}

// Discard gives up an epoch of a directory that nobody has open: the next Open removes it.
func Discard(dir string, x Extent) error {
	from := filepath.Join(dir, x.name())
	err := os.Rename(from, filepath.Join(dir, fmt.Sprintf("%s%d-%s", doomedPrefix, time.Now().UnixNano(), x.name())))
	if os.IsNotExist(err) {
		return nil
	}
	return err
}
