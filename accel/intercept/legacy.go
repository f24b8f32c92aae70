package intercept

import (
	"encoding/binary"
	"os"
	"strings"
	"unsafe"

	"golang.org/x/sys/unix"
)

// Of linux/include/uapi/linux/netfilter_ipv4/ip_tables.h and its IPv6 twin: both have the same layout but for the size of an entry.
const (
	iptGetInfo    = 64 // IPT_SO_GET_INFO, IP6T_SO_GET_INFO
	iptGetEntries = 65
	iptInfoLen    = 84 // name 32, valid hooks 4, hook entries 5 * 4, underflows 5 * 4, number of entries 4, size 4
	iptEntriesHdr = 40 // name 32, size 4, padding 4
	iptEntryLen   = 112
	ip6tEntryLen  = 168
	iptVerdictAt  = 32      // of the verdict in a standard target
	maxLegacySize = 4 << 20 // bytes of rules read

	hookLocalIn = 1
	hookForward = 2
)

// legacyPolicy is what a hook of the old iptables does with packets that no rule decides.
type legacyPolicy struct {
	drop  bool
	rules bool // there are rules before the policy
}

// checkLegacy looks at the policies of the old iptables, which nftables does not list. Their rules are not walked.
func (h *host) checkLegacy() {
	for _, f := range h.cfg.families() {
		if !h.has(f) {
			continue
		}
		tables, err := os.ReadFile(map[family]string{v4: "/proc/thread-self/net/ip_tables_names", v6: "/proc/thread-self/net/ip6_tables_names"}[f])
		if err != nil || !strings.Contains("\n"+string(tables), "\nfilter\n") {
			continue // asking for the table would load it
		}
		policies, ok := legacyFilter(f)
		if !ok {
			h.add(Warning, "iptables_unknown", "Check by hand that it drops neither diverted nor forwarded connections.", "the old iptables has a filter table for IPv%s that cannot be read", f.digit())
			continue
		}
		for _, hook := range []struct {
			number     int
			code, name string
			remedy     string
			swallows   bool
		}{
			{hookLocalIn, "input_drop", "INPUT", "Accept packets with the mark bit: iptables-legacy -I INPUT -m mark --mark MARK/MARK -j ACCEPT.", true},
			{hookForward, "forward_drop", "FORWARD", "Let connections between the own and the peers' subnets be forwarded both ways.", false},
		} {
			p := policies[hook.number]
			if !p.drop || len(h.cfg.Interfaces) == 0 {
				continue
			}
			severity, may := Fatal, "drops"
			if p.rules {
				severity, may = Warning, "drops what its rules do not accept, perhaps"
			}
			what := "diverted connections"
			if !hook.swallows {
				what = "raw connections"
			}
			h.add(severity, hook.code, hook.remedy, "policy DROP of chain %s in the old iptables (IPv%s) %s %s", hook.name, f.digit(), may, what).Swallows = hook.swallows
		}
	}
}

// legacyFilter reads the policies of the filter table.
func legacyFilter(f family) (map[int]legacyPolicy, bool) {
	level := unix.SOL_IPV6
	if f == v4 {
		level = unix.SOL_IP
	}
	fd, err := unix.Socket(f.af(), unix.SOCK_DGRAM|unix.SOCK_CLOEXEC, 0)
	if err != nil {
		return nil, false
	}
	defer unix.Close(fd)
	info := make([]byte, iptInfoLen)
	copy(info, "filter")
	if !getsockopt(fd, level, iptGetInfo, info) {
		return nil, false
	}
	size := binary.NativeEndian.Uint32(info[80:])
	if size > maxLegacySize {
		return nil, false
	}
	entries := make([]byte, iptEntriesHdr+int(size))
	copy(entries, "filter")
	binary.NativeEndian.PutUint32(entries[32:], size)
	if !getsockopt(fd, level, iptGetEntries, entries) {
		return nil, false
	}
	return parseLegacy(f, info, entries[iptEntriesHdr:])
}

func getsockopt(fd, level, name int, b []byte) bool {
	n := uint32(len(b))
	_, _, errno := unix.Syscall6(unix.SYS_GETSOCKOPT, uintptr(fd), uintptr(level), uintptr(name),
		uintptr(unsafe.Pointer(&b[0])), uintptr(unsafe.Pointer(&n)), 0)
	return errno == 0
}

// parseLegacy finds the policies: of each hook the entry named as its underflow, whose verdict is accept (-2) or drop (-1).
func parseLegacy(f family, info, entries []byte) (map[int]legacyPolicy, bool) {
	if len(info) < iptInfoLen {
		return nil, false
	}
	entryLen := ip6tEntryLen
	if f == v4 {
		entryLen = iptEntryLen
	}
	out := map[int]legacyPolicy{}
	for _, hook := range []int{hookLocalIn, hookForward} {
		if binary.NativeEndian.Uint32(info[32:])>>hook&1 == 0 {
			continue
		}
		first := binary.NativeEndian.Uint32(info[36+4*hook:])
		policy := binary.NativeEndian.Uint32(info[56+4*hook:])
		at := uint64(policy) + uint64(entryLen) + iptVerdictAt
		if at+4 > uint64(len(entries)) {
			return nil, false
		}
		out[hook] = legacyPolicy{drop: int32(binary.NativeEndian.Uint32(entries[at:])) == -1, rules: first != policy}
	}
	return out, true
}
