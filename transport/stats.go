package transport

import "time"

// LinkState is the state of a link in one word.
type LinkState string

// The states of a link. Up here means that a lane carries the session; whether
// the link does its work is the accel layer's to find out with an echo.
const (
	StateDown LinkState = "down" // no session
	StateHeld LinkState = "held" // a session without a lane
	StateUp   LinkState = "up"
)

// LinkStats are the counters of a link since it began, over all sessions and
// lanes.
type LinkStats struct {
	State     LinkState
	LastError string // why the last lane ended or could not be had; empty when there was no reason
	Peer      Hello  // of the running session
	HeldFor   time.Duration
	Draining  bool // the peer takes no new flows

	RTT, MinRTT time.Duration // smallest of the lanes
	LossRatio   float64       // packets lost / packets sent, over about the last 10 s
	ClockSkew   time.Duration // the peer's wall clock minus ours, good to about a round trip; 0 without a session
	WANSent     uint64        // UDP payload bytes, all overhead counted
	WANReceived uint64
	Lanes       []LaneStats
	LanesEnded  uint64
	Refused     uint64 // hellos refused, by either side
	Sessions    uint64 // sessions that ended

	Flows         int // live
	FlowsOpened   uint64
	FlowsEnded    uint64
	FlowsAborted  uint64
	FramesSent    uint64
	FramesRecv    uint64
	ResentFrames  uint64
	ResentBytes   uint64 // of frames given to a lane again
	LostBytes     uint64 // of packets that a lane had to send again
	Duplicates    uint64 // frames that had arrived before
	FrameErrors   uint64 // frames that broke the rules
	PayloadSent   uint64 // payload bytes of frames, each counted once
	PayloadRecv   uint64
	RawSent       uint64 // raw bytes those frames stand for
	RawRecv       uint64
	QueuedBytes   int64 // of frames kept: queued or not acknowledged
	QueuedMsgs    int
	CreditGranted int64 // raw bytes granted and not taken
	CreditBudget  int64
	PeerRecvRate  uint64       // bytes per second the peer says it receives
	Classes       []ClassStats // of the running session; nil while nothing is shared
	FrameBytes    int          // wire bytes a frame should not exceed at present
}

// Stats returns the link's counters.
func (l *Link) Stats() LinkStats {
	l.mu.Lock()
	s, t := l.session, l.totals
	st := LinkStats{
		State: StateDown, LastError: l.lastErr,
		LanesEnded: t.lanes, Refused: t.refused, Sessions: t.sessions,
		WANSent: t.sent, WANReceived: t.received, LostBytes: t.lost,
		CreditBudget: l.cfg.CreditBudgetBytes,
	}
	l.mu.Unlock()
	if s != nil {
		lanes := s.laneStats()
		s.mu.Lock()
		t.session.add(s.totals)
		st.State, st.Peer, st.Draining = StateHeld, s.peer, s.peerGoAway
		if len(s.lanes) > 0 {
			st.State = StateUp
		} else {
			st.HeldFor = time.Since(s.held)
		}
		st.Flows = len(s.flows)
		st.QueuedBytes, st.QueuedMsgs = s.kept, len(s.out)
		st.CreditGranted, st.PeerRecvRate, st.FrameBytes = s.granted, s.peerInfo[infoReceiveRate], s.frameBytes
		st.Classes = s.sched.stats()
		st.ClockSkew = time.Duration(s.skew.Load()) + s.rtt/2 // the hello was under way for about that long
		if s.recentSent >= 1 {
			st.LossRatio = min(s.recentLost/s.recentSent, 1)
		}
		now := time.Now()
		for _, ls := range s.lanes {
			x, ok := lanes[ls]
			if !ok {
				continue
			}
			x.Lane, x.Silence, x.Stalled, x.FramesQueued = ls.id, ls.silence(l, now), ls.stalled, ls.writes
			st.Lanes = append(st.Lanes, x)
		}
		s.mu.Unlock()
	}
	st.addLanes()
	st.addTotals(&t.session)
	return st
}

// Credit returns the raw bytes the peer may send or sent and readers have not
// taken, and their bound: CreditGranted and CreditBudget of Stats, at less cost.
func (l *Link) Credit() (granted, budget int64) {
	l.mu.Lock()
	s := l.session
	l.mu.Unlock()
	if s != nil {
		s.mu.Lock()
		granted = s.granted
		s.mu.Unlock()
	}
	return granted, l.cfg.CreditBudgetBytes
}

func (st *LinkStats) addLanes() {
	for i := range st.Lanes {
		x := &st.Lanes[i]
		st.WANSent += x.BytesSent
		st.WANReceived += x.BytesRecv
		st.LostBytes += x.BytesLost
		if x.RTT > 0 && (st.RTT == 0 || x.RTT < st.RTT) {
			st.RTT = x.RTT
		}
		if x.MinRTT > 0 && (st.MinRTT == 0 || x.MinRTT < st.MinRTT) {
			st.MinRTT = x.MinRTT
		}
	}
}

func (st *LinkStats) addTotals(t *sessionTotals) {
	st.FlowsOpened, st.FlowsEnded, st.FlowsAborted = t.flowsOpened, t.flowsEnded, t.flowsAborted
	st.FramesSent, st.FramesRecv = t.framesSent, t.framesRecv
	st.ResentFrames, st.ResentBytes = t.resentFrames, t.resent
	st.Duplicates, st.FrameErrors = t.duplicates, t.frameErrors
	st.PayloadSent, st.PayloadRecv = t.payloadSent, t.payloadRecv
	st.RawSent, st.RawRecv = t.rawSent, t.rawRecv
}
