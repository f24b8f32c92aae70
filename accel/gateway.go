// Package accel is one site's gateway: it takes connections from the LAN to the peers and the peers' flows to the LAN.
//
// It owns the life of the gateway (start, serve, drain, stop), admission, the table of running flows, and the near and far side of a
// flow. How packets are diverted, how bytes are coded and how the tunnel works is the business of the packages it joins.
//
// What it promises: a connection it cannot accelerate goes raw or is reset, with a numbered reason; it is never left hanging and never
// ended as if all had been well.
package accel

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"net"
	"net/netip"
	"sync"
	"sync/atomic"
	"time"

	"golang.org/x/sync/errgroup"

	"wanpair/accel/config"
	"wanpair/accel/egress"
	"wanpair/accel/flow"
	"wanpair/accel/intercept"
	"wanpair/accel/peer"
	"wanpair/accel/policy"
	"wanpair/accel/stats"
	"wanpair/internal/beat"
)

// Parts are what a gateway is made of, built by the command.
type Parts struct {
	Log       *slog.Logger
	Config    *config.Config
	Version   string
	FlowLog   *stats.FlowLog         // nil: none is kept
	OwnAddrs  []netip.Addr           // of this host
	Intercept *intercept.Interceptor // nil where nothing is intercepted
	Dialer    *egress.Dialer         // for the peers' flows
	Raw       *egress.Dialer         // for connections of this LAN that were accepted but cannot be tunnelled: its targets are the peers' subnets
}

// Gateway is one site's gateway.
type Gateway struct {
	log       *slog.Logger
	cfg       atomic.Pointer[config.Config] // replaced by Reload
	intercept *intercept.Interceptor
	dialer    *egress.Dialer
	raw       *egress.Dialer
	peers     []*member
	local     []*localListener
	buffers   *flow.Buffers
	flows     *flowTable
	changing  sync.Mutex // held while policy or ownAddrs are replaced
	policy    atomic.Pointer[policy.Policy]
	draining  atomic.Bool
	admission *admission
	refusals  *refusals
	top       *stats.Top
	flowLog   *stats.FlowLog // nil: none is kept
	samples   *sampleRing
	events    *stats.Events
	version   string
	ownAddrs  []netip.Addr
	fault     atomic.Pointer[string] // why nothing is diverted though peers are up
	started   time.Time

	serving sync.WaitGroup // one per running flow on the near side; the far side is waited for by its session
}

// maxEvents is how many events are kept for the status page.
const maxEvents = 256

// drainTimeout is how long running flows may go on after the gateway was told to stop.
const drainTimeout = 10 * time.Second

// settleTimeout is how long ended connections may take to deliver their last bytes before the rules they need are removed.
const settleTimeout = 5 * time.Second

// New joins the parts. Peers are added with AddPeer before Run; it starts nothing but opens the listeners of the forwards, so that a
// port in use is an error of the start.
func New(ctx context.Context, parts Parts) (*Gateway, error) {
	g := &Gateway{
		log:       parts.Log,
		intercept: parts.Intercept,
		dialer:    parts.Dialer,
		raw:       parts.Raw,
		buffers:   flow.NewBuffers(),
		top:       stats.NewTop(),
		flowLog:   parts.FlowLog,
		samples:   newSampleRing(),
		admission: newAdmission(),
		refusals:  newRefusals(time.Now),
		events:    stats.NewEvents(maxEvents),
		version:   parts.Version,
		ownAddrs:  parts.OwnAddrs,
		started:   time.Now(),
	}
	g.flows = newFlowTable(g.flowEnded)
	g.cfg.Store(parts.Config)
	g.policy.Store(policy.New(parts.Config, parts.OwnAddrs))
	open := func(what string, at netip.AddrPort, serve func(context.Context, *net.TCPConn)) error {
		l, err := listenLocal(ctx, what, at, serve)
		if err != nil {
			return errors.Join(err, g.closeLocal())
		}
		g.local = append(g.local, l)
		return nil
	}
	for _, f := range parts.Config.Forwards {
		if err := open("forward to "+f.Target, f.Listen, func(ctx context.Context, c *net.TCPConn) { g.serveForward(ctx, f, c) }); err != nil {
			return nil, err
		}
	}
	if s := parts.Config.Socks; s != nil {
		if err := open("SOCKS listener", s.Listen, func(ctx context.Context, c *net.TCPConn) { g.serveSocks(ctx, s, c) }); err != nil {
			return nil, err
		}
	}
	return g, nil
}

// member is a peer of this gateway.
type member struct {
	*peer.Peer
	announced atomic.Int32 // the peer.State that rules, log and events have followed; it is what the status says
	since     atomic.Int64 // unix ns of that
	room      room         // watchPeers' own
	shut      atomic.Int32 // the policy.Reason for which the rules let nothing in although the peer is up, or None
}

func (m *member) announce(s peer.State) {
	m.announced.Store(int32(s))
	m.since.Store(time.Now().UnixNano())
}

// AddPeer adds a peer. Its Config.Serve must be g.ServeStream.
func (g *Gateway) AddPeer(p *peer.Peer) {
	m := &member{Peer: p}
	m.announce(peer.Down)
	g.peers = append(g.peers, m)
}

func (g *Gateway) peerByName(name string) *peer.Peer {
	for _, p := range g.peers {
		if p.Name() == name {
			return p.Peer
		}
	}
	return nil
}

// Run serves until ctx ends; ready is called when rules and listeners stand. Then it drains: no new connection is diverted, running flows may go on for drainTimeout, the rest is reset.
func (g *Gateway) Run(ctx context.Context, ready func()) error {
	// Peers, rules and the flows outlive ctx by the drain.
	running, stop := context.WithCancel(context.WithoutCancel(ctx))
	defer stop()

	lasting, lastingCtx := errgroup.WithContext(running)
	for _, p := range g.peers {
		lasting.Go(func() error { return p.Run(lastingCtx) })
	}
	if g.intercept != nil {
		if err := g.intercept.Install(ctx); err != nil {
			stop()
			if errors.Is(err, context.Canceled) && ctx.Err() != nil { // told to stop before it had started
				return errors.Join(lasting.Wait(), g.closeLocal())
			}
			return errors.Join(fmt.Errorf("intercept: %w", err), lasting.Wait(), g.closeLocal())
		}
		lasting.Go(func() error { return g.intercept.Run(lastingCtx) })
		lasting.Go(func() error { return g.intercept.Samples(lastingCtx, g.samples.add) })
	}
	lasting.Go(func() error { return g.watchPeers(lastingCtx) })

	ready()
	g.events.Add(stats.EventStarted, "", "the gateway runs, version "+g.version)

	// accepting ends with ctx, or when a lasting part failed.
	accepting, acceptCtx := errgroup.WithContext(ctx)
	accepting.Go(func() error {
		select {
		case <-lastingCtx.Done():
			return context.Cause(lastingCtx)
		case <-acceptCtx.Done():
			return nil
		}
	})
	// What the rules brought here is taken longer than that: until diverting has stopped.
	taking, stopTaking := context.WithCancel(running)
	defer stopTaking()
	var taken sync.WaitGroup
	if g.intercept != nil {
		taken.Add(1)
		lasting.Go(func() error {
			defer taken.Done()
			return g.acceptIntercepted(taking, running)
		})
	}
	for _, l := range g.local {
		accepting.Go(func() error { return g.acceptLocal(acceptCtx, running, l) })
	}
	err := accepting.Wait()
	if errors.Is(err, context.Canceled) {
		err = nil
	}
	err = errors.Join(err, g.closeLocal())
	g.drain(running, func() { stopTaking(); taken.Wait() })
	if g.intercept != nil {
		settling, cancel := context.WithTimeout(running, settleTimeout)
		if err := g.intercept.Settle(settling); err != nil {
			g.log.Warn("some ended connections have not delivered their last bytes", "err", err)
		}
		cancel()
		err = errors.Join(err, g.intercept.Remove())
	}
	stop()
	return errors.Join(err, lasting.Wait())
}

// drain waits for running flows, then resets what is left. stopTaking ends the taking of intercepted connections.
func (g *Gateway) drain(ctx context.Context, stopTaking func()) {
	g.draining.Store(true)
	g.events.Add(stats.EventStopping, "", "the gateway stops: no new connections, running ones may end")
	if g.intercept != nil {
		if err := g.intercept.StopDiverting(policy.Draining.String()); err != nil {
			g.log.Warn("stop diverting", "err", err)
		}
	}
	for _, p := range g.peers {
		p.Drain("the gateway stops")
	}
	pause(ctx, g.lastCall())
	stopTaking()
	if n := g.flows.count(); n > 0 {
		g.log.Info("draining", "flows", n, "timeout", drainTimeout)
	}
	deadline := time.NewTimer(drainTimeout)
	defer deadline.Stop()
	ticker := time.NewTicker(peerWatchInterval)
	defer ticker.Stop()
	empty := g.flows.whenEmpty()
	for done := false; !done; {
		// A flow whose link is gone cannot end by itself: its other side is held there, or gone too.
		for _, p := range g.peers {
			if p.State() == peer.Down {
				g.flows.abortAll(p.Name(), errShutdown)
			}
		}
		select {
		case <-empty:
			done = true
		case <-ticker.C:
		case <-deadline.C:
			g.log.Warn("reset flows that did not end in time", "flows", g.flows.count())
			g.flows.abortAll("", errShutdown)
			done = true
		}
	}
	g.serving.Wait()
}

// lastCall is how long flows can still begin after this side said that it stops: connections that wait to be accepted, and flows that the
// peers opened before they heard of it.
func (g *Gateway) lastCall() time.Duration {
	const accepting, longest = 100 * time.Millisecond, 2 * time.Second
	var wait time.Duration
	if g.intercept != nil {
		wait = accepting
	}
	for _, p := range g.peers {
		if p.State() != peer.Down {
			wait = max(wait, accepting+2*p.EchoRTT())
		}
	}
	return min(wait, longest)
}

// Close closes the listeners of a gateway that is never run.
func (g *Gateway) Close() error { return g.closeLocal() }

func (g *Gateway) closeLocal() error {
	var errs []error
	for _, l := range g.local {
		errs = append(errs, l.close())
	}
	return errors.Join(errs...)
}

// peerWatchInterval is how often the state of the peers is compared with what is diverted: it bounds how long new connections still
// meet a peer that has just gone. While peers are up and no connection comes it is quietWatchInterval, so that an idle gateway lets the
// processor sleep: the first connection that finds no way through the tunnel calls for a look at once.
const (
	peerWatchInterval  = 50 * time.Millisecond
	quietWatchInterval = 500 * time.Millisecond
)

// watchPeers tells intercept which peers are alive and writes the events of their comings and goings.
func (g *Gateway) watchPeers(ctx context.Context) error {
	timer := time.NewTimer(peerWatchInterval)
	defer timer.Stop()
	begunBefore := uint64(0)
	for {
		begun := g.flows.begun()
		interval := quietWatchInterval
		if begun != begunBefore {
			interval = peerWatchInterval
		}
		begunBefore = begun
		for _, p := range g.peers {
			last := peer.State(p.announced.Load())
			if state := p.State(); state != last {
				if err := g.peerChanged(p, last, state); err != nil {
					g.log.Error("rules could not follow the peer's state, trying again", "peer", p.Name(), "err", err)
					interval = peerWatchInterval
					continue
				}
				p.announce(state)
			}
			if last != peer.Up {
				interval = peerWatchInterval
			}
		}
		if err := g.followAdmission(); err != nil {
			g.log.Error("rules could not follow the number of flows, trying again", "err", err)
			interval = peerWatchInterval
		}
		if interval == quietWatchInterval { // where others wait for the same moments they wake the process together
			interval = beat.Until(quietWatchInterval)
		}
		timer.Reset(interval)
		began := time.Now()
		select {
		case <-ctx.Done():
			return nil
		case <-timer.C:
			now := time.Now()
			g.admission.looked(now, now.Sub(began)-interval)
		case <-g.admission.attention:
		}
	}
}

func (g *Gateway) peerChanged(p *member, from, to peer.State) error {
	if to == peer.Up {
		hello := p.Hello()
		g.changing.Lock()
		g.policy.Store(g.policy.Load().WithPeerAddrs(p.Name(), hello.OwnAddrs))
		g.changing.Unlock()
		if err := g.divert(p, policy.Reason(p.shut.Load())); err != nil {
			return err
		}
		g.log.Info("peer up: connections are accelerated", "peer", p.Name(), "site", hello.Site, "rtt", p.Link().Stats().RTT)
		g.events.Add(stats.EventPeerUp, p.Name(), "connections are accelerated")
		g.compareSubnets(p.Peer)
		return nil
	}
	reason := policy.PeerDown
	if to == peer.Connecting {
		reason = policy.PeerConnecting
	}
	if g.intercept != nil {
		if err := g.intercept.SetPeerDead(p.Name(), reason.String()); err != nil {
			return err
		}
	}
	g.log.Warn("peer not up: new connections pass raw", "peer", p.Name(), "state", to, "err", p.Link().Stats().LastError)
	if from == peer.Up {
		g.events.Add(stats.EventPeerDown, p.Name(), "new connections pass raw")
	}
	return nil
}

// Alive says whether connections to a peer may be diverted at this moment: what the rules' time-out rests on.
func (g *Gateway) Alive(name string) bool {
	p := g.peerByName(name)
	return p != nil && p.State() == peer.Up
}

// compareSubnets says where both sides' configurations do not agree: those connections would be refused by the far side.
func (g *Gateway) compareSubnets(p *peer.Peer) {
	hello := p.Hello()
	for _, c := range g.cfg.Load().Peers {
		if c.Name != p.Name() {
			continue
		}
		for _, difference := range subnetDifferences(c.Subnets, hello.OwnSubnets) {
			g.log.Warn("subnets do not match", "peer", p.Name(), "detail", difference)
			g.events.Add(stats.EventSubnetMismatch, p.Name(), difference)
		}
	}
}

func subnetDifferences(configuredHere, announced []netip.Prefix) []string {
	if len(announced) == 0 {
		return nil // a site with forwards only owns nothing
	}
	var out []string
	for _, here := range configuredHere {
		covered := false
		for _, there := range announced {
			covered = covered || there.Bits() <= here.Bits() && there.Contains(here.Addr())
		}
		if !covered {
			out = append(out, fmt.Sprintf("%s is listed as the peer's here, but the peer does not own it: connections there would be denied", here))
		}
	}
	return out
}
