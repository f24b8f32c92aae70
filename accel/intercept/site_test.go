package intercept

import (
	"context"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"net"
	"net/netip"
	"strings"
	"sync"
	"testing"
	"time"

	"wanpair/accel/internal/nstest"
)

// site is a gateway between a client of its own site and a server of the peer's; the raw path is a plain route.
//
//	client eth0 10.1.0.5 --- 10.1.0.1 lan0 gateway wan0 10.9.0.1 --- 10.9.0.2 eth0 server, with 10.2.0.9 on lo
//	       fd00:1::5         fd00:1::1                  fd00:9::1     fd00:9::2              and fd00:2::9
type site struct {
	t                       *testing.T
	client, gateway, server *nstest.NS
}

const (
	server4, server6 = "10.2.0.9", "fd00:2::9"
	client4, client6 = "10.1.0.5", "fd00:1::5"
)

func newSite(t *testing.T) *site {
	t.Helper()
	t.Parallel() // each site is a world of its own
	s := &site{t: t, client: nstest.New(t, "client"), gateway: nstest.New(t, "gateway"), server: nstest.New(t, "server")}
	nstest.Join(t,
		nstest.End{NS: s.client, Name: "eth0", Addrs: []string{client4 + "/24", client6 + "/64"}},
		nstest.End{NS: s.gateway, Name: "lan0", Addrs: []string{"10.1.0.1/24", "fd00:1::1/64"}})
	nstest.Join(t,
		nstest.End{NS: s.gateway, Name: "wan0", Addrs: []string{"10.9.0.1/24", "fd00:9::1/64"}},
		nstest.End{NS: s.server, Name: "eth0", Addrs: []string{"10.9.0.2/24", "fd00:9::2/64"}})
	s.server.Address("lo", server4+"/32", server6+"/128")
	s.client.Route("10.1.0.1", "0.0.0.0/0")
	s.client.Route("fd00:1::1", "::/0")
	s.server.Route("10.9.0.1", "0.0.0.0/0")
	s.server.Route("fd00:9::1", "::/0")
	s.gateway.Route("10.9.0.2", "10.2.0.0/16", "10.3.0.0/16")
	s.gateway.Route("fd00:9::2", "fd00:2::/64")
	s.gateway.Forward()
	return s
}

func prefixes(ss ...string) []netip.Prefix {
	var out []netip.Prefix
	for _, s := range ss {
		out = append(out, netip.MustParsePrefix(s))
	}
	return out
}

// config intercepts what goes to the peer nyc.
func config(t *testing.T) Config {
	return Config{
		Log:        slog.New(slog.NewTextHandler(t.Output(), &slog.HandlerOptions{Level: slog.LevelDebug})),
		Interfaces: []string{"lan0"},
		Subnets:    prefixes("10.1.0.0/16", "fd00:1::/64"),
		Peers:      []Peer{{Name: "nyc", Subnets: prefixes("10.2.0.0/16", "fd00:2::/64")}},
		PassPorts:  []uint16{22},
	}
}

// serve echoes in a namespace, each line behind a name, so that a client can tell who answered.
func (s *site) serve(ns *nstest.NS, name string, addrs ...string) {
	s.t.Helper()
	for _, addr := range addrs {
		var l net.Listener
		ns.Do(func() {
			var err error
			if l, err = (&net.ListenConfig{}).Listen(context.Background(), "tcp", addr); err != nil {
				s.t.Error(err)
			}
		})
		if l == nil {
			s.t.FailNow()
		}
		s.t.Cleanup(func() { l.Close() })
		go func() {
			for {
				c, err := l.Accept()
				if err != nil {
					return
				}
				fmt.Fprintf(c, "%s sees %s\n", name, addrPortOf(c.RemoteAddr()).Addr())
				c.Close()
			}
		}()
	}
}

// ask connects from the client's namespace and gives the line that comes back.
func (s *site) ask(target string) (string, error) { return s.askFrom("", target) }

// askPatience is for connections that must work: a busy machine takes its time. retryPatience is for those that may fail and are tried again.
const askPatience, retryPatience = 20 * time.Second, 3 * time.Second

func (s *site) askFrom(source, target string) (string, error) {
	return s.askWithin(askPatience, source, target)
}

func (s *site) askWithin(timeout time.Duration, source, target string) (string, error) {
	var line string
	err := s.client.Run(func() error {
		d := net.Dialer{Timeout: timeout}
		if source != "" {
			d.LocalAddr = net.TCPAddrFromAddrPort(netip.MustParseAddrPort(source))
		}
		c, err := d.Dial("tcp", target)
		if err != nil {
			return err
		}
		defer c.Close()
		_ = c.SetDeadline(time.Now().Add(timeout))
		b, err := io.ReadAll(c)
		line = strings.TrimSpace(string(b))
		return err
	})
	return line, err
}

func (s *site) want(target, answer string) {
	s.t.Helper()
	if got, err := s.ask(target); err != nil || got != answer {
		s.t.Errorf("connection to %s: got %q, %v; want %q", target, got, err, answer)
	}
}

// running is an installed interceptor whose Run runs in the gateway's namespace; it answers each connection itself.
type running struct {
	*Interceptor
	s      *site
	cancel context.CancelFunc
	wg     sync.WaitGroup
	once   sync.Once
}

// install makes an interceptor and installs it, without running it.
func (s *site) install(cfg Config) (*Interceptor, error) {
	s.t.Helper()
	i, err := New(cfg)
	if err != nil {
		s.t.Fatal(err)
	}
	err = s.gateway.Run(func() error { return i.Install(context.Background()) })
	return i, err
}

func (s *site) start(cfg Config) *running {
	s.t.Helper()
	i, err := s.install(cfg)
	if err != nil {
		s.t.Fatal(err)
	}
	ctx, cancel := context.WithCancel(context.Background())
	r := &running{Interceptor: i, s: s, cancel: cancel}
	r.wg.Go(func() {
		if err := s.gateway.Run(func() error { return i.Run(ctx) }); err != nil {
			s.t.Error(err)
		}
	})
	r.wg.Go(func() {
		for {
			c, err := i.Accept(ctx)
			if err != nil {
				return
			}
			fmt.Fprintf(c, "gateway sees %s for %s\n", c.RemoteAddr().Addr(), c.LocalAddr())
			if err := c.CloseWrite(); err != nil {
				c.Reset()
				continue
			}
			r.wg.Go(func() {
				if c.WaitReadable() == nil { // the client's end
					_ = c.Finish()
				}
				c.Reset()
			})
		}
	})
	s.t.Cleanup(func() { r.stop(); r.remove() })
	return r
}

// stop ends Run and the answering, but leaves the rules as a process that hangs would.
func (r *running) stop() {
	r.once.Do(func() {
		r.cancel()
		r.wg.Wait()
	})
}

func (r *running) remove() {
	r.s.gateway.Do(func() {
		if err := r.Remove(); err != nil {
			r.s.t.Error(err)
		}
	})
}

func (r *running) alive(gateways ...string) {
	r.s.t.Helper()
	var addrs []netip.Addr
	for _, g := range gateways {
		addrs = append(addrs, netip.MustParseAddr(g))
	}
	r.s.gateway.Do(func() {
		if err := r.SetPeerAlive("nyc", prefixes("10.2.0.0/16", "fd00:2::/64"), addrs); err != nil {
			r.s.t.Error(err)
		}
	})
}

func (r *running) dead(reason string) {
	r.s.t.Helper()
	r.s.gateway.Do(func() {
		if err := r.SetPeerDead("nyc", reason); err != nil {
			r.s.t.Error(err)
		}
	})
}

func (r *running) counters() Counters {
	r.s.t.Helper()
	var c Counters
	r.s.gateway.Do(func() {
		var err error
		if c, err = r.Counters(); err != nil {
			r.s.t.Error(err)
		}
	})
	return c
}

// eventually repeats check until it is nil or the deadline, long enough for a busy machine, has passed.
func (s *site) eventually(within time.Duration, check func() error) {
	s.t.Helper()
	deadline := time.Now().Add(within)
	for {
		err := check()
		if err == nil {
			return
		}
		if time.Now().After(deadline) {
			s.t.Fatalf("after %v: %v", within, err)
		}
		time.Sleep(20 * time.Millisecond)
	}
}

func (s *site) answers(target, answer string) func() error {
	return func() error {
		got, err := s.askWithin(retryPatience, "", target)
		if err != nil {
			return err
		}
		if got != answer {
			return errors.New("got " + got)
		}
		return nil
	}
}

func (s *site) table() string {
	s.t.Helper()
	return s.gateway.Output("nft", "list", "ruleset")
}
