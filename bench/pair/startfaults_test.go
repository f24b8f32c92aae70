package pair_test

import (
	"context"
	"errors"
	"fmt"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"

	"wanpair/bench/lab"
	"wanpair/bench/lab/labtest"
	"wanpair/bench/pair"
)

// TestFailedStartLeavesNothing gives a gateway with all rights, which would divert connections, something it cannot start with. It says so
// in one line, ends with a status that is not 0, and leaves neither rules nor interfaces, sockets or processes; connections pass raw.
func TestFailedStartLeavesNothing(t *testing.T) {
	t.Parallel()
	l := labtest.Up(t, lab.Config{Link: testLink})
	dir, err := os.MkdirTemp("", "wanpair-start-") //nolint:usetesting // others read it
	must(t, err)
	t.Cleanup(func() { os.RemoveAll(dir) })
	p, err := pair.Prepare(t.Context(), pair.Config{Lab: l, Binary: binary, Dir: dir})
	must(t, err)
	w := &world{t: t, ctx: t.Context(), lab: l, Pair: p, dir: dir}
	w.serve("7900", echoServer)
	node := p.Near.Node()
	config, err := os.ReadFile(p.Near.ConfigPath())
	must(t, err)
	keyFile := filepath.Join(p.Near.Dir(), "private.key")
	key, err := os.ReadFile(keyFile)
	must(t, err)

	listen := func(address string) func(*testing.T) {
		return func(t *testing.T) {
			held, err := l.Listen(t.Context(), node, address)
			must(t, err)
			t.Cleanup(func() { held.Close() })
		}
	}
	change := func(old, replacement string) func(*testing.T) {
		return func(t *testing.T) {
			if !strings.Contains(string(config), old) {
				t.Fatalf("no %q in the configuration", old)
			}
			must(t, os.WriteFile(p.Near.ConfigPath(), []byte(strings.Replace(string(config), old, replacement, 1)), 0o644))
		}
	}
	sysctl := func(key, value, normal string) func(*testing.T) {
		return func(t *testing.T) {
			w.must(node, "sysctl", "-qw", key+"="+value)
			t.Cleanup(func() { w.must(node, "sysctl", "-qw", key+"="+normal) })
		}
	}
	const firewallSays = "chain input of table inet fw drops"
	for _, c := range []struct {
		name string
		do   func(*testing.T)
		want string
	}{
		{"unknown key", change("[stats]", "[stats]\ncolour = \"red\""), "colour"},
		{"bad prefix", change(lab.SubnetB4, "10.2.0.0/99"), "10.2.0.0/99"},
		{"size that is none", change(`"1GiB"`, `"many"`), "many"},
		{"public key that is none", change(p.Far.PublicKey(), "QUJD"), "public_keys"},
		{"no configuration", func(t *testing.T) { must(t, os.Remove(p.Near.ConfigPath())) }, "wanpair.toml"},
		{"no private key", func(t *testing.T) { must(t, os.Remove(keyFile)) }, "private.key"},
		{"private key that is none", func(t *testing.T) { must(t, os.WriteFile(keyFile, []byte("not a key\n"), 0o600)) }, "private.key"},
		{"stats port in use", listen(fmt.Sprintf("127.0.0.1:%d", pair.StatsPort)), "in use"},
		{"port of the diverted connections in use", listen("127.0.0.1:4601"), "in use"},
		{"tunnel port in use", func(t *testing.T) {
			var held net.PacketConn
			must(t, l.Do(node, func() (err error) {
				held, err = net.ListenPacket("udp", fmt.Sprintf("0.0.0.0:%d", pair.TunnelPort)) //nolint:noctx // nothing to wait for
				return err
			}))
			t.Cleanup(func() { held.Close() })
		}, "in use"},
		{"cache is a file", func(t *testing.T) {
			must(t, os.RemoveAll(p.Near.CacheDir()))
			must(t, os.WriteFile(p.Near.CacheDir(), nil, 0o644))
			t.Cleanup(func() { os.Remove(p.Near.CacheDir()) })
		}, "cache"},
		{"no router", sysctl("net.ipv4.ip_forward", "0", "1"), "ip_forward"},
		{"a black hole", sysctl("net.ipv4.conf.all.src_valid_mark", "1", "0"), "src_valid_mark"},
		{"a firewall in the way", func(t *testing.T) {
			w.must(node, "nft", "add table inet fw; add chain inet fw input { type filter hook input priority 0; policy drop; }; add rule inet fw input iifname lo accept")
			t.Cleanup(func() { w.must(node, "nft", "delete table inet fw") })
		}, firewallSays},
		{"somebody else's table", func(t *testing.T) {
			w.must(node, "nft", "add table inet wanpair; add chain inet wanpair theirs")
			t.Cleanup(func() { w.must(node, "nft", "delete table inet wanpair") })
		}, "wanpair"},
	} {
		t.Run(c.name, func(t *testing.T) {
			before := w.installed(t, node)
			t.Cleanup(func() { // first what the fault's own clean-up does, then this
				must(t, os.WriteFile(p.Near.ConfigPath(), config, 0o644))
				must(t, os.WriteFile(keyFile, key, 0o600))
				if after := w.installed(t, node); after != before {
					t.Errorf("left behind:\n%s\nbefore:\n%s", after, before)
				}
				for _, fam := range families() {
					must(t, w.echo(fam.server, "7900", patience))
				}
			})
			c.do(t)
			ctx, cancel := context.WithTimeout(t.Context(), 2*patience)
			defer cancel()
			out, err := l.Command(ctx, node, binary, "gateway", "-c", p.Near.ConfigPath()).CombinedOutput()
			if exit := (*exec.ExitError)(nil); !errors.As(err, &exit) || exit.ExitCode() <= 0 {
				t.Fatalf("%v, want an exit status above 0:\n%s", err, out)
			}
			said := faultLines(string(out))
			for _, line := range said { // one per fault: a firewall may be in the way of several things
				if !strings.Contains(line, c.want) {
					t.Errorf("want a line that speaks of %q:\n%s", c.want, line)
				}
			}
			if len(said) == 0 || len(said) > 1 && c.want != firewallSays {
				t.Errorf("want one line that speaks of %q:\n%s", c.want, out)
			}
			t.Log(said)
		})
	}
	// With nothing in the way it starts.
	must(t, p.Near.Start(t.Context()))
	eventually(t, patience, "the start", func() error {
		_, err := p.Near.Stats(t.Context())
		return err
	})
	must(t, p.Near.Stop(t.Context()))
}

// faultLines are the lines of a program's output but those of its log below the level of errors.
func faultLines(out string) []string {
	var lines []string
	for line := range strings.Lines(out) {
		if line = strings.TrimSpace(line); line != "" && !strings.Contains(line, "level=INFO") && !strings.Contains(line, "level=WARN") && !strings.Contains(line, "level=DEBUG") {
			lines = append(lines, line)
		}
	}
	return lines
}

// installed is what a gateway could leave on a host: rules, routes, interfaces, listening sockets.
func (w *world) installed(t *testing.T, n lab.Node) string {
	t.Helper()
	var b strings.Builder
	for _, command := range []string{"nft list ruleset", "ip rule", "ip -6 rule", "ip route show table all", "ip -6 route show table 4600", "ip -o -brief link", "ss -Hltnu"} {
		args := strings.Fields(command)
		out, err := w.run(n, args[0], args[1:]...)
		if err != nil && !strings.Contains(command, "table 4600") { // no such table is as good as an empty one
			t.Fatalf("%s: %v\n%s", command, err, out)
		}
		if err != nil {
			continue
		}
		fmt.Fprintf(&b, "%s:\n", command)
		for line := range strings.Lines(out) {
			if !strings.Contains(line, "fe80:") { // the kernel's own, which appear when it is sure of them
				b.WriteString(line)
			}
		}
	}
	return b.String()
}
