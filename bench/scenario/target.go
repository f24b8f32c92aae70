package scenario

import "wanpair/bench/report"

// Targets are the figures to reach. Where no link is named it is every link measured, else the first of Links or the one on which the
// figure is meant.
func Targets() []report.Target {
	const (
		slow  = "10m-100ms"
		time  = "time"
		bytes = "wire bytes"

		turns = "the round trips of the protocol and the start of the transfer are the same for any size, so the ratio grows with the payload"
		asks  = "pg_dump asks the catalog its questions one after the other before the first row, a round trip each; they take 7 to 9 s at 100 ms, with and without a gateway, and all rows together take about 1 s instead of 20"
		psql  = "what is left is the time that PostgreSQL and psql take themselves: beside the server the same takes nearly as long"
		small = "WAL comes in some hundred small pieces a second, each sent at once and answered at once, and each costs a frame and a packet of its own in both directions; what is in them shrinks more"
		cores = "at first sight the encoder sets the pace, on two cores that servers, clients, both gateways and the link's emulator share; the same bytes again go through at several times that"
		first = "copies that run side by side find little in each other: the bytes on the wire are nearer to 14 compressed copies than to one"
		delta = "rsync itself sends only what has changed, so its round trips set the time"
	)
	targets := []report.Target{
		{Scenario: "dump", Phase: changed, Link: slow, Metric: time, Least: 30, Why: asks},
		{Scenario: "basebackup", Phase: changed, Link: slow, Metric: time, Least: 40, Why: turns},
		{Scenario: "replica", Phase: "reseeded", Link: slow, Metric: bytes, Least: 50},
		{Scenario: "replica", Phase: "streaming", Link: slow, Metric: bytes, Least: 15, Why: small},
		{Scenario: "bulk-1", Phase: again, Link: slow, Metric: time, Least: 50, Why: turns},
		{Scenario: "bulk-1", Phase: again, Link: slow, Metric: bytes, Least: 1000, Why: turns},
		{Scenario: "report", Phase: again, Link: slow, Metric: time, Least: 20, Why: psql},
		{Scenario: "bulk-1", Phase: cold, Link: windowLink, Metric: time, Against: "direct-64k", Least: 100, Why: cores},
		{Scenario: "media", Phase: cold, Metric: time, Least: 0.97},
		{Scenario: "pictures", Phase: cold, Metric: time, Least: 0.97},
		{Scenario: "cipher-tls", Phase: cold, Metric: time, Least: 0.97},
		{Scenario: "cipher-ssh", Phase: cold, Metric: time, Least: 0.97},
		{Scenario: "cipher-scp", Phase: cold, Metric: time, Least: 0.97},
		{Scenario: "web", Phase: "1 connection", Metric: "latency p50", Least: 0.99},
		// wrk's latency begins after the connect, so the round trip saved shows in what it gets done: 1.6 rather than 2, for the page takes
		// time as well.
		{Scenario: "web-new", Phase: "1 connection", Metric: time, Least: 1.6},
		{Scenario: "web-http2", Phase: "1 stream", Metric: "latency p50", Least: 0.99},
		{Scenario: "dump", Phase: cold, Link: slow, Metric: bytes, Least: 4},
		{Scenario: "report", Phase: cold, Link: slow, Metric: bytes, Least: 4},
		{Scenario: "bulk-1", Phase: cold, Link: slow, Metric: bytes, Least: 4},
	}
	for _, way := range []struct{ name, next string }{{"release-http", turns}, {"release-rsync", delta}} {
		targets = append(targets, report.Target{Scenario: way.name, Phase: cold, Link: slow, Metric: time, Least: 10, Why: first},
			report.Target{Scenario: way.name, Phase: changed, Link: slow, Metric: time, Least: 100, Why: way.next})
	}
	return targets
}
