package governor

import (
	"slices"
	"sync"
	"time"
)

// Group is the connections to one peer. They share the path, so they share one
// [Model]: each tells it what it sent, what was acknowledged and lost, and
// takes a share of the window. Alone, connections of one tunnel take each other
// for rivals and keep the queue full; together they keep in flight what one
// would, and against others they count as one sender, or as many as
// [Group.SetWeight] says.
//
// The window is shared equally among those that use theirs up, less what the
// others need. A share only grows into what the whole has left, so a connection
// that begins to send bulk waits about a round trip until the others have made
// room. What a connection has in flight that hears nothing while others do is
// not counted.
//
// A connection whose round trip is not that of the others takes another path;
// it gets a group of its own.
type Group struct {
	began time.Time
	seed  uint64

	mu      sync.Mutex
	model   *Model // nil while there is no member
	members []*member
	flight  int64 // bytes in flight of all members that are counted
	lost    int64 // bytes, of all members there ever were
	weight  int
}

// Constants of groups.
const (
	maxLanes      = 64          // connections that are told apart
	minShare      = 2           // packets a connection may always have in flight
	silentTime    = time.Second // and three round trips without an acknowledgement: not counted
	otherPath     = 1.25        // so much longer is the round trip of another path,
	otherPathMore = 5 * time.Millisecond
)

// member is one connection's part. The group's lock guards it.
type member struct {
	group    *Group
	flight   int64
	lost     int64
	window   int64
	packet   int64
	received uint64
	minRTT   minFilter
	joined   time.Duration
	heard    time.Duration // when something was received last, or nothing was in flight
	limited  int64         // round of the model in which its window last was the limit; 0: never
	round    int64         // of the model, that peak belongs to
	peak     int64         // most in flight in that round
	before   int64         // and in the one before
	silent   bool
	left     bool
}

// verdict is what the group has to say to a connection.
type verdict struct {
	window    int64
	startup   bool
	bandwidth float64 // its part, in bytes per second
	whole     float64 // that of the group
}

// NewGroup returns a group without members; seed makes the probes of different
// groups fall apart.
func NewGroup(seed uint64) *Group {
	return &Group{began: time.Now(), seed: seed, weight: 1}
}

// SetWeight says as how many senders the group counts where it competes with
// others: the flows that users have under way, at least 1.
func (g *Group) SetWeight(n int) {
	g.mu.Lock()
	defer g.mu.Unlock()
	g.weight = max(n, 1)
	if g.model != nil {
		g.model.weight = float64(g.weight)
	}
}

// join makes a connection with window and flight bytes a member. rtt is the
// smallest it has seen, 0 when unknown.
func (g *Group) join(window, packet, flight, lost int64, rtt time.Duration) *member {
	g.mu.Lock()
	now := time.Since(g.began)
	if m := g.model; m != nil && m.MinRTT() > 0 && rtt > 0 && !within(rtt, m.MinRTT(), max(m.rival.longest, m.MinRTT())) {
		g.mu.Unlock()
		return NewGroup(g.seed+1).join(window, packet, flight, lost, rtt)
	}
	defer g.mu.Unlock()
	mb := &member{group: g, flight: flight, lost: lost, window: window, packet: packet, joined: now, heard: now,
		minRTT: minFilter{bucket: 3 * time.Second}}
	g.members = append(g.members, mb)
	if g.model == nil {
		g.model = NewModel(window, packet, g.seed)
		g.model.weight = float64(g.weight)
		g.flight, g.lost = flight, 0
		g.model.Begin(Sample{Now: now, InFlight: flight})
	} else {
		g.flight += flight
		g.model.Sent(Sample{Now: now, InFlight: g.flight})
	}
	g.model.lanes = int64(len(g.members))
	return mb
}

// within says whether rtt may be that of a path whose round trips lie between
// least and most.
func within(rtt, least, most time.Duration) bool {
	return float64(rtt+otherPathMore)*otherPath >= float64(least) && float64(rtt) <= otherPath*float64(most)+float64(otherPathMore)
}

// leave takes mb out: its connection has ended, or goes its own way. It may be
// called again.
func (mb *member) leave() {
	g := mb.group
	g.mu.Lock()
	defer g.mu.Unlock()
	if mb.left {
		return
	}
	mb.left = true
	g.uncount(mb, time.Since(g.began))
	g.members = slices.DeleteFunc(g.members, func(x *member) bool { return x == mb })
	if len(g.members) == 0 {
		g.model = nil // what comes next may be another path
		return
	}
	g.model.lanes = int64(len(g.members))
}

// uncount takes what mb has in flight out of the model's.
func (g *Group) uncount(mb *member, now time.Duration) {
	if mb.silent {
		return
	}
	mb.silent = true
	g.flight -= mb.flight
	g.model.Abandon(Sample{Now: now, InFlight: g.flight})
}

// sent tells that mb has flight bytes under way after it sent, and returns the
// window it may have.
func (mb *member) sent(flight int64) verdict {
	g := mb.group
	g.mu.Lock()
	defer g.mu.Unlock()
	if mb.left {
		return verdict{window: mb.window}
	}
	now := time.Since(g.began)
	if mb.flight == 0 {
		mb.heard = now
	}
	if flight+minShare*mb.packet >= mb.window {
		mb.limited = g.model.round + 1
	}
	if !mb.silent {
		g.flight += flight - mb.flight
		g.model.Sent(Sample{Now: now, InFlight: g.flight})
	}
	mb.flight = flight
	return g.share(mb)
}

// report is what a connection says after an acknowledgement, or after losses
// were declared.
type report struct {
	flight   int64  // bytes
	lost     int64  // bytes so far
	received uint64 // bytes so far: while there are none the path may be dead
	packet   int64
	rtt      time.Duration
}

// acked takes a report and returns the window mb may have.
func (mb *member) acked(r report) verdict {
	g := mb.group
	g.mu.Lock()
	defer g.mu.Unlock()
	if mb.left {
		return verdict{window: mb.window}
	}
	now := time.Since(g.began)
	heard := r.received != mb.received
	mb.received, mb.packet = r.received, r.packet
	if heard {
		mb.heard = now
	}
	if heard && r.rtt > 0 {
		mb.minRTT.add(now, r.rtt)
	}
	d := r.lost - mb.lost
	mb.lost = r.lost
	if mb.silent {
		mb.flight = r.flight
		if !heard {
			return g.share(mb)
		}
		mb.silent = false
		g.flight += r.flight
		g.model.Sent(Sample{Now: now, InFlight: g.flight})
		return g.share(mb)
	}
	g.lost += d
	g.flight += r.flight - mb.flight
	mb.flight = r.flight
	g.model.Acked(Sample{Now: now, InFlight: g.flight, Lost: g.lost, RTT: r.rtt, Packet: r.packet})
	g.hush(mb, now)
	return g.share(mb)
}

// hush finds the members that hear nothing while mb does.
func (g *Group) hush(mb *member, now time.Duration) {
	if len(g.members) == 1 {
		return
	}
	patience := silentTime + 3*g.model.MinRTT()
	for _, x := range g.members {
		if x != mb && x.flight > 0 && now-x.heard > patience {
			g.uncount(x, now)
		}
	}
}

// used keeps the most mb had in flight in this round and the one before.
func (g *Group) used(mb *member) {
	if round := g.model.round; round != mb.round {
		mb.before = mb.peak
		if round > mb.round+1 {
			mb.before = 0
		}
		mb.round, mb.peak = round, 0
	}
	mb.peak = max(mb.peak, mb.flight)
}

// isLimited says whether mb used up its window of late.
func (g *Group) isLimited(mb *member) bool { return mb.limited > 0 && g.model.round+1-mb.limited <= 1 }

// demand is what of the window mb needs: what it had in flight of late, and
// twice that when it was not let.
func (g *Group) demand(mb *member) int64 {
	if mb.silent {
		return 0
	}
	d := mb.flight
	if g.model.round-mb.round <= 1 {
		d = max(d, mb.peak)
	}
	if g.model.round == mb.round {
		d = max(d, mb.before)
	}
	if g.isLimited(mb) {
		d = 2*d + mb.packet
	}
	return d
}

// share decides what mb may have: an equal part of the window, which is larger
// the less of theirs others need.
func (g *Group) share(mb *member) verdict {
	whole := g.model.Window()
	level := whole
	if len(g.members) > 1 {
		g.used(mb)
		level = g.level(mb, whole)
	}
	mb.window = max(level, minShare*mb.packet)
	if len(g.members) > 1 {
		mb.window = max(min(level, mb.flight+max(whole-g.flight, 0)), minShare*mb.packet)
	}
	return verdict{window: mb.window, startup: g.model.Startup(), bandwidth: g.model.Bandwidth() * float64(level) / float64(max(whole, 1)),
		whole: g.model.Bandwidth()}
}

// level fills whole like water into vessels: who needs less than an equal part
// gets that, the rest is divided among the others, mb among them.
func (g *Group) level(mb *member, whole int64) int64 {
	var demands [maxLanes]int64
	n := 0
	for _, x := range g.members {
		if x != mb && n < len(demands) {
			demands[n] = g.demand(x)
			n++
		}
	}
	left := demands[:n]
	slices.Sort(left)
	for len(left) > 0 && left[0] <= whole/int64(len(left)+1) {
		whole -= left[0]
		left = left[1:]
	}
	return whole / int64(len(left)+1)
}

// strays says whether mb has shown for long that its path is longer than that
// of the others.
func (mb *member) strays() bool {
	g := mb.group
	g.mu.Lock()
	defer g.mu.Unlock()
	if mb.left || len(g.members) == 1 || !g.isLimited(mb) || mb.minRTT.best[len(mb.minRTT.best)-1] == 0 {
		return false
	}
	return float64(mb.minRTT.get()) > otherPath*float64(g.model.MinRTT())+float64(otherPathMore)
}
