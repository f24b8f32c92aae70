// Package link emulates a long thin WAN link in user space: it owns one TUN device at each end and carries packets between them, each
// direction with its own delay, rate, drop-tail queue, loss, jitter, reordering, path MTU and cut.
//
// It promises that rate, queue and loss act on wire packets as a router would see them, although the kernel hands over super-packets of
// up to 64 KiB: a super-packet is carried whole where nothing happens to its segments and is split around the ones that are lost, by
// rewriting headers only. It promises to say when it was not exact: Stats reports how late the worst packet was and how many were more
// than a millisecond late; a measurement made over a late link is to be thrown away.
//
// Nouns: a direction is one of the two ways through the link (a2b, b2a). A segment is one packet as the wire would carry it. A piece is
// a run of neighbouring segments of one super-packet that travels as one. The line is the arithmetic of a direction, without packets and
// without a clock; the path adds the packets; the pump adds devices and time.
package link
