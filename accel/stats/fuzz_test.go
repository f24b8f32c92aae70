package stats

import (
	"encoding/json"
	"log/slog"
	"net/http"
	"net/http/httptest"
	"net/netip"
	"net/url"
	"strings"
	"testing"

	"wanpair/accel/config"
)

// fuzzServer serves the tests' snapshot, on a machine of the given configuration.
func fuzzServer(cfg config.Stats) http.Handler {
	return New(cfg, Source{Snapshot: testSnapshot, Flows: testFlows, Top: NewTop()}, NewEvents(10), slog.New(slog.DiscardHandler)).Handler()
}

// FuzzQueries asks every document with any query: the answer is a document or a refusal, never a fault of ours.
func FuzzQueries(f *testing.F) {
	paths := []string{"/api/v1/stats", "/api/v1/flows", "/api/v1/events", "/api/v1/top", "/api/v1/history"}
	for i, q := range []string{"", "limit=3&sort=wan&peer=nyc&state=open&reason=8&q=10.2", "reason=none", "limit=5", "since=1700000000", "since=-9223372036854775808",
		"limit=99999999999999999999", "sort=size", "a=b", "%zz", "limit=1;limit=2", "limit=1&limit=2", "q=%00%ff", "since=yesterday", "limit=-1", "reason=peer_down&state=passed", strings.Repeat("q=x&", 2000)} {
		f.Add(uint8(4), q)
		f.Add(uint8(3), q)
		f.Add(uint8(i), q)
		f.Add(uint8(1), q)
	}
	handler := fuzzServer(config.Stats{})
	f.Fuzz(func(t *testing.T, which uint8, query string) {
		r := &http.Request{Method: http.MethodGet, URL: &url.URL{Path: paths[int(which)%len(paths)], RawQuery: query}, RemoteAddr: "127.0.0.1:1", Header: http.Header{}, Host: "x"}
		w := httptest.NewRecorder()
		handler.ServeHTTP(w, r)
		switch w.Code {
		case http.StatusOK:
			if !json.Valid(w.Body.Bytes()) {
				t.Errorf("%s?%s: no JSON: %.200s", r.URL.Path, query, w.Body)
			}
		case http.StatusBadRequest, http.StatusRequestURITooLong:
			if w.Body.Len() > 2*maxQueryBytes {
				t.Errorf("a refusal of %d bytes", w.Body.Len())
			}
		default:
			t.Errorf("%s?%s: status %d", r.URL.Path, query, w.Code)
		}
	})
}

// FuzzAuthorization asks from afar with any header: only the token opens.
func FuzzAuthorization(f *testing.F) {
	const token = "0123456789abcdef"
	handler := fuzzServer(config.Stats{Token: token, Allow: []netip.Prefix{netip.MustParsePrefix("10.0.0.0/8")}})
	for _, h := range []string{"Bearer " + token, "bearer " + token, "Bearer  " + token, "Bearer ", "Basic Og==", "Basic eDowMTIzNDU2Nzg5YWJjZGVm", "Basic !", ""} {
		f.Add(h, "10.1.2.3:4")
	}
	f.Add("Bearer "+token, "[::ffff:10.1.2.3]:4")
	f.Add("Bearer "+token, "11.1.2.3:4")
	f.Add("", "")
	f.Fuzz(func(t *testing.T, header, from string) {
		r := &http.Request{Method: http.MethodGet, URL: &url.URL{Path: "/healthz"}, RemoteAddr: from, Header: http.Header{"Authorization": {header}}, Host: "x"}
		_, password, basic := r.BasicAuth()
		client, err := netip.ParseAddrPort(from)
		here := err == nil && client.Addr().Unmap().IsLoopback()
		may := here || err == nil && netip.MustParsePrefix("10.0.0.0/8").Contains(client.Addr().Unmap()) && (header == "Bearer "+token || basic && password == token)
		w := httptest.NewRecorder()
		handler.ServeHTTP(w, r)
		if opened := w.Code != http.StatusForbidden && w.Code != http.StatusUnauthorized; opened != may {
			t.Errorf("%q from %q: status %d", header, from, w.Code)
		}
	})
}
