package config

import (
	"crypto/ed25519"
	"errors"
	"fmt"
	"net"
	"net/netip"
	"os"
	"strconv"
	"strings"
	"time"
)

// Load reads a configuration file and its private key and checks everything. All faults come back at once, as Faults.
func Load(path string) (*Config, error) {
	data, err := os.ReadFile(path)
	if err != nil {
		advice := "give the configuration's path with -c FILE"
		if errors.Is(err, os.ErrPermission) {
			advice = "run as a user who may read it"
		}
		if cause, ok := errors.AsType[*os.PathError](err); ok {
			err = cause.Err
		}
		return nil, Faults{{File: path, Problem: "cannot be read: " + err.Error(), Advice: advice}}
	}
	c, faults := parse(path, data)
	if name := c.Site.PrivateKeyFile; name != "" {
		key, err := ReadPrivateKey(name)
		if err != nil {
			faults = append(faults, c.fault("site.private_key_file", message(err, ErrKey), ""))
		} else {
			c.Site.PrivateKey = key
			faults = append(faults, c.checkOwnKey()...)
		}
	}
	if name := c.Cache.KeyFile; name != "" {
		if key, err := ReadPrivateKey(name); err != nil {
			faults = append(faults, c.fault("cache.key_file", message(err, ErrKey), ""))
		} else {
			c.Cache.Key = key.Seed()
		}
	}
	if err := faults.asError(); err != nil {
		return nil, err
	}
	return c, nil
}

// Parse reads a configuration without touching any other file: Site.PrivateKey stays nil. name is only used in messages.
func Parse(name string, data []byte) (*Config, error) {
	c, faults := parse(name, data)
	if err := faults.asError(); err != nil {
		return nil, err
	}
	return c, nil
}

// parse returns a Config even when there are faults, so that Load can go on looking for more.
func parse(name string, data []byte) (*Config, Faults) {
	doc, where, faults := decode(name, data)
	r := resolver{c: Default()}
	r.c.File, r.c.where = name, where
	if where == nil || len(faults) > 0 && len(where) == 0 {
		return r.c, faults // unreadable as a whole: everything else would be a consequence
	}
	r.document(doc)
	faults = append(faults, r.faults...)
	return r.c, append(faults, r.c.check()...)
}

// resolver turns texts into values, over the defaults, and collects what cannot be read.
type resolver struct {
	c      *Config
	faults Faults
}

func (r *resolver) bad(path, problem, advice string) {
	r.faults = append(r.faults, r.c.fault(path, problem, advice))
	p := r.c.where[path]
	p.broken = true
	r.c.where[path] = p
}

func (r *resolver) document(d document) {
	c := r.c
	text(&c.Site.Name, d.Site.Name)
	text(&c.Site.PrivateKeyFile, d.Site.PrivateKeyFile)

	text(&c.Cache.Dir, d.Cache.Dir)
	text(&c.Cache.KeyFile, d.Cache.KeyFile)
	r.size("cache.size", &c.Cache.SizeBytes, d.Cache.Size)
	r.size("cache.memory", &c.Cache.MemoryBytes, d.Cache.Memory)

	r.addrPort("tunnel.listen", &c.Tunnel.Listen, d.Tunnel.Listen)
	r.rate("tunnel.bandwidth", &c.Tunnel.BandwidthBitsPerSec, d.Tunnel.Bandwidth)
	r.number("tunnel.dscp", &c.Tunnel.DSCP, d.Tunnel.DSCP, 0, 63)
	r.number("tunnel.lanes", &c.Tunnel.Lanes, d.Tunnel.Lanes, 1, 16)
	if d.Tunnel.Governor != nil {
		c.Tunnel.Governor = *d.Tunnel.Governor
	}

	for i, p := range d.Peer {
		at := fmt.Sprintf("peer[%d]", i)
		peer := Peer{Endpoints: p.Endpoints, Subnets: r.prefixes(at+".subnets", p.Subnets)}
		text(&peer.Name, p.Name)
		for j, k := range p.PublicKeys {
			if key, err := ParsePublicKey(k); err != nil {
				r.bad(fmt.Sprintf("%s.public_keys[%d]", at, j), message(err, ErrKey), "")
			} else {
				peer.PublicKeys = append(peer.PublicKeys, key)
			}
		}
		for j, e := range p.Endpoints {
			r.hostPort(fmt.Sprintf("%s.endpoints[%d]", at, j), e)
		}
		c.Peers = append(c.Peers, peer)
	}

	if d.Intercept != nil {
		c.Intercept = &Intercept{
			Interfaces: d.Intercept.Interfaces,
			Subnets:    r.prefixes("intercept.subnets", d.Intercept.Subnets),
		}
		for i, n := range d.Intercept.PassPorts {
			var port int
			if r.number(fmt.Sprintf("intercept.pass_ports[%d]", i), &port, &n, 1, 65535) {
				c.Intercept.PassPorts = append(c.Intercept.PassPorts, uint16(port))
			}
		}
	}

	var source string
	text(&source, d.Egress.Source)
	c.Egress.Source = EgressSource(source)
	c.Egress.Allow = r.prefixes("egress.allow", d.Egress.Allow)

	for i, f := range d.Forward {
		at := fmt.Sprintf("forward[%d]", i)
		var forward Forward
		r.addrPort(at+".listen", &forward.Listen, f.Listen)
		text(&forward.Peer, f.Peer)
		text(&forward.Target, f.Target)
		if f.Target != nil {
			r.hostPort(at+".target", *f.Target)
		}
		c.Forwards = append(c.Forwards, forward)
	}

	if d.Socks != nil {
		c.Socks = &Socks{Allow: r.prefixes("socks.allow", d.Socks.Allow)}
		r.addrPort("socks.listen", &c.Socks.Listen, d.Socks.Listen)
	}

	for i, k := range d.Class {
		at := fmt.Sprintf("class[%d]", i)
		class := Class{Subnets: r.prefixes(at+".subnets", k.Subnets), Action: ActionAccelerate}
		text(&class.Name, k.Name)
		if k.Action != nil {
			class.Action = ClassAction(*k.Action)
		}
		class.History = HistoryOn
		if k.History != nil {
			class.History = ClassHistory(*k.History)
		}
		for j, p := range k.Ports {
			if ports, ok := portRange(p); ok {
				class.Ports = append(class.Ports, ports)
			} else {
				r.bad(fmt.Sprintf("%s.ports[%d]", at, j), fmt.Sprintf("%v is no port and no range", quoted(p)), `write a number from 1 to 65535 or a range such as "16384-32767"`)
			}
		}
		r.number(at+".share", &class.SharePercent, k.Share, 1, 100)
		c.Classes = append(c.Classes, class)
	}

	r.number("limits.flows", &c.Limits.Flows, d.Limits.Flows, 1, 1_000_000)
	r.size("limits.memory", &c.Limits.MemoryBytes, d.Limits.Memory)
	r.duration("limits.hold", &c.Limits.Hold, d.Limits.Hold, time.Hour)

	r.addrPort("stats.listen", &c.Stats.Listen, d.Stats.Listen)
	c.Stats.Allow = r.prefixes("stats.allow", d.Stats.Allow)
	text(&c.Stats.Token, d.Stats.Token)

	text(&c.Log.Level, d.Log.Level)
	if d.Log.Format != nil {
		c.Log.Format = LogFormat(*d.Log.Format)
	}
	text(&c.Log.FlowFile, d.Log.FlowFile)
	r.size("log.flow_file_size", &c.Log.FlowFileSizeBytes, d.Log.FlowFileSize)
}

func text(dst *string, src *string) {
	if src != nil {
		*dst = *src
	}
}

func (r *resolver) size(path string, dst *int64, src *string) {
	r.quantity(path, dst, src, ParseSize)
}

func (r *resolver) rate(path string, dst *int64, src *string) {
	r.quantity(path, dst, src, ParseRate)
}

func (r *resolver) quantity(path string, dst *int64, src *string, parse func(string) (int64, error)) {
	if src == nil {
		return
	}
	v, err := parse(*src)
	switch {
	case err != nil:
		r.bad(path, message(err, ErrUnit), "")
	case v == 0:
		r.bad(path, "must not be zero", "leave the key out for its default")
	default:
		*dst = v
	}
}

func (r *resolver) duration(path string, dst *time.Duration, src *string, highest time.Duration) {
	if src == nil {
		return
	}
	d, err := ParseDuration(*src)
	switch {
	case err != nil:
		r.bad(path, message(err, ErrUnit), "")
	case d > highest:
		r.bad(path, fmt.Sprintf("%s is too long", d), fmt.Sprintf("write at most %s", highest))
	default:
		*dst = d
	}
}

func (r *resolver) number(path string, dst *int, src *int64, lowest, highest int64) bool {
	if src == nil {
		return false
	}
	if *src < lowest || *src > highest {
		r.bad(path, fmt.Sprintf("%d is out of range", *src), fmt.Sprintf("write a number from %d to %d", lowest, highest))
		return false
	}
	*dst = int(*src)
	return true
}

func (r *resolver) addrPort(path string, dst *netip.AddrPort, src *string) {
	if src == nil {
		return
	}
	host, port, err := net.SplitHostPort(*src)
	if host == "localhost" {
		host = "127.0.0.1"
	}
	addr, addrErr := netip.ParseAddr(host)
	n, portErr := strconv.ParseUint(port, 10, 16)
	switch {
	case err != nil || addrErr != nil || portErr != nil:
		r.bad(path, fmt.Sprintf("%q is no address with a port", *src), "write it such as 127.0.0.1:4600 or [::]:4600")
	case n == 0:
		r.bad(path, "port 0 is no port to be found at", "write one from 1 to 65535")
	default:
		*dst = netip.AddrPortFrom(addr.Unmap(), uint16(n))
	}
}

func (r *resolver) hostPort(path, s string) {
	host, port, err := net.SplitHostPort(s)
	n, portErr := strconv.ParseUint(port, 10, 16)
	if err != nil || portErr != nil || n == 0 || !isHost(host) {
		r.bad(path, fmt.Sprintf("%q is no host with a port", s), "write it such as 198.51.100.7:4600, [2001:db8::7]:4600 or gw.example.net:4600")
	}
}

// isHost says whether s is an address or a DNS name: labels of letters, digits, dash and underscore, 253 characters at most (RFC 1035, section 2.3.4).
func isHost(s string) bool {
	if _, err := netip.ParseAddr(s); err == nil {
		return true
	}
	if s == "" || len(s) > 253 || strings.Trim(s, "0123456789.") == "" {
		return false
	}
	for label := range strings.SplitSeq(strings.TrimSuffix(s, "."), ".") {
		if label == "" || len(label) > 63 || label[0] == '-' || label[len(label)-1] == '-' {
			return false
		}
		for _, ch := range []byte(label) {
			if (ch|0x20 < 'a' || ch|0x20 > 'z') && (ch < '0' || ch > '9') && ch != '-' && ch != '_' {
				return false
			}
		}
	}
	return true
}

func (r *resolver) prefixes(path string, src []string) []netip.Prefix {
	var out []netip.Prefix
	for i, s := range src {
		at := fmt.Sprintf("%s[%d]", path, i)
		p, err := netip.ParsePrefix(s)
		switch {
		case err != nil:
			advice := "write address/bits, such as 10.1.0.0/16"
			if a, err := netip.ParseAddr(s); err == nil {
				advice = fmt.Sprintf("write %s for this one host", netip.PrefixFrom(a, a.BitLen()))
			}
			r.bad(at, fmt.Sprintf("%q is no prefix", s), advice)
		case p.Addr().Is4In6():
			r.bad(at, fmt.Sprintf("%q is an IPv4 prefix in IPv6 clothes", s), "write it as IPv4")
		case p != p.Masked():
			r.bad(at, fmt.Sprintf("%q has bits set beyond its length", s), fmt.Sprintf("write %s", p.Masked()))
		default:
			out = append(out, p)
		}
	}
	return out
}

// portRange reads a port or a range of ports as TOML gives it: a number or a text.
func portRange(v any) (PortRange, bool) {
	switch v := v.(type) {
	case int64:
		if v < 1 || v > 65535 {
			return PortRange{}, false
		}
		return PortRange{uint16(v), uint16(v)}, true
	case string:
		first, last, isRange := strings.Cut(v, "-")
		if !isRange {
			last = first
		}
		a, errA := strconv.ParseUint(strings.TrimSpace(first), 10, 16)
		b, errB := strconv.ParseUint(strings.TrimSpace(last), 10, 16)
		if errA != nil || errB != nil || a < 1 || a > b {
			return PortRange{}, false
		}
		return PortRange{uint16(a), uint16(b)}, true
	}
	return PortRange{}, false
}

func quoted(v any) string {
	if s, ok := v.(string); ok {
		return strconv.Quote(s)
	}
	return fmt.Sprint(v)
}

// message is an error's text without the sentinel in front, which tells a reader of the file nothing.
func message(err, sentinel error) string {
	return strings.TrimPrefix(err.Error(), sentinel.Error()+": ")
}

// checkOwnKey finds our own public key among the peers': each side would then wait for itself.
func (c *Config) checkOwnKey() Faults {
	own, ok := c.Site.PrivateKey.Public().(ed25519.PublicKey)
	if !ok {
		return nil
	}
	var faults Faults
	for i, p := range c.Peers {
		for j, k := range p.PublicKeys {
			if k.Equal(own) {
				faults = append(faults, c.fault(fmt.Sprintf("peer[%d].public_keys[%d]", i, j), "this is this site's own public key", "write the key that wanpair keygen printed at the peer"))
			}
		}
	}
	return faults
}
