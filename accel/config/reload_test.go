package config

import (
	"slices"
	"testing"
)

func TestReload(t *testing.T) {
	base := func() *Config {
		c := Default()
		c.Peers = []Peer{{Name: "nyc", PublicKeys: nil}}
		c.Intercept = &Intercept{Interfaces: []string{"lan0"}, PassPorts: []uint16{22}}
		return c
	}
	for name, c := range map[string]struct {
		change           func(*Config)
		applied, restart []string
	}{
		"nothing":      {change: func(*Config) {}},
		"pass ports":   {change: func(c *Config) { c.Intercept.PassPorts = []uint16{22, 23} }, applied: []string{"intercept.pass_ports"}},
		"level":        {change: func(c *Config) { c.Log.Level = "debug" }, applied: []string{"log.level"}},
		"flows":        {change: func(c *Config) { c.Limits.Flows = 7 }, applied: []string{"limits.flows"}},
		"classes":      {change: func(c *Config) { c.Classes = []Class{{Name: "x"}} }, applied: []string{"class"}},
		"keys":         {change: func(c *Config) { c.Peers[0].PublicKeys = append(c.Peers[0].PublicKeys, make([]byte, 32)) }, applied: []string{"peer.public_keys"}},
		"both":         {change: func(c *Config) { c.Intercept.PassPorts = nil; c.Intercept.Interfaces = nil }, applied: []string{"intercept.pass_ports"}, restart: []string{"intercept"}},
		"new peer":     {change: func(c *Config) { c.Peers = append(c.Peers, Peer{Name: "ber"}) }, restart: []string{"peer"}},
		"cache":        {change: func(c *Config) { c.Cache.SizeBytes *= 2 }, restart: []string{"cache"}},
		"no intercept": {change: func(c *Config) { c.Intercept = nil }, restart: []string{"intercept"}},
	} {
		t.Run(name, func(t *testing.T) {
			running, next := base(), base()
			c.change(next)
			merged, applied, restart := running.Reload(next)
			if !slices.Equal(applied, c.applied) || !slices.Equal(restart, c.restart) {
				t.Errorf("applied %v, restart %v; want %v, %v", applied, restart, c.applied, c.restart)
			}
			again, applied, _ := merged.Reload(next)
			if len(applied) != 0 {
				t.Errorf("a second reload applies %v again", applied)
			}
			if len(restart) == 0 && again.Log != next.Log {
				t.Error("not everything was taken over")
			}
			if unchanged, _, _ := base().Reload(running); unchanged.Log != running.Log {
				t.Error("the running configuration was changed in place")
			}
		})
	}
}
