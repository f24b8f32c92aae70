package simlink

import (
	"math"
	"sync"
	"time"
)

// TCP is a model of a kernel's TCP sender that always has data: as much of
// CUBIC (RFC 9438) or BBR version 1 as matters for who gets which share of a
// queue. Packets that are lost are not repeated: new ones are as good here.
type TCP struct {
	net *Net
	bbr *bbr // nil: CUBIC

	mu        sync.Mutex
	wake      chan struct{}
	began     time.Time
	next      int64 // packet to be sent
	flying    map[int64]flight
	highest   int64 // acknowledged
	delivered int64 // packets
	deliverAt time.Time
	cwnd      float64 // packets
	ssthresh  float64
	wmax      float64
	epoch     time.Time
	k         float64
	recovery  int64 // losses below belong to the last reduction
	srtt      time.Duration
	minRTT    time.Duration
	unacked   int
	lastHeard int64
}

type flight struct {
	at        time.Time
	delivered int64
	deliverAt time.Time
}

const (
	tcpPacket = 1472 // with overhead 1500 on the link
	tcpAck    = 24
)

// NewTCP returns a sender from side a to b; Run runs it.
func NewTCP(n *Net, useBBR bool) *TCP {
	t := &TCP{net: n, flying: make(map[int64]flight), cwnd: 10, ssthresh: math.Inf(1), wake: make(chan struct{}, 1), highest: -1, lastHeard: -1}
	if useBBR {
		t.bbr = &bbr{gain: 2.89, cwndGain: 2.89, startup: true}
	}
	return t
}

// Delivered is how many bytes have arrived.
func (t *TCP) Delivered() int64 {
	t.mu.Lock()
	defer t.mu.Unlock()
	return t.delivered * tcpPacket
}

// Run sends until stop is closed.
func (t *TCP) Run(stop <-chan struct{}) {
	t.mu.Lock()
	t.began, t.deliverAt = time.Now(), time.Now()
	t.mu.Unlock()
	timer := time.NewTimer(time.Hour)
	defer timer.Stop()
	packet := make([]byte, tcpPacket)
	for {
		t.mu.Lock()
		wait, paced := time.Second, false // a timeout sends something, whatever
		if len(t.flying) > 0 && time.Since(t.deliverAt) > time.Second+4*t.srtt {
			clear(t.flying)
			t.cwnd = max(t.cwnd/2, 4)
			t.deliverAt = time.Now()
		}
		for float64(len(t.flying)) < t.cwnd {
			seq := t.next
			t.next++
			now := time.Now()
			t.flying[seq] = flight{now, t.delivered, t.deliverAt}
			t.net.AtoB.Send(packet, func([]byte) { t.arrived(seq) })
			if t.bbr != nil {
				if rate := t.bbr.pacing(); rate > 0 {
					wait, paced = time.Duration(float64(time.Second)/rate), true
					break
				}
			}
		}
		t.mu.Unlock()
		timer.Reset(wait)
		select {
		case <-stop:
			return
		case <-timer.C:
		case <-t.wake:
			if paced {
				select {
				case <-timer.C:
				case <-stop:
					return
				}
			}
		}
	}
}

// arrived is the receiver: it acknowledges every second packet, and at once
// behind a gap.
func (t *TCP) arrived(seq int64) {
	t.mu.Lock()
	gap := seq != t.lastHeard+1
	t.lastHeard = seq
	t.unacked++
	say := t.unacked >= 2 || gap
	n := t.unacked
	if say {
		t.unacked = 0
	}
	t.mu.Unlock()
	if say {
		t.net.BtoA.Send(make([]byte, tcpAck), func([]byte) { t.acked(seq, n) })
	}
}

// acked handles the acknowledgement of the n packets up to seq that arrived.
func (t *TCP) acked(seq int64, n int) {
	t.mu.Lock()
	defer t.mu.Unlock()
	now := time.Now()
	f, ok := t.flying[seq]
	t.delivered += int64(n)
	t.deliverAt = now
	if ok {
		rtt := now.Sub(f.at)
		if t.srtt == 0 {
			t.srtt = rtt
		}
		t.srtt += (rtt - t.srtt) / 8
		if t.minRTT == 0 || rtt < t.minRTT {
			t.minRTT = rtt
		}
	}
	delete(t.flying, seq)
	if n > 1 {
		delete(t.flying, seq-1)
	}
	lost := false
	for s := t.highest + 1; s <= seq-3; s++ {
		if _, there := t.flying[s]; there {
			delete(t.flying, s)
			lost = lost || s >= t.recovery
		}
	}
	t.highest = max(t.highest, seq-3)
	switch {
	case t.bbr != nil:
		if ok {
			t.bbr.ack(t, f, now)
		}
	case lost:
		t.recovery = t.next
		t.wmax = t.cwnd
		t.cwnd = max(t.cwnd*0.7, 2)
		t.ssthresh = t.cwnd
		t.epoch = time.Time{}
	case t.cwnd < t.ssthresh:
		t.cwnd += float64(n)
	default:
		t.cubic(now, n)
	}
	select {
	case t.wake <- struct{}{}:
	default:
	}
}

// cubic grows the window as RFC 9438 has it.
func (t *TCP) cubic(now time.Time, n int) {
	const c, beta = 0.4, 0.7
	if t.epoch.IsZero() {
		t.epoch = now
		t.k = math.Cbrt(max(t.wmax-t.cwnd, 0) / c)
	}
	at := now.Sub(t.epoch).Seconds()
	target := c*math.Pow(at+t.srtt.Seconds()-t.k, 3) + t.wmax
	reno := t.wmax*beta + 3*(1-beta)/(1+beta)*at/t.srtt.Seconds()
	target = max(target, reno)
	if target > t.cwnd {
		t.cwnd += min((target-t.cwnd)/t.cwnd, 0.5) * float64(n)
	}
}

// bbr is what version 1 does.
type bbr struct {
	startup  bool
	gain     float64
	cwndGain float64
	bw       [10]float64 // packets per second, per round
	round    int64
	roundEnd int64
	full     float64
	stale    int
	phase    int
	phaseAt  time.Time
	rtt      time.Duration
	rttAt    time.Time
	probing  time.Time // end of the round trip probe
}

func (b *bbr) best() (v float64) {
	for _, x := range b.bw {
		v = max(v, x)
	}
	return v
}

// pacing is in packets per second; 0: as the window allows.
func (b *bbr) pacing() float64 {
	if !b.probing.IsZero() {
		return 0
	}
	return b.gain * b.best()
}

func (b *bbr) ack(t *TCP, f flight, now time.Time) {
	rtt := now.Sub(f.at)
	expired := !b.rttAt.IsZero() && now.Sub(b.rttAt) > 10*time.Second
	if b.rtt == 0 || rtt <= b.rtt || expired {
		b.rtt, b.rttAt = rtt, now
	}
	if el := now.Sub(f.deliverAt); el >= b.rtt/2 {
		b.bw[0] = max(b.bw[0], float64(t.delivered-f.delivered)/el.Seconds())
	}
	if f.delivered >= b.roundEnd {
		b.roundEnd = t.delivered
		b.round++
		if b.startup {
			if best := b.best(); best > b.full*1.25 {
				b.full, b.stale = best, 0
			} else if b.stale++; b.stale >= 3 {
				b.startup = false
				b.phase, b.phaseAt = 1, now
				b.gain, b.cwndGain = 0.35, 2
			}
		}
		copy(b.bw[1:], b.bw[:])
		b.bw[0] = 0
	}
	bdp := b.best() * b.rtt.Seconds()
	if !b.startup && b.probing.IsZero() {
		b.cycle(now, float64(len(t.flying)), bdp)
	}
	switch {
	case expired && !b.startup && b.probing.IsZero():
		b.probing = now.Add(200*time.Millisecond + b.rtt)
	case !b.probing.IsZero() && now.After(b.probing):
		b.probing = time.Time{}
	}
	t.cwnd = max(b.cwndGain*bdp, 4)
	if b.startup {
		t.cwnd = max(t.cwnd, 10)
	}
	if !b.probing.IsZero() {
		t.cwnd = 4
	}
}

func (b *bbr) cycle(now time.Time, flying, bdp float64) {
	gains := [8]float64{1.25, 0.75, 1, 1, 1, 1, 1, 1}
	over := now.Sub(b.phaseAt) > b.rtt
	switch b.phase {
	case 0:
		over = over && flying >= 1.25*bdp || now.Sub(b.phaseAt) > 3*b.rtt
	case 1:
		over = over || flying <= bdp
	}
	if over {
		b.phase, b.phaseAt = (b.phase+1)%8, now
	}
	b.gain = gains[b.phase]
}
