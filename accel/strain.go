package accel

import "time"

const (
	// strainLate: a gateway whose goroutines wait this long for a processor adds as much at every step of a flow's way, several times a
	// round trip: the bare link is the better way for new connections.
	strainLate = 100 * time.Millisecond
	// strainTime and strainLooks: one late look is a hiccup, and a process that was stopped for a while is late once; a second of nothing
	// but late looks is a gateway that does not get the processor it needs.
	strainTime  = time.Second
	strainLooks = 4
	// calmLate and calmTime: it is over when no look was later than this for so long.
	calmLate = strainLate / 2
	calmTime = time.Second
	// lagShare: each look moves the mean by this part.
	lagShare = 8
)

// strain tells from how late regular looks come whether the processor keeps up: late ones waited for a processor as every frame does.
type strain struct {
	lag  time.Duration // moving mean
	over bool

	lateSince time.Time // begin of the first of the late looks without a timely one in between; zero: the last one was timely
	lateLooks int
	calmSince time.Time // zero: the last look was not calm
}

// look is told of one look: when it came, and how late that was.
func (s *strain) look(now time.Time, late time.Duration) {
	s.lag += (late - s.lag) / lagShare
	if late <= strainLate {
		s.lateSince, s.lateLooks = time.Time{}, 0
	} else {
		if s.lateLooks == 0 {
			s.lateSince = now.Add(-late)
		}
		s.lateLooks++
	}
	if late > calmLate {
		s.calmSince = time.Time{}
	} else if s.calmSince.IsZero() {
		s.calmSince = now
	}
	switch {
	case s.lateLooks >= strainLooks && now.Sub(s.lateSince) >= strainTime:
		s.over = true
	case !s.calmSince.IsZero() && now.Sub(s.calmSince) >= calmTime:
		s.over = false
	}
}
