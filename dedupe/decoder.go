package dedupe

import (
	"errors"
	"fmt"
	"slices"
	"sync"
	"sync/atomic"

	"github.com/cespare/xxhash/v2"

	"wanpair/dedupe/anchor"
	"wanpair/dedupe/history"
	"wanpair/dedupe/literal"
	"wanpair/dedupe/token"
)

// sparseLiteral is the length from which literals sent raw get sparser anchors: zstd found nothing in them, so little will be found later.
const sparseLiteral = 4096

// A frame with opaqueFrame bytes of literals, which the other side's coder has not made smaller by a part of opaqueGain, has shown that they do not
// shrink; fewer are not worth the coder's own bytes.
const (
	opaqueFrame = 1 << 10
	opaqueGain  = 33
)

// Decoder turns the frames of one direction of one flow back into its bytes. One goroutine calls Decode.
type Decoder struct {
	c    *Codec
	sess *session
	flow uint64
	id   uint64 // names the decoder in the blocks it fills
	gone atomic.Bool

	silent atomic.Bool // left out of Stats
	scope  atomic.Uint32

	cursor    token.Cursor
	digest    xxhash.Digest
	total     uint64
	tail      [anchor.Window]byte
	tailLen   int
	tailKept  int
	ended     bool
	failed    bool
	lastBlock *history.Block

	mu     sync.Mutex // held by Decode, so that Close does not take the stream away under it
	stream *literal.Decoder
	held   *held // the frame that waits
	ready  chan struct{}
	void   atomic.Bool // what the frame waits for does not come
}

// NewDecoder returns the decoder of a flow's receiving direction, in the running session.
func (c *Codec) NewDecoder(flow uint64) *Decoder {
	d := &Decoder{c: c, sess: c.sess.Load(), flow: flow}
	d.digest.Reset()
	c.flows.Lock()
	defer c.flows.Unlock()
	c.flows.ids++
	d.id = c.flows.ids
	return d
}

// Close ends the decoder. The blocks it filled stay open until the peer hands them on or seals them.
func (d *Decoder) Close() {
	d.gone.Store(true)
	d.mu.Lock()
	d.c.parking.leave(d)
	d.held = nil
	d.endStream()
	d.mu.Unlock()
}

// SetScope says to which scope what is stored belongs; see [Encoder.SetScope]. It must come before the first frame.
func (d *Decoder) SetScope(scope uint32) { d.scope.Store(scope) }

// Silence leaves the direction out of the matched and literal bytes of Stats. Any goroutine.
func (d *Decoder) Silence() { d.silent.Store(true) }

// Decode appends the raw bytes of the frame with a number, rawLen of them, to dst, verified. end says that the frame was the direction's last and
// that length and hash of the whole direction agree. With ErrWait the frame is not through: dst and payload stay borrowed until Resume, or Close. Any
// other error is ErrGrammar, ErrChecksum, a *MissError, ErrSession or ErrClosed; dst is then not to be used, nothing was stored, and every later
// call fails too.
func (d *Decoder) Decode(dst, payload []byte, number uint64, rawLen int) (out []byte, end bool, err error) {
	return d.work(func(sc *scratch) ([]byte, error) {
		if d.held != nil {
			return nil, fmt.Errorf("%w: frame %d waits", ErrClosed, d.held.number)
		}
		return d.decode(&held{payload: payload, number: number, out: dst, base: len(dst), start: d.cursor}, rawLen, sc)
	})
}

// work runs f, which is to decode a frame, with what that takes.
func (d *Decoder) work(f func(sc *scratch) ([]byte, error)) (out []byte, end bool, err error) {
	c := d.c
	c.life.RLock()
	defer c.life.RUnlock()
	d.mu.Lock()
	defer d.mu.Unlock()
	switch s := c.sess.Load(); {
	case c.closed || d.gone.Load() || d.ended || d.failed:
		return nil, false, ErrClosed
	case s == nil || s != d.sess:
		return nil, false, ErrSession
	}
	sc := c.borrow()
	defer c.giveBack(sc)
	switch out, err = f(sc); {
	case errors.Is(err, ErrWait):
		return nil, false, err
	case err != nil:
		d.failed, d.held = true, nil
		c.stats.failed.Add(1)
		return nil, false, err
	}
	return out, d.ended, nil
}

func (d *Decoder) decode(h *held, rawLen int, sc *scratch) ([]byte, error) {
	f := &sc.frame
	if err := f.Parse(h.payload); err != nil {
		return nil, err
	}
	if f.RawBytes != rawLen {
		return nil, fmt.Errorf("%w: frame of %d raw bytes where %d were announced", ErrGrammar, f.RawBytes, rawLen)
	}
	tokens, err := d.unpackTokens(f, sc)
	if err != nil {
		return nil, err
	}
	lits, err := d.unpackLiterals(f, sc)
	if err != nil {
		return nil, err
	}
	h.out = slices.Grow(h.out, rawLen)[:h.base+rawLen]
	var l lack
	if err := d.resolve(h.out[h.base:], tokens, lits, true, &l, sc); err != nil {
		return nil, err
	}
	if len(l.parts) > 0 {
		return nil, d.hold(h, &l)
	}
	return d.verify(h, sc)
}

// accept takes in a frame whose bytes agree with its checksum.
func (d *Decoder) accept(raw []byte, sc *scratch) error {
	f := &sc.frame
	d.total += uint64(len(raw))
	_, _ = d.digest.Write(raw) // never fails
	if f.End {
		if f.TotalBytes != d.total || f.TotalHash != d.digest.Sum64() {
			return fmt.Errorf("%w: whole direction", ErrChecksum)
		}
		d.ended = true
	}
	d.store(raw, sc)
	d.c.stats.rawOut.Add(int64(len(raw)))
	if !d.silent.Load() {
		d.c.stats.literalIn.Add(int64(f.LiteralRawBytes))
		d.c.stats.literalCodedIn.Add(int64(len(f.Literal)))
		d.c.stats.matchedIn.Add(int64(len(raw) - f.LiteralRawBytes))
		if f.LiteralRawBytes >= opaqueFrame && len(f.Literal) > f.LiteralRawBytes-f.LiteralRawBytes/opaqueGain {
			d.c.stats.opaqueIn.Add(int64(f.LiteralRawBytes))
		}
	}
	return nil
}

// unpackTokens returns a frame's tokens.
func (d *Decoder) unpackTokens(f *token.Frame, sc *scratch) ([]byte, error) {
	if !f.TokensZstd {
		return f.Tokens, nil
	}
	sc.packed = slices.Grow(sc.packed[:0], f.TokenRawBytes)
	tokens, err := d.c.pool.Decode(sc.packed, f.Tokens, f.TokenRawBytes)
	if err != nil {
		return nil, fmt.Errorf("%w: tokens: %w", ErrGrammar, err)
	}
	return tokens, nil
}

// unpackLiterals returns a frame's literals. A stream moves on by it: it is called once per frame.
func (d *Decoder) unpackLiterals(f *token.Frame, sc *scratch) (lits []byte, err error) {
	lits = f.Literal
	switch f.Literals {
	case token.Raw:
	case token.Zstd:
		sc.coded = slices.Grow(sc.coded[:0], f.LiteralRawBytes)
		lits, err = d.c.pool.Decode(sc.coded, f.Literal, f.LiteralRawBytes)
	default:
		lits, err = d.streamed(f, sc)
	}
	if err != nil {
		return nil, fmt.Errorf("%w: literals: %w", ErrGrammar, err)
	}
	if f.ContextCloses || f.End {
		d.endStream()
	}
	return lits, nil
}

// streamed decodes the next piece of the flow's literal stream.
func (d *Decoder) streamed(f *token.Frame, sc *scratch) (lits []byte, err error) {
	begins := f.Literals == token.StreamBegin
	if d.stream == nil {
		if !begins {
			return nil, literal.ErrNoContext
		}
		if d.stream, err = d.sess.lender.Decoder(); err != nil {
			return nil, err
		}
	}
	sc.coded = slices.Grow(sc.coded[:0], f.LiteralRawBytes)
	return d.stream.Decode(sc.coded, f.Literal, f.LiteralRawBytes, begins)
}

// endStream gives the flow's streaming context back.
func (d *Decoder) endStream() {
	if d.stream != nil {
		d.stream.Close()
		d.stream = nil
	}
}

// resolve puts the raw bytes that tokens and literals stand for into raw, notes the copies in sc.matcher.spans, and what it cannot resolve in l.
// Without literals those are in their places already; without fill the copies are too.
func (d *Decoder) resolve(raw, tokens, lits []byte, fill bool, l *lack, sc *scratch) error {
	f := &sc.frame
	spans := sc.matcher.spans[:0]
	at, left := 0, f.LiteralRawBytes // literals left
	v := &sc.matcher.view
	v.reset(d.c, 0, d.scope.Load())
	for i := range f.Copies {
		t, rest, err := d.cursor.Next(tokens)
		if err != nil {
			return err
		}
		tokens = rest
		if t.Literal > left || at+t.Literal+t.Length > len(raw) {
			return fmt.Errorf("%w: token beyond the frame's end", ErrGrammar)
		}
		if lits != nil {
			copy(raw[at:], lits[:t.Literal])
			lits = lits[t.Literal:]
		}
		at, left = at+t.Literal, left-t.Literal
		s := span{src: at, n: t.Length, log: 1 - t.Log, pos: t.Position}
		s.again = f.Again == token.AgainAll || f.Again == token.AgainBitmap && f.Bitmap[i/8]>>(i%8)&1 != 0
		spans = append(spans, s)
		if fill {
			d.copyInto(raw[at:at+t.Length], s, l, v)
		}
		at += t.Length
	}
	sc.matcher.spans = spans
	switch {
	case len(tokens) != 0:
		return fmt.Errorf("%w: tokens left over", ErrGrammar)
	case left != len(raw)-at:
		return fmt.Errorf("%w: trailing literals of %d bytes where %d are wanted", ErrGrammar, left, len(raw)-at)
	}
	copy(raw[at:], lits)
	d.cursor.Trail(left)
	return nil
}

// copyInto resolves one copy.
func (d *Decoder) copyInto(dst []byte, s span, l *lack, v *view) {
	n, number, length := v.copyTo(dst, s.log, s.pos)
	if n == len(dst) {
		return
	}
	l.add(s.src+n, len(dst)-n)
	if s.log == peer && d.coming(number, length) {
		if !l.coming {
			l.coming, l.block, l.length = true, number, length
		}
		return
	}
	l.lose(history.Key{Log: s.log, Number: number})
}

// copyTo fills dst with a log's bytes from pos on and returns how many it could; and, when not all, the block that lacks the rest and how
// much of it the copy wants.
func (v *view) copyTo(dst []byte, log uint8, pos uint64) (n int, number uint64, length int) {
	for n < len(dst) {
		number = pos >> history.BlockShift
		s := v.resolve(log, number)
		off := int(pos % history.BlockBytes)
		if off < len(s.data) {
			k := copy(dst[n:], s.data[off:])
			n, pos, off = n+k, pos+uint64(k), off+k
		}
		if n < len(dst) && off < history.BlockBytes {
			return n, number, min(off+len(dst)-n, history.BlockBytes)
		}
	}
	return n, 0, 0
}

// resolve returns the slot of a block with all bytes that this side has of it: the sender answers for what it may refer to.
func (v *view) resolve(log uint8, number uint64) *slot {
	s := &v.slots[(number*2+uint64(log))%16]
	if s.full && s.key == (history.Key{Log: log, Number: number}) {
		return s
	}
	*s = slot{key: history.Key{Log: log, Number: number}, full: true}
	if b, _ := v.c.store.Get(s.key); b != nil {
		s.data, s.block = b.Bytes(), b
	}
	return s
}

// strikeLost gives up blocks that a frame refers to and that are not held, or wrong.
func (d *Decoder) strikeLost(keys []history.Key) {
	for log := range uint8(2) {
		var blocks []uint64
		for _, k := range keys {
			if k.Log == log {
				blocks = append(blocks, k.Number)
			}
		}
		d.c.strike(log, blocks)
	}
}

// miss ends a flow for blocks that a frame refers to and that are not held.
func (d *Decoder) miss(keys []history.Key) error {
	d.strikeLost(keys)
	d.c.stats.misses.Add(1)
	return &MissError{Blocks: len(keys)}
}

// blame strikes all blocks that a frame with a wrong checksum refers to.
func (d *Decoder) blame(sc *scratch) error { return errors.Join(ErrChecksum, d.miss(d.referred(sc))) }

// referred lists the blocks that a frame refers to.
func (d *Decoder) referred(sc *scratch) []history.Key {
	var l lack
	for _, s := range sc.matcher.spans {
		for b := s.pos >> history.BlockShift; b <= (s.pos+uint64(s.n)-1)>>history.BlockShift; b++ {
			l.lose(history.Key{Log: s.log, Number: b})
		}
	}
	return l.lost
}

// store appends what the frame says to store to our copy of the peer's log.
func (d *Decoder) store(raw []byte, sc *scratch) {
	f, c := &sc.frame, d.c
	kept := d.tailKept
	d.tailKept = 0
	defer d.keepTail(raw)
	if len(f.Stores) == 0 {
		return
	}
	stretches, total := stored(sc.matcher.spans, len(raw), sc.stretches[:0])
	sc.stretches = stretches
	sum := 0
	pieces := sc.pieces[:0]
	for _, s := range f.Stores {
		pieces = append(pieces, d.place(s))
		sum += s.Length
	}
	sc.pieces = pieces
	if sum != total {
		return // a peer that cannot count stores nothing; its next entries will not begin at the fill
	}
	if kept > 0 && (pieces[0].block == nil || pieces[0].at < kept) {
		kept = 0
	}
	fill(raw, stretches, pieces)
	l := &c.logs[peer]
	for _, p := range pieces {
		if p.block != nil {
			l.ledger.SetBoth(p.block.Number, p.at+p.n)
			c.parking.filled(p.block.Number, p.at+p.n)
		}
	}
	d.scan(raw, sc)
	for _, a := range sc.matcher.anchor {
		c.index.Touch(a.fp)
	}
	c.indexStored(peer, stretches, pieces, sc.matcher.anchor, kept, sc)
	d.lastBlock = link(d.lastBlock, pieces)
	c.stats.storedIn.Add(int64(total))
	if last := stretches[len(stretches)-1]; last.to == len(raw) {
		d.tailKept = min(last.to-last.from, anchor.Window)
	}
	for _, p := range pieces {
		if p.block != nil && p.at+p.n == history.BlockBytes {
			c.receiver.forget(p.block.Number)
			c.store.Seal(p.block, history.BlockBytes)
			c.makeRoom()
		}
	}
}

// stored lists the stretches of a decoded frame that are stored, and their length.
func stored(spans []span, n int, out []stretch) ([]stretch, int) {
	from, total := 0, 0
	for _, s := range spans {
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

// place finds the block of a store entry. An entry that does not fit what we hold strikes the block, and the others still count; so does one
// for which there is no room.
func (d *Decoder) place(s token.Store) piece {
	c := d.c
	number, at := s.Position>>history.BlockShift, int(s.Position%history.BlockBytes)
	l := &c.logs[peer]
	none := piece{nil, at, s.Length}
	if l.ledger.Struck(number) {
		return none
	}
	b := c.receiving(number, at, d.scope.Load())
	if b == nil || !c.mayStore() || b.Len() != at && !b.Sealed() {
		c.strike(peer, []uint64{number})
		return none
	}
	if b.Sealed() {
		return none // its flow was aborted: the frame was under way
	}
	b.Writer.Store(d.id)
	return piece{b, at, s.Length}
}

// scan finds the anchors in a decoded frame's literals, as the encoder found those in what it could not match.
func (d *Decoder) scan(raw []byte, sc *scratch) {
	m := &sc.matcher
	density := d.c.plan.Density
	if sc.frame.Literals == token.Raw && sc.frame.LiteralRawBytes >= sparseLiteral {
		density = min(density+sparser, anchor.MaxDensity)
	}
	m.in, m.mask = raw, anchor.Mask(density)
	m.anchor = m.anchor[:0]
	m.seamed = copy(m.seam[:anchor.Window], d.tail[anchor.Window-d.tailLen:])
	copy(m.seam[m.seamed:], raw[:min(len(raw), anchor.Window)])
	at := 0
	for _, s := range m.spans {
		m.scan(at, s.src)
		at = s.src + s.n
	}
	m.scan(at, len(raw))
}

// scan notes the anchors that end in (from, to] of the input.
func (m *matcher) scan(from, to int) {
	if to <= from {
		return
	}
	h := m.roll(from)
	for i := from; i < to; {
		k, hash, ok := anchor.Scan(h, m.mask, m.in[i:to])
		i, h = i+k, hash
		if !ok {
			return
		}
		if w := m.window(i); w != nil {
			m.anchor = append(m.anchor, found{m.view.fingerprint(w), i})
		}
	}
}

// keepTail remembers the last bytes of a frame, so that anchors over the seam are seen.
func (d *Decoder) keepTail(raw []byte) {
	n := min(len(raw), anchor.Window)
	copy(d.tail[:], d.tail[n:])
	copy(d.tail[anchor.Window-n:], raw[len(raw)-n:])
	d.tailLen = min(anchor.Window, d.tailLen+n)
}
