package transport

import (
	"slices"
	"sync"
	"time"
)

// Flow is one byte stream with two directions over a session.
//
// Sending ([Flow.SendWindow], [Flow.Send]) is for one goroutine, receiving
// ([Flow.Receive], [Flow.Acknowledge], [Flow.Consume]) for one other; the rest
// may be called from anywhere. Once a flow was aborted or its session ended,
// every call returns its *[AbortError].
type Flow struct {
	s         *Session
	id        uint64
	initiator bool
	began     time.Time
	openBody  []byte
	done      chan struct{}
	err       error // *AbortError; nil while it lives and after a clean end
	ended     bool
	orphan    bool // the frame with OPEN has not arrived

	sendCond   sync.Cond
	sendNext   uint64 // number of the next frame
	sendRaw    uint64 // raw bytes sent
	sendCredit uint64
	offered    int  // what SendWindow returned last
	bulk       bool // the last frame was as large as offered
	ackedNext  uint64
	finSent    bool
	out        []*outFrame // sent and not acknowledged; out[0] has number ackedNext
	queue      []*outFrame // to be written to a lane, lowest number first
	busy       []*laneState
	inFlight   int     // wire bytes not acknowledged
	ratio      float64 // payload bytes per raw byte of late
	onAcked    func(next uint64)
	className  string // as SetClass had it
	class      *class // nil while nothing is shared
	listed     bool   // is in its class's list

	recvCond   sync.Cond
	arrived    uint64 // frames below have arrived without a gap
	arrivedRaw uint64
	delivered  uint64 // frames below were handed to Receive's caller
	finNumber  uint64 // of the frame with FIN, when finArrived
	finArrived bool
	answered   bool
	answer     []byte
	readyQ     []Frame
	early      map[uint64]earlyFrame
	ack        *ackState
	consumed   uint64
	window     uint64 // raw bytes granted beyond what was consumed
	roundAt    time.Time
	roundFrom  uint64
}

// Frame is what Receive returns.
type Frame struct {
	Number  uint64
	RawLen  int    // bytes of the flow it stands for
	Payload []byte // valid until Release
	Fin     bool   // the last one of this direction
}

type earlyFrame struct {
	Frame
	offset   uint64
	open     bool
	openBody []byte
}

func (s *Session) newFlow(id uint64) *Flow {
	f := &Flow{
		s: s, id: id, began: time.Now(), done: make(chan struct{}),
		sendCredit: s.peer.InitialCredit,
		window:     uint64(s.link.cfg.InitialCreditBytes),
	}
	f.ack = &ackState{flow: id, credit: f.window, saidCredit: f.window}
	s.granted += int64(f.window)
	f.sendCond.L, f.recvCond.L = &s.mu, &s.mu
	if s.sched != nil {
		f.class = s.sched.class("")
	}
	s.flows[id] = f
	return f
}

// ID is the flow's number, unique within its session.
func (f *Flow) ID() uint64 { return f.id }

// Session is the session the flow belongs to.
func (f *Flow) Session() *Session { return f.s }

// OpenBody is what the initiator said in its first frame.
func (f *Flow) OpenBody() []byte { return f.openBody }

// Answered says whether the responder's first frame has arrived.
func (f *Flow) Answered() bool {
	f.s.mu.Lock()
	defer f.s.mu.Unlock()
	return f.answered
}

// Done is closed when the flow is over: both directions ended and
// acknowledged, or aborted.
func (f *Flow) Done() <-chan struct{} { return f.done }

// Err is nil while the flow lives and after its clean end, else an
// *[AbortError].
func (f *Flow) Err() error {
	f.s.mu.Lock()
	defer f.s.mu.Unlock()
	return f.err
}

// Abort ends both directions at once. The peer learns the code. What was sent
// and not acknowledged is given up. It does nothing to a flow that is over.
func (f *Flow) Abort(code AbortCode) {
	f.s.mu.Lock()
	defer f.s.mu.Unlock()
	f.abort(code)
}

func (f *Flow) abort(code AbortCode) {
	if f.ended {
		return
	}
	f.finish(&AbortError{Code: code})
	f.s.queueMessage(appendAbort(nil, f.id, code))
}

// Close gives the flow up. When this side has sent its last frame and
// acknowledged the peer's, the flow lingers until the peer has acknowledged
// too; otherwise it is aborted with [AbortReset].
func (f *Flow) Close() {
	f.s.mu.Lock()
	defer f.s.mu.Unlock()
	if f.finSent && f.receivedAll() {
		return
	}
	f.abort(AbortReset)
}

func (f *Flow) receivedAll() bool { return f.finArrived && f.ack.next > f.finNumber }

// maybeEnd ends the flow cleanly when both directions are through. What is
// left is the last acknowledgement, which must reach the peer.
func (f *Flow) maybeEnd() {
	if f.ended || !f.finSent || len(f.out) > 0 || !f.receivedAll() {
		return
	}
	f.s.tombs[f.id] = f.ack
	f.s.stirred()
	f.s.totals.flowsEnded++
	f.finish(nil)
}

// finish takes the flow out of the session; err is nil for a clean end.
func (f *Flow) finish(err error) {
	if f.ended {
		return
	}
	s := f.s
	f.ended, f.err = true, err
	delete(s.flows, f.id)
	mine := f.initiator
	switch {
	case mine:
		s.own--
	case f.orphan:
		s.orphans--
		s.seen.add(f.id >> 1) // a late OPEN finds a flow that has ended
	default:
		s.opened--
	}
	if err != nil {
		s.totals.flowsAborted++
		if f.ack.dirty {
			s.acks = slices.DeleteFunc(s.acks, func(a *ackState) bool { return a == f.ack })
			f.ack.dirty = false
		}
	}
	s.granted -= int64(f.ack.credit - f.consumed)
	for _, fr := range f.out {
		f.dropFrame(fr)
	}
	for _, e := range f.early {
		if f.orphan {
			s.orphanMem -= len(e.Payload)
		}
		s.link.buffers.put(e.Payload)
	}
	f.out, f.queue, f.early = nil, nil, nil
	f.leaveClass()
	s.nextOfCrowd()
	if err != nil {
		for _, fr := range f.readyQ {
			s.link.buffers.put(fr.Payload)
		}
		f.readyQ = nil
	}
	close(f.done)
	f.sendCond.Broadcast()
	f.recvCond.Broadcast()
}

// peerAborted handles an ABORT message.
func (s *Session) peerAborted(id uint64, code AbortCode) error {
	if f := s.flows[id]; f != nil {
		f.finish(&AbortError{Code: code, Remote: true})
		return nil
	}
	if s.isOwn(id) {
		if id >= s.nextFlow {
			return malformed("abort of a flow never opened")
		}
		return nil
	}
	if !s.seen.add(id >> 1) {
		return malformed("too many gaps in the flow numbers")
	}
	return nil
}

// isOwn says whether flow numbers like id are drawn by this side.
func (s *Session) isOwn(id uint64) bool { return id&1 == 0 == s.even }
