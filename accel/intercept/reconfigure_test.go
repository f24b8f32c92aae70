package intercept

import (
	"context"
	"errors"
	"io"
	"net"
	"net/netip"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
)

func TestReconfigure(t *testing.T) {
	s := newSite(t)
	s.server.Address("lo", "10.3.0.9/32")
	s.serve(s.server, "server", target4, server4+":9000", "10.3.0.9:8000")
	r := s.start(config(t))
	r.alive()
	s.want(target4, diverted4)
	s.want("10.3.0.9:8000", raw4)

	// A connection that runs through the change.
	var running net.Conn
	s.client.Do(func() {
		var err error
		if running, err = (&net.Dialer{}).DialContext(context.Background(), "tcp", target4); err != nil {
			t.Error(err)
		}
	})
	defer running.Close()

	next := config(t)
	next.PassPorts = []uint16{9000}
	next.Peers = append([]Peer{{Name: "sfo", Subnets: prefixes("10.3.0.0/16")}}, next.Peers...)
	change := func(cfg Config) (err error) {
		s.gateway.Do(func() { err = r.Reconfigure(cfg) })
		return err
	}
	if err := change(next); err != nil {
		t.Fatal(err)
	}
	s.want(target4, diverted4)
	s.want(server4+":9000", raw4)
	s.want("10.3.0.9:8000", raw4)
	s.gateway.Do(func() {
		if err := r.SetPeerAlive("sfo", prefixes("10.0.0.0/8"), nil); err != nil {
			t.Error(err)
		}
	})
	s.want("10.3.0.9:8000", "gateway sees 10.1.0.5 for 10.3.0.9:8000")
	_ = running.SetDeadline(time.Now().Add(15 * time.Second))
	if b, err := io.ReadAll(running); strings.TrimSpace(string(b)) != diverted4 || err != nil {
		t.Errorf("connection over the change: %q, %v", b, err)
	}
	want := map[string]uint64{"nyc": 3, "sfo": 1}
	if diff := cmp.Diff(want, r.counters().Diverted); diff != "" {
		t.Error(diff)
	}

	// Narrower subnets, and a peer gone.
	next.Peers = []Peer{{Name: "nyc", Subnets: prefixes("10.2.128.0/17")}}
	if err := change(next); err != nil {
		t.Fatal(err)
	}
	s.want(target4, raw4)
	s.want("10.3.0.9:8000", raw4)
	next.Peers = []Peer{{Name: "nyc", Subnets: prefixes("10.2.0.0/16")}}
	if err := change(next); err != nil {
		t.Fatal(err)
	}
	s.want(target4, diverted4)

	before := s.table()
	for name, broken := range map[string]func(*Config){
		"port":     func(c *Config) { c.Port = 99 },
		"no lan":   func(c *Config) { c.Interfaces = nil },
		"own mark": func(c *Config) { c.OwnBit = 1 },
	} {
		cfg := config(t)
		broken(&cfg)
		if err := change(cfg); !errors.Is(err, ErrNeedsRestart) {
			t.Errorf("%s: got %v", name, err)
		}
	}
	if err := change(Config{Peers: []Peer{{}}}); err == nil {
		t.Error("an invalid configuration was taken")
	}
	if diff := cmp.Diff(strings.Count(before, "\n"), strings.Count(s.table(), "\n")); diff != "" {
		t.Error("a refused change changed the table", diff)
	}
}

func TestTry(t *testing.T) {
	s := newSite(t)
	before := listing(s.gateway)
	try := func() (err error) {
		s.gateway.Do(func() { err = Try(context.Background(), config(t)) })
		return err
	}
	if err := try(); err != nil {
		t.Error(err)
	}
	if diff := cmp.Diff(before, listing(s.gateway)); diff != "" {
		t.Error(diff)
	}
	s.start(config(t))
	if err := try(); !errors.Is(err, ErrRunning) {
		t.Errorf("beside a running gateway: %v", err)
	}
}

func TestSamples(t *testing.T) {
	s := newSite(t)
	s.serve(s.server, "server", target4, target6, server4+":22")
	r := s.start(config(t))
	ctx, cancel := context.WithCancel(context.Background())
	defer cancel()
	var mu sync.Mutex
	got := map[string]Sample{}
	done := make(chan error, 1)
	go func() {
		done <- s.gateway.Run(func() error {
			return r.Samples(ctx, func(x Sample) {
				mu.Lock()
				defer mu.Unlock()
				if !x.Client.Addr().IsValid() || x.Client.Port() == 0 {
					t.Errorf("client %v", x.Client)
				}
				x.Client = netip.AddrPort{}
				got[x.Target.String()] = x
			})
		})
	}()
	r.dead("link_cut")
	want := map[string]Sample{
		target4:         {Target: netip.MustParseAddrPort(target4), Peer: "nyc", Reason: "link_cut"},
		target6:         {Target: netip.MustParseAddrPort(target6), Peer: "nyc", Reason: "link_cut"},
		server4 + ":22": {Target: netip.MustParseAddrPort(server4 + ":22"), Reason: "pass_port"},
	}
	s.eventually(60*time.Second, func() error {
		for target := range want {
			if _, err := s.ask(target); err != nil {
				return err
			}
		}
		mu.Lock()
		defer mu.Unlock()
		if diff := cmp.Diff(want, got, cmp.Comparer(func(a, b netip.AddrPort) bool { return a == b })); diff != "" {
			return errors.New(diff)
		}
		return nil
	})
	cancel()
	if err := <-done; err != nil {
		t.Error(err)
	}
}

func FuzzParseLog(f *testing.F) {
	f.Add([]byte{})
	f.Add([]byte{2, 0, 0, 1, 8, 0, 10, 0, 'w', 'a', 'n', 0})
	f.Fuzz(func(t *testing.T, b []byte) {
		if _, s, ok := parseLog(b); ok && !s.Client.IsValid() {
			t.Errorf("%+v", s)
		}
	})
}
