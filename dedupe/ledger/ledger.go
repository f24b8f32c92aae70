// Package ledger keeps, for every block of one log, how many of its bytes each of the two sides holds.
//
// What a side holds of a block is a prefix, so one number per block and side says it all. A reference is allowed inside the shorter of the
// two ([Table.Both]), or, where the other side waits for what is under way, inside what was sent ([Table.Ahead]). A block can be struck: then neither side's bytes count until the end of the session, whatever acknowledgements arrive later.
//
// The table promises to be cheap at the size of a full cache: eight bytes per block, read without locks; four million blocks (1 TiB) take 32 MiB.
package ledger

import (
	"maps"
	"slices"
	"sync"
	"sync/atomic"
)

// MaxLength is the largest length of a block the table can keep.
const MaxLength = 1 << 18

const (
	pageBits = 12
	pageSize = 1 << pageBits

	lengthBits = 20
	lengthMask = 1<<lengthBits - 1
	sentShift  = 2 * lengthBits
	struckBit  = 1 << (3 * lengthBits)
)

// page holds the words of 4096 neighbouring blocks: mine in the low 20 bits, above it theirs, then sent, then the struck mark.
type page [pageSize]atomic.Uint64

// Table is one log's ledger. The zero value is ready to use.
type Table struct {
	mu    sync.Mutex
	pages atomic.Pointer[map[uint64]*page] // replaced as a whole under mu: readers need no lock
}

// word returns the word of a block, or nil when its page does not exist.
func (t *Table) word(block uint64) *atomic.Uint64 {
	m := t.pages.Load()
	if m == nil {
		return nil
	}
	p := (*m)[block>>pageBits]
	if p == nil {
		return nil
	}
	return &p[block%pageSize]
}

// make returns the word of a block, adding its page when there is none.
func (t *Table) make(block uint64) *atomic.Uint64 {
	if w := t.word(block); w != nil {
		return w
	}
	t.mu.Lock()
	defer t.mu.Unlock()
	if w := t.word(block); w != nil {
		return w
	}
	next := map[uint64]*page{}
	if old := t.pages.Load(); old != nil {
		for k, v := range *old {
			next[k] = v
		}
	}
	next[block>>pageBits] = new(page)
	t.pages.Store(&next)
	return t.word(block)
}

// update changes a block's word as one step.
func update(w *atomic.Uint64, f func(uint64) uint64) {
	for {
		old := w.Load()
		if w.CompareAndSwap(old, f(old)) {
			return
		}
	}
}

// SetMine states how many bytes this side holds of a block.
func (t *Table) SetMine(block uint64, n int) {
	update(t.make(block), func(v uint64) uint64 { return v&^lengthMask | uint64(n)&lengthMask })
}

// SetTheirs states how many bytes the other side holds, replacing what was known.
func (t *Table) SetTheirs(block uint64, n int) {
	update(t.make(block), func(v uint64) uint64 {
		return v&^(lengthMask<<lengthBits) | uint64(n)&lengthMask<<lengthBits
	})
}

// RaiseTheirs notes an acknowledgement: the other side holds at least n bytes. It never lowers what is known.
func (t *Table) RaiseTheirs(block uint64, n int) {
	update(t.make(block), func(v uint64) uint64 {
		if uint64(n) <= v>>lengthBits&lengthMask {
			return v
		}
		return v&^(lengthMask<<lengthBits) | uint64(n)&lengthMask<<lengthBits
	})
}

// SetBoth states that both sides hold the same n bytes.
func (t *Table) SetBoth(block uint64, n int) {
	update(t.make(block), func(v uint64) uint64 {
		l := uint64(n) & lengthMask
		return v&struckBit | l<<lengthBits | l
	})
}

// RaiseSent notes that the first n bytes are on their way to the other side. It never lowers what is known.
func (t *Table) RaiseSent(block uint64, n int) {
	update(t.make(block), func(v uint64) uint64 {
		if uint64(n) <= v>>sentShift&lengthMask {
			return v
		}
		return v&^(lengthMask<<sentShift) | uint64(n)&lengthMask<<sentShift
	})
}

// ForgetSent says that what is on its way may not arrive.
func (t *Table) ForgetSent(block uint64) {
	if w := t.word(block); w != nil {
		update(w, func(v uint64) uint64 { return v &^ (lengthMask << sentShift) })
	}
}

// Mine returns the number of bytes this side holds.
func (t *Table) Mine(block uint64) int {
	if w := t.word(block); w != nil {
		return int(w.Load() & lengthMask)
	}
	return 0
}

// Theirs returns the number of bytes the other side is known to hold.
func (t *Table) Theirs(block uint64) int {
	if w := t.word(block); w != nil {
		return int(w.Load() >> lengthBits & lengthMask)
	}
	return 0
}

// Both returns how much of a block may be referenced: what both sides hold, nothing when it was struck.
func (t *Table) Both(block uint64) int {
	w := t.word(block)
	if w == nil {
		return 0
	}
	v := w.Load()
	if v&struckBit != 0 {
		return 0
	}
	return int(min(v&lengthMask, v>>lengthBits&lengthMask))
}

// Ahead returns how much of a block may be referenced towards a side that waits for bytes under way: Both, and what was sent.
func (t *Table) Ahead(block uint64) int {
	w := t.word(block)
	if w == nil {
		return 0
	}
	v := w.Load()
	if v&struckBit != 0 {
		return 0
	}
	return int(min(v&lengthMask, max(v>>lengthBits&lengthMask, v>>sentShift&lengthMask)))
}

// Known tells whether either side is known to hold something of a block, or it was struck.
func (t *Table) Known(block uint64) bool {
	w := t.word(block)
	return w != nil && w.Load() != 0
}

// Strike forbids references to a block until ForgetTheirs.
func (t *Table) Strike(block uint64) {
	update(t.make(block), func(v uint64) uint64 { return v | struckBit })
}

// Struck tells whether a block was struck.
func (t *Table) Struck(block uint64) bool {
	w := t.word(block)
	return w != nil && w.Load()&struckBit != 0
}

// ForgetTheirs begins a new session: nothing is known of the other side, and no block is struck.
func (t *Table) ForgetTheirs() {
	m := t.pages.Load()
	if m == nil {
		return
	}
	for _, p := range *m {
		for i := range p {
			update(&p[i], func(v uint64) uint64 { return v & lengthMask })
		}
	}
}

// DropBelow forgets all blocks below first.
func (t *Table) DropBelow(first uint64) {
	t.mu.Lock()
	defer t.mu.Unlock()
	old := t.pages.Load()
	if old == nil {
		return
	}
	next := map[uint64]*page{}
	for k, p := range *old {
		if (k+1)<<pageBits <= first {
			continue
		}
		for i := range p {
			if k<<pageBits+uint64(i) >= first {
				break
			}
			p[i].Store(0)
		}
		next[k] = p
	}
	t.pages.Store(&next)
}

// Clear forgets everything.
func (t *Table) Clear() {
	t.mu.Lock()
	defer t.mu.Unlock()
	t.pages.Store(nil)
}

// Held calls full for ranges of blocks of which this side holds all MaxLength bytes and short for blocks it holds less of (but some),
// in ascending order. Struck blocks are left out.
func (t *Table) Held(full func(first, count uint64), short func(block uint64, n int)) {
	m := t.pages.Load()
	if m == nil {
		return
	}
	first, count := uint64(0), uint64(0)
	flush := func() {
		if count > 0 {
			full(first, count)
		}
		count = 0
	}
	for _, k := range slices.Sorted(maps.Keys(*m)) {
		p := (*m)[k]
		for i := range p {
			v := p[i].Load()
			n := int(v & lengthMask)
			block := k<<pageBits + uint64(i)
			if n == 0 || v&struckBit != 0 {
				continue
			}
			if n < MaxLength {
				flush()
				short(block, n)
				continue
			}
			if count > 0 && first+count == block {
				count++
				continue
			}
			flush()
			first, count = block, 1
		}
	}
	flush()
}
