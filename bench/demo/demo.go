// Package demo shows the main job on one machine: two gateways over an emulated WAN link, the same data sent directly, cold, again and
// with edits, every byte checked, and what it took.
package demo

import (
	"context"
	"crypto/sha256"
	"encoding/hex"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"time"

	"github.com/schollz/progressbar/v3"
	"golang.org/x/term"

	"wanpair/bench/lab"
	"wanpair/bench/pair"
)

// Config says what to show. The zero value of a field takes the default named.
type Config struct {
	Binary    string // the wanpair binary
	Tree      string // source tree that is sent; empty: the Go installation's own
	MaxBytes  int64  // of the tree; 0: 100 MiB
	LinkWords string // empty: 20 Mbit/s, 100 ms
	Stay      bool   // leave everything running until interrupted
	Out       io.Writer
}

const (
	defaultLink  = "both delay=50ms rate=20mbit queue=256k"
	defaultBytes = 100 << 20
	editEvery    = 20 // one file in so many is edited: 5 %
	upPatience   = 15 * time.Second
	httpPort     = "80"
)

// row is one transfer.
type row struct {
	name string
	took time.Duration
	wire int64 // bytes of IP packets on the link, both directions
}

type demo struct {
	cfg  Config
	lab  *lab.Lab
	dir  string
	rows []row
	size int64
}

// Run shows it all and removes what it made.
func Run(ctx context.Context, cfg Config) (err error) {
	if cfg.LinkWords == "" {
		cfg.LinkWords = defaultLink
	}
	if cfg.MaxBytes == 0 {
		cfg.MaxBytes = defaultBytes
	}
	if cfg.Tree == "" {
		out, err := exec.CommandContext(ctx, "go", "env", "GOROOT").Output()
		if err != nil {
			return fmt.Errorf("no source tree to send: ask the Go installation for its own: %w; name one with --tree", err)
		}
		cfg.Tree = filepath.Join(strings.TrimSpace(string(out)), "src")
	}
	if _, err := lab.Sweep(); err != nil {
		fmt.Fprintln(cfg.Out, "leftovers of an earlier run could not be removed:", err)
	}
	d := &demo{cfg: cfg}
	if d.dir, err = os.MkdirTemp("", "wanpair-demo-"); err != nil {
		return err
	}
	defer func() { err = errors.Join(err, os.RemoveAll(d.dir)) }()
	if d.lab, err = lab.Up(ctx, lab.Config{Link: cfg.LinkWords}); err != nil {
		return err
	}
	defer func() { err = errors.Join(err, d.lab.Down()) }()
	return d.show(ctx)
}

func (d *demo) show(ctx context.Context) error {
	d.say("packing %s ...", d.cfg.Tree)
	tree, edited := filepath.Join(d.dir, "tree.tar"), filepath.Join(d.dir, "edited.tar")
	files, _, err := pair.PackTree(d.cfg.Tree, tree, d.cfg.MaxBytes, 0)
	if err != nil {
		return err
	}
	_, changed, err := pair.PackTree(d.cfg.Tree, edited, d.cfg.MaxBytes, editEvery)
	if err != nil {
		return err
	}
	stop, err := d.serve(ctx)
	if err != nil {
		return err
	}
	defer stop()

	d.say("link: %s, that is a round trip of 100 ms unless you changed it; data: %d files in a tar", d.cfg.LinkWords, files)
	if err := d.fetch(ctx, "direct TCP"+congestion(), tree); err != nil {
		return err
	}
	gateways, err := pair.Start(ctx, pair.Config{Lab: d.lab, Binary: d.cfg.Binary, Dir: filepath.Join(d.dir, "pair"), LogLevel: "info"})
	if err != nil {
		return err
	}
	defer func() {
		if err := gateways.Stop(context.WithoutCancel(ctx)); err != nil {
			d.say("%v", err)
		}
	}()
	up, cancel := context.WithTimeout(ctx, upPatience)
	defer cancel()
	if err := gateways.WaitUp(up); err != nil {
		return err
	}
	where, closeRelay, err := d.relayStats(ctx)
	if err != nil {
		return err
	}
	defer closeRelay()
	d.say("both gateways are up; stats of the near one: %s", where)
	for _, step := range []struct{ name, file string }{
		{"wanpair, cold", tree},
		{"wanpair, again", tree},
		{fmt.Sprintf("wanpair, %d files edited", changed), edited},
	} {
		if err := d.fetch(ctx, step.name, step.file); err != nil {
			return err
		}
	}
	d.table()
	if !d.cfg.Stay {
		return nil
	}
	d.say("staying: stats at %s, namespaces %s-cli, -gwA, -gwB, -srv; try\n  ip netns exec %s-cli curl -o /dev/null http://%s/tree.tar\nInterrupt (Ctrl-C) ends it and removes everything.",
		where, d.lab.Name, d.lab.Name, lab.ServerIP4)
	<-ctx.Done()
	return nil
}

// congestion names the kernel's congestion control: it decides what the direct transfer can do.
func congestion() string {
	b, err := os.ReadFile("/proc/sys/net/ipv4/tcp_congestion_control")
	if err != nil {
		return ""
	}
	return " (" + strings.TrimSpace(string(b)) + ")"
}

func (d *demo) say(format string, args ...any) { fmt.Fprintf(d.cfg.Out, format+"\n", args...) }

// serve runs a web server on the server node.
func (d *demo) serve(ctx context.Context) (stop func(), err error) {
	listener, err := d.lab.Listen(ctx, lab.Server, net.JoinHostPort(lab.ServerIP4, httpPort))
	if err != nil {
		return nil, err
	}
	server := &http.Server{Handler: http.FileServer(http.Dir(d.dir)), ReadHeaderTimeout: 10 * time.Second}
	done := make(chan struct{})
	go func() {
		defer close(done)
		_ = server.Serve(listener) // always ends with ErrServerClosed
	}()
	return func() { _ = server.Close(); <-done }, nil
}

// fetch transfers a file from the server to the client, checks it, and notes what it took.
func (d *demo) fetch(ctx context.Context, name, file string) error {
	size, sum, err := pair.HashFile(file)
	if err != nil {
		return err
	}
	d.size = size
	if err := d.lab.ResetLink(ctx); err != nil {
		return err
	}
	transport := &http.Transport{
		DisableKeepAlives: true,
		DialContext: func(ctx context.Context, network, addr string) (net.Conn, error) {
			return d.lab.Dial(ctx, lab.Client, network, addr)
		},
	}
	request, err := http.NewRequestWithContext(ctx, http.MethodGet, "http://"+lab.ServerIP4+"/"+filepath.Base(file), nil)
	if err != nil {
		return err
	}
	start := time.Now()
	response, err := transport.RoundTrip(request)
	if err != nil {
		return fmt.Errorf("%s: %w", name, err)
	}
	defer response.Body.Close()
	if response.StatusCode != http.StatusOK {
		return fmt.Errorf("%s: the server answered %s", name, response.Status)
	}
	hash := sha256.New()
	bar := d.bar(size, name)
	if _, err := io.Copy(io.MultiWriter(hash, bar), response.Body); err != nil {
		return fmt.Errorf("%s: %w", name, err)
	}
	took := time.Since(start)
	if got := hex.EncodeToString(hash.Sum(nil)); got != sum {
		return fmt.Errorf("%s: the bytes that arrived are not those that were sent (SHA-256 %s, want %s)", name, got, sum)
	}
	stats, err := d.lab.LinkStats(ctx)
	if err != nil {
		return err
	}
	wire := int64(stats.AtoB.OfferedBytes + stats.BtoA.OfferedBytes)
	d.rows = append(d.rows, row{name: name, took: took, wire: wire})
	d.say("%s", d.line(d.rows[len(d.rows)-1]))
	return nil
}

// bar shows progress on a terminal and nothing elsewhere.
func (d *demo) bar(size int64, name string) io.Writer {
	if f, ok := d.cfg.Out.(*os.File); !ok || !term.IsTerminal(int(f.Fd())) {
		return io.Discard
	}
	return progressbar.NewOptions64(size,
		progressbar.OptionSetWriter(d.cfg.Out),
		progressbar.OptionSetDescription(fmt.Sprintf("%-28s", name)),
		progressbar.OptionShowBytes(true),
		progressbar.OptionSetWidth(30),
		progressbar.OptionThrottle(100*time.Millisecond),
		progressbar.OptionClearOnFinish())
}

func (d *demo) line(r row) string {
	direct := d.rows[0]
	return fmt.Sprintf("%-28s %8.2f s  %10.3f MB on the wire  %7.1fx faster  %8.1fx fewer bytes", r.name, r.took.Seconds(),
		float64(r.wire)/1e6, direct.took.Seconds()/r.took.Seconds(), float64(direct.wire)/float64(r.wire))
}

func (d *demo) table() {
	d.say("\n%.1f MB over HTTP, every byte checked:", float64(d.size)/1e6)
	for _, r := range d.rows {
		d.say("  %s", d.line(r))
	}
}

// relayStats makes the near gateway's stats page reachable from outside its namespace.
func (d *demo) relayStats(ctx context.Context) (where string, closeRelay func(), err error) {
	inside := fmt.Sprintf("127.0.0.1:%d", pair.StatsPort)
	if lab.Entered() { // this process has no network but the lab's
		return fmt.Sprintf("http://%s/ inside the lab: nsenter -U -n -t %d curl http://%s/", inside, os.Getpid(), inside), func() {}, nil
	}
	listener, err := new(net.ListenConfig).Listen(ctx, "tcp", inside)
	if err != nil { // somebody uses that port here
		if listener, err = new(net.ListenConfig).Listen(ctx, "tcp", "127.0.0.1:0"); err != nil {
			return "", nil, err
		}
	}
	done := make(chan struct{})
	go func() {
		defer close(done)
		for {
			c, err := listener.Accept()
			if err != nil {
				return
			}
			go d.relay(ctx, c, inside)
		}
	}()
	return "http://" + listener.Addr().String() + "/", func() { _ = listener.Close(); <-done }, nil
}

// relay joins a connection of the machine with the stats page in the near gateway's namespace, until either side ends.
func (d *demo) relay(ctx context.Context, outside net.Conn, address string) {
	defer outside.Close()
	within, err := d.lab.Dial(ctx, lab.GatewayA, "tcp", address)
	if err != nil {
		return
	}
	defer within.Close()
	go func() {
		_, _ = io.Copy(within, outside)
		_ = within.Close()
	}()
	_, _ = io.Copy(outside, within)
}
