package chaos

import (
	"context"
	"errors"
	"fmt"
	"runtime"
	"strings"
	"time"

	"golang.org/x/sys/unix"

	"wanpair/bench/lab"
)

// leaks waits until the gateways are idle and looks at what they still hold.
func (c *campaign) leaks(ctx context.Context) {
	for _, k := range c.keepers() {
		var last Sample
		var err error
		deadline := time.Now().Add(20 * time.Second)
		for {
			last, err = k.idle(ctx)
			if err == nil && last.Flows == 0 && last.Sockets <= c.result.baselineSockets(k.side) || time.Now().After(deadline) || ctx.Err() != nil {
				break
			}
			pause(ctx, 200*time.Millisecond)
		}
		if err != nil {
			c.account.find("leak", "%s does not answer: %v", k.side, err)
			continue
		}
		left := last.report(k.side)
		c.result.Idle = append(c.result.Idle, left)
		if last.Flows > 0 {
			body, _, _ := k.Get(ctx, "/api/v1/flows")
			c.account.find("leak", "%s still has %d flows: %.2000s", k.side, last.Flows, body)
			if ctx.Err() == nil {
				k.dump(ctx)
			}
		}
		if more := last.Sockets - c.result.baselineSockets(k.side); more > 0 {
			c.account.find("leak", "%s has %d sockets more than before", k.side, more)
		}
	}
}

// takeDown stops everything and looks at what is left.
func (c *campaign) takeDown(ctx context.Context) error {
	var faults []error
	c.say("taking down", c.plan.Seconds)
	for _, k := range c.keepers() {
		k.expect(false)
		if !k.Running() {
			continue
		}
		_ = k.Signal(unix.SIGCONT)
		if err := k.Stop(ctx); err != nil {
			c.account.find("stop", "%v", err)
		}
	}
	if c.programs != nil {
		faults = append(faults, c.programs.stop())
	}
	for _, k := range c.keepers() {
		c.leftovers(ctx, k)
		faults = append(faults, k.unmountDisk())
	}
	if c.lab != nil {
		if s, err := c.lab.LinkStats(ctx); err == nil {
			c.result.Link = fmt.Sprintf("%+v", s)
		}
		faults = append(faults, c.lab.Down())
		for _, name := range lab.List() {
			if name == c.lab.Name {
				c.account.find("leak", "namespaces of the lab are left")
			}
		}
	}
	runtime.GC()
	return errors.Join(faults...)
}

// leftovers looks for rules that a gateway left behind when it was stopped in order.
func (c *campaign) leftovers(ctx context.Context, k *keeper) {
	for _, look := range []struct {
		what, mark string
		command    []string
	}{
		{"nftables", "wanpair", []string{"nft", "list", "ruleset"}},
		{"rule", "fwmark", []string{"ip", "-4", "rule"}},
		{"rule (IPv6)", "fwmark", []string{"ip", "-6", "rule"}},
		{"route", "local default", []string{"ip", "-4", "route", "show", "table", "all"}},
		{"route (IPv6)", "local default", []string{"ip", "-6", "route", "show", "table", "all"}},
		{"interface", "wanpair", []string{"ip", "link"}},
	} {
		out, err := c.lab.Command(ctx, k.Node(), look.command[0], look.command[1:]...).CombinedOutput()
		if err != nil {
			c.account.find("harness", "%s: %v: %s", strings.Join(look.command, " "), err, out)
		} else if strings.Contains(string(out), look.mark) {
			c.account.find("leak", "%s left on %s: %.500s", look.what, k.side, out)
		}
	}
}
