package doctor

import (
	"context"
	"net/netip"
	"runtime"
	"slices"
	"strings"
	"unsafe"

	"golang.org/x/sys/unix"

	"wanpair/accel/stats"
)

// Requests of ethtool(8), from linux/ethtool.h.
const (
	ethtoolGetTSO   = 0x1e
	ethtoolGetGRO   = 0x2b
	ethtoolGetFlags = 0x25
	flagLRO         = 1 << 15
)

// offloads are what an interface's card and driver do with packets in our stead.
type offloads struct{ lro, gro, tso bool }

// machine looks at the interfaces packets come and go by, and at the clock.
func machine(_ context.Context, s Subject) []Finding {
	var out []Finding
	for _, name := range pathInterfaces(s) {
		o, err := readOffloads(name)
		if err != nil {
			continue // no such interface is said elsewhere, one without a driver has nothing to say
		}
		out = append(out, judgeOffloads(name, o)...)
	}
	var tx unix.Timex
	state, err := unix.Adjtimex(&tx)
	return append(out, judgeClock(state, err)...)
}

// pathInterfaces are the intercepted interfaces and those towards the peers' boxes.
func pathInterfaces(s Subject) []string {
	var names []string
	if s.Config.Intercept != nil {
		names = append(names, s.Config.Intercept.Interfaces...)
	}
	for _, p := range s.Config.Peers {
		for _, endpoint := range p.Endpoints {
			to, err := netip.ParseAddrPort(endpoint)
			if err != nil {
				continue // a name: the network checks resolve it
			}
			if name, reached := interfaceTo(to.Addr()); reached {
				names = append(names, name)
			}
		}
	}
	slices.Sort(names)
	return slices.DeleteFunc(slices.Compact(names), func(name string) bool { return name == "" || name == "lo" })
}

func judgeOffloads(name string, o offloads) []Finding {
	var out []Finding
	if o.lro {
		out = append(out, found(Warning, AreaHost, "Switch it off: ethtool -K "+name+" lro off.",
			"%s merges received packets (LRO) so that they cannot be forwarded as they came: connections that pass raw break or crawl", name))
	}
	if !o.gro {
		out = append(out, found(Note, AreaHost, "Switch it on: ethtool -K "+name+" gro on.", "%s does not gather received packets (GRO): a fast link costs more processor time", name))
	}
	if !o.tso {
		out = append(out, found(Note, AreaHost, "Switch it on: ethtool -K "+name+" tso on.", "%s does not cut large packets itself (TSO): a fast link costs more processor time", name))
	}
	if len(out) == 0 {
		out = append(out, ok(AreaHost, "the offloads of %s suit a forwarding host", name))
	}
	return out
}

// judgeClock judges what adjtimex(2) says of the clock.
func judgeClock(state int, err error) []Finding {
	switch {
	case err != nil:
		return []Finding{found(Note, AreaHost, "", "whether the clock is synchronised cannot be found out: %v", err)}
	case state == unix.TIME_ERROR:
		return []Finding{found(Note, AreaHost, "Set up NTP. Nothing in the tunnel depends on it, but the logs of both sides do.", "the clock of this host is not synchronised")}
	}
	return []Finding{ok(AreaHost, "the clock is synchronised")}
}

// readOffloads asks the driver as ethtool does.
func readOffloads(name string) (offloads, error) {
	fd, err := unix.Socket(unix.AF_INET, unix.SOCK_DGRAM|unix.SOCK_CLOEXEC, 0)
	if err != nil {
		return offloads{}, err
	}
	defer unix.Close(fd)
	var o offloads
	flags, err := ethtool(fd, name, ethtoolGetFlags)
	if err != nil {
		return o, err
	}
	gro, err := ethtool(fd, name, ethtoolGetGRO)
	if err != nil {
		return o, err
	}
	tso, err := ethtool(fd, name, ethtoolGetTSO)
	return offloads{lro: flags&flagLRO != 0, gro: gro != 0, tso: tso != 0}, err
}

// ethtool asks for one value of struct ethtool_value.
func ethtool(fd int, name string, command uint32) (uint32, error) {
	value := struct{ command, data uint32 }{command: command}
	var request struct { // struct ifreq
		name [unix.IFNAMSIZ]byte
		data unsafe.Pointer
		_    [16]byte
	}
	if len(name) >= len(request.name) {
		return 0, unix.EINVAL
	}
	copy(request.name[:], name)
	request.data = unsafe.Pointer(&value)
	_, _, errno := unix.Syscall(unix.SYS_IOCTL, uintptr(fd), unix.SIOCETHTOOL, uintptr(unsafe.Pointer(&request)))
	runtime.KeepAlive(&value)
	if errno != 0 {
		return 0, errno
	}
	return value.data, nil
}

// handshake explains why a peer that answers is not up, where its own words say so; "" when they do not.
func handshake(p stats.PeerReport) []Finding {
	switch {
	case strings.Contains(p.Detail, "presented an unknown key"):
		return []Finding{found(Fault, AreaGateway, "If it is the right box, add that key to public_keys of the peer here and reload. On the other side wanpair pubkey < private.key prints it.",
			"peer %s has another key than is configured here: %s", p.Name, p.Detail)}
	case strings.Contains(p.Detail, "access denied"):
		return []Finding{found(Fault, AreaGateway, "Add this site's key to public_keys of this peer on the other side: wanpair pubkey < private.key prints it.",
			"peer %s does not know this site's key: %s", p.Name, p.Detail)}
	case strings.Contains(p.Detail, "this side speaks version"):
		return []Finding{found(Fault, AreaGateway, "Upgrade the older side.", "peer %s and this side have no protocol version in common: %s", p.Name, p.Detail)}
	}
	return nil
}
