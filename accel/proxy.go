package accel

import (
	"context"
	"errors"
	"net"
	"net/netip"
	"time"

	"wanpair/accel/config"
	"wanpair/accel/edge"
	"wanpair/accel/egress"
	"wanpair/accel/peer"
	"wanpair/accel/policy"
	"wanpair/accel/socks"
	"wanpair/accel/stats"
	"wanpair/transport"
)

// handshakeTimeout is how long a SOCKS client may take to say what it wants.
const handshakeTimeout = 10 * time.Second

// serveSocks is one SOCKS 5 client: its target goes to the peer that owns it. The client is told that it is connected when it is, so
// refusals reach it as what they are.
func (g *Gateway) serveSocks(ctx context.Context, cfg *config.Socks, c *net.TCPConn) {
	client := addrPort(c.RemoteAddr())
	if !client.Addr().IsLoopback() && !containsAddr(cfg.Allow, client.Addr()) {
		g.log.Debug("SOCKS client refused: not in socks.allow", "src", client)
		_ = c.SetLinger(0)
		_ = c.Close()
		return
	}
	_ = c.SetDeadline(time.Now().Add(handshakeTimeout))
	target, err := socks.ReadRequest(c)
	if err != nil {
		g.log.Debug("SOCKS handshake failed", "src", client, "err", err)
		_ = c.Close()
		return
	}
	_ = c.SetDeadline(time.Time{})
	p, addr := g.socksPeer(ctx, target)
	e, err := edge.New(c, edge.Options{})
	if err != nil {
		return
	}
	f := &runningFlow{source: client, destination: target, near: true}
	if p != nil {
		f.peer = p.Name()
	}
	g.flows.add(f)
	how := raw
	defer func() { g.flows.remove(f, how) }()
	decision := g.policy.Load().DecideForward(client, addr, g.situation(p))
	f.setReason(decision.Reason)
	if p != nil && decision.Action != policy.Pass {
		stream, err := p.Open(peer.OpenRequest{Kind: peer.Forward, Client: client, TargetName: target, Class: decision.Class,
			Relay: decision.Action == policy.Relay, NoHistory: decision.Action == policy.Compress, Scope: decision.Scope})
		if err == nil {
			how = g.socksTunnel(e, stream, f)
			return
		}
		f.setReason(notOpened(p, err))
	}
	g.socksRaw(ctx, e, f, target)
}

// socksTunnel waits for the far side's word on the target, passes it on, and carries the flow.
func (g *Gateway) socksTunnel(e *edge.Conn, stream *peer.Stream, f *runningFlow) stats.Outcome {
	f.attachStream(stream)
	bound, err := stream.WaitAnswer()
	reply := socks.Succeeded
	if err != nil {
		reply = replyFor(err)
	}
	if writeErr := socks.WriteReply(e, reply, bound); err == nil {
		err = writeErr
	}
	if err != nil {
		stream.Abort(err)
		stream.Close()
		endAnswered(e)
		g.logEnd(f, err)
		return outcomeOf(err)
	}
	return g.carryTunnel(e, stream, f)
}

// socksRaw is the way without the tunnel: this gateway dials the target itself, as far as it lies in a peer's subnets.
func (g *Gateway) socksRaw(ctx context.Context, e *edge.Conn, f *runningFlow, target string) {
	g.carryRaw(ctx, e, f, func(ctx context.Context) (*edge.Conn, error) {
		far, err := g.raw.DialOwn(ctx, target)
		reply, bound := socks.Succeeded, netip.AddrPort{}
		if err != nil {
			reply = replyFor(err)
		} else {
			bound = far.LocalAddr()
		}
		writeErr := socks.WriteReply(e, reply, bound)
		switch {
		case err != nil:
			endAnswered(e)
		case writeErr != nil:
			far.Reset()
			return nil, writeErr
		}
		return far, err
	})
}

// endAnswered closes a client's connection behind a refusal, which is an answer that must arrive.
func endAnswered(e *edge.Conn) {
	if err := errors.Join(e.CloseWrite(), e.Finish()); err != nil {
		e.Reset()
	}
}

// socksPeer finds the peer a target belongs to. With one peer that is the one for every name, which it resolves; with several a name is
// resolved here to find out.
func (g *Gateway) socksPeer(ctx context.Context, target string) (*peer.Peer, netip.AddrPort) {
	if addr, err := netip.ParseAddrPort(target); err == nil {
		name, _ := g.policy.Load().Peer(addr.Addr())
		return g.peerByName(name), addr
	}
	if len(g.peers) == 1 {
		return g.peers[0].Peer, netip.AddrPortFrom(g.cfg.Load().Peers[0].Subnets[0].Addr(), portOf(target))
	}
	host, _, err := net.SplitHostPort(target)
	if err != nil {
		return nil, netip.AddrPort{}
	}
	addrs, err := net.DefaultResolver.LookupNetIP(ctx, "ip", host)
	if err != nil {
		return nil, netip.AddrPort{}
	}
	for _, a := range addrs {
		if name, known := g.policy.Load().Peer(a); known {
			return g.peerByName(name), netip.AddrPortFrom(a.Unmap(), portOf(target))
		}
	}
	return nil, netip.AddrPort{}
}

func containsAddr(list []netip.Prefix, a netip.Addr) bool {
	for _, p := range list {
		if p.Contains(a) {
			return true
		}
	}
	return false
}

// replyFor translates why a target was not reached.
func replyFor(err error) socks.Reply {
	code := transport.AbortInternal
	var aborted *transport.AbortError
	var failed *peer.DialError
	switch {
	case errors.As(err, &aborted):
		code = aborted.Code
	case errors.As(err, &failed):
		code = failed.Code
	case egress.ReasonOf(err) != egress.Failed:
		code = dialCode(err)
	}
	switch code {
	case transport.AbortRefused:
		return socks.Refused
	case transport.AbortUnreachable:
		return socks.HostUnreachable
	case transport.AbortDenied:
		return socks.NotAllowed
	default:
		return socks.Failure
	}
}
