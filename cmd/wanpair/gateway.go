package main

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"net/netip"
	"os"
	"os/signal"
	"path/filepath"
	"syscall"

	"github.com/coreos/go-systemd/v22/daemon"
	"golang.org/x/sync/errgroup"

	"wanpair/accel"
	"wanpair/accel/config"
	"wanpair/accel/control"
	"wanpair/accel/egress"
	"wanpair/accel/intercept"
	"wanpair/accel/peer"
	"wanpair/accel/stats"
	"wanpair/dedupe"
	"wanpair/transport"
	"wanpair/transport/quictun"
)

// gatewayCmd runs one side in the foreground.
type gatewayCmd struct {
	Config string `short:"c" required:"" type:"path" placeholder:"FILE" help:"Configuration file."`
}

// Run builds the object graph, serves until SIGTERM or SIGINT, drains, and takes everything down in the reverse order.
func (c gatewayCmd) Run() error {
	if err := confine(); err != nil {
		return err
	}
	cfg, err := config.Load(c.Config)
	if err != nil {
		return err
	}
	level := new(slog.LevelVar)
	log := newLogger(cfg.Log, level)
	for _, w := range cfg.Warnings {
		log.Warn("configuration", "warning", w)
	}
	if text := fewDescriptors(cfg); text != "" {
		log.Warn("this host", "finding", text)
	}
	ctx, stop := signal.NotifyContext(context.Background(), syscall.SIGTERM, syscall.SIGINT)
	defer stop()
	return runGateway(ctx, cfg, log, level)
}

// runGateway lives until ctx ends. What can fail for a reason the operator can mend fails here, before anything is diverted.
func runGateway(ctx context.Context, cfg *config.Config, log *slog.Logger, level *slog.LevelVar) error {
	if err := checkHost(cfg, log); err != nil {
		return err
	}
	ownAddrs, err := egress.HostAddrs()
	if err != nil {
		return err
	}
	var gateway *accel.Gateway // the parts call it back once it runs
	parts, err := buildParts(cfg, log, ownAddrs, func(peer string) bool { return gateway.Alive(peer) }, func(fault error) { gateway.InterceptFault(fault) })
	if err != nil {
		return err
	}
	if gateway, err = accel.New(ctx, parts); err != nil {
		return err
	}
	server := stats.New(cfg.Stats, gateway.Source(), gateway.Events(), log)
	if err := server.Listen(ctx); err != nil {
		return errors.Join(err, gateway.Close())
	}
	tunnels, err := addPeers(cfg, log, ownAddrs, gateway)
	if err != nil {
		return errors.Join(err, gateway.Close())
	}
	var mark int
	if needsRules(cfg) {
		mark = intercept.DefaultOwnBit
	}
	if cfg.Tunnel.DSCP != 0 {
		if err := os.Setenv("QUIC_GO_DISABLE_ECN", "true"); err != nil {
			return errors.Join(err, gateway.Close())
		}
	}
	endpoint, err := quictun.Listen(quictun.Config{
		PrivateKey: cfg.Site.PrivateKey,
		Listen:     cfg.Tunnel.Listen.String(),
		Lanes:      cfg.Tunnel.Lanes,
		Mark:       mark,
		DSCP:       cfg.Tunnel.DSCP,
		NoGovernor: !cfg.Tunnel.Governor,
		Peers:      tunnels,
		Log:        log,
	})
	if errors.Is(err, syscall.EADDRINUSE) {
		err = fmt.Errorf("tunnel.listen %s: the UDP port is in use by another program, or another wanpair runs: choose another port or stop it (ss -lunp 'sport = :%d' shows it)",
			cfg.Tunnel.Listen, cfg.Tunnel.Listen.Port())
	}
	if err != nil {
		return errors.Join(err, gateway.Close())
	}
	log.Info("gateway starts", "site", cfg.Site.Name, "version", versionString(), "tunnel", cfg.Tunnel.Listen, "stats", cfg.Stats.Listen)

	// The tunnel and the stats server outlive the gateway, which drains through them.
	outer, stopOuter := context.WithCancel(context.WithoutCancel(ctx))
	defer stopOuter()
	group, groupCtx := errgroup.WithContext(outer)
	group.Go(func() error { return endpoint.Run(groupCtx) })
	group.Go(func() error { return server.Run(groupCtx) })
	if socket, err := control.Listen(ctx, control.Path(cfg.Cache.Dir), gateway.Warm, log); err != nil {
		log.Warn("no control socket: wanpair cache warm will not work", "err", err)
	} else {
		group.Go(func() error { return socket.Run(groupCtx) })
	}
	if parts.FlowLog != nil {
		group.Go(func() error { return parts.FlowLog.Run(groupCtx) })
	}
	group.Go(func() error {
		egress.WatchHostAddrs(groupCtx, ownAddrs, gateway.SetOwnAddrs)
		return nil
	})
	group.Go(func() error { return feedWatchdog(groupCtx, log, gateway) })
	reload := &reloader{log: log, level: level, gateway: gateway, endpoint: endpoint, cfg: cfg}
	group.Go(func() error { return reload.run(groupCtx) })
	group.Go(func() error {
		defer stopOuter()
		serving, stopServing := context.WithCancel(groupCtx)
		defer stopServing()
		defer context.AfterFunc(ctx, func() {
			notify(log, daemon.SdNotifyStopping)
			stopServing()
		})()
		return gateway.Run(serving, func() { notify(log, daemon.SdNotifyReady) })
	})
	err = group.Wait()
	if errors.Is(err, context.Canceled) {
		err = nil
	}
	log.Info("gateway stopped")
	return err
}

// checkHost refuses to start where diverted connections would vanish or nothing could be diverted, and logs what is merely suspicious.
func checkHost(cfg *config.Config, log *slog.Logger) error {
	if !needsRules(cfg) {
		return nil
	}
	var faults []error
	for _, f := range intercept.CheckHost(interceptConfig(cfg)) {
		if f.Severity == intercept.Fatal {
			faults = append(faults, fmt.Errorf("%s. %s", f.Text, f.Remedy))
			continue
		}
		log.Log(context.Background(), map[intercept.Severity]slog.Level{intercept.Warning: slog.LevelWarn, intercept.Note: slog.LevelInfo}[f.Severity],
			"this host", "finding", f.Text, "remedy", f.Remedy)
	}
	return errors.Join(faults...)
}

// buildParts makes what touches the host's network.
func buildParts(cfg *config.Config, log *slog.Logger, ownAddrs []netip.Addr, alive func(peer string) bool, fault func(error)) (accel.Parts, error) {
	parts := accel.Parts{Log: log, Config: cfg, OwnAddrs: ownAddrs, Version: versionString()}
	var peerSubnets []netip.Prefix
	for _, p := range cfg.Peers {
		peerSubnets = append(peerSubnets, p.Subnets...)
	}
	var mark uint32
	if needsRules(cfg) {
		mark = intercept.DefaultOwnBit
	}
	var err error
	if cfg.Log.FlowFile != "" {
		if parts.FlowLog, err = stats.NewFlowLog(cfg.Log.FlowFile, cfg.Log.FlowFileSizeBytes, log); err != nil {
			return parts, err
		}
	}
	if parts.Dialer, err = egress.New(egress.Config{Allow: cfg.OwnSubnets(), Deny: ownAddrs, Mark: mark}); err != nil {
		return parts, err
	}
	if parts.Raw, err = egress.New(egress.Config{Allow: peerSubnets, Mark: mark}); err != nil {
		return parts, err
	}
	if !needsRules(cfg) {
		return parts, nil
	}
	ic := interceptConfig(cfg)
	ic.Log = log
	ic.StillAlive = alive
	ic.OnFault = fault
	parts.Intercept, err = intercept.New(ic)
	return parts, err
}

// needsRules says whether packet rules are needed: to divert connections, or to dial as the client.
func needsRules(cfg *config.Config) bool {
	return cfg.Intercept != nil || cfg.Egress.Source == config.SourceClient
}

// interceptConfig says what is intercepted; what the rules do not know of it is asked of the policy when the connection is here.
func interceptConfig(cfg *config.Config) intercept.Config {
	if cfg.Intercept == nil {
		return intercept.Config{} // only the rule that brings answers back to connections dialled as the client
	}
	ic := intercept.Config{
		Interfaces: cfg.Intercept.Interfaces,
		Subnets:    cfg.Intercept.Subnets,
		PassPorts:  cfg.Intercept.PassPorts,
	}
	for _, p := range cfg.Peers {
		ic.Peers = append(ic.Peers, intercept.Peer{Name: p.Name, Subnets: p.Subnets})
	}
	for _, c := range cfg.Classes {
		class := intercept.Class{Name: c.Name, Subnets: c.Subnets, Pass: c.Action == config.ActionPass}
		for _, r := range c.Ports {
			class.Ports = append(class.Ports, intercept.PortRange{First: r.First, Last: r.Last})
		}
		ic.Classes = append(ic.Classes, class)
	}
	return ic
}

// addPeers opens each peer's cache and joins it with the gateway; it returns what the tunnel must know of them.
func addPeers(cfg *config.Config, log *slog.Logger, ownAddrs []netip.Addr, gateway *accel.Gateway) ([]quictun.Peer, error) {
	var tunnels []quictun.Peer
	var ceiling *transport.Ceiling // one for all
	if bits := cfg.Tunnel.BandwidthBitsPerSec; bits != 0 {
		var err error
		if ceiling, err = transport.NewCeiling(bits); err != nil {
			return nil, err
		}
	}
	for _, pc := range cfg.Peers {
		var p *peer.Peer
		p, err := peer.New(peer.Config{
			Name: pc.Name,
			Log:  log,
			Link: transport.LinkConfig{
				Hello: transport.Hello{
					Site:        cfg.Site.Name,
					OwnSubnets:  cfg.OwnSubnets(),
					PeerSubnets: pc.Subnets,
					OwnAddrs:    ownAddrs,
					Software:    versionString(),
				},
				CreditBudgetBytes:  cfg.LinkMemoryBytes(),
				InitialCreditBytes: cfg.FlowCreditBytes(),
				FloorBytes:         config.FlowFloorBytes,
				Hold:               cfg.Limits.Hold,
				Shares:             cfg.Shares(),
				Ceiling:            ceiling,
			},
			Cache: dedupe.Config{
				Dir:         filepath.Join(cfg.Cache.Dir, pc.Name),
				Key:         cfg.Cache.Key,
				SizeBytes:   cfg.Cache.SizeBytes / int64(len(cfg.Peers)),
				MemoryBytes: cfg.Cache.MemoryBytes / int64(len(cfg.Peers)),

				StoreCommand: storeCommand(),
				OnStore:      logStore(log, gateway.Events(), pc.Name),
			},
			Serve: func(ctx context.Context, s *peer.Stream) { gateway.ServeStream(ctx, p, s) },
			Class: gateway.ClassOf,
		})
		if err != nil {
			return nil, err
		}
		gateway.AddPeer(p)
		tunnels = append(tunnels, quictun.Peer{Name: pc.Name, PublicKeys: pc.PublicKeys, Endpoints: pc.Endpoints, Link: p.Link()})
	}
	return tunnels, nil
}
