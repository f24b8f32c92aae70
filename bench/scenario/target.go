package scenario

import "wanpair/bench/report"

// Targets are the figures to reach. Where no link is named it is every link measured, else the first of Links or the one on which the
// figure is meant.
func Targets() []report.Target {
	const (
		slow  = "10m-100ms"
		time  = "time"
		bytes = "wire bytes"
	)
	targets := []report.Target{
		{Scenario: "dump", Phase: changed, Link: slow, Metric: time, Least: 30},
		{Scenario: "basebackup", Phase: changed, Link: slow, Metric: time, Least: 40},
		{Scenario: "replica", Phase: "reseeded", Link: slow, Metric: bytes, Least: 50},
		{Scenario: "replica", Phase: "streaming", Link: slow, Metric: bytes, Least: 15},
		{Scenario: "bulk-1", Phase: again, Link: slow, Metric: time, Least: 50},
		{Scenario: "bulk-1", Phase: again, Link: slow, Metric: bytes, Least: 1000},
		{Scenario: "report", Phase: again, Link: slow, Metric: time, Least: 20},
		{Scenario: "bulk-1", Phase: cold, Link: windowLink, Metric: "time per byte", Against: "direct-64k", Least: 100},
		{Scenario: "media", Phase: cold, Metric: time, Least: 0.97},
		{Scenario: "pictures", Phase: cold, Metric: time, Least: 0.97},
		{Scenario: "cipher-tls", Phase: cold, Metric: time, Least: 0.97},
		{Scenario: "cipher-ssh", Phase: cold, Metric: time, Least: 0.97},
		{Scenario: "cipher-scp", Phase: cold, Metric: time, Least: 0.97},
		{Scenario: "web", Phase: "1 connection", Metric: "latency p50", Least: 0.99},
		// wrk's latency begins after the connect, so the round trip saved shows in what it gets done: 1.6 rather than 2, for the page takes
		// time as well.
		{Scenario: "web-new", Phase: "1 connection", Metric: "time per byte", Least: 1.6},
		{Scenario: "web-http2", Phase: "1 stream", Metric: "latency p50", Least: 0.99},
		{Scenario: "dump", Phase: cold, Link: slow, Metric: bytes, Least: 4},
		{Scenario: "report", Phase: cold, Link: slow, Metric: bytes, Least: 4},
		{Scenario: "bulk-1", Phase: cold, Link: slow, Metric: bytes, Least: 4},
	}
	for _, way := range []string{"release-http", "release-rsync"} {
		targets = append(targets, report.Target{Scenario: way, Phase: cold, Link: slow, Metric: time, Least: 10},
			report.Target{Scenario: way, Phase: changed, Link: slow, Metric: time, Least: 100})
	}
	return targets
}
