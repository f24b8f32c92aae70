package scenario

import (
	"context"
	"fmt"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"time"

	"wanpair/bench/report"
	"wanpair/bench/server"
)

func webScenarios() []*Scenario {
	loads := []string{"1 connection", "8 connections", "32 connections"}
	return []*Scenario{
		{
			Name: "web", Title: "Web: small pages, HTTP/1.1", Phases: loads, Sets: []string{"source"}, Tools: []string{"nginx", "wrk"},
			Text:    "wrk asks nginx for one small page over and over on connections that stay open. What counts is the latency.",
			Prepare: prepareWeb(false),
		},
		{
			Name: "web-new", Title: "Web: small pages, a new connection each", Phases: loads, Sets: []string{"source"}, Tools: []string{"nginx", "wrk"},
			Text:    "The same with a new connection for each request: a round trip less where the near gateway answers the connect.",
			Prepare: prepareWeb(true),
		},
		{
			Name: "web-http2", Title: "Web: small pages, HTTP/2", Phases: []string{"1 stream", "32 streams"}, Sets: []string{"source"}, Tools: []string{"nginx", "h2load"},
			Text:    "h2load asks for the same page on one connection, HTTP/2 without TLS.",
			Prepare: prepareHTTP2,
		},
	}
}

// pageDir makes a directory with one small real page and returns its bytes.
func pageDir(kit Kit) (string, int64, error) {
	www := filepath.Join(kit.Dir, "www")
	if err := os.Mkdir(www, 0o755); err != nil {
		return "", 0, err
	}
	r, err := sampleReleases(kit, smallestTree)
	if err != nil {
		return "", 0, err
	}
	n, err := pageOf(r.dir[cold], filepath.Join(www, "page.html"))
	return www, n, err
}

// firstNumber reads the number a phase's name begins with.
func firstNumber(phase string) (int, error) {
	word, _, _ := strings.Cut(phase, " ")
	return strconv.Atoi(word)
}

// longestLoad bounds one load; percentiles need no more.
const longestLoad = 5 * time.Second

func prepareWeb(closing bool) func(context.Context, Kit) (Material, error) {
	return func(_ context.Context, kit Kit) (Material, error) {
		www, page, err := pageDir(kit)
		duration := min(longestLoad, max(time.Second, kit.Link.duration(kit.Bytes)))
		return Material{Open: func(ctx context.Context, stage Stage) (Play, error) {
			n, err := server.StartNginx(ctx, stage.Server, filepath.Join(stage.Dir, "nginx"), www)
			if err != nil {
				return nil, err
			}
			return &phasePlay{stops: []func() error{n.Stop}, phase: func(ctx context.Context, phase string, m *Meter) (report.Run, error) {
				connections, err := firstNumber(phase)
				if err != nil {
					return report.Run{}, err
				}
				return m.Measure(ctx, func(ctx context.Context) (Work, error) {
					load, err := server.Wrk(ctx, stage.Client, n.URL("page.html"), connections, duration, closing)
					if err == nil && (load.Errors > 0 || load.Requests == 0) {
						err = fmt.Errorf("%d of %d requests failed", load.Errors, load.Requests)
					}
					p := load.Percentiles
					return Work{Bytes: load.Requests * page, Took: load.Took, Latency: &report.Latency{
						Count: load.Requests, P50: p.P50.Seconds(), P90: p.P90.Seconds(), P99: p.P99.Seconds(), Max: p.Max.Seconds(),
					}}, err
				})
			}}, nil
		}}, err
	}
}

func prepareHTTP2(_ context.Context, kit Kit) (Material, error) {
	www, page, err := pageDir(kit)
	return Material{Open: func(ctx context.Context, stage Stage) (Play, error) {
		n, err := server.StartNginx(ctx, stage.Server, filepath.Join(stage.Dir, "nginx"), www)
		if err != nil {
			return nil, err
		}
		return &phasePlay{stops: []func() error{n.Stop}, phase: func(ctx context.Context, phase string, m *Meter) (report.Run, error) {
			streams, err := firstNumber(phase)
			if err != nil {
				return report.Run{}, err
			}
			// As many as fit into the time and the link, whichever is less.
			duration := min(longestLoad, max(time.Second, kit.Link.duration(kit.Bytes)))
			requests := max(streams, int(min(int64(duration/kit.Link.RTT)*int64(streams), kit.Link.BytesIn(duration)/page)))
			return m.Measure(ctx, func(ctx context.Context) (Work, error) {
				load, err := server.H2load(ctx, stage.Client, n.URL2("page.html"), requests, 1, streams)
				if err == nil && load.Errors > 0 {
					err = fmt.Errorf("%d of %d requests failed", load.Errors, load.Requests)
				}
				return Work{Bytes: load.Requests * page, Took: load.Took, Latency: report.Percentiles(load.Latencies)}, err
			})
		}}, nil
	}}, err
}
