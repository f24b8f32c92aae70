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
	dirty      bool       // is in Session.acks
	lane       *laneState // where it was last said
	token      uint64     // an answer to this ping, or a later one, of lane proves it was read
}

// markAck puts a on the list of what is to be said: at once when urgent, else
// within ackDelay.
func (s *Session) markAck(a *ackState, urgent bool) {
	if s.err != nil {
		return
	}
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
		s.ackTimer = time.AfterFunc(ackDelay, s.ackNow)
	} else {
		// A timer that is set already runs no later than this one would: do
		// not push it back.
		if !s.ackArmed {
			s.ackTimer.Reset(ackDelay)
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
			a.saidNext, a.saidCredit = a.next, a.credit
			a.lane, a.token = ls, ls.pings+1
			b = appendAck(b, ackEntry{a.flow, a.next, a.credit})
		}
		clear(s.acks[:n])
		s.acks = s.acks[n:]
		dst = appendRecord(dst, recAck, b)
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
		f := s.flows[e.flow]
		if f == nil || s.err != nil {
			return nil
		}
		if e.next > f.sendNext {
			return malformed(fmt.Sprintf("acknowledgement of frame %d of flow %d, never sent", e.next-1, e.flow))
		}
		if e.credit > f.sendCredit {
			f.sendCredit = e.credit
			f.sendCond.Broadcast()
		}
		if e.next > f.ackedNext {
			f.acknowledged(e.next)
			if f.onAcked != nil {
				calls = append(calls, onAcked{f.onAcked, e.next})
			}
		}
		return nil
	})
	s.mu.Unlock()
	for _, c := range calls {
		c.call(c.next)
	}
	return err
}
