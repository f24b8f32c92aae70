package intercept

import (
	"errors"
	"fmt"
	"net"
	"net/netip"
	"os"
	"path/filepath"
	"slices"
	"strings"

	"github.com/google/nftables"
	"github.com/google/nftables/expr"
	"github.com/vishvananda/netlink"
	"golang.org/x/sys/unix"
)

// Severity is how bad a finding is.
type Severity uint8

// The severities. With a Fatal finding interception would harm connections or cannot start; a Warning may be meant, or cannot be
// told from outside; a Note is a limit worth knowing.
const (
	Note Severity = iota
	Warning
	Fatal
)

func (s Severity) String() string {
	return [...]string{Note: "note", Warning: "warning", Fatal: "fatal"}[min(s, Fatal)]
}

// Finding is something on this host that stands in the way of interception.
type Finding struct {
	Severity Severity
	Code     string // a short name that does not change, such as "src_valid_mark"
	Text     string // what was found, without a full stop
	Remedy   string // what to do, in whole sentences
	Swallows bool   // diverted connections would vanish
}

// CheckHost looks for what breaks interception, or the raw path beside it, on this host. It changes nothing that outlasts it.
// Without CAP_NET_ADMIN it finds less, and says so. What firewalls do to connections is judged by walking their rules with a
// sample packet; only a probe is proof.
func CheckHost(cfg Config) []Finding {
	cfg = cfg.withDefaults()
	h := &host{cfg: cfg}
	h.checkCapabilities()
	h.checkInterfaces()
	h.checkSysctls()
	if h.mayAdmin {
		h.checkKernel()
		h.checkConflicts()
		h.checkFirewalls()
		h.checkLegacy()
	}
	slices.SortStableFunc(h.findings, func(a, b Finding) int { return int(b.Severity) - int(a.Severity) })
	return h.findings
}

type host struct {
	cfg      Config
	mayAdmin bool
	findings []Finding
}

func (h *host) add(s Severity, code, remedy, format string, args ...any) *Finding {
	h.findings = append(h.findings, Finding{Severity: s, Code: code, Text: fmt.Sprintf(format, args...), Remedy: remedy})
	return &h.findings[len(h.findings)-1]
}

// has says whether a family is in use: switched on here, and among the subnets on both sides if there are any.
func (h *host) has(f family) bool {
	if f == v4 && h.cfg.DisableIPv4 || f == v6 && h.cfg.DisableIPv6 {
		return false
	}
	if f == v6 {
		if _, err := os.Stat("/proc/sys/net/ipv6"); err != nil {
			return false
		}
	}
	return h.sample(f, h.cfg.Subnets).IsValid() || len(h.cfg.Subnets) == 0
}

// sample is an address of a family from a list of subnets, one that looks like a host's.
func (h *host) sample(f family, subnets []netip.Prefix) netip.Addr {
	for _, p := range subnets {
		if p.Addr().Is4() != bool(f) {
			continue
		}
		a := p.Masked().Addr()
		for range 10 {
			if next := a.Next(); p.Contains(next) {
				a = next
			}
		}
		return a
	}
	return netip.Addr{}
}

func (h *host) peerSubnets() []netip.Prefix {
	var all []netip.Prefix
	for _, p := range h.cfg.Peers {
		all = append(all, p.Subnets...)
	}
	return all
}

func (h *host) checkCapabilities() {
	hdr := unix.CapUserHeader{Version: unix.LINUX_CAPABILITY_VERSION_3}
	var data [2]unix.CapUserData
	if err := unix.Capget(&hdr, &data[0]); err != nil {
		h.add(Warning, "capabilities", "Run it as root to be sure.", "this process's capabilities cannot be read: %v", err)
		return
	}
	effective := uint64(data[1].Effective)<<32 | uint64(data[0].Effective)
	h.mayAdmin = effective>>unix.CAP_NET_ADMIN&1 == 1
	if !h.mayAdmin {
		h.add(Fatal, "cap_net_admin", "Run it as root, or with CAP_NET_ADMIN as the systemd unit does. Firewalls, conflicts and kernel features were not looked at.",
			"CAP_NET_ADMIN is missing: rules cannot be set and sockets cannot carry a client's address")
	}
	if effective>>unix.CAP_NET_BIND_SERVICE&1 == 0 {
		h.add(Warning, "cap_net_bind_service", "Grant CAP_NET_BIND_SERVICE, as the systemd unit does.",
			"CAP_NET_BIND_SERVICE is missing: servers cannot be dialled for clients whose own port is below 1024")
	}
}

func (h *host) checkInterfaces() {
	for _, name := range h.cfg.Interfaces {
		link, err := netlink.LinkByName(name)
		if err != nil {
			h.add(Warning, "interface_missing", "Check the name under [intercept] interfaces. Nothing is intercepted there until it appears.", "interface %s does not exist", name)
			continue
		}
		if link.Attrs().MasterIndex == 0 {
			continue
		}
		master, err := netlink.LinkByIndex(link.Attrs().MasterIndex)
		if err != nil {
			continue
		}
		switch master.Type() {
		case "vrf":
			if sysctl("ipv4/tcp_l3mdev_accept") == "0" {
				h.add(Fatal, "vrf", "Set net.ipv4.tcp_l3mdev_accept = 1.", "interface %s belongs to the VRF %s, whose connections do not reach the listener", name, master.Attrs().Name).Swallows = true
			}
		case "bridge":
			h.add(Warning, "bridge_port", "Name the bridge under [intercept] interfaces instead.", "interface %s is a port of the bridge %s: routed packets come in by the bridge", name, master.Attrs().Name)
		}
	}
	if len(h.cfg.Interfaces) > 0 && h.cfg.Probe != ProbeOff {
		if err := unix.Access("/dev/net/tun", unix.R_OK|unix.W_OK); err != nil {
			h.add(Warning, "tun", "Load the module tun, and let the process open /dev/net/tun (DeviceAllow in systemd, --device in a container).",
				"/dev/net/tun cannot be opened (%v), so no probe can be made before connections are diverted", err)
		}
	}
}

// sysctl reads a value below /proc/sys/net; "" when there is none.
func sysctl(key string) string {
	b, err := os.ReadFile(filepath.Join("/proc/sys/net", key))
	if err != nil {
		return ""
	}
	return strings.TrimSpace(string(b))
}

func (h *host) checkSysctls() {
	if h.has(v4) && len(h.cfg.Interfaces) > 0 {
		for _, name := range append([]string{"all"}, h.cfg.Interfaces...) {
			if sysctl("ipv4/conf/"+name+"/src_valid_mark") == "1" {
				h.add(Fatal, "src_valid_mark", fmt.Sprintf("Set net.ipv4.conf.%s.src_valid_mark = 0; wg-quick sets it for tunnels that carry the default route: give that tunnel Table = off and routes of its own.", name),
					"net.ipv4.conf.%s.src_valid_mark is 1, so the kernel checks the source of diverted packets with their mark and drops them", name).Swallows = true
			}
		}
	}
	h.checkReversePath()
	if h.has(v4) && sysctl("ipv4/ip_forward") != "1" {
		h.add(Fatal, "ip_forward", "Set net.ipv4.ip_forward = 1.", "this host does not forward IPv4, so raw connections do not pass")
	}
	if h.has(v6) && sysctl("ipv6/conf/all/forwarding") != "1" {
		s := Fatal
		if len(h.cfg.Subnets) == 0 {
			s = Warning // IPv6 may not be in use at all
		}
		h.add(s, "ip6_forward", "Set net.ipv6.conf.all.forwarding = 1 (and accept_ra = 2 where this host learns its own routes from router advertisements).",
			"this host does not forward IPv6, so raw connections do not pass")
	}
	if sysctl("ipv4/tcp_syncookies") == "2" {
		h.add(Fatal, "syncookies", "Set net.ipv4.tcp_syncookies = 1.",
			"net.ipv4.tcp_syncookies is 2: with a cookie in place of a socket, the second packet of a diverted connection is not recognised").Swallows = true
	}
}

// checkReversePath looks for own subnets whose packets a strict reverse path filter drops: because the route back to them leads
// elsewhere.
func (h *host) checkReversePath() {
	subnet := h.sample(v4, h.cfg.Subnets)
	if !subnet.IsValid() {
		return
	}
	for _, name := range h.cfg.Interfaces {
		// The higher of both counts: 1 is strict, 2 loose.
		if max(sysctl("ipv4/conf/all/rp_filter"), sysctl("ipv4/conf/"+name+"/rp_filter")) != "1" {
			continue
		}
		for _, p := range h.cfg.Subnets {
			a := h.sample(v4, []netip.Prefix{p})
			if !a.IsValid() {
				continue
			}
			if out := routeTo(a, 0); out != "" && !slices.Contains(h.cfg.Interfaces, out) {
				h.add(Warning, "rp_filter", fmt.Sprintf("Name %s under [intercept] interfaces, correct the route, or set net.ipv4.conf.%s.rp_filter = 2 (loose).", out, name),
					"rp_filter is strict on %s, and the route back to %v leads to %s: packets from there are dropped", name, p, out)
			}
		}
	}
}

// routeTo is the interface by which an address is reached; "" when it is not.
func routeTo(a netip.Addr, mark uint32) string {
	routes, err := netlink.RouteGetWithOptions(net.IP(a.AsSlice()), &netlink.RouteGetOptions{Mark: mark})
	if err != nil || len(routes) == 0 {
		return ""
	}
	link, err := netlink.LinkByIndex(routes[0].LinkIndex)
	if err != nil {
		return ""
	}
	return link.Attrs().Name
}

// checkKernel tries each kind of expression in a table that is made and deleted in one transaction: no packet ever meets it.
func (h *host) checkKernel() {
	try := func(exprs ...expr.Any) error {
		c := &nftables.Conn{}
		t := c.AddTable(&nftables.Table{Family: nftables.TableFamilyINet, Name: fmt.Sprintf("wanpair_check_%d", os.Getpid())})
		ch := c.AddChain(&nftables.Chain{Name: "check", Table: t})
		c.AddRule(&nftables.Rule{Table: t, Chain: ch, Exprs: exprs})
		c.DelTable(t)
		return c.Flush()
	}
	if err := try(isTCP().exprs...); err != nil {
		h.add(Fatal, "kernel_nftables", "Use a kernel with CONFIG_NF_TABLES and CONFIG_NF_TABLES_INET.", "nftables does not work: %v", err)
		return
	}
	type feature struct {
		severity     Severity
		code, config string
		exprs        []expr.Any
	}
	features := []feature{{Fatal, "kernel_socket", "CONFIG_NFT_SOCKET (module nft_socket)", ofTransparentSocket().exprs}}
	if len(h.cfg.Interfaces) > 0 {
		listen4, listen6 := Config{Port: DefaultPort}.listenAddrs()
		features = append(features,
			feature{Fatal, "kernel_tproxy", "CONFIG_NFT_TPROXY (module nft_tproxy)", rule{isTCP(), divertTo(v4, listen4)}.exprs(nil)},
			feature{Fatal, "kernel_fib", "CONFIG_NFT_FIB_INET (module nft_fib_inet)", toThisHost().exprs})
		if h.has(v6) {
			features = append(features, feature{Fatal, "kernel_tproxy6", "CONFIG_NF_TPROXY_IPV6 (module nf_tproxy_ipv6)", rule{isTCP(), divertTo(v6, listen6)}.exprs(nil)})
		}
		if h.cfg.SampleGroup >= 0 {
			features = append(features, feature{Fatal, "kernel_log", "CONFIG_NFT_LOG and CONFIG_NETFILTER_NETLINK_LOG, or switch samples of raw connections off", sample(1, "x").exprs})
		}
	}
	for _, f := range features {
		if err := try(f.exprs...); err != nil {
			h.add(f.severity, f.code, "Use a kernel with "+f.config+".", "the kernel lacks a part of nftables: %v", err)
		}
	}
}

func (h *host) checkConflicts() {
	k := new(kernel)
	defer k.close()
	t := newTable(newModel(h.cfg, netip.AddrPort{}, netip.AddrPort{}), k)
	if s, err := t.state(); err == nil && s == tableForeign {
		h.add(Fatal, "table_in_use", "Remove or rename it.", "the nftables table inet %s was made by something else", h.cfg.Table)
	}
	for _, f := range h.cfg.families() {
		if err := (routing{cfg: h.cfg}).check(f); errors.Is(err, ErrConflict) {
			h.add(Fatal, "routing_in_use", "Use another routing table or mark bit, here or there.", "%s", strings.TrimPrefix(err.Error(), "intercept: "))
		}
	}
}
