package transport

import (
	"encoding/binary"
	"fmt"
	"time"
)

// ackState is what has to be said of a flow's receiving direction. It outlives
// its flow until the peer is known to have read the last of it.
type ackState struct {
	flow   uint64
	next   uint64 // frames below are decoded and verified
	credit uint64 // raw bytes the peer may send

	saidNext   uint64
	saidCredit uint64
	unsaidRaw  int        // raw bytes of frames handed out since something was said
	dirty      bool       // is in Session.acks
	owed       bool       // has something to say; else a frame has said it meanwhile
	lane       *laneState // where it was last said
	token      uint64     // an answer to this ping, or a later one, of lane proves it was read
}

// Beyond so much not said, an acknowledgement does not wait for more.
const (
	urgentFrames = 16
	urgentRaw    = 128 << 10
)

// ackWait is how long an acknowledgement waits for a frame of its flow that
// takes it along, or for others: an eighth of the round trip, so that neither
// credit nor references come late by more than that, within bounds.
func (s *Session) ackWait() time.Duration {
	return min(max(s.rtt/8, minAckDelay), maxAckDelay)
}

// markAck puts a on the list of what is to be said: at once when urgent, else
// within ackWait.
func (s *Session) markAck(a *ackState, urgent bool) {
	if s.err != nil {
		return
	}
	a.owed = true
	if !a.dirty {
		a.dirty = true
		s.acks = append(s.acks, a)
	}
	s.ackSoon(urgent)
}

func (s *Session) ackSoon(urgent bool) {
	if urgent {
		s.urgent = true
		s.pokeControl()
		return
	}
	if s.urgent {
		return
	}
	if s.ackTimer == nil {
		s.ackTimer = time.AfterFunc(s.ackWait(), s.ackNow)
	} else {
		// A timer that is set already runs no later than this one would: do
		// not push it back.
		if !s.ackArmed {
			s.ackTimer.Reset(s.ackWait())
		}
	}
	s.ackArmed = true
}

func (s *Session) ackNow() {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.ackArmed = false
	s.urgent = true
	s.pokeControl()
}

// said notes that all of a was said just now.
func (a *ackState) said() {
	a.saidNext, a.saidCredit, a.unsaidRaw, a.owed = a.next, a.credit, 0, false
}

// takeAck puts what is to be said of f into a frame that goes out now. The last
// acknowledgement of a flow is none of these: that it was read is known from the
// control stream only. It returns whether it did; the caller says so again with
// markAck when the frame did not go out after all.
func (f *Flow) takeAck(h *frameHeader) bool {
	a := f.ack
	if !a.owed || f.s.peer.Features&FeatureFrameAcks == 0 || f.receivedAll() {
		return false
	}
	h.ack, h.ackNext, h.ackCredit = true, a.next, a.credit
	a.said()
	return true
}

// appendAcks appends ACK records when something is urgent or the delay is over.
func (s *Session) appendAcks(dst []byte, ls *laneState) []byte {
	if !s.urgent {
		return dst
	}
	for len(s.acks) > 0 && len(dst) < controlBatch {
		n := min(len(s.acks), 256)
		var body [256 * 3 * binary.MaxVarintLen64]byte
		b := body[:0]
		for _, a := range s.acks[:n] {
			a.dirty = false
			if !a.owed {
				continue
			}
			a.said()
			a.lane, a.token = ls, ls.pings+1
			b = appendAck(b, ackEntry{a.flow, a.next, a.credit})
		}
		clear(s.acks[:n])
		s.acks = s.acks[n:]
		if len(b) > 0 {
			dst = appendRecord(dst, recAck, b)
		}
	}
	if len(s.acks) == 0 {
		s.acks, s.urgent = nil, false
	}
	return dst
}

func appendUv(dst []byte, typ, v uint64) []byte {
	var tmp [binary.MaxVarintLen64]byte
	return appendRecord(dst, typ, binary.AppendUvarint(tmp[:0], v))
}

// onAcked is a call to the owner of a flow that must not be made with the lock
// held.
type onAcked struct {
	call func(next uint64)
	next uint64
}

// receiveAcks handles an ACK record's body.
func (s *Session) receiveAcks(body []byte) error {
	var calls []onAcked
	s.mu.Lock()
	err := parseAcks(body, func(e ackEntry) error {
		call, err := s.acknowledged(e)
		if call.call != nil {
			calls = append(calls, call)
		}
		return err
	})
	s.mu.Unlock()
	for _, c := range calls {
		c.call(c.next)
	}
	return err
}

// receiveFrameAck handles the acknowledgement that a frame brought along.
func (s *Session) receiveFrameAck(h *frameHeader) error {
	s.mu.Lock()
	call, err := s.acknowledged(ackEntry{h.flow, h.ackNext, h.ackCredit})
	if err != nil {
		err = s.faultLocked(h.flow, err.Error())
	}
	s.mu.Unlock()
	if call.call != nil {
		call.call(call.next)
	}
	return err
}

// acknowledged takes one entry. The call it returns, if any, is to be made
// without the lock.
func (s *Session) acknowledged(e ackEntry) (onAcked, error) {
	f := s.flows[e.flow]
	if f == nil || s.err != nil {
		return onAcked{}, nil
	}
	if e.next > f.sendNext {
		return onAcked{}, malformed(fmt.Sprintf("acknowledgement of frame %d of flow %d, never sent", e.next-1, e.flow))
	}
	if e.credit > f.sendCredit {
		f.sendCredit = e.credit
		f.sendCond.Broadcast()
	}
	if e.next <= f.ackedNext {
		return onAcked{}, nil
	}
	f.acknowledged(e.next)
	return onAcked{f.onAcked, e.next}, nil
}
