package transport

import "slices"

// classFrames is how many flows of a class may have a frame in line for the lanes before others of the class have to wait.
const classFrames = 2

// crowd keeps the flows that move bulk in line while enough encoded frames wait for the lanes: what is encoded late can refer to what others have
// sent meanwhile, and whoever has little to send does not stand behind a long queue. Guarded by the session's lock.
type crowd struct {
	line []*Flow // flows that wait to encode their next frame, first come first served
}

// limit is how many bytes of frames may wait for the lanes before bulk has to: half a round trip's worth, and what keeps every lane busy. 0 is
// no limit: the rate is not known.
func (s *Session) crowdLimit() int {
	rate := uint64(0)
	for _, ls := range s.lanes {
		rate += ls.stats.RateBytes
	}
	if rate == 0 {
		return 0
	}
	return max(int(float64(rate)*(s.rtt/2).Seconds()), (len(s.lanes)+1)*s.frameBytes)
}

// crowdOf is where f stands in line: with others of its class where classes share the link, so that no class waits for another's turn.
func (s *Session) crowdOf(f *Flow) *crowd {
	if f.class != nil {
		return &f.class.crowd
	}
	return &s.crowd
}

// crowded says whether f has to wait; then it stands in line.
func (s *Session) crowded(f *Flow) bool {
	if !f.bulk {
		return false
	}
	c := s.crowdOf(f)
	first := len(c.line) == 0 || c.line[0] == f
	if first && s.hasRoom(f) {
		return false
	}
	if !slices.Contains(c.line, f) {
		c.line = append(c.line, f)
	}
	return true
}

// hasRoom says whether the lanes can take one more frame of f soon. A class with a share has room while few of its frames wait for their turn: what
// goes to the lanes is bounded by the scheduler.
func (s *Session) hasRoom(f *Flow) bool {
	if f.class != nil {
		waiting := 0
		for _, o := range f.class.flows {
			if o.hasQueued() {
				if waiting++; waiting >= classFrames {
					return false
				}
			}
		}
		return true
	}
	limit := s.crowdLimit()
	if limit == 0 {
		return true
	}
	for _, ls := range s.lanes {
		limit -= ls.queued
	}
	return limit > 0
}

// leaveCrowd takes f out of the line.
func (s *Session) leaveCrowd(f *Flow) {
	c := s.crowdOf(f)
	if i := slices.Index(c.line, f); i >= 0 {
		c.line = slices.Delete(c.line, i, i+1)
		s.nextOf(c)
	}
}

// nextOfCrowd lets the first in every line look again when there is room.
func (s *Session) nextOfCrowd() {
	s.nextOf(&s.crowd)
	if s.sched != nil {
		for _, c := range s.sched.order {
			s.nextOf(&c.crowd)
		}
	}
}

func (s *Session) nextOf(c *crowd) {
	if len(c.line) > 0 && s.hasRoom(c.line[0]) {
		c.line[0].sendCond.Broadcast()
	}
}
