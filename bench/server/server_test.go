package server

import (
	"context"
	"crypto/sha256"
	"encoding/hex"
	"errors"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
)

// sampleTree makes a directory with a few files and returns it with the hash of big.bin.
func sampleTree(t *testing.T, dir string) (root, hash string) {
	t.Helper()
	root = filepath.Join(dir, "root")
	if err := os.MkdirAll(filepath.Join(root, "small"), 0o755); err != nil {
		t.Fatal(err)
	}
	big := []byte(strings.Repeat("a line that is not very new\n", 40_000))
	write := func(name string, data []byte) {
		if err := os.WriteFile(filepath.Join(root, name), data, 0o644); err != nil {
			t.Fatal(err)
		}
	}
	write("big.bin", big)
	for _, name := range []string{"a.txt", "b.txt", "c.txt"} {
		write(filepath.Join("small", name), []byte("content of "+name))
	}
	sum := sha256.Sum256(big)
	return root, hex.EncodeToString(sum[:])
}

// stopAtEnd fails the test when the server does not end well.
func stopAtEnd(t *testing.T, stop func() error) {
	t.Helper()
	t.Cleanup(func() {
		if err := stop(); err != nil {
			t.Error(err)
		}
	})
}

func needRoot(t *testing.T) {
	t.Helper()
	if os.Geteuid() == 0 {
		return
	}
	if os.Getenv("WANPAIR_REQUIRE_ROOT") == "1" {
		t.Fatal("needs root")
	}
	t.Skip("needs root")
}

func TestNginxAndLoad(t *testing.T) {
	need(t, "nginx", "curl")
	dir := openDir(t)
	root, hash := sampleTree(t, dir)
	n, err := StartNginx(t.Context(), Here(), filepath.Join(dir, "nginx"), root)
	if err != nil {
		t.Fatal(err)
	}
	stopAtEnd(t, n.Stop)
	for _, c := range []struct {
		url   string
		http2 bool
	}{{n.URL("big.bin"), false}, {n.URL2("big.bin"), true}, {n.URLTLS("big.bin"), false}} {
		out, err := Fetch(t.Context(), Here(), c.url, c.http2)
		if err != nil || out.SHA256 != hash || out.FirstByte <= 0 || out.Total < out.FirstByte {
			t.Errorf("%s: %+v %v", c.url, out, err)
		}
	}
	if _, err := Fetch(t.Context(), Here(), n.URL("missing"), false); err == nil || !strings.Contains(err.Error(), "404") {
		t.Errorf("a missing file: %v", err)
	}
	t.Run("wrk", func(t *testing.T) {
		need(t, "wrk")
		load, err := Wrk(t.Context(), Here(), n.URL("small/a.txt"), 2, time.Second, false)
		if err != nil || load.Requests == 0 || load.Errors != 0 || load.Percentiles.P50 <= 0 || load.Percentiles.Max < load.Percentiles.P99 {
			t.Errorf("%+v %v", load, err)
		}
	})
	t.Run("h2load", func(t *testing.T) {
		need(t, "h2load")
		load, err := H2load(t.Context(), Here(), n.URL2("small/a.txt"), 100, 2, 10)
		if err != nil || load.Requests != 100 || load.Errors != 0 || len(load.Latencies) != 100 {
			t.Errorf("%d requests, %d errors, %v", load.Requests, load.Errors, err)
		}
	})
	t.Run("kcptun", func(t *testing.T) {
		need(t, "kcptun-client", "kcptun-server")
		k, err := StartKcptun(t.Context(), Here(), Here(), filepath.Join(dir, "kcptun"), n.Address())
		if err != nil {
			t.Fatal(err)
		}
		stopAtEnd(t, k.Stop)
		out, err := Fetch(t.Context(), Here(), "http://"+k.Address()+"/big.bin", false)
		if err != nil || out.SHA256 != hash {
			t.Errorf("%+v %v", out, err)
		}
	})
}

func TestRsync(t *testing.T) {
	need(t, "rsync")
	dir := openDir(t)
	root, _ := sampleTree(t, dir)
	r, err := StartRsync(t.Context(), Here(), filepath.Join(dir, "rsync"), root)
	if err != nil {
		t.Fatal(err)
	}
	stopAtEnd(t, r.Stop)
	for _, args := range [][]string{nil, {"-z"}} {
		into := t.TempDir()
		if err := r.Pull(t.Context(), Here(), "small", into, args...); err != nil {
			t.Fatal(err)
		}
		if got, err := os.ReadFile(filepath.Join(into, "b.txt")); err != nil || string(got) != "content of b.txt" {
			t.Errorf("%q %v", got, err)
		}
	}
}

func TestGit(t *testing.T) {
	need(t, "git")
	dir := openDir(t)
	root, _ := sampleTree(t, dir)
	base := filepath.Join(dir, "repositories")
	if err := os.Mkdir(base, 0o755); err != nil {
		t.Fatal(err)
	}
	g, err := StartGit(t.Context(), Here(), filepath.Join(dir, "git"), base)
	if err != nil {
		t.Fatal(err)
	}
	stopAtEnd(t, g.Stop)
	if err := g.Commit(t.Context(), "source.git", root, "one"); err != nil {
		t.Fatal(err)
	}
	clone := filepath.Join(dir, "clone")
	if err := g.Clone(t.Context(), Here(), "source.git", clone); err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(filepath.Join(root, "small", "a.txt"), []byte("second release"), 0o644); err != nil {
		t.Fatal(err)
	}
	if err := g.Commit(t.Context(), "source.git", root, "two"); err != nil {
		t.Fatal(err)
	}
	if err := g.Update(t.Context(), Here(), clone); err != nil {
		t.Fatal(err)
	}
	if got, err := os.ReadFile(filepath.Join(clone, "small", "a.txt")); err != nil || string(got) != "second release" {
		t.Errorf("%q %v", got, err)
	}
}

func TestSamba(t *testing.T) {
	needRoot(t)
	need(t, "smbd", "smbclient")
	dir := openDir(t)
	root, _ := sampleTree(t, dir)
	s, err := StartSamba(t.Context(), Here(), filepath.Join(dir, "samba"), root)
	if err != nil {
		t.Fatal(err)
	}
	stopAtEnd(t, s.Stop)
	into := t.TempDir()
	if err := s.Get(t.Context(), Here(), "small/*", into); err != nil {
		t.Fatal(err)
	}
	if got, err := os.ReadFile(filepath.Join(into, "c.txt")); err != nil || string(got) != "content of c.txt" {
		t.Errorf("%q %v", got, err)
	}
}

func TestNFS(t *testing.T) {
	needRoot(t)
	need(t, "ganesha.nfsd", "rpcbind", "nfs-cp", "nfs-ls", "unshare")
	dir := openDir(t)
	root, _ := sampleTree(t, dir)
	n, err := StartNFS(t.Context(), Here(), filepath.Join(dir, "nfs"), root)
	if err != nil {
		t.Fatal(err)
	}
	stopAtEnd(t, n.Stop)
	into := filepath.Join(t.TempDir(), "b.txt")
	if err := n.Get(t.Context(), Here(), "small/b.txt", into); err != nil {
		t.Fatal(err)
	}
	if got, err := os.ReadFile(into); err != nil || string(got) != "content of b.txt" {
		t.Errorf("%q %v", got, err)
	}
	list, err := n.List(t.Context(), Here(), "small")
	if err != nil || !strings.Contains(list, "a.txt") {
		t.Errorf("%q %v", list, err)
	}
}

func TestSSH(t *testing.T) {
	needRoot(t)
	need(t, "sshd", "ssh", "scp", "ssh-keygen")
	dir := openDir(t)
	root, hash := sampleTree(t, dir)
	s, err := StartSSH(t.Context(), Here(), filepath.Join(dir, "ssh"))
	if err != nil {
		t.Fatal(err)
	}
	stopAtEnd(t, s.Stop)
	out, err := s.Cat(t.Context(), Here(), filepath.Join(root, "big.bin"), true)
	if err != nil || out.SHA256 != hash {
		t.Errorf("%+v %v", out, err)
	}
	into := filepath.Join(t.TempDir(), "a.txt")
	if err := s.Copy(t.Context(), Here(), filepath.Join(root, "small", "a.txt"), into); err != nil {
		t.Fatal(err)
	}
	if got, err := os.ReadFile(into); err != nil || string(got) != "content of a.txt" {
		t.Errorf("%q %v", got, err)
	}
}

func TestBulk(t *testing.T) {
	root, hash := sampleTree(t, t.TempDir())
	options := SocketOptions{Congestion: "cubic", BufferBytes: 1 << 20, WindowClampBytes: 65535}
	b, err := StartBulk(t.Context(), Here(), filepath.Join(root, "big.bin"), options)
	if err != nil {
		t.Fatal(err)
	}
	stopAtEnd(t, b.Stop)
	out, err := b.Receive(t.Context(), Here(), 0, b.Size(), options)
	if err != nil || out.SHA256 != hash || out.Bytes != b.Size() {
		t.Errorf("%+v %v", out, err)
	}
	part, err := b.Receive(t.Context(), Here(), 1000, 5000, SocketOptions{})
	want, hashErr := b.Hash(1000, 5000)
	if err != nil || hashErr != nil || part.SHA256 != want {
		t.Errorf("a part: %+v %v %v", part, err, hashErr)
	}
	if _, err := b.Receive(t.Context(), Here(), b.Size(), 1, SocketOptions{}); !errors.Is(err, ErrRange) {
		t.Errorf("beyond the end: %v", err)
	}
	if _, err := b.Receive(t.Context(), Here(), 0, 1, SocketOptions{Congestion: "nonsense"}); err == nil {
		t.Error("an unknown congestion control was accepted")
	}
}

func TestParsers(t *testing.T) {
	us := time.Microsecond
	wrk, err := parseWrk("Running 1s test\nWANBENCH 10 1 1000 1000000 100 200 300 400\n")
	want := Load{Requests: 10, Errors: 1, Bytes: 1000, Took: time.Second, Percentiles: Percentiles{100 * us, 200 * us, 300 * us, 400 * us}}
	if diff := cmp.Diff(want, wrk); err != nil || diff != "" {
		t.Errorf("%v %s", err, diff)
	}
	h2, err := parseH2load(strings.NewReader("1\t200\t50\n2\t-1\t0\n"))
	if diff := cmp.Diff(Load{Requests: 2, Errors: 1, Latencies: []time.Duration{50 * us}}, h2); err != nil || diff != "" {
		t.Errorf("%v %s", err, diff)
	}
	pg, err := parsePgbench(strings.NewReader("0 1 250 0 1700000000 5\n"))
	if diff := cmp.Diff(Load{Requests: 1, Latencies: []time.Duration{250 * us}}, pg); err != nil || diff != "" {
		t.Errorf("%v %s", err, diff)
	}
	for _, bad := range []string{"x", "WANBENCH 1 2", "WANBENCH a b c d e f g h\n", "0\t200\tx\n", "0 1 x\n"} {
		_, err1 := parseWrk(bad)
		_, err2 := parseH2load(strings.NewReader(bad))
		_, err3 := parsePgbench(strings.NewReader(bad))
		for i, err := range []error{err1, err2, err3} {
			if !errors.Is(err, ErrOutput) {
				t.Errorf("parser %d took %q: %v", i, bad, err)
			}
		}
	}
}

func FuzzParsers(f *testing.F) {
	f.Add("WANBENCH 10 1 1000 1000000 100 200 300 400\n")
	f.Add("1\t200\t50\n")
	f.Add("0 1 250 0 1700000000 5\n")
	f.Fuzz(func(t *testing.T, text string) { // no panic, nothing else to hold
		_, _ = parseWrk(text)
		_, _ = parseH2load(strings.NewReader(text))
		_, _ = parsePgbench(strings.NewReader(text))
	})
}

func TestTool(t *testing.T) {
	t.Setenv("PATH", "")
	for name, packages := range debianPackage {
		if packages == "" {
			t.Errorf("%s has no package", name)
		}
	}
	_, err := Tool("no-such-program")
	if !errors.Is(err, ErrMissing) {
		t.Error(err)
	}
	if diff := cmp.Diff([]string{"nfs-ganesha", "nfs-ganesha-vfs", "nginx-light"}, Packages("nginx", "ganesha.nfsd", "nginx")); diff != "" {
		t.Error(diff)
	}
}

func TestFailingClientSaysWhy(t *testing.T) {
	_, err := Text(t.Context(), Here(), exec.Command("sh", "-c", "echo some reason >&2; exit 3"))
	if err == nil || !strings.Contains(err.Error(), "some reason") {
		t.Error(err)
	}
	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	if _, err := Text(ctx, Here(), exec.CommandContext(ctx, "sleep", "60")); !errors.Is(err, context.Canceled) {
		t.Error(err)
	}
}

func TestStopKillsTheGroup(t *testing.T) {
	p, err := startProcess(Here(), "stubborn", exec.Command("sh", "-c", "sleep 60 & echo $!; wait"), filepath.Join(t.TempDir(), "log"))
	if err != nil {
		t.Fatal(err)
	}
	var child string
	if err := p.waitReady(t.Context(), func(context.Context) error {
		if child = tail(p.log); child == "" {
			return errors.New("not yet")
		}
		return nil
	}); err != nil {
		t.Fatal(err)
	}
	if err := p.Stop(syscall.SIGTERM); err != nil {
		t.Error(err)
	}
	if err := p.Stop(syscall.SIGTERM); err != nil {
		t.Errorf("a second time: %v", err)
	}
	for deadline := time.Now().Add(5 * time.Second); ; { // a killed process takes a moment to go
		state, err := os.ReadFile("/proc/" + child + "/stat")
		if err != nil || strings.Contains(string(state), ") Z ") {
			return
		}
		if time.Now().After(deadline) {
			t.Fatalf("the child lives: %s", state)
		}
	}
}
