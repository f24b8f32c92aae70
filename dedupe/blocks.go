package dedupe

import (
	"slices"
	"sync"
	"sync/atomic"

	"wanpair/dedupe/history"
	"wanpair/dedupe/token"
)

// minRoom is the least room for which a block is handed on to another flow; with less it is sealed short, so that a flow's bytes do not
// scatter over crumbs.
const minRoom = 16 << 10

// piece is a place for stored bytes: n bytes of a block from offset at on.
type piece struct {
	block *history.Block
	at, n int
}

// writer hands out blocks of our own log, each to one encoder at a time.
type writer struct {
	instance uint64

	mu   sync.Mutex
	next uint64 // first block number never used
	open map[*history.Block]*Encoder
	free []*history.Block // open, and everything in them acknowledged
}

func (w *writer) reset() {
	w.mu.Lock()
	defer w.mu.Unlock()
	w.open = nil
	w.free = nil
}

// raise makes sure that the next block lies above a position that the peer knows of.
func (w *writer) raise(head uint64) {
	w.mu.Lock()
	defer w.mu.Unlock()
	w.next = max(w.next, (head+history.BlockBytes-1)>>history.BlockShift)
}

// take gives an encoder a block of its scope to fill, or nil when too many are open. fresh asks for an empty one.
func (c *Codec) take(e *Encoder, fresh bool) *history.Block {
	b, seal := c.takeOne(e, fresh)
	if seal != nil {
		c.sealOwn(seal)
		b, _ = c.takeOne(e, fresh)
	}
	return b
}

// takeOne is take, but that it may return a block of another scope that has to be sealed to make room.
func (c *Codec) takeOne(e *Encoder, fresh bool) (take, seal *history.Block) {
	w, scope := &c.writer, e.scope.Load()
	w.mu.Lock()
	defer w.mu.Unlock()
	if w.open == nil {
		w.open = map[*history.Block]*Encoder{}
	}
	full := len(w.open)+len(w.free) >= c.plan.OpenBlocks
	if !fresh {
		b := w.freeOf(scope)
		if b == nil && full && len(w.free) == 0 && c.steal() {
			b = w.freeOf(scope)
		}
		if b != nil {
			w.own(b, e)
			return b, nil
		}
	}
	if full {
		if n := len(w.free); n > 0 && !fresh {
			seal, w.free = w.free[n-1], w.free[:n-1]
		}
		return nil, seal
	}
	b := c.store.New(history.Key{Log: own, Number: w.next})
	if b == nil {
		return nil, nil
	}
	b.SetScope(scope)
	w.next++
	head := w.next << history.BlockShift
	raise(&c.logs[own].head, head)
	c.index.RaiseHead(own, head)
	w.own(b, e)
	return b, nil
}

// freeOf takes the last free block of a scope off the list; nil when there is none. The caller holds mu.
func (w *writer) freeOf(scope uint32) *history.Block {
	for i, b := range slices.Backward(w.free) {
		if b.Scope() == scope {
			w.free = slices.Delete(w.free, i, i+1)
			return b
		}
	}
	return nil
}

// own notes the encoder that fills a block.
func (w *writer) own(b *history.Block, e *Encoder) {
	b.Writer.Store(e.id)
	w.open[b] = e
}

// steal frees the block of a flow that has nothing unacknowledged and is not at work. The caller holds w.mu.
func (c *Codec) steal() bool {
	w := &c.writer
	for b, e := range w.open {
		if e.busy.CompareAndSwap(false, true) {
			ok := e.acked.Load() >= e.sent.Load() && b.Room() >= minRoom
			if ok {
				e.lose(b)
				delete(w.open, b)
				b.Writer.Store(0)
				w.free = append(w.free, b)
			}
			e.busy.Store(false)
			if ok {
				return true
			}
		}
	}
	return false
}

// full takes a block that has no room left off the list of open ones and sends it to disk.
func (c *Codec) full(b *history.Block) {
	c.writer.mu.Lock()
	delete(c.writer.open, b)
	c.writer.mu.Unlock()
	c.store.Seal(b, history.BlockBytes)
	c.makeRoom()
}

// handOn gives the rest of a block, all of it acknowledged, to the next flow, or seals it when the rest is a crumb.
func (c *Codec) handOn(b *history.Block) {
	c.writer.mu.Lock()
	if _, ok := c.writer.open[b]; !ok {
		c.writer.mu.Unlock()
		return
	}
	delete(c.writer.open, b)
	b.Writer.Store(0)
	keep := b.Room() >= minRoom && !c.logs[own].ledger.Struck(b.Number)
	if keep {
		c.writer.free = append(c.writer.free, b)
	}
	c.writer.mu.Unlock()
	if !keep {
		c.sealOwn(b)
	}
}

// sealOwn closes a block of ours at what the peer has acknowledged and tells it. Our own bytes stay: frames of the peer that are under way
// may refer to what it has and we do not know it has.
func (c *Codec) sealOwn(b *history.Block) {
	c.writer.mu.Lock()
	delete(c.writer.open, b)
	c.writer.mu.Unlock()
	b.Writer.Store(0)
	c.store.Seal(b, history.BlockBytes)
	c.sayOwnSeal(b.Number)
}

// sayOwnSeal tells the peer that nothing more comes into a block of ours.
func (c *Codec) sayOwnSeal(number uint64) {
	c.post(&token.Message{Kind: token.KindSeal, Block: number, Length: c.logs[own].ledger.Theirs(number)})
}

// receiver keeps the open blocks of the peer's log.
type receiver struct {
	mu    sync.Mutex
	open  map[uint64]*history.Block
	asked atomic.Uint64 // tail position we asked the owner for last
}

func (r *receiver) reset() {
	r.mu.Lock()
	r.open = nil
	r.mu.Unlock()
	r.asked.Store(0)
}

// forget takes a block off the list of open ones and returns it.
func (r *receiver) forget(number uint64) *history.Block {
	r.mu.Lock()
	defer r.mu.Unlock()
	b := r.open[number]
	delete(r.open, number)
	return b
}

// receiving returns the open block for a store entry, a new one when the entry begins a block that was never used; nil also for one of another
// scope.
func (c *Codec) receiving(number uint64, at int, scope uint32) *history.Block {
	r := &c.receiver
	r.mu.Lock()
	defer r.mu.Unlock()
	if b := r.open[number]; b != nil {
		if b.Scope() != scope {
			return nil
		}
		return b
	}
	l := &c.logs[peer]
	if at != 0 || len(r.open) >= MaxOpenBlocks || l.ledger.Mine(number) > 0 || number<<history.BlockShift < l.tail.Load() {
		return nil
	}
	b := c.store.New(history.Key{Log: peer, Number: number})
	if b == nil {
		return nil
	}
	b.SetScope(scope)
	if r.open == nil {
		r.open = map[uint64]*history.Block{}
	}
	r.open[number] = b
	head := (number + 1) << history.BlockShift
	raise(&l.head, head)
	c.index.RaiseHead(peer, head)
	return b
}

// storeBacklog is how many bytes may wait for the disk before nothing more is stored.
func (c *Codec) storeBacklog() int64 { return max(c.plan.HotBytes/2, 16<<20) }

// mayStore tells whether there is room for more in memory and on disk.
func (c *Codec) mayStore() bool {
	z := c.store.Backlog()
	if c.cfg.Dir != "" && c.store.Disk()+z >= c.cfg.SizeBytes {
		c.makeRoom() // nothing gets full any more that would ask for it
		return false
	}
	return z < c.storeBacklog() && (c.cfg.Dir == "" || c.store.Writable())
}
