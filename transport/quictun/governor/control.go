package governor

import "time"

// endRound takes stock of a round trip.
func (m *Model) endRound(now time.Duration) {
	limited := m.roundPeak+m.play() >= m.window*3/4
	switch m.phase {
	case startup:
		m.checkFull(limited)
		if m.stale >= startupRounds {
			m.enter(drain, now)
		}
	case drain:
		if m.inFlight <= m.bdp(1) || m.round-m.phaseRound >= 4 {
			m.enter(cruise, now)
		}
	case competing:
		m.competeRound(now)
	case cruise:
		if m.rival.judge && m.round-m.phaseRound >= 1 {
			m.lowered(now)
			break
		}
		// Bandwidth that has grown by the headroom alone is worth a look at once.
		if limited && (now-m.phaseAt >= m.cruiseTime() || m.bw.get() > m.full*1.15) {
			m.full = m.bw.get()
			m.enter(probeUp, now)
		}
	case probeUp:
		// The first round fills the pipe, the second shows what came of it.
		switch rounds := m.round - m.phaseRound; {
		case rounds >= 1 && m.bw.get() > m.full*1.1:
			m.full, m.phaseRound = m.bw.get(), m.round
			m.boost = min(m.boost+0.3, 1)
		case rounds >= 1:
			m.enter(probeDown, now)
		}
	case probeDown:
		if m.round-m.phaseRound >= 1 {
			m.enter(cruise, now)
			m.rival.judge = true
		}
	}
	m.yield(limited)
	m.stands(now)
	m.attribute()
	m.round++
	m.roundEnd = m.sent
	m.roundRTT, m.roundBW, m.roundPeak = 0, 0, m.inFlight
	m.roundLost, m.roundSent = m.lost, m.sent
}

// checkFull looks for the end of startup: bandwidth that grows no more. A round
// in which growth was held back, for packets that waited, tells nothing unless
// the queue stood through all of it: on a busy machine packets are late without
// one.
func (m *Model) checkFull(limited bool) {
	held, stands := m.held, m.waited(m.roundRTT)
	m.held = m.halted()
	bw := m.bw.get()
	switch {
	case bw >= m.full*startupGrowth:
		m.full, m.stale = bw, 0
	case limited && stands:
		m.stale += 2 // what was sent more only waits
	case limited && !held:
		m.stale++
	}
}

// waited says whether rtt shows a queue, in startup.
func (m *Model) waited(rtt time.Duration) bool {
	least := m.minRTT.get()
	return rtt >= least+min(max(least/8, 4*time.Millisecond), 16*time.Millisecond)
}

// delay watches the queue while startup doubles the window: once it stands,
// growing on would only fill it.
func (m *Model) delay(now, rtt time.Duration) {
	if m.phase != startup || !m.waited(rtt) {
		m.delayed = 0
		return
	}
	if m.delayed == 0 {
		m.delayedAt = now
	}
	m.delayed++
	m.held = m.held || m.halted()
}

// halted says whether the queue has stood long enough to stop growing.
func (m *Model) halted() bool {
	return m.delayed >= startupDelays && m.at-m.delayedAt >= min(m.minRTT.get()/8, startupWait)
}

// lossRatio is a ratio that forgets.
type lossRatio struct{ lost, sent float64 }

func (l *lossRatio) add(lost, sent int64) {
	const memory = 0.9
	l.lost, l.sent = l.lost*memory+float64(lost), l.sent*memory+float64(sent)
}

func (l *lossRatio) get() float64 { return l.lost / max(l.sent, 1) }

// attribute sorts the losses of the round that ends by what the window was when
// they were sent, and trims the headroom: what is lost more while cruising than
// while the window is lowered is lost to a queue too short for the headroom.
func (m *Model) attribute() {
	lost, sent := m.lost-m.roundLost, m.sent-m.roundSent
	switch m.wasPhase {
	case probeUp:
		if float64(lost) > (m.highLoss.get()+0.02)*float64(sent) {
			m.probe = 1 + (m.probe-1)/2
		} else {
			m.probe = min(m.probe+probeStep, probeGain)
		}
	case probeDown:
		m.lowLoss.add(lost, sent)
		if m.lowLoss.sent < float64(50*m.packet) {
			break
		}
		// A hundredth is above the noise of a few hundred packets.
		if m.highLoss.get() > 1.5*m.lowLoss.get()+0.004 {
			m.headroom = max(m.headroom-headroomStep, 0)
		} else {
			m.headroom = min(m.headroom+headroomStep/2, headroomMax)
		}
	case cruise:
		m.highLoss.add(lost, sent)
	}
	m.wasPhase, m.roundPhase = m.roundPhase, m.phase
}

// yield forgets an estimate that the path has long fallen below: a queue
// stands, and two rounds have brought much less.
func (m *Model) yield(limited bool) {
	queue := m.roundRTT - m.minRTT.get()
	if m.phase == startup || m.phase == competing || !limited || queue < m.minRTT.get()/4+5*time.Millisecond {
		return
	}
	if m.roundBW < m.bw.get()*0.6 && m.bw.best[1] < m.bw.get()*0.6 {
		m.bw.forget(2)
	}
}

func (m *Model) enter(p phase, now time.Duration) {
	m.phase, m.phaseAt, m.phaseRound = p, now, m.round
	switch p {
	case probeUp:
		m.boost = 0
	case probeDown:
		m.rival.lowRTT = 0
	case cruise:
		m.full = m.bw.get()
	}
}

// cruiseTime is 2 to 3 seconds, and no less than so many round trips that the
// probes cost little.
func (m *Model) cruiseTime() time.Duration {
	m.rng ^= m.rng << 13
	m.rng ^= m.rng >> 7
	m.rng ^= m.rng << 17
	return max(2*time.Second+time.Duration(m.rng%1000)*time.Millisecond, 16*m.minRTT.get())
}

// bdp is gain times bandwidth times round trip.
func (m *Model) bdp(gain float64) int64 {
	return int64(gain * m.bw.get() * m.minRTT.get().Seconds())
}

// slack is what is in flight beyond the gain because packets and their
// acknowledgements come in lumps.
func (m *Model) slack() int64 {
	return cruiseSlack*m.packet + int64(m.bw.get()*lumps.Seconds())
}

// control sets the window; acked bytes were acknowledged just now.
func (m *Model) control(acked int64) {
	m.lastAcked = acked
	if m.bw.get() == 0 || m.minRTT.get() == 0 {
		if m.roundPeak*2 >= m.window {
			m.window += acked
		}
		return
	}
	switch m.phase {
	case startup:
		if m.roundPeak*2 >= m.window && !m.halted() {
			m.window += acked
		}
		if lost := m.lost - m.roundLost; lost > 20*m.packet && float64(lost) > startupLoss*float64(m.sent-m.roundSent+m.inFlight) {
			m.enter(drain, m.at)
			m.window = max(m.bdp(1), minWindow*m.packet)
			return
		}
		m.window = max(min(m.window, m.bdp(2.5)), 32*m.packet)
		return
	case drain:
		m.window = m.bdp(1)
		if m.inFlight <= m.window {
			m.enter(cruise, m.at)
		}
	case cruise:
		m.window = m.bdp(1) + max(m.bdp(m.headroom), m.slack())
	case probeUp:
		m.window = m.bdp(1) + max(m.bdp(max(m.probe-1, m.headroom+probeStep)+m.boost), 2*m.slack())
	case probeDown:
		m.window = m.bdp(drainGain)
	case competing:
		m.window = m.competeWindow()
	}
	m.window = max(m.window, minWindow*m.packet)
}
