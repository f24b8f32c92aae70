package dedupe

import (
	"sync"
	"sync/atomic"

	"wanpair/dedupe/history"
	"wanpair/dedupe/token"
)

// Features say what both sides of a session understand beyond the first version (protocol A3). The zero value is what any peer understands.
type Features struct {
	// Ahead: frames may refer to bytes that are on their way; the decoder waits for them. Means nothing without Repair.
	Ahead bool
	// Repair: a decoder that misses bytes asks for them.
	Repair bool
	// Scopes: flows may have a history of their own.
	Scopes bool
}

// AllFeatures are those of this version.
var AllFeatures = Features{Ahead: true, Repair: true, Scopes: true}

const (
	// shortFrameAhead: a frame of at most so many bytes never refers to bytes under way: somebody may be waiting for it.
	shortFrameAhead = 4 << 10
	// maxAnswers bounds how often one frame's bytes are supplied: what is missing, all copies, the whole frame.
	maxAnswers = 3

	// With calmNeeds of them among calmWindow frames, the peer's history is not what we think it is: frames refer to nothing for calmWindow
	// frames, twice as many each time up to calmLongest; a stretch of calmForget frames without a NEED starts anew.
	calmNeeds   = 32
	calmWindow  = 256
	calmLongest = 1 << 16
	calmForget  = 1 << 13
)

// kept is a frame that refers to the history, until it is acknowledged.
type kept struct {
	number  uint64
	raw     *[]byte
	answers int
	ahead   []uint64 // blocks of which it refers to bytes under way
}

// repairs is what the encoders of a codec keep to supply missing bytes.
type repairs struct {
	limit   int64
	bytes   atomic.Int64
	classes [len(rawClasses)]sync.Pool
}

var rawClasses = [...]int{4 << 10, 16 << 10, 64 << 10, token.MaxRawBytes}

// hold copies a frame's raw bytes, or returns nil when enough is kept already.
func (r *repairs) hold(src []byte) *[]byte {
	for i, size := range rawClasses {
		if len(src) > size {
			continue
		}
		if r.bytes.Add(int64(size)) > r.limit {
			r.bytes.Add(-int64(size))
			return nil
		}
		p, ok := r.classes[i].Get().(*[]byte)
		if !ok {
			b := make([]byte, size)
			p = &b
		}
		*p = append((*p)[:0], src...)
		return p
	}
	return nil
}

func (r *repairs) drop(p *[]byte) {
	for i, size := range rawClasses {
		if cap(*p) == size {
			r.bytes.Add(-int64(size))
			r.classes[i].Put(p)
			return // from here on it is another frame's
		}
	}
}

// keep keeps a frame that refers to the history, so that the peer can ask for what it misses. The caller is Encode.
func (e *Encoder) keep(src []byte, sc *scratch, number uint64) {
	spans := sc.matcher.spans
	if !e.sess.features.Repair || len(spans) == 0 {
		return
	}
	k := kept{number: number}
	if sc.matcher.view.ahead {
		k.ahead = e.leansOn(spans)
		if len(k.ahead) > 0 {
			e.c.stats.ahead.Add(1)
		}
	}
	if k.raw = e.c.repairs.hold(src); k.raw == nil {
		return
	}
	e.mu.Lock()
	e.kept = append(e.kept, k)
	e.mu.Unlock()
}

// leansOn lists the blocks of our log of which copies refer to more than the peer is known to hold, and that others fill.
func (e *Encoder) leansOn(spans []span) (blocks []uint64) {
	l := &e.c.logs[own]
	last := ^uint64(0)
	for _, s := range spans {
		if s.log != own {
			continue
		}
		for pos, end := s.pos, s.pos+uint64(s.n); pos < end; {
			b := pos >> history.BlockShift
			pos = min(end, (b+1)<<history.BlockShift)
			if b != last && l.ledger.Theirs(b) < int(pos-b<<history.BlockShift) {
				last = b
				blocks = append(blocks, b)
			}
		}
	}
	return blocks
}

// forgetKept drops the kept frames below next. The caller holds e.mu.
func (e *Encoder) forgetKept(next uint64) {
	i := 0
	for ; i < len(e.kept) && e.kept[i].number < next; i++ {
		e.c.repairs.drop(e.kept[i].raw)
	}
	clear(e.kept[:i])
	if e.kept = e.kept[i:]; len(e.kept) == 0 {
		e.kept = nil
	}
}

// Share lets other flows refer to what this one stores before it is acknowledged, from the next frame on: the other side decodes it as it
// comes. Any goroutine.
func (e *Encoder) Share() { e.shared.Store(true) }

// show lets other flows refer to what the frame in work has stored.
func (e *Encoder) show() {
	if !e.shared.Load() {
		return
	}
	e.mu.Lock()
	defer e.mu.Unlock()
	for i := len(e.pending) - 1; i >= 0 && e.pending[i].number >= e.shown; i-- {
		e.c.logs[own].ledger.RaiseSent(e.pending[i].block, e.pending[i].end)
	}
	e.shown = e.number + 1
}

// onNeed supplies the bytes of a frame that the peer misses.
func (c *Codec) onNeed(s *session, m *token.Message) {
	c.flows.Lock()
	e := c.flows.byFlow[m.Flow]
	c.flows.Unlock()
	if e == nil || e.sess != s {
		return // the flow has ended, and the peer hears of it
	}
	c.stats.needs.Add(1)
	s.calm.need()
	answer := e.answer(m)
	if len(answer) == 0 {
		answer = []token.Message{{Kind: token.KindBytes, Flow: m.Flow, Frame: m.Frame}}
	}
	for i := range answer {
		c.post(&answer[i])
	}
}

// answer returns the messages that supply what a NEED asks for; none when the frame is not kept.
func (e *Encoder) answer(m *token.Message) (out []token.Message) {
	e.mu.Lock()
	defer e.mu.Unlock()
	for i := range e.kept {
		k := &e.kept[i]
		if k.number != m.Frame {
			continue
		}
		for _, b := range k.ahead {
			e.c.logs[own].ledger.ForgetSent(b) // it does not arrive in time
		}
		if k.answers++; k.answers > maxAnswers {
			return nil
		}
		for _, p := range m.Parts {
			if p.Offset+p.Length > len(*k.raw) {
				return nil
			}
			for n := 0; p.Length > 0; p.Offset, p.Length = p.Offset+n, p.Length-n {
				n = min(p.Length, token.MaxDataBytes)
				data := append([]byte(nil), (*k.raw)[p.Offset:p.Offset+n]...)
				out = append(out, token.Message{Kind: token.KindBytes, Flow: m.Flow, Frame: m.Frame, Offset: p.Offset, Data: data})
			}
		}
		return out
	}
	return nil
}

// calm keeps frames from referring to anything while the peer misses too much. It counts in frames, not in seconds: what a miss costs is bytes.
type calm struct {
	frames atomic.Uint64 // encoded in the session
	until  atomic.Uint64 // frames below refer to nothing

	mu    sync.Mutex
	from  uint64 // where the present window began
	needs int    // in it
	last  uint64 // frame of the last NEED
	next  uint64 // length of the next pause
}

// blind counts a frame and tells whether it is to refer to nothing.
func (q *calm) blind() bool { return q.frames.Add(1) <= q.until.Load() }

// need notes a NEED.
func (q *calm) need() {
	q.mu.Lock()
	defer q.mu.Unlock()
	now := q.frames.Load()
	if now-q.from > calmWindow {
		q.from, q.needs = now, 0
	}
	if q.next == 0 || now-q.last > calmForget {
		q.next = calmWindow
	}
	q.last = now
	if q.needs++; q.needs >= calmNeeds && now >= q.until.Load() {
		q.until.Store(now + q.next)
		q.next = min(2*q.next, calmLongest)
		q.from, q.needs = now, 0
	}
}
