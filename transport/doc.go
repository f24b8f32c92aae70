// Package transport is the session of the tunnel: it carries the frames and
// messages of many flows between two gateways over lanes that come and go.
//
// # Nouns
//
// A [Link] joins two sites and lives as long as its peer is configured. It has
// at most one [Session] at a time: the pair of both sides' instances. A session
// runs over one or more lanes ([Lane]): connections that package
// transport/quictun (QUIC) or transport/memtun (in memory) provide and hand to
// [Link.ServeLane]. A [Flow] is one byte stream with two directions, each cut
// into numbered frames whose payload is opaque here.
//
// # Promises
//
//   - Frames of a flow and direction arrive in order, each exactly once, over
//     any number of lanes, as long as the session lives: they are kept as
//     encoded until acknowledged and repeated byte for byte when a lane ends or
//     stalls. The same holds for messages.
//   - Acknowledged means that the other side called [Flow.Acknowledge]:
//     decoded and verified.
//   - A sender never passes the credit its receiver granted; a receiver ends
//     the flow of a sender that does. So memory is bounded, every stream is
//     always drained, and one stalled reader delays nobody else.
//   - A session whose lanes are all gone is held for [LinkConfig.Hold] and goes
//     on where it was. It ends at once when the peer comes back as a new
//     instance.
//   - An abort stays an abort: it reaches the other side with its code. Nothing
//     is ever turned into a clean end.
//   - Input from the peer is checked before anything is allocated for it. What
//     breaks the rules ends that flow or lane with a coded error.
//
// # Cost
//
// An idle flow costs its [Flow] value and nothing else: no goroutine, no
// stream, no buffer. A lane has three goroutines; a flow has one per lane only
// while a write of more than a packet is outstanding there.
//
// The wire is described byte by byte in docs/protocol.md, part A. The files
// wire.go, hello.go, record.go and frame.go speak it.
package transport
