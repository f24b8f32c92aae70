package pair_test

import (
	"context"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"syscall"
	"testing"
	"time"

	"wanpair/bench/lab"
	"wanpair/bench/lab/labtest"
	"wanpair/bench/pair"
)

// binary is the gateway under test, built once.
var binary string

func TestMain(m *testing.M) {
	if port := os.Getenv(echoVariable); port != "" {
		if err := echoProcess(port); err != nil {
			fmt.Fprintln(os.Stderr, err)
			os.Exit(1)
		}
		return
	}
	labtest.Setup()
	os.Exit(run(m))
}

func run(m *testing.M) int {
	dir, err := os.MkdirTemp("", "wanpair-pair-")
	if err != nil {
		fmt.Fprintln(os.Stderr, err)
		return 1
	}
	defer os.RemoveAll(dir)
	if err := os.Chmod(dir, 0o755); err != nil { // gateways without rights run it too
		fmt.Fprintln(os.Stderr, err)
		return 1
	}
	binary = filepath.Join(dir, "wanpair")
	out, err := exec.Command("go", "build", "-o", binary, "wanpair/cmd/wanpair").CombinedOutput()
	if err != nil {
		fmt.Fprintf(os.Stderr, "build the gateway: %v\n%s", err, out)
		return 1
	}
	return m.Run()
}

// world is a lab with two running gateways, a web server behind the far one, and a directory.
type world struct {
	t   *testing.T
	ctx context.Context
	lab *lab.Lab
	*pair.Pair
	dir string // readable by servers that give up root
	www string // what nginx serves and takes
}

// testLink is fast enough for 100 MB in seconds and long enough for every race of a WAN.
const testLink = "both delay=10ms rate=500mbit queue=2m"

func newWorld(t *testing.T, linkWords string) *world {
	t.Helper()
	return newWorldWith(t, lab.Config{Link: linkWords}, pair.Config{})
}

// newWorldWith is newWorld with more of the lab and of the gateways said; lab, binary and directory are filled in.
func newWorldWith(t *testing.T, labConfig lab.Config, pairConfig pair.Config) *world {
	t.Helper()
	labtest.Require(t)
	ctx, cancel := context.WithTimeout(t.Context(), 10*time.Minute) // a busy machine included
	t.Cleanup(cancel)
	w := &world{t: t, ctx: ctx}
	var err error
	w.dir, err = os.MkdirTemp("", "wanpair-world-")
	w.check(err)
	t.Cleanup(func() { os.RemoveAll(w.dir) })
	w.check(os.Chmod(w.dir, 0o755))
	w.lab, err = lab.Up(ctx, labConfig)
	w.check(err)
	t.Cleanup(func() {
		if err := w.lab.Down(); err != nil {
			t.Error(err)
		}
	})
	pairConfig.Lab, pairConfig.Binary, pairConfig.Dir = w.lab, binary, filepath.Join(w.dir, "pair")
	w.Pair, err = pair.Start(ctx, pairConfig)
	w.check(err)
	t.Cleanup(func() {
		if t.Failed() {
			for _, g := range []*pair.Gateway{w.Near, w.Far} {
				b, _ := os.ReadFile(g.LogPath())
				t.Logf("log of %s:\n%s", g.Name, b[max(0, len(b)-20000):])
			}
		}
		if err := w.Stop(context.WithoutCancel(ctx)); err != nil {
			t.Error(err)
		}
	})
	w.waitUp(2 * patience)
	return w
}

func (w *world) check(err error) {
	w.t.Helper()
	if err != nil {
		w.t.Fatal(err)
	}
}

func (w *world) waitUp(patience time.Duration) {
	w.t.Helper()
	ctx, cancel := context.WithTimeout(w.ctx, patience)
	defer cancel()
	w.check(w.WaitUp(ctx))
}

// waitStats waits until the stats of a gateway satisfy ok.
func (w *world) waitStats(g *pair.Gateway, what string, ok func(pair.PeerStats) bool) {
	w.t.Helper()
	var last pair.PeerStats
	deadline := time.Now().Add(2 * patience)
	for time.Now().Before(deadline) {
		p, err := g.Peer(w.ctx)
		w.check(err)
		if last = p; ok(p) {
			return
		}
		time.Sleep(50 * time.Millisecond) // the condition lives in another process
	}
	w.t.Fatalf("%s: never %s; last %+v", g.Name, what, last)
}

// run runs a program on a node and returns what it printed.
func (w *world) run(n lab.Node, name string, args ...string) (string, error) {
	w.t.Helper()
	out, err := w.lab.Command(w.ctx, n, name, args...).CombinedOutput()
	return string(out), err
}

func (w *world) must(n lab.Node, name string, args ...string) string {
	w.t.Helper()
	out, err := w.run(n, name, args...)
	if err != nil {
		w.t.Fatalf("%s %s: %v\n%s", name, strings.Join(args, " "), err, out)
	}
	return out
}

// nginx starts a web server on the server node that serves and takes files of w.www.
func (w *world) nginx() {
	w.t.Helper()
	w.www = filepath.Join(w.dir, "www")
	w.check(os.MkdirAll(w.www, 0o777))
	w.check(os.Chmod(w.www, 0o777))
	conf := filepath.Join(w.dir, "nginx.conf")
	w.check(os.WriteFile(conf, fmt.Appendf(nil, `
user root; daemon off; pid %[1]s/nginx.pid; error_log %[1]s/nginx-error.log; worker_processes 1;
events { worker_connections 256; }
http {
  access_log %[1]s/nginx-access.log; sendfile on; client_max_body_size 1g; client_body_temp_path %[1]s/body;
  proxy_temp_path %[1]s/p; fastcgi_temp_path %[1]s/f; uwsgi_temp_path %[1]s/u; scgi_temp_path %[1]s/s;
  server { listen 80; listen [::]:80; root %[2]s; dav_methods PUT; }
}`, w.dir, w.www), 0o644))
	w.start(lab.Server, "nginx", "-c", conf)
	w.check(w.lab.WaitTCP(w.ctx, lab.Server, "127.0.0.1:80", 2*patience))
}

// start runs a program in the background until the test ends.
func (w *world) start(n lab.Node, name string, args ...string) *exec.Cmd {
	w.t.Helper()
	cmd := w.lab.Command(w.ctx, n, name, args...)
	log, err := os.Create(filepath.Join(w.dir, filepath.Base(name)+".log"))
	w.check(err)
	cmd.Stdout, cmd.Stderr = log, log
	w.check(cmd.Start())
	w.t.Cleanup(func() {
		_ = cmd.Process.Signal(syscall.SIGTERM)
		_ = cmd.Wait()
		log.Close()
	})
	return cmd
}

// wanBytes is what crossed the link in both directions since start, as the near gateway counts it.
func (w *world) wanBytes() int64 {
	w.t.Helper()
	p, err := w.Near.Peer(w.ctx)
	w.check(err)
	return p.WANBytes.Sent + p.WANBytes.Received
}

// flows is how many flows the near gateway took since start of its process, by metrics.
func (w *world) carried() int64 {
	w.t.Helper()
	p, err := w.Near.Peer(w.ctx)
	w.check(err)
	return p.LANBytes.Sent + p.LANBytes.Received
}
