// Package capture reads packet captures (pcap and pcapng) and puts the TCP streams in them together again, for judging what an accelerator
// would have made of real traffic.
//
// It promises that no file makes it panic or hold more memory than its limits say, that a stream's bytes come in order and once, and that
// what was not in the capture (lost packets, packets cut short, the middle of a stream that was too far out of order) is counted, not
// made up.
//
// Nouns: a stream is one direction of a TCP connection. A gap is a run of a stream's bytes that the capture does not have.
package capture
