package peer

import "time"

const (
	// aheadGrace is how long a frame waits for bytes on their way, beyond two round trips, before it asks for them.
	aheadGrace = 500 * time.Millisecond
	// repairPatience is how long a frame waits for what it asked for. Only time with a lane counts: without one the session is held, and goes on.
	repairPatience = 30 * time.Second
	waitTick       = 500 * time.Millisecond
)

// wait is how long a frame has waited. The zero value is a frame that has not.
type wait struct {
	asked bool
	left  time.Duration // until the frame is late; 0 before the first wait
}

// await blocks until it is worth going on with the frame that waits, or that is late; the error is the flow's.
func (t *Stream) await(w *wait) (late bool, err error) {
	switch asked := t.decoder.Asked(); {
	case asked && !w.asked:
		w.asked, w.left = true, repairPatience
	case w.left == 0:
		w.left = 2*max(t.session.RTT(), t.session.peer.EchoRTT()) + aheadGrace
	}
	for {
		step := min(w.left, waitTick)
		timer := time.NewTimer(step)
		select {
		case <-t.decoder.Ready():
			timer.Stop()
			return false, nil
		case <-t.flow.Done():
			timer.Stop()
			if err := t.flow.Err(); err != nil {
				return false, err
			}
			return false, errEndMismatch // a direction cannot have ended before its last frame was decoded
		case <-timer.C:
		}
		if !t.session.Up() {
			continue
		}
		if w.left -= step; w.left <= 0 {
			return true, nil
		}
	}
}
