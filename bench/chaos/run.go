package chaos

import (
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"runtime"
	"strings"
	"sync"
	"time"

	"golang.org/x/sys/unix"

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
		if !c.plan.Keep && len(c.result.Violations) == 0 && err == nil {
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
	c.inject = &injector{c.lab, c.near, c.far}
	for _, k := range c.keepers() {
		if err := os.MkdirAll(k.CacheDir(), 0o755); err != nil {
			return err
		}
		if err := unix.Mount("chaos", k.CacheDir(), "tmpfs", 0, cacheDisk); err != nil {
			return os.NewSyscallError("mount tmpfs", err)
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
		pause(ctx, time.Second+time.Duration(e.Seed%1500)*time.Millisecond)
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

// fault makes one fault, repairs it, and watches new connections until they are accelerated again.
func (c *campaign) fault(ctx context.Context, e Event) {
	name := e.Name()
	record := FaultRecord{Event: e, At: time.Since(c.account.began)}
	c.watchCondition()
	c.account.begin(name)
	defer c.account.heal()
	c.say(name, int(time.Since(c.account.began).Seconds()))
	deaths := c.deaths()
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
	if e.Fault == "restart" { // the stop itself takes a while
		record.Took = time.Since(injected)
	}
	pause(ctx, e.Hold)
	repaired := time.Now()
	if err := repair(); err != nil {
		c.account.find("harness", "repair %s: %v", name, err)
	}
	for ctx.Err() == nil && time.Since(repaired) < settle {
		pause(ctx, lookEvery)
		after, again := acceleratedAfter(c.prober.since(repaired), repaired)
		if again && time.Since(repaired) >= after+probeTimeout/2 {
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
	if !record.Accelerated && ctx.Err() == nil {
		c.account.find("not accelerated", "%s: not again within %v of the repair (condition of the link: %q)", name, settle, record.Condition)
		for _, k := range c.keepers() {
			k.dump(repairing)
		}
	}
	record.Deaths = c.deaths() - deaths
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

func (c *campaign) deaths() int {
	n := 0
	for _, k := range c.keepers() {
		k.mu.Lock()
		n += k.deaths
		k.mu.Unlock()
	}
	return n
}

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
		if err := unix.Unmount(k.CacheDir(), unix.MNT_DETACH); err != nil && !errors.Is(err, unix.EINVAL) && !errors.Is(err, unix.ENOENT) {
			faults = append(faults, os.NewSyscallError("umount", err))
		}
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
