package pair_test

import (
	"errors"
	"fmt"
	"net"
	"testing"
	"time"

	"wanpair/bench/lab"
	"wanpair/bench/pair"
)

// TestReasons makes connections that are not accelerated, one kind after the other; each must be counted under its reason and listed with
// its number. No connection without a reason is listed but those that are accelerated.
func TestReasons(t *testing.T) {
	t.Parallel()
	classes := "[[class]]\nname = \"off\"\nports = [\"7601\"]\naction = \"pass\"\n[[class]]\nname = \"tunnel\"\nports = [\"7602\"]\naction = \"relay\"\n"
	w := newWorldWith(t, lab.Config{Link: testLink, Clients: 2}, pair.Config{NearExtra: classes})
	for _, port := range []string{"7600", "7601", "7602", "7603", "7604"} {
		w.serve(port, echoServer)
	}
	must(t, w.Near.Stop(w.ctx))
	edit(t, w.Near, "[intercept]\n", "[intercept]\npass_ports = [7603]\n")
	must(t, w.Near.Start(w.ctx))
	w.waitUp(patience)
	const foreign = "10.78.0.2"
	w.must(lab.Client, "ip", "address", "add", foreign+"/32", "dev", lab.HostDevice)
	w.must(lab.GatewayA, "ip", "route", "add", foreign+"/32", "dev", lab.LANDevice)
	w.must(lab.GatewayB, "ip", "route", "add", foreign+"/32", "dev", lab.WANDevice)

	// One that stays, accelerated; one that stays, relayed.
	stays := w.establish(t, "7600")
	relayed := w.establish(t, "7602")
	for _, r := range append(stays, relayed...) {
		defer r.c.Close()
	}
	dial := func(from, host, port string) {
		c, err := w.dialFrom(lab.Client, addr(from, 0), net.JoinHostPort(host, port), 5*time.Second)
		if err == nil {
			c.Close()
		}
	}
	for _, kind := range []struct {
		reason string
		number int
		make   func(fam family)
	}{
		{"class_pass", 4, func(fam family) { must(t, w.echo(fam.server, "7601", patience)) }},
		{"pass_port", 3, func(fam family) { must(t, w.echo(fam.server, "7603", patience)) }},
		{"own_address", 7, func(fam family) { dial(fam.client, fam.gatewayALAN, "9") }},
		{"no_peer", 13, func(fam family) {
			dial(fam.client, map[string]string{"IPv4": "203.0.113.9", "IPv6": "2001:db8::9"}[fam.name], "9")
		}},
		{"foreign_source", 14, func(fam family) {
			if fam.name == "IPv4" {
				dial(foreign, fam.server, "7600")
			}
		}},
		{"refused", 11, func(fam family) {
			for range 20 {
				dial(fam.client, fam.server, "7699")
				time.Sleep(30 * time.Millisecond) // the refusal takes a round trip to be known
			}
		}},
	} {
		t.Run(kind.reason, func(t *testing.T) {
			for _, fam := range families() {
				kind.make(fam)
			}
			eventually(t, patience, "counted and listed", func() error {
				if w.passed(t, w.Near, kind.reason) == 0 {
					return errors.New("not counted")
				}
				for _, f := range w.listed(t, w.Near) {
					if f.Reason != nil && f.Reason.Name == kind.reason && f.Reason.Number == kind.number {
						return nil
					}
				}
				for _, fam := range families() { // too few of the first came by, or they are listed no longer
					kind.make(fam)
				}
				return fmt.Errorf("not listed: %+v", w.listed(t, w.Near))
			})
		})
	}
	t.Run("peer_down", func(t *testing.T) {
		must(t, w.Far.Kill())
		w.rawAfter(t, "7604", time.Now())
		if n := w.passedByReason(t, w.Near); n["peer_down"]+n["peer_connecting"] == 0 {
			t.Errorf("passed: %v", n)
		}
	})
	accelerated := 0
	for _, f := range w.listed(t, w.Near) {
		if f.State == "passed" && f.Reason == nil {
			t.Errorf("%s to %s passed raw without a reason", f.Source, f.Destination)
		}
		if f.Reason == nil {
			accelerated++
		}
	}
	t.Logf("%d listed as accelerated", accelerated)
	relays := 0
	for _, f := range w.listed(t, w.Near) {
		if f.Reason != nil && f.Reason.Name == "class_relay" && f.Reason.Number == 12 {
			relays++
		}
	}
	if relays != len(relayed) {
		t.Errorf("%d relayed connections are listed with their reason, want %d", relays, len(relayed))
	}
}
