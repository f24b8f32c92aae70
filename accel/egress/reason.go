package egress

import (
	"context"
	"errors"
	"fmt"
	"net"
	"os"

	"golang.org/x/sys/unix"
)

// What lies under a Denied error.
var (
	ErrBadAddress       = errors.New("not a usable address and port")
	ErrTargetNotAllowed = errors.New("target is outside the subnets this site serves")
	ErrOwnAddress       = errors.New("target is an address of this gateway itself")
	ErrSourceNotAllowed = errors.New("source is outside the subnets of the peer that asks")
	ErrNoAddress        = errors.New("name has no address")
)

// Reason is why a dial failed, in the classes a peer is told.
type Reason uint8

// The reasons. Failed is a fault of this host (a missing capability, an unforeseen error).
const (
	Failed      Reason = iota
	Refused            // the server answered with a reset
	Unreachable        // no route, no host, no answer in time, no such name
	Denied             // target or source is not allowed
	SourceClash        // the client's address and port cannot be used here
	Limit              // out of descriptors, memory or ports
)

var reasonText = [...]string{
	Failed: "failed", Refused: "refused", Unreachable: "unreachable", Denied: "denied", SourceClash: "source clash", Limit: "limit",
}

func (r Reason) String() string {
	if int(r) < len(reasonText) {
		return reasonText[r]
	}
	return fmt.Sprintf("reason %d", uint8(r))
}

// Error is what every failed dial returns.
type Error struct {
	Reason Reason
	Target string // as it was given
	Source string // the client, when dialled as the client
	Err    error
}

func (e *Error) Error() string {
	as := ""
	if e.Source != "" {
		as = " as " + e.Source
	}
	return fmt.Sprintf("egress: dial %s%s: %s: %v", e.Target, as, e.Reason, e.Err)
}

func (e *Error) Unwrap() error { return e.Err }

// ReasonOf gives the reason of an error of this package, Failed for any other.
func ReasonOf(err error) Reason {
	if e, ok := errors.AsType[*Error](err); ok {
		return e.Reason
	}
	return Failed
}

// isClash: the four addresses are in use (connect), or the source is (bind).
func isClash(err error) bool {
	return errors.Is(err, unix.EADDRINUSE) || errors.Is(err, unix.EADDRNOTAVAIL)
}

// classify maps what the system calls of a dial say. asClient: the source was prescribed.
func classify(err error, asClient bool) Reason {
	var dns *net.DNSError
	var sys *os.SyscallError
	switch {
	case isAny(err, unix.EMFILE, unix.ENFILE, unix.ENOBUFS, unix.ENOMEM):
		return Limit
	case isClash(err) && asClient:
		return SourceClash
	case isClash(err): // no port of our own is free
		return Limit
	case isAny(err, unix.ECONNREFUSED, unix.ECONNRESET):
		return Refused
	case errors.As(err, &sys) && sys.Syscall == "bind" && isAny(err, unix.EACCES, unix.EPERM):
		return SourceClash // a port below 1024 without CAP_NET_BIND_SERVICE
	case errors.As(err, &sys) && sys.Syscall == "connect" && isAny(err, unix.EACCES, unix.EPERM):
		return Unreachable // a firewall or a prohibiting route of this host
	case isAny(err, unix.EHOSTUNREACH, unix.ENETUNREACH, unix.ETIMEDOUT, unix.EHOSTDOWN, unix.ENETDOWN, unix.ENOTCONN, unix.EINVAL),
		errors.Is(err, os.ErrDeadlineExceeded), errors.Is(err, context.DeadlineExceeded), errors.As(err, &dns):
		return Unreachable
	}
	var timeout net.Error
	if errors.As(err, &timeout) && timeout.Timeout() {
		return Unreachable
	}
	return Failed
}

func isAny(err error, targets ...error) bool {
	for _, t := range targets {
		if errors.Is(err, t) {
			return true
		}
	}
	return false
}
