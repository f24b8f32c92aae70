package intercept

import "maps"

// Counters are first packets of connections seen on the site's interfaces since Install. A client that repeats its first packet
// counts twice.
type Counters struct {
	Diverted map[string]uint64            // by peer: brought here
	Raw      map[string]uint64            // by reason: passed raw for a reason that has nothing to do with a peer's state
	RawPeer  map[string]map[string]uint64 // by peer and the reason given with SetPeerDead: would have been diverted
}

// Counters reads the kernel's counters.
func (i *Interceptor) Counters() (Counters, error) {
	i.mu.Lock()
	defer i.mu.Unlock()
	out := Counters{Diverted: map[string]uint64{}, Raw: map[string]uint64{}, RawPeer: map[string]map[string]uint64{}}
	if i.state != stateInstalled {
		return out, ErrState
	}
	if len(i.cfg.Interfaces) == 0 {
		return out, nil
	}
	if err := i.readCountersLocked(); err != nil {
		return out, err
	}
	for _, r := range reasons {
		out.Raw[r] = i.lastSeen[r]
	}
	for name, p := range i.peers {
		out.Diverted[name] = i.lastSeen[divertedCounter(i.table.m.keys[name])]
		i.addRawLocked(p, name)
		out.RawPeer[name] = maps.Clone(p.raw)
	}
	return out, nil
}

// readCountersLocked brings lastSeen up to date.
func (i *Interceptor) readCountersLocked() error {
	seen, err := i.table.counters()
	if err != nil {
		return err
	}
	for name, n := range seen {
		i.lastSeen[name] = max(i.lastSeen[name], n)
	}
	return nil
}

// countRawLocked attributes what passed raw since the last call to the state the peer was in until now.
func (i *Interceptor) countRawLocked(p *peerState, name string) {
	if len(i.cfg.Interfaces) > 0 && i.readCountersLocked() == nil {
		i.addRawLocked(p, name)
	}
}

func (i *Interceptor) addRawLocked(p *peerState, name string) {
	n := i.lastSeen[i.table.m.keys[name]]
	if n <= p.rawSeen {
		return
	}
	reason := p.reason
	if p.alive {
		reason = ReasonFault // alive, and yet its sets had run dry
	}
	p.raw[reason] += n - p.rawSeen
	p.rawSeen = n
}
