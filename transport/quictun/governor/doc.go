// Package governor sets the congestion window of quic-go's connections from an
// estimate of the path's bottleneck bandwidth and round trip, instead of from
// losses.
//
// quic-go v0.65 runs Reno and offers no other: at 0.1 % loss and 100 ms it
// carries 7 of 100 Mbit/s. A [Governor] is the tracer of one connection. The
// connection calls it on its own goroutine after every acknowledgement, before
// it sends again; there the governor feeds a [Model] and writes the window the
// model wants into the connection's controller.
//
// The controller is a private field, reached by reflection. So this package is
// the only place that does such a thing, [Check] tries it once on a connection
// in memory before the first real one is made, and a test fails when an upgrade
// of quic-go moves the fields. Where Check fails, connections run as quic-go
// has them, and several lanes make up for some of it.
package governor
