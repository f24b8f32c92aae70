package transport

import (
	"errors"
	"maps"
	"slices"
	"time"
)

// Shares of the link between classes of flows.
//
// Order of steps: a flow with a frame to write queues itself in its class. As
// long as some lane has room for a frame and the ceiling allows it, the class
// that has had the least for its weight goes next, and in it the next flow in
// turn; its frame is charged to the class. Lanes are kept filled only a little
// beyond what they are sending, so the choice is made late and holds.
//
// This is start-time fair queueing (Goyal, Vin and Cheng 1996): what a class
// does not use, the others have, in proportion to their weights, and a class
// that was idle has no claim on the past beyond [scheduler.slack].

// laneFrames is how many frames of the session's frame size may wait in one
// lane: one being sent and one to go on with.
const laneFrames = 2

var errShare = errors.New("transport: shares need names and 1 to 100 per cent each, at most 100 in all")

// scheduler chooses whose frame goes next. It is guarded by the session's
// lock. A session without shares and without a ceiling has none: then every
// flow writes on every lane and QUIC shares evenly.
type scheduler struct {
	classes map[string]*class
	order   []*class // others first, then by name
	now     float64  // virtual time: bytes per unit of weight
}

// class is a set of flows that share a part of the link.
type class struct {
	name   string  // "" for the flows of no class with a share
	weight float64 // per cent
	served float64 // virtual time at which its next frame begins
	flows  []*Flow // with frames to write; those that move no bulk come first
	bytes  uint64  // given to lanes
	crowd  crowd
}

// newScheduler makes the classes of shares, in per cent; the flows of no class
// get what is left, at least 1.
func newScheduler(shares map[string]int) *scheduler {
	d := &scheduler{classes: make(map[string]*class)}
	left := 100
	for _, name := range slices.Sorted(maps.Keys(shares)) {
		d.add(name, shares[name])
		left -= shares[name]
	}
	others := d.add("", max(left, 1))
	d.order = append([]*class{others}, slices.DeleteFunc(d.order, func(c *class) bool { return c == others })...)
	return d
}

func (d *scheduler) add(name string, percent int) *class {
	c := &class{name: name, weight: float64(percent)}
	d.classes[name] = c
	d.order = append(d.order, c)
	return c
}

// class is the one of that name, or the one for all others.
func (d *scheduler) class(name string) *class {
	if c := d.classes[name]; c != nil {
		return c
	}
	return d.classes[""]
}

// SetClass says which class the flow belongs to, by the names of
// [LinkConfig.Shares]; another name is none of them.
func (f *Flow) SetClass(name string) {
	s := f.s
	s.mu.Lock()
	defer s.mu.Unlock()
	f.className = name
	s.reclass(f)
}

// reclass puts a flow into the class its name has now.
func (s *Session) reclass(f *Flow) {
	s.leaveCrowd(f)
	f.leaveClass()
	f.class = nil
	f.sendCond.Broadcast() // it may stand first in another line
	if s.sched != nil && !f.ended {
		f.class = s.sched.class(f.className)
		s.dispatch(f)
	}
}

func (f *Flow) leaveClass() {
	if f.class != nil && f.listed {
		f.class.flows = slices.DeleteFunc(f.class.flows, func(o *Flow) bool { return o == f })
		f.listed = false
	}
}

// SetShares changes the shares of the classes for this session and those to
// come; nil: flows share evenly. What was configured at first is in
// [LinkConfig.Shares].
func (l *Link) SetShares(shares map[string]int) error {
	if err := checkShares(shares); err != nil {
		return err
	}
	l.mu.Lock()
	l.shares = maps.Clone(shares)
	s := l.session
	l.mu.Unlock()
	if s != nil {
		s.setShares(shares)
	}
	return nil
}

func checkShares(shares map[string]int) error {
	sum := 0
	for name, percent := range shares {
		if name == "" || percent < 1 || percent > 100 {
			return errShare
		}
		sum += percent
	}
	if sum > 100 {
		return errShare
	}
	return nil
}

func (s *Session) setShares(shares map[string]int) {
	s.mu.Lock()
	defer s.mu.Unlock()
	for _, f := range s.flows {
		s.leaveCrowd(f)
		f.leaveClass()
		f.class = nil
	}
	old := s.sched
	s.sched = nil
	if len(shares) > 0 || s.link.cfg.Ceiling != nil {
		s.sched = newScheduler(shares)
		if old != nil {
			for _, c := range s.sched.order {
				if was := old.classes[c.name]; was != nil {
					c.bytes = was.bytes
				}
			}
		}
	}
	for _, f := range s.flows {
		s.reclass(f)
	}
	s.wakeSenders()
}

// dispatch gives the flow's queued frames to lanes as far as that is possible
// now.
func (s *Session) dispatch(f *Flow) {
	if s.sched == nil {
		f.spread()
		return
	}
	s.enlist(f)
	s.pump()
}

// enlist puts a flow with frames to write into its class's list.
func (s *Session) enlist(f *Flow) {
	if f.listed || f.ended || len(f.queue) == 0 {
		return
	}
	f.listed = true
	c := f.class
	if len(c.flows) == 0 {
		s.join(c)
	}
	if f.inFlight < interactiveBytes {
		c.flows = slices.Insert(c.flows, 0, f)
		return
	}
	c.flows = append(c.flows, f)
}

// slack is how many bytes a class may be ahead of or behind its share for a
// moment: about 100 ms of the link. So a class whose only flow needs a moment
// to encode its next frame loses nothing by it.
func (s *Session) slack() float64 { return float64(4 * s.frameBytes * max(len(s.lanes), 1)) }

// join is called when a class begins to have something to write.
func (s *Session) join(c *class) {
	c.served = max(c.served, s.sched.now-s.slack()/c.weight)
}

// mayOvertake says whether a small frame of the flow may go at once, ahead of
// the frames that wait: while its class has not had much more than its share.
func (s *Session) mayOvertake(f *Flow, size int) bool {
	if s.sched == nil {
		return true
	}
	c := f.class
	s.join(c)
	if c.served > s.sched.now+s.slack()/c.weight {
		return false
	}
	return s.link.cfg.Ceiling == nil || s.link.cfg.Ceiling.takeUrgent(size)
}

// regret gives back what mayOvertake took for a frame that did not go.
func (s *Session) regret(size int) {
	if c := s.link.cfg.Ceiling; c != nil {
		c.correct(-int64(size))
	}
}

// charge notes what was given to a lane for the flow.
func (s *Session) charge(f *Flow, size int) {
	if c := f.class; c != nil {
		c.served += float64(size) / c.weight
		c.bytes += uint64(size)
	}
	s.charged += int64(size)
}

// pump gives frames to lanes until no lane has room, no class has a frame or
// the ceiling is reached.
func (s *Session) pump() {
	for {
		f := s.sched.pick()
		if f == nil {
			return
		}
		ls := s.roomyLane()
		if ls == nil {
			return // the end of a write calls again
		}
		if c := s.link.cfg.Ceiling; c != nil && !c.take(f.queue[0].size, s) {
			return // the ceiling calls again
		}
		c := f.class
		s.sched.now = max(s.sched.now, c.served)
		c.flows[0] = nil
		c.flows = c.flows[1:]
		f.listed = false
		fr := f.nextFrame(ls)
		s.charge(f, fr.size)
		s.enlist(f)
		f.sendCond.Broadcast() // it may encode the next one
		s.nextOf(&c.crowd)
		ls.work.Add(1)
		go f.writeShared(ls, fr)
	}
}

// pick is the flow whose frame goes next, nil when there is none. It stays in
// its class's list.
func (d *scheduler) pick() *Flow {
	var best *class
	for _, c := range d.order {
		for len(c.flows) > 0 && !c.flows[0].hasQueued() {
			c.flows[0].listed = false
			c.flows[0] = nil
			c.flows = c.flows[1:]
		}
		if len(c.flows) > 0 && (best == nil || c.served < best.served) {
			best = c
		}
	}
	if best == nil {
		return nil
	}
	return best.flows[0]
}

// hasQueued says whether the flow has a frame to write, and drops those from
// its queue that were acknowledged meanwhile.
func (f *Flow) hasQueued() bool {
	for len(f.queue) > 0 && f.queue[0].acked {
		f.queue[0] = nil
		f.queue = f.queue[1:]
	}
	return len(f.queue) > 0
}

// roomyLane is the usable lane that would have the next frame through first,
// among those with room; nil when there is none.
func (s *Session) roomyLane() (best *laneState) {
	var bestTime time.Duration
	for _, ls := range s.lanes {
		if !ls.usable() || ls.queued >= laneFrames*s.frameBytes {
			continue
		}
		if t := ls.through(); best == nil || t < bestTime {
			best, bestTime = ls, t
		}
	}
	return best
}

// writeShared writes one frame on ls, then lets whoever is next go on.
func (f *Flow) writeShared(ls *laneState, fr *outFrame) {
	defer ls.work.Done()
	w, err := ls.lane.OpenFrame(ls.ctx)
	if err == nil {
		err = f.writeOne(w, fr)
	}
	s := f.s
	s.mu.Lock()
	defer s.mu.Unlock()
	f.written(ls, fr, w, err)
	if s.sched != nil {
		s.pump()
	}
	f.sendCond.Broadcast()
}

// ceilingTurn is the ceiling's word that the session may go on.
func (s *Session) ceilingTurn() {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.err == nil && s.sched != nil {
		s.pump()
	}
}

// trueUp tells the ceiling what was really sent, overhead and repeats counted,
// less what it was told already.
func (s *Session) trueUp() {
	if s.link.cfg.Ceiling == nil {
		return
	}
	under := int64(0)
	for _, ls := range s.lanes {
		s.sentUDP += int64(ls.stats.BytesSent - ls.counted)
		ls.counted = ls.stats.BytesSent
		under += int64(ls.queued)
	}
	more := s.sentUDP + under - s.charged
	s.link.cfg.Ceiling.correct(more)
	s.charged += more
}

// ClassStats is what one class has had of the link.
type ClassStats struct {
	Name         string // "" for the flows of no class with a share
	SharePercent int
	SentBytes    uint64 // of frames, with what was sent again
}

func (d *scheduler) stats() []ClassStats {
	if d == nil {
		return nil
	}
	out := make([]ClassStats, 0, len(d.order))
	for _, c := range d.order {
		out = append(out, ClassStats{Name: c.name, SharePercent: int(c.weight), SentBytes: c.bytes})
	}
	return out
}
