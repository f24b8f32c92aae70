package stats

import (
	"context"
	"fmt"
	"io/fs"
	"math"
	"net/netip"
	"regexp"
	"strings"
	"testing"
	"time"

	"wanpair/accel/config"
	"wanpair/accel/policy"
)

// TestPageIsSmall: the page stays under 300 KB, whatever is added to it.
func TestPageIsSmall(t *testing.T) {
	total := int64(0)
	err := fs.WalkDir(page, ".", func(_ string, d fs.DirEntry, err error) error {
		if err != nil || d.IsDir() {
			return err
		}
		info, err := d.Info()
		total += info.Size()
		return err
	})
	if err != nil {
		t.Fatal(err)
	}
	if total > 300_000 {
		t.Errorf("the page has %d bytes", total)
	}
}

// busyGateway is a gateway under load: an hour of history, two peers, many flows, some with hostile names.
func busyGateway(t *testing.T, flows int) *Server {
	t.Helper()
	start := time.Now().Add(-time.Hour)
	at := func(seconds float64) []Peer {
		wave := 1e6 * (seconds + 300*math.Sin(seconds/300)) // bytes; its slope stays above zero
		n := func(f float64) uint64 { return uint64(max(0, f)) }
		return []Peer{{
			Name: "nyc", State: StateUp, Since: start, RTT: time.Duration(100+20*math.Sin(seconds/200)) * time.Millisecond, LossRatio: 0.002 + 0.002*math.Sin(seconds/90), Lanes: 4, Software: "v1.0",
			LAN: Traffic{Sent: n(wave), Received: n(wave / 4)}, WAN: Traffic{Sent: n(wave / 9), Received: n(wave / 30)}, ResentBytes: n(wave / 400),
			Sent:        Gain{MatchedBytes: n(wave * 0.8), LiteralBytes: n(wave * 0.2), LiteralWireBytes: n(wave * 0.1), OpaqueBytes: n(wave * 0.07)},
			Received:    Gain{MatchedBytes: n(wave / 4 * 0.9), LiteralBytes: n(wave / 4 * 0.1), LiteralWireBytes: n(wave / 4 * 0.03)},
			FlowsActive: flows - 2, FlowsHeld: 2, MissRepairs: 3,
		}, {Name: "sfo", State: StateDown, Since: start.Add(50 * time.Minute), Detail: "no answer from 203.0.113.9:4600"}}
	}
	top := NewTop()
	list := make([]Flow, flows)
	for i := range list {
		list[i] = Flow{
			ID: uint64(i + 1), Source: fmt.Sprintf("10.1.%d.%d:%d", i/200, i%200, 20000+i), Destination: fmt.Sprintf("10.2.0.%d:%d", i%50, []int{80, 443, 5432, 445}[i%4]),
			Peer: "nyc", State: FlowOpen, LAN: Traffic{Sent: uint64(i) * 1000, Received: uint64(i) * 50}, WAN: Traffic{Sent: uint64(i) * 90}, Started: start.Add(time.Duration(i) * time.Second / 10),
		}
		if i%4 == 1 {
			list[i].Reason = policy.Encrypted
		}
		top.Ended(list[i])
	}
	list[0].Destination = `<img src=x onerror=alert(1)>:80`
	list[1].Source = "</div><script>alert(2)</script>:1"
	s := newTestServer(t, config.Stats{Listen: netip.MustParseAddrPort("127.0.0.1:0")}, Source{
		Snapshot: func() Snapshot {
			return Snapshot{
				Site: "ams", Version: "v1.0", Started: start, Peers: at(3600),
				Cache:       Cache{SizeBytes: 41 << 30, CapacityBytes: 64 << 30, MemoryBytes: 3 << 30, Epochs: 21},
				FlowsActive: flows, FlowsEnded: map[Outcome]uint64{OutcomeClean: 120_000},
				FlowsPassed: map[policy.Reason]uint64{policy.PassPort: 1234, policy.PeerDown: 17},
			}
		},
		Flows: func() []Flow { return append([]Flow(nil), list...) },
		Top:   top,
	})
	for second := range 3600 {
		s.rates.add(start.Add(time.Duration(second)*time.Second), at(float64(second)))
	}
	s.events.Add(EventPeerUp, "nyc", "connections are accelerated")
	s.events.Add(EventPeerDown, "sfo", "<b>no answer</b>")
	return s
}

func TestPageInChromium(t *testing.T) {
	const flows = 10_000
	b := startBrowser(t)
	s := busyGateway(t, flows)
	ctx, cancel := context.WithCancel(t.Context())
	if err := s.Listen(ctx); err != nil {
		t.Fatal(err)
	}
	ended := make(chan error, 1)
	go func() { ended <- s.Run(ctx) }()
	defer func() {
		cancel()
		if err := <-ended; err != nil {
			t.Error(err)
		}
	}()

	b.view(1400, 1000, "light")
	b.call("Page.navigate", map[string]any{"url": "http://" + s.Addr().String() + "/"}, nil)
	b.await(`document.querySelectorAll("#peers .peer").length`, "2")
	b.await(`document.getElementById("count").textContent`, "10,000")
	b.await(`document.querySelectorAll("#events tr").length`, "2")
	b.await(`document.querySelectorAll("#ports tbody tr").length`, "4")
	b.await(`document.querySelectorAll("canvas").length`, "6")
	b.await(`document.getElementById("fill").clientWidth > 0`, "true")

	t.Run("figures are those of the metrics", func(t *testing.T) {
		metrics := ask(s, loopback, "/metrics").Body.String()
		sent := metric(t, metrics, `wanpair_lan_bytes_total{direction="sent",peer="nyc"}`)
		want := "in all: " + b.eval(fmt.Sprintf(`import("./format.js").then((f) => f.bytes(%s))`, sent))
		if got := b.eval(`document.querySelector("#peers .tiles small:last-child").textContent`); got != want {
			t.Errorf("LAN sent is %q, want %q", got, want)
		}
		fill := metric(t, metrics, "wanpair_cache_bytes")
		want = b.eval(fmt.Sprintf(`import("./format.js").then((f) => f.bytes(%s))`, fill))
		if got := b.eval(`document.getElementById("cache").textContent`); !strings.HasPrefix(got, want+" of 64.0 GiB") {
			t.Errorf("cache is %q, want %q", got, want)
		}
	})
	t.Run("only rows in sight exist", func(t *testing.T) {
		if rows := b.eval(`document.querySelectorAll("#list .rows .row").length < 60`); rows != "true" {
			t.Errorf("%s rows", b.eval(`document.querySelectorAll("#list .rows .row").length`))
		}
		b.eval(`document.getElementById("list").scrollTop = 1e9`)
		b.await(`[...document.querySelectorAll("#list .rows .row")].some((r) => r.style.display === "" && r.children[0].textContent === "1")`, "true")
	})
	t.Run("sort", func(t *testing.T) {
		b.eval(`document.querySelectorAll("#list .head button")[0].click()`)
		b.await(`document.querySelector("#list .rows .row").children[0].textContent`, "10000")
		b.eval(`document.querySelectorAll("#list .head button")[0].click()`)
		b.await(`document.querySelector("#list .rows .row").children[0].textContent`, "1")
	})
	t.Run("names are text", func(t *testing.T) {
		if got := b.eval(`document.querySelector("#list .rows .row").children[2].textContent`); got != "<img src=x onerror=alert(1)>:80" {
			t.Errorf("hostile destination is shown as %q", got)
		}
		if got := b.eval(`document.querySelectorAll("img, main script, #events b").length`); got != "0" {
			t.Errorf("%s elements came from data", got)
		}
	})
	b.screenshot("wide-light")
	t.Run("search", func(t *testing.T) {
		search := func(name, value string) {
			b.eval(fmt.Sprintf(`(() => { const e = document.getElementById("filter").elements[%q]; e.value = %q; e.dispatchEvent(new Event("input", {bubbles: true})); })()`, name, value))
		}
		search("q", "10.2.0.7:445")
		b.await(`document.getElementById("count").textContent`, "100")
		search("q", "")
		search("reason", "none")
		b.await(`document.getElementById("count").textContent`, "7,500")
		search("reason", "")
		b.await(`document.getElementById("count").textContent`, "10,000")
	})
	t.Run("narrow and dark", func(t *testing.T) {
		b.view(400, 900, "dark")
		b.await(`document.documentElement.scrollWidth <= window.innerWidth`, "true")
		b.await(`getComputedStyle(document.body).backgroundColor`, "rgb(16, 20, 24)")
		b.await(`[...document.querySelectorAll(".uplot")].every((c) => c.clientWidth <= 400)`, "true")
		b.screenshot("narrow-dark")
		b.view(1400, 1000, "dark")
		b.await(`[...document.querySelectorAll(".uplot")].every((c) => c.clientWidth <= 500)`, "true")
		b.screenshot("wide-dark")
	})
	t.Run("range", func(t *testing.T) {
		b.await(`document.querySelector("[aria-pressed=true]").textContent`, "1 h") // as long as the gateway has been running
		b.eval(`document.querySelector("[data-seconds='300']").click()`)
		b.await(`document.querySelector("[aria-pressed=true]").textContent`, "5 min")
	})
	for _, problem := range b.faults() {
		t.Errorf("in the page: %s", problem)
	}
	t.Logf("drawing 10,000 flows took %s ms", b.eval(`(async () => { const start = performance.now(); document.getElementById("list").scrollTop = 5000; document.querySelectorAll("#list .head button")[6].click(); return (performance.now() - start).toFixed(1); })()`))
}

// metric returns a metric's value as text.
func metric(t *testing.T, metrics, name string) string {
	t.Helper()
	m := regexp.MustCompile(`(?m)^` + regexp.QuoteMeta(name) + ` (.*)$`).FindStringSubmatch(metrics)
	if m == nil {
		t.Fatalf("no %s in the metrics", name)
	}
	return m[1]
}
