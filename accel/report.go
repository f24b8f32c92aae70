package accel

import (
	"time"

	"wanpair/accel/peer"
	"wanpair/accel/policy"
	"wanpair/accel/stats"
	"wanpair/transport"
)

// Source is where the stats server gets its figures.
func (g *Gateway) Source() stats.Source {
	return stats.Source{Snapshot: g.snapshot, Peers: g.peerSnapshots, Flows: g.listFlows, Top: g.top}
}

// Events are what happened, for the stats server.
func (g *Gateway) Events() *stats.Events { return g.events }

func (g *Gateway) snapshot() stats.Snapshot {
	ended, passed := g.flows.totals()
	s := stats.Snapshot{
		Site:           g.cfg.Load().Site.Name,
		Version:        g.version,
		Started:        g.started,
		FlowsEnded:     ended,
		FlowsPassed:    passed,
		EncoderQueue:   g.admission.lag(),
		MemoryCapacity: g.cfg.Load().Limits.MemoryBytes,
		Cache:          stats.Cache{CapacityBytes: g.cfg.Load().Cache.SizeBytes},
	}
	g.addRaw(s.FlowsPassed)
	s.FlowsActive = g.flows.count()
	s.Peers = g.peerSnapshots()
	up := 0
	for _, p := range g.peers {
		granted, _ := p.Link().Credit()
		s.MemoryBytes += granted
		codec := p.Codec().Stats()
		s.Cache.SizeBytes += codec.CacheBytes
		s.Cache.MemoryBytes += codec.HotBytes + codec.OpenBytes + codec.IndexBytes
		s.Cache.Epochs += codec.StoreEpochs
		switch {
		case s.Cache.Off != "":
		case codec.StoreOff != "":
			s.Cache.Off = p.Name() + ": " + codec.StoreOff
		case codec.StoreFull:
			s.Cache.Off = "nothing new is kept: the file system of cache.dir is nearly full"
		}
		if peer.State(p.announced.Load()) == peer.Up {
			up++
		}
	}
	if fault := g.fault.Load(); fault != nil {
		s.Unhealthy = "interception is suspended, connections pass raw: " + *fault
	}
	if up == 0 {
		s.NotReady = "no peer is up: all connections pass raw"
	}
	return s
}

// addRaw adds the connections that never came here: the kernel's rules counted them.
func (g *Gateway) addRaw(passed map[policy.Reason]uint64) {
	if g.intercept == nil {
		return
	}
	counters, err := g.intercept.Counters()
	if err != nil {
		return // not installed yet, or gone at the end
	}
	add := func(byReason map[string]uint64) {
		for name, n := range byReason {
			if reason, ok := policy.Named(name); ok {
				passed[reason] += n
			}
		}
	}
	add(counters.Raw)
	for _, byReason := range counters.RawPeer {
		add(byReason)
	}
}

func (g *Gateway) peerSnapshots() []stats.Peer {
	active := g.flows.countByPeer()
	out := make([]stats.Peer, 0, len(g.peers))
	for _, p := range g.peers {
		out = append(out, g.peerSnapshot(p, p.Link().Stats(), active[p.Name()]))
	}
	return out
}

func (g *Gateway) peerSnapshot(p *member, link transport.LinkStats, active int) stats.Peer {
	codec, counters, hello := p.Codec().Stats(), p.Counters(), p.Hello()
	out := stats.Peer{
		Name:        p.Name(),
		State:       stateOf(peer.State(p.announced.Load())),
		Since:       time.Unix(0, p.since.Load()),
		RTT:         link.RTT,
		LossRatio:   link.LossRatio,
		Lanes:       len(link.Lanes),
		Software:    hello.Software,
		LAN:         stats.Traffic{Sent: uint64(counters.LANSent.Load()), Received: uint64(counters.LANReceived.Load())},
		WAN:         stats.Traffic{Sent: link.WANSent, Received: link.WANReceived},
		Skew:        link.ClockSkew,
		ResentBytes: link.ResentBytes + link.LostBytes,
		HitAgeBytes: uint64(codec.HitAgeBytes),
		Sent: stats.Gain{
			MatchedBytes:     uint64(codec.MatchedBytes),
			LiteralBytes:     uint64(codec.LiteralBytes),
			LiteralWireBytes: uint64(codec.LiteralCodedBytes),
			OpaqueBytes:      uint64(codec.OpaqueBytes),
		},
		Received: stats.Gain{
			MatchedBytes:     uint64(codec.MatchedInBytes),
			LiteralBytes:     uint64(codec.LiteralInBytes),
			LiteralWireBytes: uint64(codec.LiteralInCoded),
			OpaqueBytes:      uint64(codec.OpaqueInBytes),
		},
		FlowsActive: active,
		MissRepairs: uint64(codec.Repairs),
		FrameErrors: uint64(counters.FrameErrors.Load()),
		ZstdLevel:   codec.EffortLevel,
	}
	if link.State == transport.StateHeld {
		out.FlowsHeld = active
	}
	for _, c := range link.Classes {
		out.Classes = append(out.Classes, stats.Class(c))
	}
	if out.State != stats.StateUp {
		out.Detail = detail(link)
	}
	return out
}

func detail(link transport.LinkStats) string {
	if link.LastError != "" {
		return link.LastError
	}
	if len(link.Lanes) > 0 {
		return "connected, waiting for the first proof that both sides work"
	}
	return "no answer yet"
}

func stateOf(s peer.State) stats.State {
	switch s {
	case peer.Up:
		return stats.StateUp
	case peer.Connecting:
		return stats.StateConnecting
	default:
		return stats.StateDown
	}
}

func (g *Gateway) listFlows() []stats.Flow {
	running := g.flows.all()
	held := make(map[string]bool)
	for _, p := range g.peers {
		held[p.Name()] = p.Link().Stats().State == transport.StateHeld
	}
	out := make([]stats.Flow, 0, len(running))
	noCache := make(map[string]bool)
	for _, p := range g.peers {
		noCache[p.Name()] = p.Codec().Stats().StoreOff != ""
	}
	for _, f := range running {
		described := f.describe()
		if described.Reason == policy.None && noCache[f.peer] {
			described.Reason = policy.CacheOff
		}
		if held[f.peer] && described.State != stats.FlowOpening {
			described.State = stats.FlowHeld
		}
		out = append(out, described)
	}
	return append(out, g.samples.recent()...)
}

// describe is the flow as the status shows it.
func (f *runningFlow) describe() stats.Flow {
	sent, received := f.wanBytes()
	state := stats.FlowOpen
	switch {
	case !f.near && !f.open.Load():
		state = stats.FlowOpening
	case f.halfClosed():
		state = stats.FlowHalfClosed
	}
	return stats.Flow{
		ID:          f.id,
		Source:      f.source.String(),
		Destination: f.destination,
		Peer:        f.peer,
		Class:       f.class,
		State:       state,
		Reason:      f.why(),
		LAN:         stats.Traffic{Sent: uint64(f.count.FromEdge.Load()), Received: uint64(f.count.ToEdge.Load())},
		WAN:         stats.Traffic{Sent: uint64(sent), Received: uint64(received)},
		Started:     f.started,
	}
}

// flowEnded passes an ended flow on to those who remember it.
func (g *Gateway) flowEnded(f *runningFlow, how stats.Outcome) {
	described := f.describe()
	g.top.Ended(described)
	if g.flowLog != nil {
		g.flowLog.Ended(described, how)
	}
}
