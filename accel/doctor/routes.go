package doctor

import (
	"context"
	"net"
	"net/netip"
	"slices"

	"github.com/vishvananda/netlink"

	"wanpair/accel/config"
)

// routes looks whether packets go and come where the gateway expects them.
func routes(_ context.Context, s Subject) []Finding {
	in := s.Config.Intercept
	if in == nil {
		return nil
	}
	var out []Finding
	for _, own := range in.Subnets {
		by, reached := interfaceTo(sample(own))
		switch {
		case !reached:
			out = append(out, found(Fault, AreaRoutes, "Add a route for it.", "there is no route to this site's own %s", own))
		case !slices.Contains(in.Interfaces, by):
			out = append(out, found(Warning, AreaRoutes, "Add the interface to [intercept] interfaces or correct the route: answers must come by the way the requests went.",
				"this site's own %s is reached by %s, which is not among the intercepted interfaces", own, by))
		}
	}
	for _, p := range s.Config.Peers {
		out = append(out, routesToPeer(p, in)...)
	}
	if len(out) == 0 {
		out = append(out, ok(AreaRoutes, "this site's hosts are on the intercepted interfaces, the peers' hosts on others"))
	}
	return out
}

// routesToPeer judges the ways the raw path takes when the tunnel is down.
func routesToPeer(p config.Peer, in *config.Intercept) []Finding {
	var out []Finding
	for _, subnet := range p.Subnets {
		by, reached := interfaceTo(sample(subnet))
		switch {
		case !reached:
			out = append(out, found(Warning, AreaRoutes, "Add a route: without one connections fail while the tunnel is down instead of passing raw.", "there is no route to %s of peer %s", subnet, p.Name))
		case slices.Contains(in.Interfaces, by):
			out = append(out, found(Note, AreaRoutes, "That is right for a box on one arm. Otherwise answers may come back past this box: then connections hang when it takes over.",
				"%s of peer %s is reached by the intercepted interface %s", subnet, p.Name, by))
		}
	}
	return out
}

// sample is an address of a subnet that a host may have.
func sample(p netip.Prefix) netip.Addr {
	a := p.Masked().Addr()
	if next := a.Next(); p.Contains(next) {
		return next
	}
	return a
}

// interfaceTo returns the name of the interface by which an address is reached.
func interfaceTo(a netip.Addr) (name string, reached bool) {
	list, err := netlink.RouteGet(net.IP(a.AsSlice()))
	if err != nil || len(list) == 0 {
		return "", false
	}
	link, err := netlink.LinkByIndex(list[0].LinkIndex)
	if err != nil {
		return "", false
	}
	return link.Attrs().Name, true
}
