// Package egress dials the far end of a flow: the server a client of the other site meant.
//
// It owns whom this gateway may dial and as whom. A peer is authenticated but not believed: targets outside the allow list and
// sources outside that peer's subnets are refused before a socket exists, or a bad peer could be any host of the LAN.
//
// Two ways to dial. DialAsClient binds to the client's own address and port (IP_TRANSPARENT), so that the server sees the client;
// the answers come back to this host by its routing and into the socket by the rule that package intercept installs. It needs
// CAP_NET_ADMIN, and CAP_NET_BIND_SERVICE for client ports below 1024. DialOwn uses the gateway's own address and needs nothing.
//
// Nouns: the target is what is dialled, the source is the client's address as the server will see it.
package egress

import (
	"context"
	"errors"
	"fmt"
	"net"
	"net/netip"
	"strconv"
	"sync/atomic"
	"syscall"
	"time"

	"wanpair/accel/edge"

	"golang.org/x/sys/unix"
)

// Defaults of Config.
const (
	// DefaultConnectTimeout is how long a server may take to answer. A client alone would give up after about two minutes, but it
	// has been told already that it is connected, so an answer is due sooner; 30 s is five SYNs.
	DefaultConnectTimeout = 30 * time.Second
	// DefaultClashWait covers a client that resets a connection and uses its port again at once: word of the new connection can
	// arrive before word of the reset.
	DefaultClashWait = time.Second
)

// maxResolved bounds the addresses of one name that are tried.
const maxResolved = 16

// Config says whom a Dialer may dial. The zero value allows nothing.
type Config struct {
	Allow          []netip.Prefix  // targets; everything else is denied
	Deny           []netip.Addr    // targets denied even so: this host's own addresses, which dialled as the client would never answer
	Mark           uint32          // SO_MARK of sockets dialled as the client; 0 = none. Never the bit that diverts
	ConnectTimeout time.Duration   // per dial; 0 = DefaultConnectTimeout
	ClashWait      time.Duration   // how long to wait for a client's port that is still in use; 0 = DefaultClashWait, < 0 = not at all
	Edge           edge.Options    // keep-alive of the connections
	Resolver       *net.Resolver   // names in DialOwn; nil = the system's
	destroy        destroyTimeWait // tests replace it
}

// destroyTimeWait removes a connection of this host that is in TIME_WAIT, and says whether there was one.
type destroyTimeWait func(local, remote netip.AddrPort) bool

// Dialer dials targets. It is safe for concurrent use.
type Dialer struct {
	cfg   Config
	allow prefixes
	deny  atomic.Pointer[map[netip.Addr]bool]
}

// New checks the configuration.
func New(cfg Config) (*Dialer, error) {
	allow, err := newPrefixes(cfg.Allow)
	if err != nil {
		return nil, fmt.Errorf("egress: allowed targets: %w", err)
	}
	if cfg.ConnectTimeout < 0 {
		return nil, fmt.Errorf("egress: connect timeout %v is negative", cfg.ConnectTimeout)
	}
	if cfg.ConnectTimeout == 0 {
		cfg.ConnectTimeout = DefaultConnectTimeout
	}
	if cfg.ClashWait == 0 {
		cfg.ClashWait = DefaultClashWait
	}
	if cfg.Resolver == nil {
		cfg.Resolver = net.DefaultResolver
	}
	if cfg.destroy == nil {
		cfg.destroy = destroyByDiag
	}
	d := &Dialer{cfg: cfg, allow: allow}
	d.SetDeny(cfg.Deny)
	return d, nil
}

// SetDeny replaces [Config.Deny] for the dials to come.
func (d *Dialer) SetDeny(addrs []netip.Addr) {
	deny := make(map[netip.Addr]bool, len(addrs))
	for _, a := range addrs {
		deny[a.Unmap().WithZone("")] = true
	}
	d.deny.Store(&deny)
}

// Allowed says whether a target may be dialled; the error is a Denied *Error.
func (d *Dialer) Allowed(target netip.AddrPort) error {
	addr := target.Addr().Unmap()
	switch {
	case !target.IsValid() || target.Port() == 0:
		return &Error{Reason: Denied, Target: target.String(), Err: ErrBadAddress}
	case !d.allow.contain(addr):
		return &Error{Reason: Denied, Target: target.String(), Err: ErrTargetNotAllowed}
	case (*d.deny.Load())[addr]:
		return &Error{Reason: Denied, Target: target.String(), Err: ErrOwnAddress}
	}
	return nil
}

// DialAsClient connects to target from the client's own address and port. The client must lie inside sources, the subnets of
// the peer that asks. Errors are *Error.
func (d *Dialer) DialAsClient(ctx context.Context, client, target netip.AddrPort, sources []netip.Prefix) (*edge.Conn, error) {
	client = netip.AddrPortFrom(client.Addr().Unmap(), client.Port())
	target = netip.AddrPortFrom(target.Addr().Unmap(), target.Port())
	if err := d.Allowed(target); err != nil {
		return nil, err
	}
	fail := func(reason Reason, err error) error {
		return &Error{Reason: reason, Target: target.String(), Source: client.String(), Err: err}
	}
	from, err := newPrefixes(sources)
	switch {
	case err != nil:
		return nil, fail(Denied, err)
	case !client.IsValid() || client.Port() == 0 || client.Addr().Is4() != target.Addr().Is4():
		return nil, fail(Denied, ErrBadAddress)
	case !from.contain(client.Addr()):
		return nil, fail(Denied, ErrSourceNotAllowed)
	}
	ctx, cancel := context.WithTimeout(ctx, d.cfg.ConnectTimeout)
	defer cancel()
	nd := d.netDialer(func(fd int) error { return d.beTransparent(fd, target.Addr().Is4()) })
	nd.LocalAddr = net.TCPAddrFromAddrPort(client)

	var clashUntil time.Time
	for wait := 5 * time.Millisecond; ; wait *= 2 {
		c, err := nd.DialContext(ctx, network(target.Addr()), target.String())
		if err == nil {
			return d.wrap(c, target.String())
		}
		if !isClash(err) {
			return nil, fail(classify(err, true), err)
		}
		// The client's port is in use here. Left over in TIME_WAIT from a connection that ended cleanly it can go: the client, who
		// alone decides when to use its port again, has decided. Otherwise its end is on its way, or the port belongs to somebody.
		if d.cfg.destroy(client, target) {
			if c, err = nd.DialContext(ctx, network(target.Addr()), target.String()); err == nil {
				return d.wrap(c, target.String())
			}
		}
		now := time.Now()
		if clashUntil.IsZero() {
			clashUntil = now.Add(d.cfg.ClashWait)
		}
		if !isClash(err) || now.Add(wait).After(clashUntil) {
			return nil, fail(classify(err, true), err)
		}
		select {
		case <-ctx.Done():
			return nil, fail(SourceClash, err)
		case <-time.After(wait):
		}
	}
}

// DialOwn connects to "host:port" from this host's own address. A name is resolved here and its addresses are checked one by
// one against the allow list; they are tried in the resolver's order. Errors are *Error; of several the last one.
func (d *Dialer) DialOwn(ctx context.Context, hostport string) (*edge.Conn, error) {
	fail := func(reason Reason, err error) error { return &Error{Reason: reason, Target: hostport, Err: err} }
	host, portText, err := net.SplitHostPort(hostport)
	if err != nil {
		return nil, fail(Denied, ErrBadAddress)
	}
	port, err := strconv.ParseUint(portText, 10, 16)
	if err != nil || port == 0 || host == "" {
		return nil, fail(Denied, ErrBadAddress)
	}
	ctx, cancel := context.WithTimeout(ctx, d.cfg.ConnectTimeout)
	defer cancel()
	addrs, err := d.resolve(ctx, host)
	if err != nil {
		return nil, fail(Unreachable, err)
	}
	nd := d.netDialer(func(fd int) error { return d.markIfAllowed(fd) })
	last := fail(Unreachable, ErrNoAddress)
	for i, addr := range addrs {
		target := netip.AddrPortFrom(addr, uint16(port))
		if err := d.allowedOwn(target); err != nil {
			if i == 0 || errors.Is(last, ErrNoAddress) {
				last = err
			}
			continue
		}
		c, err := nd.DialContext(ctx, network(addr), target.String())
		if err == nil {
			return d.wrap(c, hostport)
		}
		last = fail(classify(err, false), err)
	}
	return nil, last
}

// allowedOwn is Allowed without the ban on this host's own addresses, which answer well when they are dialled from one of them.
func (d *Dialer) allowedOwn(target netip.AddrPort) error {
	if err := d.Allowed(target); err != nil && !errors.Is(err, ErrOwnAddress) {
		return err
	}
	return nil
}

func (d *Dialer) resolve(ctx context.Context, host string) ([]netip.Addr, error) {
	if a, err := netip.ParseAddr(host); err == nil {
		return []netip.Addr{a.Unmap()}, nil
	}
	addrs, err := d.cfg.Resolver.LookupNetIP(ctx, "ip", host)
	if err != nil {
		return nil, err
	}
	if len(addrs) > maxResolved {
		addrs = addrs[:maxResolved]
	}
	for i := range addrs {
		addrs[i] = addrs[i].Unmap()
	}
	return addrs, nil
}

func network(a netip.Addr) string {
	if a.Is4() {
		return "tcp4"
	}
	return "tcp6"
}

// netDialer is a net.Dialer whose sockets are edges from the start; prepare sets what is special to the way of dialling.
func (d *Dialer) netDialer(prepare func(fd int) error) *net.Dialer {
	nd := &net.Dialer{
		KeepAlive: -1, // set by edge.Prepare
		ControlContext: func(_ context.Context, _, _ string, rc syscall.RawConn) error {
			var err error
			if cerr := rc.Control(func(fd uintptr) {
				if err = edge.Prepare(int(fd), d.cfg.Edge); err == nil {
					err = prepare(int(fd))
				}
			}); cerr != nil {
				return cerr
			}
			return err
		},
	}
	nd.SetMultipathTCP(false) // the server must see the TCP the client spoke
	return nd
}

func (d *Dialer) beTransparent(fd int, v4 bool) error {
	// Several connections share a client's port, each to another server: without SO_REUSEADDR the second could not bind.
	if err := unix.SetsockoptInt(fd, unix.SOL_SOCKET, unix.SO_REUSEADDR, 1); err != nil {
		return fmt.Errorf("set SO_REUSEADDR: %w", err)
	}
	level, name, text := unix.SOL_IPV6, unix.IPV6_TRANSPARENT, "IPV6_TRANSPARENT"
	if v4 {
		level, name, text = unix.SOL_IP, unix.IP_TRANSPARENT, "IP_TRANSPARENT"
	}
	if err := unix.SetsockoptInt(fd, level, name, 1); err != nil {
		return fmt.Errorf("set %s (needs CAP_NET_ADMIN): %w", text, err)
	}
	if d.cfg.Mark != 0 {
		if err := unix.SetsockoptInt(fd, unix.SOL_SOCKET, unix.SO_MARK, int(d.cfg.Mark)); err != nil {
			return fmt.Errorf("set SO_MARK (needs CAP_NET_ADMIN): %w", err)
		}
	}
	return nil
}

// markIfAllowed marks a socket of this host's own address; the mark only helps an operator's own rules, so a process without
// the capability does without.
func (d *Dialer) markIfAllowed(fd int) error {
	if d.cfg.Mark == 0 {
		return nil
	}
	if err := unix.SetsockoptInt(fd, unix.SOL_SOCKET, unix.SO_MARK, int(d.cfg.Mark)); err != nil && err != unix.EPERM {
		return fmt.Errorf("set SO_MARK: %w", err)
	}
	return nil
}

func (d *Dialer) wrap(c net.Conn, target string) (*edge.Conn, error) {
	e, err := edge.New(c.(*net.TCPConn), d.cfg.Edge)
	if err != nil {
		return nil, &Error{Reason: Failed, Target: target, Err: err}
	}
	return e, nil
}
