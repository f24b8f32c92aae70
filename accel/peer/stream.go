package peer

import (
	"errors"
	"net/netip"
	"sync"
	"sync/atomic"
	"time"

	"wanpair/accel/flow"
	"wanpair/dedupe"
	"wanpair/transport"
)

// Stream is one flow of the link with its encoder and decoder: raw bytes on this side, frames on the other. It is a [flow.Stream].
// Window and Send belong to one goroutine, Receive to another.
type Stream struct {
	Request OpenRequest

	session *session
	flow    *transport.Flow
	opened  bool // by this side
	encoder *dedupe.Encoder
	decoder *dedupe.Decoder
	trickle trickle // of Window and Send

	wanSent, wanReceived atomic.Int64

	mu       sync.Mutex
	sentEnd  uint64 // number above the END frame, 0 = not sent
	acked    uint64 // frames below are acknowledged
	gotEnd   bool   // the other side's direction has ended
	finished bool   // both directions ended cleanly on this side
	released bool   // the encoder is closed
	closed   bool   // no pump uses the stream any more
	aborted  error
}

var _ flow.Stream = (*Stream)(nil)

// ID is the flow's number in its session.
func (t *Stream) ID() uint64 { return t.flow.ID() }

// Opened says whether this side opened the flow.
func (t *Stream) Opened() bool { return t.opened }

// WANBytes are the payload bytes of the flow's frames, sent and received, without the tunnel's own overhead.
func (t *Stream) WANBytes() (sent, received int64) { return t.wanSent.Load(), t.wanReceived.Load() }

// HalfClosed says whether one direction has ended.
func (t *Stream) HalfClosed() bool {
	t.mu.Lock()
	defer t.mu.Unlock()
	return t.sentEnd > 0 || t.gotEnd
}

// Treatment says what the codec makes of the direction this side sends.
func (t *Stream) Treatment() dedupe.Treatment { return t.encoder.Treatment() }

// Answer tells the side that opened the flow that its target is connected.
func (t *Stream) Answer(local netip.AddrPort) error {
	return t.flow.Answer(appendAnswer(nil, local))
}

// WaitAnswer blocks until the far side has connected to the target, and gives its address there.
func (t *Stream) WaitAnswer() (netip.AddrPort, error) {
	body, err := t.flow.WaitAnswer()
	if err != nil {
		return netip.AddrPort{}, err
	}
	return parseAnswer(body)
}

// Window implements flow.Stream. It holds up flows that keep sending small frames; see trickle.
func (t *Stream) Window() (int, error) {
	if wait := t.trickle.wait(time.Now(), t.session.RTT()); wait > 0 {
		timer := time.NewTimer(wait)
		defer timer.Stop()
		select {
		case <-timer.C:
		case <-t.flow.Done():
		}
	}
	return t.flow.SendWindow()
}

// Send implements flow.Stream.
func (t *Stream) Send(p []byte, end bool) error {
	scratch := t.session.peer.buffers.frame()
	defer t.session.peer.buffers.putFrame(scratch)
	number := t.flow.NextNumber()
	if !t.opened || t.flow.Answered() {
		t.encoder.Share() // before the answer the other side is still connecting, and decodes nothing
	}
	encoded, err := t.encode((*scratch)[:0], p, number, end)
	if err != nil {
		return err
	}
	*scratch = encoded[:0]
	if end {
		t.mu.Lock()
		t.sentEnd = number + 1
		t.mu.Unlock()
	}
	if _, err := t.flow.Send(encoded, len(p), end); err != nil {
		return err
	}
	t.wanSent.Add(int64(len(encoded)))
	t.trickle.sent(time.Now(), len(p), t.session.RTT())
	if t.Request.Kind != echo {
		t.session.peer.counters.LANSent.Add(int64(len(p)))
	}
	return nil
}

// encode is the encoder's, watched where it proves that it works.
func (t *Stream) encode(dst, p []byte, number uint64, end bool) ([]byte, error) {
	if t.Request.Kind == echo {
		t.session.peer.work.Lock()
		defer t.session.peer.work.Unlock()
	}
	return t.encoder.Encode(dst, p, number, end)
}

// Receive implements flow.Stream.
func (t *Stream) Receive() (flow.Segment, error) {
	for {
		frame, err := t.flow.Receive()
		if err != nil {
			return flow.Segment{}, err
		}
		t.wanReceived.Add(int64(len(frame.Payload)))
		if len(frame.Payload) == 0 { // an OPEN alone
			t.flow.Acknowledge(frame.Number)
			t.flow.Release(frame)
			continue
		}
		var segment flow.Segment
		var waited wait
		flow.Deep(func() { segment, err = t.decode(frame) })
		for late := false; errors.Is(err, dedupe.ErrWait); {
			if late, err = t.await(&waited); err != nil {
				return flow.Segment{}, err // frame and segment stay with the decoder
			}
			flow.Deep(func() { segment, err = t.resume(frame, late) })
		}
		return segment, err
	}
}

// decode decodes a frame that has arrived.
func (t *Stream) decode(frame transport.Frame) (flow.Segment, error) {
	if t.Request.Kind == echo {
		t.session.peer.work.Lock()
		defer t.session.peer.work.Unlock()
	}
	buffer := t.session.peer.buffers.segment(frame.RawLen)
	data, end, err := t.decoder.Decode(buffer, frame.Payload, frame.Number, frame.RawLen)
	return t.decoded(frame, data, end, err)
}

// resume goes on with a frame that waited.
func (t *Stream) resume(frame transport.Frame, late bool) (flow.Segment, error) {
	data, end, err := t.decoder.Resume(late)
	return t.decoded(frame, data, end, err)
}

// decoded acknowledges a frame that was decoded.
func (t *Stream) decoded(frame transport.Frame, data []byte, end bool, err error) (flow.Segment, error) {
	if errors.Is(err, dedupe.ErrWait) {
		return flow.Segment{}, err
	}
	t.flow.Release(frame)
	if err == nil && end != frame.Fin {
		err = errEndMismatch
	}
	if err != nil {
		t.session.peer.counters.FrameErrors.Add(1)
		return flow.Segment{}, err
	}
	t.flow.Acknowledge(frame.Number)
	if t.Request.Kind != echo {
		t.session.peer.counters.LANReceived.Add(int64(len(data)))
	}
	if end {
		t.mu.Lock()
		t.gotEnd = true
		t.mu.Unlock()
	}
	return flow.Segment{Data: data, End: end}, nil
}

var errEndMismatch = errors.New("frame and codec disagree about the end")

// Consumed implements flow.Stream.
func (t *Stream) Consumed(s flow.Segment) {
	t.flow.Consume(len(s.Data))
	t.session.peer.buffers.putSegment(s.Data)
}

// Done implements flow.Stream.
func (t *Stream) Done() <-chan struct{} { return t.flow.Done() }

// Err implements flow.Stream.
func (t *Stream) Err() error { return t.flow.Err() }

// Finish implements flow.Stream. What is not acknowledged yet stays with the session.
func (t *Stream) Finish() {
	t.mu.Lock()
	defer t.mu.Unlock()
	t.finished = true
}

// Abort implements flow.Stream.
func (t *Stream) Abort(cause error) {
	t.mu.Lock()
	first := t.aborted == nil
	if first {
		t.aborted = cause
	}
	t.mu.Unlock()
	if first {
		t.session.peer.counters.FlowsAborted.Add(1)
	}
	t.flow.Abort(abortCode(cause))
}

// Close is called when no pump uses the stream any more: exactly once, whatever happened before. A stream that did not end cleanly is
// aborted by it.
func (t *Stream) Close() {
	t.mu.Lock()
	t.closed = true
	clean := t.finished
	t.mu.Unlock()
	t.decoder.Close()
	if !clean {
		t.flow.Abort(transport.AbortReset)
		t.release(false)
		return
	}
	t.flow.Close()
	t.settle()
}

// acknowledged is called by the session when frames below next are decoded and verified on the other side.
func (t *Stream) acknowledged(next uint64) {
	t.encoder.Acked(next)
	t.mu.Lock()
	t.acked = max(t.acked, next)
	t.mu.Unlock()
	t.settle()
}

// settle releases the encoder of a cleanly closed stream once everything it sent is acknowledged.
func (t *Stream) settle() {
	t.mu.Lock()
	settled := t.closed && t.finished && t.sentEnd > 0 && t.acked >= t.sentEnd
	t.mu.Unlock()
	if settled {
		t.release(true)
	}
}

// lost is called when the session ended. A stream still in use is released by its own Close.
func (t *Stream) lost() {
	t.mu.Lock()
	idle := t.closed
	t.mu.Unlock()
	if idle {
		t.release(false)
	}
}

func (t *Stream) release(clean bool) {
	t.mu.Lock()
	first := !t.released
	t.released = true
	t.mu.Unlock()
	if first {
		t.encoder.Close(clean)
		t.session.remove(t)
	}
}

// abortCode says what the other side is told about a fault of this side.
func abortCode(cause error) transport.AbortCode {
	var aborted *transport.AbortError
	var miss *dedupe.MissError
	var failed *DialError
	switch {
	case errors.As(cause, &aborted):
		return aborted.Code
	case errors.As(cause, &failed):
		return failed.Code
	case errors.As(cause, &miss):
		return transport.AbortCacheMiss
	case errors.Is(cause, dedupe.ErrChecksum):
		return transport.AbortChecksum
	case errors.Is(cause, dedupe.ErrGrammar):
		return transport.AbortCodec
	case errors.Is(cause, errEndMismatch):
		return transport.AbortFrame
	case errors.Is(cause, flow.ErrEdge):
		return transport.AbortReset
	case errors.Is(cause, transport.ErrSessionEnded):
		return transport.AbortLinkLost
	default:
		return transport.AbortInternal
	}
}

// DialError says why the far side could not connect to a flow's target, and with which code the near side hears of it.
type DialError struct {
	Code transport.AbortCode
	Err  error
}

func (e *DialError) Error() string { return "dial: " + e.Err.Error() }
func (e *DialError) Unwrap() error { return e.Err }
