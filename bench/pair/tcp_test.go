package pair_test

import (
	"crypto/sha256"
	wire "encoding/binary" // binary is the gateway under test
	"errors"
	"fmt"
	"io"
	"net"
	"strings"
	"sync"
	"sync/atomic"
	"syscall"
	"testing"
	"time"

	"golang.org/x/sync/errgroup"
	"golang.org/x/sys/unix"

	"wanpair/bench/lab"
)

// TestHalfCloseBothWays ends one direction long before the other, with data before and after.
func TestHalfCloseBothWays(t *testing.T) {
	t.Parallel()
	w := newWorld(t, testLink)
	conns := w.accepts(t, "7100")
	var seed uint64
	eachFamily(t, func(t *testing.T, fam family) {
		for _, size := range []int64{0, 1 << 20, 10 << 20} {
			for _, first := range []string{"client", "server"} {
				t.Run(fmt.Sprintf("%s ends first after %d bytes", first, size), func(t *testing.T) {
					c := w.connect(t, fam.server, "7100")
					s := next(t, conns)
					one, other := c, s
					if first == "server" {
						one, other = s, c
					}
					seed += 2
					var group errgroup.Group
					group.Go(func() error { return errors.Join(sendStream(one, seed, size), one.CloseWrite()) })
					if err := expectStream(other, seed, size); err != nil {
						t.Fatalf("first direction: %v", err)
					}
					must(t, group.Wait())
					group.Go(func() error { return errors.Join(sendStream(other, seed+1, size), other.CloseWrite()) })
					if err := expectStream(one, seed+1, size); err != nil {
						t.Fatalf("second direction: %v", err)
					}
					must(t, group.Wait())
				})
			}
		}
	})
	w.tunnelled()
}

// TestResets breaks connections from either end in every situation a connection can be in; the other end must see a reset and never a
// clean end.
func TestResets(t *testing.T) {
	t.Parallel()
	w := newWorld(t, testLink)
	conns := w.accepts(t, "7101")
	const much = 64 << 20 // more than all buffers on the way together
	situations := []struct {
		name string
		// prepare brings the connection into the situation and returns what waits at the other end for the connection's end.
		prepare func(t *testing.T, resetter, other *net.TCPConn) func() error
	}{
		{"idle", func(_ *testing.T, _, other *net.TCPConn) func() error { return readOn(other) }},
		{"while it sends", func(t *testing.T, resetter, other *net.TCPConn) func() error {
			go func() { _ = sendStream(resetter, 1, much) }() // until it is closed
			_, err := io.CopyN(io.Discard, other, 1<<20)
			must(t, err)
			return readOn(other)
		}},
		{"while it receives", func(t *testing.T, resetter, other *net.TCPConn) func() error {
			sent := make(chan error, 1)
			go func() { sent <- sendStream(other, 1, much) }()
			_, err := io.CopyN(io.Discard, resetter, 1<<20)
			must(t, err)
			return func() error { return <-sent }
		}},
		{"the other end does not read", func(t *testing.T, resetter, other *net.TCPConn) func() error {
			fill(t, resetter)
			return func() error { return awaitHangup(other) }
		}},
		{"it does not read itself", func(t *testing.T, _, other *net.TCPConn) func() error {
			fill(t, other)
			must(t, other.SetWriteDeadline(time.Now().Add(patience)))
			return func() error { return sendStream(other, 1, much) }
		}},
		{"after its own end", func(t *testing.T, resetter, other *net.TCPConn) func() error {
			must(t, resetter.CloseWrite())
			must(t, expectStream(other, 0, 0))
			return func() error { return awaitHangup(other) }
		}},
		{"after the other's end", func(t *testing.T, resetter, other *net.TCPConn) func() error {
			must(t, other.CloseWrite())
			must(t, expectStream(resetter, 0, 0))
			return readOn(other)
		}},
	}
	eachFamily(t, func(t *testing.T, fam family) {
		for _, by := range []string{"client", "server"} {
			for _, s := range situations {
				t.Run(by+" resets, "+s.name, func(t *testing.T) {
					c := w.connect(t, fam.server, "7101")
					resetter, other := c, next(t, conns)
					must(t, talk(resetter, other, 3))
					if by == "server" {
						resetter, other = other, resetter
					}
					witness := s.prepare(t, resetter, other)
					must(t, resetter.SetLinger(0))
					must(t, resetter.Close())
					if err := witness(); !isReset(err) {
						t.Errorf("the other end saw %v instead of a reset", err)
					}
				})
			}
		}
	})
	w.tunnelled()
}

func readOn(c *net.TCPConn) func() error {
	return func() error {
		_, err := io.Copy(io.Discard, c)
		if err == nil {
			return errors.New("a clean end")
		}
		return err
	}
}

// fill writes until nothing more fits for a while: all buffers on the way are full.
func fill(t *testing.T, c *net.TCPConn) {
	t.Helper()
	source := stream(2)
	p := make([]byte, 64<<10)
	for {
		_, _ = source.Read(p)
		must(t, c.SetWriteDeadline(time.Now().Add(300*time.Millisecond)))
		_, err := c.Write(p)
		if errors.Is(err, net.ErrClosed) || isReset(err) {
			t.Fatal(err)
		}
		if err != nil {
			must(t, c.SetWriteDeadline(time.Time{}))
			return
		}
	}
}

// awaitHangup waits, without reading or writing, until the connection is broken, and returns the socket's error.
func awaitHangup(c *net.TCPConn) error {
	raw, err := c.SyscallConn()
	if err != nil {
		return err
	}
	var found error
	err = raw.Read(func(fd uintptr) bool {
		fds := []unix.PollFd{{Fd: int32(fd)}}
		if _, err := unix.Poll(fds, 0); err != nil || fds[0].Revents&(unix.POLLERR|unix.POLLHUP) == 0 {
			return false
		}
		code, err := unix.GetsockoptInt(int(fd), unix.SOL_SOCKET, unix.SO_ERROR)
		found = errors.Join(err, unix.Errno(code))
		return true
	})
	return errors.Join(err, found)
}

// TestRefusedAndUnreachableServers: the client sees a reset within round trips, or, once that is known, the real answer.
func TestRefusedAndUnreachableServers(t *testing.T) {
	t.Parallel()
	w := newWorld(t, testLink)
	w.must(lab.Server, "nft", "add table inet firewall; add chain inet firewall input { type filter hook input priority 0; };"+
		"add rule inet firewall input tcp dport 7912 reject with icmpx admin-prohibited")
	w.serve("7913", echoServer)
	eachFamily(t, func(t *testing.T, fam family) {
		for _, c := range []struct {
			name, port string
			raw        []error // what the client sees on a bare link
		}{
			{"refused", "7911", []error{syscall.ECONNREFUSED}},
			{"prohibited", "7912", []error{syscall.EHOSTUNREACH, syscall.EACCES}},
		} {
			t.Run(c.name, func(t *testing.T) {
				conn, err := w.lab.Dial(w.ctx, lab.Client, "tcp", net.JoinHostPort(fam.server, c.port))
				if err == nil {
					defer conn.Close()
					must(t, conn.SetReadDeadline(time.Now().Add(patience)))
					_, err = conn.Read(make([]byte, 1))
				}
				ok := isReset(err)
				for _, e := range c.raw {
					ok = ok || errors.Is(err, e)
				}
				if !ok {
					t.Errorf("the client saw %v", err)
				}
			})
		}
		if err := w.echo(fam.server, "7913", patience); err != nil {
			t.Errorf("a server beside them: %v", err)
		}
	})
	if w.metric(t, w.Near, `wanpair_flows_total{outcome="refused"}`) < 4 {
		t.Error("the refusals are not counted")
	}
}

// TestKeepAliveOnBothEdges looks at the sockets of both gateways: a bare link would have none, but a gateway must not keep a flow of
// hosts that are gone.
func TestKeepAliveOnBothEdges(t *testing.T) {
	t.Parallel()
	w := newWorld(t, testLink)
	conns := w.accepts(t, "7102")
	eachFamily(t, func(t *testing.T, fam family) {
		c := w.connect(t, fam.server, "7102")
		s := next(t, conns)
		must(t, sendStream(c, 1, 10))
		_, err := io.ReadFull(s, make([]byte, 10))
		must(t, err)
		for _, node := range []lab.Node{lab.GatewayA, lab.GatewayB} {
			eventually(t, patience, "keep-alive on "+string(node), func() error {
				out := w.must(node, "ss", "-Htno", "state", "established")
				if !strings.Contains(out, ":7102") {
					return fmt.Errorf("no connection:\n%s", out)
				}
				for line := range strings.Lines(out) {
					if strings.Contains(line, c.LocalAddr().String()) && !strings.Contains(line, "timer:(keepalive,") {
						return fmt.Errorf("without keep-alive: %s", line)
					}
				}
				return nil
			})
		}
	})
}

// TestUrgentDataStaysInLine sends bytes out of band; they must arrive where they were in the stream.
func TestUrgentDataStaysInLine(t *testing.T) {
	t.Parallel()
	w := newWorld(t, testLink)
	conns := w.accepts(t, "7103")
	eachFamily(t, func(t *testing.T, fam family) {
		c := w.connect(t, fam.server, "7103")
		s := next(t, conns)
		for name, ends := range map[string][2]*net.TCPConn{"client": {c, s}, "server": {s, c}} {
			from, to := ends[0], ends[1]
			raw, err := from.SyscallConn()
			must(t, err)
			for _, part := range []struct {
				text  string
				flags int
			}{{"ab", 0}, {"c", unix.MSG_OOB}, {"de", 0}, {"fg", unix.MSG_OOB}, {"h", 0}} {
				must(t, raw.Control(func(fd uintptr) { err = unix.Send(int(fd), []byte(part.text), part.flags) }))
				must(t, err)
			}
			must(t, from.CloseWrite())
			got, err := io.ReadAll(to)
			if err != nil || string(got) != "abcdefgh" {
				t.Errorf("from the %s arrived %q, %v", name, got, err)
			}
		}
	})
	w.tunnelled()
}

// TestSimultaneousClose lets both ends send, end and read at the same time.
func TestSimultaneousClose(t *testing.T) {
	t.Parallel()
	w := newWorld(t, testLink)
	conns := w.accepts(t, "7104")
	eachFamily(t, func(t *testing.T, fam family) {
		for round := range uint64(20) {
			size := int64(round%3) * 50_000
			c := w.connect(t, fam.server, "7104")
			s := next(t, conns)
			var group errgroup.Group
			for i, end := range []*net.TCPConn{c, s} {
				group.Go(func() error { return errors.Join(sendStream(end, 2*round+uint64(i), size), end.CloseWrite()) })
				group.Go(func() error { return expectStream(end, 2*round+uint64(1-i), size) })
			}
			if err := group.Wait(); err != nil {
				t.Fatalf("round %d: %v", round, err)
			}
		}
	})
	w.tunnelled()
}

// TestStalledReadersDelayNobody leaves readers stalled with all buffers full; another transfer must not notice. Then they read on.
func TestStalledReadersDelayNobody(t *testing.T) {
	t.Parallel()
	w := newWorld(t, testLink)
	const size, stalled = 12 << 20, 6
	var seeds atomic.Uint64
	w.serve("7105", func(c *net.TCPConn) { // says which stream it sends
		defer c.Close()
		var head [8]byte
		seed := seeds.Add(1) + 1000
		wire.BigEndian.PutUint64(head[:], seed)
		_, _ = c.Write(head[:])
		_ = sendStream(c, seed, size)
	})
	begin := func(t *testing.T, host string) (*net.TCPConn, uint64) {
		c := w.connect(t, host, "7105")
		must(t, c.SetDeadline(time.Now().Add(3*patience)))
		var head [8]byte
		_, err := io.ReadFull(c, head[:])
		must(t, err)
		return c, wire.BigEndian.Uint64(head[:])
	}
	type reader struct {
		c    *net.TCPConn
		seed uint64
	}
	var waiting []reader
	for i := range stalled {
		c, seed := begin(t, families()[i%2].server)
		waiting = append(waiting, reader{c, seed})
	}
	eachFamily(t, func(t *testing.T, fam family) {
		c, seed := begin(t, fam.server)
		must(t, c.SetDeadline(time.Now().Add(patience)))
		start := time.Now()
		if err := expectStream(c, seed, size); err != nil {
			t.Errorf("beside %d stalled readers: %v", stalled, err)
		}
		t.Logf("%d MiB beside %d stalled readers: %v", size>>20, stalled, time.Since(start))
	})
	for i, r := range waiting {
		if err := expectStream(r.c, r.seed, size); err != nil {
			t.Errorf("reader %d after its stall: %v", i, err)
		}
	}
	w.tunnelled()
}

func TestZeroLengthConnections(t *testing.T) {
	t.Parallel()
	w := newWorld(t, testLink)
	conns := w.accepts(t, "7106")
	eachFamily(t, func(t *testing.T, fam family) {
		for range 50 {
			c := w.connect(t, fam.server, "7106")
			must(t, c.Close())
			if err := expectStream(next(t, conns), 0, 0); err != nil {
				t.Fatalf("the server: %v", err)
			}
		}
		for range 50 {
			c := w.connect(t, fam.server, "7106")
			must(t, next(t, conns).Close())
			if err := expectStream(c, 0, 0); err != nil {
				t.Fatalf("the client: %v", err)
			}
		}
	})
	if n := w.diverted(t); n < 100 { // a machine that stands still for a second lets some pass raw
		t.Errorf("%v of 200 connections went through the tunnel", n)
	}
}

// TestServerSpeaksFirst is how mail, FTP, SSH and MySQL begin.
func TestServerSpeaksFirst(t *testing.T) {
	t.Parallel()
	w := newWorld(t, testLink)
	w.serve("7107", func(c *net.TCPConn) {
		defer c.Close()
		fmt.Fprint(c, "220 ready\r\n")
		var line [6]byte
		if _, err := io.ReadFull(c, line[:]); err == nil && string(line[:]) == "QUIT\r\n" {
			fmt.Fprint(c, "221 bye\r\n")
		}
	})
	eachFamily(t, func(t *testing.T, fam family) {
		c := w.connect(t, fam.server, "7107")
		banner := make([]byte, len("220 ready\r\n"))
		_, err := io.ReadFull(c, banner)
		must(t, err)
		fmt.Fprint(c, "QUIT\r\n")
		rest, err := io.ReadAll(c)
		if err != nil || string(banner)+string(rest) != "220 ready\r\n221 bye\r\n" {
			t.Errorf("got %q, %q, %v", banner, rest, err)
		}
	})
	w.tunnelled()
}

// TestClientPortsUsedAgain uses the same four addresses and ports again at once, after each way a connection can end.
func TestClientPortsUsedAgain(t *testing.T) {
	t.Parallel()
	w := newWorld(t, testLink)
	w.must(lab.Client, "sysctl", "-qw", "net.ipv4.tcp_tw_reuse=1")
	conns := w.accepts(t, "7108")
	eachFamily(t, func(t *testing.T, fam family) {
		target := net.JoinHostPort(fam.server, "7108")
		for _, c := range []struct {
			name   string
			port   int
			rounds int
			end    func(client, server *net.TCPConn) error
			pause  time.Duration // the client's own kernel asks for
		}{
			{"the server ended first", 42001, 12, func(client, server *net.TCPConn) error {
				return errors.Join(server.Close(), expectStream(client, 0, 0), client.Close())
			}, 0},
			{"the client reset", 42002, 12, func(client, _ *net.TCPConn) error {
				return errors.Join(client.SetLinger(0), client.Close())
			}, 0},
			{"the server reset", 42003, 12, func(client, server *net.TCPConn) error {
				err := errors.Join(server.SetLinger(0), server.Close())
				if seen := readOn(client)(); !isReset(seen) {
					err = errors.Join(err, fmt.Errorf("instead of a reset: %w", seen))
				}
				return errors.Join(err, client.Close())
			}, 0},
			{"the client ended first", 42004, 2, func(client, server *net.TCPConn) error {
				return errors.Join(client.CloseWrite(), expectStream(server, 0, 0), server.Close(), expectStream(client, 0, 0), client.Close())
			}, 1100 * time.Millisecond},
		} {
			t.Run(c.name, func(t *testing.T) {
				for round := range c.rounds {
					client, err := w.dialFrom(lab.Client, addr(fam.client, c.port), target, patience)
					if err != nil {
						t.Fatalf("round %d: %v", round, err)
					}
					server := next(t, conns)
					if got := server.RemoteAddr().String(); got != client.LocalAddr().String() {
						t.Fatalf("round %d: the server sees %s", round, got)
					}
					if err := talk(client, server, uint64(round)); err != nil {
						t.Fatalf("round %d: %v", round, err)
					}
					if err := c.end(client, server); err != nil {
						t.Fatalf("round %d: end: %v", round, err)
					}
					server.Close()
					time.Sleep(c.pause) // within it the client's kernel refuses its own port
				}
			})
		}
	})
	w.tunnelled()
}

// talk sends a few bytes each way.
func talk(a, b *net.TCPConn, seed uint64) error {
	const size = 1000
	for _, way := range [][2]*net.TCPConn{{a, b}, {b, a}} {
		if err := sendStream(way[0], seed, size); err != nil {
			return err
		}
		if err := expectStream(io.LimitReader(way[1], size), seed, size); err != nil {
			return err
		}
	}
	return nil
}

// TestClientPortsThatClash: one port to many servers is no clash; a port that somebody else holds at the far gateway is one, and is said.
func TestClientPortsThatClash(t *testing.T) {
	t.Parallel()
	w := newWorld(t, testLink)
	one, other := w.accepts(t, "7109"), w.accepts(t, "7110")
	eachFamily(t, func(t *testing.T, fam family) {
		client := addr(fam.client, 42010)
		var ends []*net.TCPConn
		for port, conns := range map[string]<-chan *net.TCPConn{"7109": one, "7110": other} {
			c, err := w.dialFrom(lab.Client, client, net.JoinHostPort(fam.server, port), patience)
			must(t, err)
			defer c.Close()
			ends = append(ends, c, next(t, conns))
		}
		must(t, talk(ends[0], ends[1], 1))
		must(t, talk(ends[2], ends[3], 2))
		must(t, talk(ends[0], ends[1], 3))

		// Somebody on the far gateway holds the client's very address and port.
		taken := addr(fam.client, 42011)
		var squatter int
		must(t, w.lab.Do(lab.GatewayB, func() (err error) {
			squatter, err = squat(taken.Addr().Is4(), taken.Port(), taken.Addr().AsSlice())
			return err
		}))
		defer unix.Close(squatter)
		c, err := w.dialFrom(lab.Client, taken, net.JoinHostPort(fam.server, "7109"), patience)
		if err == nil {
			defer c.Close()
			_, err = c.Read(make([]byte, 1))
		}
		if !isReset(err) {
			t.Errorf("with its port taken at the far side the client saw %v instead of a reset", err)
		}
		logContains(t, w.Far, "address already in use")
		if err := w.echoTo(fam, one); err != nil {
			t.Errorf("the next connection: %v", err)
		}
	})
}

// squat binds and listens on an address that is not this host's, without letting others share it.
func squat(is4 bool, port uint16, host []byte) (int, error) {
	domain, level, transparent := unix.AF_INET6, unix.SOL_IPV6, unix.IPV6_TRANSPARENT
	var sa unix.Sockaddr = &unix.SockaddrInet6{Port: int(port), Addr: [16]byte(append(host, make([]byte, 16)...)[:16])}
	if is4 {
		domain, level, transparent = unix.AF_INET, unix.SOL_IP, unix.IP_TRANSPARENT
		sa = &unix.SockaddrInet4{Port: int(port), Addr: [4]byte(host)}
	}
	fd, err := unix.Socket(domain, unix.SOCK_STREAM|unix.SOCK_CLOEXEC, 0)
	if err != nil {
		return -1, err
	}
	err = unix.SetsockoptInt(fd, level, transparent, 1)
	if err == nil {
		err = unix.Bind(fd, sa)
	}
	if err == nil {
		err = unix.Listen(fd, 1)
	}
	if err != nil {
		return -1, errors.Join(err, unix.Close(fd))
	}
	return fd, nil
}

// echoTo makes one connection from any port to a server and talks.
func (w *world) echoTo(fam family, conns <-chan *net.TCPConn) error {
	c, err := w.lab.Dial(w.ctx, lab.Client, "tcp", net.JoinHostPort(fam.server, "7109"))
	if err != nil {
		return err
	}
	defer c.Close()
	if err := c.SetDeadline(time.Now().Add(patience)); err != nil {
		return err
	}
	select {
	case s := <-conns:
		defer s.Close()
		return talk(c.(*net.TCPConn), s, 9)
	case <-time.After(patience):
		return errors.New("the server got no connection")
	}
}

// TestGatewaysOwnAddresses: what runs on the gateways themselves stays reachable from the client's site, by every address of theirs.
func TestGatewaysOwnAddresses(t *testing.T) {
	t.Parallel()
	w := newWorld(t, testLink)
	for _, n := range []lab.Node{lab.GatewayA, lab.GatewayB} {
		l, err := w.lab.Listen(w.ctx, n, ":7022")
		must(t, err)
		var group sync.WaitGroup
		group.Go(func() {
			for {
				c, err := l.AcceptTCP()
				if err != nil {
					return
				}
				group.Go(func() { echoServer(c) })
			}
		})
		t.Cleanup(func() { l.Close(); group.Wait() })
	}
	eachFamily(t, func(t *testing.T, fam family) {
		for _, host := range []string{fam.gatewayALAN, fam.gatewayBLAN} {
			if err := w.echo(host, "7022", 5*time.Second); err != nil {
				t.Errorf("%s: %v", host, err)
			}
		}
	})
	if n := w.passed(t, w.Near, "own_address"); n < 4 {
		t.Errorf("%v connections counted as to a gateway's own address, want 4", n)
	}
	if n := w.diverted(t); n != 0 {
		t.Errorf("%v of them were carried through the tunnel", n)
	}
}

// TestClientPortsBelow1024 is how rsh, NFS and some printers connect.
func TestClientPortsBelow1024(t *testing.T) {
	t.Parallel()
	w := newWorld(t, testLink)
	conns := w.accepts(t, "7111")
	eachFamily(t, func(t *testing.T, fam family) {
		c, err := w.dialFrom(lab.Client, addr(fam.client, 721), net.JoinHostPort(fam.server, "7111"), patience)
		must(t, err)
		defer c.Close()
		s := next(t, conns)
		must(t, talk(c, s, 1))
		if got := s.RemoteAddr().(*net.TCPAddr).Port; got != 721 {
			t.Errorf("the server sees port %d", got)
		}
	})
	w.tunnelled()
}

// TestThousandsOfShortConnections checks every byte of both directions of each.
func TestThousandsOfShortConnections(t *testing.T) {
	t.Parallel()
	w := newWorld(t, testLink)
	// A request is a number and as many bytes of that stream as it says; the reply is the hash of them and a stream of its own.
	const headBytes = 12
	requestSize := func(id uint64) int64 { return int64(id * 7919 % 20_000) }
	replySize := func(id uint64) int64 { return int64(id * 104_729 % 30_000) }
	const replySeed = 1 << 40
	w.serve("7112", func(c *net.TCPConn) {
		defer c.Close()
		_ = c.SetDeadline(time.Now().Add(patience))
		var head [headBytes]byte
		if _, err := io.ReadFull(c, head[:]); err != nil {
			return
		}
		id, n := wire.BigEndian.Uint64(head[:]), wire.BigEndian.Uint32(head[8:])
		h := sha256.New()
		if _, err := io.CopyN(h, c, int64(n)); err != nil {
			return
		}
		_, _ = c.Write(h.Sum(nil))
		_ = sendStream(c, replySeed+id, replySize(id))
	})
	exchange := func(id uint64) error {
		fam := families()[id%2]
		conn, err := w.lab.Dial(w.ctx, lab.Client, "tcp", net.JoinHostPort(fam.server, "7112"))
		if err != nil {
			return err
		}
		defer conn.Close()
		if err := conn.SetDeadline(time.Now().Add(patience)); err != nil {
			return err
		}
		n := requestSize(id)
		head := wire.BigEndian.AppendUint32(wire.BigEndian.AppendUint64(nil, id), uint32(n))
		h := sha256.New()
		if _, err := conn.Write(head); err != nil {
			return err
		}
		if err := sendStream(io.MultiWriter(conn, h), id, n); err != nil {
			return err
		}
		var got [sha256.Size]byte
		if _, err := io.ReadFull(conn, got[:]); err != nil {
			return err
		}
		if got != [sha256.Size]byte(h.Sum(nil)) {
			return errors.New("the server got other bytes than were sent")
		}
		return expectStream(conn, replySeed+id, replySize(id))
	}
	const count, workers = 2000, 32
	var group errgroup.Group
	group.SetLimit(workers)
	start := time.Now()
	for id := range uint64(count) {
		group.Go(func() error {
			if err := exchange(id); err != nil {
				return fmt.Errorf("connection %d: %w", id, err)
			}
			return nil
		})
	}
	if err := group.Wait(); err != nil {
		t.Error(err)
	}
	t.Logf("%d connections in %v", count, time.Since(start))
	eventually(t, patience, "all counted as ended cleanly", func() error {
		raw := 0.0 // a machine that stands still for a second lets some pass
		for _, n := range w.passedByReason(t, w.Near) {
			raw += n
		}
		if n := w.metric(t, w.Near, `wanpair_flows_total{outcome="clean"}`); n < count/2 || n+raw < count {
			return fmt.Errorf("%v, and %v raw", n, raw)
		}
		return nil
	})
}

// TestDirectionsNeverMix keeps both directions of several flows full at the same time.
func TestDirectionsNeverMix(t *testing.T) {
	t.Parallel()
	w := newWorld(t, testLink)
	conns := w.accepts(t, "7113")
	const size, flows = 4 << 20, 4
	var group errgroup.Group
	for i := range uint64(flows) {
		c := w.connect(t, families()[i%2].server, "7113")
		s := next(t, conns)
		for side, end := range []*net.TCPConn{c, s} {
			group.Go(func() error { return errors.Join(sendStream(end, 100+2*i+uint64(side), size), end.CloseWrite()) })
			group.Go(func() error { return expectStream(end, 100+2*i+uint64(1-side), size) })
		}
	}
	must(t, group.Wait())
	w.tunnelled()
}
