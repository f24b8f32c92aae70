package peer_test

import (
	"bytes"
	"context"
	"errors"
	"io"
	"log/slog"
	"testing"
	"testing/iotest"
	"time"

	"wanpair/accel/peer"
	"wanpair/transport"
	"wanpair/transport/memtun"
)

// warm sends p to the other side's history.
func (s *side) warm(t *testing.T, r io.Reader) (raw int, err error) {
	t.Helper()
	stream, err := s.OpenWarm()
	if err != nil {
		t.Fatal(err)
	}
	defer stream.Close()
	err = stream.Warm(t.Context(), r, func(n int) { raw += n })
	return raw, err
}

// TestWarm: what was sent ahead costs next to nothing when a user asks for it, in either direction, and is delivered to nobody.
func TestWarm(t *testing.T) {
	a, b := newSide(t, "a"), newSide(t, "b")
	defer a.end(t)
	defer b.end(t)
	join(t, a, b, memtun.Config{Delay: time.Millisecond})
	waitUp(t, a, b)
	data := text(3<<20, 1)
	raw, err := a.warm(t, bytes.NewReader(data))
	if err != nil || raw != len(data) {
		t.Fatalf("%d of %d bytes, %v", raw, len(data), err)
	}
	if raw, err := a.warm(t, bytes.NewReader(nil)); err != nil || raw != 0 {
		t.Errorf("nothing at all: %d bytes, %v", raw, err)
	}
	if len(b.served) > 0 {
		t.Error("the other side's users were given the data")
	}
	before := [2]int64{a.Codec().Stats().LiteralBytes, b.Codec().Stats().LiteralBytes}
	exchange(t, a, b, data, data, 3)
	for i, s := range []*side{a, b} {
		if literal := s.Codec().Stats().LiteralBytes - before[i]; literal > int64(len(data))/50 {
			t.Errorf("%s sent %d bytes as they are, of %d that were sent ahead", s.Name(), literal, len(data))
		}
	}
}

// TestWarmThatBreaksOff: an error of the source, or its end without a word, ends the flow and nothing else; the rest can follow.
func TestWarmThatBreaksOff(t *testing.T) {
	a, b := newSide(t, "a"), newSide(t, "b")
	defer a.end(t)
	defer b.end(t)
	join(t, a, b, memtun.Config{})
	waitUp(t, a, b)
	for i, cause := range []error{errors.New("disk"), io.ErrUnexpectedEOF} {
		_, err := a.warm(t, io.MultiReader(bytes.NewReader(text(700_000, uint64(20+i))), iotest.ErrReader(cause)))
		if !errors.Is(err, cause) {
			t.Errorf("got %v, want %v", err, cause)
		}
	}
	ctx, cancel := context.WithCancel(t.Context())
	stream, err := a.OpenWarm()
	if err != nil {
		t.Fatal(err)
	}
	reader, writer := io.Pipe()
	time.AfterFunc(50*time.Millisecond, func() { cancel(); writer.CloseWithError(io.ErrClosedPipe) })
	if err := stream.Warm(ctx, reader, func(int) {}); err == nil {
		t.Error("a warm-up that was given up ended well")
	}
	stream.Close()
	if _, err := a.warm(t, bytes.NewReader(text(1<<20, 30))); err != nil {
		t.Errorf("again: %v", err)
	}
}

// TestWarmNeedsAPeerThatKnowsIt: an older version is told apart by its hello, before anything is sent.
func TestWarmNeedsAPeerThatKnowsIt(t *testing.T) {
	a := newSide(t, "a")
	defer a.end(t)
	old, err := transport.NewLink(transport.LinkConfig{Log: slog.New(slog.DiscardHandler), Hello: transport.Hello{Site: "old", Software: "0.0"}})
	if err != nil {
		t.Fatal(err)
	}
	_, dialer, listener := memtun.New(memtun.Config{})
	ctx, cancel := context.WithCancel(t.Context())
	ended := make(chan struct{}, 2)
	go func() { _ = a.Link().ServeLane(ctx, dialer); ended <- struct{}{} }()
	go func() { _ = old.ServeLane(ctx, listener); ended <- struct{}{} }()
	defer func() { cancel(); <-ended; <-ended }()
	deadline := time.Now().Add(10 * time.Second)
	for a.Hello().Site == "" {
		if time.Now().After(deadline) {
			t.Fatal("no session")
		}
		time.Sleep(time.Millisecond) // waiting for goroutines that run in real time
	}
	if _, err := a.OpenWarm(); !errors.Is(err, peer.ErrNoWarm) {
		t.Errorf("got %v", err)
	}
}
