package flow

import (
	"errors"
	"fmt"
	"io"
	"sync"
)

// Splice joins two TCP edges without the tunnel, with the same rules for half-close and abort. It is the raw way for connections that
// were already accepted when the tunnel could not take them.
func Splice(near, far Edge, buffers *Buffers, count *Counters) error {
	s := &splice{buffers: buffers}
	var group sync.WaitGroup
	group.Go(func() { s.pump(far, near, func(n int64) { count.ToEdge.Add(n) }) })
	s.pump(near, far, func(n int64) { count.FromEdge.Add(n) })
	group.Wait()
	if s.cause == nil {
		return errors.Join(near.Finish(), far.Finish())
	}
	return s.cause
}

type splice struct {
	buffers  *Buffers
	failOnce sync.Once
	cause    error
}

func (s *splice) pump(from, to Edge, counted func(int64)) {
	fail := func(err error) {
		s.failOnce.Do(func() {
			s.cause = fmt.Errorf("%w: %w", ErrEdge, err)
			from.Reset()
			to.Reset()
		})
	}
	if err := s.move(from, to, fail, counted); err != nil {
		fail(err)
	}
}

func (s *splice) move(from, to Edge, broke func(error), counted func(int64)) error {
	for {
		if err := from.WaitReadable(); err != nil {
			return err
		}
		ended, err := s.moveAvailable(from, to, broke, counted)
		if err != nil {
			return err
		}
		if ended {
			if err := to.CloseWrite(); err != nil {
				return err
			}
			return from.WaitHangup() // it can still break
		}
	}
}

func (s *splice) moveAvailable(from, to Edge, broke func(error), counted func(int64)) (ended bool, err error) {
	buffer := s.buffers.get()
	defer s.buffers.put(buffer)
	n, err := from.ReadAvailable(buffer[:])
	ended = errors.Is(err, io.EOF)
	if err != nil && !ended {
		return false, err
	}
	if n > 0 {
		var writeErr error
		attend(from, broke, func() { _, writeErr = to.Write(buffer[:n]) })
		if writeErr != nil {
			return false, writeErr
		}
		counted(int64(n))
	}
	return ended, nil
}
