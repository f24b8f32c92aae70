package transport

import (
	"bytes"
	"context"
	"errors"
	"slices"
	"sync"
	"sync/atomic"
	"time"
)

// Bounds of a session that are not the wire's.
const (
	maxQueuedMsgBytes = 64 << 20 // messages not yet acknowledged; beyond: ErrBacklog
	msgWindowCount    = 1024     // messages sent and not acknowledged; the receiver keeps 4096
	msgWindowBytes    = 4 << 20  // the same in bytes; the receiver keeps 16 MiB
	maxOrphans        = 4096     // flows whose first frame has not arrived
	maxOrphanBytes    = 64 << 20 // their payload in all
)

// Session is the state two instances share: flows and messages. It goes on
// over lanes; when it has ended it never comes back.
type Session struct {
	link  *Link
	peer  Hello
	local [16]byte
	even  bool          // flow numbers drawn here are even: our instance is the smaller one
	ready chan struct{} // closed when OnSession has returned
	done  chan struct{}

	skew atomic.Int64 // the peer's clock minus ours when its last hello arrived, ns

	mu    sync.Mutex // guards everything below, the flows and the lane states included
	err   error      // why it ended; nil while it lives
	lanes []*laneState
	ctl   *laneState // the lane that says acknowledgements and messages
	held  time.Time  // since when there is no lane; zero while there is one

	crowd crowd

	flows     map[uint64]*Flow
	nextFlow  uint64
	opened    int // live flows the peer opened
	own       int // live flows opened here
	seen      seenSet
	acceptQ   []*Flow
	wakeApp   sync.Cond // Accept and Messages
	orphans   int
	orphanMem int

	acks     []*ackState // those with something to say
	urgent   bool
	ackTimer *time.Timer
	ackArmed bool
	tombs    map[uint64]*ackState // flows that ended, until the peer is known to know

	out          []*message // not yet acknowledged, in order
	outBytes     int
	outSeq       uint64 // of the next message to be queued
	outAcked     uint64
	in           map[uint64][]byte // early ones
	inBytes      int
	inNext       uint64
	inQ          []inMessage
	msgAckSaid   uint64
	goAway       []byte // record to repeat on new lanes
	peerGoAway   bool
	peerInfo     [3]uint64
	sched        *scheduler // nil: flows share evenly and nothing bounds them
	charged      int64      // bytes the ceiling was told of
	sentUDP      int64      // bytes the lanes have sent, as far as the ceiling was told
	kept         int64      // bytes of frames kept
	frameBytes   int        // wire bytes a frame should not exceed
	bulkLanes    int        // lanes that bulk is spread over; 0: all
	rtt          time.Duration
	granted      int64 // credit granted and not consumed, all flows
	lastInfo     time.Time
	lastTick     time.Time
	idle         bool   // nothing was under way at the last tick: the next one comes late
	recvPayload  uint64 // for the receive rate
	recvReported uint64
	totals       sessionTotals
	recentSent   float64 // packets of about the last recentTime
	recentLost   float64
}

type sessionTotals struct {
	framesSent, framesRecv   uint64
	resentFrames, resent     uint64
	duplicates, frameErrors  uint64
	flowsOpened, flowsEnded  uint64
	flowsAborted             uint64
	payloadSent, payloadRecv uint64
	rawSent, rawRecv         uint64
}

func (t *sessionTotals) add(o sessionTotals) {
	t.framesSent += o.framesSent
	t.framesRecv += o.framesRecv
	t.resentFrames += o.resentFrames
	t.resent += o.resent
	t.duplicates += o.duplicates
	t.frameErrors += o.frameErrors
	t.flowsOpened += o.flowsOpened
	t.flowsEnded += o.flowsEnded
	t.flowsAborted += o.flowsAborted
	t.payloadSent += o.payloadSent
	t.payloadRecv += o.payloadRecv
	t.rawSent += o.rawSent
	t.rawRecv += o.rawRecv
}

type message struct {
	seq  uint64
	body []byte     // kind first
	lane *laneState // where it was sent; nil: not yet
}

type inMessage struct {
	seq  uint64
	kind byte
	body []byte
}

func newSession(l *Link, peer Hello, local [16]byte) *Session {
	s := &Session{
		link: l, peer: peer, local: local,
		ready: make(chan struct{}), done: make(chan struct{}),
		flows: make(map[uint64]*Flow), tombs: make(map[uint64]*ackState),
		held: time.Now(), frameBytes: 64 << 10, rtt: 50 * time.Millisecond,
		nextFlow: 1,
	}
	s.even = bytes.Compare(local[:], peer.Instance[:]) < 0
	if s.even {
		s.nextFlow = 2
	}
	s.wakeApp.L = &s.mu
	if len(l.shares) > 0 || l.cfg.Ceiling != nil {
		s.sched = newScheduler(l.shares)
	}
	return s
}

// Peer is what the other side said of itself when the session began.
func (s *Session) Peer() Hello { return s.peer }

// Local is the instance this side has in the session. Together with
// Peer().Instance it names the session.
func (s *Session) Local() [16]byte { return s.local }

// Done is closed when the session has ended.
func (s *Session) Done() <-chan struct{} { return s.done }

// Err says why the session ended; nil while it lives.
func (s *Session) Err() error {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.err
}

// Up says whether the session lives and has a lane at present.
func (s *Session) Up() bool {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.err == nil && s.ctl != nil
}

// RTT is the smallest smoothed round trip of the session's lanes; a guess until
// one is known.
func (s *Session) RTT() time.Duration {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.rtt
}

// PeerDraining says whether the peer asked for no new flows.
func (s *Session) PeerDraining() bool {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.peerGoAway
}

// end ends the session: flows are aborted with code, lanes closed. Idempotent.
func (s *Session) end(err error, code AbortCode) {
	s.mu.Lock()
	if s.err != nil {
		s.mu.Unlock()
		return
	}
	s.err = err
	for _, f := range s.flows {
		f.finish(&AbortError{Code: code})
	}
	if s.ackTimer != nil {
		s.ackTimer.Stop()
	}
	s.acks, s.tombs, s.out, s.in, s.inQ, s.acceptQ = nil, nil, nil, nil, nil, nil
	lanes := slices.Clone(s.lanes)
	close(s.done)
	s.wakeApp.Broadcast()
	s.mu.Unlock()
	for _, ls := range lanes {
		ls.lane.Close(s.laneCode(err), err.Error())
	}
}

func (s *Session) laneCode(err error) LaneCode {
	switch {
	case errors.Is(err, ErrLinkStopped):
		return LaneNone
	case errors.Is(err, ErrMalformed):
		return LaneProtocol
	default:
		return LaneSuperseded
	}
}

func (s *Session) takeTotals() sessionTotals {
	s.mu.Lock()
	defer s.mu.Unlock()
	t := s.totals
	s.totals = sessionTotals{}
	return t
}

// Open begins a flow: its first frame, with body of at most 4096 bytes, goes
// out at once. It fails with ErrNoLane while the session is held, ErrDraining,
// ErrFlowLimit or ErrSessionEnded; then the flow should pass raw.
func (s *Session) Open(body []byte) (*Flow, error) {
	if len(body) > maxOpenBody {
		return nil, malformed("open body above its bound")
	}
	s.mu.Lock()
	switch {
	case s.err != nil:
		s.mu.Unlock()
		return nil, ErrSessionEnded
	case s.ctl == nil:
		s.mu.Unlock()
		return nil, ErrNoLane
	case s.peerGoAway:
		s.mu.Unlock()
		return nil, ErrDraining
	case uint64(s.own) >= s.peer.Floors:
		s.mu.Unlock()
		return nil, ErrFlowLimit
	}
	f := s.newFlow(s.nextFlow)
	f.initiator = true
	f.openBody = slices.Clone(body)
	s.nextFlow += 2
	s.own++
	s.totals.flowsOpened++
	s.bonus(f)
	f.sendLocked(&frameHeader{open: true, flow: f.id, openBody: body}, nil)
	s.mu.Unlock()
	return f, nil
}

// Accept returns the next flow the peer opened. It blocks until there is one,
// ctx ends or the session does.
func (s *Session) Accept(ctx context.Context) (*Flow, error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	err := s.waitApp(ctx, func() bool { return len(s.acceptQ) > 0 })
	if err != nil {
		return nil, err
	}
	f := s.acceptQ[0]
	s.acceptQ[0] = nil
	s.acceptQ = s.acceptQ[1:]
	return f, nil
}

// waitApp waits with s.mu held until ready, the end of ctx or of the session.
func (s *Session) waitApp(ctx context.Context, ready func() bool) error {
	if s.err == nil && !ready() && ctx.Err() == nil {
		stop := context.AfterFunc(ctx, func() {
			s.mu.Lock()
			defer s.mu.Unlock()
			s.wakeApp.Broadcast()
		})
		defer stop()
		for s.err == nil && !ready() && ctx.Err() == nil {
			s.wakeApp.Wait()
		}
	}
	switch {
	case s.err != nil:
		return ErrSessionEnded
	case ready():
		return nil
	default:
		return ctx.Err()
	}
}

// GoAway tells the peer to open no new flows; running ones go on. Code 0:
// draining, 1: shutting down.
func (s *Session) GoAway(code uint8, reason string) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.goAway = appendGoAway(nil, code, reason)
	for _, ls := range s.lanes {
		ls.goAwayDue = true
		ls.poke()
	}
}

// tick does what is due; the error says why the session must end, nil mostly.
// Called every tickPeriod, and every idlePeriod while it says that it is idle.
func (s *Session) tick(now time.Time) (idle bool, err error) {
	stats := s.laneStats()
	s.mu.Lock()
	if s.err != nil {
		s.mu.Unlock()
		return false, nil
	}
	if s.outBytes > 2*maxQueuedMsgBytes {
		s.mu.Unlock()
		return false, ErrBacklog
	}
	if len(s.lanes) == 0 {
		expired := !s.held.IsZero() && now.Sub(s.held) >= s.link.cfg.Hold
		s.mu.Unlock()
		if expired {
			return false, ErrHoldExpired
		}
		return false, nil
	}
	dead := s.checkLanes(now, stats)
	s.measure()
	s.trueUp()
	senders, sharer := s.senders()
	s.dropOrphans(now)
	s.nextOfCrowd()
	s.info(now)
	s.idle = s.nothingUnderWay()
	idle = s.idle
	s.mu.Unlock()
	if sharer != nil {
		sharer.SetSenders(senders)
	}
	for _, ls := range dead {
		s.link.log.Warn("lane stalled", "peer", s.peer.Site, "lane", ls.id, "remote", ls.stats.Remote)
		ls.lane.Close(LaneStalled, "no byte for 3 s")
	}
	return idle, nil
}

// nothingUnderWay says whether no frame, message or ping waits for an answer:
// then nothing can be late, and no rate has to be known soon.
func (s *Session) nothingUnderWay() bool {
	if s.kept > 0 || len(s.out) > 0 || len(s.tombs) > 0 || s.orphans > 0 {
		return false
	}
	for _, ls := range s.lanes {
		if ls.stalled || ls.pingDue || ls.pings != ls.ponged {
			return false
		}
	}
	return true
}

// stirred ends idleness: something goes out. What the lanes did before says
// nothing about whether they stand still now.
func (s *Session) stirred() {
	if !s.idle {
		return
	}
	s.idle = false
	now := time.Now()
	for _, ls := range s.lanes {
		ls.movedAt = now
	}
	select {
	case s.link.stir <- struct{}{}:
	default:
	}
}

// laneStats asks every lane without holding the lock: a lane may take its own.
func (s *Session) laneStats() map[*laneState]LaneStats {
	s.mu.Lock()
	lanes := slices.Clone(s.lanes)
	s.mu.Unlock()
	m := make(map[*laneState]LaneStats, len(lanes))
	for _, ls := range lanes {
		m[ls] = ls.lane.Stats()
	}
	return m
}

// recentTime is the time over which the loss is averaged.
const recentTime = 10 * time.Second

// noteLoss counts what a lane has sent and lost since the last tick.
func (s *Session) noteLoss(was, is *LaneStats) {
	s.recentSent += float64(is.PacketsSent - was.PacketsSent)
	s.recentLost += float64(is.PacketsLost - min(was.PacketsLost, is.PacketsLost))
}

// noteClock compares the peer's clock, as a hello said it, with ours.
func (s *Session) noteClock(theirs time.Time) {
	if !theirs.IsZero() {
		s.skew.Store(int64(time.Until(theirs)))
	}
}

// measure works out round trip and frame size from the lanes. A frame should
// take the link no longer than frameTime, so that what comes behind it in the
// same flow, or waits for a whole frame, does not wait long.
func (s *Session) measure() {
	const frameTime = 25 * time.Millisecond
	var rtt time.Duration
	var rate, link uint64
	for _, ls := range s.lanes {
		st := &ls.stats
		link = max(link, st.LinkBytes)
		if st.RTT > 0 && (rtt == 0 || st.RTT < rtt) {
			rtt = st.RTT
		}
		rate = max(rate, st.RateBytes)
	}
	if rtt > 0 {
		s.rtt = rtt
	}
	s.bulkLanes = len(s.lanes)
	if link > 0 {
		s.bulkLanes = spread(link)
		rate = link / uint64(min(s.bulkLanes, len(s.lanes)))
	}
	if c := s.link.cfg.Ceiling; c != nil && rate > 0 {
		rate = min(rate, c.bytesPerSec())
	}
	if rate > 0 {
		s.frameBytes = int(min(max(rate*uint64(frameTime)/uint64(time.Second), 8<<10), maxRawLength))
	}
}

// senders is how many flows move bulk, at least 1 and at most the number of
// lanes, and a lane to tell it to; nil when there is none that wants to know.
func (s *Session) senders() (n int, sharer Sharer) {
	for _, ls := range s.lanes {
		if x, ok := ls.lane.(Sharer); ok && ls.usable() {
			sharer = x
		}
	}
	if sharer == nil {
		return 0, nil
	}
	if s.kept < interactiveBytes { // no flow can have as much on its way: spares a look at thousands of idle ones
		return 1, sharer
	}
	for _, f := range s.flows {
		if f.inFlight >= interactiveBytes {
			if n++; n == len(s.lanes) {
				break
			}
		}
	}
	return max(n, 1), sharer
}

// spread is how many lanes bulk is spread over: one as long as that is enough,
// so that small frames find lanes without a queue, and on slow links lanes do
// not wait for the acknowledgements of the others.
func spread(rate uint64) int {
	const laneRate = 12_500_000 // bytes per second: 100 Mbit/s
	return 1 + int(rate/laneRate)
}

func (s *Session) dropOrphans(now time.Time) {
	if s.orphans == 0 {
		return
	}
	for _, f := range s.flows {
		if f.orphan && now.Sub(f.began) >= s.link.cfg.Hold {
			f.finish(&AbortError{Code: AbortFrame})
		}
	}
}

// worthInfo is how many bytes have to arrive in a second for their rate to be
// worth a packet: more than proofs of work on an idle link.
const worthInfo = 1 << 10

// info tells the peer once a second what it cannot measure itself, while
// frames arrive.
func (s *Session) info(now time.Time) {
	if s.ctl == nil || now.Sub(s.lastInfo) < time.Second {
		return
	}
	got := s.recvPayload - s.recvReported
	elapsed := now.Sub(s.lastInfo)
	s.recvReported, s.lastInfo = s.recvPayload, now
	if got < worthInfo || elapsed > 10*time.Second {
		return
	}
	s.ctl.infoRate = uint64(float64(got) / elapsed.Seconds())
	s.ctl.infoFree = uint64(max(s.link.cfg.CreditBudgetBytes-s.granted, 0))
	s.ctl.infoDue = true
	s.ctl.poke()
}
