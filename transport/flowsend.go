package transport

import (
	"errors"
	"slices"
	"time"
)

const (
	// smallFrame is what certainly fits into one packet: such a frame goes out
	// without a goroutine.
	smallFrame = 1100
	// interactiveBytes: a flow with less than this on its way is not moving
	// bulk; its small frames go first.
	interactiveBytes = 16 << 10
	// maxUnackedFrames stays below what the receiver keeps of early frames.
	maxUnackedFrames = 2048
)

// outFrame is a frame as encoded, kept until it is acknowledged.
type outFrame struct {
	number  uint64
	buf     []byte // header and payload, from the link's buffers
	size    int    // of buf
	lane    *laneState
	writers int         // goroutines that read buf now
	w       FrameWriter // of the last write, for Cancel
	acked   bool
	sentOn  int // how many lanes it was given to
}

// NextNumber is the number the next Send will get.
func (f *Flow) NextNumber() uint64 {
	f.s.mu.Lock()
	defer f.s.mu.Unlock()
	return f.sendNext
}

// SetOnAcked sets a function that is called when frames are acknowledged: all
// below next. It is called without locks held, from any goroutine; calls may
// overtake each other, then the largest next holds.
func (f *Flow) SetOnAcked(call func(next uint64)) {
	f.s.mu.Lock()
	defer f.s.mu.Unlock()
	f.onAcked = call
}

// SendWindow blocks until a frame should be encoded now: there is credit, and
// a lane can take the frame soon. It returns how many raw bytes the frame may
// stand for: at most the credit, [MaxRawLength] and what suits the link's rate.
func (f *Flow) SendWindow() (rawBytes int, err error) {
	s := f.s
	s.mu.Lock()
	defer s.mu.Unlock()
	defer s.leaveCrowd(f)
	for {
		switch {
		case f.ended:
			return 0, f.endError()
		case f.finSent:
			return 0, ErrEnded
		case s.ctl != nil && len(f.queue) == 0 && len(f.out) < maxUnackedFrames &&
			f.sendRaw < f.sendCredit && !s.overKept(f):
			if !s.crowded(f) {
				f.offered = int(min(f.sendCredit-f.sendRaw, uint64(f.frameCap())))
				return f.offered, nil
			}
		default:
			s.leaveCrowd(f)
		}
		f.sendCond.Wait()
	}
}

// frameCap is the raw length suited to the link's rate: what the frame is
// thought to become on the wire, by what the last ones became, should not take
// the link longer than frameTime.
func (f *Flow) frameCap() int {
	limit := f.s.frameBytes
	if f.ratio > 0 {
		limit = int(min(float64(limit)/f.ratio, maxRawLength))
	}
	return min(max(limit, 16<<10), maxRawLength)
}

// overKept says whether so many frames are kept, over all flows, that this one
// has to wait for acknowledgements. A flow that has none is never held up.
func (s *Session) overKept(f *Flow) bool {
	return f.inFlight > 0 && s.kept > s.link.cfg.CreditBudgetBytes
}

func (f *Flow) endError() error {
	if f.err != nil {
		return f.err
	}
	return ErrEnded // a clean end: both directions had their FIN
}

// Answer is the responder's first frame: the flow is connected. body is at
// most 4096 bytes.
func (f *Flow) Answer(body []byte) error {
	if len(body) > maxOpenBody {
		return malformed("answer above its bound")
	}
	f.s.mu.Lock()
	defer f.s.mu.Unlock()
	if f.ended {
		return f.endError()
	}
	if f.initiator || f.sendNext != 0 {
		return malformed("answer by the initiator, or twice")
	}
	f.sendLocked(&frameHeader{open: true, flow: f.id, openBody: body}, nil)
	return nil
}

// Send sends the next frame: payload, which stands for rawLen raw bytes. It
// does not block and does not keep payload. fin ends this direction. The first
// data frame of an initiator has number 1, as has that of a responder, after
// [Flow.Answer].
func (f *Flow) Send(payload []byte, rawLen int, fin bool) (number uint64, err error) {
	if rawLen < 0 || rawLen > maxRawLength || len(payload) == 0 || len(payload) > MaxPayload(rawLen) || rawLen == 0 && !fin {
		return 0, malformed("frame to send has an impossible length")
	}
	s := f.s
	s.mu.Lock()
	defer s.mu.Unlock()
	switch {
	case f.ended:
		return 0, f.endError()
	case f.finSent:
		return 0, ErrEnded
	case f.sendNext == 0:
		return 0, malformed("data before the answer")
	case f.sendRaw+uint64(rawLen) > f.sendCredit:
		return 0, ErrCredit
	}
	ratio := float64(len(payload)) / float64(max(rawLen, 1))
	if f.ratio == 0 {
		f.ratio = min(ratio, 1)
	} else {
		f.ratio += (min(ratio, 1) - f.ratio) / 8
	}
	number = f.sendNext
	f.bulk = rawLen >= f.offered // there is more where that came from
	defer s.nextOfCrowd()
	f.sendLocked(&frameHeader{
		fin: fin, flow: f.id, number: number, offset: f.sendRaw,
		rawLen: rawLen, payloadLen: len(payload),
	}, payload)
	return number, nil
}

// sendLocked keeps the frame and hands it to a lane if one can take it. The
// lock is let go for a moment when the frame is small.
func (f *Flow) sendLocked(h *frameHeader, payload []byte) {
	s := f.s
	bound := maxFrameHeader + len(h.openBody) + len(payload)
	small := f.inFlight < interactiveBytes && len(f.queue) == 0 && bound <= smallFrame && s.mayOvertake(f, bound)
	acks := small && f.takeAck(h)
	buf := s.link.buffers.get(bound)
	buf = append(appendFrameHeader(buf[:0], h), payload...)
	fr := &outFrame{number: h.number, buf: buf, size: len(buf)}
	f.out = append(f.out, fr)
	f.sendNext++
	f.sendRaw += uint64(h.rawLen)
	f.finSent = f.finSent || h.fin
	f.inFlight += len(buf)
	s.kept += int64(len(buf))
	s.stirred()
	s.totals.framesSent++
	s.totals.payloadSent += uint64(len(payload))
	s.totals.rawSent += uint64(h.rawLen)
	if small {
		if ls := s.smallLane(); ls != nil && f.trySmall(ls, fr) {
			s.regret(bound - fr.size)
			s.charge(f, fr.size)
			return
		}
		s.regret(bound)
		if acks && !f.ended {
			s.markAck(f.ack, false)
		}
		if fr.acked || f.ended {
			return
		}
	}
	f.queue = append(f.queue, fr)
	s.dispatch(f)
}

// trySmall gives a small frame to ls at once.
func (f *Flow) trySmall(ls *laneState, fr *outFrame) bool {
	s := f.s
	fr.lane = ls
	fr.writers++
	fr.sentOn++
	s.mu.Unlock()
	err := ls.lane.TryFrame(fr.buf)
	s.mu.Lock()
	f.writerDone(fr)
	if err == nil || fr.lane != ls {
		return true // sent, or in the queue because the lane was set aside meanwhile
	}
	fr.lane = nil
	fr.sentOn--
	return false
}

// spread starts a write on every lane that can take one for this flow.
func (f *Flow) spread() {
	for len(f.queue) > 0 {
		ls := f.s.pickLane(f)
		if ls == nil {
			return
		}
		fr := f.nextFrame(ls)
		if fr == nil {
			return
		}
		f.busy = append(f.busy, ls)
		ls.work.Add(1)
		go f.write(ls, fr)
	}
}

// nextFrame takes the first frame of the queue for a write on ls.
func (f *Flow) nextFrame(ls *laneState) *outFrame {
	for len(f.queue) > 0 {
		fr := f.queue[0]
		f.queue[0] = nil
		f.queue = f.queue[1:]
		if fr.acked {
			continue
		}
		if fr.sentOn > 0 {
			f.s.totals.resentFrames++
			f.s.totals.resent += uint64(fr.size)
		}
		fr.lane = ls
		fr.writers++
		fr.sentOn++
		ls.queued += fr.size
		ls.writes++
		return fr
	}
	f.queue = nil
	return nil
}

// pickLane returns the usable lane that would have the next frame through
// first, among those without a write of f outstanding; nil when there is none.
// Bulk takes the first bulkLanes only.
func (s *Session) pickLane(f *Flow) (best *laneState) {
	var bestTime time.Duration
	usable := 0
	for _, ls := range s.lanes {
		if !ls.usable() {
			continue
		}
		if usable++; f != nil && (s.bulkLanes > 0 && usable > s.bulkLanes || slices.Contains(f.busy, ls)) {
			continue
		}
		if t := ls.through(); best == nil || t < bestTime {
			best, bestTime = ls, t
		}
	}
	return best
}

// smallLane is the lane for a frame of one packet: the one of the
// acknowledgements unless another is clearly faster. What goes the same way
// shares packets, and the packets that acknowledge them.
func (s *Session) smallLane() *laneState {
	best := s.pickLane(nil)
	if s.ctl == nil || !s.ctl.usable() || best == s.ctl || best == nil {
		return best
	}
	const clearly = 8 // an eighth
	if t := best.through(); s.ctl.through() > t+t/clearly+time.Millisecond {
		return best
	}
	return s.ctl
}

// through is about how long a frame given to the lane now is under way.
func (ls *laneState) through() time.Duration {
	t := ls.stats.RTT / 2
	if rate := ls.stats.RateBytes; rate > 0 {
		t += time.Duration(float64(ls.queued) / float64(rate) * float64(time.Second))
	}
	return t
}

// write writes fr on ls, then whatever the flow has queued, until there is
// nothing more or the lane ends.
func (f *Flow) write(ls *laneState, fr *outFrame) {
	defer ls.work.Done()
	s := f.s
	for {
		w, err := ls.lane.OpenFrame(ls.ctx)
		if err == nil {
			err = f.writeOne(w, fr)
		}
		s.mu.Lock()
		f.written(ls, fr, w, err)
		var next *outFrame
		if ls.usable() && !f.ended && s.sched == nil {
			next = f.nextFrame(ls)
		}
		if next == nil {
			f.busy = slices.DeleteFunc(f.busy, func(x *laneState) bool { return x == ls })
			if len(f.busy) == 0 {
				f.busy = nil
			}
		}
		f.sendCond.Broadcast()
		s.nextOfCrowd()
		s.mu.Unlock()
		if next == nil {
			return
		}
		fr = next
	}
}

// written notes the end of a write.
func (f *Flow) written(ls *laneState, fr *outFrame, w FrameWriter, err error) {
	if err != nil && !errors.Is(err, ErrFrameRefused) {
		ls.broken = true // what it carries is requeued when its reader notices
	}
	ls.queued -= fr.size
	ls.writes--
	if fr.w == w {
		fr.w = nil
	}
	f.writerDone(fr)
}

// writeOne writes one frame. An error of the stream alone means that the peer
// does not want the frame: it has it, or will abort the flow.
func (f *Flow) writeOne(w FrameWriter, fr *outFrame) error {
	s := f.s
	s.mu.Lock()
	if fr.acked || f.ended {
		s.mu.Unlock()
		w.Cancel(0)
		return nil
	}
	fr.w = w
	s.mu.Unlock()
	if _, err := w.Write(fr.buf); err != nil {
		w.Cancel(0)
		return err
	}
	return w.Close()
}

// writerDone ends one use of the frame's buffer.
func (f *Flow) writerDone(fr *outFrame) {
	fr.writers--
	if fr.acked && fr.writers == 0 {
		f.s.link.buffers.put(fr.buf)
		fr.buf = nil
	}
}

// acknowledged drops the frames below next.
func (f *Flow) acknowledged(next uint64) {
	n := int(next - f.ackedNext)
	for _, fr := range f.out[:n] {
		f.dropFrame(fr)
	}
	clear(f.out[:n])
	f.out = f.out[n:]
	if len(f.out) == 0 {
		f.out = nil
	}
	f.ackedNext = next
	f.sendCond.Broadcast()
	f.s.nextOfCrowd() // what was to be sent again need not be
	f.maybeEnd()
}

// dropFrame lets go of a frame that is acknowledged or given up.
func (f *Flow) dropFrame(fr *outFrame) {
	s := f.s
	fr.acked = true
	f.inFlight -= fr.size
	before := s.kept
	s.kept -= int64(fr.size)
	if budget := s.link.cfg.CreditBudgetBytes; before > budget && s.kept <= budget {
		s.wakeSenders()
	}
	if fr.w != nil {
		fr.w.Cancel(0) // a write of it is under way: it is not needed any more
	}
	if fr.writers == 0 {
		s.link.buffers.put(fr.buf)
		fr.buf = nil
	}
}

// requeue puts the frames that are on ls back into the queue.
func (f *Flow) requeue(ls *laneState) {
	var again []*outFrame
	for _, fr := range f.out {
		if fr.lane == ls {
			fr.lane = nil
			again = append(again, fr)
		}
	}
	if len(again) == 0 {
		return
	}
	f.queue = append(f.queue, again...)
	slices.SortFunc(f.queue, func(a, b *outFrame) int {
		switch {
		case a.number < b.number:
			return -1
		case a.number > b.number:
			return 1
		}
		return 0
	})
}

// wakeSenders lets every flow look again whether it can send.
func (s *Session) wakeSenders() {
	for _, f := range s.flows {
		s.dispatch(f)
		f.sendCond.Broadcast()
	}
}
