package main

import (
	"context"
	"log/slog"
	"os"
	"os/signal"
	"strings"
	"syscall"
	"time"

	"github.com/coreos/go-systemd/v22/daemon"

	"wanpair/accel"
	"wanpair/accel/config"
	"wanpair/accel/intercept"
	"wanpair/transport/quictun"
)

// notify tells the service manager; without one it does nothing.
func notify(log *slog.Logger, state string) {
	if _, err := daemon.SdNotify(false, state); err != nil {
		log.Warn("service manager was not told", "state", state, "err", err)
	}
}

// feedWatchdog feeds the service manager's watchdog as long as the gateway answers. A gateway that hangs misses its turn and is restarted.
func feedWatchdog(ctx context.Context, log *slog.Logger, gateway *accel.Gateway) error {
	period, err := daemon.SdWatchdogEnabled(false)
	if err != nil || period == 0 {
		<-ctx.Done()
		return nil
	}
	ticker := time.NewTicker(period / 3)
	defer ticker.Stop()
	for {
		select {
		case <-ctx.Done():
			return nil
		case <-ticker.C:
			gateway.Touch()
			notify(log, daemon.SdNotifyWatchdog)
		}
	}
}

// reloader reads the configuration again at SIGHUP.
type reloader struct {
	log      *slog.Logger
	level    *slog.LevelVar
	gateway  *accel.Gateway
	endpoint *quictun.Endpoint
	cfg      *config.Config // what is in force
}

// run serves SIGHUP until ctx ends. A file with faults changes nothing.
func (r *reloader) run(ctx context.Context) error {
	hangup := make(chan os.Signal, 1)
	signal.Notify(hangup, syscall.SIGHUP)
	defer signal.Stop(hangup)
	for {
		select {
		case <-ctx.Done():
			return nil
		case <-hangup:
			notify(r.log, daemon.SdNotifyReloading)
			r.reload()
			notify(r.log, daemon.SdNotifyReady)
		}
	}
}

func (r *reloader) reload() {
	next, err := config.Load(r.cfg.File)
	if err != nil {
		r.log.Error("the configuration has faults and was not taken over", "err", err)
		return
	}
	merged, applied, restart := r.cfg.Reload(next)
	var rules intercept.Config
	if merged.Intercept != nil {
		rules = interceptConfig(merged)
	}
	if err := r.gateway.Reload(merged, rules); err != nil {
		r.log.Error("the configuration was not taken over", "err", err)
		return
	}
	for _, p := range merged.Peers {
		if err := r.endpoint.SetKeys(p.Name, p.PublicKeys); err != nil {
			r.log.Error("keys of a peer were not taken over", "peer", p.Name, "err", err)
		}
	}
	setLevel(r.level, merged.Log)
	r.cfg = merged
	r.log.Info("the configuration was read again", "applied", orNothing(applied))
	if len(restart) > 0 {
		r.log.Warn("some changes need a restart", "sections", strings.Join(restart, ", "))
	}
}

func orNothing(keys []string) string {
	if len(keys) == 0 {
		return "nothing has changed that can be"
	}
	return strings.Join(keys, ", ")
}
