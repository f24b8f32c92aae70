package chaos

import (
	"context"
	"errors"
	"time"
)

// fault makes one fault, repairs it, and watches new connections until they are accelerated again.
func (c *campaign) fault(ctx context.Context, e Event) {
	name := e.Name()
	record := FaultRecord{Event: e, At: time.Since(c.account.began)}
	c.watchCondition()
	c.account.begin(name)
	defer c.account.heal()
	c.say(name, int(time.Since(c.account.began).Seconds()))
	deaths, met, stores := c.deaths(), c.met(), c.stores()
	injected := time.Now()
	// The repair is made also when the campaign ends meanwhile.
	repairing := context.WithoutCancel(ctx)
	repair, err := c.inject.inject(repairing, e)
	switch {
	case errors.Is(err, errNotHere):
		c.result.skip(e.Fault, err)
		return
	case err != nil:
		c.account.find("harness", "inject %s: %v", name, err)
	}
	if e.Fault == "restart" || e.Fault == "upgrade" { // the stop itself takes a while
		record.Took = time.Since(injected)
	}
	pause(ctx, e.Hold)
	repaired := time.Now()
	if err := repair(); err != nil {
		c.account.find("harness", "repair %s: %v", name, err)
	}
	for ctx.Err() == nil && !e.Hurried && time.Since(repaired) < settle {
		pause(ctx, min(lookEvery, e.Hold+probeEvery))
		after, again := acceleratedAfter(c.prober.since(repaired), repaired)
		if again && (c.plan.Fast || time.Since(repaired) >= after+probeTimeout/2) {
			record.AcceleratedAfter, record.Accelerated = after, true
			break
		}
	}
	record.Condition = c.seenCondition()
	probes := c.prober.since(injected)
	record.PassedAfter, record.Passed = passedAfter(probes, injected, repaired.Add(record.AcceleratedAfter))
	record.Probes = len(probes)
	for _, p := range probes {
		switch p.way {
		case lost:
			record.Lost++
			record.Why = count(record.Why, p.reason())
		case raw:
			record.Raw++
		}
	}
	record.Places, c.inject.places = c.inject.places, 0
	if !record.Accelerated && !e.Hurried && ctx.Err() == nil {
		c.account.find("not accelerated", "%s: not again within %v of the repair (condition of the link: %q)", name, settle, record.Condition)
		for _, k := range c.keepers() {
			k.dump(repairing)
		}
	}
	record.Deaths, record.Met = c.deaths()-deaths, c.met()-met
	for gateway, store := range c.stores() {
		if before, same := stores[gateway]; same && store != before {
			record.StoresDied++
		}
	}
	c.result.addFault(record)
	c.log("%s", record.line())
}

// count counts one more of a key.
func count(m map[string]int, key string) map[string]int {
	if m == nil {
		m = map[string]int{}
	}
	m[key]++
	return m
}

// met counts operations that met a failing disk.
func (c *campaign) met() (n int) {
	for _, k := range c.keepers() {
		if k.disk != nil {
			n += k.disk.Met()
		}
	}
	return n
}

// stores are the processes of the stores, by those of their gateways.
func (c *campaign) stores() map[int]int {
	out := map[int]int{}
	for _, k := range c.keepers() {
		if pid := k.PID(); pid != 0 {
			out[pid] = k.store()
		}
	}
	return out
}

func (c *campaign) deaths() int {
	n := 0
	for _, k := range c.keepers() {
		k.mu.Lock()
		n += k.deaths
		k.mu.Unlock()
	}
	return n
}
