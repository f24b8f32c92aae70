package dedupe

import (
	"errors"
	"sync"
	"sync/atomic"

	"github.com/cespare/xxhash/v2"

	"wanpair/dedupe/history"
	"wanpair/dedupe/token"
)

// ErrWait says that a frame cannot be decoded yet: bytes it refers to are on their way, or were asked for. See Decoder.Resume.
var ErrWait = errors.New("frame waits for bytes")

// stage is what was asked of the peer for a frame.
type stage uint8

const (
	waiting stage = iota // nothing: the bytes are on their way
	missing              // what is not held
	copies               // all copies: something held is wrong
	whole                // all of it
)

// held is a frame that could not be decoded at once. Its literals are in their places already.
type held struct {
	payload []byte
	number  uint64
	out     []byte // the caller's, from base on the frame's raw bytes
	base    int
	start   token.Cursor // before the frame
	stage   stage
	parts   []token.Part // asked for and not here yet
	refused bool         // the peer does not keep the frame, or does not answer what was asked
	block   uint64       // waited for
	length  int          // of it
}

// lack is what a frame's copies could not be resolved to.
type lack struct {
	parts  []token.Part  // of the raw bytes
	lost   []history.Key // blocks that are not held and do not come
	coming bool          // something is on its way:
	block  uint64        // the first block of it
	length int           // and how much of that
}

// add notes a copy's part of the raw bytes. With too many parts the last one grows over what lies between.
func (l *lack) add(offset, n int) {
	if k := len(l.parts); k > 0 && (l.parts[k-1].Offset+l.parts[k-1].Length == offset || k == token.MaxParts) {
		l.parts[k-1].Length = offset + n - l.parts[k-1].Offset
		return
	}
	l.parts = append(l.parts, token.Part{Offset: offset, Length: n})
}

// maxLost bounds the blocks that one frame strikes.
const maxLost = 1024

func (l *lack) lose(k history.Key) {
	for i := len(l.lost) - 1; i >= 0 && i >= len(l.lost)-16; i-- {
		if l.lost[i] == k {
			return
		}
	}
	if len(l.lost) < maxLost {
		l.lost = append(l.lost, k)
	}
}

// coming tells whether the first length bytes of a block of the peer's log are on their way: it was begun in this session, or will be, and has not
// ended before that.
func (d *Decoder) coming(number uint64, length int) bool {
	c := d.c
	l := &c.logs[peer]
	if !d.sess.features.Ahead || number < d.sess.fresh.Load() || l.ledger.Struck(number) {
		return false
	}
	c.receiver.mu.Lock()
	b := c.receiver.open[number]
	c.receiver.mu.Unlock()
	switch {
	case b != nil:
		return !b.Sealed()
	case l.ledger.Mine(number) >= length:
		// It came while we looked. Once is enough: what should be there and is not is lost.
		h := d.held
		return h == nil || h.block != number || h.length != length
	default:
		return l.ledger.Mine(number) == 0
	}
}

// hold keeps a frame that lacks something and returns ErrWait, or the error the flow ends with.
func (d *Decoder) hold(h *held, l *lack) error {
	if !d.sess.features.Repair {
		return d.miss(l.lost)
	}
	d.held = h
	if d.ready == nil {
		d.ready = make(chan struct{}, 1)
	}
	if l.coming {
		h.block, h.length = l.block, l.length
		d.c.parking.await(d, l.block, l.length)
		return ErrWait
	}
	d.strikeLost(l.lost)
	return d.ask(h, missing, l.parts)
}

// ask requests parts of a frame.
func (d *Decoder) ask(h *held, s stage, parts []token.Part) error {
	h.stage, h.parts = s, parts
	d.void.Store(false)
	d.c.parking.expect(d)
	d.c.post(&token.Message{Kind: token.KindNeed, Flow: d.flow, Frame: h.number, Parts: parts})
	return ErrWait
}

// Ready says when it is worth calling Resume: it delivers a value when something came for the frame that waits.
func (d *Decoder) Ready() <-chan struct{} {
	d.mu.Lock()
	defer d.mu.Unlock()
	return d.ready
}

// Asked tells whether the frame that waits has asked for bytes.
func (d *Decoder) Asked() bool {
	d.mu.Lock()
	defer d.mu.Unlock()
	return d.held != nil && d.held.stage > waiting
}

// Resume goes on with the frame for which Decode, or Resume before, returned ErrWait; payload and dst of that call must be as they were. late says
// that the caller has waited long enough: bytes that are on their way are asked for, and a frame that was asked for fails.
func (d *Decoder) Resume(late bool) (out []byte, end bool, err error) {
	return d.work(func(sc *scratch) ([]byte, error) {
		if d.held == nil {
			return nil, ErrClosed
		}
		return d.resume(d.held, late || d.held.stage == waiting && d.void.Load(), sc)
	})
}

func (d *Decoder) resume(h *held, late bool, sc *scratch) ([]byte, error) {
	d.c.parking.leave(d)
	f := &sc.frame
	if err := f.Parse(h.payload); err != nil {
		return nil, err
	}
	tokens, err := d.unpackTokens(f, sc)
	if err != nil {
		return nil, err
	}
	raw := h.out[h.base:]
	d.cursor = h.start
	var l lack
	if err := d.resolve(raw, tokens, nil, h.stage == waiting, &l, sc); err != nil {
		return nil, err
	}
	switch {
	case h.stage == waiting && len(l.parts) > 0:
		if l.coming && !late {
			h.block, h.length = l.block, l.length
			d.c.parking.await(d, l.block, l.length)
			return nil, ErrWait
		}
		d.strikeLost(l.lost)
		return nil, d.ask(h, missing, l.parts)
	case h.refused, late && len(h.parts) > 0:
		d.c.stats.misses.Add(1)
		return nil, &MissError{}
	case len(h.parts) > 0:
		d.c.parking.expect(d)
		return nil, ErrWait
	}
	return d.verify(h, sc)
}

// verify checks a frame whose copies are resolved, and takes it in.
func (d *Decoder) verify(h *held, sc *scratch) ([]byte, error) {
	raw := h.out[h.base:]
	if xxhash.Sum64(raw) == sc.frame.Checksum {
		d.held = nil
		d.void.Store(false)
		if h.stage > waiting {
			d.c.stats.repairs.Add(1)
		}
		return h.out, d.accept(raw, sc)
	}
	spans := sc.matcher.spans
	if len(spans) == 0 || h.stage == whole {
		return nil, ErrChecksum
	}
	if !d.sess.features.Repair {
		return nil, d.blame(sc)
	}
	d.strikeLost(d.referred(sc))
	d.held = h
	if d.ready == nil {
		d.ready = make(chan struct{}, 1)
	}
	if h.stage == copies {
		return nil, d.ask(h, whole, []token.Part{{Offset: 0, Length: len(raw)}})
	}
	var l lack
	for _, s := range spans {
		l.add(s.src, s.n)
	}
	return nil, d.ask(h, copies, l.parts)
}

// supply takes a piece of what was asked for. Pieces come in the order in which they were asked for.
func (d *Decoder) supply(m *token.Message) {
	d.mu.Lock()
	defer d.mu.Unlock()
	h := d.held
	if h == nil || h.number != m.Frame || len(h.parts) == 0 || h.refused {
		return
	}
	p := &h.parts[0]
	if len(m.Data) == 0 || m.Offset != p.Offset || len(m.Data) > p.Length {
		h.refused = true
		d.wake()
		return
	}
	d.c.stats.repaired.Add(int64(len(m.Data)))
	copy(h.out[h.base+p.Offset:], m.Data)
	p.Offset, p.Length = p.Offset+len(m.Data), p.Length-len(m.Data)
	if p.Length == 0 {
		h.parts = h.parts[1:]
	}
	if len(h.parts) == 0 {
		d.wake()
	}
}

// wake makes Ready deliver.
func (d *Decoder) wake() {
	select {
	case d.ready <- struct{}{}:
	default:
	}
}

// parking keeps the decoders whose frames wait.
type parking struct {
	waits  atomic.Int64 // decoders in blocks
	mu     sync.Mutex
	blocks map[uint64]map[*Decoder]int // by block of the peer's log: the length waited for
	flows  map[uint64]*Decoder         // those that asked, by flow
}

// await notes a decoder that waits for the first length bytes of a block.
func (p *parking) await(d *Decoder, block uint64, length int) {
	p.mu.Lock()
	if p.blocks == nil {
		p.blocks = map[uint64]map[*Decoder]int{}
	}
	if p.blocks[block] == nil {
		p.blocks[block] = map[*Decoder]int{}
	}
	p.blocks[block][d] = length
	p.waits.Add(1)
	p.mu.Unlock()
	d.c.stats.parked.Add(1)
	// What came between the look and the note has woken nobody.
	if l := &d.c.logs[peer].ledger; l.Mine(block) >= length || l.Struck(block) {
		d.wake()
	}
}

// expect notes a decoder that has asked for bytes.
func (p *parking) expect(d *Decoder) {
	p.mu.Lock()
	defer p.mu.Unlock()
	if p.flows == nil {
		p.flows = map[uint64]*Decoder{}
	}
	p.flows[d.flow] = d
}

// leave takes a decoder out.
func (p *parking) leave(d *Decoder) {
	p.mu.Lock()
	defer p.mu.Unlock()
	if p.flows[d.flow] == d {
		delete(p.flows, d.flow)
	}
	if h := d.held; h != nil {
		if w := p.blocks[h.block]; w != nil {
			if _, ok := w[d]; ok {
				p.remove(h.block, d)
			}
		}
	}
}

func (p *parking) remove(block uint64, d *Decoder) {
	delete(p.blocks[block], d)
	if len(p.blocks[block]) == 0 {
		delete(p.blocks, block)
	}
	p.waits.Add(-1)
}

// filled wakes the decoders that wait for the first length bytes of a block.
func (p *parking) filled(block uint64, length int) {
	if p.waits.Load() == 0 {
		return
	}
	p.mu.Lock()
	defer p.mu.Unlock()
	for d, n := range p.blocks[block] {
		if n <= length {
			p.remove(block, d)
			d.wake()
		}
	}
}

// closed wakes the decoders that wait for more of a block than will ever come.
func (p *parking) closed(block uint64) {
	if p.waits.Load() == 0 {
		return
	}
	p.mu.Lock()
	defer p.mu.Unlock()
	for d := range p.blocks[block] {
		p.remove(block, d)
		d.void.Store(true)
		d.wake()
	}
}

// reset forgets the decoders of a session that has ended.
func (p *parking) reset() {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.waits.Store(0)
	p.blocks, p.flows = nil, nil
}

// onBytes hands a piece to the decoder that asked for it.
func (c *Codec) onBytes(m *token.Message) {
	c.parking.mu.Lock()
	d := c.parking.flows[m.Flow]
	c.parking.mu.Unlock()
	if d != nil {
		d.supply(m)
	}
}
