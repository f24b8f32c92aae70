package doctor

import (
	"errors"
	"testing"

	"golang.org/x/sys/unix"

	"wanpair/accel/stats"
)

func TestOffloads(t *testing.T) {
	wants(t, "as it should be", judgeOffloads("eth0", offloads{gro: true, tso: true}), OK, "eth0")
	bad := judgeOffloads("eth0", offloads{lro: true})
	wants(t, "LRO", bad, Warning, "LRO")
	wants(t, "GRO", bad, Note, "GRO")
	wants(t, "TSO", bad, Note, "TSO")
	if _, err := readOffloads("lo"); err != nil {
		t.Errorf("the loopback interface: %v", err)
	}
	for _, name := range []string{"not-there", "a-name-that-is-much-too-long"} {
		if _, err := readOffloads(name); err == nil {
			t.Errorf("%s has offloads", name)
		}
	}
}

func TestClock(t *testing.T) {
	wants(t, "synchronised", judgeClock(unix.TIME_OK, nil), OK, "synchronised")
	wants(t, "not synchronised", judgeClock(unix.TIME_ERROR, nil), Note, "not synchronised")
	wants(t, "unknown", judgeClock(0, errors.New("no")), Note, "cannot be found out")
}

// TestHandshake: the words are those of package transport and its lanes; what a wrong key brings is tried with two gateways in bench/pair.
func TestHandshake(t *testing.T) {
	r := goodReport()
	for detail, want := range map[string]string{
		"198.51.100.7:4600 presented an unknown key, not one of peer nyc: abc=":                     "another key",
		"dial 198.51.100.7:4600: CRYPTO_ERROR 0x131 (remote): tls: access denied":                   "does not know this site's key",
		"lane closed by the peer: VERSION: this side speaks version 2, the other 1 to 1":            "no protocol version",
		"no answer from 198.51.100.7:4600: timeout: no recent network activity (no key was denied)": "is down",
	} {
		wants(t, detail, peer(r, stats.PeerReport{Name: "nyc", State: stats.StateDown, Detail: detail}), Fault, want)
	}
}
