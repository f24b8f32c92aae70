package scenario

import "wanpair/bench/report"

// Targets are the figures to reach. Where no link is named it is every link measured, else the first of Links or the one on which the
// figure is meant.
func Targets() []report.Target {
	const (
		slow  = "10m-100ms"
		time  = "time"
		bytes = "wire bytes"

		asks   = "pg_dump sends 67 statements one after the other before the first row (counted in the server's log), a round trip each: 6.7 s at 100 ms, with and without a gateway"
		backup = "PostgreSQL takes five round trips before the first byte (seen in a capture at the client: 0.53 s), and server and client need what the column no link shows by themselves; both together bound it"
		psql   = "two round trips until the first row (seen in a capture at the client), and what server and psql need by themselves: see the column no link"
		wal    = "in a capture two thirds of the bytes are the WAL itself, in frames of 5 to 10 kB, and a tenth the standby's answers"
		window = "credit and window double for five to seven round trips before the wire is fast; see the throughput over time"
		cores  = "the tunnel's window doubles from nothing for 0.8 s (seen in the throughput over time of a trial run); the rest is processor time, which both gateways, both ends and the link's emulator share"
		first  = "the answers come 0.1 s after the requests (seen in a capture at the client); then the new bytes have to be carried once, and both gateways and 14 clients have to take the whole: see the column no link and the bytes on the wire"
		early  = "the round trip is saved (the near gateway answers the connect, seen in a capture); what is short of 1.9 is processor time on a busy machine"
		heads  = "the tunnel's headers take up to 3 % more bytes than plain TCP's (see the bytes on the wire); what is beyond that is not found out: one short run on a busy machine"
		delta  = "rsync's own protocol changes direction eleven times (counted in a capture at the client), a round trip each; clients and server need by themselves what the column no link shows"
	)
	targets := []report.Target{
		{Scenario: "dump", Phase: changed, Link: slow, Metric: time, Least: 30, Why: asks},
		{Scenario: "basebackup", Phase: changed, Link: slow, Metric: time, Least: 40, Why: backup},
		{Scenario: "replica", Phase: "reseeded", Link: slow, Metric: bytes, Least: 50},
		{Scenario: "replica", Phase: "streaming", Link: slow, Metric: bytes, Least: 15, Why: wal},
		{Scenario: "bulk-1", Phase: again, Link: slow, Metric: time, Least: 50, Why: window},
		{Scenario: "bulk-1", Phase: again, Link: slow, Metric: bytes, Least: 1000},
		{Scenario: "report", Phase: again, Link: slow, Metric: time, Least: 20, Why: psql},
		{Scenario: "bulk-1", Phase: cold, Link: windowLink, Metric: time, Against: "direct-64k", Least: 100, Why: cores},
		{Scenario: "media", Phase: cold, Metric: time, Least: 0.97, Why: heads},
		{Scenario: "pictures", Phase: cold, Metric: time, Least: 0.97},
		{Scenario: "cipher-tls", Phase: cold, Metric: time, Least: 0.97},
		{Scenario: "cipher-ssh", Phase: cold, Metric: time, Least: 0.97},
		{Scenario: "cipher-scp", Phase: cold, Metric: time, Least: 0.97},
		{Scenario: "web", Phase: "1 connection", Metric: "latency p50", Least: 0.99},
		// wrk's latency begins after the connect, so the round trip saved shows in what it gets done: two and the page's time become one and
		// the page's time, 1.9 on the first link.
		{Scenario: "web-new", Phase: "1 connection", Link: slow, Metric: time, Least: 1.9, Why: early},
		{Scenario: "web-http2", Phase: "1 stream", Metric: "latency p50", Least: 0.99},
		{Scenario: "dump", Phase: cold, Link: slow, Metric: bytes, Least: 4},
		{Scenario: "report", Phase: cold, Link: slow, Metric: bytes, Least: 4},
		{Scenario: "bulk-1", Phase: cold, Link: slow, Metric: bytes, Least: 4},
	}
	for _, way := range []struct{ name, next string }{{"release-http", first}, {"release-rsync", delta}} {
		targets = append(targets, report.Target{Scenario: way.name, Phase: cold, Link: slow, Metric: time, Least: 10, Why: way.next},
			report.Target{Scenario: way.name, Phase: changed, Link: slow, Metric: time, Least: 100, Why: way.next})
	}
	return targets
}
