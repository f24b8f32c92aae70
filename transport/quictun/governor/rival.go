package governor

import (
	"math"
	"time"
)

// Constants of competition.
const (
	rivalHints  = 2 // lowered windows in a row that left a queue: somebody else's
	rivalRounds = 8 // rounds in a row with a queue that stands: the same
	rivalTime   = time.Second
	rivalBeta   = 0.75 // CUBIC has 0.7 and 0.4 (RFC 9438): here is a little more, for what
	rivalCubic  = 0.5  // looking for rivals costs; packets per second cubed
	rivalGrowth = 1.15
	blindGain   = 2.0
	blindTime   = 15 * time.Second
	blindCuts   = 3                // cuts in a row that emptied nothing: the rival does not heed losses
	aloneTest   = 6 * time.Second  // how often it is tried whether the rival has gone
	aloneTests  = 3                // in a row that find nobody
	rttMemory   = 10 * time.Second // of the longest round trip
	queueCruise = 0.2              // of the round trip: a queue that stands while cruising
	queueLow    = 0.06             // and while the window is lowered
)

// rival is what the model knows of somebody else who keeps the queue filled.
// Against one that fills it until packets are lost, a window of one product
// and a little more starves; so while there is one, the window follows CUBIC:
// it grows, and falls by three tenths when the full queue drops packets. A
// rival that does not heed losses (as BBR) is known by a queue that stays full
// after such a fall; it is met with two products and no heed either.
type rival struct {
	hints   int
	stood   int           // rounds in a row
	stoodAt time.Duration // when they began
	lowRTT  time.Duration // smallest since the window was lowered
	judge   bool          // lowRTT is to be looked at when this round ends
	tests   int
	testAt  time.Duration
	test    bool // the window is lowered to see whether the rival is there
	longest time.Duration
	longAt  time.Duration

	window   float64
	wmax     float64
	epoch    time.Duration
	k        float64
	climbing bool // no full queue was met yet

	cutRound int64
	cutRTT   time.Duration
	afterCut time.Duration
	useless  int
	blind    time.Duration // until when losses are not heeded
}

// standing says whether rtt shows a queue of which more than share of the round
// trip is not this connection's.
func (m *Model) standing(rtt time.Duration, share float64) bool {
	lumps := 20 * share * float64(m.packet) / max(m.bw.get(), 1) * float64(time.Second)
	return float64(rtt) > (1+share)*float64(m.base.get())+20*share*float64(time.Millisecond)+lumps
}

// heard keeps the extremes of the round trip.
func (m *Model) heard(now, rtt time.Duration) {
	r := &m.rival
	if r.lowRTT == 0 || rtt < r.lowRTT {
		r.lowRTT = rtt
	}
	if rtt >= r.longest || now-r.longAt > rttMemory {
		r.longest, r.longAt = rtt, now
	}
}

// lowered looks at what came of a lowered window: the queue of this connection
// is gone then.
func (m *Model) lowered(now time.Duration) {
	r := &m.rival
	r.judge = false
	if !m.standing(r.lowRTT, queueLow) {
		r.hints = 0
		return
	}
	if r.hints++; r.hints >= rivalHints {
		r.hints = 0
		m.compete(now)
	}
}

// stands counts rounds whose shortest round trip shows a queue: while cruising
// alone there is none.
func (m *Model) stands(now time.Duration) {
	r := &m.rival
	if m.phase != cruise && m.phase != probeDown || !m.standing(m.roundRTT, queueCruise) {
		if m.phase != probeUp {
			r.stood, r.stoodAt = 0, now
		}
		return
	}
	if r.stood++; r.stood >= rivalRounds && now-r.stoodAt >= rivalTime {
		r.stood = 0
		m.compete(now)
	}
}

// compete begins to compete.
func (m *Model) compete(now time.Duration) {
	m.rival.window = float64(max(m.inFlight, m.bdp(1)))
	m.rival.wmax = m.rival.window
	m.rival.climbing, m.rival.epoch = true, 0
	m.rival.tests, m.rival.testAt = 0, now+aloneTest
	m.rival.useless, m.rival.cutRound = 0, 0
	m.enter(competing, now)
}

// competeRound takes stock of a round of competition.
func (m *Model) competeRound(now time.Duration) {
	r := &m.rival
	if r.test {
		m.testRound(now)
		return
	}
	lost, sent := m.lost-m.roundLost, m.sent-m.roundSent
	full := m.roundRTT >= m.base.get()+(r.longest-m.base.get())/2
	heed := now >= r.blind
	if r.cutRound > 0 {
		if r.afterCut == 0 || m.roundRTT > 0 && m.roundRTT < r.afterCut {
			r.afterCut = m.roundRTT
		}
		if m.round-r.cutRound >= 3 {
			m.judgeCut(now)
		}
	}
	if heed && full && r.cutRound == 0 && lost > 2*m.packet && float64(lost) > 2*m.lowLoss.get()*float64(sent) {
		r.cutRound, r.cutRTT, r.afterCut = m.round, m.roundRTT, 0
		r.wmax = r.window
		r.window = max(r.window*rivalBeta, float64(minWindow*m.packet))
		r.epoch, r.climbing = 0, false
		return
	}
	if heed && r.climbing {
		r.window *= rivalGrowth
	}
	if now >= r.testAt && full {
		r.test, r.lowRTT, r.cutRTT, r.cutRound = true, 0, m.roundRTT, 0
		m.phaseRound = m.round
	}
}

// judgeCut tells a rival that fell too from one that did not.
func (m *Model) judgeCut(now time.Duration) {
	r := &m.rival
	r.cutRound = 0
	if r.cutRTT == 0 || float64(r.afterCut) < 0.85*float64(r.cutRTT) {
		r.useless = 0
		return
	}
	if r.useless++; r.useless >= blindCuts {
		r.useless = 0
		r.blind = now + blindTime
	}
}

// testRound ends a test after two rounds: the first empties, the second sees.
func (m *Model) testRound(now time.Duration) {
	r := &m.rival
	if m.round-m.phaseRound < 2 {
		return
	}
	r.test = false
	r.testAt = now + aloneTest
	if m.standing(r.lowRTT, queueCruise) && float64(r.lowRTT) > 0.55*float64(r.cutRTT) {
		r.tests = 0
		return
	}
	if r.tests++; r.tests >= aloneTests {
		m.enter(drain, now)
		return
	}
	r.testAt = now + aloneTest/3
}

// competeWindow is the window while competing.
func (m *Model) competeWindow() int64 {
	r := &m.rival
	switch {
	case r.test:
		return int64(r.window / 2)
	case m.at < r.blind:
		w := int64(blindGain*m.bw.get()*m.base.get().Seconds()) + m.slack()
		r.window = float64(w)
		return w
	case !r.climbing:
		m.cubic()
	}
	return int64(r.window)
}

// cubic grows the window as RFC 9438 has it.
func (m *Model) cubic() {
	r := &m.rival
	p := float64(m.packet)
	if r.epoch == 0 {
		r.epoch = m.at
		r.k = math.Cbrt(max(r.wmax-r.window, 0) / p / rivalCubic)
	}
	t := (m.at - r.epoch).Seconds()
	rtt := max(m.roundRTT, m.base.get()).Seconds()
	target := p*rivalCubic*math.Pow(t+rtt-r.k, 3) + r.wmax
	reno := r.wmax*rivalBeta + 3*(1-rivalBeta)/(1+rivalBeta)*t/rtt*p
	if target = max(target, reno); target > r.window {
		r.window += min((target-r.window)/r.window, 0.5) * float64(m.lastAcked)
	}
}
