package pair_test

import (
	"context"
	"errors"
	"fmt"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
	"syscall"
	"testing"

	"wanpair/bench/lab"
	"wanpair/bench/lab/labtest"
	"wanpair/bench/pair"
)

// TestListeningSockets asks the kernel which sockets of the gateways wait for anybody, with traffic going on, and looks from both networks
// which of them answer.
func TestListeningSockets(t *testing.T) {
	t.Parallel()
	w := newWorld(t, testLink)
	w.serve("7500", echoServer)
	for _, fam := range families() {
		must(t, w.echo(fam.server, "7500", patience))
	}
	want := []string{
		"tcp 127.0.0.1:4601", fmt.Sprintf("tcp 127.0.0.1:%d", pair.StatsPort), "tcp [::1]:4601", fmt.Sprintf("udp 0.0.0.0:%d", pair.TunnelPort),
	}
	// The side that dials has further UDP sockets, one per lane but the first, on ports of the kernel's choice: they take answers only.
	const furtherLanes = 3
	ephemeral := regexp.MustCompile(`^udp 0\.0\.0\.0:[3-6]\d{4}$`)
	for _, n := range []lab.Node{lab.GatewayA, lab.GatewayB} {
		eventually(t, patience, "sockets as configured", func() error { // a lane that is dialled again has two for a moment
			var got []string
			further := 0
			for line := range strings.Lines(w.must(n, "ss", "-Hltnup")) {
				f := strings.Fields(line)
				if len(f) < 5 {
					return fmt.Errorf("ss printed %q", line)
				}
				if socket := f[0] + " " + f[4]; ephemeral.MatchString(socket) {
					further++
				} else {
					got = append(got, socket)
				}
			}
			slices.Sort(got)
			if !slices.Equal(got, want) {
				return fmt.Errorf("%s listens on %q, want %q", n, got, want)
			}
			if n == lab.GatewayB && further > 0 || further > furtherLanes {
				return fmt.Errorf("%s has %d further UDP sockets", n, further)
			}
			return nil
		})
	}
	eachFamily(t, func(t *testing.T, fam family) {
		for _, host := range []string{fam.gatewayALAN, fam.gatewayBWAN} {
			if open := w.openPorts(lab.Client, host); len(open) > 0 {
				t.Errorf("from the client %s answers on TCP ports %v", host, open)
			}
		}
		for _, host := range []string{fam.gatewayBLAN} {
			if open := w.openPorts(lab.Server, host); len(open) > 0 {
				t.Errorf("from the server %s answers on TCP ports %v", host, open)
			}
		}
	})
	// A scanner that finds nothing anywhere would prove nothing.
	if open := w.openPorts(lab.Client, lab.ServerIP4); !slices.Contains(open, "7500") {
		t.Errorf("the scan of the server found only %v", open)
	}
}

// openPorts lets nmap try the TCP ports of a host from a node that have a service somewhere, and ours: the first 9999. All of them are what
// ss is asked for.
func (w *world) openPorts(n lab.Node, host string) []string {
	w.t.Helper()
	if _, err := exec.LookPath("nmap"); err != nil {
		labtest.Refuse(w.t, err)
	}
	args := []string{"-n", "-Pn", "-sS", "-T4", "--min-rate", "5000", "-p", "1-9999", "-oG", "-", host}
	if strings.Contains(host, ":") {
		args = append([]string{"-6"}, args...)
	}
	out := w.must(n, "nmap", args...)
	if !strings.Contains(out, "Status: Up") {
		w.t.Fatalf("nmap:\n%s", out)
	}
	var open []string
	for _, m := range regexp.MustCompile(`(\d+)/open/tcp`).FindAllStringSubmatch(out, -1) {
		open = append(open, m[1])
	}
	return open
}

// TestFarSideDialsOnlyForThePeersClients: a near gateway that stands for clients which are not its own gets nowhere.
func TestFarSideDialsOnlyForThePeersClients(t *testing.T) {
	t.Parallel()
	w := newWorld(t, testLink)
	conns := w.accepts(t, "7501")
	const foreign = "10.77.0.2"
	w.must(lab.Client, "ip", "address", "add", foreign+"/32", "dev", lab.HostDevice)
	w.must(lab.GatewayA, "ip", "route", "add", foreign+"/32", "dev", lab.LANDevice)
	w.must(lab.GatewayB, "ip", "route", "add", foreign+"/32", "dev", lab.WANDevice)
	must(t, w.Near.Stop(w.ctx))
	edit(t, w.Near, fmt.Sprintf("subnets = [%q, %q]\n\n[stats]", lab.SubnetA4, lab.SubnetA6), fmt.Sprintf("subnets = [%q, %q, %q]\n\n[stats]", lab.SubnetA4, lab.SubnetA6, foreign+"/32"))
	must(t, w.Near.Start(w.ctx))
	w.waitUp(patience)

	c, err := w.dialFrom(lab.Client, addr(foreign, 40_000), net.JoinHostPort(lab.ServerIP4, "7501"), patience)
	if err == nil {
		defer c.Close()
		_, err = c.Read(make([]byte, 1))
	}
	if !isReset(err) {
		t.Errorf("the foreign client saw %v instead of a reset", err)
	}
	select {
	case s := <-conns:
		t.Errorf("the server got a connection from %s", s.RemoteAddr())
	default:
	}
	logContains(t, w.Far, "source is outside the subnets of the peer that asks")
	own := w.connect(t, lab.ServerIP4, "7501")
	must(t, talk(own, next(t, conns), 1))
}

// TestKeyFilesAndSecrets: a private key that others may read is refused, and nothing the gateway says, on any path, contains one.
func TestKeyFilesAndSecrets(t *testing.T) {
	t.Parallel()
	w := newWorld(t, testLink) // with the debug log
	w.serve("7502", echoServer)
	must(t, w.echo(lab.ServerIP4, "7502", patience))
	for _, g := range []*pair.Gateway{w.Near, w.Far} {
		keyFile := filepath.Join(g.Dir(), "private.key")
		secret, err := os.ReadFile(keyFile)
		must(t, err)
		key := strings.TrimSpace(string(secret))
		said := map[string]string{}
		for _, path := range []string{"/", "/metrics", "/api/v1/stats", "/api/v1/flows", "/api/v1/events", "/api/v1/top", "/healthz", "/readyz", "/debug/pprof/", "/debug/pprof/cmdline", "/private.key", "/..%2fprivate.key"} {
			body, _, err := g.Get(w.ctx, path)
			must(t, err)
			said[path] = string(body)
		}
		log, err := os.ReadFile(g.LogPath())
		must(t, err)
		said["log"] = string(log)
		for _, of := range []string{"cmdline", "environ"} {
			b, err := os.ReadFile(fmt.Sprintf("/proc/%d/%s", g.PID(), of))
			must(t, err)
			said[of] = string(b)
		}
		for _, args := range [][]string{{"status"}, {"check"}} {
			out, _ := w.run(g.Node(), binary, append(args, "-c", g.ConfigPath())...)
			said[args[0]] = out
		}
		for where, text := range said {
			if strings.Contains(text, key) {
				t.Errorf("%s: the private key stands in %s", g.Name, where)
			}
		}
		info, err := os.Stat(keyFile)
		must(t, err)
		if mode := info.Mode().Perm(); mode != 0o600 {
			t.Errorf("keygen made the file with mode %o", mode)
		}
	}
	g := w.Near
	keyFile := filepath.Join(g.Dir(), "private.key")
	must(t, g.Stop(w.ctx))
	for _, mode := range []os.FileMode{0o640, 0o604, 0o644, 0o660} {
		must(t, os.Chmod(keyFile, mode))
		ctx, cancel := context.WithTimeout(w.ctx, patience)
		out, err := w.lab.Command(ctx, g.Node(), binary, "gateway", "-c", g.ConfigPath()).CombinedOutput()
		cancel()
		if exit := (*exec.ExitError)(nil); !errors.As(err, &exit) || exit.ExitCode() <= 0 || !strings.Contains(string(out), "chmod") {
			t.Errorf("with a key file of mode %o: %v\n%s", mode, err, out)
		}
	}
	must(t, os.Chmod(keyFile, 0o600))
	must(t, g.Start(w.ctx))
	w.waitUp(patience)
}

// TestLeastPrivilege: a gateway started by root holds two capabilities, cannot get others, and nor can what it starts.
func TestLeastPrivilege(t *testing.T) {
	t.Parallel()
	w := newWorld(t, testLink)
	const netAdminAndBindService = "0000000000001400" // bits 12 and 10, linux/capability.h
	for _, g := range []*pair.Gateway{w.Near, w.Far} {
		children, err := os.ReadFile(fmt.Sprintf("/proc/%[1]d/task/%[1]d/children", g.PID()))
		must(t, err)
		tasks, err := filepath.Glob(fmt.Sprintf("/proc/%d/task/*", g.PID()))
		must(t, err)
		for _, child := range strings.Fields(string(children)) { // the store
			tasks = append(tasks, "/proc/"+child)
		}
		for _, task := range tasks {
			status, err := os.ReadFile(task + "/status")
			if errors.Is(err, os.ErrNotExist) || errors.Is(err, syscall.ESRCH) {
				continue // a thread that ended
			}
			must(t, err)
			got := map[string]string{}
			for line := range strings.Lines(string(status)) {
				name, value, _ := strings.Cut(line, ":")
				got[name] = strings.TrimSpace(value)
			}
			for name, want := range map[string]string{
				"CapPrm": netAdminAndBindService, "CapEff": netAdminAndBindService, "CapBnd": netAdminAndBindService, "NoNewPrivs": "1",
			} {
				if got[name] != want {
					t.Errorf("%s, %s (%s): %s is %s, want %s", g.Name, task, got["Name"], name, got[name], want)
				}
			}
		}
		if len(tasks) < 2 {
			t.Errorf("looked at %d tasks only", len(tasks))
		}
	}
	w.serve("7503", echoServer)
	w.acceleratedAgain(t, "7503")
}

// TestStatsOnLoopback: the endpoint answers on loopback only.
func TestStatsOnLoopback(t *testing.T) {
	t.Parallel()
	w := newWorld(t, testLink)
	port := fmt.Sprint(pair.StatsPort)
	for _, fam := range families() {
		for n, host := range map[lab.Node]string{lab.Client: fam.gatewayALAN, lab.GatewayA: fam.gatewayALAN, lab.Server: fam.gatewayBLAN} {
			c, err := w.lab.Dial(w.ctx, n, "tcp", net.JoinHostPort(host, port))
			if err == nil {
				c.Close()
			}
			if !errors.Is(err, syscall.ECONNREFUSED) {
				t.Errorf("from %s to %s: %v", n, host, err)
			}
		}
	}
}
