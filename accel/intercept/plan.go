package intercept

import (
	"fmt"
	"net/netip"
	"strings"
	"time"
)

// text writes the table as nft takes it.
func (m *model) text() string {
	var b strings.Builder
	fmt.Fprintf(&b, "table inet %s {\n", m.cfg.Table)
	for _, name := range m.counters {
		fmt.Fprintf(&b, "\tcounter %s {\n\t}\n", name)
	}
	for _, s := range m.sets {
		s.writeText(&b)
	}
	for _, c := range m.chains {
		fmt.Fprintf(&b, "\tchain %s {\n", c.name)
		if c.base {
			b.WriteString("\t\ttype filter hook prerouting priority mangle; policy accept;\n")
		}
		for _, r := range c.rules {
			fmt.Fprintf(&b, "\t\t%s\n", r.text())
		}
		b.WriteString("\t}\n")
	}
	b.WriteString("}\n")
	return b.String()
}

func (s *set) writeText(b *strings.Builder) {
	fmt.Fprintf(b, "\tset %s {\n\t\ttype %s\n", s.name, keyText[s.key])
	var flags []string
	if s.interval {
		flags = append(flags, "interval")
	}
	if s.timeout > 0 || s.dynamic {
		flags = append(flags, "timeout")
	}
	if s.size > 0 {
		fmt.Fprintf(b, "\t\tsize %d\n", s.size)
	}
	if len(flags) > 0 {
		fmt.Fprintf(b, "\t\tflags %s\n", strings.Join(flags, ","))
	}
	if s.timeout > 0 {
		fmt.Fprintf(b, "\t\ttimeout %s\n", nftTime(s.timeout))
	}
	if s.comment != "" {
		fmt.Fprintf(b, "\t\tcomment %q\n", s.comment)
	}
	if e := s.elementTexts(); len(e) > 0 {
		fmt.Fprintf(b, "\t\telements = { %s }\n", strings.Join(e, ", "))
	}
	b.WriteString("\t}\n")
}

func (s *set) elementTexts() []string {
	var out []string
	for _, r := range s.addrs {
		out = append(out, r.String())
	}
	for _, p := range s.ports {
		if p.First == p.Last {
			out = append(out, fmt.Sprint(p.First))
		} else {
			out = append(out, fmt.Sprintf("%d-%d", p.First, p.Last))
		}
	}
	for _, name := range s.ifaces {
		out = append(out, fmt.Sprintf("%q", name))
	}
	return out
}

// nftTime writes whole seconds, or milliseconds where there are any.
func nftTime(d time.Duration) string {
	if d%time.Second == 0 {
		return fmt.Sprintf("%ds", d/time.Second)
	}
	return fmt.Sprintf("%dms", d.Milliseconds())
}

// Plan prints what Install puts in: the table as nft text, the routing rules as ip commands. It touches nothing.
func Plan(cfg Config) (string, error) {
	cfg = cfg.withDefaults()
	if err := cfg.validate(); err != nil {
		return "", err
	}
	listen4, listen6 := cfg.listenAddrs()
	var b strings.Builder
	b.WriteString(newModel(cfg, listen4, listen6).text())
	if len(cfg.Interfaces) > 0 {
		b.WriteString("\n# Prefixes are put into an alive set, and refreshed every second, only while that peer's link works.\n")
	}
	b.WriteString("\n")
	for _, f := range cfg.families() {
		fmt.Fprintf(&b, "ip -%s rule add priority %d fwmark %#x/%#x lookup %d\n", f.digit(), cfg.RulePriority, cfg.DivertBit, cfg.DivertBit, cfg.RouteTable)
		fmt.Fprintf(&b, "ip -%s route add local default dev lo table %d\n", f.digit(), cfg.RouteTable)
	}
	return b.String(), nil
}

// listenAddrs are the addresses of the two listeners; that of a family that is switched off is invalid.
func (c Config) listenAddrs() (v4Addr, v6Addr netip.AddrPort) {
	if !c.DisableIPv4 {
		v4Addr = netip.AddrPortFrom(netip.AddrFrom4([4]byte{127, 0, 0, 1}), uint16(c.Port))
	}
	if !c.DisableIPv6 {
		v6Addr = netip.AddrPortFrom(netip.IPv6Loopback(), uint16(c.Port))
	}
	return v4Addr, v6Addr
}

func (c Config) families() []family {
	var out []family
	if !c.DisableIPv4 {
		out = append(out, v4)
	}
	if !c.DisableIPv6 {
		out = append(out, v6)
	}
	return out
}
