package history

import (
	"errors"
	"time"
)

// Errors of a Disk.
var (
	// ErrLocked means that another process uses the directory.
	ErrLocked = errors.New("cache directory is in use by another process")
	// ErrAbsent means that a block is not held, or was and is damaged: it will not come back.
	ErrAbsent = errors.New("block is not held")
	// ErrNoRoom means that the cache has its size or the file system no space to spare.
	ErrNoRoom = errors.New("no room on disk")
	// ErrUnavailable means that the disk did not answer; what it holds it may still hold.
	ErrUnavailable = errors.New("store does not answer")
)

// isGone tells whether what a disk says means that a block will not come back.
func isGone(err error) bool { return errors.Is(err, ErrAbsent) || errors.Is(err, ErrDamaged) }

// Extent is an epoch as seen from outside: a range of block numbers of one log that is removed as a whole.
type Extent struct {
	Log          uint8
	First, Count uint64
}

// Covers tells whether a block belongs here.
func (x Extent) Covers(number uint64) bool { return number >= x.First && number-x.First < x.Count }

// end is the position behind the extent.
func (x Extent) end() uint64 { return (x.First + x.Count) << BlockShift }

// Holding is one entry of what a disk holds: a block and its length.
type Holding struct {
	Number uint64
	Length int
}

// Sealed is a block on its way to disk.
type Sealed struct {
	Key
	Next    uint64 // see Block.Next: position + 1, or 0
	Scope   uint32 // see Block.Scope
	Data    []byte
	Anchors []uint64 // packed
}

// About is what a block on disk says of itself beside its bytes.
type About struct {
	Next  uint64 // see Block.Next: position + 1, or 0
	Scope uint32 // see Block.Scope
}

// Status is what a disk says of itself. The slices are never written to.
type Status struct {
	Bytes    int64       // as du counts
	Extents  [2][]Extent // by log, ascending
	Full     bool        // the file system has no space to spare: nothing is written
	Off      string      // why nothing can be read or written at all; "" while it works
	Restarts int64       // how often the process behind it was started again
}

// Limits of the answers of Lengths and Anchors.
const (
	MaxHoldings    = 32768   // entries in one answer
	MaxAnchorBytes = 4 << 20 // bytes in one answer; a single block's list is never longer
	anchorBatch    = 128 << 10
)

// Disk is where sealed blocks lie: [Epochs] in this process, or a child process that serves them. All methods may block as long as the
// hardware does, so nobody calls them who moves traffic. Put, Note and SetLogs come from one goroutine, the others from any.
type Disk interface {
	// Logs returns what was found when the disk was opened; the zero value when nothing was.
	Logs() [2]State
	// SetLogs states ids, tails and heads from now on. Blocks of another id or below the tail are given up.
	SetLogs(logs [2]State) error
	// Get returns a block's bytes, which are the caller's, and what else it says; ErrAbsent when it is not held, ErrUnavailable when nobody knows.
	Get(k Key) (data []byte, about About, err error)
	// Put stores a block.
	Put(b *Sealed) error
	// Note says how much of a block is still of use; 0 is nothing.
	Note(k Key, length int) error
	// Lengths lists blocks of an extent in ascending order, from a number on, MaxHoldings at most; none means that there are no more.
	Lengths(x Extent, from uint64) ([]Holding, error)
	// Anchors returns whole records of an extent's anchor list from an offset on (0 is its beginning), and where to go on; no records
	// mean that there are no more.
	Anchors(x Extent, offset int64) (records []byte, next int64, err error)
	// Status returns the present status.
	Status() Status
	// Watch sets a function that is called, without locks, when the status changed. It is called before anything else.
	Watch(changed func())
	// Close gives everything free, after at most limit.
	Close(limit time.Duration) error
}
