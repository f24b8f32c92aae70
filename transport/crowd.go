package transport

import "slices"

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

// crowded says whether f has to wait; then it stands in line.
func (s *Session) crowded(f *Flow) bool {
	if !f.bulk {
		return false
	}
	first := len(s.crowd.line) == 0 || s.crowd.line[0] == f
	if first && s.hasRoom() {
		return false
	}
	if !slices.Contains(s.crowd.line, f) {
		s.crowd.line = append(s.crowd.line, f)
	}
	return true
}

// hasRoom says whether the lanes can take one more frame soon.
func (s *Session) hasRoom() bool {
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
	if i := slices.Index(s.crowd.line, f); i >= 0 {
		s.crowd.line = slices.Delete(s.crowd.line, i, i+1)
		s.nextOfCrowd()
	}
}

// nextOfCrowd lets the first in line look again when there is room.
func (s *Session) nextOfCrowd() {
	if len(s.crowd.line) > 0 && s.hasRoom() {
		s.crowd.line[0].sendCond.Broadcast()
	}
}
