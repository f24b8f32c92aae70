package memtun

import (
	"io"
	"sync"
	"time"

	"wanpair/transport"
)

// stream carries bytes from the lane end from to its peer.
type stream struct {
	from  *Lane
	frame bool

	mu       sync.Mutex
	cond     sync.Cond
	began    bool // the peer knows of it
	buf      []byte
	eof      bool
	readErr  error
	writeErr error
	closed   bool
	lastDue  time.Time // of the last piece: a stream keeps its own order
	next     uint64    // sequence of the next piece to be sent
	due      uint64    // sequence of the next piece to be delivered
	waiting  map[uint64]func()
}

func newStream(from *Lane) *stream {
	s := &stream{from: from}
	s.cond.L = &s.mu
	return s
}

// Write implements transport.FrameWriter.
func (s *stream) Write(p []byte) (n int, err error) {
	for len(p) > 0 {
		piece := p[:min(len(p), chunkBytes)]
		if err := s.send(append([]byte(nil), piece...), false); err != nil {
			return n, err
		}
		n += len(piece)
		p = p[len(piece):]
	}
	return n, nil
}

// Close implements transport.FrameWriter.
func (s *stream) Close() error {
	return s.send(nil, true)
}

// send puts one piece on the wire and waits while too much waits there.
func (s *stream) send(piece []byte, fin bool) error {
	s.mu.Lock()
	if s.writeErr != nil {
		defer s.mu.Unlock()
		return s.writeErr
	}
	s.closed = s.closed || fin
	seq := s.next
	s.next++
	s.mu.Unlock()

	e := s.from
	now := time.Now()
	e.mu.Lock()
	if e.err != nil {
		defer e.mu.Unlock()
		return e.err
	}
	if e.free.Before(now) {
		e.free = now
	}
	if rate := e.wire.cfg.Rate; rate > 0 {
		e.free = e.free.Add(time.Duration(float64(len(piece)) / float64(rate) * float64(time.Second)))
	}
	due := e.free.Add(e.wire.travel())
	e.sent += uint64(len(piece))
	wait := e.backlog()
	e.mu.Unlock()

	s.mu.Lock()
	if due.Before(s.lastDue) {
		due = s.lastDue
	}
	s.lastDue = due
	s.mu.Unlock()
	e.wire.later(due.Sub(now), func() { s.arrive(seq, piece, fin) })
	if wait > 0 && !fin {
		s.pause(wait)
	}
	return nil
}

// pause waits, but not beyond the stream's end.
func (s *stream) pause(d time.Duration) {
	t := time.AfterFunc(d, func() {
		s.mu.Lock()
		defer s.mu.Unlock()
		s.cond.Broadcast()
	})
	defer t.Stop()
	until := time.Now().Add(d)
	s.mu.Lock()
	defer s.mu.Unlock()
	for s.writeErr == nil && time.Now().Before(until) {
		s.cond.Wait()
	}
}

// heard counts the acknowledgement of a piece: a lane that only sends hears
// from the other end too.
func (e *Lane) heard() {
	e.mu.Lock()
	defer e.mu.Unlock()
	e.recv += ackBytes
}

// arrive delivers piece seq; timers due at the same time may fire in any order.
func (s *stream) arrive(seq uint64, piece []byte, fin bool) {
	to := s.from.peer
	to.mu.Lock()
	to.recv += uint64(len(piece))
	gone := to.err != nil
	to.mu.Unlock()
	if gone {
		return
	}
	to.wire.later(to.wire.cfg.Delay, s.from.heard)
	s.mu.Lock()
	if s.waiting == nil {
		s.waiting = make(map[uint64]func())
	}
	s.waiting[seq] = func() {
		s.buf = append(s.buf, piece...)
		s.eof = s.eof || fin
	}
	for f := s.waiting[s.due]; f != nil; f = s.waiting[s.due] {
		delete(s.waiting, s.due)
		s.due++
		f()
	}
	first := !s.began && s.frame && s.due > 0
	s.began = s.began || first
	finished := s.eof
	s.cond.Broadcast()
	s.mu.Unlock()
	if first {
		to.mu.Lock()
		if to.err == nil {
			to.accept = append(to.accept, s)
			to.streams[s] = true
			to.cond.Broadcast()
		}
		to.mu.Unlock()
	}
	if finished && s.frame {
		s.finished()
	}
}

// finished gives the stream's place back to the sender and forgets it.
func (s *stream) finished() {
	e := s.from
	e.mu.Lock()
	if e.streams[s] {
		delete(e.streams, s)
		e.open--
		e.cond.Broadcast()
	}
	e.mu.Unlock()
}

// Cancel implements transport.FrameWriter.
func (s *stream) Cancel(transport.AbortCode) {
	s.mu.Lock()
	if s.writeErr == nil {
		s.writeErr = transport.ErrFrameRefused
	}
	done := s.eof
	s.cond.Broadcast()
	s.mu.Unlock()
	s.finished()
	if !done {
		s.from.wire.later(s.from.wire.cfg.Delay, func() { s.failRead(errGivenUp) })
	}
}

// fail ends the stream at one end of its lane.
func (s *stream) fail(e *Lane, err error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if e == s.from {
		if s.writeErr == nil {
			s.writeErr = err
		}
	} else if s.readErr == nil {
		s.readErr = err
	}
	s.cond.Broadcast()
}

func (s *stream) failRead(err error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.readErr == nil {
		s.readErr = err
	}
	s.cond.Broadcast()
}

// Read returns what has arrived.
func (s *stream) Read(p []byte) (int, error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	for len(s.buf) == 0 && !s.eof && s.readErr == nil {
		s.cond.Wait()
	}
	switch {
	case s.readErr != nil:
		return 0, s.readErr
	case len(s.buf) > 0:
		n := copy(p, s.buf)
		s.buf = s.buf[n:]
		return n, nil
	}
	s.forget()
	return 0, io.EOF
}

// forget takes the stream off the reading end's list; s.mu is held. Nothing
// takes s.mu with a lane's lock held.
func (s *stream) forget() {
	if !s.frame {
		return
	}
	to := s.from.peer
	to.mu.Lock()
	defer to.mu.Unlock()
	delete(to.streams, s)
}

// reader is the receiving side of a frame stream.
type reader struct{ s *stream }

func (r reader) Read(p []byte) (int, error) { return r.s.Read(p) }

// Cancel implements transport.FrameReader: the sender is told to stop.
func (r reader) Cancel(transport.AbortCode) {
	s := r.s
	s.failRead(errGivenUp)
	s.mu.Lock()
	s.forget()
	s.mu.Unlock()
	s.from.wire.later(s.from.wire.cfg.Delay, func() {
		s.mu.Lock()
		if s.writeErr == nil {
			s.writeErr = transport.ErrFrameRefused
		}
		s.cond.Broadcast()
		s.mu.Unlock()
		s.finished()
	})
}
