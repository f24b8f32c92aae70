// Package chaos breaks a pair of gateways at random while real traffic flows through it, and keeps account of every byte.
//
// It owns a lab with two gateways, servers and clients in it (nginx and curl, PostgreSQL and psql, rsync, and a client and server of its
// own that half-close, reset, stall and talk in single bytes), a schedule of faults, and the account. It knows the gateway as a black box:
// a binary, a configuration, signals, files and HTTP.
//
// It promises that the same seed makes the same faults in the same order with the same victims and amounts, and the same data (moments
// vary, since a fault begins when the one before has healed); that every byte that arrives is compared with what was sent; that a
// campaign ends at the first wrong byte and at the first clean end of a truncated flow, with everything kept that is needed to look into it;
// and that nothing of it is left on the machine, also when it fails.
//
// Nouns: a campaign is one run. A transfer is one connection, or one run of a client program, with data known beforehand at both ends. A
// fault is something that is broken and repaired; a condition is something that happens to the link beside the faults. A probe is a
// short new connection, many per second, by which the campaign sees whether new connections pass, and whether raw or accelerated. A
// violation is what must never happen. A finding is what should not have happened, and does not stop the campaign.
package chaos
