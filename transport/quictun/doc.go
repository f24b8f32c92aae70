// Package quictun is the tunnel over QUIC (RFC 9000): the only place that names
// quic-go.
//
// # Nouns
//
// An [Endpoint] is this gateway's UDP socket and everything that runs over it.
// A [Peer] is another gateway: its public keys, where it can be reached, and
// its [transport.Link]. A lane is one QUIC connection to it; the endpoint
// accepts lanes, dials them, and hands each to [transport.Link.ServeLane],
// again and again, until its context ends.
//
// # Promises
//
//   - TLS 1.3 in both directions, each side known by its Ed25519 key alone. A
//     key that is not listed is refused with the alert access_denied, and both
//     sides say so, at most once a minute for the same key.
//   - A lane that ends is dialled again within about a second; the redial is
//     jittered. A path that does not carry packets of 1400 bytes is found out
//     and used with 1200.
//   - Plain UDP sockets, so that the kernel's segmentation offload stays on;
//     their buffers are forced to what a fast long link needs where the process
//     may do that.
//   - Nothing runs before [Endpoint.Run] and nothing after it returned.
package quictun
