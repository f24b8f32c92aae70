package peer

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net/netip"

	"wanpair/accel/flow"
	"wanpair/transport"
)

// ErrNoWarm says that the other side is a version that does not take warm-ups.
var ErrNoWarm = errors.New("the peer's version does not take warm-ups")

// OpenWarm begins a flow that fills both histories; it goes on with [Stream.Warm]. It fails with ErrNoWarm or ErrNotUp.
func (p *Peer) OpenWarm() (*Stream, error) {
	if s := p.session(); s != nil && s.Peer().Features&transport.FeatureWarm == 0 {
		return nil, fmt.Errorf("%w (%s)", ErrNoWarm, s.Peer().Software)
	}
	return p.Open(OpenRequest{Kind: Warm})
}

// Warm sends what r yields, to its end, and returns when the other side has verified all of it. sent counts the raw bytes taken from r. The stream is
// finished when the error is nil and aborted otherwise; Close remains the caller's to call.
func (t *Stream) Warm(ctx context.Context, r io.Reader, sent func(n int)) error {
	unblock := context.AfterFunc(ctx, func() { t.Abort(context.Cause(ctx)) })
	defer unblock()
	err := t.sendAll(r, sent)
	if err == nil {
		err = t.awaitEnd()
	}
	if err != nil {
		t.Abort(err)
		return err
	}
	t.Finish()
	return nil
}

func (t *Stream) sendAll(r io.Reader, sent func(n int)) error {
	buffer := make([]byte, flow.MaxSegmentBytes)
	for {
		window, err := t.Window()
		if err != nil {
			return err
		}
		n, end, err := fill(buffer[:min(window, len(buffer))], r)
		if err != nil {
			return fmt.Errorf("read what to send: %w", err)
		}
		if err := t.Send(buffer[:n], end); err != nil {
			return err
		}
		sent(n)
		if end {
			return nil
		}
	}
}

// fill reads until p is full or r ends. (io.ReadFull cannot tell a clean end from data that break off.)
func fill(p []byte, r io.Reader) (n int, end bool, err error) {
	for n < len(p) && err == nil {
		var k int
		k, err = r.Read(p[n:])
		n += k
	}
	if errors.Is(err, io.EOF) {
		return n, true, nil
	}
	return n, false, err
}

// awaitEnd waits for the other side's end, which it sends when everything has been decoded and verified.
func (t *Stream) awaitEnd() error {
	for {
		segment, err := t.Receive()
		if err != nil {
			return err
		}
		n := len(segment.Data)
		t.Consumed(segment)
		switch {
		case n > 0:
			return errWarmAnswer
		case segment.End:
			return nil
		}
	}
}

var errWarmAnswer = errors.New("the other side of a warm-up sent data")

// swallow takes a warm-up to its end: decoding is what fills the history.
func (t *Stream) swallow() {
	defer t.Close()
	if err := t.Answer(netip.AddrPortFrom(netip.IPv4Unspecified(), 0)); err != nil {
		return
	}
	for {
		segment, err := t.Receive()
		if err != nil {
			t.Abort(err)
			return
		}
		end := segment.End
		t.Consumed(segment)
		if !end {
			continue
		}
		if _, err = t.Window(); err == nil {
			err = t.Send(nil, true)
		}
		if err != nil {
			t.Abort(err)
			return
		}
		t.Finish()
		return
	}
}
