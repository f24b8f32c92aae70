package scenario

import "wanpair/bench/report"

// Targets are the figures to reach. Where no link is named it is every link measured, else the first of Links or the one on which the
// figure is meant.
func Targets() []report.Target {
	const (
		slow  = "10m-100ms"
		time  = "time"
		bytes = "wire bytes"

		turns = "supposed, not shown: the round trips of the protocol and the start of the transfer are the same for any size, so the ratio should grow with the payload"
		asks  = "pg_dump sends 67 statements one after the other before the first row (counted in the server's log), a round trip each: about 7 s at 100 ms, with and without a gateway"
		psql  = "beside the server, without a network, the same psql took 1.8 to 2.0 s on the busy machine: little is left to gain"
		small = "not found out; a third of the bytes on the wire are the standby's answers, so small messages and what each costs are the first thing to look at"
		cores = "not found out; both gateways together used 1.8 s of processor in the 3.9 s, on two cores that other work was using as well"
		first = "the bytes on the wire are nearer to 14 compressed copies than to one: copies that run side by side find little in each other; why is not found out"
		busy  = "not found out; its three runs differ by a third, on a busy machine"
		delta = "supposed, not shown: rsync itself sends only what has changed, so that its round trips set the time; slower than directly in this run"
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
		// wrk's latency begins after the connect, so the round trip saved shows in what it gets done: two and the page's time become one and
		// the page's time, 1.9 on the first link.
		{Scenario: "web-new", Phase: "1 connection", Link: slow, Metric: time, Least: 1.9, Why: busy},
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
