package main

import (
	"bytes"
	"encoding/json"
	"net/http"
	"net/http/httptest"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"wanpair/accel/config"
	"wanpair/accel/intercept"
	"wanpair/accel/policy"
	"wanpair/accel/stats"
)

// wanpair runs a command line and returns what it printed.
func wanpair(t *testing.T, stdin string, args ...string) (code int, stdout, stderr string) {
	t.Helper()
	var out, errs bytes.Buffer
	code = run(args, output{strings.NewReader(stdin), &out, &errs})
	return code, out.String(), errs.String()
}

func TestKeys(t *testing.T) {
	file := filepath.Join(t.TempDir(), "private.key")
	code, public, stderr := wanpair(t, "", "keygen", "-o", file)
	if code != 0 || stderr != "" {
		t.Fatalf("keygen: %d %s", code, stderr)
	}
	if _, err := config.ParsePublicKey(strings.TrimSuffix(public, "\n")); err != nil || strings.Count(public, "\n") != 1 {
		t.Errorf("keygen printed %q: %v", public, err)
	}
	text, err := os.ReadFile(file)
	if err != nil {
		t.Fatal(err)
	}
	if code, again, _ := wanpair(t, string(text), "pubkey"); code != 0 || again != public {
		t.Errorf("pubkey: %d %q, want %q", code, again, public)
	}
	if code, _, stderr := wanpair(t, "", "keygen", "-o", file); code != exitFault || !strings.Contains(stderr, "not overwritten") {
		t.Errorf("second keygen: %d %s", code, stderr)
	}
	if code, _, stderr := wanpair(t, "nonsense", "pubkey"); code != exitFault || !strings.Contains(stderr, "one line of base64") {
		t.Errorf("pubkey of nonsense: %d %s", code, stderr)
	}
	code, private, stderr := wanpair(t, "", "keygen")
	if _, err := config.ParsePrivateKey(private); code != 0 || err != nil || !strings.HasPrefix(stderr, "public key: ") {
		t.Errorf("keygen without a file: %d %v %s", code, err, stderr)
	}
}

func TestUsage(t *testing.T) {
	for _, tt := range []struct {
		args []string
		code int
		want string // on either output
	}{
		{nil, 0, "Commands:"},
		{[]string{"--help"}, 0, "Commands:"},
		{[]string{"check", "--help"}, 0, "--config=FILE"},
		{[]string{"frobnicate"}, exitUsage, "wanpair: unexpected argument frobnicate"},
		{[]string{"check"}, exitUsage, "wanpair: missing flags: --config=FILE"},
		{[]string{"version"}, 0, "protocol wanpair/1"},
	} {
		code, stdout, stderr := wanpair(t, "", tt.args...)
		if code != tt.code || !strings.Contains(stdout+stderr, tt.want) {
			t.Errorf("wanpair %v: %d, want %d and %q in\n%s%s", tt.args, code, tt.code, tt.want, stdout, stderr)
		}
	}
}

// configFile writes a configuration with a key of its own and returns its path.
func configFile(t *testing.T, more string) string {
	t.Helper()
	dir := t.TempDir()
	key := filepath.Join(dir, "private.key")
	if code, _, stderr := wanpair(t, "", "keygen", "-o", key); code != 0 {
		t.Fatal(stderr)
	}
	_, peer, _ := wanpair(t, "", "keygen", "-o", filepath.Join(dir, "peer.key"))
	text := `site = {name = "ams", private_key_file = "` + key + `"}
cache = {dir = "` + dir + `/cache", size = "64MiB", memory = "64MiB"}
peer = [{name = "nyc", public_keys = ["` + strings.TrimSpace(peer) + `"], subnets = ["10.2.0.0/16"]}]
` + more
	file := filepath.Join(dir, "wanpair.toml")
	if err := os.WriteFile(file, []byte(text), 0o600); err != nil {
		t.Fatal(err)
	}
	return file
}

func TestCheck(t *testing.T) {
	file := configFile(t, "[[forward]]\nlisten = \"127.0.0.1:5433\"\npeer = \"nyc\"\ntarget = \"10.2.0.15:5432\"\n")
	code, stdout, stderr := wanpair(t, "", "check", "-c", file)
	if code != 0 || stderr != "" {
		t.Fatalf("check: %d\n%s", code, stderr)
	}
	for _, want := range []string{"no faults", "site ams", "peer nyc", "it dials this site", "127.0.0.1:5433 to 10.2.0.15:5432 behind nyc", "index ", "anchors "} {
		if !strings.Contains(stdout, want) {
			t.Errorf("no %q in\n%s", want, stdout)
		}
	}

	file = configFile(t, "[intercept]\ninterfaces = [\"nothere0\"]\nsubnets = [\"10.1.0.0/16\"]\n")
	if code, stdout, stderr = wanpair(t, "", "check", "-c", file); code != 0 || !strings.Contains(stdout, "table inet wanpair {") {
		t.Errorf("check of a transparent gateway: %d, no rules in\n%s%s", code, stdout, stderr)
	}
	if !strings.Contains(stderr, "probably not the host the file is for") {
		t.Errorf("the host of another file was judged: %s", stderr)
	}

	file = configFile(t, "[stats]\nlisten = \"0.0.0.0:9460\"\nlissten = 1\n")
	code, stdout, stderr = wanpair(t, "", "check", "-c", file)
	want := file + ":5: stats.listen: 0.0.0.0:9460 is open to others than this machine; add stats.allow or stats.token, or listen on 127.0.0.1\n" +
		file + ":6: stats.lissten: unknown key; did you mean stats.listen?\n"
	if code != exitFault || stdout != "" || stderr != want {
		t.Errorf("check of a faulty file: %d %q\n%s\nwant\n%s", code, stdout, stderr, want)
	}
}

func TestFindings(t *testing.T) {
	for _, tt := range []struct {
		finding intercept.Finding
		fatal   bool
		want    string
	}{
		{intercept.Finding{Severity: intercept.Fatal, Code: "ip_forward", Text: "this host does not forward", Remedy: "Set it."}, true, "fatal: this host does not forward. Set it.\n"},
		{intercept.Finding{Severity: intercept.Fatal, Code: "cap_net_admin", Text: "no rights", Remedy: "Be root."}, false, "warning: no rights. Be root.\n"},
		{intercept.Finding{Severity: intercept.Note, Text: "a limit", Remedy: "Know it."}, false, "note: a limit. Know it.\n"},
	} {
		var b bytes.Buffer
		if fatal := report(&b, []intercept.Finding{tt.finding}); fatal != tt.fatal || b.String() != tt.want {
			t.Errorf("%+v: fatal %v, %q", tt.finding, fatal, b.String())
		}
	}
}

func testReport() stats.Report {
	ratio := 12.5
	r := stats.Report{
		Site: "ams", Version: "v1.2", UptimeSeconds: 7300, Health: "ok", Ready: "ok", FlowsActive: 3,
		FlowsTotal: map[string]uint64{"clean": 7, "reset": 1, "lost": 0},
		FlowsPassed: []stats.PassedReport{{
			ReasonReport: stats.ReasonReport{Number: policy.PassPort, Name: "pass_port", Text: "the destination port is listed"}, Count: 9,
		}},
		Cache: stats.CacheReport{State: "on", SizeBytes: 1 << 30, CapacityBytes: 4 << 30, MemoryBytes: 1 << 20},
		Peers: []stats.PeerReport{{
			Name: "nyc", State: stats.StateUp, StateSeconds: 60, RTTSeconds: 0.1, LossRatio: 0.001, Lanes: 4, Software: "v1.2",
			LAN: stats.Traffic{Sent: 10 << 20}, ReductionRatio: &ratio,
		}, {Name: "sfo", State: stats.StateDown, Detail: "no route to host"}},
	}
	r.Peers[0].Throughput.LAN.Sent = 8e6
	r.Peers[0].Gain.Sent = stats.Gain{MatchedBytes: 90, LiteralBytes: 10, LiteralWireBytes: 4, OpaqueBytes: 3}
	return r
}

func TestStatus(t *testing.T) {
	report, err := json.Marshal(testReport())
	if err != nil {
		t.Fatal(err)
	}
	server := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		switch {
		case r.Header.Get("Authorization") != "Bearer secret":
			http.Error(w, "the token is missing or wrong", http.StatusUnauthorized)
		case r.URL.Path == "/api/v1/stats":
			_, _ = w.Write(report)
		default:
			_, _ = w.Write([]byte(`{"events":[{"time":"2026-01-02T03:04:05Z","kind":"peer_up","peer":"nyc","text":"up","count":2}]}`))
		}
	}))
	defer server.Close()
	address := strings.TrimPrefix(server.URL, "http://")

	code, stdout, stderr := wanpair(t, "", "status", "--stats", address, "--token", "secret")
	if code != 0 {
		t.Fatalf("status: %d %s", code, stderr)
	}
	for _, want := range []string{
		"ams, wanpair v1.2, up 2.0 h, healthy", "nyc        up for 60 s", "RTT 100.0 ms, loss 0.10 %, 4 lanes", "8 mbit/s", "12.50x", "sfo        DOWN for 0 s: no route to host",
		"90.0 % known already, 7.0 % new (compressed to 4 B), 3.0 % not reducible", "3 running; ended: 7 clean, 1 reset", "9   3 pass_port", "1 GiB of 4 GiB (25 %)", "nyc up (2 times)",
	} {
		if !strings.Contains(stdout, want) {
			t.Errorf("no %q in\n%s", want, stdout)
		}
	}
	if code, stdout, _ = wanpair(t, "", "status", "--json", "--stats", address, "--token", "secret"); code != 0 || stdout != string(report) {
		t.Errorf("status --json: %d %s", code, stdout)
	}
	if code, _, stderr = wanpair(t, "", "status", "--stats", address); code != exitFault || !strings.Contains(stderr, "refused: 401 the token is missing or wrong") {
		t.Errorf("status without the token: %d %s", code, stderr)
	}
	server.Close()
	if code, _, stderr = wanpair(t, "", "status", "--stats", address); code != exitFault || !strings.Contains(stderr, "is the gateway running?") {
		t.Errorf("status of nobody: %d %s", code, stderr)
	}
}

func TestStatusFindsTheGatewayOfAConfiguration(t *testing.T) {
	for listen, want := range map[string]string{"0.0.0.0:9999": "127.0.0.1:9999", "[::]:9999": "[::1]:9999", "10.1.0.1:9999": "10.1.0.1:9999"} {
		file := configFile(t, "[stats]\nlisten = \""+listen+"\"\ntoken = \"0123456789abcdef\"\n")
		client, err := statsTarget{Config: file}.client()
		if err != nil {
			t.Fatal(err)
		}
		if client.address != want || client.token != "0123456789abcdef" {
			t.Errorf("%s is asked at %s with token %q", listen, client.address, client.token)
		}
	}
}

func TestAge(t *testing.T) {
	for in, want := range map[time.Duration]string{time.Second: "1 s", 10 * time.Minute: "10 min", 3 * time.Hour: "3.0 h", 100 * time.Hour: "4.2 days"} {
		if got := age(in.Seconds()); got != want {
			t.Errorf("%v is written %q, want %q", in, got, want)
		}
	}
}
