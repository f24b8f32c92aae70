package stats

import (
	"context"
	"encoding/json"
	"errors"
	"io"
	"log/slog"
	"net"
	"net/http"
	"net/http/httptest"
	"net/netip"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"wanpair/accel/config"
)

func TestRunServesUntilTheContextEnds(t *testing.T) {
	s := newTestServer(t, config.Stats{Listen: netip.MustParseAddrPort("127.0.0.1:0")}, Source{})
	ctx, cancel := context.WithCancel(t.Context())
	if err := s.Listen(ctx); err != nil {
		t.Fatal(err)
	}
	ended := make(chan error)
	go func() { ended <- s.Run(ctx) }()

	client := &http.Client{Transport: &http.Transport{DisableKeepAlives: true}}
	request, err := http.NewRequestWithContext(ctx, http.MethodGet, "http://"+s.Addr().String()+"/api/v1/stats", nil)
	if err != nil {
		t.Fatal(err)
	}
	response, err := client.Do(request)
	if err != nil {
		t.Fatal(err)
	}
	var doc Report
	if err := json.NewDecoder(response.Body).Decode(&doc); err != nil || doc.Site != "ams" {
		t.Errorf("site %q, %v", doc.Site, err)
	}
	_ = response.Body.Close()
	cancel()
	if err := <-ended; err != nil {
		t.Errorf("Run: %v", err)
	}
}

func TestPortInUse(t *testing.T) {
	l, err := new(net.ListenConfig).Listen(t.Context(), "tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer l.Close()
	s := newTestServer(t, config.Stats{Listen: l.Addr().(*net.TCPAddr).AddrPort()}, Source{})
	err = s.Run(t.Context())
	if !errors.Is(err, ErrListen) || !strings.Contains(err.Error(), "the port is in use") || strings.Contains(err.Error(), "\n") {
		t.Errorf("Run: %v", err)
	}
}

func TestAddressOfAnotherMachine(t *testing.T) {
	s := newTestServer(t, config.Stats{Listen: netip.MustParseAddrPort("192.0.2.1:9460")}, Source{})
	if err := s.Listen(t.Context()); !errors.Is(err, ErrListen) || !strings.Contains(err.Error(), "does not have that address") {
		t.Errorf("Listen: %v", err)
	}
}

// TestSampling runs the sampler in a bubble where seconds pass at once.
func TestSampling(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		sent := uint64(0)
		s := New(config.Stats{}, Source{Snapshot: func() Snapshot {
			sent += 125
			return Snapshot{Peers: []Peer{{Name: "nyc", WAN: Traffic{Sent: sent}}}}
		}}, NewEvents(1), slog.New(slog.DiscardHandler))
		ctx, cancel := context.WithTimeout(t.Context(), 90*time.Second)
		defer cancel()
		s.sample(ctx)
		for _, n := range []int{1, 60} {
			if got := s.rates.throughput("nyc", n).WAN.Sent; got != 1000 {
				t.Errorf("over %d s: %v bit/s, want 1000", n, got)
			}
		}
	})
}

func BenchmarkFlows10000(b *testing.B) {
	flows := make([]Flow, 10_000)
	for i := range flows {
		flows[i] = Flow{ID: uint64(i), Source: "10.1.0.1:1000", Destination: "10.2.0.1:80", Peer: "nyc", State: FlowOpen}
	}
	b.ReportAllocs()
	for b.Loop() {
		if err := json.NewEncoder(io.Discard).Encode(flowFilter{limit: len(flows), order: flowOrders()["lan"]}.apply(time.Now(), flows)); err != nil {
			b.Fatal(err)
		}
	}
}

// BenchmarkScrape is what a scrape costs; one every five seconds must stay far below 1 % of a processor, which is 50 ms.
func BenchmarkScrape(b *testing.B) {
	s := New(config.Stats{}, Source{Snapshot: testSnapshot, Flows: testFlows}, NewEvents(10), slog.New(slog.DiscardHandler))
	handler := s.Handler()
	request := httptest.NewRequestWithContext(b.Context(), http.MethodGet, "/metrics", nil)
	request.RemoteAddr = loopback
	b.ReportAllocs()
	for b.Loop() {
		handler.ServeHTTP(httptest.NewRecorder(), request)
	}
}
