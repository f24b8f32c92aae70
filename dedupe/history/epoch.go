package history

import (
	"encoding/binary"
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"runtime/debug"
	"sync"
	"syscall"
	"time"

	"github.com/dgraph-io/badger/v4"
	"github.com/dgraph-io/badger/v4/options"
)

// memTableBytes is Badger's memory table: keys are 9 bytes and values live in the value log, so 8 MB are hardly ever filled.
const memTableBytes = 8 << 20

// epoch is one directory: a Badger database of blocks, a list of their lengths and a list of their anchors. It covers a fixed range of block
// numbers and is removed as a whole.
type epoch struct {
	log          uint8
	first, count uint64
	dir          string
	id           LogID

	mu      sync.RWMutex // held for reading while db is used, for writing while it is opened and closed
	db      *badger.DB
	gone    bool // removed: nothing is read or written any more
	meta    *os.File
	anchors *os.File
}

var logNames = [2]string{"own", "peer"}

// name is the epoch's directory below the store's.
func (e *epoch) name() string {
	return fmt.Sprintf("%s-%016x-%08x", logNames[e.log], e.first, e.count)
}

// parseName is the inverse of name.
func parseName(s string) (e *epoch, ok bool) {
	for log, n := range logNames {
		var first, count uint64
		if k, err := fmt.Sscanf(s, n+"-%016x-%08x", &first, &count); err == nil && k == 2 && count > 0 && count <= maxBlocksSanity {
			e := &epoch{log: uint8(log), first: first, count: count}
			return e, e.name() == s
		}
	}
	return nil, false
}

// covers tells whether a block belongs here.
func (e *epoch) covers(number uint64) bool { return number >= e.first && number-e.first < e.count }

// options returns the settings of the epoch's database.
func (e *epoch) options() badger.Options {
	bytes := int64(e.count) * (BlockBytes + 1024)
	return badger.DefaultOptions(e.database()).
		WithLogger(nil).
		WithMetricsEnabled(false).
		WithSyncWrites(false).
		WithDetectConflicts(false).
		WithNumVersionsToKeep(1).
		WithCompression(options.None).
		WithBlockCacheSize(0).
		WithIndexCacheSize(0).
		WithMemTableSize(memTableBytes).
		WithNumMemtables(1).
		WithNumCompactors(0). // nothing is ever overwritten; a table per restart is all there is
		WithNumLevelZeroTables(1 << 20).
		WithNumLevelZeroTablesStall(1 << 21).
		WithValueThreshold(512).
		WithValueLogFileSize(min(max(bytes, 4<<20), 512<<20))
}

// database is the directory of the epoch's Badger database.
func (e *epoch) database() string { return filepath.Join(e.dir, "blocks") }

// open makes the database usable. A database that does not open is tried once more and then thrown away: Badger can leave a state behind
// that its Open refuses for ever (issue 2207), and a cold epoch is cheaper than an error. gone are the blocks that were thrown away with it.
func (e *epoch) open() (db *badger.DB, gone map[uint64]int, err error) {
	e.mu.Lock()
	defer e.mu.Unlock()
	if e.gone {
		return nil, nil, os.ErrNotExist
	}
	if e.db != nil {
		return e.db, nil, nil
	}
	opt := e.options()
	err = ErrDamaged
	if mayOpen(e.dir, opt.Dir) {
		_ = os.Remove(filepath.Join(opt.Dir, "DISCARD")) // counts for a collection of garbage that is never made; mapped, so better not there
		if db, err = openBadger(opt); err != nil {
			db, err = openBadger(opt)
		}
	}
	if err != nil {
		gone, _ = e.lengths() // without a list nothing was held
		if err = e.clear(); err == nil {
			db, err = openBadger(opt)
		}
	}
	if err != nil {
		return nil, gone, fmt.Errorf("epoch %s: %w", e.name(), err)
	}
	e.db = db
	return db, gone, nil
}

// clear empties the epoch: database, lists and notes.
func (e *epoch) clear() error {
	err := e.closeLocked()
	return errors.Join(err, os.RemoveAll(e.dir), os.MkdirAll(e.dir, 0o700))
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

// read returns a block's bytes in a slice of their own. gone is as in open.
func (e *epoch) read(number uint64) (data []byte, next uint64, gone map[uint64]int, err error) {
	e.mu.RLock()
	if e.db == nil {
		e.mu.RUnlock()
		if _, gone, err = e.open(); err != nil {
			return nil, 0, gone, err
		}
		e.mu.RLock()
	}
	defer e.mu.RUnlock()
	if e.db == nil {
		return nil, 0, gone, os.ErrNotExist
	}
	data, next, err = e.get(number)
	return data, next, gone, err
}

// get reads a block from the open database.
func (e *epoch) get(number uint64) (data []byte, next uint64, err error) {
	defer guard(&err)()
	txn := e.db.NewTransaction(false)
	defer txn.Discard()
	item, err := txn.Get(blockKey(e.log, number))
	if err != nil {
		return nil, 0, err
	}
	err = item.Value(func(rec []byte) error {
		view, n, err := parseBlock(rec, e.id, number)
		if err != nil {
			return err
		}
		data, next = append(make([]byte, 0, len(view)), view...), n
		return nil
	})
	return data, next, err
}

// write stores a block and its lists. gone is as in open.
func (e *epoch) write(number uint64, rec []byte, length int, packed []uint64) (gone map[uint64]int, err error) {
	db, gone, err := e.open()
	if err != nil {
		return gone, err
	}
	if err := e.openLists(); err != nil {
		return gone, err
	}
	if err := put(db, blockKey(e.log, number), rec); err != nil {
		return gone, err
	}
	if len(packed) > 0 {
		if _, err := e.anchors.Write(appendAnchors(nil, number, packed)); err != nil {
			return gone, err
		}
	}
	return gone, e.note(number, length)
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

// note appends to the list of lengths; the last entry of a block counts, and length 0 means that it is not held.
func (e *epoch) note(number uint64, length int) error {
	if err := e.openLists(); err != nil {
		return err
	}
	_, err := e.meta.Write(appendMeta(nil, number, length))
	return err
}

// openLists opens the two lists for appending, with a header of their own.
func (e *epoch) openLists() error {
	if e.gone {
		return os.ErrNotExist
	}
	for _, f := range []struct {
		file **os.File
		name string
	}{{&e.meta, "lengths"}, {&e.anchors, "anchors"}} {
		if *f.file != nil {
			continue
		}
		file, err := os.OpenFile(filepath.Join(e.dir, f.name), os.O_RDWR|os.O_CREATE|os.O_APPEND, 0o600)
		if err != nil {
			return err
		}
		st, err := file.Stat()
		if err == nil {
			err = e.alignList(file, st.Size(), f.name)
		}
		if err != nil {
			return errors.Join(err, file.Close())
		}
		*f.file = file
	}
	return nil
}

// alignList writes the header of an empty list and cuts a torn entry off the list of lengths. (A torn anchor record ends the reading of that
// list; what is appended behind it is not found, which costs anchors and nothing else.)
func (e *epoch) alignList(file *os.File, size int64, name string) error {
	if size < sidecarHeader {
		if err := file.Truncate(0); err != nil {
			return err
		}
		h := append([]byte(sidecarMagic), e.id[:]...)
		_, err := file.Write(append(h, 0, 0, 0, 0))
		return err
	}
	if rest := (size - sidecarHeader) % metaRecord; name == "lengths" && rest != 0 {
		return file.Truncate(size - rest)
	}
	return nil
}

// listHeader checks that a list belongs to this log.
func (e *epoch) listHeader(f io.Reader) bool {
	var h [sidecarHeader]byte
	_, err := io.ReadFull(f, h[:])
	return err == nil && string(h[:4]) == sidecarMagic && LogID(h[4:20]) == e.id
}

// lengths reads the list of lengths: the last entry of each block.
func (e *epoch) lengths() (map[uint64]int, error) {
	f, err := os.Open(filepath.Join(e.dir, "lengths"))
	if err != nil {
		return nil, err
	}
	defer f.Close()
	if !e.listHeader(f) {
		return nil, ErrDamaged
	}
	held := map[uint64]int{}
	buf := make([]byte, 4096*metaRecord)
	for {
		n, err := io.ReadFull(f, buf)
		for rec := buf[:n-n%metaRecord]; len(rec) > 0; rec = rec[metaRecord:] {
			number, length, ok := parseMeta(rec[:metaRecord])
			if !ok || !e.covers(number) {
				continue
			}
			if length == 0 {
				delete(held, number)
			} else {
				held[number] = length
			}
		}
		if err != nil {
			return held, nil //nolint:nilerr // a list that ends early is a shorter list
		}
	}
}

// eachAnchors reads the anchor lists until a record is damaged or f says stop.
func (e *epoch) eachAnchors(f func(number uint64, packed []uint64) bool) bool {
	file, err := os.Open(filepath.Join(e.dir, "anchors"))
	if err != nil {
		return true
	}
	defer file.Close()
	if !e.listHeader(file) {
		return true
	}
	buf := make([]byte, anchorHeader, 64<<10)
	for {
		buf = buf[:anchorHeader]
		if _, err := io.ReadFull(file, buf); err != nil {
			return true
		}
		n, ok := anchorBytes(buf)
		if !ok {
			return true
		}
		for cap(buf) < n {
			buf = append(buf[:cap(buf)], 0)[:anchorHeader]
		}
		buf = buf[:n]
		if _, err := io.ReadFull(file, buf[anchorHeader:]); err != nil {
			return true
		}
		number, packed, ok := parseAnchors(buf)
		if !ok {
			return true
		}
		if e.covers(number) && !f(number, packed) {
			return false
		}
	}
}

// close ends the use of the epoch's files.
func (e *epoch) close() (err error) {
	e.mu.Lock()
	defer e.mu.Unlock()
	return e.closeLocked()
}

func (e *epoch) closeLocked() (err error) {
	for _, f := range []**os.File{&e.meta, &e.anchors} {
		if *f != nil {
			err = errors.Join(err, (*f).Close())
			*f = nil
		}
	}
	if e.db != nil {
		closed := closeBadger(e.db, e.database())
		e.db = nil
		if closed == nil {
			closed = writeSums(e.dir, e.options().Dir)
		}
		err = errors.Join(err, closed)
	}
	return err
}

// closeWait is how long a database may take to write its memory table.
const closeWait = 10 * time.Second

// closeBadger closes a database. Badger tries for ever to write its memory table, so its directory is made again when somebody removed it, and
// on a disk that takes nothing more the database is left to itself: nobody uses it any more, and the next opening finds its write-ahead log.
func closeBadger(db *badger.DB, dir string) error {
	_ = os.MkdirAll(dir, 0o700)
	done := make(chan error, 1)
	go func() {
		var err error
		defer func() { done <- err }()
		defer guard(&err)()
		err = db.Close()
	}()
	select {
	case err := <-done:
		return err
	case <-time.After(closeWait):
		return errCloseWait
	}
}

// errCloseWait is what closing a database that cannot be written returns.
var errCloseWait = errors.New("the database could not be written and was abandoned")

// remove deletes the epoch.
func (e *epoch) remove() error {
	e.mu.Lock()
	defer e.mu.Unlock()
	err := e.closeLocked()
	e.gone = true
	return errors.Join(err, os.RemoveAll(e.dir))
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
