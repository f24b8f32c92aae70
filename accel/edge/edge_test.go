package edge

import (
	"bytes"
	"context"
	"errors"
	"io"
	"math/rand/v2"
	"net"
	"runtime"
	"syscall"
	"testing"
	"time"

	"golang.org/x/sys/unix"
)

// pair gives an edge and the plain TCP socket of its other end. The edge's buffers are small, so that a writer blocks soon.
func pair(t testing.TB, network string) (*Conn, *net.TCPConn) {
	t.Helper()
	addr := map[string]string{"tcp4": "127.0.0.1:0", "tcp6": "[::1]:0"}[network]
	lc := net.ListenConfig{KeepAlive: -1, Control: func(_, _ string, rc syscall.RawConn) error {
		var err error
		if cerr := rc.Control(func(fd uintptr) { err = Prepare(int(fd), Options{}) }); cerr != nil {
			return cerr
		}
		return err
	}}
	lc.SetMultipathTCP(false)
	l, err := lc.Listen(context.Background(), network, addr)
	if err != nil {
		t.Fatal(err)
	}
	defer l.Close()
	c, err := (&net.Dialer{}).DialContext(context.Background(), network, l.Addr().String())
	if err != nil {
		t.Fatal(err)
	}
	a, err := l.Accept()
	if err != nil {
		t.Fatal(err)
	}
	e, err := New(a.(*net.TCPConn), Options{})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { e.Reset(); c.Close() })
	return e, c.(*net.TCPConn)
}

func reset(t testing.TB, c *net.TCPConn) {
	t.Helper()
	if err := c.SetLinger(0); err != nil {
		t.Fatal(err)
	}
	if err := c.Close(); err != nil {
		t.Fatal(err)
	}
}

// readAll reads an edge as a pump does, until its end.
func readAll(e *Conn, bufSize int) ([]byte, error) {
	var all []byte
	buf := make([]byte, bufSize)
	for {
		if err := e.WaitReadable(); err != nil {
			return all, err
		}
		n, err := e.ReadAvailable(buf)
		all = append(all, buf[:n]...)
		if err != nil {
			return all, err
		}
	}
}

func option(t *testing.T, c syscall.Conn, level, name int) int {
	t.Helper()
	rc, err := c.SyscallConn()
	if err != nil {
		t.Fatal(err)
	}
	var v int
	var inner error
	if err := rc.Control(func(fd uintptr) { v, inner = unix.GetsockoptInt(int(fd), level, name) }); err != nil || inner != nil {
		t.Fatal(err, inner)
	}
	return v
}

func TestAcceptedSocketsInheritTheListenersOptions(t *testing.T) {
	lc := net.ListenConfig{KeepAlive: -1, Control: func(_, _ string, rc syscall.RawConn) error {
		var err error
		if cerr := rc.Control(func(fd uintptr) {
			err = Prepare(int(fd), Options{KeepAliveIdle: 90 * time.Second, KeepAliveInterval: 1500 * time.Millisecond, KeepAliveCount: 3})
		}); cerr != nil {
			return cerr
		}
		return err
	}}
	lc.SetMultipathTCP(false)
	l, err := lc.Listen(context.Background(), "tcp4", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer l.Close()
	c, err := (&net.Dialer{}).DialContext(t.Context(), "tcp4", l.Addr().String())
	if err != nil {
		t.Fatal(err)
	}
	defer c.Close()
	a, err := l.Accept()
	if err != nil {
		t.Fatal(err)
	}
	defer a.Close()
	tcp := a.(*net.TCPConn)
	for _, tt := range []struct {
		name             string
		level, opt, want int
	}{
		{"urgent in line", unix.SOL_SOCKET, unix.SO_OOBINLINE, 1},
		{"no delay", unix.IPPROTO_TCP, unix.TCP_NODELAY, 1},
		{"keep-alive", unix.SOL_SOCKET, unix.SO_KEEPALIVE, 1},
		{"idle", unix.IPPROTO_TCP, unix.TCP_KEEPIDLE, 90},
		{"interval, rounded up", unix.IPPROTO_TCP, unix.TCP_KEEPINTVL, 2},
		{"count", unix.IPPROTO_TCP, unix.TCP_KEEPCNT, 3},
	} {
		if got := option(t, tcp, tt.level, tt.opt); got != tt.want {
			t.Errorf("%s: got %d, want %d", tt.name, got, tt.want)
		}
	}
	if mp, err := tcp.MultipathTCP(); err != nil || mp {
		t.Errorf("multipath TCP: got %v, %v; want off", mp, err)
	}
	// Linger was inherited: a plain close is a reset.
	a.Close()
	if _, err := c.Read(make([]byte, 1)); !errors.Is(err, syscall.ECONNRESET) {
		t.Errorf("read after the accepted socket was closed: got %v, want a reset", err)
	}
}

func TestKeepAliveTiming(t *testing.T) {
	for _, tt := range []struct {
		opt                   Options
		idle, interval, count int
	}{
		{Options{}, 120, 30, 8},
		{Options{KeepAliveIdle: -1}, 0, 30, 8},
		{Options{KeepAliveIdle: time.Millisecond, KeepAliveInterval: time.Nanosecond, KeepAliveCount: 1}, 1, 1, 1},
		{Options{KeepAliveInterval: -5, KeepAliveCount: -5}, 120, 1, 8},
	} {
		idle, interval, count := tt.opt.timing()
		if idle != tt.idle || interval != tt.interval || count != tt.count {
			t.Errorf("%+v: got %d %d %d, want %d %d %d", tt.opt, idle, interval, count, tt.idle, tt.interval, tt.count)
		}
	}
}

func TestKeepAliveOff(t *testing.T) {
	e, _ := pair(t, "tcp4")
	e2, err := New(e.tcp, Options{KeepAliveIdle: -1})
	if err != nil {
		t.Fatal(err)
	}
	if got := option(t, e2.tcp, unix.SOL_SOCKET, unix.SO_KEEPALIVE); got != 0 {
		t.Errorf("keep-alive: got %d, want 0", got)
	}
}

func TestHalfClose(t *testing.T) {
	for _, network := range []string{"tcp4", "tcp6"} {
		for _, size := range []int{0, 1, 1 << 20} {
			e, c := pair(t, network)
			request := bytes.Repeat([]byte("request "), size/8+1)[:size]
			go func() {
				_, _ = c.Write(request)
				_ = c.CloseWrite()
			}()
			got, err := readAll(e, 4096)
			if !errors.Is(err, io.EOF) || !bytes.Equal(got, request) {
				t.Fatalf("%s %d: read %d bytes, %v; want all and a clean end", network, size, len(got), err)
			}
			if n, err := e.ReadAvailable(make([]byte, 8)); n != 0 || !errors.Is(err, io.EOF) {
				t.Fatalf("second read after the end: %d, %v", n, err)
			}
			// The late reply.
			reply := make(chan error, 1)
			go func() {
				all, err := io.ReadAll(c)
				if err == nil && !bytes.Equal(all, request) {
					err = errors.New("reply differs")
				}
				reply <- err
			}()
			if n, err := e.Write(request); n != size || err != nil {
				t.Fatalf("write: %d, %v", n, err)
			}
			if err := e.CloseWrite(); err != nil {
				t.Fatal(err)
			}
			if err := e.Finish(); err != nil {
				t.Fatal(err)
			}
			e.Reset() // does nothing any more
			if err := <-reply; err != nil {
				t.Fatalf("%s %d: reply: %v", network, size, err)
			}
		}
	}
}

func TestEndAfterOwnEndIsClean(t *testing.T) {
	e, c := pair(t, "tcp4")
	if err := e.CloseWrite(); err != nil {
		t.Fatal(err)
	}
	if _, err := io.ReadAll(c); err != nil {
		t.Fatal(err)
	}
	_, _ = c.Write([]byte("last words"))
	c.Close()
	got, err := readAll(e, 4)
	if !errors.Is(err, io.EOF) || string(got) != "last words" {
		t.Fatalf("got %q, %v", got, err)
	}
	if err := e.WaitHangup(); err != nil {
		t.Errorf("hangup after two clean ends: %v", err)
	}
}

// TestBothEndAtOnce: the other end's FIN, ours, and the end of the connection come so close together that the reader sees them in any order.
func TestBothEndAtOnce(t *testing.T) {
	for range 500 {
		e, c := pair(t, "tcp4")
		ended := make(chan error, 2)
		go func() { ended <- c.CloseWrite() }()
		go func() { ended <- e.CloseWrite() }()
		if _, err := readAll(e, 4); !errors.Is(err, io.EOF) {
			t.Fatalf("the reader saw %v", err)
		}
		for range 2 {
			if err := <-ended; err != nil {
				t.Fatal(err)
			}
		}
	}
}

// TestBrokenWhileNobodyReads: a connection with unread data lives, ends in order, or is reset, and only the last is broken.
func TestBrokenWhileNobodyReads(t *testing.T) {
	for name, c := range map[string]struct {
		happens func(t *testing.T, e *Conn, c *net.TCPConn)
		broken  bool
	}{
		"lives":              {func(*testing.T, *Conn, *net.TCPConn) {}, false},
		"other end is over":  {func(_ *testing.T, _ *Conn, c *net.TCPConn) { _ = c.CloseWrite() }, false},
		"both ends are over": {func(_ *testing.T, e *Conn, c *net.TCPConn) { _ = c.CloseWrite(); _ = e.CloseWrite() }, false},
		"reset":              {func(t *testing.T, _ *Conn, c *net.TCPConn) { reset(t, c) }, true},
		"reset after a FIN":  {func(t *testing.T, _ *Conn, c *net.TCPConn) { _ = c.CloseWrite(); reset(t, c) }, true},
		"closed by us":       {func(_ *testing.T, e *Conn, _ *net.TCPConn) { e.Reset() }, false},
	} {
		t.Run(name, func(t *testing.T) {
			e, other := pair(t, "tcp4")
			_, _ = other.Write([]byte("unread"))
			if err := e.WaitReadable(); err != nil {
				t.Fatal(err)
			}
			c.happens(t, e, other)
			// On loopback what the other end did has arrived when its call returns.
			if err := e.Broken(); (err != nil) != c.broken {
				t.Errorf("broken: %v", err)
			}
			if c.broken {
				if _, err := readAll(e, 100); errors.Is(err, io.EOF) {
					t.Error("afterwards a read calls it a clean end")
				}
			}
		})
	}
}

func TestResetIsNoEnd(t *testing.T) {
	t.Run("met by the reader", func(t *testing.T) {
		e, c := pair(t, "tcp4")
		reset(t, c)
		for range 3 {
			if _, err := readAll(e, 64); !errors.Is(err, syscall.ECONNRESET) {
				t.Fatalf("got %v, want a reset", err)
			}
		}
		if _, err := e.Write([]byte("x")); err == nil {
			t.Error("write after the reset succeeded")
		}
	})
	t.Run("after our own end", func(t *testing.T) {
		e, c := pair(t, "tcp4")
		if err := e.CloseWrite(); err != nil {
			t.Fatal(err)
		}
		_, _ = io.ReadAll(c)
		reset(t, c)
		if _, err := readAll(e, 64); !errors.Is(err, syscall.ECONNRESET) {
			t.Fatalf("got %v, want a reset", err)
		}
	})
	t.Run("met by the writer first", func(t *testing.T) {
		e, c := pair(t, "tcp4")
		reset(t, c)
		if err := e.WaitReadable(); err != nil {
			t.Fatal(err)
		}
		if _, err := e.Write([]byte("x")); !errors.Is(err, syscall.ECONNRESET) {
			t.Fatalf("write: got %v, want a reset", err)
		}
		// The kernel says end of file now.
		if n, err := rawRead(e); n != 0 || err != nil {
			t.Fatalf("the kernel was expected to answer end of file, got %d, %v", n, err)
		}
		if _, err := e.ReadAvailable(make([]byte, 8)); !errors.Is(err, syscall.ECONNRESET) {
			t.Fatalf("read: got %v, want the reset", err)
		}
	})
	t.Run("swallowed by somebody", func(t *testing.T) {
		e, c := pair(t, "tcp4")
		reset(t, c)
		if err := e.WaitReadable(); err != nil {
			t.Fatal(err)
		}
		if got := option(t, e.tcp, unix.SOL_SOCKET, unix.SO_ERROR); got != int(unix.ECONNRESET) {
			t.Fatalf("SO_ERROR: got %d", got)
		}
		if _, err := e.ReadAvailable(make([]byte, 8)); !errors.Is(err, ErrAborted) {
			t.Fatalf("read: got %v, want %v", err, ErrAborted)
		}
	})
	t.Run("after data", func(t *testing.T) {
		e, c := pair(t, "tcp4")
		if _, err := c.Write([]byte("data")); err != nil {
			t.Fatal(err)
		}
		reset(t, c)
		got, err := readAll(e, 64)
		if !errors.Is(err, syscall.ECONNRESET) {
			t.Fatalf("got %q, %v; want the reset", got, err)
		}
	})
	t.Run("after a clean end", func(t *testing.T) {
		// FIN, then reset: the first direction ended cleanly, the second is broken.
		e, c := pair(t, "tcp4")
		if _, err := e.Write([]byte("unread")); err != nil {
			t.Fatal(err)
		}
		_ = c.CloseWrite()
		if _, err := readAll(e, 64); !errors.Is(err, io.EOF) {
			t.Fatal(err)
		}
		hangup := make(chan error, 1)
		go func() { hangup <- e.WaitHangup() }()
		reset(t, c)
		if err := <-hangup; !errors.Is(err, syscall.EPIPE) && !errors.Is(err, syscall.ECONNRESET) {
			t.Fatalf("hangup: got %v, want the reset", err)
		}
		if _, err := e.Write([]byte("x")); err == nil {
			t.Error("write succeeded")
		}
	})
	t.Run("both pending when read", func(t *testing.T) {
		e, c := pair(t, "tcp4")
		_ = c.CloseWrite()
		if err := e.WaitReadable(); err != nil {
			t.Fatal(err)
		}
		reset(t, c)
		waitState(t, e, tcpClose)
		if _, err := readAll(e, 64); !errors.Is(err, io.EOF) {
			t.Fatalf("got %v, want the clean end that came first", err)
		}
		if _, err := e.Write([]byte("x")); err == nil {
			t.Error("write succeeded")
		}
	})
}

func rawRead(e *Conn) (n int, err error) {
	cerr := e.raw.Control(func(fd uintptr) { n, err = unix.Read(int(fd), make([]byte, 8)) })
	return n, errors.Join(err, cerr)
}

// waitState polls until the socket is in a state; the kernel delivers loopback packets within microseconds.
func waitState(t *testing.T, e *Conn, state uint8) {
	t.Helper()
	deadline := time.Now().Add(30 * time.Second)
	for time.Now().Before(deadline) {
		var info *unix.TCPInfo
		var err error
		_ = e.raw.Control(func(fd uintptr) { info, err = unix.GetsockoptTCPInfo(int(fd), unix.IPPROTO_TCP, unix.TCP_INFO) })
		if err != nil {
			t.Fatal(err)
		}
		if info.State == state {
			return
		}
		runtime.Gosched()
	}
	t.Fatal("the state was not reached")
}

// A reset that races with writes and reads must never be read as a clean end.
func TestResetRace(t *testing.T) {
	rounds := 300
	if testing.Short() {
		rounds = 30
	}
	for i := range rounds {
		e, c := pair(t, "tcp4")
		done := make(chan struct{})
		go func() {
			defer close(done)
			block := make([]byte, 1024)
			for {
				if _, err := e.Write(block); err != nil {
					return
				}
			}
		}()
		go func() {
			buf := make([]byte, 1+rand.IntN(8192))
			for range rand.IntN(20) {
				_, _ = c.Read(buf)
				_, _ = c.Write(buf[:1])
			}
			_ = c.SetLinger(0)
			c.Close()
		}()
		_, err := readAll(e, 512)
		if err == nil || errors.Is(err, io.EOF) {
			t.Fatalf("round %d: a reset was read as %v", i, err)
		}
		<-done
		e.Reset()
	}
}

func TestOurResetIsSeen(t *testing.T) {
	e, c := pair(t, "tcp6")
	blocked := make(chan error, 1)
	go func() { blocked <- e.WaitReadable() }()
	e.Reset()
	e.Reset()
	if _, err := c.Read(make([]byte, 1)); !errors.Is(err, syscall.ECONNRESET) {
		t.Errorf("other end: got %v, want a reset", err)
	}
	if err := <-blocked; !errors.Is(err, net.ErrClosed) {
		t.Errorf("blocked reader: got %v, want closed", err)
	}
	if err := e.Finish(); err != nil {
		t.Errorf("finish after reset: %v", err)
	}
	if _, err := e.Write([]byte("x")); !errors.Is(err, net.ErrClosed) {
		t.Errorf("write: %v", err)
	}
	if err := e.CloseWrite(); !errors.Is(err, net.ErrClosed) {
		t.Errorf("close write: %v", err)
	}
	if _, err := e.Unsent(); !errors.Is(err, net.ErrClosed) {
		t.Errorf("unsent: %v", err)
	}
	if _, err := e.ReadAvailable(make([]byte, 1)); !errors.Is(err, net.ErrClosed) {
		t.Errorf("read: %v", err)
	}
	if err := e.WaitHangup(); !errors.Is(err, net.ErrClosed) {
		t.Errorf("hangup: %v", err)
	}
}

func TestUrgentDataStaysInLine(t *testing.T) {
	e, c := pair(t, "tcp4")
	rc, err := c.SyscallConn()
	if err != nil {
		t.Fatal(err)
	}
	send := func(s string, flags int) {
		t.Helper()
		var inner error
		if err := rc.Control(func(fd uintptr) { inner = unix.Send(int(fd), []byte(s), flags) }); err != nil || inner != nil {
			t.Fatal(err, inner)
		}
	}
	send("before ", 0)
	send("!", unix.MSG_OOB)
	send(" after", 0)
	_ = c.CloseWrite()
	got, err := readAll(e, 64)
	if string(got) != "before ! after" || !errors.Is(err, io.EOF) {
		t.Errorf("got %q, %v", got, err)
	}
}

func TestReadAvailableNeverWaits(t *testing.T) {
	e, c := pair(t, "tcp4")
	if n, err := e.ReadAvailable(make([]byte, 10)); n != 0 || err != nil {
		t.Fatalf("empty socket: %d, %v", n, err)
	}
	if n, err := e.ReadAvailable(nil); n != 0 || err != nil {
		t.Fatalf("empty buffer: %d, %v", n, err)
	}
	_, _ = c.Write([]byte("abcdef"))
	if err := e.WaitReadable(); err != nil {
		t.Fatal(err)
	}
	buf := make([]byte, 4)
	if n, err := e.ReadAvailable(buf); n != 4 || err != nil || string(buf) != "abcd" {
		t.Fatalf("got %q, %v", buf[:n], err)
	}
	if n, err := e.ReadAvailable(buf); n != 2 || err != nil || string(buf[:2]) != "ef" {
		t.Fatalf("got %q, %v", buf[:n], err)
	}
	if n, err := e.Write(nil); n != 0 || err != nil {
		t.Fatalf("empty write: %d, %v", n, err)
	}
}

func TestUnsent(t *testing.T) {
	e, c := pair(t, "tcp4")
	if n, err := e.Unsent(); n != 0 || err != nil {
		t.Fatalf("fresh: %d, %v", n, err)
	}
	// Write until the other end, which does not read, takes no more.
	total := make(chan int, 1)
	go func() {
		n, _ := e.Write(make([]byte, 32<<20))
		total <- n
	}()
	deadline := time.Now().Add(30 * time.Second)
	for {
		n, err := e.Unsent()
		if err != nil {
			t.Fatal(err)
		}
		if n > 0 {
			break
		}
		if time.Now().After(deadline) {
			t.Fatal("nothing became unsent")
		}
		runtime.Gosched()
	}
	go func() { _, _ = io.Copy(io.Discard, c) }()
	if n := <-total; n != 32<<20 {
		t.Fatalf("wrote %d", n)
	}
	for n := 1; n > 0; runtime.Gosched() {
		var err error
		if n, err = e.Unsent(); err != nil {
			t.Fatal(err)
		}
	}
}

func TestAddresses(t *testing.T) {
	e, c := pair(t, "tcp4")
	if e.LocalAddr().String() != c.RemoteAddr().String() || e.RemoteAddr().String() != c.LocalAddr().String() {
		t.Errorf("got %v %v, want %v %v", e.LocalAddr(), e.RemoteAddr(), c.RemoteAddr(), c.LocalAddr())
	}
	if !e.LocalAddr().Addr().Is4() {
		t.Error("an IPv4 address came mapped into IPv6")
	}
}

func TestReadingAndWritingAllocateNothing(t *testing.T) {
	e, c := pair(t, "tcp4")
	p := []byte("x")
	allocs := testing.AllocsPerRun(200, func() {
		_, _ = c.Write(p)
		if err := e.WaitReadable(); err != nil {
			t.Fatal(err)
		}
		if n, err := e.ReadAvailable(p); n != 1 || err != nil {
			t.Fatal(n, err)
		}
		if _, err := e.Write(p); err != nil {
			t.Fatal(err)
		}
		_, _ = c.Read(p)
	})
	if allocs != 0 {
		t.Errorf("%v allocations per exchange, want none", allocs)
	}
}
