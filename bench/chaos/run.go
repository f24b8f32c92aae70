package chaos

import (
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"time"

	"wanpair/bench/lab"
	"wanpair/bench/pair"
)

// ErrViolation is wrapped by the error of a campaign that saw a wrong byte or a clean end of a truncated flow.
var ErrViolation = errors.New("a promise was broken")

const (
	workers     = 10                     // connections of our own client at the same time
	cacheSize   = "64MiB"                // so small that it turns over in a campaign
	cacheDisk   = "size=160m,mode=0755"  // of each gateway's cache, a tmpfs
	cacheMemory = "64MiB"                //
	settle      = 20 * time.Second       // how long after a repair connections may take to be accelerated again before it is a finding
	upTimeout   = 30 * time.Second       // of the first start
	lookEvery   = 250 * time.Millisecond // at the probes, while waiting
)

// campaign is one run.
type campaign struct {
	plan     Plan
	dir      string
	lab      *lab.Lab
	pair     *pair.Pair
	near     *keeper
	far      *keeper
	account  *account
	prober   *prober
	traffic  *traffic
	programs *programs
	inject   *injector
	result   *Result
	earlier  map[string]int // probes before an interruption

	mu        sync.Mutex
	condition string // of the link; empty: calm
	seen      string // the latest one since the fault began, also when it is over
}

// Run runs a campaign. The result is there also with an error, as far as it came. A violation gives an error that wraps ErrViolation.
func Run(ctx context.Context, plan Plan) (*Result, error) {
	const least = 20
	if plan.Seconds < least {
		return nil, fmt.Errorf("a campaign takes at least %d seconds", least)
	}
	if _, _, err := plan.choose(); err != nil {
		return nil, err
	}
	result, err := resume(plan)
	if err != nil {
		return nil, err
	}
	c := &campaign{plan: plan, result: result, earlier: result.Probes}
	err = c.run(ctx)
	return c.result, err
}

func (c *campaign) run(ctx context.Context) (err error) {
	if c.dir = c.plan.Dir; c.dir == "" {
		if c.dir, err = os.MkdirTemp("", "wanpair-chaos-"); err != nil {
			return err
		}
	}
	if err := errors.Join(os.MkdirAll(c.dir, 0o755), os.Chmod(c.dir, 0o755)); err != nil { // servers that give up root look into it
		return err
	}
	if c.dir, err = filepath.Abs(c.dir); err != nil {
		return err
	}
	running, stop := context.WithCancel(ctx)
	defer stop()
	c.account = newAccount(stop)
	c.account.began = c.account.began.Add(-time.Duration(c.result.DoneSeconds) * time.Second)
	c.result.restore(c.account)
	defer func() {
		c.result.take(c)
		if len(c.result.Violations) > 0 {
			err = errors.Join(fmt.Errorf("%w: %s; logs and data are in %s", ErrViolation, c.result.Violations[0].What, c.dir), err)
		}
		err = errors.Join(err, c.result.save(c.plan))
		if !c.plan.Keep && len(c.result.Violations) == 0 && err == nil && !c.account.found("dumped") {
			err = os.RemoveAll(c.dir)
		}
	}()
	if err := c.build(ctx); err != nil {
		return errors.Join(err, c.takeDown(context.WithoutCancel(ctx)))
	}
	err = c.play(running)
	closing, cancel := context.WithTimeout(context.WithoutCancel(ctx), 2*time.Minute)
	defer cancel()
	return errors.Join(err, c.takeDown(closing))
}

// build makes the lab, the servers and the pair.
func (c *campaign) build(ctx context.Context) (err error) {
	c.say("building the lab", 0)
	if c.lab, err = lab.Up(ctx, lab.Config{Link: calm, Seed: c.plan.Seed | 1}); err != nil {
		return err
	}
	for _, n := range []lab.Node{lab.Client, lab.Server} { // or the bare link would not survive the shrunken MTU, which would be nobody's fault
		if out, err := c.lab.Command(ctx, n, "sysctl", "-qw", "net.ipv4.tcp_mtu_probing=1").CombinedOutput(); err != nil {
			return fmt.Errorf("sysctl: %w: %s", err, out)
		}
	}
	level := c.plan.LogLevel
	if level == "" {
		level = "info"
	}
	if c.pair, err = pair.Prepare(ctx, pair.Config{Lab: c.lab, Binary: c.plan.Binary, Dir: filepath.Join(c.dir, "pair"),
		CacheSize: cacheSize, CacheMemory: cacheMemory, LogLevel: level}); err != nil {
		return err
	}
	c.near, c.far = &keeper{Gateway: c.pair.Near, side: near, a: c.account}, &keeper{Gateway: c.pair.Far, side: far, a: c.account}
	c.inject = &injector{lab: c.lab, near: c.near, far: c.far, binary: c.plan.Binary, previous: c.plan.Previous}
	for _, k := range c.keepers() {
		if err := k.mountDisk(c.plan.breaksDisks()); err != nil {
			return err
		}
		if err := k.start(ctx); err != nil {
			return err
		}
	}
	patience := 30 * time.Second
	if !c.plan.short() {
		patience = 150 * time.Second // a cut of a minute, and TCP's repetitions twice as far apart
	}
	pool := newPool(c.plan.Seed)
	c.traffic = newTraffic(c.lab, pool, c.account, patience)
	c.prober = &prober{lab: c.lab, a: c.account}
	c.programs, err = startPrograms(ctx, c.lab, pool, c.plan.Seed, c.dir, c.account, patience)
	if err != nil {
		return err
	}
	for _, m := range c.programs.missing {
		c.account.find("left out", "%s", m)
	}
	up, cancel := context.WithTimeout(ctx, upTimeout)
	defer cancel()
	return c.pair.WaitUp(up)
}

func (c *campaign) keepers() []*keeper {
	if c.near == nil {
		return nil
	}
	return []*keeper{c.near, c.far}
}

// play runs traffic and faults for the plan's time.
func (c *campaign) play(ctx context.Context) error {
	ctx, cancel := context.WithCancel(ctx)
	defer cancel()
	for _, k := range c.keepers() {
		idle, err := k.idle(ctx)
		if err != nil {
			return err
		}
		c.result.Baseline = append(c.result.Baseline, idle.report(k.side))
		c.result.StoreProcess = c.result.StoreProcess || k.store() != 0
	}
	talks, err := c.lab.Listen(ctx, lab.Server, ":"+talkPort)
	if err != nil {
		return err
	}
	probes, err := listenProbes(ctx, c.lab)
	if err != nil {
		return err
	}
	serving, stopServing := context.WithCancel(ctx)
	watching, stopWatching := context.WithCancel(ctx)
	loading, stopLoading := context.WithCancel(ctx)
	var servers, watchers, load sync.WaitGroup
	defer func() {
		stopLoading()
		load.Wait()
		stopWatching()
		watchers.Wait()
		stopServing()
		servers.Wait()
	}()
	servers.Go(func() { c.traffic.serve(serving, talks) })
	servers.Go(func() { c.prober.serve(serving, probes) })
	for _, k := range c.keepers() {
		watchers.Go(func() { k.watch(watching) })
	}
	for i := range workers {
		load.Go(func() { c.traffic.work(loading, c.plan.Seed+uint64(i)*7919+uint64(c.result.DoneSeconds)<<32) })
	}
	c.programs.run(loading, c.plan.Seed+uint64(c.result.DoneSeconds)<<32, &load)
	load.Go(func() { c.prober.run(loading) })

	c.faults(ctx)
	if ctx.Err() == nil {
		c.say("waiting for what is still running", c.plan.Seconds)
		c.restoreLink(ctx)
		stopLoading()
		load.Wait()
		c.leaks(ctx)
	}
	return nil
}

// restoreLink makes the link calm.
func (c *campaign) restoreLink(ctx context.Context) {
	if err := c.lab.SetLink(ctx, calm, "both", "up"); err != nil && ctx.Err() == nil {
		c.account.find("harness", "link: %v", err)
	}
}

// faults injects one fault after the other, and conditions of the link beside them, until the time is over.
func (c *campaign) faults(ctx context.Context) {
	end := c.account.began.Add(time.Duration(c.plan.Seconds) * time.Second)
	ctx, cancel := context.WithDeadline(ctx, end)
	defer cancel()
	faults, conditions, _ := c.plan.choose() // tried in Run
	var busy sync.WaitGroup
	defer busy.Wait()
	if len(conditions) > 0 {
		busy.Go(func() { c.conditions(ctx, conditions) })
	}
	busy.Go(func() {
		for ctx.Err() == nil {
			pause(ctx, time.Second)
			c.say("", int(time.Since(c.account.began).Seconds()))
			if err := c.result.checkpoint(c); err != nil {
				c.account.find("harness", "state: %v", err)
			}
		}
	})
	pause(ctx, 3*time.Second)
	for ; len(faults) > 0 && ctx.Err() == nil; c.result.NextFault++ {
		e := c.plan.schedule(faults, c.result.NextFault)
		if time.Until(end) < e.Hold+4*time.Second { // there would be no time to see it heal
			pause(ctx, time.Until(end))
			return
		}
		c.fault(ctx, e)
		between := time.Second + time.Duration(e.Seed%1500)*time.Millisecond
		if c.plan.Fast {
			between = time.Duration(e.Seed%400) * time.Millisecond
		}
		pause(ctx, between)
	}
	<-ctx.Done()
}

// conditions changes the link.
func (c *campaign) conditions(ctx context.Context, kinds []kind) {
	for i := 0; ctx.Err() == nil; i++ {
		name, words, before, hold := c.plan.condition(kinds, i)
		pause(ctx, before)
		if ctx.Err() != nil {
			break
		}
		c.setCondition(name, words)
		if err := c.lab.SetLink(ctx, words); err != nil && ctx.Err() == nil {
			c.account.find("harness", "link: %v", err)
		}
		c.result.countCondition(name)
		pause(ctx, hold)
		if ctx.Err() != nil {
			break
		}
		if err := c.lab.SetLink(ctx, calm); err != nil && ctx.Err() == nil {
			c.account.find("harness", "link: %v", err)
		}
		c.setCondition("", "")
	}
}

func (c *campaign) setCondition(name, words string) {
	c.mu.Lock()
	if c.condition = strings.TrimPrefix(words, "both "); words != "" {
		c.seen = c.condition
	}
	c.mu.Unlock()
	if name != "" {
		c.log("condition: %s", words)
	}
}

// watchCondition begins to note conditions of the link, seenCondition is the latest one since then.
func (c *campaign) watchCondition() {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.seen = c.condition
}

func (c *campaign) seenCondition() string {
	c.mu.Lock()
	defer c.mu.Unlock()
	return c.seen
}

// say tells the progress; log writes a line.
func (c *campaign) say(what string, done int) {
	if c.plan.Progress != nil {
		if what == "" {
			c.account.mu.Lock()
			what = c.account.fault
			c.account.mu.Unlock()
		}
		c.plan.Progress(what, min(done, c.plan.Seconds), c.plan.Seconds)
	}
}

func (c *campaign) log(format string, args ...any) {
	if c.plan.Log != nil {
		_, _ = fmt.Fprintf(c.plan.Log, "%7.1f s  %s\n", time.Since(c.account.began).Seconds(), fmt.Sprintf(format, args...))
	}
}
