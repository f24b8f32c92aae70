package history

import (
	"encoding/binary"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"runtime/debug"
	"sync"
	"sync/atomic"
	"syscall"
	"time"

	"github.com/dgraph-io/badger/v4"
	"github.com/dgraph-io/badger/v4/options"
)

// Badger's memory table holds keys of 9 bytes and pointers into the value log: about 100 bytes per block.
const (
	minMemTable      = 1 << 20
	maxMemTable      = 8 << 20
	memTablePerBlock = 128
)

// maxFaults is how many reads of an epoch may fail before it is given up as a whole: each one costs somebody a flow, and damage is seldom alone.
const maxFaults = 3

// closeLimit is how long a database may take to close.
const closeLimit = 10 * time.Second

// errDiscard means that an epoch is of no use any more and should go.
var errDiscard = errors.New("epoch is damaged")

// epoch is one directory: a Badger database of blocks, a list of their lengths and a list of their anchors. It covers a fixed range of block
// numbers and is removed as a whole.
type epoch struct {
	Extent
	dir   string
	id    LogID
	crypt crypt

	bytes    atomic.Int64 // as du counts
	unsized  atomic.Int32 // blocks written since du was asked last
	faults   atomic.Int32
	lastRead atomic.Int64 // of Epochs' clock
	lastPut  atomic.Int64

	mu    sync.RWMutex // held for reading while db is used, for writing while it is opened and closed
	db    *badger.DB
	ro    bool // db cannot be written to
	gone  bool // removed: nothing is read or written any more
	lists lists
}

var logNames = [2]string{"own", "peer"}

// name is the directory of an epoch below the store's.
func (x Extent) name() string {
	return fmt.Sprintf("%s-%016x-%08x", logNames[x.Log], x.First, x.Count)
}

// String names the extent as its directory does.
func (x Extent) String() string { return x.name() }

// parseName is the inverse of name.
func parseName(s string) (Extent, bool) {
	for log, n := range logNames {
		x := Extent{Log: uint8(log)}
		if k, err := fmt.Sscanf(s, n+"-%016x-%08x", &x.First, &x.Count); err == nil && k == 2 && x.Valid() {
			return x, x.name() == s
		}
	}
	return Extent{}, false
}

// Valid tells whether an extent can be.
func (x Extent) Valid() bool {
	return x.Log <= 1 && x.Count > 0 && x.Count <= maxBlocksSanity && x.First < 1<<(63-BlockShift)
}

// newEpoch returns an epoch of a directory.
func newEpoch(x Extent, parent string, id LogID, c crypt) *epoch {
	e := &epoch{Extent: x, dir: filepath.Join(parent, x.name()), id: id, crypt: c}
	e.lists = lists{dir: e.dir, id: id, crypt: c}
	return e
}

// database is the directory of the epoch's Badger database.
func (e *epoch) database() string { return filepath.Join(e.dir, "blocks") }

// options returns the settings of the epoch's database.
func (e *epoch) options() badger.Options {
	count := int64(e.Count)
	return badger.DefaultOptions(e.database()).
		WithLogger(nil).
		WithMetricsEnabled(false).
		WithSyncWrites(false).
		WithDetectConflicts(false).
		WithNumVersionsToKeep(1).
		WithCompression(options.None).
		WithBlockCacheSize(0).
		WithIndexCacheSize(0).
		WithMemTableSize(min(max(count*memTablePerBlock, minMemTable), maxMemTable)).
		WithNumMemtables(1).
		WithNumCompactors(0). // nothing is ever overwritten; a table per opening is all there is
		WithNumLevelZeroTables(1 << 20).
		WithNumLevelZeroTablesStall(1 << 21).
		WithValueThreshold(512).
		WithValueLogFileSize(min(max(count*(BlockBytes+1024), 4<<20), 512<<20))
}

// acquire returns the open database with the epoch's lock held for reading: the caller unlocks it.
func (e *epoch) acquire(write bool) (*badger.DB, error) {
	for {
		e.mu.RLock()
		switch {
		case e.gone:
			e.mu.RUnlock()
			return nil, ErrAbsent
		case e.db != nil && (!write || !e.ro):
			return e.db, nil
		}
		e.mu.RUnlock()
		if err := e.open(write); err != nil {
			return nil, err
		}
	}
}

// open makes the database usable. Reading takes a database of a fifth of the memory, which Badger opens only after a clean end. One that does
// not open is tried once more and then given up: Badger can leave a state behind that its Open refuses for ever (issue 2207), and a cold
// epoch is cheaper than an error.
func (e *epoch) open(write bool) (err error) {
	e.mu.Lock()
	defer e.mu.Unlock()
	if e.gone || e.db != nil && (!write || !e.ro) {
		return nil
	}
	if e.db != nil {
		if err := e.closeDB(); err != nil {
			return err
		}
	}
	opt := e.options()
	if !write {
		if _, err := os.Stat(opt.Dir); os.IsNotExist(err) {
			return fmt.Errorf("%w: database is missing", errDiscard)
		}
	}
	if !mayOpen(e.dir, opt.Dir) {
		return fmt.Errorf("%w: tables are not as they were written", errDiscard)
	}
	if e.ro = !write; e.ro {
		if e.db, err = openBadger(opt.WithReadOnly(true)); err == nil {
			return nil
		}
		e.ro = false
	}
	_ = os.Remove(filepath.Join(opt.Dir, "DISCARD")) // counts for a collection of garbage that is never made; mapped, so better not there
	if e.db, err = openBadger(opt); err != nil {
		e.db, err = openBadger(opt)
	}
	if err == nil {
		e.firstSums()
		return nil
	}
	e.db = nil
	if passing(err) {
		return fmt.Errorf("%w: %w", ErrUnavailable, err)
	}
	return fmt.Errorf("%w: %w", errDiscard, err)
}

// firstSums notes the files of a new database, so that the tables which Badger writes when it is opened after a kill count as added since.
func (e *epoch) firstSums() {
	if _, err := os.Stat(filepath.Join(e.dir, sumsName)); os.IsNotExist(err) {
		_ = writeSums(e.dir, e.database()) // without notes a second kill costs the epoch
	}
}

// passing tells whether an error says nothing about the files themselves: something ran out, or the file system cannot be written to.
func passing(err error) bool {
	for _, e := range []syscall.Errno{syscall.ENOSPC, syscall.EDQUOT, syscall.EMFILE, syscall.ENFILE, syscall.ENOMEM, syscall.EROFS, syscall.EACCES, syscall.EPERM} {
		if errors.Is(err, e) {
			return true
		}
	}
	return false
}

// openBadger opens a database; a panic over damaged files is an error like any other.
func openBadger(opt badger.Options) (db *badger.DB, err error) {
	defer guard(&err)()
	if err := os.MkdirAll(opt.Dir, 0o700); err != nil {
		return nil, err
	}
	return badger.Open(opt)
}

// guard turns a panic or a memory fault (a mapped file that was cut) in this goroutine into an error.
func guard(err *error) func() {
	old := debug.SetPanicOnFault(true)
	return func() {
		debug.SetPanicOnFault(old)
		if r := recover(); r != nil {
			*err = fmt.Errorf("%w: %v", ErrDamaged, r)
		}
	}
}

// blockKey is the key of a block: its log, its number big-endian, so that keys sort as positions do.
func blockKey(log uint8, number uint64) []byte {
	return binary.BigEndian.AppendUint64([]byte{log}, number)
}

// read returns a block's bytes in a slice of their own.
func (e *epoch) read(number uint64) (data []byte, about About, err error) {
	db, err := e.acquire(false)
	if err != nil {
		return nil, about, err
	}
	defer e.mu.RUnlock()
	data, about, err = e.get(db, number)
	if err == nil || errors.Is(err, badger.ErrKeyNotFound) {
		return data, about, err
	}
	if e.faults.Add(1) >= maxFaults {
		return nil, about, fmt.Errorf("%w: %w", errDiscard, err)
	}
	return nil, about, err
}

func (e *epoch) get(db *badger.DB, number uint64) (data []byte, about About, err error) {
	defer guard(&err)()
	txn := db.NewTransaction(false)
	defer txn.Discard()
	item, err := txn.Get(blockKey(e.Log, number))
	if err != nil {
		return nil, about, err
	}
	err = item.Value(func(stored []byte) error {
		rec, err := e.crypt.open(make([]byte, 0, len(stored)), stored, aboutBlock, blockKey(e.Log, number)...)
		if err == nil {
			data, about, err = parseBlock(rec, e.id, number)
		}
		return err
	})
	return data, about, err
}

// write stores a block and its lists.
func (e *epoch) write(b *Sealed, rec []byte) error {
	db, err := e.acquire(true)
	if err != nil {
		return err
	}
	defer e.mu.RUnlock()
	if err := put(db, blockKey(e.Log, b.Number), rec); err != nil {
		return err
	}
	return e.lists.add(b.Number, len(b.Data), b.Anchors)
}

// put commits one value.
func put(db *badger.DB, key, value []byte) (err error) {
	defer guard(&err)()
	txn := db.NewTransaction(true)
	defer txn.Discard()
	if err := txn.Set(key, value); err != nil {
		return err
	}
	return txn.Commit()
}

// note changes what is held of a block.
func (e *epoch) note(number uint64, length int) error {
	e.mu.RLock()
	defer e.mu.RUnlock()
	if e.gone {
		return ErrAbsent
	}
	err := e.lists.note(number, length)
	if e.db == nil || e.ro {
		err = errors.Join(err, e.lists.close()) // nobody else is about to write them
	}
	return err
}

// isOpen tells whether the database is open, and whether for writing.
func (e *epoch) isOpen() (open, write bool) {
	e.mu.RLock()
	defer e.mu.RUnlock()
	return e.db != nil, e.db != nil && !e.ro
}

// close ends the use of the epoch's files; the next use opens them again.
func (e *epoch) close() error {
	e.mu.Lock()
	defer e.mu.Unlock()
	return errors.Join(e.lists.close(), e.closeDB())
}

// closeDB closes the database and notes what its files were. The caller holds the lock.
func (e *epoch) closeDB() (err error) {
	if e.db == nil {
		return nil
	}
	// Without its directory Badger would try for ever to write the last table.
	_ = os.MkdirAll(e.database(), 0o700)
	err = closeBadger(e.db)
	e.db = nil
	if err == nil && !e.ro {
		err = writeSums(e.dir, e.database())
	}
	return err
}

// closeBadger closes a database. One that cannot write its last table tries for ever: it is left behind.
func closeBadger(db *badger.DB) error {
	done := make(chan error, 1)
	go func() {
		var err error
		defer func() { done <- err }()
		defer guard(&err)()
		err = db.Close()
	}()
	t := time.NewTimer(closeLimit)
	defer t.Stop()
	select {
	case err := <-done:
		return err
	case <-t.C:
		return fmt.Errorf("%w: database does not close", ErrUnavailable)
	}
}

// retire ends the use of the epoch for ever.
func (e *epoch) retire() {
	e.mu.Lock()
	defer e.mu.Unlock()
	e.gone = true
	_ = e.lists.close() // it goes anyway
	_ = e.closeDB()     // likewise
}

// diskBytes is what du says of a directory: allocated, not apparent bytes, as Badger's files are sparse.
func diskBytes(dir string) (sum int64) {
	_ = filepath.WalkDir(dir, func(_ string, d os.DirEntry, err error) error {
		if err != nil {
			return nil //nolint:nilerr // what cannot be read is not counted
		}
		if info, err := d.Info(); err == nil {
			if st, ok := info.Sys().(*syscall.Stat_t); ok {
				sum += st.Blocks * 512
			}
		}
		return nil
	})
	return sum
}
