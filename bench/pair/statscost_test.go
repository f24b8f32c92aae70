package pair_test

import (
	"io"
	"net"
	"sync"
	"testing"
	"time"

	"wanpair/bench/lab"
	"wanpair/bench/pair"
)

// TestStatsCost prints what being watched costs a gateway with 1,000 connections: its processor time with nobody asking, with a scrape of the metrics
// every 5 s, and with the dashboard's questions as well. The figures are the point; what is asserted is that every question is answered.
func TestStatsCost(t *testing.T) {
	if !soak() {
		t.Skip("prints figures for docs/operations.md: WANPAIR_SOAK=1 runs it for a minute and a half")
	}
	const flows, measured, scrape = 1000, 30 * time.Second, 5 * time.Second
	w := newWorldWith(t, lab.Config{Link: testLink}, pair.Config{LogLevel: "info"})
	w.serve("7501", echoServer)
	var group sync.WaitGroup
	for range 20 {
		group.Go(func() {
			for range flows / 20 {
				c, err := w.lab.Dial(w.ctx, lab.Client, "tcp", net.JoinHostPort(lab.ServerIP4, "7501"))
				if err != nil {
					t.Error(err)
					return
				}
				t.Cleanup(func() { c.Close() })
				_, err = c.Write([]byte("hello"))
				if err == nil {
					_, err = io.ReadFull(c, make([]byte, 5))
				}
				if err != nil {
					t.Error(err)
					return
				}
			}
		})
	}
	group.Wait()
	w.waitStats(w.Near, "carrying them all", func(p pair.PeerStats) bool { return p.FlowsActive >= flows })

	ask := func(paths ...string) (bytes int) {
		for _, path := range paths {
			body, status, err := w.Near.Get(w.ctx, path)
			w.check(err)
			if status != 200 {
				t.Errorf("%s: status %d", path, status)
			}
			bytes += len(body)
		}
		return bytes
	}
	measure := func(what string, every time.Duration, paths ...string) float64 {
		bytes := 0
		start, ticksBefore := time.Now(), ticks(t, w.Near)
		for time.Since(start) < measured {
			time.Sleep(every) // how often it is asked is the point
			bytes += ask(paths...)
		}
		part := (ticks(t, w.Near) - ticksBefore).Seconds() / time.Since(start).Seconds() * 100
		t.Logf("%s: %.2f %% of a processor, %d bytes answered in %v", what, part, bytes, measured)
		return part
	}
	alone := measure("nobody asks", scrape)
	scraped := measure("a scrape every 5 s", scrape, "/metrics")
	watched := measure("the dashboard open", 2*time.Second, "/api/v1/stats", "/api/v1/stats", "/api/v1/flows?sort=lan&limit=10000", "/api/v1/history?since=0")
	t.Logf("so a scrape every 5 s costs %.2f %% of a processor, an open dashboard %.2f %%", scraped-alone, watched-alone)
}
