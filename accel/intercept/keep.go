package intercept

import (
	"context"
	"errors"
	"fmt"
	"maps"
	"slices"
	"time"

	"wanpair/internal/beat"
)

const (
	// watchEvery is how often the watchdog looks: patience and one more of these is the longest a black hole stays open.
	watchEvery = refreshEvery / 2
	// checkEvery is how often the whole table is looked through although nobody seems to have changed anything.
	checkEvery = 10 * time.Second
	// probeEvery is the least time between probes because somebody changed the host's rules.
	probeEvery = 15 * time.Second
)

// keeper is what Run remembers from one tick to the next.
type keeper struct {
	i           *Interceptor
	resumeAt    time.Time // while suspended: when to try again
	lastCheck   time.Time
	lastProbe   time.Time
	probeWanted bool // somebody changed the host's rules
	said        map[string]string
}

// keep refreshes, heals and watches until ctx ends.
func (i *Interceptor) keep(ctx context.Context) {
	k := &keeper{i: i, lastCheck: time.Now(), said: map[string]string{}}
	// Whatever an idle gateway does regularly it does at the same moments, so that the process wakes up once for all.
	select {
	case <-ctx.Done():
		return
	case <-time.After(beat.Until(watchEvery)):
	}
	tick := time.NewTicker(watchEvery)
	defer tick.Stop()
	for n := 0; ; n++ {
		select {
		case <-ctx.Done():
			return
		case <-tick.C:
		}
		now := time.Now()
		if n%int(refreshEvery/watchEvery) == 0 {
			k.report("refresh", k.refresh(now))
		}
		k.report("watch", k.watch(now))
		k.probe(ctx, now)
	}
}

// report logs an error once, until it changes or is over.
func (k *keeper) report(what string, err error) {
	text := ""
	if err != nil {
		text = err.Error()
	}
	if text != "" && text != k.said[what] {
		k.i.fixed.Log.Error("interception is not in order", "doing", what, "err", err)
	}
	k.said[what] = text
}

// refresh heals what somebody took away and renews the alive sets.
func (k *keeper) refresh(now time.Time) error {
	i := k.i
	i.mu.Lock()
	defer i.mu.Unlock()
	if i.state != stateInstalled {
		return nil
	}
	var faults []error
	for _, f := range i.families {
		if i.routing.works(f) {
			continue
		}
		i.cfg.Log.Warn("routing rule or route put back", "version", f.digit())
		faults = append(faults, i.routing.install(f))
	}
	gen, err := i.table.current()
	faults = append(faults, err)
	if changed := gen != i.table.generation; changed || now.Sub(k.lastCheck) >= checkEvery {
		k.lastCheck = now
		k.probeWanted = k.probeWanted || changed
		i.table.generation = gen
		faults = append(faults, i.healLocked())
	}
	return errors.Join(append(faults, i.refreshLocked(slices.Collect(maps.Keys(i.peers))...))...)
}

// healLocked puts the table back when a part of it is missing.
func (i *Interceptor) healLocked() error {
	whole, err := i.table.complete()
	if err != nil || whole {
		return err
	}
	return i.reinstallLocked("somebody removed it, or parts of it")
}

// watch lets the watchdog look at the counters.
func (k *keeper) watch(now time.Time) error {
	i := k.i
	i.mu.Lock()
	if i.state != stateInstalled || len(i.cfg.Interfaces) == 0 {
		i.mu.Unlock()
		return nil
	}
	err := i.readCountersLocked()
	var diverted uint64
	for _, key := range i.table.m.keys {
		diverted += i.lastSeen[divertedCounter(key)]
	}
	trip := i.watch.observe(now, diverted, i.accepted.Load()) && i.suspended == nil
	if trip {
		fault := fmt.Errorf("intercept: %w (watchdog: none was accepted for %v)", ErrSwallowed, patience)
		err = errors.Join(err, i.suspendLocked(fault))
		k.resumeAt = now.Add(i.watch.suspendFor())
	}
	fault := i.suspended
	i.mu.Unlock()
	if trip {
		i.tell(fault)
	}
	if errors.Is(err, errTableGone) {
		return nil // the next refresh puts it back
	}
	return err
}

// suspendLocked empties all alive sets until resume.
func (i *Interceptor) suspendLocked(fault error) error {
	for name, p := range i.peers {
		i.countRawLocked(p, name)
	}
	i.suspended = fault
	return i.refreshLocked(slices.Collect(maps.Keys(i.peers))...)
}

func (i *Interceptor) tell(fault error) {
	if fault != nil {
		i.fixed.Log.Error("diverting suspended, connections pass raw", "err", fault)
	} else {
		i.fixed.Log.Info("diverting goes on")
	}
	if i.fixed.OnFault != nil {
		i.fixed.OnFault(fault)
	}
}

// Fault says why no peer's traffic is diverted although it is alive; nil while all is well.
func (i *Interceptor) Fault() error {
	i.mu.Lock()
	defer i.mu.Unlock()
	return i.suspended
}

// probe makes a probe when one is due: to end a suspension, or because somebody changed the host's rules.
func (k *keeper) probe(ctx context.Context, now time.Time) {
	i := k.i
	i.mu.Lock()
	suspended := i.suspended != nil
	idle := i.state != stateInstalled || i.stopped || len(i.listeners) == 0
	i.mu.Unlock()
	due := suspended && !now.Before(k.resumeAt) || !suspended && k.probeWanted && now.Sub(k.lastProbe) >= probeEvery
	if idle || !due {
		return
	}
	var err error
	if i.fixed.Probe != ProbeOff {
		err = i.judgeProbe(i.probe(ctx, probeWait))
	}
	if ctx.Err() != nil {
		return
	}
	now = time.Now()
	k.lastProbe, k.probeWanted = now, false
	i.mu.Lock()
	was := i.suspended
	switch {
	case err != nil:
		k.resumeAt = now.Add(i.watch.longer())
		k.report("suspend", i.suspendLocked(err))
	case was != nil:
		i.suspended = nil
		k.report("resume", i.refreshLocked(slices.Collect(maps.Keys(i.peers))...))
	}
	i.mu.Unlock()
	if err != nil && (was == nil || was.Error() != err.Error()) || err == nil && was != nil {
		i.tell(err)
	}
}
