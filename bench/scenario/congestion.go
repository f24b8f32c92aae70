package scenario

import (
	"os"
	"slices"
	"strings"
)

// allowedCongestion lists the congestion controls that namespaces may have as their default; only the machine's own may change it.
const allowedCongestion = "/proc/sys/net/ipv4/tcp_allowed_congestion_control"

// allow makes a congestion control usable as the default of namespaces and returns what to call when done with it, and whether it is usable.
// Kernels whose default is another one leave cubic out of the list.
func allow(name string) (undo func(), ok bool) {
	nothing := func() {}
	before, err := os.ReadFile(allowedCongestion)
	if err != nil {
		return nothing, false
	}
	listed := strings.Fields(string(before))
	if slices.Contains(listed, name) {
		return nothing, true
	}
	if err := os.WriteFile(allowedCongestion, []byte(strings.Join(append(listed, name), " ")), 0); err != nil {
		return nothing, false
	}
	return func() {
		_ = os.WriteFile(allowedCongestion, before, 0) // the machine is then only a little more permissive than it was
	}, true
}

// fallback is the congestion control that every kernel has and every namespace may use.
const fallback = "reno"
