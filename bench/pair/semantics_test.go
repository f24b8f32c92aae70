package pair_test

import (
	"context"
	"errors"
	"io"
	"net"
	"os"
	"path/filepath"
	"strings"
	"syscall"
	"testing"
	"time"

	"wanpair/bench/lab"
	"wanpair/bench/pair"
)

// serve runs a server on the server node that handles each connection with f.
func (w *world) serve(port string, f func(*net.TCPConn)) {
	w.t.Helper()
	l, err := w.lab.Listen(w.ctx, lab.Server, ":"+port)
	w.check(err)
	done := make(chan struct{})
	go func() {
		defer close(done)
		for {
			c, err := l.AcceptTCP()
			if err != nil {
				return
			}
			go f(c)
		}
	}()
	w.t.Cleanup(func() { l.Close(); <-done })
}

// dial connects from the client to a port of the server.
func (w *world) dial(port string) *net.TCPConn {
	w.t.Helper()
	c, err := w.lab.Dial(w.ctx, lab.Client, "tcp", net.JoinHostPort(lab.ServerIP4, port))
	w.check(err)
	w.check(c.SetDeadline(time.Now().Add(30 * time.Second)))
	w.t.Cleanup(func() { c.Close() })
	return c.(*net.TCPConn)
}

func TestRequestFINLateReply(t *testing.T) {
	w := newWorld(t, testLink)
	w.serve("7001", func(c *net.TCPConn) {
		defer c.Close()
		request, err := io.ReadAll(c) // until the client's FIN
		if err != nil {
			return
		}
		time.Sleep(300 * time.Millisecond) // the point: the reply comes long after the request's end
		_, _ = c.Write(append([]byte("late reply to "), request...))
	})
	c := w.dial("7001")
	_, err := c.Write([]byte("request"))
	w.check(err)
	w.check(c.CloseWrite())
	reply, err := io.ReadAll(c)
	if err != nil || string(reply) != "late reply to request" {
		t.Errorf("got %q, %v", reply, err)
	}
	w.tunnelled()
}

// tunnelled fails the test unless flows went through the tunnel: else it would have tested the bare link.
func (w *world) tunnelled() {
	w.t.Helper()
	w.waitStats(w.Near, "carrying bytes for clients", func(p pair.PeerStats) bool { return p.LANBytes.Sent+p.LANBytes.Received > 0 })
	if w.intercepted() == 0 {
		w.t.Error("no connection was intercepted")
	}
}

// intercepted is the number of flows the near gateway has ended or runs, from its metrics.
func (w *world) intercepted() int {
	w.t.Helper()
	body, _, err := w.Near.Get(w.ctx, "/metrics")
	w.check(err)
	n := 0
	for line := range strings.Lines(string(body)) {
		if (strings.HasPrefix(line, "wanpair_flows_total{") || strings.HasPrefix(line, "wanpair_flows_active")) && !strings.HasSuffix(strings.TrimSpace(line), " 0") {
			n++
		}
	}
	return n
}

func TestServerResetReachesTheClientAsReset(t *testing.T) {
	w := newWorld(t, testLink)
	w.serve("7002", func(c *net.TCPConn) {
		_, _ = c.Write(make([]byte, 100<<10))
		_, _ = c.Read(make([]byte, 1)) // the client has got something
		_ = c.SetLinger(0)
		_ = c.Close()
	})
	c := w.dial("7002")
	_, err := io.ReadFull(c, make([]byte, 50<<10))
	w.check(err)
	_, err = c.Write([]byte("x"))
	w.check(err)
	if _, err = io.Copy(io.Discard, c); !errors.Is(err, syscall.ECONNRESET) {
		t.Errorf("the client saw %v instead of a reset", err)
	}
	w.tunnelled()
}

func TestClientResetReachesTheServerAsReset(t *testing.T) {
	w := newWorld(t, testLink)
	seen := make(chan error, 1)
	w.serve("7003", func(c *net.TCPConn) {
		defer c.Close()
		_, _ = c.Write([]byte("hello"))
		_, err := io.Copy(io.Discard, c)
		seen <- err
	})
	c := w.dial("7003")
	_, err := io.ReadFull(c, make([]byte, 5))
	w.check(err)
	w.check(c.SetLinger(0))
	w.check(c.Close())
	select {
	case err := <-seen:
		if !errors.Is(err, syscall.ECONNRESET) {
			t.Errorf("the server saw %v instead of a reset", err)
		}
	case <-time.After(patience):
		t.Error("the server saw nothing")
	}
}

func TestRefusedConnectionIsReset(t *testing.T) {
	w := newWorld(t, testLink)
	c, err := w.lab.Dial(w.ctx, lab.Client, "tcp", net.JoinHostPort(lab.ServerIP4, "7999"))
	if err == nil {
		defer c.Close()
		w.check(c.SetReadDeadline(time.Now().Add(patience)))
		_, err = c.Read(make([]byte, 1))
	}
	if !errors.Is(err, syscall.ECONNRESET) && !errors.Is(err, syscall.ECONNREFUSED) {
		t.Errorf("the client saw %v", err)
	}
	// From now on the client meets the server's own answer, at connect.
	deadline := time.Now().Add(patience)
	for {
		c, err := w.lab.Dial(w.ctx, lab.Client, "tcp", net.JoinHostPort(lab.ServerIP4, "7999"))
		if errors.Is(err, syscall.ECONNREFUSED) {
			break
		}
		if err == nil {
			c.Close()
		}
		if time.Now().After(deadline) {
			t.Fatalf("the next connections are not refused by the server itself: %v", err)
		}
	}
}

func TestPostgres(t *testing.T) {
	w := newWorld(t, testLink)
	bin := "/usr/lib/postgresql/15/bin"
	if found, _ := filepath.Glob("/usr/lib/postgresql/*/bin/initdb"); len(found) > 0 {
		bin = filepath.Dir(found[len(found)-1])
	}
	data := filepath.Join(w.dir, "pgdata")
	w.check(os.Mkdir(data, 0o700))
	asPostgres := func(name string, args ...string) []string {
		return append([]string{"-u", "postgres", "--", filepath.Join(bin, name)}, args...)
	}
	w.must(lab.Server, "chown", "postgres", data)
	w.must(lab.Server, "runuser", asPostgres("initdb", "-D", data, "-A", "trust", "-U", "postgres", "--no-sync")...)
	hba := filepath.Join(data, "pg_hba.conf")
	w.check(os.WriteFile(hba, []byte("host all all 10.1.0.0/24 trust\nlocal all all trust\n"), 0o600))
	w.must(lab.Server, "runuser", asPostgres("pg_ctl", "-D", data, "-w", "-l", filepath.Join(data, "log"), "-o",
		"-c listen_addresses="+lab.ServerIP4+" -c unix_socket_directories="+data+" -c fsync=off", "start")...)
	t.Cleanup(func() {
		_ = w.lab.Command(context.WithoutCancel(w.ctx), lab.Server, "runuser", asPostgres("pg_ctl", "-D", data, "-m", "immediate", "stop")...).Run()
	})
	out := w.must(lab.Client, "psql", "-h", lab.ServerIP4, "-U", "postgres", "-qAt", "-c",
		"create table t as select g, md5(g::text) m from generate_series(1,20000) g; select count(*), md5(string_agg(m, '' order by g)) from t; select inet_client_addr();")
	if !strings.Contains(out, "20000|") || !strings.Contains(out, lab.ClientIP4) {
		t.Errorf("psql printed %q", out)
	}
	rows := w.must(lab.Client, "psql", "-h", lab.ServerIP4, "-U", "postgres", "-qAt", "-c", "select * from t order by g")
	if got := strings.Count(rows, "\n"); got != 20000 {
		t.Errorf("%d rows arrived", got)
	}
	w.tunnelled()
}

func echoServer(c *net.TCPConn) {
	defer c.Close()
	_, _ = io.Copy(c, c)
}

// TestNearGatewayKilled: the established connections end with a reset, the next ones pass raw at once: without a packet that is repeated,
// which would take a second.
func TestNearGatewayKilled(t *testing.T) {
	w := newWorld(t, testLink)
	w.serve("7004", echoServer)
	promised(t, "connect and echo after the near gateway was killed", 900*time.Millisecond, func() (slowest time.Duration) {
		w.acceleratedAgain(t, "7004")
		established := w.establish(t, "7004")
		w.check(w.Near.Kill())
		for _, r := range established {
			if err := readOn(r.c)(); !isReset(err) {
				t.Errorf("an established connection ended with %v instead of a reset", err)
			}
		}
		for _, fam := range families() {
			began := time.Now()
			w.check(w.echo(fam.server, "7004", patience))
			slowest = max(slowest, time.Since(began))
		}
		w.check(w.Near.Start(w.ctx))
		w.waitUp(patience)
		return slowest
	})
}

// TestFarGatewayKilledAndBack: within 5 s new connections pass raw; within 5 s after it is back they are accelerated again.
func TestFarGatewayKilledAndBack(t *testing.T) {
	w := newWorld(t, testLink)
	w.serve("7005", echoServer)
	promised(t, "the later of raw after the kill and accelerated after the start", 5*time.Second, func() time.Duration {
		w.acceleratedAgain(t, "7005")
		w.check(w.Far.Kill())
		raw := w.rawAfter(t, "7005", time.Now())
		w.check(w.Far.Start(w.ctx))
		back := time.Now()
		w.acceleratedAgain(t, "7005")
		again := time.Since(back)
		t.Logf("raw %v after the kill, accelerated %v after the start", raw, again)
		return max(raw, again)
	})
}

func TestStopDrainsAndLeavesNothingBehind(t *testing.T) {
	w := newWorld(t, testLink)
	w.serve("7006", echoServer)
	w.acceleratedAgain(t, "7006")
	w.check(w.Stop(w.ctx))
	for _, n := range []lab.Node{lab.GatewayA, lab.GatewayB} {
		if out := w.must(n, "nft", "list", "ruleset"); strings.Contains(out, "wanpair") {
			t.Errorf("rules left behind on %s:\n%s", n, out)
		}
		if out := w.must(n, "ip", "rule"); strings.Contains(out, "fwmark") {
			t.Errorf("routing rules left behind on %s:\n%s", n, out)
		}
	}
	for _, fam := range families() {
		if err := w.echo(fam.server, "7006", patience); err != nil {
			t.Errorf("traffic does not pass raw after the stop: %v", err)
		}
	}
}
