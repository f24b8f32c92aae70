package intercept

import (
	"context"
	"errors"
	"net/netip"
	"slices"
)

// ErrNeedsRestart says that a setting cannot be changed while connections run through it.
var ErrNeedsRestart = errors.New("intercept: port, marks, routing, table, and interception as such can only be changed by a restart")

// Reconfigure replaces peers, subnets, ports, classes and interfaces in one transaction, without touching a connection that runs.
// Peers that stay keep their state; new ones are dead at first. The callbacks stay what they are.
func (i *Interceptor) Reconfigure(cfg Config) error {
	cfg = cfg.withDefaults()
	if err := cfg.validate(); err != nil {
		return err
	}
	i.mu.Lock()
	defer i.mu.Unlock()
	if i.state != stateInstalled {
		return ErrState
	}
	old := i.cfg
	if cfg.Port != old.Port || cfg.DivertBit != old.DivertBit || cfg.OwnBit != old.OwnBit || cfg.RouteTable != old.RouteTable ||
		cfg.RulePriority != old.RulePriority || cfg.Table != old.Table || cfg.DisableIPv4 != old.DisableIPv4 ||
		cfg.DisableIPv6 != old.DisableIPv6 || cfg.SampleGroup != old.SampleGroup || (len(cfg.Interfaces) == 0) != (len(old.Interfaces) == 0) {
		return ErrNeedsRestart
	}
	cfg.Log, cfg.StillAlive, cfg.OnFault, cfg.Edge, cfg.Probe = old.Log, old.StillAlive, old.OnFault, old.Edge, old.Probe
	for name, p := range i.peers {
		i.countRawLocked(p, name)
	}
	oldPeers, oldTable := i.peers, i.table
	i.cfg, i.peers = cfg, map[string]*peerState{}
	for _, p := range cfg.Peers {
		s := oldPeers[p.Name]
		if s == nil {
			s = &peerState{reason: ReasonPeerDown, raw: map[string]uint64{}}
		} else {
			s.prefixes = i.configured(p.Name, s.announced)
		}
		i.peers[p.Name] = s
	}
	listen4, listen6 := i.listening()
	i.table = newTable(newModel(cfg, listen4, listen6), &i.kernel)
	i.forgetMovedCounters(oldTable.m)
	if err := i.reinstallLocked("the configuration changed"); err != nil {
		// The old table stands as it was.
		i.cfg, i.peers, i.table = old, oldPeers, oldTable
		return err
	}
	return nil
}

// forgetMovedCounters starts counters anew whose names belong to other peers, or to none, from now on.
func (i *Interceptor) forgetMovedCounters(old *model) {
	for name, key := range old.keys {
		if i.table.m.keys[name] == key {
			continue
		}
		delete(i.lastSeen, key)
		delete(i.lastSeen, divertedCounter(key))
		if p := i.peers[name]; p != nil {
			p.rawSeen = 0
		}
	}
}

// listening gives the addresses of the listeners that are open; far sides have none, and need none.
func (i *Interceptor) listening() (listen4, listen6 netip.AddrPort) {
	want4, want6 := i.cfg.listenAddrs()
	if slices.Contains(i.families, v4) {
		listen4 = want4
	}
	if slices.Contains(i.families, v6) {
		listen6 = want6
	}
	return listen4, listen6
}

// Try installs and removes again: a rehearsal with everything but traffic, the probe included. While a gateway runs in this network
// namespace it returns ErrRunning and touches nothing.
func Try(ctx context.Context, cfg Config) error {
	i, err := New(cfg)
	if err != nil {
		return err
	}
	if err := i.Install(ctx); err != nil {
		return err
	}
	return i.Remove()
}
