package pair_test

import (
	"bytes"
	"os"
	"strings"
	"testing"

	"wanpair/bench/lab"
)

// TestDSCP looks at the tunnel's packets on the wire.
func TestDSCP(t *testing.T) {
	w := newWorld(t, testLink)
	const dscp = "dscp = 18" // AF21, 0x48 in the packet
	for _, g := range []interface {
		ConfigPath() string
	}{w.Near, w.Far} {
		b, err := os.ReadFile(g.ConfigPath())
		w.check(err)
		w.check(os.WriteFile(g.ConfigPath(), bytes.Replace(b, []byte("[tunnel]\n"), []byte("[tunnel]\n"+dscp+"\n"), 1), 0o644))
	}
	w.check(w.Restart(w.ctx))
	w.waitUp(2 * patience)
	out, err := w.run(lab.GatewayA, "timeout", "8", "tcpdump", "-n", "-v", "-c", "20", "-i", lab.WANDevice, "udp")
	if err != nil {
		t.Fatalf("tcpdump: %v\n%s", err, out)
	}
	if marked, all := strings.Count(out, "tos 0x48"), strings.Count(out, "tos 0x"); all == 0 || marked != all {
		t.Errorf("%d of %d packets carry the code point:\n%s", marked, all, out)
	}
}
