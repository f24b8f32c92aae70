package config

import (
	"reflect"
	"slices"
)

// Reload says what a running gateway makes of a changed file: merged is c with everything of next that can be taken over while running;
// applied names the keys that differ and are taken over, restart those that differ and need a restart. The keys are those Reference marks.
func (c *Config) Reload(next *Config) (merged *Config, applied, restart []string) {
	m := *c
	merged = &m
	merged.Peers = slices.Clone(c.Peers)
	take := func(key string, differs bool, do func()) {
		if differs {
			applied = append(applied, key)
			do()
		}
	}
	for i, p := range merged.Peers {
		n, ok := next.Peer(p.Name)
		if !ok {
			continue
		}
		take("peer.public_keys", !reflect.DeepEqual(p.PublicKeys, n.PublicKeys), func() { merged.Peers[i].PublicKeys = n.PublicKeys })
	}
	if c.Intercept != nil && next.Intercept != nil {
		take("intercept.pass_ports", !slices.Equal(c.Intercept.PassPorts, next.Intercept.PassPorts), func() {
			changed := *c.Intercept
			changed.PassPorts = next.Intercept.PassPorts
			merged.Intercept = &changed
		})
	}
	take("class", !reflect.DeepEqual(c.Classes, next.Classes), func() { merged.Classes = next.Classes })
	take("limits.flows", c.Limits.Flows != next.Limits.Flows, func() { merged.Limits.Flows = next.Limits.Flows })
	take("log.level", c.Log.Level != next.Log.Level, func() { merged.Log.Level = next.Log.Level })

	for _, s := range []struct {
		key       string
		was, file any
	}{
		{"site", merged.Site, next.Site},
		{"cache", merged.Cache, next.Cache},
		{"tunnel", merged.Tunnel, next.Tunnel},
		{"peer", merged.Peers, next.Peers},
		{"intercept", merged.Intercept, next.Intercept},
		{"egress", merged.Egress, next.Egress},
		{"forward", merged.Forwards, next.Forwards},
		{"socks", merged.Socks, next.Socks},
		{"limits", merged.Limits, next.Limits},
		{"stats", merged.Stats, next.Stats},
		{"log", merged.Log, next.Log},
	} {
		if !reflect.DeepEqual(s.was, s.file) {
			restart = append(restart, s.key)
		}
	}
	return merged, applied, restart
}
