package deploy_test

import (
	"errors"
	"fmt"
	"net"
	"net/http"
	"os"
	"path/filepath"
	"strings"
	"sync/atomic"
	"testing"
	"time"
)

// takeoverLimit is the promise: after the gateway's cables are gone, new connections pass through the plain router within this time.
const takeoverLimit = 3 * time.Second

// settleTimeout bounds waits for things that have no promised time, on a machine that may be busy.
const settleTimeout = 30 * time.Second

// A pair is the two routers of a site with their hosts on one side and the way to the other site, its gateway and a server, on the other:
//
//	client --- LAN --+-- gateway --+-- link --- far --- server
//	                 +-- router ---+
type pair struct {
	*lab
	dir     string
	daemons map[string]*daemon
	healthy atomic.Bool // what the gateway's /healthz says
}

var families = map[string]string{"ip4": "10.2.0.10:7", "ip6": "[fd00:2::10]:7"}

func newPair(t *testing.T) *pair {
	t.Helper()
	requireTool(t, "keepalived", "curl")
	p := &pair{lab: newLab(t, "client", "gateway", "router", "far", "server"), daemons: map[string]*daemon{}}
	p.healthy.Store(true)

	// keepalived runs scripts only from places that none but root can write to, on the whole way: the tests' own directories lie in /tmp.
	dir, err := os.MkdirTemp("/run", "wanpair-deploy-") //nolint:usetesting // see above
	if err != nil {
		t.Fatal(err)
	}
	p.dir = dir
	t.Cleanup(func() { _ = os.RemoveAll(dir) })
	if err := os.Chmod(dir, 0o755); err != nil {
		t.Fatal(err)
	}

	p.switchOn(t, "lan")
	p.switchOn(t, "wan")
	p.plug(t, "client", "eth0", "lan", "10.1.0.10/24", "fd00:1::10/64")
	p.plug(t, "gateway", "lan0", "lan", "10.1.0.2/24", "fd00:1::2/64")
	p.plug(t, "router", "lan0", "lan", "10.1.0.3/24", "fd00:1::3/64")
	p.plug(t, "gateway", "wan0", "wan", "10.9.0.2/24", "fd00:9::2/64")
	p.plug(t, "router", "wan0", "wan", "10.9.0.3/24", "fd00:9::3/64")
	p.plug(t, "far", "wan0", "wan", "10.9.0.254/24", "fd00:9::254/64")
	p.switchOn(t, "dist")
	p.plug(t, "far", "lan0", "dist", "10.2.0.1/16", "fd00:2::1/64")
	p.plug(t, "server", "eth0", "dist", "10.2.0.10/16", "fd00:2::10/64")

	// The addresses of the pair: what a host and the upstream are told in the guide.
	p.ip(t, "client", "route", "add", "default", "via", "10.1.0.1")
	p.ip(t, "client", "-6", "route", "add", "default", "via", "fe80::1:1", "dev", "eth0")
	p.ip(t, "far", "route", "add", "10.1.0.0/16", "via", "10.9.0.1")
	p.ip(t, "far", "-6", "route", "add", "fd00:1::/64", "via", "fd00:9::1")
	p.ip(t, "server", "route", "add", "default", "via", "10.2.0.1")
	p.ip(t, "server", "-6", "route", "add", "default", "via", "fd00:2::1")
	for _, box := range []string{"gateway", "router", "far"} {
		p.exec(t, box, "sysctl", "-qw", "net.ipv4.ip_forward=1", "net.ipv6.conf.all.forwarding=1", "net.ipv4.conf.all.rp_filter=2")
	}
	for _, box := range []string{"gateway", "router"} {
		p.ip(t, box, "route", "add", "10.2.0.0/16", "via", "10.9.0.254")
		p.ip(t, box, "-6", "route", "add", "fd00:2::/64", "via", "fd00:9::254")
	}
	for _, address := range families {
		p.echo(t, "server", address)
	}
	return p
}

// serveHealth stands in for the gateway's stats endpoint.
func (p *pair) serveHealth(t *testing.T) {
	t.Helper()
	var listener net.Listener
	p.do(t, "gateway", func() (err error) {
		listener, err = (&net.ListenConfig{}).Listen(t.Context(), "tcp", "127.0.0.1:9460")
		return err
	})
	server := &http.Server{ReadHeaderTimeout: time.Second, Handler: http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		if r.URL.Path != "/healthz" || !p.healthy.Load() {
			w.WriteHeader(http.StatusServiceUnavailable)
		}
	})}
	done := make(chan struct{})
	go func() {
		_ = server.Serve(listener)
		close(done)
	}()
	t.Cleanup(func() {
		_ = server.Close()
		<-done
	})
}

// keepalived starts the shipped configuration of a box. Only the places of files and the time it waits before it takes the addresses back
// are the test's own.
func (p *pair) keepalived(t *testing.T, box string) {
	t.Helper()
	config := read(t, "keepalived/"+box+".conf")
	if box == "gateway" {
		script := filepath.Join(p.dir, "check-wanpair.sh")
		write(t, script, read(t, "keepalived/check-wanpair.sh"), 0o755)
		config = replace(t, config, "/etc/keepalived/check-wanpair.sh", script)
		config = replace(t, config, "preempt_delay 30", "preempt_delay 1")
	}
	file := filepath.Join(p.dir, box+".conf")
	write(t, file, config, 0o644)
	pid := func(part string) string { return filepath.Join(p.dir, box+part+".pid") }
	p.daemons[box] = p.start(t, box, "keepalived", "--dont-fork", "--log-console", "--log-detail", "--no-syslog", "--vrrp",
		"--use-file", file, "--pid", pid(""), "--vrrp_pid", pid("-vrrp"))
	// keepalived goes on with what it understood. (Its own --config-test ends itself by a signal in 2.2.7 when there is a script.)
	log := p.daemons[box].log
	waitFor(t, "keepalived on the "+box, settleTimeout, func() error {
		if !strings.Contains(log.String(), "Startup complete") {
			return errors.New("not started")
		}
		return nil
	})
	if strings.Contains(log.String(), ": Line ") || strings.Contains(log.String(), "WARNING") || strings.Contains(log.String(), "SECURITY") {
		t.Errorf("keepalived does not like %s.conf", box)
	}
}

func replace(t *testing.T, text, what, with string) string {
	t.Helper()
	if !strings.Contains(text, what) {
		t.Fatalf("no %q to replace", what)
	}
	return strings.ReplaceAll(text, what, with)
}

// owns says, as an error when not, whether a box holds all four addresses of the pair.
func (p *pair) owns(t *testing.T, box string) error {
	t.Helper()
	have := p.ip(t, box, "-brief", "address", "show", "scope", "global")
	for _, a := range []string{"10.1.0.1/", "10.9.0.1/", "fd00:1::1/", "fd00:9::1/"} {
		if !strings.Contains(have, a) {
			return fmt.Errorf("%s has no %s", box, a)
		}
	}
	return nil
}

// way returns which of the two boxes passes a connection of a family on.
func (p *pair) way(t *testing.T, family string) string {
	t.Helper()
	before := [2]int{p.forwarded(t, "gateway", family), p.forwarded(t, "router", family)}
	if err := p.ask("client", families[family]); err != nil {
		return err.Error()
	}
	const packets = 5 // of a connection that says one line, in one direction at least
	gateway := p.forwarded(t, "gateway", family)-before[0] >= packets
	router := p.forwarded(t, "router", family)-before[1] >= packets
	return map[[2]bool]string{{true, false}: "gateway", {false, true}: "router", {true, true}: "both", {}: "none"}[[2]bool{gateway, router}]
}

func (p *pair) waitForWay(t *testing.T, want string) {
	t.Helper()
	for family := range families {
		waitFor(t, family+" passes through the "+want, settleTimeout, func() error {
			if got := p.way(t, family); got != want {
				return errors.New(got)
			}
			return nil
		})
	}
}

// takeover takes the gateway away and measures how long it is until new connections of both families pass. A busy machine is late once:
// then undo puts the gateway back, and it is tried again. What has no undo is measured only.
func (p *pair) takeover(t *testing.T, what string, do, undo func()) {
	t.Helper()
	const tries = 3
	for try := 1; ; try++ {
		start := time.Now()
		do()
		for _, family := range []string{"ip4", "ip6"} {
			waitFor(t, family+" after "+what, settleTimeout, func() error { return p.ask("client", families[family]) })
		}
		took := time.Since(start)
		t.Logf("%s: both families pass %d ms after it", what, took.Milliseconds())
		if took <= takeoverLimit || undo == nil {
			return
		}
		if try == tries {
			t.Errorf("%s: new connections passed later than %v %d times, at last after %v", what, takeoverLimit, tries, took)
			return
		}
		undo()
		waitFor(t, "gateway takes the addresses back", settleTimeout, func() error { return p.owns(t, "gateway") })
	}
}

// cables pulls ("down") or puts back ("up") cables of the gateway.
func (p *pair) cables(t *testing.T, state string, cards ...string) func() {
	return func() {
		for _, card := range cards {
			p.cable(t, "gateway", card, state)
		}
	}
}

// TestPlainRouterTakesOver runs both boxes with the shipped configuration and the real keepalived, and takes the gateway away in every
// way a box goes: its cables, its power, its health.
func TestPlainRouterTakesOver(t *testing.T) {
	p := newPair(t)
	p.serveHealth(t)
	p.keepalived(t, "router")
	p.keepalived(t, "gateway")
	waitFor(t, "gateway owns the addresses", settleTimeout, func() error { return p.owns(t, "gateway") })
	p.waitForWay(t, "gateway")

	// Connections that the gateway only passes on: they have no state there.
	lasting := map[string]net.Conn{}
	for family, address := range families {
		conn, err := p.dial("client", address, settleTimeout)
		if err != nil {
			t.Fatal(err)
		}
		defer func() { _ = conn.Close() }()
		lasting[family] = conn
	}
	stillThere := func(when string) {
		t.Helper()
		for family, conn := range lasting {
			if err := talk(conn, settleTimeout); err != nil {
				t.Errorf("%s: raw connection of before, %s: %v", when, family, err)
			}
		}
	}

	for name, cut := range map[string][]string{"both cables": {"lan0", "wan0"}, "the LAN's cable": {"lan0"}, "the link's cable": {"wan0"}} {
		p.takeover(t, name, p.cables(t, "down", cut...), p.cables(t, "up", cut...))
		p.waitForWay(t, "router")
		stillThere(name)

		p.cables(t, "up", cut...)()
		waitFor(t, "gateway takes the addresses back", settleTimeout, func() error { return p.owns(t, "gateway") })
		p.waitForWay(t, "gateway")
		stillThere(name + ", put back")
	}

	p.healthy.Store(false)
	p.waitForWay(t, "router")
	if err := p.owns(t, "router"); err != nil {
		t.Error(err)
	}
	p.healthy.Store(true)
	p.waitForWay(t, "gateway")
	stillThere("sick and well again")

	// No power: nothing is sent any more, no address is given back, and the cables stay in.
	p.takeover(t, "no power", func() {
		p.daemons["gateway"].kill(t)
		for _, card := range []string{"lan0", "wan0"} {
			p.ip(t, "gateway", "link", "set", card, "down")
		}
	}, nil)
	stillThere("no power")
}

// TestSickGatewayAlone: a gateway whose wanpair is sick keeps the addresses when its partner is not there. It still passes everything raw.
func TestSickGatewayAlone(t *testing.T) {
	p := newPair(t)
	p.serveHealth(t)
	p.healthy.Store(false)
	p.keepalived(t, "gateway")
	waitFor(t, "gateway owns the addresses", settleTimeout, func() error { return p.owns(t, "gateway") })
	waitFor(t, "the check fails", settleTimeout, func() error {
		if !strings.Contains(p.daemons["gateway"].log.String(), "Changing effective priority from 150 to 90") {
			return errors.New("the priority is as it was")
		}
		return nil
	})
	p.waitForWay(t, "gateway")
}
