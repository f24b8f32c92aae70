package history

import (
	"slices"
	"sync"
)

// place is where a block stands in the hot table.
type place uint8

const (
	absent    place = iota
	pinned          // open or not yet on disk: only memory has it
	evictable       // on disk too, in the clock's ring
	orphan          // could not be written: in the ring, and lost when it is evicted
)

// hot is the table of blocks in memory, bounded by a clock: a block that was read since the hand passed last stays one more round. Sealed blocks may
// take what is not pinned of what is set aside for open ones, and what others have no use for.
type hot struct {
	spare func() int64
	least int64 // bytes of the ring that are always allowed
	whole int64 // bytes of the ring and of pinned blocks, without what is spare

	mu     sync.RWMutex
	blocks map[Key]*Block
	ring   []*Block
	hand   int
	bytes  int64 // of the ring
	pinned int64 // bytes of pinned blocks
}

func newHot(least, open int64, spare func() int64) *hot {
	return &hot{blocks: map[Key]*Block{}, least: least, whole: least + open, spare: spare}
}

// limit is how many bytes the ring may have now.
func (h *hot) limit() int64 {
	whole := h.whole
	if h.spare != nil {
		whole += h.spare()
	}
	return max(h.least, whole-h.pinned)
}

// get returns a block in memory, or nil.
func (h *hot) get(k Key) *Block {
	h.mu.RLock()
	b := h.blocks[k]
	h.mu.RUnlock()
	if b != nil && !b.used.Load() {
		b.used.Store(true)
	}
	return b
}

// pin adds an open block. It reports false when the key is taken.
func (h *hot) pin(b *Block) bool {
	h.mu.Lock()
	defer h.mu.Unlock()
	if h.blocks[b.Key] != nil {
		return false
	}
	b.place = pinned
	h.blocks[b.Key] = b
	h.pinned += BlockBytes
	return true
}

// release moves a block to the ring, from where it can be evicted, and returns the orphans that had to go for it.
func (h *hot) release(b *Block, to place) (lost []Key) {
	h.mu.Lock()
	defer h.mu.Unlock()
	switch b.place {
	case pinned:
		h.pinned -= BlockBytes
	case absent:
		if h.blocks[b.Key] != nil {
			return nil // another reader was faster
		}
		h.blocks[b.Key] = b
	default:
		return nil
	}
	b.place = to
	h.ring = append(h.ring, b)
	h.bytes += b.bytesHeld()
	return h.shrink(b)
}

// shrink evicts until the ring is within its limit; keep stays.
func (h *hot) shrink(keep *Block) (lost []Key) {
	limit := h.limit()
	for spared := 0; h.bytes > limit && len(h.ring) > 1; {
		if h.hand >= len(h.ring) {
			h.hand = 0
		}
		b := h.ring[h.hand]
		if b == keep || b.used.Load() && spared < len(h.ring) {
			b.used.Store(false)
			h.hand++
			spared++
			continue
		}
		if b.place == orphan {
			lost = append(lost, b.Key)
		}
		h.remove(h.hand)
		h.hand++ // what stands there now is the newest block: the hand comes to it last
	}
	return lost
}

// remove takes the ring's i-th block out.
func (h *hot) remove(i int) {
	b := h.ring[i]
	last := len(h.ring) - 1
	h.ring[i] = h.ring[last]
	h.ring[last] = nil
	h.ring = h.ring[:last]
	h.bytes -= b.bytesHeld()
	b.place = absent
	delete(h.blocks, b.Key)
}

// drop forgets all blocks that match.
func (h *hot) drop(match func(Key) bool) {
	h.mu.Lock()
	defer h.mu.Unlock()
	for i, b := range slices.Backward(h.ring) { // remove moves the last one to i, which was looked at already
		if match(b.Key) {
			h.remove(i)
		}
	}
	for k, b := range h.blocks {
		if match(k) {
			h.pinned -= BlockBytes
			b.place = absent
			delete(h.blocks, k)
		}
	}
}

// open lists the pinned blocks of a log.
func (h *hot) open(log uint8) (out []*Block) {
	h.mu.RLock()
	defer h.mu.RUnlock()
	for k, b := range h.blocks {
		if k.Log == log && b.place == pinned {
			out = append(out, b)
		}
	}
	return out
}

// sizes returns the bytes of evictable and of pinned blocks.
func (h *hot) sizes() (ring, pinned int64) {
	h.mu.RLock()
	defer h.mu.RUnlock()
	return h.bytes, h.pinned
}
