// Package grid measures the tunnel on its own: how much of a link it carries over rate, round trip, loss and queue, beside the kernel's
// TCP, and what a user of the same tunnel feels meanwhile. It builds a lab for every measurement, so that none learns from the one before.
//
// It promises that what is sent cannot be compressed or deduplicated, that every byte received is compared with the one that was sent, and
// that a measurement during which the link's emulator stood still is made again, and marked when it stays so.
//
// Nouns: a point is one measurement to make: a link, a column and a kind. A column is one way to carry the bytes. The kinds are bulk (flows
// that never end), latency (requests of 64 bytes on the idle link and beside a bulk flow), cut (the link goes away and comes back) and
// fairness (one flow beside one of the kernel's that bypasses the gateways). A figure is what a point is to reach.
//
// Data flow from the lab's server (end B) to its client (end A).
package grid
