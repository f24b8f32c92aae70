package transport

import "time"

// maxBonus is the most a flow may be sent before its reader has taken anything,
// while the budget is far from used up.
const maxBonus = 2 << 20

// bonus widens the window of a new flow beyond the initial credit, so that a
// short transfer needs no round trip for credit. It shrinks with the budget
// that is left.
func (s *Session) bonus(f *Flow) {
	extra := min(maxBonus, s.freeCredit()/64) - int64(f.window)
	if extra <= 0 {
		return
	}
	f.window += uint64(extra)
	f.grant()
	s.markAck(f.ack, false)
}

// freeCredit is what may be granted beyond the windows there are: the budget
// without what is granted and without what flows to come are sure of.
func (s *Session) freeCredit() int64 {
	cfg := &s.link.cfg
	sure := (s.link.maxPeerFlows() - int64(s.opened+s.orphans)) * max(cfg.InitialCreditBytes, cfg.FloorBytes)
	return cfg.CreditBudgetBytes - s.granted - max(sure, 0)
}

// grant raises the credit to what was consumed plus the window. Credit never
// falls: a window that has shrunk is reached by granting nothing for a while.
func (f *Flow) grant() {
	target := f.consumed + f.window
	if target > f.ack.credit {
		f.s.granted += int64(target - f.ack.credit)
		f.ack.credit = target
	}
}

// Consume says that the reader has taken raw bytes: the peer may send as many
// again, and more when the reader takes them as fast as they come.
func (f *Flow) Consume(rawBytes int) {
	s := f.s
	s.mu.Lock()
	defer s.mu.Unlock()
	if f.ended || rawBytes <= 0 {
		return
	}
	n := min(uint64(rawBytes), f.arrivedRaw-f.consumed)
	f.consumed += n
	s.granted -= int64(n)
	f.resize()
	f.grant()
	if !f.finArrived && f.ack.credit-f.ack.saidCredit >= f.window/4 {
		s.markAck(f.ack, true)
	}
}

// resize follows the reader: the window doubles when half of it was taken
// within about a round trip, halves when that took long, and stays in between.
func (f *Flow) resize() {
	s := f.s
	now := time.Now()
	if f.roundAt.IsZero() {
		f.roundAt, f.roundFrom = now, 0
	}
	if f.consumed-f.roundFrom < f.window/2 {
		return
	}
	took := now.Sub(f.roundAt)
	switch {
	case took <= 2*s.rtt+20*time.Millisecond:
		limit := uint64(s.link.cfg.CreditBudgetBytes / 4)
		extra := min(f.window, max(limit, f.window)-f.window, uint64(max(s.freeCredit(), 0)))
		f.window += extra
	case took > 2*time.Second+8*s.rtt:
		f.window = max(f.window/2, uint64(s.link.cfg.FloorBytes))
	}
	f.roundAt, f.roundFrom = now, f.consumed
}
