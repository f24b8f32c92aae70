package stats

import (
	"time"

	"wanpair/accel/policy"
)

// Source is where the server gets its figures. The functions are called from several goroutines and must be cheap.
type Source struct {
	Snapshot func() Snapshot // once per request
	Peers    func() []Peer   // Snapshot's, asked for once a second; nil: Snapshot is asked
	Flows    func() []Flow   // the caller may change the slice
	Top      *Top            // what ended flows gained; nil: only running ones are ranked
}

// Snapshot is every counter of the gateway at one moment. Counters only grow while the process lives.
type Snapshot struct {
	Site    string
	Version string
	Started time.Time

	Unhealthy string // why the gateway does not do its work, in one line; "" when it does
	NotReady  string // why it does not accelerate yet, in one line; "" when it does

	Peers []Peer
	Cache Cache

	FlowsActive int                      // over all peers
	FlowsEnded  map[Outcome]uint64       // flows that were carried, by how they ended
	FlowsPassed map[policy.Reason]uint64 // connections not accelerated, by reason

	EncoderQueue   time.Duration // how long work such as encoding waits for a processor
	MemoryBytes    int64         // credit granted and not yet returned, over all flows
	MemoryCapacity int64         // its bound
}

// State is how the link to a peer stands.
type State string

// The states of a link.
const (
	StateUp         State = "up"
	StateDown       State = "down"
	StateConnecting State = "connecting"
)

// Outcome is how a carried flow ended.
type Outcome string

// The outcomes, a closed set.
const (
	OutcomeClean    Outcome = "clean"    // both directions ended and were verified
	OutcomeReset    Outcome = "reset"    // one of the two applications reset the connection
	OutcomeRefused  Outcome = "refused"  // the target refused, was unreachable or not allowed
	OutcomeLost     Outcome = "lost"     // the link or the peer was lost for longer than flows are held
	OutcomeError    Outcome = "error"    // a fault of ours: a frame that did not verify, a limit, a bug
	OutcomeShutdown Outcome = "shutdown" // a gateway stopped before the flow ended
)

// Outcomes lists all outcomes.
func Outcomes() []Outcome {
	return []Outcome{OutcomeClean, OutcomeReset, OutcomeRefused, OutcomeLost, OutcomeError, OutcomeShutdown}
}

// Traffic is a pair of byte counts, one per direction.
type Traffic struct {
	Sent     uint64 `json:"sent"`     // towards the peer
	Received uint64 `json:"received"` // from the peer
}

// Gain says what became of the raw bytes of one direction. Matched + Literal is all of them.
type Gain struct {
	MatchedBytes     uint64 `json:"matched_bytes"`      // found in the history
	LiteralBytes     uint64 `json:"literal_bytes"`      // not found
	LiteralWireBytes uint64 `json:"literal_wire_bytes"` // what the literals became after compression
	OpaqueBytes      uint64 `json:"opaque_bytes"`       // the part of the literals known to be encrypted or compressed, or only relayed; of received ones what came hardly smaller than it is
}

// Peer is the state and the counters of the link to one peer.
type Peer struct {
	Name   string
	State  State
	Detail string    // why it is not up, in one line
	Since  time.Time // of State

	RTT       time.Duration // smoothed; 0 when there is none
	LossRatio float64       // of packets sent over about the last 10 s, 0 to 1
	Lanes     int           // that carry traffic now
	Skew      time.Duration // the peer's wall clock minus ours
	Software  string        // the peer's version

	LAN         Traffic
	WAN         Traffic // UDP payload, all overhead counted
	ResentBytes uint64  // the part of WAN.Sent that was sent again
	Sent        Gain
	Received    Gain

	Classes []Class // that share the link; nil where nothing is shared

	HitAgeBytes uint64 // how far behind the newest bytes of its log what was found of late lies

	FlowsActive int
	FlowsHeld   int // of them, waiting for a lost link

	MissRepairs uint64 // references the receiver could not resolve and got the bytes for
	FrameErrors uint64 // frames that broke the rules or did not verify
	ZstdLevel   int    // of bytes not found in the history: 0 fastest to 2 smallest
}

// Class is what a class of flows has had of the link to a peer.
type Class struct {
	Name         string `json:"name"` // "" for the flows of no class with a share
	SharePercent int    `json:"share_percent"`
	SentBytes    uint64 `json:"sent_bytes"` // of frames, with what was sent again
}

// Cache is the state of the history on disk.
type Cache struct {
	SizeBytes     int64
	CapacityBytes int64
	MemoryBytes   int64
	Epochs        int
	Off           string // why it is not used, in one line; "" when it is
}

// FlowState is how a flow stands.
type FlowState string

// The states of a flow.
const (
	FlowOpening    FlowState = "opening" // the far side dials
	FlowOpen       FlowState = "open"
	FlowHalfClosed FlowState = "half_closed" // one direction has ended
	FlowHeld       FlowState = "held"        // the link is lost, the flow waits for it
	FlowPassed     FlowState = "passed"      // recent connection that was not carried
)

// Flow is one connection.
type Flow struct {
	ID          uint64 // never used again while the process lives
	Source      string // address and port
	Destination string // address and port, or host and port
	Peer        string // "" when it belongs to none
	Class       string // "" for none
	State       FlowState
	Reason      policy.Reason // why it is not, or not fully, accelerated
	LAN         Traffic
	WAN         Traffic // encoded frames, without the tunnel's own overhead
	Started     time.Time
}
