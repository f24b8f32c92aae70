package dedupe

import (
	"bytes"
	"encoding/binary"
	"math"

	"github.com/cespare/xxhash/v2"

	"wanpair/dedupe/anchor"
	"wanpair/dedupe/history"
	"wanpair/dedupe/index"
	"wanpair/dedupe/token"
)

// Constants of the match rules; docs/dedupe.md says what each was measured to be worth.
const (
	// minMatch is the shortest match taken at an anchor, where literals are worth as much as that.
	minMatch = 32
	// matchPerRatio: a match must be at least this many bytes long per unit of the ratio at which zstd codes the literals around it, or a token
	// (about 5 bytes) costs more than the literals it saves.
	matchPerRatio = 12
	// minContinue is the shortest match taken where the match before would go on, at a frame's start or over a block's end: its token is 3 bytes.
	minContinue = 16
	// minDiagonal is the shortest match taken on the diagonal of the matches on both sides of a gap.
	minDiagonal = 16
	// minFine is the shortest match taken by the fine search in a gap between two near matches, fineRange the farthest they may lie apart.
	minFine   = 10
	fineRange = 4096
	fineBits  = 14
	// nearDiagonal is how far beside the diagonal of the match before a window is searched for, nearGap how long behind that match: a row that got
	// longer or went moves all that follows by so much.
	nearDiagonal = 256
	nearGap      = 1024
	nearWindow   = 16
	// aheadAfter is after how many anchors in a row that were not found some are looked up together.
	aheadAfter = 4
)

// span is a copy as found: input [src, src+n) is the log's bytes from pos on.
type span struct {
	src, n int
	log    uint8
	goesOn bool // where the copy before it, without literals between, left off
	again  bool // stored again
	scan   bool // its anchors are indexed where it is stored again
	pos    uint64
}

// found is an anchor whose window ends at input offset end.
type found struct {
	fp  uint64
	end int
}

// view reads history for one frame of one flow, within what may be referenced. The zero slots are empty; it is reset before each frame,
// because what may be referenced changes between frames.
type view struct {
	c     *Codec
	self  uint64 // the encoder whose own unacknowledged bytes count too
	ahead bool   // what other flows have sent counts too
	blind bool   // nothing may be referenced
	scope uint32 // blocks of another one are not there
	salt  uint64 // of the scope's fingerprints
	slots [16]slot
}

type slot struct {
	key   history.Key
	data  []byte
	block *history.Block
	full  bool // slot is in use
}

// reset empties the view.
func (v *view) reset(c *Codec, self uint64, scope uint32) {
	v.c, v.self, v.ahead, v.blind = c, self, false, false
	if v.scope != scope {
		v.scope, v.salt = scope, scopeSalt(scope)
	}
	clear(v.slots[:])
}

// refresh forgets what was looked up: other flows have stored meanwhile.
func (v *view) refresh() { clear(v.slots[:]) }

// fingerprint is what the index knows a window by. Those of different scopes differ, so that an entry of one is not even looked at for the other.
func (v *view) fingerprint(window []byte) uint64 {
	return v.c.fingerprint(window) ^ v.salt
}

// scopeSalt is what the fingerprints of a scope differ by from those of scope 0.
func scopeSalt(scope uint32) uint64 {
	if scope == 0 {
		return 0
	}
	return xxhash.Sum64(binary.BigEndian.AppendUint32(nil, scope)) >> (64 - anchor.FingerprintBits)
}

// lookup returns the slot of a block.
func (v *view) lookup(log uint8, number uint64) *slot {
	s := &v.slots[(number*2+uint64(log))%16]
	if s.full && s.key == (history.Key{Log: log, Number: number}) {
		return s
	}
	*s = slot{key: history.Key{Log: log, Number: number}, full: true}
	l := &v.c.logs[log]
	if v.blind || number < l.tail.Load()>>history.BlockShift {
		return s
	}
	limit := l.ledger.Both(number)
	if v.ahead && log == own {
		limit = l.ledger.Ahead(number)
	}
	if log == own {
		if b := v.c.store.Hot(s.key); b != nil && v.self != 0 && b.Writer.Load() == v.self && !l.ledger.Struck(number) {
			limit = b.Len()
		}
	}
	if limit == 0 {
		return s
	}
	b, gone := v.c.store.Quick(s.key)
	if b == nil {
		if gone {
			v.c.strike(log, []uint64{number})
		}
		return s
	}
	if b.Scope() != v.scope {
		return s
	}
	data := b.Bytes()
	s.data, s.block = data[:min(limit, len(data))], b
	return s
}

// forward returns how far in agrees with a log from pos on.
func (v *view) forward(in []byte, log uint8, pos uint64) int {
	n := 0
	for n < len(in) {
		s := v.lookup(log, pos>>history.BlockShift)
		off := int(pos % history.BlockBytes)
		if off >= len(s.data) {
			break
		}
		k := anchor.Forward(in[n:], s.data[off:])
		n += k
		pos += uint64(k)
		if pos%history.BlockBytes != 0 || k == 0 {
			break
		}
	}
	return n
}

// backward returns how far the end of in agrees with the bytes of a log before pos.
func (v *view) backward(in []byte, log uint8, pos uint64) int {
	n := 0
	for n < len(in) && pos > 0 {
		s := v.lookup(log, (pos-1)>>history.BlockShift)
		off := int((pos-1)%history.BlockBytes) + 1
		if off > len(s.data) {
			break
		}
		k := anchor.Backward(in[:len(in)-n], s.data[:off])
		n += k
		pos -= uint64(k)
		if pos%history.BlockBytes != 0 || k == 0 {
			break
		}
	}
	return n
}

// read returns up to n bytes of a log from pos on; over a block's end they are joined in buf.
func (v *view) read(log uint8, pos uint64, n int, buf []byte) (out, scratch []byte) {
	s := v.lookup(log, pos>>history.BlockShift)
	off := int(pos % history.BlockBytes)
	if off >= len(s.data) {
		return nil, buf
	}
	if off+n <= len(s.data) {
		return s.data[off : off+n], buf
	}
	buf = append(buf[:0], s.data[off:]...)
	for len(buf) < n && (pos+uint64(len(buf)))%history.BlockBytes == 0 {
		s = v.lookup(log, (pos+uint64(len(buf)))>>history.BlockShift)
		k := min(n-len(buf), len(s.data))
		if k == 0 {
			break
		}
		buf = append(buf, s.data[:k]...)
	}
	return buf, buf
}

// follow returns where the flow that filled the block before pos goes on, when pos is the end of that block's bytes and it goes on elsewhere.
func (v *view) follow(log uint8, pos uint64) (uint64, bool) {
	if pos == 0 {
		return 0, false
	}
	s := v.lookup(log, (pos-1)>>history.BlockShift)
	if s.block == nil || int((pos-1)%history.BlockBytes)+1 != len(s.data) {
		return 0, false
	}
	next, ok := s.block.Next()
	return next, ok && next != pos
}

// matcher finds the copies of one frame. It lives in the scratch memory that a frame borrows; what a flow keeps between frames comes from
// its Encoder.
type matcher struct {
	e       *Encoder
	view    view
	in      []byte
	mask    uint64
	hash    uint64 // rolling, behind scanned bytes of in
	scanned int
	queue   []found // anchors behind which in was not looked at yet, in ahead
	ahead   [8]found
	anchor  []found // anchors met in what was not matched
	spans   []span
	leads   bool   // holds Codec.lead
	going   bool   // a copy was made in this direction: log and pos count
	log     uint8  // of the last copy
	pos     uint64 // where the last copy would go on
	lits    []byte // the input itself where nothing was found, else in joined
	joined  []byte
	tokens  []byte
	fine    []int32 // positions of the fine search, by hash, counted from fineAt
	fineAt  int32   // what is not above it belongs to searches before
	join    [2][]byte
	seam    [2 * anchor.Window]byte // the end of the frame before and the start of this one
	seamed  int                     // bytes of the frame before in seam
}

// run finds the copies of in. Afterwards tokens, spans and lits describe it whole, and lits ends with the trailing literals.
func (m *matcher) run(e *Encoder, in []byte, mask uint64, minLen int) {
	m.e, m.in, m.mask = e, in, mask
	m.anchor, m.spans, m.tokens = m.anchor[:0], m.spans[:0], m.tokens[:0]
	m.seamed = copy(m.seam[:anchor.Window], e.tail[anchor.Window-e.tailLen:])
	copy(m.seam[m.seamed:], in[:min(len(in), anchor.Window)])
	h := anchor.Roll(0, m.seam[:m.seamed])
	m.going, m.log, m.pos = e.matched, e.cursor.Log(), e.cursor.Expected()

	lit := m.resume()
	i := lit
	m.hash, m.scanned, m.queue = h, 0, m.queue[:0]
	for misses := 0; m.next(i, misses); {
		fp := m.queue[0].fp
		i = m.queue[0].end
		m.queue = m.queue[1:]
		best := m.probe(fp, lit, i, minLen)
		if best.n < minLen && m.view.ahead && !m.leads {
			// Something new. Another flow may be at the same point of the same thing: one goes on, the others look again.
			m.view.c.lead.Lock()
			m.leads = true
			m.view.refresh()
			best = m.probe(fp, lit, i, minLen)
		}
		need := minLen
		if best.n >= minMatch && best.log == m.log && best.pos == m.pos+uint64(best.src-lit) {
			need = max(minMatch, minLen/3)
		}
		if best.n < need {
			m.anchor = append(m.anchor, found{fp, i})
			misses++
			continue
		}
		misses = 0
		lit, best = m.absorb(lit, best)
		m.bridge(lit, best)
		m.emit(best)
		m.anchor = append(m.anchor, found{fp, i}) // if the copy is stored again, the next one is found there
		i = m.chase(best.src + best.n)
		lit = i
	}
	m.closeGap(lit, max(minMatch, minLen/2))
	m.write()
}

// next makes the first of the queue the next anchor behind input offset i. Where one lookup after the other found nothing it looks some anchors ahead,
// so that the index's cache lines are fetched side by side instead of one by one.
func (m *matcher) next(i, misses int) bool {
	for len(m.queue) > 0 && m.queue[0].end <= i {
		m.queue = m.queue[1:]
	}
	if len(m.queue) > 0 {
		return true
	}
	if m.scanned < i {
		m.scanned, m.hash = i, m.roll(i)
	}
	want := 1
	if misses >= aheadAfter {
		want = len(m.ahead)
	}
	n := 0
	for n < want && m.scanned < len(m.in) {
		k, hash, ok := anchor.Scan(m.hash, m.mask, m.in[m.scanned:])
		m.scanned, m.hash = m.scanned+k, hash
		if !ok {
			break
		}
		if window := m.window(m.scanned); window != nil {
			m.ahead[n] = found{m.view.fingerprint(window), m.scanned}
			n++
		}
	}
	m.queue = m.ahead[:n]
	if n > 1 {
		for _, a := range m.queue {
			m.view.c.index.Touch(a.fp)
		}
	}
	return n > 0
}

// absorb lets a match that begins right behind a copy grow backwards, and drops the copies that it covers whole: they were the best known at
// their place, mostly short ones on the diagonal of the match before. It returns where the literals before the match begin.
func (m *matcher) absorb(lit int, s span) (int, span) {
	for n := len(m.spans); n > 0 && s.src == lit; n = len(m.spans) {
		last := m.spans[n-1]
		before := 0 // end of the copy before last
		if n > 1 {
			before = m.spans[n-2].src + m.spans[n-2].n
		}
		k := m.view.backward(m.in[before:s.src], s.log, s.pos)
		if k < last.n {
			break
		}
		m.spans = m.spans[:n-1]
		s.src, s.n, s.pos = s.src-k, s.n+k, s.pos-uint64(k)
		lit = before
		m.going, m.log, m.pos = m.e.matched, m.e.cursor.Log(), m.e.cursor.Expected()
		if n > 1 {
			p := m.spans[n-2]
			m.going, m.log, m.pos = true, p.log, p.pos+uint64(p.n)
		}
	}
	return lit, s
}

// emit adds a copy.
func (m *matcher) emit(s span) {
	m.spans = append(m.spans, s)
	m.going, m.log, m.pos = true, s.log, s.pos+uint64(s.n)
}

// write turns the copies found into tokens and literals.
func (m *matcher) write() {
	c, lit := &m.e.cursor, 0
	joined := m.joined[:0]
	for _, s := range m.spans {
		m.tokens = c.Append(m.tokens, token.Copy{Literal: s.src - lit, Length: s.n, Log: s.log, Position: s.pos})
		joined = append(joined, m.in[lit:s.src]...)
		lit = s.src + s.n
	}
	if m.lits = m.in; len(m.spans) > 0 {
		m.joined = append(joined, m.in[lit:]...)
		m.lits = m.joined
	}
	c.Trail(len(m.in) - lit)
	m.e.matched = m.going
}

// window returns the bytes before offset i that a fingerprint covers, reaching into the frame before; nil when there are too few.
func (m *matcher) window(i int) []byte {
	if i >= anchor.Window {
		return m.in[i-anchor.Window : i]
	}
	end := m.seamed + i
	if end < anchor.Window {
		return nil
	}
	return m.seam[end-anchor.Window : end]
}

// roll returns the rolling hash at offset i.
func (m *matcher) roll(i int) uint64 {
	if i >= anchor.Window {
		return anchor.Roll(0, m.in[i-anchor.Window:i])
	}
	return anchor.Roll(0, m.seam[:m.seamed+i])
}

// resume tries to go on with the last match of the frame before and returns how far that carries.
func (m *matcher) resume() int {
	if !m.going || len(m.in) < minContinue/2 {
		return 0
	}
	pos, log := m.pos, m.log
	n := m.view.forward(m.in, log, pos)
	if n < minContinue && n < len(m.in) {
		next, ok := m.view.follow(log, pos)
		if !ok {
			return 0
		}
		if n, pos = m.view.forward(m.in, log, next), next; n < minContinue && n < len(m.in) {
			return 0
		}
	}
	m.emit(span{src: 0, n: n, log: log, pos: pos, goesOn: true})
	return m.chase(n)
}

// chase goes on, from input offset i where a match ended, with the block in which the matched flow went on, as long as that matches.
func (m *matcher) chase(i int) int {
	for i < len(m.in) {
		log, pos := m.log, m.pos
		next, ok := m.view.follow(log, pos)
		if !ok {
			break
		}
		n := m.view.forward(m.in[i:], log, next)
		if n < minContinue {
			break
		}
		m.emit(span{src: i, n: n, log: log, pos: next, goesOn: true})
		i += n
	}
	return i
}

// probe looks a fingerprint up and returns the longest match through offset i that begins at lit or later.
func (m *matcher) probe(fp uint64, lit, i, minLen int) (best span) {
	var hits [index.Bucket]index.Hit
	n := m.view.c.index.Lookup(fp, &hits)
	if m.going {
		// The diagonal of the copy before, for what changed in place: of windows that occur often the index knows the newest two only.
		pos := m.pos + uint64(i-lit)
		b := m.view.backward(m.in[lit:i], m.log, pos)
		f := m.view.forward(m.in[i:], m.log, pos)
		if b+f >= 2*minLen {
			best = span{src: i - b, n: b + f, log: m.log, pos: pos - uint64(b)}
		}
	}
	if m.going && best.n == 0 && i-lit <= nearGap && i >= nearWindow {
		if pos, ok := m.near(i, m.pos+uint64(i-lit)); ok {
			b, f := m.view.backward(m.in[lit:i], m.log, pos), m.view.forward(m.in[i:], m.log, pos)
			best = span{src: i - b, n: b + f, log: m.log, pos: pos - uint64(b)}
		}
	}
	for _, h := range hits[:n] {
		b := m.view.backward(m.in[lit:i], h.Log, h.Position)
		if b < min(anchor.Window, i-lit) {
			continue // other bytes of the same name, or not to be referenced
		}
		f := m.view.forward(m.in[i:], h.Log, h.Position)
		pos := h.Position - uint64(b)
		if b+f > best.n || b+f == best.n && h.Log == best.log && pos > best.pos {
			best = span{src: i - b, n: b + f, log: h.Log, pos: pos}
		}
	}
	return best
}

// near searches the log around pos for the last bytes before offset i and returns the position behind them.
func (m *matcher) near(i int, pos uint64) (uint64, bool) {
	from := pos - min(pos, nearDiagonal+nearWindow)
	var ref []byte
	ref, m.join[1] = m.view.read(m.log, from, 2*nearDiagonal+nearWindow, m.join[1])
	k := bytes.Index(ref, m.in[i-nearWindow:i])
	return from + uint64(k) + nearWindow, k >= 0
}

// bridge looks for what two matches have between them, now that the second is known.
func (m *matcher) bridge(lit int, next span) {
	gap := next.src - lit
	if gap < minDiagonal {
		return
	}
	if !m.going {
		// The flow's first match: what goes before it stands before it in the log too, or nearly so.
		if gap <= fineRange {
			m.fineSearch(lit, next, next.pos-min(uint64(2*gap+256), next.pos), m.fineLength())
		}
		return
	}
	if m.log != next.log {
		return
	}
	end := m.pos
	ahead := next.pos - end // wraps when the second match lies before the first
	switch {
	case ahead == uint64(gap):
		m.diagonal(lit, next, end)
	case gap <= fineRange && ahead > 0 && ahead <= fineRange && ahead <= uint64(4*gap+256):
		m.fineSearch(lit, next, end, m.fineLength())
	}
}

// diagonal compares a gap byte by byte with the equally long gap in the log.
func (m *matcher) diagonal(lit int, next span, end uint64) {
	var ref []byte
	base := lit
	ref, m.join[0] = m.view.read(next.log, end, next.src-lit, m.join[0])
	stop := min(next.src, base+len(ref))
	for i := lit; i+8 <= stop; {
		j := i - base
		if binary.LittleEndian.Uint64(m.in[i:]) == binary.LittleEndian.Uint64(ref[j:]) {
			f := anchor.Forward(m.in[i:stop], ref[j:])
			if f >= minDiagonal {
				m.emit(span{src: i, n: f, log: next.log, pos: end + uint64(j)})
			}
			i += f
		}
		i++
	}
}

// close looks for what the bytes behind the frame's last match have in common with what stands behind it in the log. No second match confirms
// the place, so what is found must be long.
func (m *matcher) closeGap(lit, minLen int) {
	gap := len(m.in) - lit
	if !m.going || gap < minMatch || gap > fineRange {
		return
	}
	m.fineSearch(lit, span{src: len(m.in), log: m.log, pos: m.pos + uint64(2*gap+256)}, m.pos, minLen)
}

// fineLength is the shortest match worth a token where two matches are near: about 3 bytes.
func (m *matcher) fineLength() int { return max(minFine, int(3*m.e.literalRatio())) }

// fineSearch looks for short matches, of need bytes at least, of a gap in the stretch of log from end to the match behind the gap.
func (m *matcher) fineSearch(lit int, next span, end uint64, need int) {
	var ref []byte
	ref, m.join[0] = m.view.read(next.log, end, int(next.pos-end), m.join[0])
	if m.fine == nil || m.fineAt > math.MaxInt32-2*token.MaxRawBytes {
		m.fine, m.fineAt = make([]int32, 1<<fineBits), 0
	}
	at := m.fineAt + 1
	m.fineAt += int32(len(ref))
	for i := 0; i+8 <= len(ref); i++ {
		m.fine[fineHash(ref[i:])] = at + int32(i)
	}
	for i := lit; i+8 <= next.src; {
		if r := int(m.fine[fineHash(m.in[i:])] - at); r >= 0 {
			b := anchor.Backward(m.in[lit:i], ref[:r])
			f := anchor.Forward(m.in[i:next.src], ref[r:])
			if b+f >= need {
				m.emit(span{src: i - b, n: b + f, log: next.log, pos: end + uint64(r-b)})
				i += f
				lit = i
				continue
			}
		}
		i++
	}
}

// fineHash hashes the first six of eight bytes.
func fineHash(b []byte) uint64 {
	return binary.LittleEndian.Uint64(b) << 16 * 0x9e3779b97f4a7c15 >> (64 - fineBits)
}
