package accel

import (
	"sync"

	"golang.org/x/sys/unix"

	"wanpair/accel/peer"
	"wanpair/accel/policy"
	"wanpair/accel/stats"
)

const (
	// reopenPercent of a limit must not be exceeded for connections to be taken again: without the distance each flow that ends would let
	// one connection in, and the rules would change with every one.
	reopenPercent = 90
	// descriptorsPerFlow: a connection that is carried raw has both of its sockets here. descriptorsBeside are the store's files, the
	// tunnel's sockets and the stats server's; where there are not that many, half of what there is.
	descriptorsPerFlow = 2
	descriptorsBeside  = 1000
)

// admission is the door for new connections: it closes when as many flows run as may, and opens again with room to spare.
type admission struct {
	flowsByFiles int           // as many flows as there are descriptors for; 0: unknown
	crowded      chan struct{} // holds a token when the door has closed, so that the rules follow at once

	mu   sync.Mutex
	shut policy.Reason // why the door is closed; None while it is open
}

func newAdmission() *admission {
	a := &admission{crowded: make(chan struct{}, 1)}
	var files unix.Rlimit
	if err := unix.Getrlimit(unix.RLIMIT_NOFILE, &files); err == nil {
		a.flowsByFiles = flowsByFiles(files.Cur)
	}
	return a
}

func flowsByFiles(files uint64) int {
	beside := min(descriptorsBeside, files/2)
	return int(min((files-beside)/descriptorsPerFlow, 1<<30))
}

// update is told how many flows run and how many are allowed, and says why no more are taken, or None.
func (a *admission) update(flows, limit int) policy.Reason {
	a.mu.Lock()
	defer a.mu.Unlock()
	why := policy.FlowLimit
	if a.flowsByFiles > 0 && a.flowsByFiles < limit {
		limit, why = a.flowsByFiles, policy.Overload
	}
	switch {
	case flows >= limit:
		if a.shut == policy.None {
			select {
			case a.crowded <- struct{}{}:
			default:
			}
		}
		a.shut = why
	case flows <= limit*reopenPercent/100:
		a.shut = policy.None
	}
	return a.shut
}

// admits says why no more connections are taken at this moment, or None.
func (g *Gateway) admits() policy.Reason {
	return g.admission.update(g.flows.count(), g.cfg.Load().Limits.Flows)
}

// followAdmission lets the rules follow the door: while it is closed connections pass raw, past this process.
func (g *Gateway) followAdmission() error {
	why := g.admits()
	if why == g.shut || g.draining.Load() {
		return nil
	}
	for _, p := range g.peers {
		if peer.State(p.announced.Load()) != peer.Up {
			continue
		}
		if err := g.divert(p.Peer, why); err != nil {
			return err
		}
	}
	g.shut = why
	if why == policy.None {
		g.log.Info("connections are accelerated again", "flows", g.flows.count())
		g.events.Add(stats.EventOverloadOver, "", "connections are accelerated again")
		return nil
	}
	g.log.Warn("full: new connections pass raw", "flows", g.flows.count(), "reason", why)
	g.events.Add(stats.EventOverload, "", "new connections pass raw: "+why.Explain().Text)
	return nil
}

// divert lets new connections to a peer that is up be taken, unless there is a reason not to.
func (g *Gateway) divert(p *peer.Peer, why policy.Reason) error {
	switch {
	case g.intercept == nil || g.draining.Load():
		return nil
	case why != policy.None:
		return g.intercept.SetPeerDead(p.Name(), why.String())
	default:
		hello := p.Hello()
		return g.intercept.SetPeerAlive(p.Name(), hello.OwnSubnets, hello.OwnAddrs)
	}
}
