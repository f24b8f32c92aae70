package dedupe

import (
	"slices"

	"wanpair/dedupe/anchor"
	"wanpair/dedupe/history"
	"wanpair/dedupe/token"
)

// stretch is a part of a frame's raw bytes that is stored, without a hole: [from, to).
type stretch struct{ from, to int }

// mark decides which copies are stored again and returns the stretches of input that are stored, and their length.
func (e *Encoder) mark(m *matcher, n int, out []stretch) ([]stretch, int) {
	c := e.c
	retain := [2]uint64{c.logs[own].retain.Load(), c.logs[peer].retain.Load()}
	rescan := false
	for i := 0; i < len(m.spans); {
		// A run: copies that go on where the one before ended. What it had in earlier frames counts.
		j, run := i+1, m.spans[i].n
		if i == 0 && m.spans[0].goesOn {
			run += e.run
		}
		for ; j < len(m.spans) && m.spans[j].goesOn; j++ {
			run += m.spans[j].n
		}
		for k := i; k < j; k++ {
			s := &m.spans[k]
			old := s.pos < retain[s.log]
			s.again = run < longRun || old
			s.scan = s.again && (old || m.view.anchored(s)+uint64(c.cfg.SizeBytes/anchoredPart) < c.logs[s.log].head.Load())
			rescan = rescan || s.scan
		}
		e.run = 0
		if last := m.spans[j-1]; last.src+last.n == n {
			e.run = run
		}
		i = j
	}
	if len(m.spans) == 0 && n > 0 {
		e.run = 0
	}
	if rescan {
		m.rescan()
	}
	from, total := 0, 0
	for _, s := range m.spans {
		if s.again {
			continue
		}
		if s.src > from {
			out = append(out, stretch{from, s.src})
			total += s.src - from
		}
		from = s.src + s.n
	}
	if n > from {
		out = append(out, stretch{from, n})
		total += n - from
	}
	return out, total
}

// rescan adds the anchors inside copies whose index entries stand for an old part of a log: they die with it, the bytes stored again need their own.
func (m *matcher) rescan() {
	for _, s := range m.spans {
		if !s.scan {
			continue
		}
		i, end := s.src, s.src+s.n
		h := m.roll(i)
		for i < end {
			k, hash, ok := anchor.Scan(h, m.mask, m.in[i:end])
			i, h = i+k, hash
			if w := m.window(i); ok && w != nil {
				m.anchor = append(m.anchor, found{m.view.fingerprint(w), i})
			}
		}
	}
	slices.SortFunc(m.anchor, func(a, b found) int { return a.end - b.end })
	m.anchor = slices.Compact(m.anchor)
}

// store appends what is to be stored of a frame to the log and says so in its header.
func (e *Encoder) store(src []byte, h *token.Header, sc *scratch, number uint64) {
	c, m := e.c, &sc.matcher
	stretches, total := e.mark(m, len(src), sc.stretches[:0])
	sc.stretches = stretches
	kept := e.tailKept
	e.tailKept = 0
	if total == 0 || crumbs(stretches, total, len(src), kept) || !c.mayStore() {
		return
	}
	pieces, ok := e.reserve(total, sc.pieces[:0])
	sc.pieces = pieces
	if !ok {
		return
	}
	if kept > 0 && pieces[0].at < kept {
		kept = 0 // another block than the one the frame before ended in
	}
	fill(src, stretches, pieces)
	e.inherit(m, pieces)
	c.indexStored(own, stretches, pieces, m.anchor, kept, sc)
	e.link(pieces)
	c.stats.stored.Add(int64(total))

	h.Again = token.AgainNone
	all, any := true, false
	for _, s := range m.spans {
		all, any = all && s.again, any || s.again
	}
	switch {
	case any && all:
		h.Again = token.AgainAll
	case any:
		h.Again = token.AgainBitmap
	}
	e.mu.Lock()
	for _, p := range pieces {
		end := p.at + p.n
		c.logs[own].ledger.SetMine(p.block.Number, end)
		e.pending = append(e.pending, pending{number, p.block.Number, end})
		h.Stores = append(h.Stores, token.Store{Position: p.block.Position() + uint64(p.at), Length: p.n})
		e.block = p.block
	}
	if e.block.Room() == 0 {
		e.block = nil
	}
	e.mu.Unlock()
	if last := stretches[len(stretches)-1]; last.to == len(src) {
		e.tailKept = min(last.to-last.from, anchor.Window)
	}
	for _, p := range pieces {
		if p.at+p.n == history.BlockBytes {
			c.full(p.block)
		}
	}
}

// anchored is the position below which, at the lowest, the anchors of a copy's source stand in the index.
func (v *view) anchored(s *span) uint64 {
	low := s.pos
	for _, p := range [2]uint64{s.pos, s.pos + uint64(s.n) - 1} {
		if b := v.lookup(s.log, p>>history.BlockShift).block; b != nil {
			low = min(low, b.Anchored())
		}
	}
	return low
}

// inherit notes in the blocks that a frame was stored in how old the anchors of its copies are.
func (e *Encoder) inherit(m *matcher, pieces []piece) {
	low := ^uint64(0)
	for i := range m.spans {
		if s := &m.spans[i]; s.again && !s.scan {
			at := m.view.anchored(s)
			if s.log != own { // ages in the other log count like ages in ours
				at = e.c.logs[own].head.Load() - min(e.c.logs[s.log].head.Load()-at, e.c.logs[own].head.Load())
			}
			low = min(low, at)
		}
	}
	for _, p := range pieces {
		p.block.Inherit(low)
	}
}

// crumbs tells whether what a frame would store is too little to be ever found again: less than a window, and no part of what the frame before or
// the next one stores.
func crumbs(stretches []stretch, total, n, kept int) bool {
	return total < anchor.Window && (stretches[0].from > 0 || kept == 0) && stretches[len(stretches)-1].to < n
}

// fill copies the stored stretches of a frame into their places. Pieces without a block are skipped.
func fill(src []byte, stretches []stretch, pieces []piece) {
	for _, p := range pieces {
		if p.block != nil {
			p.block.Reserve(p.at + p.n)
		}
	}
	k, done := 0, 0 // piece, and how much of it is filled
	for _, s := range stretches {
		for at := s.from; at < s.to; {
			p := pieces[k]
			n := min(s.to-at, p.n-done)
			if p.block != nil {
				_ = p.block.Append(p.at+done, src[at:at+n]) // the encoder owns the block; the decoder has checked its fill
			}
			at, done = at+n, done+n
			if done == p.n {
				k, done = k+1, 0
			}
		}
	}
}

// indexStored inserts the anchors whose windows lie wholly in what was stored. kept is how many bytes before the frame were stored just
// before its first piece.
func (c *Codec) indexStored(log uint8, stretches []stretch, pieces []piece, anchors []found, kept int, sc *scratch) {
	k, start := 0, 0 // piece, and the offset of its first byte in what is stored
	before := 0      // stored bytes of the stretches before
	packed := sc.anchors[:0]
	flush := func() {
		if len(packed) > 0 && pieces[k].block != nil {
			pieces[k].block.AddAnchors(packed)
		}
		packed = packed[:0]
	}
	for _, s := range stretches {
		for len(anchors) > 0 && anchors[0].end <= s.to {
			a := anchors[0]
			anchors = anchors[1:]
			back := a.end - s.from
			if s.from == 0 {
				back += kept
			}
			if a.end <= s.from || back < anchor.Window {
				continue
			}
			at := before + a.end - s.from
			for at > start+pieces[k].n {
				flush()
				start += pieces[k].n
				k++
			}
			p := pieces[k]
			if p.block == nil {
				continue
			}
			if at-start < anchor.Window && k > 0 && !joined(pieces[k-1], p) {
				continue // the window lies in two places
			}
			off := p.at + at - start
			packed = append(packed, history.PackAnchor(off, a.fp))
			c.index.Insert(a.fp, log, p.block.Position()+uint64(off))
		}
		before += s.to - s.from
	}
	flush()
	sc.anchors = packed
}

// joined tells whether piece b begins at the position where piece a ends.
func joined(a, b piece) bool {
	return a.block != nil && a.block.Position()+uint64(a.at+a.n) == b.block.Position()+uint64(b.at)
}

// link notes, in blocks that are full, where the flow goes on.
func (e *Encoder) link(pieces []piece) {
	e.lastBlock = link(e.lastBlock, pieces)
}

// link sets the hints between the full block that a flow filled last, if any, and the pieces it stores now. It returns the last piece's block when
// that is full: its successor is not known yet.
func link(last *history.Block, pieces []piece) *history.Block {
	for _, p := range pieces {
		if p.block == nil {
			last = nil
			continue
		}
		to := p.block.Position() + uint64(p.at)
		if last != nil && last != p.block && to != last.Position()+history.BlockBytes {
			last.SetNext(to)
		}
		last = nil
		if p.at+p.n == history.BlockBytes {
			last = p.block
		}
	}
	return last
}

// reserve finds room for n bytes: the flow's block first, then others. Without enough of it nothing is taken.
func (e *Encoder) reserve(n int, out []piece) ([]piece, bool) {
	c := e.c
	e.mu.Lock()
	b := e.block
	e.mu.Unlock()
	first := b
	for n > 0 {
		if b == nil {
			if b = c.take(e, len(out) >= token.MaxStores-2); b == nil {
				for _, p := range out {
					if p.block != first {
						c.handOn(p.block)
					}
				}
				return out[:0], false
			}
		}
		if b.Sealed() || c.logs[own].ledger.Struck(b.Number) {
			if b == first {
				e.lose(b)
				first = nil
			}
			c.sealOwn(b)
			b = nil
			continue
		}
		k := min(n, b.Room())
		if k > 0 {
			out = append(out, piece{b, b.Len(), k})
		}
		n -= k
		b = nil
	}
	return out, true
}
