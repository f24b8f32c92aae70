package dedupe

import (
	"sync"

	"wanpair/dedupe/history"
	"wanpair/dedupe/token"
)

// evictor moves the tails of the two logs. For each log at most one move is under way:
//
//	owner                                   other side
//	TAIL p   ------------------------------> stops referring below p; waits until its frames of before are acknowledged
//	         <------------------------------ TAILACK p
//	waits until its own frames of before are acknowledged, drops
//	TAIL p   ------------------------------> (the second time) drops
type evictor struct {
	mu    sync.Mutex
	moves [2]*move // by log
}

// move is a tail on its way.
type move struct {
	position uint64
	waiting  map[*Encoder]uint64 // frames below the number must be acknowledged
	acked    bool                // own log: TAILACK came. peer's log: TAILACK sent
}

func (v *evictor) reset() {
	v.mu.Lock()
	v.moves = [2]*move{}
	v.mu.Unlock()
}

// newMove notes the encoders whose frames may refer below the new tail.
func (c *Codec) newMove(position uint64) *move {
	m := &move{position: position, waiting: map[*Encoder]uint64{}}
	c.flows.Lock()
	defer c.flows.Unlock()
	for e := range c.flows.encoders {
		if sent := e.sent.Load(); e.acked.Load() < sent || e.busy.Load() {
			m.waiting[e] = sent + 1 // the frame in work may have looked before the tail moved
		}
	}
	return m
}

// drained tells whether nothing encoded before the move is under way.
func (m *move) drained() bool {
	for e, number := range m.waiting {
		acked := e.acked.Load()
		if e.gone.Load() || acked >= number || acked >= e.sent.Load() && !e.busy.Load() {
			delete(m.waiting, e)
		}
	}
	return len(m.waiting) == 0
}

// makeRoom starts the removal of an epoch when the disk is nearly full.
func (c *Codec) makeRoom() {
	z := c.store.Sizes()
	c.retain(z.Disk + z.Backlog)
	spare := 2 * c.plan.EpochBytes
	if c.cfg.Dir == "" || z.Disk+z.Backlog < c.cfg.SizeBytes-spare {
		return
	}
	log := uint8(own)
	if z.PerLog[peer] > z.PerLog[own] {
		log = peer
	}
	end, ok := c.store.OldestEpoch(log)
	if !ok {
		log = 1 - log
		if end, ok = c.store.OldestEpoch(log); !ok {
			return
		}
	}
	if s := c.sess.Load(); s == nil || !s.ready.Load() {
		c.dropBelow(log, end)
		return
	}
	if log == own {
		c.startEviction(end)
		return
	}
	// The peer's log: ask its owner to move the tail.
	c.evict.mu.Lock()
	tail := c.logs[peer].tail.Load()
	ask := c.evict.moves[peer] == nil && end > tail && c.receiver.asked.Swap(end) != end
	c.evict.mu.Unlock()
	if ask {
		first := tail >> history.BlockShift
		c.post(&token.Message{Kind: token.KindRetract, Ranges: []token.Range{{First: first, Count: end>>history.BlockShift - first}}})
	}
}

// retain marks the oldest half of both logs, once the cache fills: what is used from there is stored again, or the best-used data would fall out by
// age. With the half, whatever is used at least once while the cache is written over stays: some multiple of the distance between two uses falls into
// the older half. With a quarter, what all nightly dumps had in common was lost from a cache of three.
func (c *Codec) retain(used int64) {
	if used < c.cfg.SizeBytes*3/4 {
		return
	}
	for log := range c.logs {
		l := &c.logs[log]
		tail := l.tail.Load()
		raise(&l.retain, tail+(l.head.Load()-tail)/2)
	}
}

// startEviction begins to move the tail of our log.
func (c *Codec) startEviction(position uint64) {
	c.evict.mu.Lock()
	l := &c.logs[own]
	if c.evict.moves[own] != nil || position <= l.tail.Load() {
		c.evict.mu.Unlock()
		return
	}
	l.tail.Store(position)
	c.index.SetTail(own, position)
	c.evict.moves[own] = c.newMove(position)
	c.evict.mu.Unlock()
	c.post(&token.Message{Kind: token.KindTail, Tail: position})
}

// onTail handles the peer's TAIL for its log: the first time note and acknowledge, the second time drop.
func (c *Codec) onTail(position uint64) {
	c.evict.mu.Lock()
	l := &c.logs[peer]
	if m := c.evict.moves[peer]; m != nil && m.position == position {
		done := m.acked
		if done {
			c.evict.moves[peer] = nil
		}
		c.evict.mu.Unlock()
		if done {
			c.dropBelow(peer, position)
		}
		return
	}
	if position > l.tail.Load() && position <= l.head.Load() {
		l.tail.Store(position)
		c.index.SetTail(peer, position)
		c.evict.moves[peer] = c.newMove(position)
	}
	c.evict.mu.Unlock()
	c.pushEviction()
}

// onTailAck handles the peer's answer to our TAIL.
func (c *Codec) onTailAck(position uint64) {
	c.evict.mu.Lock()
	if m := c.evict.moves[own]; m != nil && m.position == position {
		m.acked = true
	}
	c.evict.mu.Unlock()
	c.pushEviction()
}

// pushEviction takes the steps that have become possible.
func (c *Codec) pushEviction() {
	var tell []token.Message
	drop := uint64(0)
	c.evict.mu.Lock()
	if m := c.evict.moves[peer]; m != nil && !m.acked && m.drained() {
		m.acked = true
		tell = append(tell, token.Message{Kind: token.KindTailAck, Tail: m.position})
	}
	if m := c.evict.moves[own]; m != nil && m.acked && m.drained() {
		c.evict.moves[own] = nil
		drop = m.position
		tell = append(tell, token.Message{Kind: token.KindTail, Tail: m.position})
	}
	c.evict.mu.Unlock()
	if drop > 0 {
		c.dropBelow(own, drop)
	}
	for i := range tell {
		c.post(&tell[i])
	}
}

// moving tells whether acknowledgements may let an eviction go on.
func (c *Codec) moving() bool {
	c.evict.mu.Lock()
	defer c.evict.mu.Unlock()
	return c.evict.moves[own] != nil || c.evict.moves[peer] != nil
}

// dropBelow gives up what lies below a position of a log.
func (c *Codec) dropBelow(log uint8, position uint64) {
	l := &c.logs[log]
	raise(&l.tail, position)
	raise(&l.head, position)
	c.index.RaiseHead(log, position)
	c.index.SetTail(log, position)
	l.ledger.DropBelow(position >> history.BlockShift)
	c.store.DropBelow(log, position)
}
