package chaos

import (
	"errors"
	"fmt"
	"io"
	"math/rand/v2"
	"slices"
	"strings"
	"time"
)

// ErrFault is wrapped by errors about names of faults.
var ErrFault = errors.New("no such fault")

// Plan says what campaign to run.
type Plan struct {
	// Seconds is how long faults are injected and traffic runs, without building the lab and looking at what is left. At least 20.
	Seconds int
	// Seed of faults, data and the link's loss.
	Seed uint64
	// Faults to take, by name; empty: all. See Faults.
	Faults []string
	// Binary is the wanpair program, Previous the version before it, for upgrades; empty: there is none.
	Binary, Previous string
	// Fast lets one fault follow the other at once, for many of them: none is held for more than 300 ms, and one time in three the next comes before
	// connections are accelerated again.
	Fast bool
	// Dir is made and removed again, except after a violation or when Keep is set. Empty: a new one below the system's temporary directory.
	Dir  string
	Keep bool
	// State is a file that lets an interrupted campaign go on where it stopped, and to which finished ones are appended. Empty: none.
	State string
	// LogLevel of the gateways. Empty: info.
	LogLevel string
	// Progress is told now and then what is going on; nil: nobody.
	Progress func(what string, doneSeconds, totalSeconds int)
	// Log takes one line per fault and finding; nil: nobody.
	Log io.Writer
	// Commit and Gateway name what is tested, for the report.
	Commit, Gateway string
}

// shortSeconds is the length up to which a campaign takes short faults only, so that all kinds have their turn.
const shortSeconds = 600

// fastHold is the longest time to the repair in a fast campaign.
const fastHold = 300 * time.Millisecond

// short says whether faults are to be short.
func (p Plan) short() bool { return p.Seconds <= shortSeconds }

// victim is the side a fault happens to.
type victim string

const (
	near victim = "near"
	far  victim = "far"
	both victim = "both"
	none victim = ""
)

// Event is one fault of the schedule.
type Event struct {
	Index  int           `json:"index"`
	Fault  string        `json:"fault"`
	Victim victim        `json:"victim,omitempty"`
	Hold   time.Duration `json:"hold"` // from the injection to the repair
	// Stopped makes damage to the cache happen while the gateway does not run.
	Stopped bool `json:"stopped,omitempty"`
	// Hurried is followed by the next fault before connections are accelerated again.
	Hurried bool `json:"hurried,omitempty"`
	// Seed of choices within the fault: which files, which bytes.
	Seed uint64 `json:"seed"`
}

// Name is fault and victim in words.
func (e Event) Name() string {
	name := e.Fault
	if e.Victim != none {
		name += " " + string(e.Victim)
	}
	if e.Stopped {
		name += " stopped"
	}
	return name
}

// kind describes one fault.
type kind struct {
	name, what string
	victims    []victim
	// shortest and longest time to the repair; longest is for long campaigns, brief for short ones.
	shortest, brief, longest time.Duration
	condition                bool // happens to the link beside the faults
	stoppable                bool // may happen while the gateway does not run
	store                    bool // needs the store's own process
	disk                     bool // needs a file system of its own under the cache
}

// one is the victims of a fault that happens to one side.
var one = []victim{near, far}

// kinds is the table of faults; the first entries are the ones that a short campaign must have had, see schedule.
var kinds = []kind{
	{name: "kill", what: "the gateway is killed (SIGKILL) and started again", victims: []victim{near, far, near, far, both}, brief: 2 * time.Second, longest: 10 * time.Second},
	{name: "hang", what: "the gateway is stopped (SIGSTOP) and goes on later", victims: one, shortest: 2 * time.Second, brief: 6 * time.Second, longest: 20 * time.Second},
	{name: "cut", what: "the link is cut", shortest: 100 * time.Millisecond, brief: 4 * time.Second, longest: 60 * time.Second},
	{name: "wipe", what: "the gateway is killed, its cache deleted, and it is started again", victims: one, brief: time.Second, longest: 2 * time.Second},
	{name: "truncate", what: "some or all files of the cache are cut short", victims: one, stoppable: true, shortest: time.Second, brief: 2 * time.Second, longest: 5 * time.Second},
	{name: "flip", what: "bits of some or all files of the cache are flipped", victims: one, stoppable: true, shortest: time.Second, brief: 2 * time.Second, longest: 5 * time.Second},
	{name: "delete", what: "the cache's files are deleted under the running gateway", victims: one, shortest: time.Second, brief: 2 * time.Second, longest: 5 * time.Second},
	{name: "full", what: "the cache's disk is filled up", victims: one, shortest: 2 * time.Second, brief: 4 * time.Second, longest: 30 * time.Second},
	{name: "udp", what: "the tunnel's UDP packets are dropped before they arrive", victims: []victim{near, far, both, both}, shortest: 3 * time.Second, brief: 6 * time.Second, longest: 30 * time.Second},
	{name: "flush", what: "nft flush ruleset", victims: one, shortest: time.Second, brief: 2 * time.Second, longest: 4 * time.Second},
	{name: "routing", what: "the rule and route of diverted packets are deleted", victims: one, shortest: time.Second, brief: 2 * time.Second, longest: 4 * time.Second},
	{name: "descriptors", what: "no further descriptor may be opened (RLIMIT_NOFILE)", victims: one, shortest: 2 * time.Second, brief: 4 * time.Second, longest: 10 * time.Second},
	{name: "restart", what: "the gateway is stopped in order (SIGTERM) and started again", victims: one, brief: time.Second, longest: 5 * time.Second},
	{name: "store-kill", what: "the store's process is killed", victims: one, store: true, brief: time.Second, longest: time.Second},
	{name: "store-hang", what: "the store's process is stopped (SIGSTOP) and goes on later: a disk that hangs", victims: one, store: true, shortest: time.Second, brief: 4 * time.Second, longest: 20 * time.Second},
	{name: "store-eio", what: "fsync, msync, ftruncate and pwrite of the store's process fail with EIO (strace)", victims: one, store: true, shortest: time.Second, brief: 4 * time.Second, longest: 10 * time.Second},
	{name: "disk-eio", what: "reads, writes or syncs of the cache's files fail with EIO (FUSE)", victims: one, disk: true, shortest: time.Second, brief: 3 * time.Second, longest: 20 * time.Second},
	{name: "disk-full", what: "writes of the cache's files fail with ENOSPC (FUSE)", victims: one, disk: true, shortest: time.Second, brief: 3 * time.Second, longest: 20 * time.Second},
	{name: "disk-hang", what: "reads, writes or syncs of the cache's files hang (FUSE)", victims: one, disk: true, shortest: time.Second, brief: 4 * time.Second, longest: 20 * time.Second},
	{name: "memory", what: "the gateway and its store get hardly any more memory (cgroup), until the kernel kills one of them", victims: one, shortest: 2 * time.Second, brief: 4 * time.Second, longest: 20 * time.Second},
	{name: "upgrade", what: "the gateway is stopped in order, runs as the version before, and is stopped and upgraded again", victims: one, shortest: 2 * time.Second, brief: 4 * time.Second, longest: 20 * time.Second},
	{name: "loss", what: "the link loses 0.1 to 10 % of the packets", condition: true},
	{name: "burst", what: "the link loses packets in runs", condition: true},
	{name: "reorder", what: "the link delivers 1 to 10 % of the packets late", condition: true},
	{name: "mtu", what: "the path's MTU shrinks to 1280, without an ICMP message", condition: true},
	{name: "rate", what: "the link's rate falls to 2 to 40 Mbit/s", condition: true},
}

// Faults lists the names of all faults with a word on each.
func Faults() (names, what []string) {
	for _, k := range kinds {
		names, what = append(names, k.name), append(what, k.what)
	}
	return names, what
}

// choose returns the kinds of a plan.
func (p Plan) choose() (faults, conditions []kind, err error) {
	for _, name := range p.Faults {
		if !slices.ContainsFunc(kinds, func(k kind) bool { return k.name == name }) {
			names, _ := Faults()
			return nil, nil, fmt.Errorf("%w: %s; there are %s", ErrFault, name, strings.Join(names, ", "))
		}
	}
	for _, k := range kinds {
		switch {
		case len(p.Faults) > 0 && !slices.Contains(p.Faults, k.name):
		case k.condition:
			conditions = append(conditions, k)
		default:
			faults = append(faults, k)
		}
	}
	return faults, conditions, nil
}

// breaksDisks says whether a fault of the plan needs a file system that fails.
func (p Plan) breaksDisks() bool {
	faults, _, _ := p.choose()
	return slices.ContainsFunc(faults, func(k kind) bool { return k.disk })
}

// Upgrades says whether a fault of the plan needs the version before.
func (p Plan) Upgrades() bool {
	return len(p.Faults) == 0 || slices.Contains(p.Faults, "upgrade")
}

// fixed are the faults every campaign begins with.
var fixed = []struct {
	name   string
	victim victim
}{{"kill", near}, {"kill", far}, {"hang", near}, {"cut", none}, {"wipe", far}}

// schedule makes the i-th fault of a plan, from 0. The first ones are fixed, as far as the plan has them; then each round has all kinds in
// an order of its own.
func (p Plan) schedule(faults []kind, i int) Event {
	rng := rand.New(rand.NewPCG(p.Seed, 0x5eed_fa17<<20|uint64(i)))
	var k kind
	var first []int // indices of fixed that the plan has
	for n, f := range fixed {
		if slices.ContainsFunc(faults, func(k kind) bool { return k.name == f.name }) {
			first = append(first, n)
		}
	}
	e := Event{Index: i}
	if i < len(first) {
		f := fixed[first[i]]
		k = faults[slices.IndexFunc(faults, func(k kind) bool { return k.name == f.name })]
		e.Victim = f.victim
	} else {
		round, place := (i-len(first))/len(faults), (i-len(first))%len(faults)
		order := rand.New(rand.NewPCG(p.Seed, 0x0de4<<32|uint64(round))).Perm(len(faults))
		k = faults[order[place]]
		if len(k.victims) > 0 {
			e.Victim = k.victims[rng.IntN(len(k.victims))]
		}
		e.Stopped = k.stoppable && rng.IntN(2) == 0
	}
	shortest, longest := k.shortest, k.longest
	switch {
	case p.Fast:
		shortest, longest = min(k.shortest, fastHold), min(k.brief, fastHold)
	case p.short():
		longest = k.brief
	}
	e.Fault, e.Seed = k.name, rng.Uint64()
	e.Hold = (shortest + time.Duration(rng.Int64N(int64(longest-shortest)+1))).Round(time.Millisecond)
	e.Hurried = p.Fast && rng.IntN(3) == 0
	return e
}

// calm is the link between conditions.
const calm = "both delay=10ms rate=100mbit loss=0% burst=1 reorder=0% mtu=0 queue=1MB"

// condition makes the i-th condition of the link: words for it, and how long it and the calm before it last.
func (p Plan) condition(conditions []kind, i int) (name, words string, before, hold time.Duration) {
	rng := rand.New(rand.NewPCG(p.Seed, 0xc0d1<<32|uint64(i)))
	k := conditions[rng.IntN(len(conditions))]
	switch k.name {
	case "loss":
		words = fmt.Sprintf("both loss=%.1f%%", 0.1+rng.ExpFloat64()*2)
		if rng.IntN(8) == 0 {
			words = "both loss=10%"
		}
	case "burst":
		words = fmt.Sprintf("both loss=%.1f%% burst=%d", 0.2+3*rng.Float64(), 2+rng.IntN(20))
	case "reorder":
		words = fmt.Sprintf("both reorder=%.1f%% gap=%dms", 1+9*rng.Float64(), 1+rng.IntN(10))
	case "mtu":
		words = "both mtu=1280"
	case "rate":
		words = fmt.Sprintf("both rate=%dmbit", 2+rng.IntN(39))
	}
	return k.name, words, time.Duration(8+rng.IntN(20)) * time.Second, time.Duration(3+rng.IntN(10)) * time.Second
}
