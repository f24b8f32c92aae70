package intercept

import (
	"context"
	"errors"
	"maps"
	"slices"
	"time"

	"wanpair/accel/edge"
)

type watchdog struct{}

type probeDesk struct{}

func (i *Interceptor) probeArrived(*edge.Conn) bool { return false }

func (i *Interceptor) firstProbe(context.Context) error { return nil }

// keep refreshes the alive sets until ctx ends.
func (i *Interceptor) keep(ctx context.Context) {
	tick := time.NewTicker(refreshEvery)
	defer tick.Stop()
	for {
		select {
		case <-ctx.Done():
			return
		case <-tick.C:
		}
		i.mu.Lock()
		if i.state == stateInstalled {
			if err := i.refreshLocked(slices.Collect(maps.Keys(i.peers))...); err != nil && !errors.Is(err, errTableGone) {
				i.cfg.Log.Error("cannot refresh the alive sets", "err", err)
			}
		}
		i.mu.Unlock()
	}
}
