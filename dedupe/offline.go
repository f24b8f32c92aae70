package dedupe

import (
	"wanpair/dedupe/history"
	"wanpair/dedupe/token"
)

// storeEvent is told by the store's process what happened to it.
func (c *Codec) storeEvent(e StoreEvent) {
	if e.Off {
		c.withdraw()
	}
	if c.cfg.OnStore != nil {
		c.cfg.OnStore(e)
	}
}

// withdraw asks the peer, for this session, not to refer to what only our disk holds of its log: a reference that cannot be resolved ends its
// flow. Nothing is given up: the next session speaks of everything again. For our own log there is no such message; references to it are rarer, and
// struck one by one.
func (c *Codec) withdraw() {
	if c.sess.Load() == nil {
		return // nobody refers to anything; Begin asks again
	}
	m := token.Message{Kind: token.KindRetract}
	flush := func() {
		if len(m.Ranges) > 0 {
			c.post(&m)
		}
		m.Ranges = nil
	}
	add := func(block uint64) {
		if c.store.Hot(history.Key{Log: peer, Number: block}) != nil {
			return
		}
		// A message that begins with more than one block would be taken for the wish to move the tail.
		if n := len(m.Ranges); n > 1 && m.Ranges[n-1].First+m.Ranges[n-1].Count == block {
			m.Ranges[n-1].Count++
			return
		}
		if len(m.Ranges) == token.MaxRanges {
			flush()
		}
		m.Ranges = append(m.Ranges, token.Range{First: block, Count: 1})
	}
	c.logs[peer].ledger.Held(func(first, count uint64) {
		for b := first; b < first+count; b++ {
			add(b)
		}
	}, func(block uint64, _ int) { add(block) })
	flush()
}
