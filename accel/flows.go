package accel

import (
	"maps"
	"net/netip"
	"sync"
	"sync/atomic"
	"time"

	"wanpair/accel/flow"
	"wanpair/accel/peer"
	"wanpair/accel/policy"
	"wanpair/accel/stats"
	"wanpair/dedupe"
)

// runningFlow is a connection the gateway carries at this moment.
type runningFlow struct {
	id          uint64
	source      netip.AddrPort
	destination string
	peer        string
	class       string
	near        bool // taken from the LAN here; else dialled here for the peer
	started     time.Time
	count       flow.Counters
	reason      atomic.Int32 // policy.Reason, 0 while accelerated
	open        atomic.Bool  // the target is connected

	mu    sync.Mutex
	abort func(error)                   // nil until there is something to abort
	wan   func() (sent, received int64) // nil while raw
	found func() policy.Reason          // what the codec found out; nil while raw
	half  func() bool                   // one direction has ended; nil while raw
}

func (f *runningFlow) setReason(r policy.Reason) { f.reason.Store(int32(r)) }

func (f *runningFlow) attach(abort func(error)) {
	f.mu.Lock()
	defer f.mu.Unlock()
	f.abort = abort
}

// attachStream makes the flow one of the tunnel.
func (f *runningFlow) attachStream(s *peer.Stream) {
	f.mu.Lock()
	defer f.mu.Unlock()
	f.abort, f.wan, f.half = s.Abort, s.WANBytes, s.HalfClosed
	f.found = func() policy.Reason {
		switch s.Treatment() {
		case dedupe.Encrypted:
			return policy.Encrypted
		case dedupe.Incompressible:
			return policy.Compressed
		default:
			return policy.None
		}
	}
}

// why is the reason that stands beside the flow: the one it was given, else what the codec found out.
func (f *runningFlow) why() policy.Reason {
	if given := policy.Reason(f.reason.Load()); given != policy.None {
		return given
	}
	f.mu.Lock()
	found := f.found
	f.mu.Unlock()
	if found == nil {
		return policy.None
	}
	return found()
}

func (f *runningFlow) halfClosed() bool {
	f.mu.Lock()
	half := f.half
	f.mu.Unlock()
	return half != nil && half()
}

func (f *runningFlow) wanBytes() (sent, received int64) {
	f.mu.Lock()
	wan := f.wan
	f.mu.Unlock()
	if wan == nil {
		return 0, 0
	}
	return wan()
}

// flowTable holds the running flows and counts the ended ones by outcome.
type flowTable struct {
	ended func(f *runningFlow, how stats.Outcome) // called after each flow

	mu     sync.Mutex
	next   uint64
	flows  map[uint64]*runningFlow
	byPeer map[string]int
	raw    int           // flows carried raw
	empty  chan struct{} // not nil while somebody waits for the table to be empty
	closed map[stats.Outcome]uint64
	passed map[policy.Reason]uint64
}

// raw is the outcome of a connection that was carried here, but not through the tunnel: it is counted by its reason.
const raw stats.Outcome = ""

// holdRaw counts a running flow as carried raw until the returned function is called.
func (t *flowTable) holdRaw() (release func()) {
	t.mu.Lock()
	defer t.mu.Unlock()
	t.raw++
	return func() {
		t.mu.Lock()
		defer t.mu.Unlock()
		t.raw--
	}
}

func (t *flowTable) countRaw() int {
	t.mu.Lock()
	defer t.mu.Unlock()
	return t.raw
}

func newFlowTable(ended func(*runningFlow, stats.Outcome)) *flowTable {
	return &flowTable{
		ended:  ended,
		flows:  make(map[uint64]*runningFlow),
		byPeer: make(map[string]int),
		closed: make(map[stats.Outcome]uint64),
		passed: make(map[policy.Reason]uint64),
	}
}

func (t *flowTable) add(f *runningFlow) *runningFlow {
	t.mu.Lock()
	defer t.mu.Unlock()
	t.next++
	f.id = t.next
	f.started = time.Now()
	t.flows[f.id] = f
	t.byPeer[f.peer]++
	return f
}

func (t *flowTable) remove(f *runningFlow, how stats.Outcome) {
	t.forget(f, how)
	t.ended(f, how)
}

func (t *flowTable) forget(f *runningFlow, how stats.Outcome) {
	t.mu.Lock()
	defer t.mu.Unlock()
	delete(t.flows, f.id)
	t.byPeer[f.peer]--
	if how == raw {
		t.passed[policy.Reason(f.reason.Load())]++
	} else {
		t.closed[how]++
	}
	if len(t.flows) == 0 && t.empty != nil {
		close(t.empty)
		t.empty = nil
	}
}

func (t *flowTable) count() int {
	t.mu.Lock()
	defer t.mu.Unlock()
	return len(t.flows)
}

// begun is how many flows have begun so far.
func (t *flowTable) begun() uint64 {
	t.mu.Lock()
	defer t.mu.Unlock()
	return t.next
}

// countByPeer is how many flows run with each peer.
func (t *flowTable) countByPeer() map[string]int {
	t.mu.Lock()
	defer t.mu.Unlock()
	return maps.Clone(t.byPeer)
}

// whenEmpty returns a channel that is closed when no flow is left.
func (t *flowTable) whenEmpty() <-chan struct{} {
	t.mu.Lock()
	defer t.mu.Unlock()
	if len(t.flows) == 0 {
		done := make(chan struct{})
		close(done)
		return done
	}
	if t.empty == nil {
		t.empty = make(chan struct{})
	}
	return t.empty
}

func (t *flowTable) all() []*runningFlow {
	t.mu.Lock()
	defer t.mu.Unlock()
	out := make([]*runningFlow, 0, len(t.flows))
	for _, f := range t.flows {
		out = append(out, f)
	}
	return out
}

// abortAll ends the flows of a peer, or of all of them when peer is empty.
func (t *flowTable) abortAll(peer string, cause error) {
	for _, f := range t.all() {
		if peer != "" && f.peer != peer {
			continue
		}
		f.mu.Lock()
		abort := f.abort
		f.mu.Unlock()
		if abort != nil {
			abort(cause)
		}
	}
}

// totals returns how many flows ended, by outcome, and how many were carried raw, by reason.
func (t *flowTable) totals() (map[stats.Outcome]uint64, map[policy.Reason]uint64) {
	t.mu.Lock()
	defer t.mu.Unlock()
	return maps.Clone(t.closed), maps.Clone(t.passed)
}
