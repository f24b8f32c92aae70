// Package pair runs two real gateways in a lab, one at each end of its emulated link, and drives them from outside: it writes their
// configurations and keys, starts and kills the processes, and reads their stats endpoints. Tests, the demo and the scenarios stand on
// it. It knows the gateway as a black box: a binary, a configuration file, signals and HTTP.
package pair

import (
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"time"

	"wanpair/bench/lab"
)

// Config says what to start.
type Config struct {
	Lab    *lab.Lab
	Binary string // the wanpair binary
	Dir    string // keys, configurations, caches and logs; made when missing, kept afterwards

	CacheSize   string // as in the configuration; empty: 1GiB
	CacheMemory string // empty: 256MiB
	LogLevel    string // empty: debug
	// Tunnel is more lines of the [tunnel] sections of both, such as "lanes = 8".
	Tunnel string
	// Extra is appended to both configurations, one TOML section or more.
	NearExtra, FarExtra string
}

// StatsPort is where each gateway's stats endpoint listens, on loopback of its own namespace.
const StatsPort = 9460

// TunnelPort is the UDP port of both tunnels.
const TunnelPort = 4600

// Pair is two gateways of one link.
type Pair struct {
	Near *Gateway // beside the clients
	Far  *Gateway // beside the servers
}

// Start writes the configurations and starts both gateways. They need a moment to find each other: WaitUp.
func Start(ctx context.Context, cfg Config) (*Pair, error) {
	p, err := Prepare(ctx, cfg)
	if err != nil {
		return nil, err
	}
	if err := errors.Join(p.Near.Start(ctx), p.Far.Start(ctx)); err != nil {
		return nil, errors.Join(err, p.Stop(ctx))
	}
	return p, nil
}

// Prepare writes keys and configurations, and starts nothing.
func Prepare(ctx context.Context, cfg Config) (*Pair, error) {
	near := &Gateway{Name: "near", lab: cfg.Lab, node: lab.GatewayA, binary: cfg.Binary, dir: filepath.Join(cfg.Dir, "near")}
	far := &Gateway{Name: "far", lab: cfg.Lab, node: lab.GatewayB, binary: cfg.Binary, dir: filepath.Join(cfg.Dir, "far")}
	for _, g := range []*Gateway{near, far} {
		if err := os.MkdirAll(g.dir, 0o755); err != nil {
			return nil, fmt.Errorf("pair: %w", err)
		}
		if err := g.keygen(ctx); err != nil {
			return nil, err
		}
	}
	if err := near.writeConfig(cfg, site{
		name: "near", peer: "far", peerKey: far.publicKey, endpoint: fmt.Sprintf("%s:%d", lab.GatewayBWANIP4, TunnelPort),
		own: []string{lab.SubnetA4, lab.SubnetA6}, peers: []string{lab.SubnetB4, lab.SubnetB6}, extra: cfg.NearExtra,
	}); err != nil {
		return nil, err
	}
	if err := far.writeConfig(cfg, site{
		name: "far", peer: "near", peerKey: near.publicKey,
		own: []string{lab.SubnetB4, lab.SubnetB6}, peers: []string{lab.SubnetA4, lab.SubnetA6}, extra: cfg.FarExtra,
	}); err != nil {
		return nil, err
	}
	return &Pair{Near: near, Far: far}, nil
}

// WaitUp waits until both sides call their peer up.
func (p *Pair) WaitUp(ctx context.Context) error {
	for _, g := range []*Gateway{p.Near, p.Far} {
		if err := g.WaitState(ctx, "up"); err != nil {
			return err
		}
	}
	return nil
}

// Stop ends both gateways by SIGTERM and waits for them.
func (p *Pair) Stop(ctx context.Context) error {
	return errors.Join(p.Near.Stop(ctx), p.Far.Stop(ctx))
}

// Restart stops and starts both, and waits until they are up again.
func (p *Pair) Restart(ctx context.Context) error {
	if err := p.Stop(ctx); err != nil {
		return err
	}
	if err := errors.Join(p.Near.Start(ctx), p.Far.Start(ctx)); err != nil {
		return err
	}
	return p.WaitUp(ctx)
}

// poll calls f every 20 ms until it returns true or ctx ends.
func poll(ctx context.Context, f func() bool) error {
	ticker := time.NewTicker(20 * time.Millisecond)
	defer ticker.Stop()
	for !f() {
		select {
		case <-ctx.Done():
			return ctx.Err()
		case <-ticker.C:
		}
	}
	return nil
}
