package dedupe

import (
	"fmt"
	"runtime"
	"sync"
	"sync/atomic"
	"time"

	"github.com/cespare/xxhash/v2"

	"wanpair/dedupe/anchor"
	"wanpair/dedupe/history"
	"wanpair/dedupe/literal"
	"wanpair/dedupe/token"
)

// MaxFrameBytes is the most raw bytes of a frame.
const MaxFrameBytes = token.MaxRawBytes

const (
	// longRun: a copy is stored again while the run it belongs to, counted over frames, is shorter than this. So the log stays contiguous where an
	// edited copy of something is sent, and does not grow where a repeat is.
	longRun = 64 << 10
	// anchoredPart: the anchors of a copy stored again are indexed anew when those of its source are older than this part of the cache. So what is in
	// use is still found when its oldest copy has gone, and a copy of something recent costs no second look at its bytes.
	anchoredPart = 4
	// tryZstdEvery: of an incompressible flow only each 16th frame's literals are given to zstd, and those that plainly compress.
	tryZstdEvery = 16
	// randomFade: literals that look random count for more than others, so that a flow of them is known for incompressible after some 6 frames.
	randomFade = 0.8
	// sparser is how many halvings fewer anchors an incompressible flow gets.
	sparser = 3
	// minZstd is the shortest piece given to zstd: its frame costs 9 bytes.
	minZstd = 32
	// bulkBytes: a flow that has sent this much is worth a streaming context.
	bulkBytes = 128 << 10
	// shortFrame: while contexts are scarce, a flow that fills less than this has nothing more to send at the moment and gives its context back.
	shortFrame = 32 << 10
)

// pending is a store entry of a frame that is not acknowledged: the block holds end bytes when it is.
type pending struct {
	number uint64
	block  uint64
	end    int
}

// Encoder turns one direction of one flow into frames. Encode is called by one goroutine; Acked and Close by any.
type Encoder struct {
	c    *Codec
	sess *session
	flow uint64
	id   uint64 // names the encoder in blocks; never 0

	busy   atomic.Bool // Encode is at work, or the block is being taken away
	gone   atomic.Bool // closed
	sent   atomic.Uint64
	acked  atomic.Uint64
	found  atomic.Uint32 // Treatment
	relay  atomic.Bool   // by order: neither history nor compression
	apart  atomic.Bool   // by order: compression, no history
	scope  atomic.Uint32 // see SetScope
	silent atomic.Bool   // left out of Stats
	shared atomic.Bool   // others may refer to what is not acknowledged

	// Owned by Encode.
	cursor    token.Cursor
	cipher    cipher
	digest    xxhash.Digest
	total     uint64
	tail      [anchor.Window]byte // the last bytes of the frame before, at the end
	tailLen   int
	tailKept  int     // of them, the bytes stored last in block
	run       int     // length of the run of copies that the frame before ended with
	frames    uint32  // since the flow became incompressible
	litIn     float32 // literals and their coded size, fading
	litOut    float32
	share     float32 // literal part of the raw bytes, fading
	matched   bool    // a copy was emitted
	ended     bool
	lastBlock *history.Block // for the hint where the flow goes on
	stream    *literal.Encoder
	coded     int    // bytes of literals that the stream has taken
	number    uint64 // of the frame in work
	strain    strain

	mu      sync.Mutex
	block   *history.Block // being filled
	pending []pending
	kept    []kept   // frames that the peer may need bytes of
	shown   uint64   // what frames below store may be referred to by others
	closes  []uint64 // frames that ended a stream and are not acknowledged
	closing bool     // closed cleanly, waits for acknowledgements
}

// NewEncoder returns the encoder of a flow's sending direction, in the running session.
func (c *Codec) NewEncoder(flow uint64) *Encoder {
	e := &Encoder{c: c, sess: c.sess.Load(), flow: flow}
	e.digest.Reset()
	// A cold flow's literals are assumed to shrink to a third, as text does.
	e.litIn, e.litOut = 300000, 100000
	c.flows.Lock()
	defer c.flows.Unlock()
	c.flows.ids++
	e.id = c.flows.ids
	c.flows.encoders[e] = struct{}{}
	c.flows.byFlow[flow] = e
	return e
}

// literalRatio is the present zstd ratio of the flow's literals.
func (e *Encoder) literalRatio() float32 { return e.litIn / max(e.litOut, 1) }

// incompressible tells whether neither zstd nor the history gains anything on this flow.
func (e *Encoder) incompressible() bool {
	return e.litIn < 1.03*e.litOut && e.share > 0.95
}

// Encode appends one codec frame for src, at most MaxFrameBytes, to dst. number is the number under which the frame will be acknowledged;
// end says that it is the direction's last. The frame must then be sent exactly once and in order, or the flow aborted.
func (e *Encoder) Encode(dst, src []byte, number uint64, end bool) ([]byte, error) {
	if len(src) > MaxFrameBytes {
		return nil, fmt.Errorf("frame of %d bytes: at most %d", len(src), MaxFrameBytes)
	}
	c := e.c
	c.life.RLock()
	defer c.life.RUnlock()
	switch s := c.sess.Load(); {
	case c.closed:
		return nil, ErrClosed
	case s == nil || s != e.sess:
		return nil, ErrSession
	}
	e.enter()
	defer e.busy.Store(false)
	if e.gone.Load() || e.ended {
		return nil, ErrClosed
	}
	began := time.Now()
	sc := c.borrow()
	defer c.giveBack(sc)

	e.total += uint64(len(src))
	_, _ = e.digest.Write(src) // never fails
	h := token.Header{RawBytes: len(src), Checksum: xxhash.Sum64(src), End: end}
	if end {
		h.TotalBytes, h.TotalHash = e.total, e.digest.Sum64()
		e.ended = true
	}
	e.number = number
	dst = e.encode(dst, src, &h, sc, number)
	e.sent.Store(number + 1)
	c.stats.rawIn.Add(int64(len(src)))
	c.effort.note(&e.strain, began, time.Now(), len(sc.matcher.lits))
	return dst, nil
}

// Treatment is what the encoder makes of its direction at present.
type Treatment uint32

// The treatments.
const (
	Full           Treatment = iota // matched, stored and compressed
	Encrypted                       // recognised as ciphertext: passed on as it is
	Incompressible                  // neither repeats nor compresses: looked at sparsely
)

// Treatment says how the last frame was treated. Any goroutine.
func (e *Encoder) Treatment() Treatment { return Treatment(e.found.Load()) }

// Relay makes the encoder pass its direction on as it is from now on: nothing is looked up, stored or compressed. Any goroutine.
func (e *Encoder) Relay() { e.relay.Store(true) }

// KeepApart keeps the direction out of the history from now on: nothing is looked up or stored, so that what it sends is not shaped by what other
// flows sent, nor shapes them. It is compressed on its own. Any goroutine.
func (e *Encoder) KeepApart() { e.apart.Store(true) }

// SetScope gives the direction a history of its own, shared by the flows of that scope only, in both directions of both sides; 0, as it begins, is the
// one of all others. It must come before the first frame.
func (e *Encoder) SetScope(scope uint32) { e.scope.Store(scope) }

// Silence leaves the direction out of the matched and literal bytes of Stats: for flows of the gateways themselves. Any goroutine.
func (e *Encoder) Silence() { e.silent.Store(true) }

// enter waits until nobody else is at the encoder: another flow that looks for a block, or Close. Both are short.
func (e *Encoder) enter() {
	for !e.busy.CompareAndSwap(false, true) {
		runtime.Gosched()
	}
}

// encode finds the copies, stores and appends the frame.
func (e *Encoder) encode(dst, src []byte, h *token.Header, sc *scratch, number uint64) []byte {
	c, m := e.c, &sc.matcher
	relay := e.relay.Load()
	if encrypted := e.cipher.feed(src); encrypted || relay {
		if encrypted {
			c.stats.cipher.Add(int64(len(src)))
			e.found.Store(uint32(Encrypted))
		}
		m.plain(e, src)
		c.stats.opaque.Add(int64(len(src)))
		return e.finish(dst, h, sc, true, false)
	}
	ready := e.sess.ready.Load() && !e.apart.Load()
	incompressible := e.incompressible()
	e.found.Store(uint32(Full))
	if incompressible {
		e.found.Store(uint32(Incompressible))
	}
	density := c.plan.Density
	if incompressible {
		density = min(density+sparser, anchor.MaxDensity)
		e.frames++
	}
	if ready {
		m.view.reset(c, e.id, e.scope.Load())
		m.view.ahead = e.sess.features.Ahead && len(src) > shortFrameAhead
		m.view.blind = e.sess.calm.blind()
		m.run(e, src, anchor.Mask(density), max(minMatch, int(matchPerRatio*e.literalRatio())))
		e.store(src, h, sc, number)
		if m.view.ahead {
			e.show()
		}
		if m.leads {
			m.leads = false
			c.lead.Unlock()
		}
		e.keep(src, sc, number)
	} else {
		m.plain(e, src)
	}
	if incompressible {
		c.stats.opaque.Add(int64(len(m.lits)))
	}
	e.keepTail(src)
	if n := len(src); n > 0 {
		share := float32(len(m.lits)) / float32(n)
		if e.total == uint64(n) {
			e.share = share // the first frame
		}
		e.share = 0.8*e.share + 0.2*share
	}
	return e.finish(dst, h, sc, false, incompressible && e.frames%tryZstdEvery != 0)
}

// plain makes all of src literals.
func (m *matcher) plain(e *Encoder, src []byte) {
	m.anchor, m.spans, m.tokens = m.anchor[:0], m.spans[:0], m.tokens[:0]
	m.lits = src
	e.cursor.Trail(len(src))
	e.tailLen, e.tailKept, e.run = 0, 0, 0
}

// finish codes tokens and literals and appends the frame: literals as they are when raw, else unless they look random, or when rare unless they look as if
// the flow had changed.
func (e *Encoder) finish(dst []byte, h *token.Header, sc *scratch, raw, rare bool) []byte {
	c, m := e.c, &sc.matcher
	h.Copies = len(m.spans)
	h.TokenRawBytes = len(m.tokens)
	tokens := m.tokens
	if len(tokens) > 2*minZstd {
		if z, ok := c.pool.Append(sc.packed[:0], tokens, literal.Fastest); ok {
			sc.packed = z
			tokens, h.TokensZstd = z, true
		}
	}
	h.TokenBytes = len(tokens)
	h.LiteralRawBytes = len(m.lits)
	lits := m.lits
	seems := unclear
	if !raw {
		seems = look(lits)
	}
	switch {
	case raw, seems == random, rare && seems != orderly:
		if seems == random {
			e.litIn, e.litOut = randomFade*e.litIn+float32(len(lits)), randomFade*e.litOut+float32(len(lits))
		}
		if e.stream != nil && (raw || rare) {
			h.ContextCloses = !h.End
			e.endStream()
		}
	case len(lits) >= minZstd:
		lits = e.code(h, sc)
		e.litIn = 0.95*e.litIn + float32(len(m.lits))
		e.litOut = 0.95*e.litOut + float32(len(lits))
	}
	if e.stream != nil && (h.End || e.sess.lender.Scarce() && h.RawBytes < shortFrame) {
		h.ContextCloses = !h.End
		e.endStream()
	}
	h.LiteralBytes = len(lits)
	dst = token.AppendHeader(dst, h)
	dst = append(dst, tokens...)
	if h.Again == token.AgainBitmap {
		dst = appendBitmap(dst, m.spans)
	}
	if !e.silent.Load() {
		c.stats.literal.Add(int64(len(m.lits)))
		c.stats.literalOut.Add(int64(len(lits)))
		c.stats.matched.Add(int64(h.RawBytes - len(m.lits)))
		c.stats.copies.Add(int64(len(m.spans)))
		c.noteHits(m.spans)
	}
	return append(dst, lits...)
}

// code compresses a frame's literals: with the flow's stream when it has one or is worth one, else on their own.
func (e *Encoder) code(h *token.Header, sc *scratch) []byte {
	lits := sc.matcher.lits
	ended := e.stream != nil && !e.c.keeps(e.stream.Level(), e.share, e.coded)
	if ended {
		e.endStream()
	}
	if e.stream == nil && e.total >= bulkBytes && !h.End {
		e.stream, e.coded = e.sess.lender.Encoder(e.c.levelFor(e.share)), 0
	}
	if ended && e.stream == nil {
		h.ContextCloses = !h.End // none is left for another level
	}
	e.coded += len(lits)
	if e.stream != nil {
		z, begins, err := e.stream.Append(sc.coded[:0], lits)
		if err == nil {
			h.Literals = token.StreamContinue
			if begins {
				h.Literals = token.StreamBegin
			}
			sc.coded = z
			return z
		}
		// The encoder writes to memory, so this does not happen; if it does, the stream is over.
		h.ContextCloses = true
		e.endStream()
	}
	if z, ok := e.c.pool.Append(sc.coded[:0], lits, e.c.levelFor(e.share)); ok {
		sc.coded = z
		h.Literals = token.Zstd
		return z
	}
	return lits
}

// endStream gives the flow's streaming context back. To the peer it is closed when the frame in work is acknowledged.
func (e *Encoder) endStream() {
	if e.stream == nil {
		return
	}
	e.stream.Close()
	e.stream = nil
	e.mu.Lock()
	e.closes = append(e.closes, e.number)
	e.mu.Unlock()
}

// returnStreams notes that the peer knows of the streams that frames below next ended. The caller holds e.mu.
func (e *Encoder) returnStreams(next uint64) {
	n := 0
	for n < len(e.closes) && e.closes[n] < next {
		n++
	}
	if n > 0 {
		e.sess.lender.Return(n)
		e.closes = e.closes[n:]
	}
	if len(e.closes) == 0 {
		e.closes = nil
	}
}

// appendBitmap appends a bit per copy: stored again or not.
func appendBitmap(dst []byte, spans []span) []byte {
	n := len(dst)
	dst = append(dst, make([]byte, (len(spans)+7)/8)...)
	for i, s := range spans {
		if s.again {
			dst[n+i/8] |= 1 << (i % 8)
		}
	}
	return dst
}

// keepTail remembers the last bytes of a frame, so that anchors over the seam are seen.
func (e *Encoder) keepTail(src []byte) {
	n := min(len(src), anchor.Window)
	copy(e.tail[:], e.tail[n:])
	copy(e.tail[anchor.Window-n:], src[len(src)-n:])
	e.tailLen = min(anchor.Window, e.tailLen+n)
}

// live tells whether the encoder's session is the running one: else what it knows of the logs says nothing any more. The caller holds
// Codec.life for reading.
func (e *Encoder) live() bool { return e.sess != nil && e.c.sess.Load() == e.sess }

// Acked notes that all frames below next are acknowledged: what they stored may be referenced by every flow.
func (e *Encoder) Acked(next uint64) {
	e.c.life.RLock()
	defer e.c.life.RUnlock()
	raise(&e.acked, next)
	e.mu.Lock()
	e.forgetKept(next)
	e.returnStreams(next)
	if !e.live() {
		e.mu.Unlock()
		return
	}
	i := 0
	for ; i < len(e.pending) && e.pending[i].number < next; i++ {
		p := e.pending[i]
		e.c.logs[own].ledger.RaiseTheirs(p.block, p.end)
	}
	e.pending = e.pending[i:]
	if len(e.pending) == 0 {
		e.pending = nil
	}
	done := e.closing && e.acked.Load() >= e.sent.Load()
	e.mu.Unlock()
	if done {
		e.release()
	}
	if e.c.moving() {
		e.c.pushEviction()
	}
}

// lose takes the block away; see steal.
func (e *Encoder) lose(b *history.Block) {
	e.mu.Lock()
	defer e.mu.Unlock()
	if e.block == b {
		e.block = nil
		e.tailKept = 0
	}
}

// Close ends the encoder. clean says that the direction ended with END: then the rest of its block goes to another flow as soon as all is
// acknowledged. Otherwise the block is sealed at what is acknowledged, on both sides.
func (e *Encoder) Close(clean bool) {
	e.c.life.RLock()
	defer e.c.life.RUnlock()
	if clean && !e.gone.Load() {
		e.mu.Lock()
		e.closing = true
		wait := e.acked.Load() < e.sent.Load()
		e.mu.Unlock()
		if wait {
			return
		}
		e.release()
		return
	}
	if e.gone.Swap(true) {
		return
	}
	e.enter()
	defer e.busy.Store(false)
	e.endStream()
	e.unregister()
	e.mu.Lock()
	open, unacked := e.block, e.pending
	e.block, e.pending = nil, nil
	e.forgetKept(^uint64(0))
	e.returnStreams(^uint64(0))
	e.mu.Unlock()
	if e.live() {
		for _, p := range unacked {
			e.c.logs[own].ledger.ForgetSent(p.block) // frames that other flows sent by now may miss it, and repair that
		}
		if open != nil {
			e.c.sealOwn(open)
		}
		// Blocks that are full here may stand open at the peer, waiting for frames that will not come.
		last := ^uint64(0)
		for _, p := range unacked {
			if p.block != last && (open == nil || p.block != open.Number) {
				e.c.sayOwnSeal(p.block)
			}
			last = p.block
		}
	}
	if e.c.moving() {
		e.c.pushEviction()
	}
}

// release ends a cleanly closed encoder and hands its block on.
func (e *Encoder) release() {
	if e.gone.Swap(true) {
		return
	}
	e.unregister()
	e.mu.Lock()
	b := e.block
	e.block = nil
	e.forgetKept(^uint64(0))
	e.returnStreams(^uint64(0))
	e.mu.Unlock()
	if b != nil && e.live() {
		e.c.handOn(b)
	}
}

func (e *Encoder) unregister() {
	e.c.flows.Lock()
	delete(e.c.flows.encoders, e)
	if e.c.flows.byFlow[e.flow] == e {
		delete(e.c.flows.byFlow, e.flow)
	}
	e.c.flows.Unlock()
}
