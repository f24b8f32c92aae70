package transport

import (
	"context"
	"fmt"
)

// SendCodec queues a codec message of at most 65,000 bytes. It does not block
// and does not keep msg. Messages are delivered in order, each once, as long as
// the session lives; ErrBacklog when 64 MiB wait already.
func (s *Session) SendCodec(msg []byte) error { return s.sendMessage(KindCodec, msg) }

// SendSite queues a message of the accel layer; the same rules.
func (s *Session) SendSite(msg []byte) error { return s.sendMessage(KindSite, msg) }

func (s *Session) sendMessage(kind byte, msg []byte) error {
	if len(msg) > maxMessageBytes {
		return malformed(fmt.Sprintf("message of %d bytes, at most %d", len(msg), maxMessageBytes))
	}
	body := make([]byte, 0, 1+len(msg))
	body = append(append(body, kind), msg...)
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.err != nil {
		return ErrSessionEnded
	}
	if s.outBytes+len(body) > maxQueuedMsgBytes {
		return ErrBacklog
	}
	s.queueMessage(body)
	return nil
}

// queueMessage queues a message whatever the backlog: an ABORT must get out,
// and there is one per flow at most.
func (s *Session) queueMessage(body []byte) {
	s.stirred()
	s.out = append(s.out, &message{seq: s.outSeq, body: body})
	s.outSeq++
	s.outBytes += len(body)
	s.pokeControl()
}

// Messages returns the next message of kind [KindCodec] or [KindSite], in the
// order they were sent. It blocks until there is one, ctx ends or the session
// does. What it has returned is acknowledged to the peer: a session whose
// messages nobody takes holds at most 1024 of them.
func (s *Session) Messages(ctx context.Context) (kind byte, msg []byte, err error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if err := s.waitApp(ctx, func() bool { return len(s.inQ) > 0 }); err != nil {
		return 0, nil, err
	}
	m := s.inQ[0]
	s.inQ[0] = inMessage{}
	s.inQ = s.inQ[1:]
	s.ackSoon(false)
	return m.kind, m.body, nil
}

// messageAck is the sequence number below which every message was taken.
func (s *Session) messageAck() uint64 {
	if len(s.inQ) > 0 {
		return s.inQ[0].seq
	}
	return s.inNext
}

// receiveMessage handles a MSG record's body.
func (s *Session) receiveMessage(body []byte) error {
	seq, m, err := parseMsg(body)
	if err != nil {
		return err
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.err != nil {
		return nil
	}
	s.ackSoon(false)
	switch {
	case seq < s.inNext || s.in[seq] != nil:
		s.msgAckSaid = 0 // the peer may have missed what was said
		return nil
	case seq > s.inNext:
		if seq-s.inNext > maxEarlyMessages || s.inBytes+len(m) > maxEarlyMsgBytes {
			return malformed("too many early messages")
		}
		if s.in == nil {
			s.in = make(map[uint64][]byte)
		}
		s.in[seq] = append([]byte(nil), m...)
		s.inBytes += len(m)
		return nil
	}
	if err := s.takeMessage(seq, append([]byte(nil), m...)); err != nil {
		return err
	}
	for m := s.in[s.inNext]; m != nil; m = s.in[s.inNext] {
		delete(s.in, s.inNext)
		s.inBytes -= len(m)
		if err := s.takeMessage(s.inNext, m); err != nil {
			return err
		}
	}
	return nil
}

// takeMessage handles the message that is due; m is kept.
func (s *Session) takeMessage(seq uint64, m []byte) error {
	switch m[0] {
	case msgAbort:
		flow, code, err := parseAbort(m[1:])
		if err != nil {
			return err
		}
		if err := s.peerAborted(flow, code); err != nil {
			return err
		}
	case KindCodec, KindSite:
		if len(s.inQ) >= maxEarlyMessages {
			return malformed("too many messages beyond those acknowledged")
		}
		s.inQ = append(s.inQ, inMessage{seq, m[0], m[1:]})
		s.wakeApp.Broadcast()
	default:
		return malformed(fmt.Sprintf("unknown kind %d of message", m[0]))
	}
	s.inNext = seq + 1
	return nil
}

// messagesAcked handles a MSGACK.
func (s *Session) messagesAcked(next uint64) error {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.err != nil || next <= s.outAcked {
		return nil
	}
	if next > s.outSeq {
		return malformed("acknowledgement of a message never sent")
	}
	for len(s.out) > 0 && s.out[0].seq < next {
		s.outBytes -= len(s.out[0].body)
		s.out[0] = nil
		s.out = s.out[1:]
	}
	if len(s.out) == 0 {
		s.out = nil
	}
	s.outAcked = next
	s.pokeControl()
	return nil
}

// appendMessages appends the MSG records that may go out on ls now, until dst
// has reached limit. ls.lane's control stream must carry them.
func (s *Session) appendMessages(dst []byte, ls *laneState, limit int) []byte {
	bytes := 0
	for i, m := range s.out {
		bytes += len(m.body)
		if i >= msgWindowCount || i > 0 && bytes > msgWindowBytes || len(dst) >= limit {
			break
		}
		if m.lane == nil {
			m.lane = ls
			dst = appendMsg(dst, m.seq, m.body)
		}
	}
	return dst
}

// messagesLeft says whether a MSG record could go out now.
func (s *Session) messagesLeft() bool {
	bytes := 0
	for i, m := range s.out {
		bytes += len(m.body)
		if i >= msgWindowCount || i > 0 && bytes > msgWindowBytes {
			return false
		}
		if m.lane == nil {
			return true
		}
	}
	return false
}
