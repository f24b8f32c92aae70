package transport

import (
	"errors"
	"fmt"
)

// AbortCode says why a flow was aborted; docs/protocol.md, C3. Values not
// listed here may arrive from a later version and are passed on as they are.
type AbortCode uint64

// The abort codes of protocol version 1.
const (
	AbortReset         AbortCode = 1  // the TCP connection at the other edge was reset
	AbortRefused       AbortCode = 2  // the server refused the connection
	AbortUnreachable   AbortCode = 3  // host or network unreachable, or the dial timed out
	AbortDenied        AbortCode = 4  // the far side's policy does not allow target or source
	AbortLimit         AbortCode = 5  // the far side is out of flows, memory or descriptors
	AbortCacheMiss     AbortCode = 6  // a reference could not be resolved
	AbortChecksum      AbortCode = 7  // a frame or the whole flow did not verify
	AbortFrame         AbortCode = 8  // a frame broke the rules of A5
	AbortCodec         AbortCode = 9  // a codec frame broke its grammar
	AbortLinkLost      AbortCode = 10 // the session ended without the flow's end
	AbortPeerRestarted AbortCode = 11 // the other gateway is a new process
	AbortShutdown      AbortCode = 12 // the gateway stops and the drain time is over
	AbortInternal      AbortCode = 13 // a fault of our own
	AbortSource        AbortCode = 14 // the far side could not bind the client's address
)

// String returns the name of the code as docs/protocol.md has it.
func (c AbortCode) String() string {
	names := [...]string{
		"", "RESET", "REFUSED", "UNREACHABLE", "DENIED", "LIMIT", "CACHE_MISS", "CHECKSUM",
		"FRAME", "CODEC", "LINK_LOST", "PEER_RESTARTED", "SHUTDOWN", "INTERNAL", "SOURCE",
	}
	if c > 0 && int(c) < len(names) {
		return names[c]
	}
	return fmt.Sprintf("abort code %d", uint64(c))
}

// AbortError is what the calls of a flow return after it was aborted.
type AbortError struct {
	Code   AbortCode
	Remote bool // the other side aborted it
}

// Error names the side and the code.
func (e *AbortError) Error() string {
	side := "here"
	if e.Remote {
		side = "by the peer"
	}
	return fmt.Sprintf("flow aborted %s: %s", side, e.Code)
}

// LaneCode says why a lane was closed; docs/protocol.md, A1.
type LaneCode uint64

// The lane codes of protocol version 1.
const (
	LaneNone       LaneCode = 0 // orderly end
	LaneProtocol   LaneCode = 1 // malformed or impossible input
	LaneVersion    LaneCode = 2 // no common version
	LaneRefused    LaneCode = 3 // the hello was refused
	LaneSuperseded LaneCode = 4 // a new instance, or the lane was replaced
	LaneStalled    LaneCode = 5 // no proof of work for the liveness timeout
	LaneInternal   LaneCode = 6 // a fault on the closing side
)

// String returns the name of the code as docs/protocol.md has it.
func (c LaneCode) String() string {
	names := [...]string{"NONE", "PROTOCOL", "VERSION", "REFUSED", "SUPERSEDED", "STALLED", "INTERNAL"}
	if int(c) < len(names) {
		return names[c]
	}
	return fmt.Sprintf("lane code %d", uint64(c))
}

// LaneError is why a lane ended, when one of the sides said so.
type LaneError struct {
	Code   LaneCode
	Reason string // one line for people
	Remote bool   // the other side closed it
}

// Error names the side, the code and the reason.
func (e *LaneError) Error() string {
	side := "closed"
	if e.Remote {
		side = "closed by the peer"
	}
	if e.Reason == "" {
		return fmt.Sprintf("lane %s: %s", side, e.Code)
	}
	return fmt.Sprintf("lane %s: %s: %s", side, e.Code, e.Reason)
}

// What callers branch on.
var (
	// ErrNoLane says that the session is held: no lane can carry a new flow.
	ErrNoLane = errors.New("transport: no lane is up")
	// ErrDraining says that the peer takes no new flows.
	ErrDraining = errors.New("transport: the peer is draining")
	// ErrFlowLimit says that the peer cannot reserve a floor for one more flow.
	ErrFlowLimit = errors.New("transport: the peer's flow limit is reached")
	// ErrSessionEnded says that the session is over; its Err says why.
	ErrSessionEnded = errors.New("transport: the session ended")
	// ErrBacklog says that the peer takes messages too slowly to queue another.
	ErrBacklog = errors.New("transport: too many messages wait for the peer")
	// ErrCredit says that a Send exceeds what SendWindow allowed.
	ErrCredit = errors.New("transport: frame exceeds the credit granted")
	// ErrEnded says that this direction of the flow has ended cleanly.
	ErrEnded = errors.New("transport: the direction has ended")
	// ErrFrameRefused says that a frame stream was given up, by the peer or
	// here, while its lane goes on.
	ErrFrameRefused = errors.New("transport: frame stream given up")
	// ErrMalformed is wrapped by every error of the parsers.
	ErrMalformed = errors.New("malformed")
	// ErrWouldBlock says that a lane cannot take a frame at this moment.
	ErrWouldBlock = errors.New("transport: lane would block")
	// ErrPeerRestarted ends a session whose peer is a new process.
	ErrPeerRestarted = errors.New("transport: the peer is a new instance")
	// ErrHoldExpired ends a session that had no lane for the hold time.
	ErrHoldExpired = errors.New("transport: no lane within the hold time")
	// ErrLinkStopped ends the session of a link whose Run returned.
	ErrLinkStopped = errors.New("transport: the link was stopped")
)
