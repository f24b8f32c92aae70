package peer

import (
	"context"
	"encoding/binary"
	"errors"
	"fmt"
	"maps"
	"net/netip"
	"slices"
	"sync"
	"sync/atomic"
	"time"

	"wanpair/internal/beat"
	"wanpair/transport"
)

// session is a transport session together with the streams that live in it.
type session struct {
	*transport.Session
	peer *Peer

	lastEcho atomic.Pointer[time.Time] // of the last proof of work, nil = none; with its monotonic reading, as the clock may jump

	mu      sync.Mutex
	streams map[*Stream]struct{} // until their encoder is closed
	ended   bool
}

func (s *session) handleMessages(ctx context.Context) error {
	for {
		kind, msg, err := s.Messages(ctx)
		if err != nil {
			return err
		}
		if kind != transport.KindCodec {
			continue
		}
		if err := s.peer.codec.HandleMessage(msg); err != nil {
			return fmt.Errorf("codec message: %w", err)
		}
	}
}

func (s *session) acceptStreams(ctx context.Context) error {
	for {
		f, err := s.Accept(ctx)
		if err != nil {
			return err
		}
		r, err := parseOpen(f.OpenBody())
		if err != nil {
			s.peer.log.Warn("refused a flow", "err", err)
			f.Abort(transport.AbortFrame)
			continue
		}
		stream, err := s.add(f, r, false)
		if err != nil {
			f.Abort(transport.AbortLinkLost)
			return err
		}
		if s.peer.class != nil {
			stream.Request.Class = s.peer.class(r)
		}
		f.SetClass(stream.Request.Class)
		if r.Kind == echo {
			s.peer.served.Go(func() { stream.answerEcho() })
			continue
		}
		if r.Kind == Warm {
			s.peer.served.Go(func() { stream.swallow() })
			continue
		}
		s.peer.counters.FlowsServed.Add(1)
		s.peer.served.Go(func() { s.peer.serve(ctx, stream) })
	}
}

func (s *session) open(r OpenRequest) (*Stream, error) {
	if r.Scope != 0 && !common(s.peer.features, s.Peer().Features).Scopes {
		r.Scope, r.NoHistory = 0, true // the peer would let all flows find what it stores of this one
	}
	body, err := appendOpen(nil, r)
	if err != nil {
		return nil, err
	}
	f, err := s.Open(body)
	if err != nil {
		return nil, err
	}
	f.SetClass(r.Class)
	stream, err := s.add(f, r, true)
	if err != nil {
		f.Abort(transport.AbortLinkLost)
	}
	return stream, err
}

// add makes the stream of a flow and counts it as one of the session.
func (s *session) add(f *transport.Flow, r OpenRequest, opened bool) (*Stream, error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.ended {
		return nil, ErrNotUp
	}
	stream := &Stream{
		Request: r,
		session: s,
		flow:    f,
		opened:  opened,
		encoder: s.peer.codec.NewEncoder(f.ID()),
		decoder: s.peer.codec.NewDecoder(f.ID()),
	}
	if r.Kind == echo {
		stream.encoder.Silence()
		stream.decoder.Silence()
	}
	switch {
	case r.Relay:
		stream.encoder.Relay()
	case r.NoHistory:
		stream.encoder.KeepApart()
	case r.Scope != 0:
		stream.encoder.SetScope(r.Scope)
		stream.decoder.SetScope(r.Scope)
	}
	s.streams[stream] = struct{}{}
	f.SetOnAcked(stream.acknowledged)
	return stream, nil
}

func (s *session) remove(stream *Stream) {
	s.mu.Lock()
	defer s.mu.Unlock()
	delete(s.streams, stream)
}

// end releases what closed streams left open; no further stream is made. A stream still in use is released by its own Close, maybe later
// than the next session begins: its encoder and decoder are of this session, and the codec does nothing for them any more.
func (s *session) end() {
	s.mu.Lock()
	s.ended = true
	lingering := slices.Collect(maps.Keys(s.streams))
	s.mu.Unlock()
	for _, stream := range lingering {
		stream.lost()
	}
}

// proveWork keeps an echo flow going: what the peer's State rests on. An echo that fails is no reason to end the session, only to say that
// the link is not up, and to try again.
func (s *session) proveWork(ctx context.Context) error {
	for {
		err := s.echo(ctx)
		if ctx.Err() != nil || s.Err() != nil {
			return nil
		}
		if !errors.Is(err, transport.ErrNoLane) { // no lane yet, or none for a while: nothing to report
			s.peer.log.Warn("no proof of work", "err", err)
		}
		select {
		case <-ctx.Done():
			return nil
		case <-s.Done():
			return nil
		case <-time.After(echoRetry):
		}
	}
}

// echo proves work once per echoInterval until something fails.
func (s *session) echo(ctx context.Context) error {
	stream, err := s.open(OpenRequest{Kind: echo})
	if err != nil {
		return err
	}
	defer stream.Close()
	unblock := context.AfterFunc(ctx, func() { stream.Abort(transport.ErrSessionEnded) })
	defer unblock()
	for token := uint64(1); ; token++ {
		start := time.Now()
		if err := stream.roundTrip(token); err != nil {
			return err
		}
		now := time.Now()
		s.peer.echoRTT.Store(int64(now.Sub(start)))
		s.lastEcho.Store(&now)
		select {
		case <-ctx.Done():
			return nil
		case <-time.After(beat.Until(echoInterval)):
		}
	}
}

var errEcho = errors.New("echo came back different")

func (t *Stream) roundTrip(token uint64) error {
	if _, err := t.Window(); err != nil {
		return err
	}
	var b [echoBytes]byte
	binary.BigEndian.PutUint64(b[:], token)
	if err := t.Send(b[:], false); err != nil {
		return err
	}
	got, err := t.Receive()
	if err != nil {
		return err
	}
	defer t.Consumed(got)
	if len(got.Data) != echoBytes || binary.BigEndian.Uint64(got.Data) != token {
		return errEcho
	}
	return nil
}

// answerEcho sends back what comes, a few bytes at a time, until the flow ends.
func (t *Stream) answerEcho() {
	defer t.Close()
	if err := t.Answer(netip.AddrPortFrom(netip.IPv4Unspecified(), 0)); err != nil {
		return
	}
	for {
		got, err := t.Receive()
		if err != nil {
			return
		}
		if len(got.Data) > echoBytes {
			t.Consumed(got)
			t.Abort(errEcho)
			return
		}
		if _, err = t.Window(); err == nil {
			err = t.Send(got.Data, got.End)
		}
		t.Consumed(got)
		if err != nil || got.End {
			return
		}
	}
}
