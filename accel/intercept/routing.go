package intercept

import (
	"errors"
	"fmt"
	"net"

	"github.com/vishvananda/netlink"
	"golang.org/x/sys/unix"
)

// routeProtocol marks our routing rules and routes (rtm_protocol, from the range free for programs).
const routeProtocol = 46

// routing is the part that leads marked packets to this host: per family a rule "marked with the divert bit: look into our table"
// and in that table the route "everything is this host's". It works in the network namespace of the thread that calls.
type routing struct{ cfg Config }

func (f family) af() int {
	if f == v4 {
		return unix.AF_INET
	}
	return unix.AF_INET6
}

func (f family) everything() *net.IPNet {
	if f == v4 {
		return &net.IPNet{IP: net.IPv4zero.To4(), Mask: net.CIDRMask(0, 32)}
	}
	return &net.IPNet{IP: net.IPv6zero, Mask: net.CIDRMask(0, 128)}
}

func (r routing) rule(f family) *netlink.Rule {
	mask := r.cfg.DivertBit
	rule := netlink.NewRule()
	rule.Family, rule.Priority, rule.Table = f.af(), r.cfg.RulePriority, r.cfg.RouteTable
	rule.Mark, rule.Mask, rule.Protocol = r.cfg.DivertBit, &mask, routeProtocol
	return rule
}

func (r routing) route(f family) (*netlink.Route, error) {
	lo, err := netlink.LinkByName("lo")
	if err != nil {
		return nil, fmt.Errorf("intercept: interface lo: %w", err)
	}
	return &netlink.Route{
		LinkIndex: lo.Attrs().Index, Dst: f.everything(), Table: r.cfg.RouteTable, Type: unix.RTN_LOCAL,
		Scope: netlink.SCOPE_HOST, Protocol: routeProtocol,
	}, nil
}

// ErrConflict says that something of this host's configuration is used by somebody else.
var ErrConflict = errors.New("in use by something else")

// check looks for rules and routes of others where ours must stand. Left-overs of ours are no conflict.
func (r routing) check(f family) error {
	rules, err := netlink.RuleList(f.af())
	if err != nil {
		return fmt.Errorf("intercept: list routing rules: %w", err)
	}
	for _, rule := range rules {
		switch {
		case r.isOurs(rule):
		case rule.Table == r.cfg.RouteTable:
			return fmt.Errorf("intercept: routing table %d is looked up by another rule (priority %d): %w", r.cfg.RouteTable, rule.Priority, ErrConflict)
		case rule.Mark&r.cfg.DivertBit != 0 && (rule.Mask == nil || *rule.Mask&r.cfg.DivertBit != 0):
			return fmt.Errorf("intercept: the mark bit %#x is matched by another rule (priority %d): %w", r.cfg.DivertBit, rule.Priority, ErrConflict)
		}
	}
	routes, err := r.routes(f)
	if err != nil {
		return err
	}
	for _, route := range routes {
		if route.Protocol != routeProtocol || route.Type != unix.RTN_LOCAL {
			return fmt.Errorf("intercept: routing table %d has a route of somebody else, %v: %w", r.cfg.RouteTable, route.Dst, ErrConflict)
		}
	}
	return nil
}

func (r routing) isOurs(rule netlink.Rule) bool {
	return rule.Priority == r.cfg.RulePriority && rule.Table == r.cfg.RouteTable && rule.Mark == r.cfg.DivertBit &&
		rule.Mask != nil && *rule.Mask == r.cfg.DivertBit && rule.Protocol == routeProtocol
}

func (r routing) routes(f family) ([]netlink.Route, error) {
	routes, err := netlink.RouteListFiltered(f.af(), &netlink.Route{Table: r.cfg.RouteTable}, netlink.RT_FILTER_TABLE)
	if err != nil {
		return nil, fmt.Errorf("intercept: list routes of table %d: %w", r.cfg.RouteTable, err)
	}
	return routes, nil
}

// install makes rule and route stand, once each.
func (r routing) install(f family) error {
	route, err := r.route(f)
	if err != nil {
		return err
	}
	if err := netlink.RouteReplace(route); err != nil {
		return fmt.Errorf("intercept: add the local route to table %d: %w", r.cfg.RouteTable, explain(err))
	}
	if err := netlink.RuleAdd(r.rule(f)); err != nil && !errors.Is(err, unix.EEXIST) {
		return fmt.Errorf("intercept: add the routing rule: %w", explain(err))
	}
	return nil
}

// works asks the kernel where a marked packet would go: one lookup tells whether rule and route stand.
func (r routing) works(f family) bool {
	// Addresses for documentation: they belong to nobody.
	dst := net.IPv4(198, 51, 100, 1)
	if f == v6 {
		dst = net.ParseIP("2001:db8::1")
	}
	routes, err := netlink.RouteGetWithOptions(dst, &netlink.RouteGetOptions{Mark: r.cfg.DivertBit})
	return err == nil && len(routes) > 0 && routes[0].Type == unix.RTN_LOCAL
}

// remove takes rule and route out; that they are gone already is fine.
func (r routing) remove(f family) error {
	var faults []error
	for {
		// A killed process may have left more than one rule, each delete takes one.
		err := netlink.RuleDel(r.rule(f))
		if err == nil {
			continue
		}
		if !isAbsent(err) {
			faults = append(faults, fmt.Errorf("intercept: remove the routing rule: %w", explain(err)))
		}
		break
	}
	routes, err := r.routes(f)
	if err != nil {
		faults = append(faults, err)
	}
	for _, route := range routes {
		if route.Protocol != routeProtocol {
			continue
		}
		if err := netlink.RouteDel(&route); err != nil && !isAbsent(err) {
			faults = append(faults, fmt.Errorf("intercept: remove the local route: %w", explain(err)))
		}
	}
	return errors.Join(faults...)
}

func isAbsent(err error) bool {
	return errors.Is(err, unix.ENOENT) || errors.Is(err, unix.ESRCH) || errors.Is(err, unix.EAFNOSUPPORT)
}
