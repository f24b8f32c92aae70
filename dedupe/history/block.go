package history

import (
	"errors"
	"sync"
	"sync/atomic"

	"wanpair/dedupe/anchor"
)

// Geometry of a log (protocol B1).
const (
	BlockShift = 18
	BlockBytes = 1 << BlockShift
	offsetMask = BlockBytes - 1
)

// firstBytes is what an open block allocates at first; small flows fill no more.
const firstBytes = 16 << 10

// Errors of Block.Append.
var (
	ErrNotAtFill = errors.New("append does not begin at the block's fill")
	ErrSealed    = errors.New("block is sealed")
)

// Key names a block of one of the two logs.
type Key struct {
	Log    uint8
	Number uint64
}

// Block is a piece of a log in memory: open (one writer appends, any number of readers read what is there) or sealed (immutable).
type Block struct {
	Key

	// Writer is the encoder or decoder that fills the block, for its owner's use; 0 is none.
	Writer atomic.Uint64

	mu      sync.Mutex // serialises Append, Seal, AddAnchor
	buf     atomic.Pointer[[]byte]
	fill    atomic.Uint32
	sealed  atomic.Bool
	next    atomic.Uint64 // position + 1 at which the flow that filled this block goes on; 0 is unknown
	anchors []uint64      // packed, of open blocks only

	anchored atomic.Uint64 // see Anchored
	scope    atomic.Uint32 // see Scope

	used  atomic.Bool // read since the clock's hand passed
	ahead atomic.Bool // was fetched before anybody asked for it, and nobody has yet
	place place       // guarded by the hot table's lock
}

// newBlock returns an empty open block.
func newBlock(k Key) *Block {
	b := &Block{Key: k}
	b.anchored.Store(b.Position())
	b.buf.Store(new([]byte))
	return b
}

// sealedBlock returns a block as it came from disk.
func sealedBlock(k Key, data []byte, about About) *Block {
	b := &Block{Key: k}
	b.buf.Store(&data)
	b.fill.Store(uint32(len(data)))
	b.sealed.Store(true)
	b.next.Store(about.Next)
	b.scope.Store(about.Scope)
	return b
}

// Scope says to whom the block belongs; 0 is everybody. Flows of another scope neither read nor fill it.
func (b *Block) Scope() uint32 { return b.scope.Load() }

// SetScope sets it, before the first byte.
func (b *Block) SetScope(scope uint32) { b.scope.Store(scope) }

// Position is the log position of the block's first byte.
func (b *Block) Position() uint64 { return b.Number << BlockShift }

// Anchored is the lowest position at which the index knows the anchors of what the block holds, for its owner's use: the block's own, or that of an
// earlier copy of the same bytes. 0 is unknown, as it is of blocks that come from disk.
func (b *Block) Anchored() uint64 { return b.anchored.Load() }

// Inherit lowers what Anchored returns.
func (b *Block) Inherit(position uint64) {
	for old := b.anchored.Load(); position < old && !b.anchored.CompareAndSwap(old, position); old = b.anchored.Load() {
	}
}

// Len is the number of bytes that can be read.
func (b *Block) Len() int { return int(b.fill.Load()) }

// Room is the number of bytes that can still be appended.
func (b *Block) Room() int {
	if b.sealed.Load() {
		return 0
	}
	return BlockBytes - b.Len()
}

// Bytes returns what is there now. The slice is never written to again.
func (b *Block) Bytes() []byte {
	n := b.fill.Load() // before the buffer: a buffer that was swapped since holds at least as much
	buf := *b.buf.Load()
	return buf[:n:n]
}

// Next returns the position where the flow that filled the block goes on, when it is known and not simply the next block.
func (b *Block) Next() (uint64, bool) {
	v := b.next.Load()
	return v - 1, v != 0
}

// SetNext notes where the flow that filled the block goes on.
func (b *Block) SetNext(position uint64) { b.next.Store(position + 1) }

// Append adds p behind offset at, which must be the block's fill.
func (b *Block) Append(at int, p []byte) error {
	b.mu.Lock()
	defer b.mu.Unlock()
	n := b.Len()
	switch {
	case b.sealed.Load():
		return ErrSealed
	case at != n || n+len(p) > BlockBytes:
		return ErrNotAtFill
	}
	buf := b.grow(n + len(p))
	copy(buf[n:], p)
	b.fill.Store(uint32(n + len(p)))
	return nil
}

// grow returns the buffer, made to hold n bytes. The caller holds mu. Small flows fill little; what exceeds a quarter is likely to fill the block.
func (b *Block) grow(n int) []byte {
	buf := *b.buf.Load()
	if n <= len(buf) {
		return buf
	}
	size := BlockBytes
	if n <= BlockBytes/4 {
		size = BlockBytes / 4
	}
	if len(buf) == 0 && n <= firstBytes {
		size = firstBytes
	}
	grown := make([]byte, size)
	copy(grown, buf[:b.Len()])
	b.buf.Store(&grown)
	return grown
}

// Reserve makes room for n bytes in all, so that what is appended in many pieces is not copied from buffer to buffer.
func (b *Block) Reserve(n int) {
	b.mu.Lock()
	defer b.mu.Unlock()
	b.grow(min(n, BlockBytes))
}

// AddAnchor notes an anchor whose window ends at offset end, to be stored beside the block.
func (b *Block) AddAnchor(end int, fp uint64) {
	b.mu.Lock()
	b.anchors = append(b.anchors, PackAnchor(end, fp))
	b.mu.Unlock()
}

// AddAnchors notes packed anchors.
func (b *Block) AddAnchors(packed []uint64) {
	b.mu.Lock()
	b.anchors = append(b.anchors, packed...)
	b.mu.Unlock()
}

// Sealed tells whether nothing can be appended any more.
func (b *Block) Sealed() bool { return b.sealed.Load() }

// seal closes the block, at limit when it is longer. It reports whether it was open.
func (b *Block) seal(limit int) bool {
	b.mu.Lock()
	defer b.mu.Unlock()
	if b.sealed.Load() {
		return false
	}
	b.sealed.Store(true)
	if b.Len() > limit {
		b.fill.Store(uint32(limit))
	}
	return true
}

// bytesHeld is the memory of the block's buffer.
func (b *Block) bytesHeld() int64 { return int64(len(*b.buf.Load())) }

// PackAnchor puts an anchor into one word: offset of the window's end minus one in the low 18 bits, fingerprint above.
func PackAnchor(end int, fp uint64) uint64 {
	return fp<<BlockShift | uint64(end-1)&offsetMask
}

// UnpackAnchor is the inverse of PackAnchor.
func UnpackAnchor(v uint64) (end int, fp uint64) {
	return int(v&offsetMask) + 1, v >> BlockShift & (1<<anchor.FingerprintBits - 1)
}
