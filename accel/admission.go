package accel

import (
	"cmp"
	"math"
	"sync"
	"time"

	"golang.org/x/sys/unix"

	"wanpair/accel/config"
	"wanpair/accel/peer"
	"wanpair/accel/policy"
	"wanpair/accel/stats"
)

const (
	// reopenPercent of a limit must not be exceeded for connections to be taken again: without the distance each flow that ends would let
	// one connection in, and the rules would change with every one.
	reopenPercent = 90
	// descriptorsBeside are the store's files, the tunnel's sockets and the stats server's; where there are not that many, half of what
	// there is. The rest is for flows: one each, and one more for a connection that is carried raw and has both of its sockets here.
	descriptorsBeside = 1000
)

// admission is the door for new connections: it closes when as many flows run as may, and opens again with room to spare.
type admission struct {
	descriptors int           // for flows; 0: unknown
	attention   chan struct{} // holds a token when the rules should follow at once: the door has closed, or a peer is gone

	mu     sync.Mutex
	shut   policy.Reason // why the door is closed; None while it is open
	strain strain
}

func newAdmission() *admission {
	a := &admission{attention: make(chan struct{}, 1)}
	var files unix.Rlimit
	if err := unix.Getrlimit(unix.RLIMIT_NOFILE, &files); err == nil {
		a.descriptors = FlowDescriptors(files.Cur)
	}
	return a
}

// FlowDescriptors is how many accelerated flows a process can hold that may open so many descriptors.
func FlowDescriptors(files uint64) int {
	return int(min(files-min(descriptorsBeside, files/2), 1<<30))
}

// update is told how many flows run, how many of them are carried raw, and how many are allowed, and says why no more are taken, or None.
func (a *admission) update(flows, raw, limit int) policy.Reason {
	a.mu.Lock()
	defer a.mu.Unlock()
	if a.strain.over {
		return policy.Overload
	}
	most, was := cmp.Or(a.descriptors, math.MaxInt32), a.shut
	switch {
	case flows >= limit:
		a.shut = policy.FlowLimit
	case flows+raw >= most:
		a.shut = policy.Overload
	case flows <= limit*reopenPercent/100 && flows+raw <= most*reopenPercent/100:
		a.shut = policy.None
	}
	if a.shut != policy.None && was == policy.None {
		a.look()
	}
	return a.shut
}

// look asks for the rules to be compared with the state of things at once.
func (a *admission) look() {
	select {
	case a.attention <- struct{}{}:
	default:
	}
}

// looked is told how late the gateway's own regular look at things came.
func (a *admission) looked(now time.Time, late time.Duration) {
	a.mu.Lock()
	defer a.mu.Unlock()
	a.strain.look(now, late)
}

// lag is how late the looks came lately.
func (a *admission) lag() time.Duration {
	a.mu.Lock()
	defer a.mu.Unlock()
	return a.strain.lag
}

// admits says why no more connections are taken at this moment, or None.
func (g *Gateway) admits() policy.Reason {
	return g.admission.update(g.flows.count(), g.flows.countRaw(), g.cfg.Load().Limits.Flows)
}

// room is one peer's share of limits.memory: it is used up when not even the smallest window fits for one more flow.
type room struct{ full bool }

// update is told the credit that flows hold and the most they may, both in bytes, and says whether there is no room.
func (r *room) update(granted, budget int64) bool {
	switch {
	case granted+config.FlowFloorBytes > budget:
		r.full = true
	case granted <= budget/100*reopenPercent:
		r.full = false
	}
	return r.full
}

// followAdmission lets the rules follow the door: while it is closed connections pass raw, past this process.
func (g *Gateway) followAdmission() error {
	if g.draining.Load() {
		return nil
	}
	why := g.admits()
	for _, m := range g.peers {
		want := why
		if m.room.update(m.Link().Credit()) && want == policy.None {
			want = policy.MemoryLimit
		}
		if last := policy.Reason(m.shut.Load()); want == last {
			continue
		}
		if peer.State(m.announced.Load()) == peer.Up {
			if err := g.divert(m, want); err != nil {
				return err
			}
		}
		m.shut.Store(int32(want))
		if want == policy.None {
			g.log.Info("connections are accelerated again", "peer", m.Name(), "flows", g.flows.count())
			g.events.Add(stats.EventOverloadOver, m.Name(), "connections are accelerated again")
			continue
		}
		g.log.Warn("at its limit: new connections pass raw", "peer", m.Name(), "flows", g.flows.count(), "reason", want)
		g.events.Add(stats.EventOverload, m.Name(), "new connections pass raw: "+want.Explain().Text)
	}
	return nil
}

// divert lets new connections to a peer that is up be taken, unless there is a reason not to.
func (g *Gateway) divert(m *member, why policy.Reason) error {
	switch {
	case g.intercept == nil || g.draining.Load():
		return nil
	case why != policy.None:
		return g.intercept.SetPeerDead(m.Name(), why.String())
	default:
		hello := m.Hello()
		return g.intercept.SetPeerAlive(m.Name(), hello.OwnSubnets, hello.OwnAddrs)
	}
}
