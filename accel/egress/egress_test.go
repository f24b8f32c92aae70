package egress

import (
	"context"
	"errors"
	"fmt"
	"net"
	"net/netip"
	"os"
	"syscall"
	"testing"
	"time"

	"golang.org/x/sys/unix"
	"pgregory.net/rapid"
)

func mustPrefixes(ss ...string) []netip.Prefix {
	var out []netip.Prefix
	for _, s := range ss {
		out = append(out, netip.MustParsePrefix(s))
	}
	return out
}

func newDialer(t *testing.T, cfg Config) *Dialer {
	t.Helper()
	d, err := New(cfg)
	if err != nil {
		t.Fatal(err)
	}
	return d
}

func TestNewRefuses(t *testing.T) {
	for _, cfg := range []Config{
		{Allow: []netip.Prefix{{}}},
		{Allow: []netip.Prefix{netip.MustParsePrefix("::ffff:0:0/90")}},
		{ConnectTimeout: -1},
	} {
		if d, err := New(cfg); err == nil {
			t.Errorf("%+v was taken: %+v", cfg, d)
		}
	}
}

func TestAllowed(t *testing.T) {
	d := newDialer(t, Config{
		Allow: mustPrefixes("10.2.0.0/16", "fd00:2::/64", "::ffff:10.3.0.0/112", "192.0.2.77/24"),
		Deny:  []netip.Addr{netip.MustParseAddr("10.2.0.1"), netip.MustParseAddr("::ffff:10.2.0.2")},
	})
	for _, tt := range []struct {
		target string
		want   error
	}{
		{"10.2.3.4:80", nil},
		{"[::ffff:10.2.3.4]:80", nil},
		{"10.3.255.255:1", nil},
		{"192.0.2.1:1", nil},
		{"[fd00:2::9]:65535", nil},
		{"10.2.3.4:0", ErrBadAddress},
		{"10.4.0.1:80", ErrTargetNotAllowed},
		{"[fd00:3::9]:80", ErrTargetNotAllowed},
		{"[fd00:2::9%eth0]:80", ErrTargetNotAllowed},
		{"127.0.0.1:80", ErrTargetNotAllowed},
		{"10.2.0.1:80", ErrOwnAddress},
		{"10.2.0.2:80", ErrOwnAddress},
	} {
		err := d.Allowed(netip.MustParseAddrPort(tt.target))
		if !errors.Is(err, tt.want) || (err != nil) != (tt.want != nil) {
			t.Errorf("%s: got %v, want %v", tt.target, err, tt.want)
		}
		if err != nil && ReasonOf(err) != Denied {
			t.Errorf("%s: reason %v, want denied", tt.target, ReasonOf(err))
		}
	}
	if err := d.Allowed(netip.AddrPort{}); !errors.Is(err, ErrBadAddress) {
		t.Errorf("zero address: %v", err)
	}
}

// What DialAsClient refuses it refuses before a socket exists, so no root is needed to see it.
func TestDialAsClientDenies(t *testing.T) {
	d := newDialer(t, Config{Allow: mustPrefixes("10.2.0.0/16", "fd00:2::/64"), destroy: never})
	sources := mustPrefixes("10.1.0.0/16", "fd00:1::/64")
	for _, tt := range []struct {
		client, target string
		want           error
	}{
		{"10.9.0.1:4000", "10.2.0.9:80", ErrSourceNotAllowed},
		{"10.2.0.1:4000", "10.2.0.9:80", ErrSourceNotAllowed},
		{"[fd00:1::1%x]:4000", "[fd00:2::9]:80", ErrSourceNotAllowed},
		{"10.1.0.1:0", "10.2.0.9:80", ErrBadAddress},
		{"10.1.0.1:4000", "[fd00:2::9]:80", ErrBadAddress},
		{"10.1.0.1:4000", "10.3.0.9:80", ErrTargetNotAllowed},
	} {
		_, err := d.DialAsClient(t.Context(), netip.MustParseAddrPort(tt.client), netip.MustParseAddrPort(tt.target), sources)
		if !errors.Is(err, tt.want) || ReasonOf(err) != Denied {
			t.Errorf("%s to %s: got %v, want %v", tt.client, tt.target, err, tt.want)
		}
	}
	if _, err := d.DialAsClient(t.Context(), netip.MustParseAddrPort("10.1.0.1:4000"), netip.MustParseAddrPort("10.2.0.9:80"), []netip.Prefix{{}}); ReasonOf(err) != Denied {
		t.Errorf("invalid sources: %v", err)
	}
}

func never(netip.AddrPort, netip.AddrPort) bool { return false }

// A target that is allowed lies in an allowed prefix, whatever its spelling.
func TestAllowedProperty(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		addr := netip.AddrFrom4([4]byte(rapid.SliceOfN(rapid.Byte(), 4, 4).Draw(t, "prefix")))
		p := netip.PrefixFrom(addr, rapid.IntRange(0, 32).Draw(t, "bits"))
		target := netip.AddrFrom4([4]byte(rapid.SliceOfN(rapid.Byte(), 4, 4).Draw(t, "target")))
		d, err := New(Config{Allow: []netip.Prefix{p}})
		if err != nil {
			t.Fatal(err)
		}
		mapped := netip.AddrFrom16(target.As16())
		for _, a := range []netip.Addr{target, mapped} {
			if got, want := d.Allowed(netip.AddrPortFrom(a, 80)) == nil, p.Contains(target); got != want {
				t.Fatalf("%v in %v: got %v, want %v", a, p, got, want)
			}
		}
	})
}

func TestDialOwn(t *testing.T) {
	l, err := (&net.ListenConfig{}).Listen(t.Context(), "tcp4", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer l.Close()
	_, port, _ := net.SplitHostPort(l.Addr().String())
	closed, err := (&net.ListenConfig{}).Listen(t.Context(), "tcp4", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	refused := closed.Addr().String()
	closed.Close()

	d := newDialer(t, Config{Allow: mustPrefixes("127.0.0.0/8"), Deny: []netip.Addr{netip.MustParseAddr("127.0.0.1")}, Mark: 1 << 25})
	for _, target := range []string{l.Addr().String(), "localhost:" + port, "[::ffff:127.0.0.1]:" + port} {
		c, err := d.DialOwn(t.Context(), target)
		if err != nil {
			t.Errorf("%s: %v", target, err)
			continue
		}
		s, err := l.Accept()
		if err != nil {
			t.Fatal(err)
		}
		if _, err := c.Write([]byte("x")); err != nil {
			t.Error(err)
		}
		c.Reset()
		s.Close()
	}
	for _, tt := range []struct {
		target string
		reason Reason
		want   error
	}{
		{refused, Refused, syscall.ECONNREFUSED},
		{"10.0.0.1:80", Denied, ErrTargetNotAllowed},
		{"[::1]:80", Denied, ErrTargetNotAllowed},
		{"localhost", Denied, ErrBadAddress},
		{"localhost:0", Denied, ErrBadAddress},
		{"localhost:65536", Denied, ErrBadAddress},
		{"localhost:http", Denied, ErrBadAddress},
		{":80", Denied, ErrBadAddress},
		{"", Denied, ErrBadAddress},
	} {
		c, err := d.DialOwn(t.Context(), tt.target)
		if err == nil {
			c.Reset()
		}
		if !errors.Is(err, tt.want) || ReasonOf(err) != tt.reason {
			t.Errorf("%q: got %v, want %v", tt.target, err, tt.want)
		}
	}
}

func TestDialOwnUnknownName(t *testing.T) {
	// A resolver whose server refuses.
	r := &net.Resolver{PreferGo: true, Dial: func(context.Context, string, string) (net.Conn, error) { return nil, syscall.ECONNREFUSED }}
	d := newDialer(t, Config{Allow: mustPrefixes("0.0.0.0/0", "::/0"), Resolver: r})
	if _, err := d.DialOwn(t.Context(), "db.example.:5432"); ReasonOf(err) != Unreachable {
		t.Errorf("got %v, want unreachable", err)
	}
}

func TestDialGivesUp(t *testing.T) {
	// A listener whose accept queue is full answers no further SYN.
	fd, err := unix.Socket(unix.AF_INET, unix.SOCK_STREAM, 0)
	if err != nil {
		t.Fatal(err)
	}
	defer unix.Close(fd)
	if err := unix.Bind(fd, &unix.SockaddrInet4{Addr: [4]byte{127, 0, 0, 1}}); err != nil {
		t.Fatal(err)
	}
	if err := unix.Listen(fd, 0); err != nil {
		t.Fatal(err)
	}
	sa, err := unix.Getsockname(fd)
	if err != nil {
		t.Fatal(err)
	}
	target := fmt.Sprintf("127.0.0.1:%d", sa.(*unix.SockaddrInet4).Port)
	d := newDialer(t, Config{Allow: mustPrefixes("127.0.0.0/8"), ConnectTimeout: 200 * time.Millisecond})
	for range 4 {
		c, err := d.DialOwn(t.Context(), target)
		if err == nil {
			defer c.Reset()
			continue
		}
		if ReasonOf(err) != Unreachable {
			t.Errorf("got %v, want unreachable", err)
		}
		return
	}
	t.Error("a full accept queue still took connections")
}

func TestClassify(t *testing.T) {
	sys := func(call string, errno syscall.Errno) error {
		return &net.OpError{Op: "dial", Net: "tcp", Err: os.NewSyscallError(call, errno)}
	}
	for _, tt := range []struct {
		err           error
		asClient, own Reason
	}{
		{sys("connect", unix.ECONNREFUSED), Refused, Refused},
		{sys("connect", unix.ECONNRESET), Refused, Refused},
		{sys("connect", unix.EHOSTUNREACH), Unreachable, Unreachable},
		{sys("connect", unix.ENETUNREACH), Unreachable, Unreachable},
		{sys("connect", unix.ETIMEDOUT), Unreachable, Unreachable},
		{sys("connect", unix.EACCES), Unreachable, Unreachable},
		{sys("connect", unix.EPERM), Unreachable, Unreachable},
		{sys("connect", unix.EADDRNOTAVAIL), SourceClash, Limit},
		{sys("bind", unix.EADDRINUSE), SourceClash, Limit},
		{sys("bind", unix.EACCES), SourceClash, SourceClash},
		{sys("socket", unix.EMFILE), Limit, Limit},
		{sys("socket", unix.ENFILE), Limit, Limit},
		{sys("connect", unix.ENOBUFS), Limit, Limit},
		{&net.OpError{Op: "dial", Err: os.ErrDeadlineExceeded}, Unreachable, Unreachable},
		{fmt.Errorf("dial: %w", context.DeadlineExceeded), Unreachable, Unreachable},
		{&net.DNSError{Err: "no such host", IsNotFound: true}, Unreachable, Unreachable},
		{fmt.Errorf("set IP_TRANSPARENT: %w", unix.EPERM), Failed, Failed},
		{errors.New("other"), Failed, Failed},
	} {
		if got := classify(tt.err, true); got != tt.asClient {
			t.Errorf("%v as the client: got %v, want %v", tt.err, got, tt.asClient)
		}
		if got := classify(tt.err, false); got != tt.own {
			t.Errorf("%v as ourselves: got %v, want %v", tt.err, got, tt.own)
		}
	}
}

func TestErrorText(t *testing.T) {
	err := error(&Error{Reason: Refused, Target: "10.2.0.9:80", Source: "10.1.0.5:4000", Err: syscall.ECONNREFUSED})
	if got, want := err.Error(), "egress: dial 10.2.0.9:80 as 10.1.0.5:4000: refused: connection refused"; got != want {
		t.Errorf("got %q, want %q", got, want)
	}
	if ReasonOf(fmt.Errorf("open: %w", err)) != Refused || ReasonOf(errors.New("x")) != Failed || ReasonOf(nil) != Failed {
		t.Error("ReasonOf does not find the reason")
	}
	if Reason(99).String() != "reason 99" || Limit.String() != "limit" {
		t.Error("texts of reasons")
	}
}
