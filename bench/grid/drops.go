package grid

import (
	"errors"
	"fmt"
	"os"
	"slices"
	"strconv"
	"strings"

	"wanpair/bench/lab"
	"wanpair/bench/pair"
)

// Drops are packets that the machine lost, not the link: at the gateways' sockets because the process did not read in time, and at the
// device of the link because its queue was full. Of both gateways together.
type Drops struct {
	Socket uint64 `json:"socket,omitempty"` // UDP: receive buffer full
	Send   uint64 `json:"send,omitempty"`   // UDP: send buffer full
	Device uint64 `json:"device,omitempty"` // towards the link
}

func (d Drops) sub(before Drops) Drops {
	return Drops{Socket: d.Socket - before.Socket, Send: d.Send - before.Send, Device: d.Device - before.Device}
}

// drops are those since the lab was built; zeros without gateways.
func (s *stage) drops() (sum Drops, err error) {
	if s.pair == nil {
		return sum, nil
	}
	for _, g := range []*pair.Gateway{s.pair.Near, s.pair.Far} {
		snmp, err := os.ReadFile(fmt.Sprintf("/proc/%d/net/snmp", g.PID()))
		if err != nil {
			return sum, err
		}
		dev, err := os.ReadFile(fmt.Sprintf("/proc/%d/net/dev", g.PID()))
		if err != nil {
			return sum, err
		}
		one, err := parseDrops(string(snmp), string(dev), lab.WANDevice)
		if err != nil {
			return sum, err
		}
		sum.Socket += one.Socket
		sum.Send += one.Send
		sum.Device += one.Device
	}
	return sum, nil
}

// errCounters says that the kernel's counters were not understood.
var errCounters = errors.New("network counters are not understood")

// parseDrops reads /proc/net/snmp and /proc/net/dev (proc_net(5)).
func parseDrops(snmp, dev, device string) (d Drops, err error) {
	var names []string
	for line := range strings.Lines(snmp) {
		fields := strings.Fields(line)
		if len(fields) == 0 || fields[0] != "Udp:" {
			continue
		}
		if names == nil {
			names = fields
			continue
		}
		for _, c := range []struct {
			name string
			into *uint64
		}{{"RcvbufErrors", &d.Socket}, {"SndbufErrors", &d.Send}} {
			i := slices.Index(names, c.name)
			if i < 0 || i >= len(fields) {
				return d, fmt.Errorf("%w: no %s", errCounters, c.name)
			}
			if *c.into, err = strconv.ParseUint(fields[i], 10, 64); err != nil {
				return d, fmt.Errorf("%w: %w", errCounters, err)
			}
		}
	}
	if names == nil {
		return d, fmt.Errorf("%w: no Udp", errCounters)
	}
	const sentDropped = 11 // after the name: eight fields of what was received, then bytes, packets, errors, dropped
	for line := range strings.Lines(dev) {
		name, counts, _ := strings.Cut(line, ":")
		if fields := strings.Fields(counts); strings.TrimSpace(name) == device && len(fields) > sentDropped {
			d.Device, err = strconv.ParseUint(fields[sentDropped], 10, 64)
			return d, err
		}
	}
	return d, fmt.Errorf("%w: no device %s", errCounters, device)
}
