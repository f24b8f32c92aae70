// Package stats owns what the operator sees: the counters' way to HTTP as Prometheus metrics, JSON documents and the dashboard.
//
// It promises that watching costs the data path nothing but the reading of counters, that no ratio is ever NaN or infinite, that label sets are closed, and
// that nobody beyond loopback is answered unless the configuration lets them.
//
// Its nouns: a Snapshot is every counter at one moment, filled by the gateway; a Report is the JSON document made of snapshots, with rates; a Flow is one
// connection; an Event is one change worth telling people. In all of them "sent" means towards the peer: LAN bytes sent were read from local connections, WAN
// bytes sent left as UDP payload.
package stats
