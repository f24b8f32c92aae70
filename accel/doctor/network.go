package doctor

import (
	"bytes"
	"context"
	"crypto/rand"
	"errors"
	"fmt"
	"net"
	"net/netip"
	"slices"
	"sync"
	"syscall"
	"time"

	"golang.org/x/sys/unix"

	"wanpair/accel/config"
	"wanpair/accel/intercept"
	"wanpair/accel/stats"
)

// Sizes of a probe's UDP payload. QUIC needs 1200 (RFC 9000, section 14); the tunnel begins with 1400 and would like 1452, an Ethernet packet less the headers
// of IPv6 and UDP.
const (
	smallestPayload = 1200
	firstPayload    = 1400
	fullPayload     = 1452
)

// network asks every peer's boxes whether they are there, without being anyone in particular.
func network(ctx context.Context, s Subject) []Finding {
	var mu sync.Mutex
	var out []Finding
	var wg sync.WaitGroup
	if s.Gateway == nil {
		out = append(out, ports(ctx, s.Config)...)
	}
	for _, p := range s.Config.Peers {
		if len(p.Endpoints) == 0 {
			out = append(out, ok(AreaNetwork, "peer %s dials this site: UDP to %s must be open here", p.Name, s.Config.Tunnel.Listen))
		}
		for _, endpoint := range p.Endpoints {
			wg.Go(func() {
				f := reach(ctx, s, p, endpoint)
				mu.Lock()
				defer mu.Unlock()
				out = append(out, f...)
			})
		}
	}
	wg.Wait()
	return out
}

// ports looks whether a gateway that does not run yet could have its addresses.
func ports(ctx context.Context, cfg *config.Config) []Finding {
	var out []Finding
	busy := func(key, network string, a netip.AddrPort, err error) {
		text := "is in use by another program"
		if !errors.Is(err, unix.EADDRINUSE) {
			text = "cannot be used: " + err.Error()
		}
		out = append(out, found(Fault, AreaNetwork, "Choose another address or stop what uses it (ss -lnp shows it).", "%s: %s %s %s", key, network, a, text))
	}
	var lc net.ListenConfig
	if c, err := lc.ListenPacket(ctx, "udp", cfg.Tunnel.Listen.String()); err != nil {
		busy("tunnel.listen", "UDP", cfg.Tunnel.Listen, err)
	} else {
		_ = c.Close()
	}
	tcp := map[string]netip.AddrPort{"stats.listen": cfg.Stats.Listen}
	for _, f := range cfg.Forwards {
		tcp["forward.listen "+f.Listen.String()] = f.Listen
	}
	if cfg.Socks != nil {
		tcp["socks.listen"] = cfg.Socks.Listen
	}
	for key, a := range tcp {
		if l, err := lc.Listen(ctx, "tcp", a.String()); err != nil {
			busy(key, "TCP", a, err)
		} else {
			_ = l.Close()
		}
	}
	return out
}

// reach examines the way to one box.
func reach(ctx context.Context, s Subject, p config.Peer, endpoint string) []Finding {
	host, port, err := net.SplitHostPort(endpoint)
	if err != nil {
		return []Finding{found(Fault, AreaNetwork, "Correct the endpoint.", "endpoint %s of peer %s cannot be read: %v", endpoint, p.Name, err)}
	}
	number, err := net.DefaultResolver.LookupPort(ctx, "udp", port)
	if err != nil {
		return []Finding{found(Fault, AreaNetwork, "Correct the endpoint.", "endpoint %s of peer %s has no port: %v", endpoint, p.Name, err)}
	}
	resolving, done := context.WithTimeout(ctx, 5*time.Second)
	defer done()
	addrs, err := net.DefaultResolver.LookupNetIP(resolving, "ip", host)
	if err != nil {
		return []Finding{found(Fault, AreaNetwork, "Correct the name or the resolver, or write the address.", "endpoint %s of peer %s cannot be resolved: %v", endpoint, p.Name, err)}
	}
	var out []Finding
	for _, a := range addrs {
		to := netip.AddrPortFrom(a.Unmap(), uint16(number))
		out = append(out, s.judge(p, to, largestAnswered(ctx, to, s.mark()))...)
	}
	return out
}

// mark is the one the gateway gives to its own packets, so that a probe takes the tunnel's way; 0 where the gateway sets none or this user may not.
func (s Subject) mark() int {
	if s.Rules == nil {
		return 0
	}
	return intercept.DefaultOwnBit
}

// judge words the result of the probes to a box: the largest payload that was answered, or why there was no answer.
func (s Subject) judge(p config.Peer, to netip.AddrPort, r result) []Finding {
	up := s.Gateway != nil && slices.ContainsFunc(s.Gateway.Peers, func(q stats.PeerReport) bool { return q.Name == p.Name && q.State == stats.StateUp })
	switch {
	case errors.Is(r.err, unix.ECONNREFUSED):
		return []Finding{found(Fault, AreaNetwork, "Start the gateway there, or correct the port.", "%s, peer %s: the host is there, but nothing listens on that UDP port", to, p.Name)}
	case errors.Is(r.err, unix.ENETUNREACH), errors.Is(r.err, unix.EHOSTUNREACH):
		return []Finding{found(Fault, AreaNetwork, "Add a route, or look at the router that said so.", "%s, peer %s: %v", to, p.Name, r.err)}
	case r.largest == 0 && up:
		return []Finding{found(Note, AreaNetwork, "Nothing to do: the link is up. A firewall may let only the tunnel itself through.", "%s, peer %s does not answer strangers", to, p.Name)}
	case r.largest == 0:
		return []Finding{found(Fault, AreaNetwork, "Let UDP to that port through in both directions: look with tcpdump -ni any udp port "+fmt.Sprint(to.Port())+" on both sides. Or the gateway there does not run.",
			"%s, peer %s does not answer: %v", to, p.Name, r.err)}
	case r.largest < firstPayload:
		return []Finding{found(Note, AreaNetwork, "Nothing to do: the tunnel adapts. Packets of 1500 bytes end to end would be a little faster.", "%s, peer %s answers, but the way carries UDP payloads of %d bytes and not of %d", to, p.Name, r.largest, firstPayload)}
	}
	return []Finding{ok(AreaNetwork, "%s, peer %s answers in %.1f ms and the way carries UDP payloads of %d bytes", to, p.Name, float64(r.rtt.Microseconds())/1000, r.largest)}
}

// result is what probes to a box found.
type result struct {
	largest int           // payload answered; 0: none
	rtt     time.Duration // of the first answer
	err     error         // of the last probe that was not answered
}

// largestAnswered probes with growing payloads until one is not answered twice.
func largestAnswered(ctx context.Context, to netip.AddrPort, mark int) result {
	var r result
	for _, size := range []int{smallestPayload, firstPayload, fullPayload} {
		var rtt time.Duration
		for range 2 { // one probe may be lost
			if rtt, r.err = probe(ctx, to, size, mark); r.err == nil || ctx.Err() != nil {
				break
			}
		}
		if r.err != nil {
			return r
		}
		if r.largest == 0 {
			r.rtt = rtt
		}
		r.largest = size
	}
	return r
}

// errStranger is returned when something answers that is no answer to the probe.
var errStranger = errors.New("what answers there does not speak QUIC")

// probe sends one QUIC packet of a version nobody speaks: whoever speaks QUIC answers with those it does (RFC 9000, section 6), before any key matters.
func probe(ctx context.Context, to netip.AddrPort, size, mark int) (time.Duration, error) {
	dialer := net.Dialer{Control: func(_, _ string, c syscall.RawConn) error {
		var sockErr error
		err := c.Control(func(fd uintptr) {
			if mark != 0 {
				_ = unix.SetsockoptInt(int(fd), unix.SOL_SOCKET, unix.SO_MARK, mark) // only matters for the way, and needs a right doctor can do without
			}
			// The packet must not be cut to pieces, or it would say nothing of the way.
			if to.Addr().Is4() {
				sockErr = unix.SetsockoptInt(int(fd), unix.IPPROTO_IP, unix.IP_MTU_DISCOVER, unix.IP_PMTUDISC_PROBE)
			} else {
				sockErr = unix.SetsockoptInt(int(fd), unix.IPPROTO_IPV6, unix.IPV6_MTU_DISCOVER, unix.IPV6_PMTUDISC_PROBE)
			}
		})
		return errors.Join(err, sockErr)
	}}
	conn, err := dialer.DialContext(ctx, "udp", to.String())
	if err != nil {
		return 0, err
	}
	defer conn.Close()
	packet, destination, source := versionProbe(size)
	start := time.Now()
	if err := conn.SetDeadline(start.Add(probeTimeout)); err != nil {
		return 0, err
	}
	if _, err := conn.Write(packet); err != nil {
		return 0, err
	}
	answer := make([]byte, 2048)
	n, err := conn.Read(answer)
	if err != nil {
		return 0, err
	}
	if !answersProbe(answer[:n], destination, source) {
		return 0, errStranger
	}
	return time.Since(start), nil
}

// idLength is the length of the connection IDs in a probe: the least a server accepts of a stranger (RFC 9000, section 7.2).
const idLength = 8

// versionProbe makes a long header packet of a reserved version (RFC 9000, section 15: 0x?a?a?a?a), filled up to size.
func versionProbe(size int) (packet, destination, source []byte) {
	ids := make([]byte, 2*idLength)
	_, _ = rand.Read(ids) // never fails
	destination, source = ids[:idLength], ids[idLength:]
	packet = append(packet, 0xc0, 0x1a, 0x2a, 0x3a, 0x4a, idLength)
	packet = append(packet, destination...)
	packet = append(packet, idLength)
	packet = append(packet, source...)
	return append(packet, make([]byte, size-len(packet))...), destination, source
}

// answersProbe says whether a packet is the version negotiation that answers a probe: version 0 and the probe's connection IDs, exchanged (RFC 9000, 17.2.1).
func answersProbe(packet, destination, source []byte) bool {
	const header = 1 + 4 + 1 + idLength + 1 + idLength
	return len(packet) >= header+4 && packet[0]&0x80 != 0 && bytes.Equal(packet[1:5], make([]byte, 4)) &&
		packet[5] == idLength && bytes.Equal(packet[6:6+idLength], source) &&
		packet[6+idLength] == idLength && bytes.Equal(packet[7+idLength:header], destination)
}
