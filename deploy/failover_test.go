package deploy_test

import (
	"encoding/json"
	"errors"
	"fmt"
	"net"
	"path/filepath"
	"strings"
	"syscall"
	"testing"
	"time"
)

// siteConfig is a gateway's configuration file, in the order: name, directory, peer's name, its key, its endpoint, its subnets, own
// subnets, own hosts' interface.
const siteConfig = `[site]
name = %q
private_key_file = "%[2]s/private.key"
[cache]
dir = "%[2]s/cache"
size = "64MiB"
memory = "64MiB"
[[peer]]
name = %[3]q
public_keys = [%[4]q]
endpoints = [%[5]s]
subnets = [%[6]s]
[intercept]
interfaces = [%[8]q]
subnets = [%[7]s]
[limits]
flows = 100
memory = "64MiB"
hold = "20s"
`

const (
	amsSubnets = `"10.1.0.0/16", "fd00:1::/64"`
	nycSubnets = `"10.2.0.0/16", "fd00:2::/64"`
)

// gateways starts the real daemon on a site's box, whose hosts are behind the given interface, and on the far side, and waits for the link.
func (l *lab) gateways(t *testing.T, box, hosts string) map[string]*daemon {
	t.Helper()
	requireTool(t, "go", "curl")
	dir := t.TempDir()
	program := filepath.Join(dir, "wanpair")
	run(t, "env", "CGO_ENABLED=0", "go", "build", "-o", program, "../cmd/wanpair")
	keys := map[string]string{}
	for _, ns := range []string{box, "far"} {
		write(t, filepath.Join(dir, ns, "cache", ".keep"), "", 0o600)
		keys[ns] = strings.TrimSpace(run(t, program, "keygen", "-o", filepath.Join(dir, ns, "private.key")))
	}
	daemons := map[string]*daemon{}
	for ns, text := range map[string]string{
		box:   fmt.Sprintf(siteConfig, "ams", filepath.Join(dir, box), "nyc", keys["far"], `"10.9.0.254:4600"`, nycSubnets, amsSubnets, hosts),
		"far": fmt.Sprintf(siteConfig, "nyc", filepath.Join(dir, "far"), "ams", keys[box], "", amsSubnets, nycSubnets, "lan0"),
	} {
		file := filepath.Join(dir, ns, "wanpair.toml")
		write(t, file, text, 0o600)
		daemons[ns] = l.start(t, ns, program, "gateway", "-c", file)
	}
	waitFor(t, "link up", settleTimeout, func() error { return l.linkIs(t, box, "up", 0) })
	return daemons
}

// stats is what the tests read of /api/v1/stats.
type stats struct {
	Peers []struct {
		State       string `json:"state"`
		FlowsActive int    `json:"flows_active"`
	} `json:"peers"`
}

// linkIs says, as an error when not, whether a box's link is in a state and carries so many flows.
func (l *lab) linkIs(t *testing.T, box, state string, flows int) error {
	t.Helper()
	out, err := try(t, "ip", "netns", "exec", l.prefix+box, "curl", "-fsS", "--max-time", "1", "http://127.0.0.1:9460/api/v1/stats")
	if err != nil {
		return fmt.Errorf("%w: %s", err, out)
	}
	var s stats
	if err := json.Unmarshal([]byte(out), &s); err != nil {
		return err
	}
	if len(s.Peers) != 1 || s.Peers[0].State != state || s.Peers[0].FlowsActive != flows {
		return fmt.Errorf("%+v", s)
	}
	return nil
}

// accelerated opens a connection from a namespace to each address, until the box counts them all as its own.
func (l *lab) accelerated(t *testing.T, box, from string, addresses map[string]string) map[string]net.Conn {
	t.Helper()
	conns := map[string]net.Conn{}
	waitFor(t, "accelerated connections", settleTimeout, func() error {
		for family, address := range addresses {
			if conns[family] != nil {
				_ = conns[family].Close()
			}
			conn, err := l.dial(from, address, settleTimeout)
			if err != nil {
				return err
			}
			t.Cleanup(func() { _ = conn.Close() })
			conns[family] = conn
			if err := talk(conn, settleTimeout); err != nil {
				return err
			}
		}
		return l.linkIs(t, box, "up", len(addresses))
	})
	return conns
}

// TestAcceleratedSiteFallsBack runs two real gateways, with connections accelerated, and takes the near one away: first its cables, for a
// while, then its power.
func TestAcceleratedSiteFallsBack(t *testing.T) {
	p := newPair(t)
	wanpair := p.gateways(t, "gateway", "lan0")
	p.keepalived(t, "router")
	p.keepalived(t, "gateway")
	waitFor(t, "gateway owns the addresses", settleTimeout, func() error { return p.owns(t, "gateway") })
	lasting := p.accelerated(t, "gateway", "client", families)
	reset := func(when string) {
		t.Helper()
		for family, conn := range lasting {
			_ = conn.SetDeadline(time.Now().Add(3 * settleTimeout))
			if _, err := conn.Read(make([]byte, 1)); !errors.Is(err, syscall.ECONNRESET) {
				t.Errorf("%s, accelerated connection, %s: %v, want a reset", when, family, err)
			}
		}
	}

	// Cables out and in again within limits.hold: new connections pass raw meanwhile, accelerated ones stand still and go on.
	p.takeover(t, "both cables", p.cables(t, "down", "lan0", "wan0"), p.cables(t, "up", "lan0", "wan0"))
	for family, conn := range lasting {
		_ = conn.SetDeadline(time.Time{})
		if _, err := conn.Write([]byte("x")); err != nil {
			t.Errorf("accelerated connection without its gateway, %s: %v", family, err)
		}
	}
	p.cables(t, "up", "lan0", "wan0")()
	for family, conn := range lasting {
		_ = conn.SetReadDeadline(time.Now().Add(settleTimeout))
		got := make([]byte, 1)
		if _, err := conn.Read(got); err != nil || got[0] != 'x' {
			t.Errorf("accelerated connection with its gateway back, %s: %q, %v", family, got, err)
		}
		if err := talk(conn, settleTimeout); err != nil {
			t.Errorf("accelerated connection with its gateway back, %s: %v", family, err)
		}
	}

	// No power: nobody says goodbye. What was accelerated has lost one of its halves: it ends as a reset, when the far side has given up
	// waiting and the client asks its server again.
	start := time.Now()
	p.takeover(t, "no power", func() {
		p.cables(t, "down", "lan0", "wan0")()
		p.daemons["gateway"].kill(t)
		wanpair["gateway"].kill(t)
		for family, conn := range lasting {
			_ = conn.SetDeadline(time.Time{})
			if _, err := conn.Write([]byte("x")); err != nil { // an idle client would not notice before its keep-alive
				t.Errorf("accelerated connection without its gateway, %s: %v", family, err)
			}
		}
	}, nil)
	reset("no power")
	t.Logf("accelerated connections are reset %.1f s after the power went", time.Since(start).Seconds())
}
