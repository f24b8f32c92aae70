package governor

import "time"

// Constants of the model. Gains are of the product of bandwidth and round trip.
const (
	startupGrowth   = 1.25 // a round that brings less is one without growth
	startupRounds   = 3    // so many without growth: the pipe is full
	bandwidthRounds = 10   // rounds an estimate of the bandwidth lives
	minWindow       = 4    // packets
	probeGain       = 1.2  // at most; less where probes cost packets
	probeStep       = 0.05
	drainGain       = 0.8
	cruiseSlack     = 2                    // packets beyond the gain
	lumps           = time.Millisecond     // and what goes in the time of quic-go's pacing steps
	headroomMax     = 0.06                 // of the product, to be in flight beyond it while cruising
	headroomStep    = 0.02                 // it falls by so much when it costs packets
	startupDelays   = 8                    // so many acknowledgements in a row that waited,
	startupWait     = 5 * time.Millisecond // and for so long, or an eighth of the round trip: no growth
	startupLoss     = 0.1                  // a round of startup that loses more has overrun the queue
)

// Sample is what the connection says after every acknowledgement or packet
// sent. Times are since any fixed point, bytes are UDP payload.
type Sample struct {
	Now      time.Duration
	InFlight int64
	Lost     int64         // bytes declared lost so far
	RTT      time.Duration // of the newest acknowledgement; 0 before the first
	Packet   int64         // size of a full packet
}

type phase uint8

const (
	startup phase = iota
	drain
	cruise
	probeUp
	probeDown
	competing
)

func (p phase) String() string {
	return [...]string{"startup", "drain", "cruise", "probe", "lower", "compete"}[p]
}

// mark remembers the state of the connection when a byte was sent, so that its
// acknowledgement gives a rate.
type mark struct {
	sent        int64 // bytes sent so far, this one included
	at          time.Duration
	delivered   int64
	deliveredAt time.Duration
	firstSent   time.Duration
	limited     bool // the window was the limit then
}

// Model estimates a path from what a connection says and decides its window. It
// has no clock and no connection of its own.
//
// The steps follow the idea of BBR: the window is the bandwidth (the largest
// rate of delivery of the last rounds) times the round trip (the smallest of
// the last seconds), and a little more. Every few seconds the window is raised
// for a round, to find bandwidth that has come, and lowered for one, so that
// the queue the model made is gone and the true round trip is seen.
type Model struct {
	packet    int64
	inFlight  int64
	lost      int64
	delivered int64
	sent      int64 // delivered + lost + in flight
	at        time.Duration

	deliveredAt time.Duration
	firstSent   time.Duration
	marks       []mark
	head        int

	round      int64         // counts
	roundEnd   int64         // sent when the round began: the round ends when that has left the network
	roundRTT   time.Duration // smallest of this round
	roundBW    float64       // largest sample of this round
	roundPeak  int64         // most in flight
	roundLost  int64         // lost when it began
	roundSent  int64
	bw         maxFilter
	minRTT     minFilter
	base       minFilter // the same over minutes: the path itself
	rival      rival
	capacity   capacity
	lastAcked  int64
	phase      phase
	phaseRound int64 // round in which the phase began
	phaseAt    time.Duration
	full       float64       // bandwidth at the last growth
	stale      int           // rounds without growth
	delayedAt  time.Duration // when the first of them came
	held       bool          // growth was held back in this round
	delayed    int           // acknowledgements in a row that showed a queue, in startup
	window     int64
	headroom   float64
	probe      float64   // gain of the next probe
	boost      float64   // beyond it, while every round of a probe finds more
	lowLoss    lossRatio // while the window was lowered: what the link loses by itself
	highLoss   lossRatio // while cruising
	roundPhase phase     // in which this round began
	wasPhase   phase     // and the one before: losses are seen a round trip late
	rng        uint64
	lanes      int64   // connections: each may leave a packet's room
	weight     float64 // as how many senders it counts
}

// NewModel returns a model that starts with a window of bytes; seed makes
// probes of different connections fall apart.
func NewModel(window, packet int64, seed uint64) *Model {
	return &Model{
		window: window, packet: packet, rng: seed | 1, headroom: headroomMax, probe: probeGain, lanes: 1, weight: 1,
		minRTT: minFilter{bucket: 3 * time.Second}, base: minFilter{bucket: time.Minute},
	}
}

// Begin says what is in flight and was lost before the first sample.
func (m *Model) Begin(s Sample) {
	m.inFlight, m.sent, m.lost = s.InFlight, s.InFlight, s.Lost
	m.firstSent, m.deliveredAt, m.roundEnd = s.Now, s.Now, m.sent
	m.roundLost, m.roundSent = m.lost, m.sent
}

// Window is the congestion window in bytes.
func (m *Model) Window() int64 { return m.window }

// Startup says whether the window should still double per round trip.
func (m *Model) Startup() bool { return m.phase == startup }

// Bandwidth is the estimate in bytes per second, 0 when there is none.
func (m *Model) Bandwidth() float64 { return m.bw.get() }

// MinRTT is the round trip without queue, 0 when there is none.
func (m *Model) MinRTT() time.Duration { return m.minRTT.get() }

// Sent takes a sample after a packet was sent.
func (m *Model) Sent(s Sample) {
	if n := s.InFlight - m.inFlight; n > 0 {
		if m.inFlight == 0 {
			// After idleness the time that went by is no time of sending.
			m.firstSent, m.deliveredAt = s.Now, s.Now
		}
		m.sent += n
		m.inFlight = s.InFlight
		m.mark(s)
	}
	m.roundPeak = max(m.roundPeak, s.InFlight)
}

// Abandon takes a sample after bytes in flight were given up: nobody will say
// what became of them.
func (m *Model) Abandon(s Sample) {
	if s.InFlight < m.inFlight {
		m.inFlight = s.InFlight
	}
}

// play is what may be missing from a window that is used up.
func (m *Model) play() int64 { return (2 + 2*m.lanes) * m.packet }

// markEvery is how fine marks are, in packets.
const markEvery = 4

func (m *Model) mark(s Sample) {
	if n := len(m.marks); n > m.head && m.sent-m.marks[n-1].sent < markEvery*m.packet && s.Now-m.marks[n-1].at < time.Millisecond {
		return
	}
	if m.head > 1024 && m.head > len(m.marks)/2 {
		m.marks = append(m.marks[:0], m.marks[m.head:]...)
		m.head = 0
	}
	m.marks = append(m.marks, mark{
		sent: m.sent, at: s.Now, delivered: m.delivered, deliveredAt: m.deliveredAt, firstSent: m.firstSent,
		limited: s.InFlight+m.play() >= m.window || m.phase == startup && s.InFlight*2 >= m.window,
	})
}

// Acked takes a sample after an acknowledgement, or after losses were declared,
// and returns the window.
func (m *Model) Acked(s Sample) int64 {
	gone := m.inFlight - s.InFlight
	lost := s.Lost - m.lost
	m.inFlight, m.lost, m.packet = s.InFlight, s.Lost, s.Packet
	if gone <= 0 {
		return m.window
	}
	acked := max(gone-lost, 0)
	m.delivered += acked
	m.at = s.Now
	if acked > 0 {
		m.deliveredAt = s.Now
		if s.RTT > 0 {
			m.minRTT.add(s.Now, s.RTT)
			m.base.add(s.Now, s.RTT)
			m.heard(s.Now, s.RTT)
			m.delay(s.Now, s.RTT)
			if m.roundRTT == 0 || s.RTT < m.roundRTT {
				m.roundRTT = s.RTT
			}
		}
		m.rate(s.Now)
	}
	if m.sent-m.inFlight >= m.roundEnd {
		m.endRound(s.Now)
	}
	m.control(acked)
	return m.window
}

// rate takes the sample of the newest byte that has left the network.
func (m *Model) rate(now time.Duration) {
	left := m.sent - m.inFlight
	i := m.head
	for i < len(m.marks) && m.marks[i].sent <= left {
		i++
	}
	if i == m.head {
		return
	}
	p := m.marks[i-1]
	m.head = i
	m.firstSent = p.at
	interval := max(now-p.deliveredAt, p.at-p.firstSent)
	if interval <= 0 || interval < m.minRTT.get()/2 {
		return
	}
	bw := float64(m.delivered-p.delivered) / interval.Seconds()
	if p.limited || bw > m.bw.get() {
		m.roundBW = max(m.roundBW, bw)
		m.bw.add(m.round, bw)
		m.capacity.add(now, bw)
	}
}
