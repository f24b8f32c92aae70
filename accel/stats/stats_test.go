package stats

import (
	"context"
	"encoding/json"
	"fmt"
	"log/slog"
	"math"
	"net/http"
	"net/http/httptest"
	"net/netip"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"github.com/prometheus/client_golang/prometheus/testutil/promlint"
	"go.uber.org/goleak"
	"pgregory.net/rapid"

	"wanpair/accel/config"
	"wanpair/accel/policy"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

func testSnapshot() Snapshot {
	return Snapshot{
		Site: "ams", Version: "v1", Started: time.Now().Add(-time.Minute),
		Peers: []Peer{{
			Name: "nyc", State: StateUp, Since: time.Now().Add(-30 * time.Second), RTT: 100 * time.Millisecond, LossRatio: 0.01, Lanes: 4, Software: "v1",
			LAN: Traffic{Sent: 1000, Received: 2000}, WAN: Traffic{Sent: 100, Received: 400}, ResentBytes: 3,
			Sent:        Gain{MatchedBytes: 900, LiteralBytes: 100, LiteralWireBytes: 50, OpaqueBytes: 10},
			Classes:     []Class{{SharePercent: 70, SentBytes: 60}, {Name: "backup", SharePercent: 30, SentBytes: 40}},
			FlowsActive: 2, MissRepairs: 1, FrameErrors: 4, ZstdLevel: 2,
		}},
		Cache:       Cache{SizeBytes: 5, CapacityBytes: 10, Epochs: 2},
		FlowsActive: 2,
		FlowsEnded:  map[Outcome]uint64{OutcomeClean: 7},
		FlowsPassed: map[policy.Reason]uint64{policy.PassPort: 3},
	}
}

func testFlows() []Flow {
	now := time.Now()
	return []Flow{
		{ID: 1, Source: "10.1.0.1:1000", Destination: "10.2.0.1:80", Peer: "nyc", State: FlowOpen, LAN: Traffic{Sent: 10, Received: 5}, WAN: Traffic{Sent: 1, Received: 2}, Started: now.Add(-time.Minute)},
		{ID: 2, Source: "10.1.0.2:1000", Destination: "10.2.0.1:443", Peer: "nyc", State: FlowOpen, Reason: policy.Encrypted, LAN: Traffic{Sent: 100}, Started: now},
		{ID: 3, Source: "10.1.0.3:1000", Destination: "10.3.0.1:22", Peer: "sfo", State: FlowPassed, Reason: policy.PassPort, Started: now.Add(-time.Second)},
	}
}

// newTestServer serves what the functions return, without sampling.
func newTestServer(t *testing.T, cfg config.Stats, src Source) *Server {
	t.Helper()
	if src.Snapshot == nil {
		src.Snapshot = testSnapshot
	}
	if src.Flows == nil {
		src.Flows = testFlows
	}
	return New(cfg, src, NewEvents(10), slog.New(slog.DiscardHandler))
}

// ask returns the answer to a GET from the given client.
func ask(s *Server, client, path string, header ...string) *httptest.ResponseRecorder {
	r := httptest.NewRequestWithContext(context.Background(), http.MethodGet, path, nil)
	r.RemoteAddr = client
	for i := 0; i+1 < len(header); i += 2 {
		r.Header.Set(header[i], header[i+1])
	}
	w := httptest.NewRecorder()
	s.Handler().ServeHTTP(w, r)
	return w
}

const loopback = "127.0.0.1:50000"

func TestStatsDocument(t *testing.T) {
	s := newTestServer(t, config.Stats{}, Source{})
	start := time.Now()
	peer := testSnapshot().Peers[0]
	for i := range 4 {
		p := peer
		p.LAN.Sent += uint64(i) * 1000
		p.WAN.Sent += uint64(i) * 500
		p.Sent.MatchedBytes += uint64(i) * 600
		p.Sent.LiteralBytes += uint64(i) * 400
		s.rates.add(start.Add(time.Duration(i)*time.Second), []Peer{p})
	}
	w := ask(s, loopback, "/api/v1/stats")
	if w.Code != http.StatusOK || w.Header().Get("Content-Type") != "application/json" {
		t.Fatalf("%d %s", w.Code, w.Header().Get("Content-Type"))
	}
	var doc map[string]any
	if err := json.Unmarshal(w.Body.Bytes(), &doc); err != nil {
		t.Fatal(err)
	}
	got := doc["peers"].([]any)[0].(map[string]any)
	delete(got, "state_seconds")
	want := map[string]any{
		"name": "nyc", "state": "up", "software": "v1", "rtt_seconds": 0.1, "loss_ratio": 0.01, "lanes": 4.0, "clock_skew_seconds": 0.0,
		"lan_bytes": map[string]any{"sent": 1000.0, "received": 2000.0}, "wan_bytes": map[string]any{"sent": 100.0, "received": 400.0}, "resent_bytes": 3.0,
		"throughput_bits_per_second":     map[string]any{"lan": map[string]any{"sent": 8000.0, "received": 0.0}, "wan": map[string]any{"sent": 4000.0, "received": 0.0}},
		"throughput_bits_per_second_60s": map[string]any{"lan": map[string]any{"sent": 8000.0, "received": 0.0}, "wan": map[string]any{"sent": 4000.0, "received": 0.0}},
		"dedupe_ratio":                   10.0, "reduction_ratio": 10.0, "dedupe_ratio_60s": 2.5, "reduction_ratio_60s": 2.0,
		"received_dedupe_ratio": nil, "received_reduction_ratio": 5.0, "received_dedupe_ratio_60s": nil, "received_reduction_ratio_60s": nil,
		"gain": map[string]any{
			"sent":     map[string]any{"matched_bytes": 900.0, "literal_bytes": 100.0, "literal_wire_bytes": 50.0, "opaque_bytes": 10.0},
			"received": map[string]any{"matched_bytes": 0.0, "literal_bytes": 0.0, "literal_wire_bytes": 0.0, "opaque_bytes": 0.0},
		},
		"classes": []any{
			map[string]any{"name": "", "share_percent": 70.0, "sent_bytes": 60.0},
			map[string]any{"name": "backup", "share_percent": 30.0, "sent_bytes": 40.0},
		},
		"flows_active": 2.0, "flows_held": 0.0, "hit_age_bytes": 0.0, "cache_miss_repairs": 1.0, "frame_errors": 4.0, "zstd_level": 2.0,
	}
	if diff := cmp.Diff(want, got); diff != "" {
		t.Errorf("peer (-want +got):\n%s", diff)
	}
	if up := doc["uptime_seconds"].(float64); up < 59 || up > 120 {
		t.Errorf("uptime_seconds = %v", up)
	}
	if diff := cmp.Diff(map[string]any{"state": "on", "size_bytes": 5.0, "capacity_bytes": 10.0, "memory_bytes": 0.0, "epochs": 2.0}, doc["cache"]); diff != "" {
		t.Errorf("cache (-want +got):\n%s", diff)
	}
	if doc["site"] != "ams" || doc["health"] != "ok" {
		t.Errorf("site %v, health %v", doc["site"], doc["health"])
	}
}

func TestRatiosAreNullWhenNothingWasSent(t *testing.T) {
	s := newTestServer(t, config.Stats{}, Source{Snapshot: func() Snapshot {
		return Snapshot{Peers: []Peer{{Name: "nyc", State: StateDown, LossRatio: math.NaN()}}}
	}})
	body := ask(s, loopback, "/api/v1/stats").Body.String()
	for _, want := range []string{`"dedupe_ratio":null`, `"reduction_ratio":null`, `"dedupe_ratio_60s":null`, `"reduction_ratio_60s":null`, `"loss_ratio":0`} {
		if !strings.Contains(body, want) {
			t.Errorf("no %s in %s", want, body)
		}
	}
}

// TestReportIsAlwaysJSON: whatever the counters and clocks do, the document can be written: no NaN, nothing infinite, no negative rate.
func TestReportIsAlwaysJSON(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		r := newRates()
		at := time.Unix(1_700_000_000, 0)
		var s Snapshot
		for range rapid.IntRange(0, 130).Draw(t, "samples") {
			at = at.Add(time.Duration(rapid.Int64Range(-1e9, 3e9).Draw(t, "step")))
			s.Peers = nil
			for i := range rapid.IntRange(0, 2).Draw(t, "peers") {
				v := rapid.Uint64().Draw(t, "counter")
				s.Peers = append(s.Peers, Peer{Name: fmt.Sprint(i), LAN: Traffic{v, v / 2}, WAN: Traffic{v / 3, v}, Sent: Gain{MatchedBytes: v, LiteralBytes: v / 7}, LossRatio: rapid.Float64().Draw(t, "loss")})
			}
			r.add(at, s.Peers)
		}
		for _, doc := range []any{newReport(at, s, r), r.report(0)} {
			text, err := json.Marshal(doc)
			if err != nil {
				t.Fatal(err)
			}
			if strings.Contains(string(text), `"sent":-`) {
				t.Fatalf("negative rate in %s", text)
			}
		}
	})
}

func TestFlowsDocument(t *testing.T) {
	s := newTestServer(t, config.Stats{}, Source{})
	ids := func(query string) (ids []uint64, total int) {
		w := ask(s, loopback, "/api/v1/flows"+query)
		var doc FlowsReport
		if err := json.Unmarshal(w.Body.Bytes(), &doc); err != nil {
			t.Fatalf("%s: %d %s", query, w.Code, w.Body)
		}
		for _, f := range doc.Flows {
			ids = append(ids, f.ID)
		}
		return ids, doc.Total
	}
	tests := []struct {
		query string
		want  []uint64
		total int
	}{
		{"", []uint64{1, 2, 3}, 3},
		{"?limit=1", []uint64{1}, 3},
		{"?limit=0", nil, 3},
		{"?sort=lan", []uint64{2, 1, 3}, 3},
		{"?sort=wan", []uint64{1, 2, 3}, 3},
		{"?sort=age", []uint64{1, 3, 2}, 3},
		{"?peer=sfo", []uint64{3}, 1},
		{"?state=passed", []uint64{3}, 1},
		{"?reason=8", []uint64{2}, 1},
		{"?reason=pass_port", []uint64{3}, 1},
		{"?reason=none", []uint64{1}, 1},
		{"?q=10.2.0.1:4", []uint64{2}, 1},
		{"?q=nothing", nil, 0},
	}
	for _, tt := range tests {
		got, total := ids(tt.query)
		if diff := cmp.Diff(tt.want, got); diff != "" || total != tt.total {
			t.Errorf("%q gives total %d, want %d (-want +got):\n%s", tt.query, total, tt.total, diff)
		}
	}
	body := ask(s, loopback, "/api/v1/flows?q=:443").Body.String()
	for _, want := range []string{`"reason":{"number":8,"name":"encrypted","text":"the application encrypts`, `"lan_bytes":{"sent":100,"received":0}`} {
		if !strings.Contains(body, want) {
			t.Errorf("no %s in %s", want, body)
		}
	}
	if body := ask(s, loopback, "/api/v1/flows?limit=1").Body.String(); !strings.Contains(body, `"reason":null`) {
		t.Errorf("an accelerated flow has a reason: %s", body)
	}
}

func TestBadRequests(t *testing.T) {
	s := newTestServer(t, config.Stats{}, Source{})
	for path, want := range map[string]int{
		"/api/v1/flows?limit=-1":                                400,
		"/api/v1/flows?limit=many":                              400,
		"/api/v1/flows?limit=9999999":                           400,
		"/api/v1/flows?sort=colour":                             400,
		"/api/v1/flows?nonsense=1":                              400,
		"/api/v1/events?limit=x":                                400,
		"/api/v1/flows?q=%zz":                                   400,
		"/api/v1/flows?q=" + strings.Repeat("x", maxQueryBytes): 414,
		"/api/v1/other":                                         404,
		"/../server.go":                                         404,
		"/main.js":                                              200,
	} {
		r := httptest.NewRequestWithContext(t.Context(), http.MethodGet, "/", nil)
		r.RemoteAddr = loopback
		r.URL.Path, r.URL.RawQuery, _ = strings.Cut(path, "?")
		w := httptest.NewRecorder()
		s.Handler().ServeHTTP(w, r)
		redirected := want == 404 && w.Code >= 300 && w.Code < 405 // to a path that is then not found
		if got := w.Code; got != want && !redirected {
			t.Errorf("%s gives %d, want %d", path, got, want)
		}
	}
	r := httptest.NewRequestWithContext(t.Context(), http.MethodPost, "/api/v1/stats", nil)
	r.RemoteAddr = loopback
	w := httptest.NewRecorder()
	s.Handler().ServeHTTP(w, r)
	if w.Code != http.StatusMethodNotAllowed {
		t.Errorf("POST gives %d, want 405", w.Code)
	}
}

func TestProbes(t *testing.T) {
	snapshot := Snapshot{}
	s := newTestServer(t, config.Stats{}, Source{Snapshot: func() Snapshot { return snapshot }})
	check := func(path string, code int, body string) {
		t.Helper()
		if w := ask(s, loopback, path); w.Code != code || w.Body.String() != body {
			t.Errorf("%s gives %d %q, want %d %q", path, w.Code, w.Body, code, body)
		}
	}
	check("/healthz", 200, "ok\n")
	check("/readyz", 200, "ok\n")
	snapshot = Snapshot{Unhealthy: "the store keeps dying", NotReady: "no peer is up"}
	check("/healthz", 503, "the store keeps dying\n")
	check("/readyz", 503, "no peer is up\n")
}

func TestWhoMayAsk(t *testing.T) {
	const token = "0123456789abcdef"
	allow := []netip.Prefix{netip.MustParsePrefix("10.1.0.0/16"), netip.MustParsePrefix("fd00::/16")}
	tests := []struct {
		name   string
		cfg    config.Stats
		client string
		header []string
		want   int
	}{
		{"loopback", config.Stats{}, loopback, nil, 200},
		{"loopback IPv6", config.Stats{}, "[::1]:50000", nil, 200},
		{"loopback needs no token", config.Stats{Token: token, Allow: allow}, loopback, nil, 200},
		{"others without a rule", config.Stats{}, "10.1.0.1:50000", nil, 403},
		{"allowed", config.Stats{Allow: allow}, "10.1.0.1:50000", nil, 200},
		{"allowed, mapped", config.Stats{Allow: allow}, "[::ffff:10.1.0.1]:50000", nil, 200},
		{"allowed IPv6", config.Stats{Allow: allow}, "[fd00::5]:50000", nil, 200},
		{"not allowed", config.Stats{Allow: allow}, "10.2.0.1:50000", nil, 403},
		{"not allowed with token", config.Stats{Allow: allow, Token: token}, "10.2.0.1:50000", []string{"Authorization", "Bearer " + token}, 403},
		{"no token", config.Stats{Token: token}, "10.2.0.1:50000", nil, 401},
		{"wrong token", config.Stats{Token: token}, "10.2.0.1:50000", []string{"Authorization", "Bearer " + token + "x"}, 401},
		{"wrong scheme", config.Stats{Token: token}, "10.2.0.1:50000", []string{"Authorization", token}, 401},
		{"token", config.Stats{Token: token}, "10.2.0.1:50000", []string{"Authorization", "Bearer " + token}, 200},
		{"token as password", config.Stats{Token: token}, "10.2.0.1:50000", []string{"Authorization", "Basic OjAxMjM0NTY3ODlhYmNkZWY="}, 200},
		{"no address", config.Stats{}, "pipe", nil, 403},
	}
	for _, tt := range tests {
		s := newTestServer(t, tt.cfg, Source{})
		for _, path := range []string{"/metrics", "/api/v1/stats", "/api/v1/flows", "/healthz", "/"} {
			if w := ask(s, tt.client, path, tt.header...); w.Code != tt.want {
				t.Errorf("%s: %s gives %d, want %d", tt.name, path, w.Code, tt.want)
			}
		}
	}
}

func TestTooManyRequests(t *testing.T) {
	s := newTestServer(t, config.Stats{}, Source{})
	for range maxRequests {
		s.slots <- struct{}{}
	}
	if w := ask(s, loopback, "/healthz"); w.Code != http.StatusServiceUnavailable || w.Header().Get("Retry-After") == "" {
		t.Errorf("request beyond the limit gives %d", w.Code)
	}
}

func TestMetrics(t *testing.T) {
	s := newTestServer(t, config.Stats{}, Source{})
	s.events.Add(EventPeerUp, "nyc", "up")
	s.events.Add(EventPeerUp, "nyc", "up")
	body := ask(s, loopback, "/metrics").Body.String()
	for _, want := range []string{
		`wanpair_lan_bytes_total{direction="sent",peer="nyc"} 1000`,
		`wanpair_wan_bytes_total{direction="received",peer="nyc"} 400`,
		`wanpair_dedupe_matched_bytes_total{direction="sent",peer="nyc"} 900`,
		`wanpair_literal_bytes_total{direction="sent",peer="nyc"} 100`,
		`wanpair_flows_active{peer="nyc"} 2`,
		`wanpair_flows_total{outcome="clean"} 7`,
		`wanpair_flows_total{outcome="error"} 0`,
		`wanpair_flows_passed_total{reason="pass_port"} 3`,
		`wanpair_peer_up{peer="nyc"} 1`,
		`wanpair_rtt_seconds{peer="nyc"} 0.1`,
		`wanpair_cache_bytes 5`,
		`wanpair_cache_miss_repairs_total{peer="nyc"} 1`,
		`wanpair_frame_errors_total{peer="nyc"} 4`,
		`wanpair_zstd_level{peer="nyc"} 2`,
		`wanpair_events_total{kind="peer_up"} 2`,
		`process_start_time_seconds`,
	} {
		if !strings.Contains(body, want) {
			t.Errorf("no %s in the metrics", want)
		}
	}
	problems, err := promlint.New(strings.NewReader(body)).Lint()
	if err != nil {
		t.Fatal(err)
	}
	for _, p := range problems {
		t.Errorf("%s: %s", p.Metric, p.Text)
	}
}

func TestPageLoadsNothingFromElsewhere(t *testing.T) {
	s := newTestServer(t, config.Stats{}, Source{})
	w := ask(s, loopback, "/")
	if w.Code != 200 || !strings.HasPrefix(w.Header().Get("Content-Type"), "text/html") {
		t.Fatalf("%d %s", w.Code, w.Header().Get("Content-Type"))
	}
	if csp := w.Header().Get("Content-Security-Policy"); !strings.HasPrefix(csp, "default-src 'none'") {
		t.Errorf("Content-Security-Policy is %q", csp)
	}
	for _, word := range []string{"http://", "https://", "//cdn"} {
		if strings.Contains(w.Body.String(), word) {
			t.Errorf("the page names %s", word)
		}
	}
}
