package pair_test

import (
	"fmt"
	"net"
	"net/http"
	"os/exec"
	"strings"
	"testing"
)

// TestSocksWithoutRoot uses curl as the client: names and addresses of both families, and refusals that arrive as such.
func TestSocksWithoutRoot(t *testing.T) {
	ports := freePorts(t, 6)
	near, far := newUnprivileged(t, ports[0], ports[1]), newUnprivileged(t, ports[2], ports[3])
	server4, server6 := listenBoth(t)
	_, port, _ := net.SplitHostPort(server4.Addr().String())
	web := &http.Server{Handler: http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		fmt.Fprintf(w, "hello over socks at %s", r.Context().Value(http.LocalAddrContextKey).(net.Addr).(*net.TCPAddr).IP)
	}), ReadHeaderTimeout: patience}
	serve(t, web, server4, server6)

	near.start(t, far, "127.0.0.0/8 ::1/128", fmt.Sprintf("[socks]\nlisten = %q\n", ports[4]))
	far.start(t, near, "10.1.0.0/16", "[egress]\nallow = [\"127.0.0.1/32\", \"::1/128\"]\n")
	near.waitUp(t)
	far.waitUp(t)
	curl := func(url string) (string, int) {
		cmd := exec.CommandContext(t.Context(), "curl", "-sS", "-m", "30", "--socks5-hostname", ports[4], url)
		out, _ := cmd.CombinedOutput()
		return string(out), cmd.ProcessState.ExitCode()
	}
	for host, at := range map[string]string{"127.0.0.1": "127.0.0.1", "localhost": "", "[::1]": "::1"} {
		if host == "[::1]" && server6 == nil {
			continue
		}
		if out, code := curl("http://" + host + ":" + port); code != 0 || !strings.HasPrefix(out, "hello over socks at "+at) {
			t.Errorf("%s: exit status %d: %s", host, code, out)
		}
	}
	near.flowsEnded(t, 2) // what the client got came through the tunnel
	_, closed, _ := net.SplitHostPort(ports[5])
	const curlProxyError = 97
	if out, code := curl("http://127.0.0.1:" + closed); code != curlProxyError || !strings.Contains(out, "(5)") {
		t.Errorf("a refused connection: exit status %d: %s", code, out)
	}
	if out, code := curl("http://127.9.9.9:" + port); code != curlProxyError || !strings.Contains(out, "(2)") {
		t.Errorf("a target that is not allowed: exit status %d: %s", code, out)
	}
}
