package pair_test

import (
	"fmt"
	"net"
	"net/http"
	"os/exec"
	"strings"
	"testing"
	"time"
)

// TestSocksWithoutRoot uses curl as the client: names and addresses, and refusals that arrive as such.
func TestSocksWithoutRoot(t *testing.T) {
	ports := freePorts(t, 6)
	near, far := newUnprivileged(t, ports[0], ports[1]), newUnprivileged(t, ports[2], ports[3])
	server, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	web := &http.Server{Handler: http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) { fmt.Fprint(w, "hello over socks") }), ReadHeaderTimeout: time.Second}
	go func() { _ = web.Serve(server) }()
	t.Cleanup(func() { web.Close() })
	_, port, _ := net.SplitHostPort(server.Addr().String())

	near.start(t, far, "127.0.0.0/8", fmt.Sprintf("[socks]\nlisten = %q\n", ports[4]))
	far.start(t, near, "10.1.0.0/16", "[egress]\nallow = [\"127.0.0.1/32\"]\n")
	near.waitUp(t)
	far.waitUp(t)
	curl := func(url string) (string, int) {
		cmd := exec.CommandContext(t.Context(), "curl", "-sS", "-m", "10", "--socks5-hostname", ports[4], url)
		out, _ := cmd.CombinedOutput()
		return string(out), cmd.ProcessState.ExitCode()
	}
	for _, host := range []string{"127.0.0.1", "localhost"} {
		if out, code := curl("http://" + host + ":" + port); code != 0 || out != "hello over socks" {
			t.Errorf("%s: exit status %d: %s", host, code, out)
		}
	}
	_, closed, _ := net.SplitHostPort(ports[5])
	const curlProxyError = 97
	if out, code := curl("http://127.0.0.1:" + closed); code != curlProxyError || !strings.Contains(out, "(5)") {
		t.Errorf("a refused connection: exit status %d: %s", code, out)
	}
	if out, code := curl("http://127.9.9.9:" + port); code != curlProxyError || !strings.Contains(out, "(2)") {
		t.Errorf("a target that is not allowed: exit status %d: %s", code, out)
	}
}
