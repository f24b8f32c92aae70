package intercept

import "time"

// watchdog looks for connections that are diverted and never accepted: then something swallows them, or whoever accepts stands
// still, and both are worse than not to divert. It is a pure state machine.
type watchdog struct {
	diverted, accepted uint64    // as last observed
	suspectSince       time.Time // diverted rose and nothing was accepted since; zero = all is well
	hold               time.Duration
	acceptedAtTrip     uint64
}

const (
	// patience is how long nothing may be accepted while connections are diverted. On a LAN an accept follows its SYN within
	// milliseconds.
	patience = time.Second
	// maxHold bounds how long diverting is suspended before it is tried again.
	maxHold = time.Minute
)

// observe takes both counts, which only grow, and says whether diverting must be suspended.
func (w *watchdog) observe(now time.Time, diverted, accepted uint64) (trip bool) {
	rose, took := diverted > w.diverted, accepted > w.accepted
	w.diverted, w.accepted = diverted, accepted
	switch {
	case took:
		w.suspectSince = time.Time{}
	case w.suspectSince.IsZero() && rose:
		w.suspectSince = now
	case !w.suspectSince.IsZero() && now.Sub(w.suspectSince) >= patience:
		w.suspectSince = time.Time{}
		return true
	}
	return false
}

// suspendFor gives the time until the next try: none after the first trip (a port scan leaves half-open connections too), then
// longer each time nothing was accepted in between.
func (w *watchdog) suspendFor() time.Duration {
	if w.accepted > w.acceptedAtTrip {
		w.hold = 0
		w.acceptedAtTrip = w.accepted
		return 0
	}
	return w.longer()
}

// longer is the time after another failure.
func (w *watchdog) longer() time.Duration {
	w.hold = min(max(2*w.hold, time.Second), maxHold)
	return w.hold
}
