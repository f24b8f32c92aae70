package link

import "time"

// longestPiece bounds how long a piece may take to serialise: a super-packet arrives as a whole when its last segment has left the queue,
// so at low rates it is carried in pieces of about this time, as the segments would have trickled in.
const longestPiece = time.Millisecond

// maxSegments bounds the segments of one super-packet: 64 KiB in segments of 500 bytes and more, as the kernel makes them (its limit is
// 65535 segments, its TCP never goes below an MSS of 536 by itself). Longer ones are carried, in pieces, just with more of them.
const maxSegments = 128

// path is one direction with its packets: what is offered is admitted by the line, kept in cells, and given back when it is due. Like the
// line it reads no clock and touches no device.
//
// A packet enters in three steps: the caller fills the cells of hand, in order, with a packet of n bytes; it calls accept; hand then
// holds free cells again.
type path struct {
	*line
	cells    *cells
	schedule *schedule
	hand     []uint32
	runs     []run
}

// run is a number of neighbouring segments with one fate.
type run struct {
	from, to int
	leaves   int64
	fate     fate
}

// newPath makes a path that keeps packets in memory, which must hold some packets of 64 KiB at least.
func newPath(memory []byte, seed uint64, d Direction) *path {
	p := &path{line: newLine(seed, d), cells: newCells(memory), runs: make([]run, 0, maxSegments)}
	p.schedule = newSchedule(len(p.cells.next)) // a packet has a cell at least, so the cells run out first
	p.hand = make([]uint32, cellsFor(maxPacketBytes))
	for i := range p.hand {
		p.hand[i] = p.cells.take()
	}
	return p
}

// accept takes the packet of n bytes in hand, which came in at now.
func (p *path) accept(now int64, n int) {
	head := p.cells.at(p.hand[0])
	s, err := parseSuper(head[:min(n, cellBytes)], n)
	if err != nil {
		p.counters.Errors++
		return
	}
	if s.segments == 1 {
		if leaves, f := p.offer(now, s.total); f != dropped {
			p.keepWhole(n, leaves, f, &s)
		}
		return
	}
	p.divide(now, &s)
	if len(p.runs) == 1 && p.runs[0].from == 0 && p.runs[0].to == s.segments {
		p.keepWhole(n, p.runs[0].leaves, p.runs[0].fate, &s)
		return
	}
	for _, r := range p.runs {
		p.keepPiece(r, &s)
	}
}

// divide offers each segment to the line and leaves in runs those that go on, grouped as they can travel together.
func (p *path) divide(now int64, s *super) {
	p.runs = p.runs[:0]
	open := false // whether the last run can still grow
	for i := range s.segments {
		bytes := s.segmentBytes(i)
		leaves, f := p.offer(now, bytes)
		if f == dropped {
			open = false
			continue
		}
		if last := len(p.runs) - 1; open && p.runs[last].fate == f {
			p.runs[last].to, p.runs[last].leaves = i+1, leaves
		} else {
			p.runs = append(p.runs, run{from: i, to: i + 1, leaves: leaves, fate: f})
		}
		r := &p.runs[len(p.runs)-1]
		open = p.serialisation((r.to-r.from)*bytes) < longestPiece
	}
}

// keepWhole moves the packet in hand, unchanged, under way.
func (p *path) keepWhole(n int, leaves int64, f fate, s *super) {
	k := cellsFor(n)
	if len(p.cells.free) < k {
		p.counters.MemoryDrops += uint64(s.segments)
		return
	}
	first := p.hand[0]
	for i := range k {
		if i+1 < k {
			p.cells.next[p.hand[i]] = p.hand[i+1]
		}
	}
	for i := range k {
		p.hand[i] = p.cells.take()
	}
	p.add(first, n, leaves, f, s, 0, s.segments)
}

// keepPiece copies a piece of the super-packet in hand and sends it on its way.
func (p *path) keepPiece(r run, s *super) {
	from, to := s.span(r.from, r.to)
	header := vnetBytes + s.headerBytes
	n := header + to - from
	first, ok := p.cells.chain(n)
	if !ok {
		p.counters.MemoryDrops += uint64(r.to - r.from)
		return
	}
	head := p.cells.at(first)[:header]
	copy(head, p.cells.at(p.hand[0]))
	s.rewrite(head, r.from, r.to)
	p.cells.copyOut(first, header, p.hand, header+from, header+to)
	p.add(first, n, r.leaves, r.fate, s, r.from, r.to)
}

func (p *path) add(first uint32, n int, leaves int64, f fate, s *super, from, to int) {
	wire := s.total
	if s.segments > 1 {
		a, b := s.span(from, to)
		wire = (to-from)*s.headerBytes + b - a
	}
	p.schedule.add(entry{due: p.arrival(leaves, f), cell: first, bytes: uint32(n), segments: uint32(to - from), wire: uint32(wire)}, f == passed)
	p.counters.underWay += uint64(to - from)
}

// due returns the time the next piece is to be delivered.
func (p *path) due() (at int64, ok bool) {
	if e := p.schedule.next(); e != nil {
		return e.due, true
	}
	return 0, false
}

// deliver takes out the next piece; the caller writes its cells to the device, says so by delivered or failed, and then releases it.
func (p *path) deliver() entry {
	e := p.schedule.pop()
	p.counters.underWay -= uint64(e.segments)
	return e
}

// delivered counts a piece that the device took late nanoseconds after it was due (early ones are not late).
func (p *path) delivered(e entry, late int64) {
	c := &p.counters
	c.DeliveredPackets += uint64(e.segments)
	c.DeliveredBytes += uint64(e.wire)
	c.late(late)
}

// failed counts a piece that the device refused.
func (p *path) failed(e entry) {
	p.counters.ErrorDrops += uint64(e.segments)
	p.counters.Errors++
}

// cut counts a piece that met the cut at the end of its way.
func (p *path) cut(e entry) { p.counters.CutDrops += uint64(e.segments) }

// stats returns what was counted since the last reset.
func (p *path) stats(now int64) DirectionStats {
	return DirectionStats{
		Params:          p.params.String(),
		QueueLimitBytes: p.queueBytes,
		Counters:        p.counters,
		UnderWayPackets: p.counters.underWay,
		QueuedBytes:     p.queuedBytes(now),
		MaxQueuedBytes:  p.nanosToBytes(p.counters.maxBacklogNanos),
		LateMaxSeconds:  float64(p.counters.lateMax) / 1e9,
		StalledSeconds:  float64(p.counters.stalledNanos) / 1e9,
	}
}

// release gives the memory of a piece back.
func (p *path) release(e entry) { p.cells.release(e.cell, int(e.bytes)) }
