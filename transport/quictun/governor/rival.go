package governor

import (
	"math"
	"time"
)

// Constants of competition. Shares are of the round trip or of all that is in
// flight on the path.
const (
	rivalHints  = 2 // lowered windows in a row that left a queue: somebody else's
	rivalRounds = 8 // rounds in a row with a queue that stands: the same
	rivalTime   = time.Second
	queueCruise = 0.2              // a queue that stands while cruising
	queueLow    = 0.06             // and while the window is lowered
	rttMemory   = 10 * time.Second // of the longest round trip

	rivalBeta   = 0.75 // CUBIC has 0.7 and 0.4 (RFC 9438): here is a little more, for what
	rivalCubic  = 0.5  // looking for rivals costs; packets per second cubed
	rivalGrowth = 1.15 // per round, before a full queue was met
	smallPart   = 0.45 // less in flight is too little for one of two: the window
	catchUp     = 1.4  // grows so per round, for CUBIC takes minutes to come to equal parts
	largePart   = 0.58 // more is too much: the window
	giveWay     = 0.6  // falls so at a full queue, instead of by rivalBeta
	doubt       = 0.95 // so falls what the path is thought to carry when a small part overran the queue

	blindCuts  = 3 // cuts in a row that emptied nothing: the rival does not heed losses
	blindTime  = 15 * time.Second
	blindGain  = 2.5 // products
	blindQueue = 2.2 // round trips without queue: in a longer queue losses are no bound

	aloneTest   = 6 * time.Second // how often it is tried whether the rival has gone, at least,
	aloneRounds = 24              // and no more often than so many round trips
	aloneTests  = 3               // in a row that find nobody
	leastPart   = 0.06            // less of this sender is not to be seen in a test
)

// rival is what the model knows of somebody else who keeps the queue filled.
// Against one that fills it until packets are lost, a window of one product
// and a little more starves; so while there is one, the window follows CUBIC:
// it grows, and falls by three tenths when the full queue drops packets. A
// rival that does not heed losses (as BBR) is known by a queue that stays full
// after such a fall; it is met with some products and no heed either.
//
// CUBIC alone would take minutes to come to equal parts. So the model works out
// which part of what is in flight is its own: from the most it ever got through,
// and from what halving the window does to the round trip. While its part is
// small it grows faster, when it is large it falls further.
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
	m.rival.tests, m.rival.testAt = 0, now+m.testPeriod()/3
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
		beta := rivalBeta
		switch part := m.part(); {
		case part == 0:
		case part < smallPart:
			m.capacity.doubt()
		case part > largePart:
			beta = giveWay
			r.wmax *= giveWay / rivalBeta
		}
		r.window = max(r.window*beta, float64(minWindow*m.packet))
		r.epoch, r.climbing = 0, false
		return
	}
	switch part := m.part(); {
	case !heed:
	case part > 0 && part < smallPart && r.cutRound == 0:
		r.window *= min(catchUp, smallPart/part)
		r.wmax, r.epoch = max(r.wmax, r.window), 0
	case r.climbing && part < largePart:
		r.window *= rivalGrowth
	}
	if now >= r.testAt && full {
		r.test, r.lowRTT, r.cutRTT, r.cutRound = true, 0, m.roundRTT, 0
		m.phaseRound = m.round
	}
}

// part is how much of what is in flight is this sender's, of an equal one of
// two; 0 when it is not known: what the path carries is not, or it may carry
// more than it was seen to and the part looks large.
func (m *Model) part() float64 {
	carries := m.capacity.get()
	if carries == 0 || m.roundRTT == 0 {
		return 0
	}
	part := m.rival.window / (carries * m.roundRTT.Seconds()) * (1 + m.weight) / (2 * m.weight)
	if !m.capacity.tested && part > smallPart {
		return 0
	}
	return part
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
		r.useless = blindCuts - 1 // the next time it is known sooner
		r.blind = now + blindTime
	}
}

// testPeriod is the time between two tests.
func (m *Model) testPeriod() time.Duration { return max(aloneTest, aloneRounds*m.minRTT.get()) }

// testRound ends a test after two rounds: the first empties, the second sees.
func (m *Model) testRound(now time.Duration) {
	r := &m.rival
	if m.round-m.phaseRound < 2 {
		return
	}
	r.test = false
	r.testAt = now + m.testPeriod()
	m.gauge(m.lost - m.roundLost)
	if m.standing(r.lowRTT, queueCruise) && float64(r.lowRTT) > 0.55*float64(r.cutRTT) {
		r.tests = 0
		return
	}
	if r.tests++; r.tests >= aloneTests {
		m.enter(drain, now)
		return
	}
	r.testAt = now + m.testPeriod()/3
}

// gauge works out what the path carries from a test: the window was halved, and
// by as much as that was of all that is in flight the round trip fell. lost was
// lost meanwhile.
func (m *Model) gauge(lost int64) {
	r := &m.rival
	if r.cutRTT == 0 || r.lowRTT == 0 {
		return
	}
	part := 2 * float64(r.cutRTT-r.lowRTT) / float64(r.cutRTT)
	if lost > 0 && part < leastPart {
		return // the queue overflows whatever this sender does
	}
	part = max(part, leastPart)
	carries := r.window / (min(part, 1) * r.cutRTT.Seconds())
	if known := m.capacity.get(); known > 0 {
		carries = min(carries, known/leastPart)
	}
	m.capacity.set(carries)
}

// competeWindow is the window while competing.
func (m *Model) competeWindow() int64 {
	r := &m.rival
	switch {
	case r.test:
		return int64(r.window / 2)
	case m.at < r.blind:
		r.window = m.blindWindow()
		return int64(r.window)
	case !r.climbing:
		m.cubic()
	}
	return int64(r.window)
}

// blindWindow is the window beside a rival that does not heed losses: about
// twice the product, as it has itself. Where the queue is so long that its
// losses do not bound both, it is bounded by an equal part.
func (m *Model) blindWindow() float64 {
	base := m.base.get().Seconds()
	w := blindGain*m.bw.get()*base + float64(m.slack())
	if rtt := m.roundRTT.Seconds(); rtt > blindQueue*base {
		if carries := m.capacity.get() * 2 * m.weight / (1 + m.weight); carries > 0 {
			w = min(w, largePart*carries*rtt)
		}
	}
	return w
}

// cubic grows the window as RFC 9438 has it.
func (m *Model) cubic() {
	r := &m.rival
	p := float64(m.packet) * m.weight // the window of each
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
