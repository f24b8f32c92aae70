package lab

import (
	"errors"
	"fmt"
	"net"
	"net/netip"
	"os"
	"strconv"
	"strings"

	"github.com/vishvananda/netlink"
	"github.com/vishvananda/netns"
	"golang.org/x/sys/unix"

	"wanpair/bench/link"
)

// sysctls of every node. Reverse path filters would drop what a gateway sends in a client's name; duplicate address detection would make
// an address unusable for a second; saved TCP metrics would let one run learn from the one before.
func commonSysctls() map[string]string {
	return map[string]string{
		"net.ipv4.conf.all.rp_filter":                "0",
		"net.ipv4.conf.default.rp_filter":            "0",
		"net.ipv4.tcp_no_metrics_save":               "1",
		"net.ipv4.tcp_max_syn_backlog":               "8192", // a thousand connections at once: beyond it cookies, and a lost ACK is a reset
		"net.ipv6.conf.all.accept_dad":               "0",
		"net.ipv6.conf.default.accept_dad":           "0",
		"net.ipv6.conf.default.accept_ra":            "0",
		"net.ipv6.conf.default.router_solicitations": "0",
	}
}

// handle is a netlink connection to one node.
type handle struct {
	*netlink.Handle
	node Node
	ns   netns.NsHandle
}

func openHandle(lab string, n Node) (*handle, error) {
	ns, err := netns.GetFromPath(link.NamedNamespaces + "/" + namespace(lab, n))
	if err != nil {
		return nil, fmt.Errorf("open network namespace %s: %w", namespace(lab, n), err)
	}
	h, err := netlink.NewHandleAt(ns, unix.NETLINK_ROUTE)
	if err != nil {
		return nil, errors.Join(fmt.Errorf("netlink in %s: %w", namespace(lab, n), err), ns.Close())
	}
	return &handle{Handle: h, node: n, ns: ns}, nil
}

func (h *handle) close() {
	h.Close()
	_ = h.ns.Close()
}

// device brings a device up and gives it addresses in prefix notation; a peer makes the address one of a point-to-point link.
func (h *handle) device(name string, addresses ...string) error {
	dev, err := h.LinkByName(name)
	if err != nil {
		return fmt.Errorf("%s: device %s: %w", h.node, name, err)
	}
	if err := h.LinkSetUp(dev); err != nil {
		return fmt.Errorf("%s: bring %s up: %w", h.node, name, err)
	}
	for _, text := range addresses {
		local, peer, isPeer := strings.Cut(text, " peer ")
		address, err := netlink.ParseAddr(local)
		if err != nil {
			return fmt.Errorf("%s: address %q: %w", h.node, local, err)
		}
		if isPeer {
			if address.Peer, err = netlink.ParseIPNet(peer); err != nil {
				return fmt.Errorf("%s: address %q: %w", h.node, peer, err)
			}
		}
		if address.IP.To4() == nil {
			address.Flags = unix.IFA_F_NODAD
		}
		if err := h.AddrAdd(dev, address); err != nil {
			return fmt.Errorf("%s: address %s on %s: %w", h.node, text, name, err)
		}
	}
	return nil
}

// route sends what is for prefix out of device, by way of gateway unless that is empty.
func (h *handle) route(prefix, gateway, device string) error {
	dev, err := h.LinkByName(device)
	if err != nil {
		return fmt.Errorf("%s: device %s: %w", h.node, device, err)
	}
	destination, err := netlink.ParseIPNet(prefix)
	if err != nil {
		return fmt.Errorf("%s: route %q: %w", h.node, prefix, err)
	}
	r := &netlink.Route{LinkIndex: dev.Attrs().Index, Dst: destination, Gw: net.ParseIP(gateway)}
	if gateway == "" {
		r.Scope = netlink.SCOPE_LINK
	}
	if err := h.RouteAdd(r); err != nil {
		return fmt.Errorf("%s: route %s: %w", h.node, prefix, err)
	}
	return nil
}

// buildLANs joins client and gateway A, server and gateway B by veth pairs.
func (l *Lab) buildLANs(handles map[Node]*handle) error {
	for _, lan := range []struct{ gateway, host Node }{{GatewayA, Client}, {GatewayB, Server}} {
		pair := &netlink.Veth{LinkAttrs: netlink.LinkAttrs{Name: LANDevice}, PeerName: HostDevice, PeerNamespace: netlink.NsFd(handles[lan.host].ns)}
		if err := handles[lan.gateway].LinkAdd(pair); err != nil {
			return fmt.Errorf("veth pair between %s and %s: %w", lan.gateway, lan.host, err)
		}
	}
	return nil
}

// configure gives all devices their addresses and routes; the WAN devices exist by now.
func (l *Lab) configure(handles map[Node]*handle) error {
	type address struct {
		node    Node
		device  string
		address []string
	}
	hosts := func(first func(int) netip.Addr, first6 func(int) netip.Addr, n int) (a []string) {
		for i := range n {
			a = append(a, first(i).String()+"/24", first6(i).String()+"/64")
		}
		return a
	}
	for _, a := range []address{
		{Client, "lo", nil}, {GatewayA, "lo", nil}, {GatewayB, "lo", nil}, {Server, "lo", nil},
		{Client, HostDevice, hosts(ClientAddr, ClientAddr6, l.config.Clients)},
		{GatewayA, LANDevice, []string{GatewayALANIP4 + "/24", GatewayALANIP6 + "/64"}},
		{GatewayA, WANDevice, []string{GatewayAWANIP4 + "/32 peer " + GatewayBWANIP4 + "/32", GatewayAWANIP6 + "/64"}},
		{GatewayB, WANDevice, []string{GatewayBWANIP4 + "/32 peer " + GatewayAWANIP4 + "/32", GatewayBWANIP6 + "/64"}},
		{GatewayB, LANDevice, []string{GatewayBLANIP4 + "/24", GatewayBLANIP6 + "/64"}},
		{Server, HostDevice, hosts(ServerAddr, ServerAddr6, l.config.Servers)},
	} {
		if err := handles[a.node].device(a.device, a.address...); err != nil {
			return err
		}
	}
	for _, r := range []struct {
		node                    Node
		prefix, gateway, device string
	}{
		{Client, "0.0.0.0/0", GatewayALANIP4, HostDevice}, {Client, "::/0", GatewayALANIP6, HostDevice},
		{GatewayA, SubnetB4, "", WANDevice}, {GatewayA, SubnetB6, "", WANDevice},
		{GatewayB, SubnetA4, "", WANDevice}, {GatewayB, SubnetA6, "", WANDevice},
		{Server, "0.0.0.0/0", GatewayBLANIP4, HostDevice}, {Server, "::/0", GatewayBLANIP6, HostDevice},
	} {
		if err := handles[r.node].route(r.prefix, r.gateway, r.device); err != nil {
			return err
		}
	}
	return nil
}

// setSysctls writes kernel parameters of one node.
func (l *Lab) setSysctls(n Node, values map[string]string) error {
	return l.Do(n, func() error {
		for name, value := range values {
			path := "/proc/sys/" + strings.ReplaceAll(name, ".", "/")
			// Opened without O_CREATE and O_TRUNC: /proc takes neither kindly.
			file, err := os.OpenFile(path, os.O_WRONLY, 0)
			if err != nil {
				return fmt.Errorf("%s: sysctl %s: %w", n, name, err)
			}
			_, err = file.WriteString(value)
			if err := errors.Join(err, file.Close()); err != nil {
				return fmt.Errorf("%s: sysctl %s = %q: %w", n, name, value, err)
			}
		}
		return nil
	})
}

// SetTCP sets congestion control and the largest send and receive buffer of a node's TCP connections from now on; "" and 0 leave as is.
func (l *Lab) SetTCP(n Node, congestion string, bufferBytes int) error {
	values := make(map[string]string)
	if congestion != "" {
		values["net.ipv4.tcp_congestion_control"] = congestion
	}
	if bufferBytes > 0 {
		largest := strconv.Itoa(bufferBytes)
		values["net.ipv4.tcp_rmem"] = fmt.Sprintf("4096 %d %s", min(131072, bufferBytes), largest)
		values["net.ipv4.tcp_wmem"] = fmt.Sprintf("4096 %d %s", min(16384, bufferBytes), largest)
	}
	return l.setSysctls(n, values)
}
