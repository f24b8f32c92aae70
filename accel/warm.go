package accel

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net/netip"
	"strings"

	"wanpair/accel/control"
	"wanpair/accel/peer"
	"wanpair/accel/stats"
)

// warmDestination is what the flow list shows of a warm-up.
const warmDestination = "cache warm-up"

// Warm sends what r yields through the tunnel once, so that both histories hold it, and returns when the peer has verified all of it. It goes like any
// flow: encoded against what is there already, within credit and the rate of the link. name may be empty where there is one peer only. A warm-up that
// breaks off can be repeated: what arrived costs next to nothing then.
func (g *Gateway) Warm(ctx context.Context, name string, r io.Reader) (control.Warmed, error) {
	p, err := g.warmPeer(name)
	if err != nil {
		return control.Warmed{}, err
	}
	if g.draining.Load() {
		return control.Warmed{}, fmt.Errorf("%w: the gateway stops", control.ErrUnavailable)
	}
	stream, err := p.OpenWarm()
	switch {
	case errors.Is(err, peer.ErrNoWarm):
		return control.Warmed{}, fmt.Errorf("%w: %w: upgrade the gateway of %s first", control.ErrRefused, err, p.Name())
	case err != nil:
		return control.Warmed{}, fmt.Errorf("%w: peer %s is %s: %w", control.ErrUnavailable, p.Name(), p.State(), err)
	}
	defer stream.Close()
	f := &runningFlow{source: netip.AddrPortFrom(netip.IPv6Loopback(), 0), destination: warmDestination, peer: p.Name(), near: true}
	g.flows.add(f)
	how := stats.OutcomeError
	defer func() { g.flows.remove(f, how) }()
	f.attachStream(stream)
	g.log.Info("warm-up of the cache began", "peer", p.Name())
	err = stream.Warm(ctx, r, func(n int) { f.count.FromEdge.Add(int64(n)) })
	how = outcomeOf(err)
	wire, _ := stream.WANBytes()
	out := control.Warmed{Peer: p.Name(), RawBytes: f.count.FromEdge.Load(), WireBytes: wire}
	if err != nil {
		g.log.Warn("warm-up of the cache broke off", "peer", p.Name(), "bytes", out.RawBytes, "err", err)
		return out, fmt.Errorf("broke off after %d bytes: %w; run it again, what has arrived costs next to nothing", out.RawBytes, err)
	}
	g.log.Info("warm-up of the cache ended", "peer", p.Name(), "bytes", out.RawBytes, "wire_bytes", wire)
	return out, nil
}

func (g *Gateway) warmPeer(name string) (*peer.Peer, error) {
	var names []string
	for _, p := range g.peers {
		if p.Name() == name || name == "" && len(g.peers) == 1 {
			return p.Peer, nil
		}
		names = append(names, p.Name())
	}
	if name == "" {
		return nil, fmt.Errorf("%w: say which peer: %s", control.ErrRefused, strings.Join(names, ", "))
	}
	return nil, fmt.Errorf("%w: there is no peer %q, only %s", control.ErrRefused, name, strings.Join(names, ", "))
}
