package transport

import (
	"context"
	"errors"
	"fmt"
	"io"
	"slices"
	"sync"
	"sync/atomic"
	"time"
)

// controlBatch is about how many bytes of records go out in one write, so that
// what is urgent never waits behind much.
const controlBatch = 16 << 10

// laneState is what the session knows of one of its lanes. Fields without a
// note are guarded by the session's lock.
type laneState struct {
	id      uint64 // constant
	lane    Lane   // constant
	began   time.Time
	records *recordReader  // of the reading goroutine
	wake    chan struct{}  // to the control writer
	work    sync.WaitGroup // goroutines that write or read frames here
	ctx     context.Context
	cancel  context.CancelFunc

	lastRecv atomic.Int64 // since the link began; any byte of control or frames

	attached  bool
	resumed   bool // frames may go out: the peer has said what it holds
	stalled   bool
	broken    bool   // a write failed; the lane is about to end
	pings     uint64 // sent
	ponged    uint64 // highest answered
	pingDue   bool
	pingAt    time.Time
	pongs     []uint64
	goAwayDue bool
	infoDue   bool
	infoRate  uint64
	infoFree  uint64
	queued    int    // bytes of frames in writes outstanding
	counted   uint64 // bytes sent that the ceiling knows of
	writes    int
	stats     LaneStats
	movedAt   time.Time // when the lane's received bytes last grew
}

// poke wakes the control writer.
func (ls *laneState) poke() {
	select {
	case ls.wake <- struct{}{}:
	default:
	}
}

func (s *Session) pokeControl() {
	if s.ctl != nil {
		s.ctl.poke()
	}
}

// countingReader notes that the lane is alive with every byte.
type countingReader struct {
	r    io.Reader
	link *Link
	lane *laneState
}

func (c *countingReader) Read(p []byte) (int, error) {
	n, err := c.r.Read(p)
	if n > 0 {
		c.lane.heard(c.link)
	}
	return n, err
}

func (ls *laneState) heard(l *Link) { ls.lastRecv.Store(int64(time.Since(l.began))) }

func (ls *laneState) silence(l *Link, now time.Time) time.Duration {
	return now.Sub(l.began) - time.Duration(ls.lastRecv.Load())
}

// runLane carries the session over ls until the lane ends. The calling
// goroutine reads control records; one writes them, one accepts frames.
func (s *Session) runLane(ls *laneState) error {
	<-s.ready
	ls.ctx, ls.cancel = context.WithCancel(context.Background())
	defer ls.cancel()
	if !s.attach(ls) {
		return &LaneError{Code: LaneSuperseded, Reason: "the session has ended"}
	}
	var wg sync.WaitGroup
	wg.Go(func() { s.writeControl(ls) })
	wg.Go(func() { s.acceptFrames(ls) })
	err := s.readControl(ls)
	err = s.orderly(err)
	// The lane ends here whatever the reason: the other goroutines follow.
	var le *LaneError
	switch {
	case errors.As(err, &le):
		ls.lane.Close(le.Code, le.Reason)
	case errors.Is(err, ErrMalformed):
		ls.lane.Close(LaneProtocol, err.Error())
	default:
		ls.lane.Close(LaneNone, "")
	}
	s.detach(ls, err)
	ls.cancel()
	wg.Wait()
	ls.work.Wait()
	return err
}

// orderly replaces the error of a lane that was closed because its session
// ended by the session's.
func (s *Session) orderly(err error) error {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.err != nil && !errors.Is(err, ErrMalformed) {
		return &LaneError{Code: s.laneCode(s.err), Reason: s.err.Error()}
	}
	return err
}

// attach makes ls one of the session's lanes; false when the session ended.
func (s *Session) attach(ls *laneState) bool {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.err != nil {
		return false
	}
	ls.attached, ls.movedAt = true, time.Now()
	ls.goAwayDue = s.goAway != nil
	// After an outage both sides say first what they hold; the answer to our
	// first ping comes behind that. Until then nothing is repeated.
	ls.resumed = len(s.flows) == 0 || slices.ContainsFunc(s.lanes, func(o *laneState) bool { return o.resumed })
	ls.pingDue = true
	s.lanes = append(s.lanes, ls)
	if len(s.lanes) == 1 {
		s.held = time.Time{}
		s.resay()
	}
	s.chooseControl()
	ls.poke()
	s.wakeSenders()
	s.link.log.Info("lane up", "peer", s.peer.Site, "lane", ls.id, "lanes", len(s.lanes))
	return true
}

// detach takes ls out of the session; its frames and messages go elsewhere.
func (s *Session) detach(ls *laneState, err error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	ls.attached = false
	s.lanes = slices.DeleteFunc(s.lanes, func(x *laneState) bool { return x == ls })
	if s.err != nil {
		return
	}
	s.link.log.Info("lane down", "peer", s.peer.Site, "lane", ls.id, "lanes", len(s.lanes), "err", err)
	if len(s.lanes) == 0 {
		s.held = time.Now()
	}
	s.setAside(ls)
}

// setAside takes everything that is on ls and not acknowledged, to be repeated
// on other lanes: for a lane that ended, or stands still while others move.
func (s *Session) setAside(ls *laneState) {
	for _, m := range s.out {
		if m.lane == ls {
			m.lane = nil
		}
	}
	for _, f := range s.flows {
		f.requeue(ls)
	}
	if s.ctl == ls {
		s.resay()
	}
	s.chooseControl()
	s.wakeSenders()
}

// resay marks the state of every flow to be said again.
func (s *Session) resay() {
	for _, f := range s.flows {
		s.markAck(f.ack, true)
	}
	for _, a := range s.tombs {
		s.markAck(a, true)
	}
	s.msgAckSaid = 0
}

// usable says whether frames may be given to the lane.
func (ls *laneState) usable() bool { return ls.attached && ls.resumed && !ls.stalled && !ls.broken }

// chooseControl picks the lane for acknowledgements and messages: the one with
// the shortest round trip among those that move.
func (s *Session) chooseControl() {
	var best *laneState
	for _, ls := range s.lanes {
		if best == nil || best.stalled && !ls.stalled ||
			best.stalled == ls.stalled && ls.stats.RTT > 0 && (best.stats.RTT == 0 || ls.stats.RTT < best.stats.RTT*3/4) {
			best = ls
		}
	}
	if s.ctl != nil && best != nil && s.ctl.attached && s.ctl.stalled == best.stalled {
		best = s.ctl // no reason to move
	}
	s.ctl = best
	s.pokeControl()
}

// checkLanes applies the rules of A7 and returns the lanes to close.
func (s *Session) checkLanes(now time.Time, stats map[*laneState]LaneStats) (dead []*laneState) {
	l := s.link
	keep := 1 - min(float64(now.Sub(s.lastTick))/float64(recentTime), 1)
	s.lastTick = now
	s.recentSent, s.recentLost = s.recentSent*keep, s.recentLost*keep
	for _, ls := range s.lanes {
		st, ok := stats[ls]
		if !ok {
			continue
		}
		if st.BytesRecv != ls.stats.BytesRecv || st.BytesRecv == 0 && ls.silence(l, now) < stallSilence {
			ls.movedAt = now
		}
		s.noteLoss(&ls.stats, &st)
		ls.stats = st
	}
	for _, ls := range s.lanes {
		silence := ls.silence(l, now)
		switch {
		case silence >= deadSilence:
			dead = append(dead, ls)
			continue
		case silence >= pingSilence && now.Sub(ls.pingAt) >= pingSilence,
			len(s.tombs) > 0 && ls == s.ctl && ls.pings == ls.ponged && now.Sub(ls.pingAt) >= tombPingEvery:
			ls.pingDue = true
			ls.poke()
		}
		still := now.Sub(ls.movedAt)
		if still >= stallSilence && !ls.stalled && s.othersMove(ls, now) && ls.writes+s.unackedOn(ls) > 0 {
			l.log.Info("lane stands still, its frames go elsewhere", "peer", s.peer.Site, "lane", ls.id)
			ls.stalled = true
			s.setAside(ls)
		} else if ls.stalled && still < stallSilence/2 {
			ls.stalled = false
			s.chooseControl()
			s.wakeSenders()
		}
	}
	return dead
}

func (s *Session) othersMove(ls *laneState, now time.Time) bool {
	return slices.ContainsFunc(s.lanes, func(o *laneState) bool {
		return o != ls && !o.stalled && now.Sub(o.movedAt) < stallSilence/2
	})
}

// unackedOn counts the frames sent on ls and not acknowledged; only asked for
// a lane that stands still.
func (s *Session) unackedOn(ls *laneState) (n int) {
	for _, f := range s.flows {
		for _, fr := range f.out {
			if fr.lane == ls {
				n++
			}
		}
	}
	return n
}

// writeControl writes the records that are due on ls until the lane ends.
func (s *Session) writeControl(ls *laneState) {
	var buf []byte
	for {
		select {
		case <-ls.ctx.Done():
			return
		case <-ls.wake:
		}
		for {
			s.mu.Lock()
			buf = s.appendControl(buf[:0], ls)
			s.mu.Unlock()
			if len(buf) == 0 {
				break
			}
			if _, err := ls.lane.Control().Write(buf); err != nil {
				return // the reader finds out why
			}
		}
	}
}

// appendControl appends the records due on ls, about controlBatch of them.
func (s *Session) appendControl(dst []byte, ls *laneState) []byte {
	if s.err != nil || !ls.attached {
		return dst
	}
	if ls == s.ctl {
		dst = s.appendAcks(dst, ls)
		if next := s.messageAck(); next > s.msgAckSaid {
			s.msgAckSaid = next
			dst = appendUv(dst, recMsgAck, next)
		}
		dst = s.appendMessages(dst, ls, controlBatch)
	}
	if ls.goAwayDue {
		ls.goAwayDue = false
		dst = append(dst, s.goAway...)
	}
	if ls.infoDue {
		ls.infoDue = false
		dst = appendInfo(dst, infoReceiveRate, ls.infoRate)
		dst = appendInfo(dst, infoCreditFree, ls.infoFree)
	}
	// Last, so that the answer to a ping comes behind everything above and
	// proves that the peer has read it.
	if ls == s.ctl && s.urgent {
		return dst // not all of the acknowledgements fitted
	}
	for _, token := range ls.pongs {
		dst = appendToken(dst, recPong, token)
	}
	ls.pongs = ls.pongs[:0]
	if ls.pingDue {
		ls.pingDue = false
		ls.pings++
		ls.pingAt = time.Now()
		dst = appendToken(dst, recPing, ls.pings)
	}
	return dst
}

// readControl handles the peer's records until the lane ends.
func (s *Session) readControl(ls *laneState) error {
	for {
		typ, body, err := ls.records.next()
		if err != nil {
			if errors.Is(err, io.EOF) {
				return &LaneError{Code: LaneNone, Reason: "control stream ended", Remote: true}
			}
			return err
		}
		if err := s.handleRecord(ls, typ, body); err != nil {
			return fmt.Errorf("record 0x%02x: %w", typ, err)
		}
	}
}

// errSession marks input that breaks the session and not just a lane: it would
// be repeated on the next lane.
var errSession = errors.New("the session cannot go on")

func sessionFault(err error) error {
	if err != nil {
		err = fmt.Errorf("%w: %w", errSession, err)
	}
	return err
}

func (s *Session) handleRecord(ls *laneState, typ uint64, body []byte) error {
	switch typ {
	case recPing:
		token, err := parseToken(body)
		if err != nil {
			return err
		}
		s.mu.Lock()
		defer s.mu.Unlock()
		if len(ls.pongs) >= 1024 {
			return malformed("too many pings")
		}
		ls.pongs = append(ls.pongs, token)
		ls.poke()
	case recPong:
		token, err := parseToken(body)
		if err != nil {
			return err
		}
		return s.ponged(ls, token)
	case recAck:
		return sessionFault(s.receiveAcks(body))
	case recMsg:
		return sessionFault(s.receiveMessage(body))
	case recMsgAck:
		next, err := parseUv(body)
		if err != nil {
			return err
		}
		return sessionFault(s.messagesAcked(next))
	case recGoAway:
		_, reason, err := parseGoAway(body)
		if err != nil {
			return err
		}
		s.mu.Lock()
		defer s.mu.Unlock()
		if !s.peerGoAway {
			s.link.log.Info("peer takes no new flows", "peer", s.peer.Site, "reason", reason)
		}
		s.peerGoAway = true
	case recInfo:
		key, value, err := parseInfo(body)
		if err != nil {
			return err
		}
		s.mu.Lock()
		defer s.mu.Unlock()
		if key < uint64(len(s.peerInfo)) {
			s.peerInfo[key] = value
		}
	case recHello:
		return malformed("second hello")
	default:
		if typ&1 == 1 {
			return malformed("unknown record")
		}
	}
	return nil
}

// ponged handles the answer to ping token: the peer has read everything this
// lane's control stream carried before it.
func (s *Session) ponged(ls *laneState, token uint64) error {
	s.mu.Lock()
	defer s.mu.Unlock()
	if token > ls.pings {
		return malformed("answer to a ping never sent")
	}
	ls.ponged = max(ls.ponged, token)
	for id, a := range s.tombs {
		if a.lane == ls && a.token <= token && !a.dirty {
			delete(s.tombs, id)
		}
	}
	if !ls.resumed {
		for _, o := range s.lanes {
			o.resumed = true
		}
		s.wakeSenders()
	}
	return nil
}
