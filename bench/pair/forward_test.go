package pair_test

import (
	"bytes"
	"context"
	"crypto/rand"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"

	"wanpair/bench/pair"
)

// unprivileged is one gateway without any rights, on loopback.
type unprivileged struct {
	dir, key, config string
	tunnel, stats    string
	cmd              *exec.Cmd
	output           bytes.Buffer
}

// nobody runs a command without root's rights.
func nobody(cmd *exec.Cmd) *exec.Cmd {
	if os.Geteuid() == 0 {
		cmd.SysProcAttr = &syscall.SysProcAttr{Credential: &syscall.Credential{Uid: 65534, Gid: 65534}}
	}
	return cmd
}

func freePorts(t *testing.T, n int) []string {
	t.Helper()
	var out []string
	for range n {
		l, err := net.Listen("tcp", "127.0.0.1:0")
		if err != nil {
			t.Fatal(err)
		}
		defer l.Close()
		out = append(out, l.Addr().String())
	}
	return out
}

func newUnprivileged(t *testing.T, tunnel, stats string) *unprivileged {
	t.Helper()
	dir, err := os.MkdirTemp("", "wanpair-forward-")
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { os.RemoveAll(dir) })
	if err := os.Chmod(dir, 0o777); err != nil {
		t.Fatal(err)
	}
	u := &unprivileged{dir: dir, tunnel: tunnel, stats: stats, config: filepath.Join(dir, "wanpair.toml")}
	out, err := nobody(exec.Command(binary, "keygen", "-o", filepath.Join(dir, "private.key"))).Output()
	if err != nil {
		t.Fatalf("keygen: %v", err)
	}
	u.key = strings.TrimSpace(string(out))
	return u
}

// start runs the gateway; peerSubnets are prefixes with spaces in between.
func (u *unprivileged) start(t *testing.T, peer *unprivileged, peerSubnets, extra string) {
	t.Helper()
	text := fmt.Sprintf("[site]\nname = \"a\"\nprivate_key_file = %q\n[cache]\ndir = %q\nsize = \"64MiB\"\nmemory = \"64MiB\"\n[tunnel]\nlisten = %q\n"+
		"[[peer]]\nname = \"other\"\npublic_keys = [%q]\nendpoints = [%q]\nsubnets = [\"%s\"]\n[stats]\nlisten = %q\n%s\n",
		filepath.Join(u.dir, "private.key"), filepath.Join(u.dir, "cache"), u.tunnel, peer.key, peer.tunnel, strings.ReplaceAll(peerSubnets, " ", `", "`), u.stats, extra)
	if err := os.WriteFile(u.config, []byte(text), 0o644); err != nil {
		t.Fatal(err)
	}
	u.cmd = nobody(exec.Command(binary, "gateway", "-c", u.config))
	u.cmd.Stdout, u.cmd.Stderr = &u.output, &u.output
	if err := u.cmd.Start(); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		_ = u.cmd.Process.Signal(syscall.SIGTERM)
		err := u.cmd.Wait()
		if t.Failed() || testing.Verbose() {
			t.Logf("output of %s:\n%s", u.dir, u.output.String())
		}
		if exit := (*exec.ExitError)(nil); errors.As(err, &exit) && exit.ExitCode() >= 0 {
			t.Errorf("exit status %d:\n%s", exit.ExitCode(), u.output.String())
		}
	})
}

func (u *unprivileged) waitUp(t *testing.T) {
	t.Helper()
	deadline := time.Now().Add(2 * patience)
	var last string
	for time.Now().Before(deadline) {
		response, err := http.Get("http://" + u.stats + "/api/v1/stats")
		if err == nil {
			var s pair.Stats
			err = json.NewDecoder(response.Body).Decode(&s)
			response.Body.Close()
			if err == nil && len(s.Peers) == 1 && s.Peers[0].State == "up" {
				return
			}
			last = fmt.Sprintf("%+v", s)
		}
		time.Sleep(20 * time.Millisecond) // the condition lives in another process
	}
	t.Fatalf("not up: %s\n%s", last, u.output.String())
}

// flowsEnded waits until the gateway has carried so many flows through the tunnel to a clean end.
func (u *unprivileged) flowsEnded(t *testing.T, want int) {
	t.Helper()
	eventually(t, patience, "flows through the tunnel", func() error {
		response, err := http.Get("http://" + u.stats + "/api/v1/stats")
		if err != nil {
			return err
		}
		defer response.Body.Close()
		var s struct {
			FlowsTotal map[string]int `json:"flows_total"`
		}
		if err := json.NewDecoder(response.Body).Decode(&s); err != nil {
			return err
		}
		if n := s.FlowsTotal["clean"]; n < want {
			return fmt.Errorf("%d of %d", n, want)
		}
		return nil
	})
}

// listenBoth listens on one port of both loopback addresses; the second is nil where there is no IPv6 or somebody has that port.
func listenBoth(t *testing.T) (v4, v6 net.Listener) {
	t.Helper()
	v4, err := net.Listen("tcp", "127.0.0.1:0")
	must(t, err)
	_, port, _ := net.SplitHostPort(v4.Addr().String())
	if v6, err = net.Listen("tcp", "[::1]:"+port); err != nil {
		t.Logf("no server on IPv6: %v", err)
		return v4, nil
	}
	return v4, v6
}

// serve serves on the listeners that are not nil until the test ends.
func serve(t *testing.T, web *http.Server, listeners ...net.Listener) {
	var serving sync.WaitGroup
	for _, l := range listeners {
		if l != nil {
			serving.Go(func() { _ = web.Serve(l) })
		}
	}
	t.Cleanup(func() { web.Close(); serving.Wait() })
}

// TestForwardWithoutRoot is one laptop and one server: no rights, no namespaces, no rules.
func TestForwardWithoutRoot(t *testing.T) {
	ports := freePorts(t, 7)
	near, far := newUnprivileged(t, ports[0], ports[1]), newUnprivileged(t, ports[2], ports[3])
	blob := make([]byte, 3<<20)
	rand.Read(blob)
	server, server6 := listenBoth(t)
	_, port, _ := net.SplitHostPort(server.Addr().String())
	mux := http.NewServeMux()
	mux.HandleFunc("GET /blob", func(w http.ResponseWriter, _ *http.Request) { _, _ = w.Write(blob) })
	mux.HandleFunc("PUT /length", func(w http.ResponseWriter, r *http.Request) {
		n, _ := io.Copy(io.Discard, r.Body)
		fmt.Fprint(w, n)
	})
	web := &http.Server{Handler: mux, ReadHeaderTimeout: patience}
	serve(t, web, server, server6)

	forwards := map[string]string{ports[4]: server.Addr().String(), ports[5]: "localhost:" + port}
	if server6 != nil {
		forwards[ports[6]] = server6.Addr().String()
	}
	var sections strings.Builder
	for listen, target := range forwards {
		fmt.Fprintf(&sections, "[[forward]]\nlisten = %q\npeer = \"other\"\ntarget = %q\n", listen, target)
	}
	near.start(t, far, "127.0.0.0/8 ::1/128", sections.String())
	far.start(t, near, "10.1.0.0/16", "[egress]\nallow = [\"127.0.0.1/32\", \"::1/128\"]\n")
	near.waitUp(t)
	far.waitUp(t)

	client := http.Client{Transport: &http.Transport{DisableKeepAlives: true}, Timeout: patience}
	fetch := func(address string) {
		t.Helper()
		response, err := client.Get("http://" + address + "/blob")
		if err != nil {
			t.Fatal(err)
		}
		defer response.Body.Close()
		got, err := io.ReadAll(response.Body)
		if err != nil || !bytes.Equal(got, blob) {
			t.Fatalf("%d bytes of %d, %v", len(got), len(blob), err)
		}
	}
	for address := range forwards {
		fetch(address)
		fetch(address)
	}
	near.flowsEnded(t, 2*len(forwards))
	request, _ := http.NewRequestWithContext(t.Context(), http.MethodPut, "http://"+ports[4]+"/length", bytes.NewReader(blob))
	response, err := client.Do(request)
	if err != nil {
		t.Fatal(err)
	}
	said, _ := io.ReadAll(response.Body)
	response.Body.Close()
	if string(said) != fmt.Sprint(len(blob)) {
		t.Errorf("the server counted %s", said)
	}
	if out, err := exec.CommandContext(t.Context(), binary, "status", "-c", near.config).CombinedOutput(); err != nil || !strings.Contains(string(out), "other") {
		t.Errorf("status: %v\n%s", err, out)
	}

	// The far gateway gone: the forward dials its target itself over the bare link.
	if err := far.cmd.Process.Kill(); err != nil {
		t.Fatal(err)
	}
	deadline := time.Now().Add(patience)
	for {
		ctx, cancel := context.WithTimeout(t.Context(), 3*time.Second)
		request, _ := http.NewRequestWithContext(ctx, http.MethodGet, "http://"+ports[4]+"/blob", nil)
		response, err := client.Do(request)
		if err == nil {
			_, err = io.Copy(io.Discard, response.Body)
			response.Body.Close()
		}
		cancel()
		if err == nil {
			break
		}
		if time.Now().After(deadline) {
			t.Fatalf("the forward does not pass raw: %v", err)
		}
	}
}

// TestFarSideDialsOnlyWhatItsConfigurationAllows sends a forward at a target outside egress.allow.
func TestFarSideDialsOnlyWhatItsConfigurationAllows(t *testing.T) {
	ports := freePorts(t, 5)
	near, far := newUnprivileged(t, ports[0], ports[1]), newUnprivileged(t, ports[2], ports[3])
	reached := make(chan struct{}, 1)
	secret, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { secret.Close() })
	go func() {
		if c, err := secret.Accept(); err == nil {
			reached <- struct{}{}
			c.Close()
		}
	}()
	near.start(t, far, "127.0.0.0/8", fmt.Sprintf("[[forward]]\nlisten = %q\npeer = \"other\"\ntarget = %q\n", ports[4], secret.Addr()))
	far.start(t, near, "10.1.0.0/16", "[egress]\nallow = [\"127.0.0.2/32\"]\n")
	near.waitUp(t)
	far.waitUp(t)
	c, err := net.Dial("tcp", ports[4])
	if err == nil { // the reset may come before connect returns
		defer c.Close()
		_ = c.SetDeadline(time.Now().Add(patience))
		_, err = c.Read(make([]byte, 1))
	}
	if !errors.Is(err, syscall.ECONNRESET) {
		t.Errorf("the client saw %v instead of a reset", err)
	}
	select {
	case <-reached:
		t.Error("the far side dialled a target that its configuration does not allow")
	default:
	}
}

// TestStartRefusals: one clear line, an exit status that is not 0, nothing left behind.
func TestStartRefusals(t *testing.T) {
	ports := freePorts(t, 2)
	u, other := newUnprivileged(t, ports[0], ports[1]), newUnprivileged(t, "127.0.0.1:1", "127.0.0.1:2")
	good := fmt.Sprintf("[site]\nname = \"a\"\nprivate_key_file = %q\n[cache]\ndir = %q\nsize = \"64MiB\"\nmemory = \"64MiB\"\n[tunnel]\nlisten = %q\n"+
		"[[peer]]\nname = \"other\"\npublic_keys = [%q]\nsubnets = [\"10.2.0.0/24\"]\n[stats]\nlisten = %q\n",
		filepath.Join(u.dir, "private.key"), filepath.Join(u.dir, "cache"), u.tunnel, other.key, u.stats)
	taken, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer taken.Close()
	udp, err := net.ListenPacket("udp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer udp.Close()
	for name, c := range map[string]struct{ text, want string }{
		"unknown key":         {good + "colour = \"red\"\n", "colour"},
		"bad prefix":          {strings.Replace(good, "10.2.0.0/24", "10.2.0.0/99", 1), "10.2.0.0/99"},
		"size that is none":   {strings.Replace(good, "64MiB", "many", 1), "many"},
		"not TOML":            {good + "[[[\n", "wanpair.toml:"},
		"stats port in use":   {strings.Replace(good, u.stats, taken.Addr().String(), 1), "in use"},
		"tunnel port in use":  {strings.Replace(good, u.tunnel, udp.LocalAddr().String(), 1), "in use"},
		"forward port in use": {good + fmt.Sprintf("[egress]\nallow = [\"10.1.0.0/16\"]\n[[forward]]\nlisten = %q\npeer = \"other\"\ntarget = \"10.2.0.1:80\"\n", taken.Addr()), "in use"},
		"no right to divert":  {good + "[intercept]\ninterfaces = [\"lo\"]\nsubnets = [\"10.1.0.0/16\"]\n", "CAP_NET_ADMIN"},
	} {
		t.Run(name, func(t *testing.T) {
			if err := os.WriteFile(u.config, []byte(c.text), 0o644); err != nil {
				t.Fatal(err)
			}
			ctx, cancel := context.WithTimeout(t.Context(), patience)
			defer cancel()
			out, err := nobody(exec.CommandContext(ctx, binary, "gateway", "-c", u.config)).CombinedOutput()
			if err == nil || ctx.Err() != nil {
				t.Fatalf("it started: %v\n%s", err, out)
			}
			if !strings.Contains(string(out), c.want) {
				t.Errorf("the error does not speak of %q:\n%s", c.want, out)
			}
			if strings.Contains(string(out), "goroutine ") {
				t.Errorf("a stack trace is no message:\n%s", out)
			}
		})
	}
}

// TestStrangersAreRefusedAndNamed: a peer with a key nobody knows.
func TestStrangersAreRefusedAndNamed(t *testing.T) {
	ports := freePorts(t, 4)
	near, far := newUnprivileged(t, ports[0], ports[1]), newUnprivileged(t, ports[2], ports[3])
	somebodyElse := newUnprivileged(t, "127.0.0.1:1", "127.0.0.1:2")
	near.start(t, far, "10.2.0.0/16", "[egress]\nallow = [\"10.1.0.0/16\"]\n")
	far.start(t, somebodyElse, "10.3.0.0/16", "[egress]\nallow = [\"10.1.0.0/16\"]\n")
	deadline := time.Now().Add(patience)
	for {
		out, _ := exec.CommandContext(t.Context(), binary, "status", "-c", near.config).CombinedOutput()
		if strings.Contains(string(out), "key") {
			t.Logf("%s", out)
			break
		}
		if time.Now().After(deadline) {
			t.Fatalf("status does not say that the key is wrong:\n%s\n%s", out, near.output.String())
		}
		time.Sleep(50 * time.Millisecond) // the condition lives in another process
	}
}
