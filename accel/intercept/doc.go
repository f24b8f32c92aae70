// Package intercept brings the TCP connections of a site's hosts into this process without their knowing, and makes sure that they
// go their own way whenever this process does not want them, cannot take them or is gone.
//
// It owns the nftables table, the two routing rules and routes, and the two loopback listeners; it speaks netlink and needs no
// program. It touches nothing of anyone else's: a table of its name that it did not make, a routing table or a priority that is in
// use are errors.
//
// What it promises:
//
//   - Fail to wire. Connections are diverted only while their peer's prefixes are in its alive set, whose elements the kernel drops
//     after 3 s unless Run has refreshed them; a listener that is gone is passed by; a watchdog and a probe look for firewall
//     settings that would swallow what is diverted.
//   - Idempotence. Install replaces what is there in one transaction, the left-overs of a killed process included; what another
//     program flushed is put back within a second or two.
//   - Connections that run are left alone, raw ones by a rule that looks at first packets only, accepted ones by the socket rule,
//     which stays until Remove.
//
// Its nouns: a connection is diverted (brought here) or raw (passed on as it came); a peer is alive or dead; the divert bit of the
// packet mark routes a packet to this host; the own bit marks this process's sockets; the original destination is what the client
// meant to reach, and the local address of the accepted socket.
package intercept
