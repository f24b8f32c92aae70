package pair_test

import (
	"context"
	"crypto/sha256"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"math/rand/v2"
	"net"
	"net/netip"
	"os"
	"strconv"
	"strings"
	"syscall"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"wanpair/bench/lab"
	"wanpair/bench/pair"
)

// family is one IP version with the lab's addresses of it.
type family struct {
	name                                  string
	client, server                        string
	gatewayALAN, gatewayBLAN, gatewayBWAN string
}

func families() []family {
	return []family{
		{"IPv4", lab.ClientIP4, lab.ServerIP4, lab.GatewayALANIP4, lab.GatewayBLANIP4, lab.GatewayBWANIP4},
		{"IPv6", lab.ClientIP6, lab.ServerIP6, lab.GatewayALANIP6, lab.GatewayBLANIP6, lab.GatewayBWANIP6},
	}
}

// eachFamily runs f as one subtest per IP version, one after the other.
func eachFamily(t *testing.T, f func(t *testing.T, fam family)) {
	t.Helper()
	for _, fam := range families() {
		t.Run(fam.name, func(t *testing.T) { f(t, fam) })
	}
}

// must ends the test on an error.
func must(t *testing.T, err error) {
	t.Helper()
	if err != nil {
		t.Fatal(err)
	}
}

// patience is how long a test waits for what should come within milliseconds.
const patience = 30 * time.Second

// connect connects from the client to an address and sets a deadline for all that follows.
func (w *world) connect(t *testing.T, host, port string) *net.TCPConn {
	t.Helper()
	c, err := w.lab.Dial(w.ctx, lab.Client, "tcp", net.JoinHostPort(host, port))
	must(t, err)
	must(t, c.SetDeadline(time.Now().Add(patience)))
	t.Cleanup(func() { c.Close() })
	return c.(*net.TCPConn)
}

// dialFrom connects from one address and port of a node, which may have been used a moment ago.
func (w *world) dialFrom(n lab.Node, local netip.AddrPort, target string, timeout time.Duration) (*net.TCPConn, error) {
	dialer := net.Dialer{LocalAddr: net.TCPAddrFromAddrPort(local), Timeout: timeout, Control: func(_, _ string, c syscall.RawConn) error {
		var err error
		return errors.Join(c.Control(func(fd uintptr) { err = unix.SetsockoptInt(int(fd), unix.SOL_SOCKET, unix.SO_REUSEADDR, 1) }), err)
	}}
	var conn net.Conn
	err := w.lab.Do(n, func() (err error) {
		conn, err = dialer.DialContext(w.ctx, "tcp", target)
		return err
	})
	if err != nil {
		return nil, err
	}
	return conn.(*net.TCPConn), conn.SetDeadline(time.Now().Add(patience))
}

// addr joins a literal address and a port.
func addr(host string, port int) netip.AddrPort {
	return netip.AddrPortFrom(netip.MustParseAddr(host), uint16(port))
}

// accepts runs a server on the server node and hands its connections over; each has a deadline.
func (w *world) accepts(t *testing.T, port string) <-chan *net.TCPConn {
	t.Helper()
	l, err := w.lab.Listen(w.ctx, lab.Server, ":"+port)
	must(t, err)
	conns := make(chan *net.TCPConn, 256)
	done := make(chan struct{})
	go func() {
		defer close(done)
		for {
			c, err := l.AcceptTCP()
			if err != nil {
				return
			}
			_ = c.SetDeadline(time.Now().Add(patience))
			conns <- c
		}
	}()
	t.Cleanup(func() {
		l.Close()
		<-done
		close(conns)
		for c := range conns {
			c.Close()
		}
	})
	return conns
}

// next takes the next connection of a server.
func next(t *testing.T, conns <-chan *net.TCPConn) *net.TCPConn {
	t.Helper()
	select {
	case c := <-conns:
		t.Cleanup(func() { c.Close() })
		return c
	case <-time.After(patience):
		t.Fatal("the server got no connection")
		return nil
	}
}

// stream is a sequence of bytes that only its seed knows: no two seeds share a stretch, so a byte of another sequence is found.
func stream(seed uint64) io.Reader {
	var key [32]byte
	copy(key[:], fmt.Sprintf("wanpair test %d", seed))
	return rand.NewChaCha8(key)
}

// sendStream writes the first n bytes of a stream.
func sendStream(c io.Writer, seed uint64, n int64) error {
	_, err := io.CopyN(struct{ io.Writer }{c}, stream(seed), n)
	return err
}

// expectStream reads to the end of file and says whether it was exactly the first n bytes of a stream.
func expectStream(c io.Reader, seed uint64, n int64) error {
	got, want := sha256.New(), sha256.New()
	read, err := io.Copy(got, c)
	if err != nil {
		return fmt.Errorf("after %d of %d bytes: %w", read, n, err)
	}
	if _, err := io.CopyN(want, stream(seed), n); err != nil {
		return err
	}
	if read != n || string(got.Sum(nil)) != string(want.Sum(nil)) {
		return fmt.Errorf("a clean end after %d bytes, want %d and the same bytes", read, n)
	}
	return nil
}

// isReset says whether an error is how an application meets a reset.
func isReset(err error) bool {
	// Shutting down a connection that was reset is ENOTCONN.
	return errors.Is(err, syscall.ECONNRESET) || errors.Is(err, syscall.EPIPE) || errors.Is(err, syscall.ENOTCONN)
}

// eventually waits until f says nil.
func eventually(t *testing.T, within time.Duration, what string, f func() error) {
	t.Helper()
	deadline := time.Now().Add(within)
	for {
		err := f()
		if err == nil {
			return
		}
		if time.Now().After(deadline) {
			t.Fatalf("%s: not within %v: %v", what, within, err)
		}
		time.Sleep(20 * time.Millisecond) // the condition lives in another process
	}
}

// metrics reads /metrics once: by name with labels, such as `wanpair_flows_total{outcome="clean"}`.
func (w *world) metrics(t *testing.T, g *pair.Gateway) map[string]float64 {
	t.Helper()
	out, err := readMetrics(w.ctx, g)
	must(t, err)
	return out
}

func readMetrics(ctx context.Context, g *pair.Gateway) (map[string]float64, error) {
	body, _, err := g.Get(ctx, "/metrics")
	if err != nil {
		return nil, err
	}
	out := make(map[string]float64)
	for line := range strings.Lines(string(body)) {
		name, value, ok := strings.Cut(strings.TrimSpace(line), "} ")
		if strings.HasPrefix(line, "#") || !ok {
			continue
		}
		v, err := strconv.ParseFloat(value, 64)
		if err != nil {
			return nil, err
		}
		out[name+"}"] = v
	}
	return out, nil
}

// metric reads one of them.
func (w *world) metric(t *testing.T, g *pair.Gateway, name string) float64 {
	t.Helper()
	v, ok := w.metrics(t, g)[name]
	if !ok {
		t.Fatalf("%s has no metric %s", g.Name, name)
	}
	return v
}

// events is how many events of a kind a gateway has counted.
func (w *world) events(t *testing.T, g *pair.Gateway, kind string) float64 {
	t.Helper()
	return w.metric(t, g, fmt.Sprintf("wanpair_events_total{kind=%q}", kind))
}

// passed is how many connections a gateway passed raw for a reason.
func (w *world) passed(t *testing.T, g *pair.Gateway, reason string) float64 {
	t.Helper()
	return w.metric(t, g, fmt.Sprintf("wanpair_flows_passed_total{reason=%q}", reason))
}

// passedByReason is how many connections a gateway passed raw, for the reasons there were.
func (w *world) passedByReason(t *testing.T, g *pair.Gateway) map[string]float64 {
	t.Helper()
	out := make(map[string]float64)
	for name, v := range w.metrics(t, g) {
		if reason, ok := strings.CutPrefix(name, "wanpair_flows_passed_total{reason="); ok && v > 0 {
			out[strings.Trim(reason, `"}`)] = v
		}
	}
	return out
}

// flowEntry is what of a row of /api/v1/flows the tests read.
type flowEntry struct {
	Source      string `json:"source"`
	Destination string `json:"destination"`
	State       string `json:"state"`
	Reason      *struct {
		Number int    `json:"number"`
		Name   string `json:"name"`
	} `json:"reason"` // nil while accelerated
}

// listed are the flows a gateway lists.
func (w *world) listed(t *testing.T, g *pair.Gateway) []flowEntry {
	t.Helper()
	body, _, err := g.Get(w.ctx, "/api/v1/flows")
	must(t, err)
	var doc struct {
		Flows []flowEntry `json:"flows"`
	}
	must(t, json.Unmarshal(body, &doc))
	return doc.Flows
}

// edit changes a gateway's configuration file.
func edit(t *testing.T, g *pair.Gateway, old, replacement string) {
	t.Helper()
	text, err := os.ReadFile(g.ConfigPath())
	must(t, err)
	if !strings.Contains(string(text), old) {
		t.Fatalf("the configuration of %s does not contain %q:\n%s", g.Name, old, text)
	}
	must(t, os.WriteFile(g.ConfigPath(), []byte(strings.Replace(string(text), old, replacement, 1)), 0o644))
}

// logContains waits until a gateway's log contains a text.
func logContains(t *testing.T, g *pair.Gateway, text string) {
	t.Helper()
	eventually(t, patience, fmt.Sprintf("log of %s with %q", g.Name, text), func() error {
		b, err := os.ReadFile(g.LogPath())
		if err == nil && !strings.Contains(string(b), text) {
			err = errors.New("not there")
		}
		return err
	})
}

// echo makes one connection, sends a few bytes and reads them back, then closes; it says why that failed.
func (w *world) echo(host, port string, timeout time.Duration) error {
	ctx, cancel := context.WithTimeout(w.ctx, timeout)
	defer cancel()
	c, err := w.lab.Dial(ctx, lab.Client, "tcp", net.JoinHostPort(host, port))
	if err != nil {
		return err
	}
	defer c.Close()
	if err := c.SetDeadline(time.Now().Add(timeout)); err != nil {
		return err
	}
	if err := sendStream(c, 1, 100); err != nil {
		return err
	}
	if err := c.(*net.TCPConn).CloseWrite(); err != nil {
		return err
	}
	return expectStream(c, 1, 100)
}

// diverted is how many connections the near gateway has accepted from the LAN and carried, ended or not.
func (w *world) diverted(t *testing.T) float64 {
	t.Helper()
	all := w.metrics(t, w.Near)
	n := all[`wanpair_flows_active{peer="far"}`]
	for name, v := range all {
		if strings.HasPrefix(name, "wanpair_flows_total{") {
			n += v
		}
	}
	return n
}
