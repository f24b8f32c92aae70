package accel

import (
	"context"
	"errors"
	"fmt"
	"net"
	"net/netip"
	"strconv"
	"time"

	"wanpair/accel/config"
	"wanpair/accel/edge"
	"wanpair/accel/egress"
	"wanpair/accel/flow"
	"wanpair/accel/peer"
	"wanpair/accel/policy"
	"wanpair/accel/stats"
	"wanpair/transport"
)

var errShutdown = &peer.DialError{Code: transport.AbortShutdown, Err: errors.New("the gateway stops")}

// acceptIntercepted takes diverted connections until ctx ends. Their flows live in running.
func (g *Gateway) acceptIntercepted(ctx, running context.Context) error {
	for {
		e, err := g.intercept.Accept(ctx)
		if err != nil {
			if ctx.Err() != nil {
				return nil
			}
			if !isTemporary(err) {
				return fmt.Errorf("accept intercepted connection: %w", err)
			}
			g.log.Warn("accept failed, trying again", "err", err)
			pause(ctx, 100*time.Millisecond)
			continue
		}
		g.serving.Go(func() { g.serveIntercepted(running, e) })
	}
}

func (g *Gateway) serveIntercepted(ctx context.Context, e *edge.Conn) {
	client, original := e.RemoteAddr(), e.LocalAddr()
	name, _ := g.policy.Load().Peer(original.Addr())
	p := g.peerByName(name)
	f := &runningFlow{source: client, destination: original.String(), peer: name, near: true}
	situation := g.situation(p)
	situation.Refused = g.refusals.active(original)
	decision := g.policy.Load().Decide(client, original, situation)
	open := peer.OpenRequest{Kind: peer.Intercepted, Client: client, Target: original, Class: decision.Class,
		Relay: decision.Action == policy.Relay, NoHistory: decision.Action == policy.Compress, Scope: decision.Scope}
	g.carry(ctx, e, p, f, decision, open, func(ctx context.Context) (*edge.Conn, error) {
		return g.raw.DialAsClient(ctx, client, original, g.cfg.Load().OwnSubnets())
	})
}

func (g *Gateway) serveForward(ctx context.Context, fw config.Forward, c *net.TCPConn) {
	client := addrPort(c.RemoteAddr())
	e, err := edge.New(c, edge.Options{})
	if err != nil {
		g.log.Debug("connection was gone", "src", client, "err", err)
		return
	}
	p := g.peerByName(fw.Peer)
	f := &runningFlow{source: client, destination: fw.Target, peer: fw.Peer, near: true}
	decision := g.decideForward(client, fw, p)
	open := peer.OpenRequest{Kind: peer.Forward, Client: client, TargetName: fw.Target, Class: decision.Class,
		Relay: decision.Action == policy.Relay, NoHistory: decision.Action == policy.Compress, Scope: decision.Scope}
	g.carry(ctx, e, p, f, decision, open, func(ctx context.Context) (*edge.Conn, error) { return g.raw.DialOwn(ctx, fw.Target) })
}

// decideForward asks the policy. Where the target is a name, its address is only known at the far side: then classes that go by subnet
// do not apply and the peer's first subnet stands for it.
func (g *Gateway) decideForward(client netip.AddrPort, fw config.Forward, p *peer.Peer) policy.Decision {
	target, err := netip.ParseAddrPort(fw.Target)
	if err != nil {
		cfg, _ := g.cfg.Load().Peer(fw.Peer)
		target = netip.AddrPortFrom(cfg.Subnets[0].Addr(), portOf(fw.Target))
	}
	return g.policy.Load().DecideForward(client, target, g.situation(p))
}

func portOf(hostport string) uint16 {
	_, port, err := net.SplitHostPort(hostport)
	if err != nil {
		return 0
	}
	n, err := strconv.ParseUint(port, 10, 16)
	if err != nil {
		return 0
	}
	return uint16(n)
}

// situation is what the policy needs to know of this moment. p may be nil.
func (g *Gateway) situation(p *peer.Peer) policy.Situation {
	full := g.admits()
	s := policy.Situation{FlowsFull: full == policy.FlowLimit, Overloaded: full == policy.Overload, Draining: g.draining.Load()}
	if p == nil {
		return s
	}
	for _, m := range g.peers {
		if m.Peer == p {
			s.MemoryFull = policy.Reason(m.shut.Load()) == policy.MemoryLimit
		}
	}
	switch p.State() {
	case peer.Up:
		s.Link = policy.LinkUp
	case peer.Connecting:
		s.Link = policy.LinkConnecting
	case peer.Down:
		s.Link = policy.LinkDown
	}
	return s
}

// carry takes one accepted connection to its end: through the tunnel, or raw when the tunnel cannot have it.
func (g *Gateway) carry(ctx context.Context, e *edge.Conn, p *peer.Peer, f *runningFlow, decision policy.Decision, open peer.OpenRequest, dialRaw func(context.Context) (*edge.Conn, error)) {
	f.class = decision.Class
	g.flows.add(f)
	how := raw
	defer func() { g.flows.remove(f, how) }()

	f.setReason(decision.Reason)
	if decision.Action != policy.Pass && p != nil {
		var stream *peer.Stream
		var err error
		flow.Deep(func() { stream, err = p.Open(open) })
		if err == nil {
			how = g.carryTunnel(e, stream, f)
			return
		}
		f.setReason(notOpened(p, err))
		g.admission.look()
	}
	g.carryRaw(ctx, e, f, dialRaw)
}

// notOpened is the reason of a connection that could not be given to the tunnel.
func notOpened(p *peer.Peer, err error) policy.Reason {
	switch {
	case errors.Is(err, transport.ErrFlowLimit):
		return policy.PeerLimit
	case errors.Is(err, transport.ErrDraining):
		return policy.Draining
	case p.State() == peer.Down:
		return policy.PeerDown
	default:
		return policy.PeerConnecting
	}
}

func (g *Gateway) carryTunnel(e *edge.Conn, stream *peer.Stream, f *runningFlow) stats.Outcome {
	defer stream.Close()
	f.attachStream(stream)
	err := flow.Run(e, stream, g.buffers, &f.count)
	g.logEnd(f, err)
	g.noteRefusal(stream.Request, err)
	return outcomeOf(err)
}

// noteRefusal lets the next connections to a server that refused pass raw, where they meet its own answer.
func (g *Gateway) noteRefusal(r peer.OpenRequest, err error) {
	var aborted *transport.AbortError
	if r.Kind != peer.Intercepted || !errors.As(err, &aborted) || aborted.Code != transport.AbortRefused {
		return
	}
	if err := g.intercept.Refuse(r.Target, g.refusals.note(r.Target)); err != nil {
		g.log.Warn("bypass of a refusing server", "dst", r.Target, "err", err)
	}
}

// carryRaw joins the connection with one to the same target over the bare link.
func (g *Gateway) carryRaw(ctx context.Context, e *edge.Conn, f *runningFlow, dialRaw func(context.Context) (*edge.Conn, error)) {
	defer g.flows.holdRaw()()
	ctx, cancel := context.WithCancelCause(ctx)
	defer cancel(nil)
	f.attach(func(cause error) { cancel(cause); e.Reset() })
	far, err := dialRaw(ctx)
	if err != nil {
		e.Reset()
		g.logEnd(f, err)
		return
	}
	g.logEnd(f, flow.Splice(e, far, g.buffers, &f.count))
}

func (g *Gateway) logEnd(f *runningFlow, err error) {
	g.log.Debug("flow ended", "flow", f.id, "peer", f.peer, "src", f.source, "dst", f.destination,
		"from_edge_bytes", f.count.FromEdge.Load(), "to_edge_bytes", f.count.ToEdge.Load(), "reason", f.why(), "err", err)
}

func outcomeOf(err error) stats.Outcome {
	var aborted *transport.AbortError
	switch {
	case err == nil:
		return stats.OutcomeClean
	case errors.Is(err, flow.ErrEdge):
		return stats.OutcomeReset
	case errors.As(err, &aborted):
		switch aborted.Code {
		case transport.AbortReset:
			return stats.OutcomeReset
		case transport.AbortRefused, transport.AbortUnreachable, transport.AbortDenied, transport.AbortSource:
			return stats.OutcomeRefused
		case transport.AbortLinkLost, transport.AbortPeerRestarted:
			return stats.OutcomeLost
		case transport.AbortShutdown:
			return stats.OutcomeShutdown
		default:
			return stats.OutcomeError
		}
	default:
		return stats.OutcomeError
	}
}

// ServeStream is the far side: it connects a flow the peer opened to its target. It is called in a goroutine of its own and returns when
// the flow has ended.
func (g *Gateway) ServeStream(ctx context.Context, p *peer.Peer, stream *peer.Stream) {
	defer stream.Close()
	r := stream.Request
	f := &runningFlow{source: r.Client, destination: r.Target.String(), peer: p.Name(), class: r.Class}
	if r.Kind == peer.Forward {
		f.destination = r.TargetName
	}
	g.flows.add(f)
	how := stats.OutcomeRefused
	defer func() { g.flows.remove(f, how) }()
	f.attachStream(stream)

	if g.flows.count() > 2*g.cfg.Load().Limits.Flows {
		stream.Abort(&peer.DialError{Code: transport.AbortLimit, Err: errors.New("flow limit")})
		return
	}
	var e *edge.Conn
	var err error
	flow.Deep(func() { e, err = g.connect(ctx, p, stream) })
	if err != nil {
		g.logEnd(f, err)
		stream.Abort(err)
		return
	}
	f.open.Store(true)
	err = flow.Run(e, stream, g.buffers, &f.count)
	g.logEnd(f, err)
	how = outcomeOf(err)
}

// ClassOf is the class of a flow that a peer opened, by this side's configuration.
func (g *Gateway) ClassOf(r peer.OpenRequest) string {
	target := r.Target
	if r.Kind == peer.Forward {
		target, _ = netip.ParseAddrPort(r.TargetName) // a name has no class but the one it was given
	}
	return g.policy.Load().ClassOf(r.Class, r.Client, target)
}

// connect reaches a flow's target and tells the near side.
func (g *Gateway) connect(ctx context.Context, p *peer.Peer, stream *peer.Stream) (*edge.Conn, error) {
	e, err := g.dialTarget(ctx, p, stream.Request)
	if err != nil {
		return nil, err
	}
	if err := stream.Answer(e.LocalAddr()); err != nil {
		e.Reset()
		return nil, err
	}
	return e, nil
}

// dialTarget connects to what the peer asked for, within what this side's configuration allows.
func (g *Gateway) dialTarget(ctx context.Context, p *peer.Peer, r peer.OpenRequest) (*edge.Conn, error) {
	var c *edge.Conn
	var err error
	switch {
	case r.Kind == peer.Intercepted && g.dialsAsClient():
		var sources []netip.Prefix
		for _, cfg := range g.cfg.Load().Peers {
			if cfg.Name == p.Name() {
				sources = cfg.Subnets
			}
		}
		c, err = g.dialer.DialAsClient(ctx, r.Client, r.Target, sources)
	case r.Kind == peer.Intercepted:
		c, err = g.dialer.DialOwn(ctx, r.Target.String())
	default:
		c, err = g.dialer.DialOwn(ctx, r.TargetName)
	}
	if err != nil {
		return nil, &peer.DialError{Code: dialCode(err), Err: err}
	}
	return c, nil
}

// dialsAsClient says whether intercepted connections of the peers are dialled with the client's own address: unless the configuration says
// otherwise where the rules that bring the answers back are installed.
func (g *Gateway) dialsAsClient() bool {
	switch g.cfg.Load().Egress.Source {
	case config.SourceOwn:
		return false
	case config.SourceClient:
		return true
	default:
		return g.intercept != nil
	}
}

// dialCode says with which code the near side hears of a failed dial.
func dialCode(err error) transport.AbortCode {
	switch egress.ReasonOf(err) {
	case egress.Refused:
		return transport.AbortRefused
	case egress.Unreachable:
		return transport.AbortUnreachable
	case egress.Denied:
		return transport.AbortDenied
	case egress.SourceClash:
		return transport.AbortSource
	case egress.Limit:
		return transport.AbortLimit
	default:
		return transport.AbortInternal
	}
}
