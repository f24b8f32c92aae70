package intercept

import (
	"context"
	"errors"
	"fmt"
	"maps"
	"net"
	"net/netip"
	"slices"
	"sync"
	"sync/atomic"
	"time"

	"wanpair/accel/edge"

	"golang.org/x/sys/unix"
)

// ErrState says that a method was called in the wrong order: Install comes first, once, and nothing follows Remove.
var ErrState = errors.New("intercept: called out of order")

// ErrForeignTable says that a table of our name exists that we did not make.
var ErrForeignTable = errors.New("an nftables table of this name was made by something else")

// Interceptor is the interception of one site. Its methods may be called from any goroutine; those that speak to the kernel do so
// on the caller's thread, in that thread's network namespace.
type Interceptor struct {
	fixed     Config // as given to New; what Reconfigure cannot change is read from it
	lock      *net.UnixListener
	listeners []*net.TCPListener
	conns     chan *edge.Conn
	accepted  atomic.Uint64 // connections handed to Accept's callers
	removed   chan struct{} // closed by Remove
	probing   probeDesk
	kernel    kernel

	mu        sync.Mutex // guards what follows, and every change of the table
	cfg       Config
	state     state
	table     *table
	routing   routing
	families  []family
	peers     map[string]*peerState
	stopped   bool              // by StopDiverting
	suspended error             // why no peer's traffic is diverted although it is alive; nil = it is
	lastSeen  map[string]uint64 // counters as last read, in packets; the table is put back with them
	watch     watchdog

	probeDevice string // while a probe is under way
}

type state uint8

const (
	stateNew state = iota
	stateInstalled
	stateRemoved
)

// peerState is what is wanted for a peer, and how its raw connections came about.
type peerState struct {
	alive     bool
	announced []netip.Prefix    // by the peer
	prefixes  []netip.Prefix    // what of them is configured for it
	gateways  []netip.Addr      // the peer's own addresses: always raw
	reason    string            // while not alive
	raw       map[string]uint64 // connections passed raw, by reason
	rawSeen   uint64            // the peer's counter when raw was last brought up to date
}

// ReasonFault is the reason of connections that pass raw because diverting was suspended, ReasonPeerDown of those to a peer that was
// never reported alive.
const (
	ReasonFault    = "intercept_fault"
	ReasonPeerDown = "peer_down"
)

// New checks the configuration. It touches nothing.
func New(cfg Config) (*Interceptor, error) {
	cfg = cfg.withDefaults()
	if err := cfg.validate(); err != nil {
		return nil, err
	}
	i := &Interceptor{
		fixed: cfg, cfg: cfg, conns: make(chan *edge.Conn), removed: make(chan struct{}), routing: routing{cfg: cfg},
		peers: map[string]*peerState{}, lastSeen: map[string]uint64{},
	}
	for _, p := range cfg.Peers {
		i.peers[p.Name] = &peerState{reason: ReasonPeerDown, raw: map[string]uint64{}}
	}
	return i, nil
}

// Install opens the listeners and puts rules and routes in, with every alive set empty: nothing is diverted yet. Then a probe must
// arrive (see Config.Probe). What a killed process left is taken over. After an error nothing is left behind. When ctx ends before that, its error
// is returned.
func (i *Interceptor) Install(ctx context.Context) (err error) {
	i.mu.Lock()
	if i.state != stateNew {
		i.mu.Unlock()
		return ErrState
	}
	err = i.installLocked()
	if err == nil {
		i.state = stateInstalled
	}
	i.mu.Unlock()
	if err != nil {
		return err
	}
	if err := i.firstProbe(ctx); err != nil {
		removed := i.Remove()
		if removed != nil && ctx.Err() != nil {
			return removed // ctx's error alone says that nothing was left behind
		}
		return errors.Join(err, removed)
	}
	return nil
}

func (i *Interceptor) installLocked() (err error) {
	var undo []func() error
	defer func() {
		if err == nil {
			return
		}
		i.state = stateRemoved
		close(i.removed)
		for _, f := range slices.Backward(undo) {
			err = errors.Join(err, f())
		}
	}()
	if i.lock, err = acquireLock(i.cfg.Table); err != nil {
		return err
	}
	undo = append(undo, i.lock.Close, func() error { i.kernel.close(); return nil })
	if err := i.clearLeft(); err != nil {
		return err
	}
	listen4, listen6, err := i.openListeners()
	undo = append(undo, i.closeListeners)
	if err != nil {
		return err
	}
	i.table = newTable(newModel(i.cfg, listen4, listen6), &i.kernel)
	for _, f := range i.families {
		if err := i.routing.check(f); err != nil {
			return err
		}
	}
	for _, f := range i.families {
		undo = append(undo, func() error { return i.routing.remove(f) })
		if err := i.routing.install(f); err != nil {
			return err
		}
	}
	undo = append(undo, i.table.remove)
	return i.table.install(contents{})
}

// clearLeft removes the table that a killed process left. It may go on diverting until its alive sets run dry: were the listeners opened
// before, clients would meet them at once, wait for somebody to accept, and the first probe would wait in line behind them.
func (i *Interceptor) clearLeft() error {
	left := newTable(newModel(i.cfg, netip.AddrPort{}, netip.AddrPort{}), &i.kernel)
	switch s, err := left.state(); {
	case err != nil:
		return err
	case s == tableForeign:
		return fmt.Errorf("intercept: table inet %s: %w", i.cfg.Table, ErrForeignTable)
	case s == tableOurs:
		i.cfg.Log.Info("removing the rules of a gateway that did not end by itself", "table", i.cfg.Table)
		return left.remove()
	}
	return nil
}

// openListeners finds out which families this host has and opens a listener for each, unless nothing is to be intercepted.
func (i *Interceptor) openListeners() (listen4, listen6 netip.AddrPort, err error) {
	listen4, listen6 = i.cfg.listenAddrs()
	for _, f := range i.cfg.families() {
		addr := &listen6
		if f == v4 {
			addr = &listen4
		}
		if !hasFamily(f, addr.Addr()) {
			i.cfg.Log.Info("this host lacks an IP version, nothing of it is intercepted", "version", f.digit())
			*addr = netip.AddrPort{}
			continue
		}
		i.families = append(i.families, f)
		if len(i.cfg.Interfaces) == 0 {
			continue
		}
		l, err := listen(i.cfg, f, *addr)
		if err != nil {
			return listen4, listen6, err
		}
		i.listeners = append(i.listeners, l)
	}
	if len(i.families) == 0 {
		return listen4, listen6, errors.New("intercept: this host has neither IPv4 nor IPv6 on its loopback interface")
	}
	return listen4, listen6, nil
}

// hasFamily says whether an address of the loopback interface can be bound: a transparent socket could bind one that is not there.
func hasFamily(f family, loopback netip.Addr) bool {
	l, err := (&net.ListenConfig{}).Listen(context.Background(), "tcp"+f.digit(), netip.AddrPortFrom(loopback, 0).String())
	if err != nil {
		return !errors.Is(err, unix.EAFNOSUPPORT) && !errors.Is(err, unix.EADDRNOTAVAIL)
	}
	_ = l.Close()
	return true
}

func (i *Interceptor) closeListeners() error {
	var faults []error
	for _, l := range i.listeners {
		faults = append(faults, l.Close())
	}
	return errors.Join(faults...)
}

// Run accepts connections and keeps rules and alive sets standing until ctx ends. The rules stay until Remove.
func (i *Interceptor) Run(ctx context.Context) error {
	i.mu.Lock()
	if i.state != stateInstalled {
		i.mu.Unlock()
		return ErrState
	}
	i.mu.Unlock()
	ctx, cancel := context.WithCancel(ctx)
	defer cancel()
	var wg sync.WaitGroup
	for _, l := range i.listeners {
		_ = l.SetDeadline(time.Time{})
		wg.Go(func() { i.acceptLoop(ctx, l) })
	}
	i.keep(ctx) // on this goroutine's thread
	cancel()
	wg.Wait()
	return nil
}

// Accept waits for an intercepted connection. Its LocalAddr is the original destination, its RemoteAddr the client. Once ctx has
// ended it returns its error, after Remove net.ErrClosed.
func (i *Interceptor) Accept(ctx context.Context) (*edge.Conn, error) {
	select {
	case e := <-i.conns:
		return e, nil
	case <-ctx.Done():
		return nil, ctx.Err()
	case <-i.removed:
		return nil, net.ErrClosed
	}
}

// SetPeerAlive lets connections to a peer be diverted: those to the prefixes that it announced and that are configured for it. Run
// goes on refreshing them until SetPeerDead. gateways are the peer's own addresses, which always pass raw.
func (i *Interceptor) SetPeerAlive(peer string, prefixes []netip.Prefix, gateways []netip.Addr) error {
	i.mu.Lock()
	defer i.mu.Unlock()
	p, err := i.peerLocked(peer)
	if err != nil {
		return err
	}
	i.countRawLocked(p, peer)
	p.alive, p.announced, p.prefixes = true, slices.Clone(prefixes), i.configured(peer, prefixes)
	if !slices.Equal(p.gateways, gateways) {
		p.gateways = slices.Clone(gateways)
		if err := i.setGatewaysLocked(); err != nil {
			return err
		}
	}
	return i.refreshLocked(peer)
}

// SetPeerDead empties a peer's alive sets at once: its connections pass raw from now on, for the reason given.
func (i *Interceptor) SetPeerDead(peer, reason string) error {
	i.mu.Lock()
	defer i.mu.Unlock()
	p, err := i.peerLocked(peer)
	if err != nil {
		return err
	}
	err = nil
	if p.alive {
		p.alive = false
		err = i.refreshLocked(peer)
	}
	i.countRawLocked(p, peer)
	p.reason = reason
	return err
}

// StopDiverting empties all alive sets for good, as the first step of an end: the connections that are here go on, those that wait
// to be accepted still are.
func (i *Interceptor) StopDiverting(reason string) error {
	i.mu.Lock()
	defer i.mu.Unlock()
	if i.state != stateInstalled {
		return ErrState
	}
	i.stopped = true
	err := i.refreshLocked(slices.Collect(maps.Keys(i.peers))...)
	for name, p := range i.peers {
		i.countRawLocked(p, name)
		p.alive, p.reason = false, reason
	}
	return err
}

// Refuse lets connections to a destination pass raw for a while, because its server refuses them and the client should meet the
// refusal itself; d <= 0 ends that.
func (i *Interceptor) Refuse(target netip.AddrPort, d time.Duration) error {
	i.mu.Lock()
	defer i.mu.Unlock()
	if i.state != stateInstalled {
		return ErrState
	}
	return i.table.refuse(netip.AddrPortFrom(target.Addr().Unmap().WithZone(""), target.Port()), d)
}

// Remove takes everything out again: rules, routes, listeners. Connections that have not ended by then lose their packets: a caller
// waits until nothing is unsent. It is safe to call twice.
func (i *Interceptor) Remove() error {
	i.mu.Lock()
	defer i.mu.Unlock()
	if i.state != stateInstalled {
		return nil
	}
	i.state = stateRemoved
	close(i.removed)
	faults := []error{i.table.remove()}
	for _, f := range i.families {
		faults = append(faults, i.routing.remove(f))
	}
	i.kernel.close()
	return errors.Join(append(faults, i.closeListeners(), i.lock.Close())...)
}

// peerLocked finds a peer of an installed interceptor.
func (i *Interceptor) peerLocked(name string) (*peerState, error) {
	if i.state != stateInstalled {
		return nil, ErrState
	}
	p := i.peers[name]
	if p == nil {
		return nil, fmt.Errorf("intercept: peer %q is not configured", name)
	}
	return p, nil
}

// configured keeps of the prefixes a peer announced what lies inside its configured ones: a peer cannot draw other traffic to it.
func (i *Interceptor) configured(peer string, prefixes []netip.Prefix) []netip.Prefix {
	var out []netip.Prefix
	for _, c := range i.cfg.Peers {
		if c.Name != peer {
			continue
		}
		for _, p := range prefixes {
			for _, sub := range c.Subnets {
				switch {
				case !p.Overlaps(sub):
				case p.Bits() >= sub.Bits():
					out = append(out, p)
				default:
					out = append(out, sub)
				}
			}
		}
	}
	if len(out) > maxPrefixes {
		out = out[:maxPrefixes]
	}
	return out
}

// divertedLocked is what a peer's alive sets should hold now; nil = nothing.
func (i *Interceptor) divertedLocked(p *peerState, name string) []netip.Prefix {
	if !p.alive || i.stopped || i.suspended != nil || i.cfg.StillAlive != nil && !i.cfg.StillAlive(name) {
		return nil
	}
	return p.prefixes
}

// refreshLocked brings the alive sets of some peers up to date, and the whole table when it is gone.
func (i *Interceptor) refreshLocked(names ...string) error {
	if len(i.cfg.Interfaces) == 0 {
		return nil
	}
	want := map[string][]netip.Prefix{}
	for _, name := range names {
		want[name] = i.divertedLocked(i.peers[name], name)
	}
	err := i.table.refresh(want)
	if errors.Is(err, errTableGone) {
		return i.reinstallLocked("somebody removed it")
	}
	return err
}

func (i *Interceptor) setGatewaysLocked() error {
	if len(i.cfg.Interfaces) == 0 {
		return nil
	}
	err := i.table.setGateways(i.gatewaysLocked())
	if errors.Is(err, errTableGone) {
		return i.reinstallLocked("somebody removed it")
	}
	return err
}

func (i *Interceptor) gatewaysLocked() []netip.Addr {
	var all []netip.Addr
	for _, p := range i.peers {
		all = append(all, p.gateways...)
	}
	return all
}

// reinstallLocked puts the whole table in again, with what it should hold now.
func (i *Interceptor) reinstallLocked(why string) error {
	now := contents{alive: map[string][]netip.Prefix{}, gateways: i.gatewaysLocked(), probe: i.probeDevice, counters: i.lastSeen}
	for name, p := range i.peers {
		now.alive[name] = i.divertedLocked(p, name)
	}
	if s, err := i.table.state(); err == nil && s == tableForeign {
		return fmt.Errorf("intercept: table inet %s: %w", i.cfg.Table, ErrForeignTable)
	}
	if err := i.table.install(now); err != nil {
		return err
	}
	i.cfg.Log.Info("nftables table put in anew", "table", i.cfg.Table, "why", why)
	return nil
}
