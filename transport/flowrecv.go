package transport

import (
	"cmp"
	"errors"
	"fmt"
	"io"
	"sync"
)

// WaitAnswer blocks until the responder has answered and returns what it said.
func (f *Flow) WaitAnswer() ([]byte, error) {
	f.s.mu.Lock()
	defer f.s.mu.Unlock()
	for !f.answered && !f.ended {
		f.recvCond.Wait()
	}
	if f.answered {
		return f.answer, nil
	}
	return nil, f.endError()
}

// Receive returns the next frame of the other direction. It blocks. After the
// frame with Fin there is none. Frames that arrived before an abort are not
// returned after it.
func (f *Flow) Receive() (Frame, error) {
	f.s.mu.Lock()
	defer f.s.mu.Unlock()
	for len(f.readyQ) == 0 && !f.ended {
		if f.finArrived && f.delivered > f.finNumber {
			return Frame{}, ErrEnded
		}
		f.recvCond.Wait()
	}
	if len(f.readyQ) == 0 {
		return Frame{}, f.endError()
	}
	fr := f.readyQ[0]
	f.readyQ[0] = Frame{}
	f.readyQ = f.readyQ[1:]
	if len(f.readyQ) == 0 {
		f.readyQ = nil
	}
	f.delivered = fr.Number + 1
	f.ack.unsaidRaw += fr.RawLen
	return fr, nil
}

// Release takes a frame's payload back for later ones. Calling it is optional;
// the payload must not be used afterwards.
func (f *Flow) Release(fr Frame) { f.s.link.buffers.put(fr.Payload) }

// Acknowledge says that the frames up to and including number are decoded and
// verified. Numbers never returned by Receive are ignored.
func (f *Flow) Acknowledge(number uint64) {
	s := f.s
	s.mu.Lock()
	defer s.mu.Unlock()
	if f.ended || number >= f.delivered || number < f.ack.next {
		return
	}
	f.ack.next = number + 1
	s.markAck(f.ack, f.ack.next-f.ack.saidNext >= urgentFrames || f.ack.unsaidRaw >= urgentRaw || f.receivedAll())
	f.maybeEnd()
}

// acceptFrames takes the peer's frame streams until the lane ends.
func (s *Session) acceptFrames(ls *laneState) {
	for {
		r, err := ls.lane.AcceptFrame(ls.ctx)
		if err != nil {
			return
		}
		s.mu.Lock()
		if !ls.attached {
			s.mu.Unlock()
			return
		}
		ls.work.Add(1)
		s.mu.Unlock()
		go s.receiveFrame(ls, r)
	}
}

// frameHead is the buffer for the front of a frame stream: a header without an
// open body fits, a waiting stream holds little.
type frameHead struct {
	b [maxFrameHeader + 16]byte
}

// heads lends them; a field of Session would need a pointer in every call.
type heads struct{ pool sync.Pool }

func (h *heads) get() *frameHead {
	if b, ok := h.pool.Get().(*frameHead); ok {
		return b
	}
	return new(frameHead)
}

// receiveFrame reads one frame stream and delivers its frame.
func (s *Session) receiveFrame(ls *laneState, r FrameReader) {
	defer ls.work.Done()
	err := s.readFrame(ls, r)
	switch {
	case err == nil:
		return
	case errors.Is(err, ErrMalformed):
		r.Cancel(AbortFrame)
		s.mu.Lock()
		s.totals.frameErrors++
		s.mu.Unlock()
		var bad *flowFault
		if errors.As(err, &bad) {
			s.link.log.Debug("frame breaks the rules", "peer", s.peer.Site, "flow", bad.flow, "err", err)
			return
		}
		// No flow can be named for what came: the lane is at fault.
		if !errors.Is(err, errUnknownKind) {
			ls.lane.Close(LaneProtocol, err.Error())
		}
	default:
		r.Cancel(0)
	}
}

// flowFault is malformed input that names a flow; that flow was aborted.
type flowFault struct {
	flow uint64
	what string
}

func (e *flowFault) Error() string { return e.what }
func (e *flowFault) Unwrap() error { return ErrMalformed }

// errUnwanted says that a frame is a duplicate or of a flow that has ended.
var errUnwanted = errors.New("frame not wanted")

func (s *Session) readFrame(ls *laneState, r FrameReader) error {
	head := s.link.heads.get()
	defer s.link.heads.pool.Put(head)
	h, rest, eof, err := readFrameHeader(ls, s.link, r, head)
	if err != nil {
		return err
	}
	err = s.expect(&h)
	if h.ack && (err == nil || errors.Is(err, errUnwanted)) {
		err = cmp.Or(s.receiveFrameAck(&h), err)
	}
	if err != nil {
		return err
	}
	if len(rest) > h.payloadLen {
		return s.fault(h.flow, "bytes behind the payload")
	}
	payload, eof, err := s.readPayload(ls, r, h.payloadLen, rest, eof)
	if err != nil {
		return err
	}
	if len(payload) < h.payloadLen {
		s.link.buffers.put(payload)
		return s.fault(h.flow, "frame ends inside its payload")
	}
	if !eof {
		if m, err := r.Read(head.b[:1]); m > 0 || !errors.Is(err, io.EOF) {
			s.link.buffers.put(payload)
			if m > 0 {
				return s.fault(h.flow, "bytes behind the payload")
			}
			return err
		}
	}
	return s.deliver(&h, payload)
}

// Buffers for payloads that were announced and have not come take at most
// maxAnnounced on one link; what is under way at 1 Gbit/s and 100 ms is 12.5 MB.
// Beyond it a buffer begins with firstBuffer and grows as the payload comes.
// Else a peer could have 266 KB held by 20 bytes, for each of its streams.
const (
	maxAnnounced = 32 << 20
	firstBuffer  = 4 << 10
)

// readPayload reads a payload of want bytes that begins with rest. It is shorter
// when the stream ends before. eof says whether the end of the stream was seen.
func (s *Session) readPayload(ls *laneState, r FrameReader, want int, rest []byte, eof bool) ([]byte, bool, error) {
	size := want
	if s.link.announced.Add(int64(want)) > maxAnnounced {
		size = min(want, max(firstBuffer, len(rest)))
	}
	defer s.link.announced.Add(-int64(want))
	payload := s.link.buffers.get(size)
	n := copy(payload, rest)
	for n < want && !eof {
		if n == len(payload) {
			larger := s.link.buffers.get(min(want, 4*n))
			copy(larger, payload)
			s.link.buffers.put(payload)
			payload = larger
		}
		m, err := r.Read(payload[n:])
		n += m
		if m > 0 {
			ls.heard(s.link)
		}
		if errors.Is(err, io.EOF) {
			eof = true
		} else if err != nil {
			s.link.buffers.put(payload)
			return nil, false, err
		}
	}
	return payload[:n], eof, nil
}

// readFrameHeader reads as little as it can beyond the header; rest is what it
// read of the payload. The header's open body is a copy.
func readFrameHeader(ls *laneState, l *Link, r FrameReader, head *frameHead) (h frameHeader, rest []byte, eof bool, err error) {
	buf := head.b[:]
	n := 0
	for {
		m, rerr := r.Read(buf[n:])
		n += m
		if m > 0 {
			ls.heard(l)
		}
		eof = errors.Is(rerr, io.EOF)
		if rerr != nil && !eof {
			return h, nil, false, rerr
		}
		h, used, err := parseFrameHeader(buf[:n])
		switch {
		case err == nil:
			h.openBody = append([]byte(nil), h.openBody...)
			return h, buf[used:n], eof, nil
		case !errors.Is(err, errShort):
			return h, nil, eof, err
		case eof:
			return h, nil, eof, malformed("frame ends inside its header")
		case n == len(buf):
			if n > maxFrameHeader+maxOpenBody {
				return h, nil, eof, malformed("frame header too long")
			}
			buf = append(buf, make([]byte, maxFrameHeader+maxOpenBody+1-n)...)
		}
	}
}

// fault aborts the flow and returns the error to count.
func (s *Session) fault(flow uint64, what string) error {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.faultLocked(flow, what)
}

func (s *Session) faultLocked(flow uint64, what string) error {
	if f := s.flows[flow]; f != nil {
		f.abort(AbortFrame)
	}
	return &flowFault{flow, what}
}

// expect decides from the header alone whether the frame is wanted, before
// anything is allocated for it. It makes the flow when the frame is its first.
func (s *Session) expect(h *frameHeader) error {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.err != nil {
		return errUnwanted
	}
	f := s.flows[h.flow]
	if f == nil {
		var err error
		if f, err = s.strange(h); err != nil {
			return err
		}
	}
	return f.check(h)
}

// strange handles a frame of a flow that is not live: it has ended, or this is
// the first that arrives of it.
func (s *Session) strange(h *frameHeader) (*Flow, error) {
	if a := s.tombs[h.flow]; a != nil {
		s.markAck(a, false) // the peer has not read our last acknowledgement
		return nil, errUnwanted
	}
	if s.isOwn(h.flow) {
		if h.flow >= s.nextFlow {
			return nil, malformed(fmt.Sprintf("frame of flow %d, which this side never opened", h.flow))
		}
		return nil, errUnwanted
	}
	if s.seen.has(h.flow >> 1) {
		return nil, errUnwanted
	}
	if !h.open && (s.orphans >= maxOrphans || s.orphanMem >= maxOrphanBytes) ||
		s.opened+s.orphans >= int(s.link.maxPeerFlows()) {
		if !s.seen.add(h.flow >> 1) {
			return nil, malformed("too many gaps in the flow numbers")
		}
		s.queueMessage(appendAbort(nil, h.flow, AbortLimit))
		return nil, errUnwanted
	}
	f := s.newFlow(h.flow)
	f.orphan = true
	s.orphans++
	return f, nil
}

// check applies the rules of A5 that need the flow's state.
func (f *Flow) check(h *frameHeader) error {
	s := f.s
	_, waits := f.early[h.number]
	switch {
	case h.number < f.arrived || waits:
		s.totals.duplicates++
		s.markAck(f.ack, false)
		return errUnwanted
	case h.number-f.arrived >= maxEarlyFrames:
		return s.faultLocked(f.id, "frame too far ahead")
	case h.offset+uint64(h.rawLen) > f.ack.credit:
		return s.faultLocked(f.id, "frame beyond the credit")
	case f.finArrived && (h.fin || h.number > f.finNumber):
		return s.faultLocked(f.id, "frame after the last one")
	case h.number == f.arrived && h.offset != f.arrivedRaw,
		h.number > f.arrived && h.offset < f.arrivedRaw:
		return s.faultLocked(f.id, "raw offset does not follow")
	}
	return nil
}

// deliver hands a frame that has arrived whole to its flow.
func (s *Session) deliver(h *frameHeader, payload []byte) error {
	s.mu.Lock()
	defer s.mu.Unlock()
	f := s.flows[h.flow]
	if f == nil || s.err != nil {
		s.link.buffers.put(payload)
		return nil
	}
	if err := f.check(h); err != nil { // it may have come over another lane meanwhile
		s.link.buffers.put(payload)
		if errors.Is(err, errUnwanted) {
			return nil
		}
		return err
	}
	s.totals.framesRecv++
	s.totals.payloadRecv += uint64(len(payload))
	s.totals.rawRecv += uint64(h.rawLen)
	s.recvPayload += uint64(len(payload))
	e := earlyFrame{
		Frame:  Frame{Number: h.number, RawLen: h.rawLen, Payload: payload, Fin: h.fin},
		offset: h.offset, open: h.open, openBody: h.openBody,
	}
	if h.fin {
		f.finArrived, f.finNumber = true, h.number
		for n := range f.early {
			if n > h.number {
				return s.faultLocked(f.id, "frame after the last one")
			}
		}
	}
	if h.number != f.arrived {
		if f.early == nil {
			f.early = make(map[uint64]earlyFrame)
		}
		f.early[h.number] = e
		if f.orphan {
			s.orphanMem += len(payload)
		}
		return nil
	}
	for ok := true; ok; e, ok = f.early[f.arrived] {
		delete(f.early, e.Number)
		if e.offset != f.arrivedRaw {
			s.link.buffers.put(e.Payload)
			return s.faultLocked(f.id, "raw offset does not follow")
		}
		if err := f.arrive(e); err != nil {
			return err
		}
	}
	if len(f.early) == 0 {
		f.early = nil
	}
	f.recvCond.Broadcast()
	return nil
}

// arrive takes the frame that is due.
func (f *Flow) arrive(e earlyFrame) error {
	s := f.s
	f.arrived++
	f.arrivedRaw += uint64(e.RawLen)
	if e.open {
		if f.initiator {
			f.answered, f.answer = true, e.openBody
		} else if err := f.opened(e.openBody); err != nil {
			return err
		}
		if len(e.Payload) == 0 {
			// Nothing to decode: the transport acknowledges it itself.
			f.delivered, f.ack.next = f.arrived, f.arrived
			s.markAck(f.ack, false)
			return nil
		}
	}
	f.readyQ = append(f.readyQ, e.Frame)
	return nil
}

// opened makes a flow the peer opened ready to be accepted.
func (f *Flow) opened(body []byte) error {
	s := f.s
	for _, e := range f.early {
		s.orphanMem -= len(e.Payload)
	}
	f.orphan = false
	s.orphans--
	s.opened++
	s.totals.flowsOpened++
	if !s.seen.add(f.id >> 1) {
		f.finish(&AbortError{Code: AbortFrame})
		return malformed("too many gaps in the flow numbers")
	}
	f.openBody = body
	s.bonus(f)
	s.acceptQ = append(s.acceptQ, f)
	s.wakeApp.Broadcast()
	return nil
}
