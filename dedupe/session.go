package dedupe

import (
	"cmp"
	"fmt"
	"slices"
	"sync"
	"sync/atomic"

	"wanpair/dedupe/history"
	"wanpair/dedupe/literal"
	"wanpair/dedupe/token"
)

// session is one run of both sides' processes together: from Begin to the next Begin.
type session struct {
	mu   sync.Mutex // serialises send, so that messages keep their order
	send func([]byte) error

	features Features
	fresh    atomic.Uint64 // first block of the peer's log that can be begun in this session
	calm     calm

	lender *literal.Lender
	ready  atomic.Bool // the peer's opening exchange is complete: frames may refer and store
	opened struct {    // guarded by Codec.life or HandleMessage's single caller
		sync.Mutex
		logs [2]bool // LOG received, by the peer's numbering
		same [2]bool // both sides mean the same log, by our numbering
		told bool    // READY sent
	}
}

// Begin starts a new session: encoders and decoders of the one before are dead, what they stored but nobody acknowledged no longer counts.
// It sends the opening exchange through send and keeps send for later messages. send must queue reliably and in order, must not call
// back into the codec, and may be called from any goroutine; msg belongs to it. features are what both sides understand.
func (c *Codec) Begin(send func(msg []byte) error, features Features) error {
	c.life.Lock()
	defer c.life.Unlock()
	if c.closed {
		return ErrClosed
	}
	features.Ahead = features.Ahead && features.Repair
	s := &session{send: send, features: features, lender: c.pool.Lender(c.plan.StreamBytes, c.plan.StreamDecoders)}
	c.sess.Store(nil)
	for log := range uint8(2) {
		for _, b := range c.store.Open(log) {
			c.logs[log].ledger.SetMine(b.Number, b.Len())
			c.store.Seal(b, history.BlockBytes)
		}
		c.logs[log].ledger.ForgetTheirs()
	}
	c.writer.reset()
	c.receiver.reset()
	c.evict.reset()
	c.parking.reset()
	c.flows.Lock()
	clear(c.flows.encoders)
	clear(c.flows.byFlow)
	c.flows.Unlock()
	c.store.SetHead(own, c.logs[own].head.Load())
	c.store.SetHead(peer, c.logs[peer].head.Load())
	c.sess.Store(s)
	for log := range uint8(2) {
		// A tail that was on its way when the session before ended: nothing that refers below it is left.
		c.dropBelow(log, c.logs[log].tail.Load())
		st := c.store.State(log)
		l := &c.logs[log]
		m := token.Message{Kind: token.KindLog, Which: log, ID: token.LogID(st.ID), Tail: l.tail.Load(), Head: l.head.Load()}
		if log == own {
			m.Writer = c.writer.instance
		}
		if err := s.post(&m); err != nil {
			return fmt.Errorf("opening exchange: %w", err)
		}
	}
	for log := range uint8(2) {
		if err := c.sayHeld(s, log); err != nil {
			return fmt.Errorf("opening exchange: %w", err)
		}
	}
	if c.store.Status().Off != "" {
		c.withdraw()
	}
	return s.post(&token.Message{Kind: token.KindContexts, Contexts: s.lender.Granted()})
}

// sayHeld sends what this side holds of a log, in as many messages as it takes.
func (c *Codec) sayHeld(s *session, log uint8) error {
	m := token.Message{Kind: token.KindHeld, Which: log}
	var err error
	flush := func() {
		if len(m.Ranges)+len(m.Shorts) > 0 && err == nil {
			err = s.post(&m)
		}
		m.Ranges, m.Shorts = nil, nil
	}
	// 4096 entries of at most 9 + 3 bytes stay below a message's 65,000.
	c.logs[log].ledger.Held(func(first, count uint64) {
		m.Ranges = append(m.Ranges, token.Range{First: first, Count: count})
		if len(m.Ranges)+len(m.Shorts) >= token.MaxRanges {
			flush()
		}
	}, func(block uint64, n int) {
		m.Shorts = append(m.Shorts, token.Short{Block: block, Length: n})
		if len(m.Ranges)+len(m.Shorts) >= token.MaxRanges {
			flush()
		}
	})
	flush()
	return err
}

// post sends a message.
func (s *session) post(m *token.Message) error {
	b := m.Append(nil)
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.send(b)
}

// post sends a message in the running session; without one it goes nowhere. An error means that the session is ending, and the next
// opening exchange says everything anew.
func (c *Codec) post(m *token.Message) {
	if s := c.sess.Load(); s != nil {
		_ = s.post(m)
	}
}

// HandleMessage takes a codec message from the peer. Messages are handled in the order they arrive, one at a time. An error wraps
// ErrGrammar and means that the peer does not speak this protocol: the session should end.
func (c *Codec) HandleMessage(msg []byte) error {
	m, err := token.ParseMessage(msg)
	if err != nil {
		return err
	}
	s := c.sess.Load()
	if s == nil {
		return ErrSession
	}
	// In the peer's messages log 0 is the one it writes.
	switch log := 1 - m.Which; m.Kind {
	case token.KindLog:
		return c.onLog(s, log, &m)
	case token.KindHeld:
		return c.onHeld(s, log, &m)
	case token.KindReady:
		if !s.opened.logs[0] || !s.opened.logs[1] {
			return fmt.Errorf("%w: READY before LOG", ErrGrammar)
		}
		s.ready.Store(true)
	case token.KindSeal:
		c.onSeal(m.Block, m.Length)
	case token.KindRetract:
		c.onRetract(&m)
	case token.KindTail:
		c.onTail(m.Tail)
	case token.KindTailAck:
		c.onTailAck(m.Tail)
	case token.KindContexts:
		s.lender.Grant(m.Contexts)
	case token.KindNeed:
		c.onNeed(s, &m)
	case token.KindBytes:
		c.onBytes(&m)
	default:
		return fmt.Errorf("%w: message kind %d is not spoken yet", ErrGrammar, m.Kind)
	}
	return nil
}

// onLog compares a log's id with ours. READY goes out when both of the peer's LOG messages were taken in: a peer that has our READY may
// store at once, for we know then which log it writes.
func (c *Codec) onLog(s *session, log uint8, m *token.Message) error {
	s.opened.Lock()
	defer s.opened.Unlock()
	if s.opened.logs[m.Which] {
		return fmt.Errorf("%w: LOG twice", ErrGrammar)
	}
	st := c.store.State(log)
	l := &c.logs[log]
	same := history.LogID(m.ID) == st.ID
	if log == peer && !same {
		c.life.Lock()
		c.store.Reset(peer, history.LogID(m.ID))
		l.ledger.Clear()
		l.tail.Store(m.Tail)
		l.head.Store(m.Head)
		c.index.SetTail(peer, m.Head) // nothing below is held
		c.index.SetHead(peer, m.Head)
		c.receiver.reset()
		c.life.Unlock()
		same = true
	}
	s.opened.logs[m.Which], s.opened.same[log] = true, same
	if same {
		raise(&l.head, m.Head)
		c.index.RaiseHead(log, l.head.Load())
		if log == own {
			c.writer.raise(m.Head)
		} else if m.Tail > l.tail.Load() {
			c.dropBelow(peer, m.Tail)
		}
	}
	if log == peer {
		s.fresh.Store((l.head.Load() + history.BlockBytes - 1) >> history.BlockShift)
	}
	if s.opened.logs[0] && s.opened.logs[1] && !s.opened.told {
		s.opened.told = true
		_ = s.post(&token.Message{Kind: token.KindReady}) // see post
	}
	return nil
}

// raise lifts an atomic to at least v.
func raise(a *atomic.Uint64, v uint64) {
	for old := a.Load(); v > old && !a.CompareAndSwap(old, v); old = a.Load() {
	}
}

// onHeld notes what the peer holds. Entries about blocks that we do not hold mean nothing.
func (c *Codec) onHeld(s *session, log uint8, m *token.Message) error {
	s.opened.Lock()
	defer s.opened.Unlock()
	if s.ready.Load() || !s.opened.logs[m.Which] {
		return fmt.Errorf("%w: HELD outside of the opening exchange", ErrGrammar)
	}
	if !s.opened.same[log] {
		return nil
	}
	l := &c.logs[log]
	c.eachHeld(l, m.Ranges, func(b uint64) { l.ledger.SetTheirs(b, history.BlockBytes) })
	for _, x := range m.Shorts {
		if l.ledger.Mine(x.Block) > 0 {
			l.ledger.SetTheirs(x.Block, x.Length)
		}
	}
	return nil
}

// eachHeld calls f, once each, for the blocks of ranges that this side holds. It sorts the ranges, so that a message costs no more than one
// pass over the log, whatever the peer wrote into it.
func (c *Codec) eachHeld(l *logState, ranges []token.Range, f func(block uint64)) {
	slices.SortFunc(ranges, func(a, b token.Range) int { return cmp.Compare(a.First, b.First) })
	at, end := l.tail.Load()>>history.BlockShift, l.head.Load()>>history.BlockShift+1
	for _, r := range ranges {
		at = max(at, r.First)
		for ; at < min(r.First+r.Count, end); at++ {
			if l.ledger.Mine(at) > 0 {
				f(at)
			}
		}
	}
}

// onSeal closes a block of the peer's log.
func (c *Codec) onSeal(number uint64, length int) {
	l := &c.logs[peer]
	defer c.parking.closed(number)
	had := l.ledger.Mine(number)
	if had == 0 {
		return
	}
	k := history.Key{Log: peer, Number: number}
	l.ledger.SetTheirs(number, min(length, l.ledger.Theirs(number)))
	if length < had {
		l.ledger.SetMine(number, length)
	}
	if b := c.receiver.forget(number); b != nil && length > 0 {
		c.store.Seal(b, length)
	} else if length < had {
		c.store.Forget(k, length)
	}
}

// onRetract strikes blocks of our log that the peer does not hold.
func (c *Codec) onRetract(m *token.Message) {
	if len(m.Ranges) == 0 {
		return
	}
	l := &c.logs[own]
	leads := m.Ranges[0]
	c.eachHeld(l, m.Ranges, func(b uint64) {
		if !l.ledger.Struck(b) {
			c.stats.struck.Add(1)
		}
		l.ledger.Strike(b)
	})
	// A peer that gives up our oldest blocks asks for room: move the tail as if we had needed it.
	if leads.Count > 1 && leads.First <= l.tail.Load()>>history.BlockShift {
		c.startEviction(min((leads.First+leads.Count)<<history.BlockShift, l.head.Load()))
	}
}
