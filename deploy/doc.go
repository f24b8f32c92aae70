// Package deploy holds what puts wanpair on a machine: the service unit, the kernel settings, the packages, the container, and the
// configuration of the neighbour that takes over when the box itself is gone. It has no code of its own; its tests build and install
// the packages and let the real keepalived move the addresses.
package deploy
