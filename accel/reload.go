package accel

import (
	"fmt"
	"net/netip"

	"wanpair/accel/config"
	"wanpair/accel/intercept"
	"wanpair/accel/peer"
	"wanpair/accel/policy"
	"wanpair/accel/stats"
)

// Reload takes over a merged configuration (see config.Config.Reload) without touching running flows. rules is what the interceptor is to
// be configured with; it is ignored where nothing is intercepted. After an error everything is as it was.
func (g *Gateway) Reload(merged *config.Config, rules intercept.Config) error {
	if g.intercept != nil {
		if err := g.intercept.Reconfigure(rules); err != nil {
			return fmt.Errorf("reload: rules: %w", err)
		}
	}
	g.changing.Lock()
	defer g.changing.Unlock()
	next := policy.New(merged, g.ownAddrs)
	for _, p := range g.peers {
		if p.State() == peer.Up {
			next = next.WithPeerAddrs(p.Name(), p.Hello().OwnAddrs)
		}
	}
	for _, p := range g.peers {
		if err := p.Link().SetShares(merged.Shares()); err != nil {
			return fmt.Errorf("reload: shares: %w", err)
		}
	}
	g.cfg.Store(merged)
	g.policy.Store(next)
	g.events.Add(stats.EventReloaded, "", "the configuration was read again")
	return nil
}

// SetOwnAddrs is told that the addresses of this host have changed. Connections from and to them pass raw and are not dialled for the peers;
// peers hear of them when the next session begins.
func (g *Gateway) SetOwnAddrs(addrs []netip.Addr) {
	g.changing.Lock()
	defer g.changing.Unlock()
	g.ownAddrs = addrs
	g.policy.Store(g.policy.Load().WithOwnAddrs(addrs))
	g.dialer.SetDeny(addrs)
	for _, p := range g.peers {
		p.Link().SetOwnAddrs(addrs)
	}
	g.log.Info("addresses of this host have changed", "detail", addrs)
}

// InterceptFault is told when diverting had to be suspended for all peers (fault not nil) and when it goes on.
func (g *Gateway) InterceptFault(fault error) {
	if fault == nil {
		g.fault.Store(nil)
		g.events.Add(stats.EventIntercept, "", "connections are diverted again")
		return
	}
	text := fault.Error()
	g.fault.Store(&text)
	g.events.Add(stats.EventIntercept, "", "diverting is suspended, connections pass raw: "+text)
}

// Touch takes every lock that a stuck data path would hold, waits for encoders and decoders that are at work on a proof of it, and returns
// when it got them all: it is called before the service manager's watchdog is fed, so that a gateway that stands still starves it.
func (g *Gateway) Touch() {
	for _, p := range g.peers {
		p.State()
		p.Touch()
		p.Link().Stats()
		p.Codec().Stats()
	}
	g.flows.count()
}
