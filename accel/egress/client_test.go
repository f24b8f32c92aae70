package egress

import (
	"context"
	"errors"
	"io"
	"net"
	"net/netip"
	"syscall"
	"testing"
	"time"

	"wanpair/accel/edge"
	"wanpair/accel/internal/nstest"

	"golang.org/x/sys/unix"
)

// farSite is a far gateway and a server behind it that routes back to the clients through the gateway:
//
//	gateway lan0 10.2.0.1 --- 10.2.0.9 eth0 server
//	        fd00:2::1         fd00:2::9
//
// The rule that brings answers for a client's address into the gateway's socket is put in with nft, as text.
type farSite struct {
	gateway, server *nstest.NS
}

func newFarSite(t *testing.T) farSite {
	s := farSite{gateway: nstest.New(t, "gateway"), server: nstest.New(t, "server")}
	nstest.Join(t,
		nstest.End{NS: s.gateway, Name: "lan0", Addrs: []string{"10.2.0.1/24", "fd00:2::1/64"}},
		nstest.End{NS: s.server, Name: "eth0", Addrs: []string{"10.2.0.9/24", "fd00:2::9/64"}})
	s.server.Route("10.2.0.1", "10.1.0.0/16")
	s.server.Route("fd00:2::1", "fd00:1::/64")
	s.gateway.Forward()
	if out, err := s.gateway.Input(`table inet t { chain c { type filter hook prerouting priority mangle;
		meta l4proto tcp socket transparent 1 meta mark set mark or 0x1000000 accept; }; }`, "nft", "-f", "-"); err != nil {
		t.Fatal(err, out)
	}
	for _, family := range []string{"-4", "-6"} {
		s.gateway.Output("ip", family, "rule", "add", "fwmark", "0x1000000/0x1000000", "lookup", "4600")
		s.gateway.Output("ip", family, "route", "add", "local", "default", "dev", "lo", "table", "4600")
	}
	return s
}

func (s farSite) listen(t *testing.T, network, addr string) net.Listener {
	t.Helper()
	var l net.Listener
	s.server.Do(func() {
		var err error
		if l, err = (&net.ListenConfig{}).Listen(context.Background(), network, addr); err != nil {
			t.Error(err)
		}
	})
	if l == nil {
		t.FailNow()
	}
	t.Cleanup(func() { l.Close() })
	return l
}

func (s farSite) dial(d *Dialer, client, target string) (*edge.Conn, error) {
	var c *edge.Conn
	err := s.gateway.Run(func() (err error) {
		c, err = d.DialAsClient(context.Background(), netip.MustParseAddrPort(client), netip.MustParseAddrPort(target),
			mustPrefixes("10.1.0.0/16", "fd00:1::/64"))
		return err
	})
	return c, err
}

var allowLAN = mustPrefixes("10.2.0.0/16", "fd00:2::/64")

func TestServerSeesTheClient(t *testing.T) {
	s := newFarSite(t)
	d := newDialer(t, Config{Allow: allowLAN, Mark: 1 << 25})
	for _, tt := range []struct{ network, client, target string }{
		{"tcp4", "10.1.0.5:40000", "10.2.0.9:8000"},
		{"tcp6", "[fd00:1::5]:40000", "[fd00:2::9]:8000"},
		{"tcp4", "10.1.0.5:999", "10.2.0.9:8001"},
	} {
		l := s.listen(t, tt.network, tt.target)
		c, err := s.dial(d, tt.client, tt.target)
		if err != nil {
			t.Errorf("%s: %v", tt.target, err)
			continue
		}
		a, err := l.Accept()
		if err != nil {
			t.Fatal(err)
		}
		if got := a.RemoteAddr().String(); got != tt.client {
			t.Errorf("the server sees %s, want %s", got, tt.client)
		}
		if c.LocalAddr().String() != tt.client || c.RemoteAddr().String() != tt.target {
			t.Errorf("edge %v to %v", c.LocalAddr(), c.RemoteAddr())
		}
		go func() {
			_, _ = io.Copy(a, a)
			a.Close()
		}()
		if _, err := c.Write([]byte("ping")); err != nil {
			t.Error(err)
		}
		if err := c.CloseWrite(); err != nil {
			t.Error(err)
		}
		got, err := readAll(c)
		if string(got) != "ping" || !errors.Is(err, io.EOF) {
			t.Errorf("echo: %q, %v", got, err)
		}
		if err := c.Finish(); err != nil {
			t.Error(err)
		}
	}
}

func readAll(c *edge.Conn) ([]byte, error) {
	var all []byte
	buf := make([]byte, 4096)
	for {
		if err := c.WaitReadable(); err != nil {
			return all, err
		}
		n, err := c.ReadAvailable(buf)
		all = append(all, buf[:n]...)
		if err != nil {
			return all, err
		}
	}
}

func TestReasonsOverTheWire(t *testing.T) {
	s := newFarSite(t)
	d := newDialer(t, Config{Allow: mustPrefixes("10.2.0.0/16", "10.77.0.0/16", "fd00:2::/64"), ConnectTimeout: 3 * time.Second, ClashWait: 20 * time.Millisecond})
	// A host that is silent: the neighbour is known, nobody answers.
	s.gateway.Output("ip", "neigh", "add", "10.2.0.66", "lladdr", "02:00:00:00:00:66", "dev", "lan0")
	s.gateway.Output("ip", "route", "add", "unreachable", "10.2.7.0/24")
	for _, tt := range []struct {
		client, target string
		want           Reason
	}{
		{"10.1.0.5:40000", "10.2.0.9:1", Refused},
		{"[fd00:1::5]:40000", "[fd00:2::9]:1", Refused},
		{"10.1.0.5:40000", "10.2.0.66:80", Unreachable},
		{"10.1.0.5:40000", "10.2.7.1:80", Unreachable},
		{"10.1.0.5:40000", "10.77.0.1:80", Unreachable}, // no route at all
	} {
		c, err := s.dial(d, tt.client, tt.target)
		if err == nil {
			c.Reset()
		}
		if ReasonOf(err) != tt.want {
			t.Errorf("%s: got %v, want %v", tt.target, err, tt.want)
		}
	}
}

func TestOneClientPortManyServers(t *testing.T) {
	s := newFarSite(t)
	d := newDialer(t, Config{Allow: allowLAN, ClashWait: 20 * time.Millisecond})
	s.listen(t, "tcp4", "10.2.0.9:8000")
	s.listen(t, "tcp4", "10.2.0.9:8001")
	a, err := s.dial(d, "10.1.0.5:40000", "10.2.0.9:8000")
	if err != nil {
		t.Fatal(err)
	}
	defer a.Reset()
	b, err := s.dial(d, "10.1.0.5:40000", "10.2.0.9:8001")
	if err != nil {
		t.Fatalf("the same client port to another server: %v", err)
	}
	defer b.Reset()
	if c, err := s.dial(d, "10.1.0.5:40000", "10.2.0.9:8000"); ReasonOf(err) != SourceClash {
		t.Errorf("the very same connection twice: got %v, %v; want a source clash", c, err)
	}
}

// A client that uses its port again at once is served, whether our side of the old connection waits in TIME_WAIT or its reset
// is still on the way.
func TestClientPortUsedAgain(t *testing.T) {
	for _, family := range []struct{ network, client, target string }{
		{"tcp4", "10.1.0.5:40000", "10.2.0.9:8000"},
		{"tcp6", "[fd00:1::5]:40000", "[fd00:2::9]:8000"},
	} {
		t.Run(family.network, func(t *testing.T) {
			s := newFarSite(t)
			d := newDialer(t, Config{Allow: allowLAN, ClashWait: time.Minute}) // a busy machine resets late
			l := s.listen(t, family.network, family.target)
			for range 3 {
				c, err := s.dial(d, family.client, family.target)
				if err != nil {
					t.Fatal(err)
				}
				a, err := l.Accept()
				if err != nil {
					t.Fatal(err)
				}
				// Our FIN goes first: TIME_WAIT stays here.
				if err := c.CloseWrite(); err != nil {
					t.Fatal(err)
				}
				_, _ = io.Copy(io.Discard, a)
				a.Close()
				if _, err := readAll(c); !errors.Is(err, io.EOF) {
					t.Fatal(err)
				}
				if err := c.Finish(); err != nil {
					t.Fatal(err)
				}
			}
			old, err := s.dial(d, family.client, family.target)
			if err != nil {
				t.Fatal(err)
			}
			time.AfterFunc(100*time.Millisecond, old.Reset)
			c, err := s.dial(d, family.client, family.target)
			if err != nil {
				t.Fatalf("the reset of the old connection was not waited for: %v", err)
			}
			c.Reset()
		})
	}
}

// An established connection is never taken for a left-over.
func TestDestroyLeavesEstablishedAlone(t *testing.T) {
	s := newFarSite(t)
	d := newDialer(t, Config{Allow: allowLAN})
	l := s.listen(t, "tcp4", "10.2.0.9:8000")
	c, err := s.dial(d, "10.1.0.5:40000", "10.2.0.9:8000")
	if err != nil {
		t.Fatal(err)
	}
	defer c.Reset()
	a, err := l.Accept()
	if err != nil {
		t.Fatal(err)
	}
	defer a.Close()
	s.gateway.Do(func() {
		if destroyByDiag(c.LocalAddr(), c.RemoteAddr()) {
			t.Error("an established connection was destroyed")
		}
		if destroyByDiag(netip.MustParseAddrPort("10.1.0.5:1"), c.RemoteAddr()) {
			t.Error("a connection that is not there was destroyed")
		}
	})
	if _, err := c.Write([]byte("still here")); err != nil {
		t.Error(err)
	}
	if n, err := io.ReadFull(a, make([]byte, 10)); n != 10 {
		t.Error(n, err)
	}
}

func TestOutOfDescriptors(t *testing.T) {
	s := newFarSite(t)
	s.listen(t, "tcp4", "10.2.0.9:8000")
	d := newDialer(t, Config{Allow: allowLAN})
	var old unix.Rlimit
	if err := unix.Getrlimit(unix.RLIMIT_NOFILE, &old); err != nil {
		t.Fatal(err)
	}
	var err error
	s.gateway.Do(func() {
		// Low enough that no further descriptor fits; set from inside, after the namespace was entered.
		low := unix.Rlimit{Cur: 3, Max: old.Max}
		if serr := syscall.Setrlimit(unix.RLIMIT_NOFILE, &syscall.Rlimit{Cur: low.Cur, Max: low.Max}); serr != nil {
			err = serr
			return
		}
		_, err = d.DialAsClient(context.Background(), netip.MustParseAddrPort("10.1.0.5:40000"), netip.MustParseAddrPort("10.2.0.9:8000"), mustPrefixes("10.1.0.0/16"))
		if serr := syscall.Setrlimit(unix.RLIMIT_NOFILE, &syscall.Rlimit{Cur: old.Cur, Max: old.Max}); serr != nil {
			t.Error(serr)
		}
	})
	if ReasonOf(err) != Limit || !errors.Is(err, unix.EMFILE) {
		t.Errorf("got %v, want a limit", err)
	}
}
