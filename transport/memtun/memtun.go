// Package memtun is a tunnel in memory: lanes between two ends of one process,
// with faults. It is for tests, with virtual time inside testing/synctest.
//
// A [Wire] is one connection; [New] makes it and its two ends, each a
// [transport.Lane]. It delays bytes, paces them, lets streams overtake each
// other, loses packets (which costs a repeat, as under QUIC), can be cut and
// mended, and can die with or without a word.
package memtun

import (
	"context"
	"errors"
	"io"
	"math/rand/v2"
	"sync"
	"time"

	"wanpair/transport"
)

// chunkBytes is how much of a stream travels as one piece, as in a packet or a
// few of them.
const chunkBytes = 8 << 10

// ackBytes is about what the acknowledgement of a piece takes under QUIC. It is
// counted, but takes no time of the wire.
const ackBytes = 30

// Config says how a wire behaves. The zero value is a perfect wire without
// delay.
type Config struct {
	Delay   time.Duration // one way
	Jitter  time.Duration // each piece of a stream takes up to so much longer: streams overtake each other
	Loss    float64       // probability that a piece is lost and comes a round trip later
	Rate    int64         // bytes per second and direction; 0: any
	Ahead   int           // bytes that may wait for the rate before a write blocks; default 64 KiB
	Streams int           // frame streams under way per direction before OpenFrame blocks; default 65536
	Seed    uint64
}

// Wire is one connection. Its faults may be set at any time.
type Wire struct {
	cfg  Config
	ends [2]*Lane

	mu   sync.Mutex
	rng  *rand.Rand
	cut  bool
	held []func() // deliveries that came due while the wire was cut
	dead bool
}

// New makes a wire. dialer is the end that says hello first.
func New(cfg Config) (w *Wire, dialer, listener *Lane) {
	if cfg.Ahead == 0 {
		cfg.Ahead = 64 << 10
	}
	if cfg.Streams == 0 {
		cfg.Streams = 65536
	}
	w = &Wire{cfg: cfg, rng: rand.New(rand.NewPCG(cfg.Seed, 1))}
	for i := range w.ends {
		e := &Lane{wire: w, dialed: i == 0, streams: make(map[*stream]bool)}
		e.cond.L = &e.mu
		w.ends[i] = e
	}
	a, b := w.ends[0], w.ends[1]
	a.peer, b.peer = b, a
	ab, ba := newStream(a), newStream(b)
	a.control, b.control = &duplex{r: ba, w: ab}, &duplex{r: ab, w: ba}
	return w, a, b
}

// Cut stops everything on its way until Mend.
func (w *Wire) Cut() {
	w.mu.Lock()
	defer w.mu.Unlock()
	w.cut = true
}

// Mend ends a cut; what waited arrives now.
func (w *Wire) Mend() {
	w.mu.Lock()
	w.cut = false
	held := w.held
	w.held = nil
	w.mu.Unlock()
	for _, f := range held {
		f()
	}
}

// Kill ends the wire at both ends at once with err, as when both QUIC stacks
// time out.
func (w *Wire) Kill(err error) {
	w.mu.Lock()
	w.dead = true
	w.held = nil
	w.mu.Unlock()
	for _, e := range w.ends {
		e.fail(err)
	}
}

// later runs f after delay, or when the wire is mended.
func (w *Wire) later(delay time.Duration, f func()) {
	run := func() {
		w.mu.Lock()
		switch {
		case w.dead:
			w.mu.Unlock()
			return
		case w.cut:
			w.held = append(w.held, f)
			w.mu.Unlock()
			return
		}
		w.mu.Unlock()
		f()
	}
	if delay <= 0 {
		run()
		return
	}
	time.AfterFunc(delay, run)
}

// travel is how long a piece takes.
func (w *Wire) travel() time.Duration {
	w.mu.Lock()
	defer w.mu.Unlock()
	d := w.cfg.Delay
	if w.cfg.Jitter > 0 {
		d += time.Duration(w.rng.Int64N(int64(w.cfg.Jitter)))
	}
	if w.cfg.Loss > 0 && w.rng.Float64() < w.cfg.Loss {
		d += 2*w.cfg.Delay + time.Millisecond
	}
	return d
}

// Lane is one end of a wire.
type Lane struct {
	wire    *Wire
	peer    *Lane
	dialed  bool
	control *duplex

	mu      sync.Mutex
	cond    sync.Cond
	err     error
	streams map[*stream]bool // live ones, both directions
	open    int              // frame streams this end sends
	accept  []*stream
	free    time.Time // when the wire has taken everything so far
	sent    uint64
	recv    uint64
}

var _ transport.Lane = (*Lane)(nil)

// Dialed implements transport.Lane.
func (e *Lane) Dialed() bool { return e.dialed }

// Control implements transport.Lane.
func (e *Lane) Control() io.ReadWriter { return e.control }

// OpenFrame implements transport.Lane.
func (e *Lane) OpenFrame(ctx context.Context) (transport.FrameWriter, error) {
	stop := context.AfterFunc(ctx, func() {
		e.mu.Lock()
		defer e.mu.Unlock()
		e.cond.Broadcast()
	})
	defer stop()
	e.mu.Lock()
	for e.err == nil && ctx.Err() == nil && e.open >= e.wire.cfg.Streams {
		e.cond.Wait()
	}
	defer e.mu.Unlock()
	if e.err != nil {
		return nil, e.err
	}
	if ctx.Err() != nil {
		return nil, ctx.Err()
	}
	return e.newFrame(), nil
}

func (e *Lane) newFrame() *stream {
	s := newStream(e)
	s.frame = true
	e.open++
	e.streams[s] = true
	return s
}

// TryFrame implements transport.Lane.
func (e *Lane) TryFrame(p []byte) error {
	e.mu.Lock()
	if e.err != nil {
		e.mu.Unlock()
		return e.err
	}
	if e.open >= e.wire.cfg.Streams || e.backlog() > 0 {
		e.mu.Unlock()
		return transport.ErrWouldBlock
	}
	s := e.newFrame()
	e.mu.Unlock()
	if _, err := s.Write(p); err != nil {
		return err
	}
	return s.Close()
}

// backlog is what waits for the rate beyond what may; e.mu is held.
func (e *Lane) backlog() time.Duration {
	if e.wire.cfg.Rate == 0 {
		return 0
	}
	ahead := time.Duration(float64(e.wire.cfg.Ahead) / float64(e.wire.cfg.Rate) * float64(time.Second))
	return time.Until(e.free) - ahead
}

// AcceptFrame implements transport.Lane.
func (e *Lane) AcceptFrame(ctx context.Context) (transport.FrameReader, error) {
	stop := context.AfterFunc(ctx, func() {
		e.mu.Lock()
		defer e.mu.Unlock()
		e.cond.Broadcast()
	})
	defer stop()
	e.mu.Lock()
	defer e.mu.Unlock()
	for e.err == nil && ctx.Err() == nil && len(e.accept) == 0 {
		e.cond.Wait()
	}
	switch {
	case e.err != nil:
		return nil, e.err
	case ctx.Err() != nil:
		return nil, ctx.Err()
	}
	s := e.accept[0]
	e.accept = e.accept[1:]
	return reader{s}, nil
}

// Close implements transport.Lane. The other end learns of it after the wire's
// delay, or never while the wire is cut.
func (e *Lane) Close(code transport.LaneCode, reason string) {
	if !e.fail(&transport.LaneError{Code: code, Reason: reason}) {
		return
	}
	e.wire.later(e.wire.cfg.Delay, func() {
		e.peer.fail(&transport.LaneError{Code: code, Reason: reason, Remote: true})
	})
}

// fail ends this end with err; false when it had ended before.
func (e *Lane) fail(err error) bool {
	e.mu.Lock()
	if e.err != nil {
		e.mu.Unlock()
		return false
	}
	e.err = err
	streams := []*stream{e.control.r, e.control.w}
	for s := range e.streams {
		streams = append(streams, s)
	}
	e.cond.Broadcast()
	e.mu.Unlock()
	for _, s := range streams {
		s.fail(e, err)
	}
	return true
}

// Stats implements transport.Lane.
func (e *Lane) Stats() transport.LaneStats {
	e.mu.Lock()
	defer e.mu.Unlock()
	return transport.LaneStats{
		Local: "mem", Remote: "mem", Dialed: e.dialed,
		RTT: 2 * e.wire.cfg.Delay, MinRTT: 2 * e.wire.cfg.Delay,
		RateBytes: uint64(e.wire.cfg.Rate), BytesSent: e.sent, BytesRecv: e.recv,
	}
}

// duplex joins the two streams of a control stream.
type duplex struct{ r, w *stream }

func (d *duplex) Read(p []byte) (int, error)  { return d.r.Read(p) }
func (d *duplex) Write(p []byte) (int, error) { return d.w.Write(p) }

// errGivenUp is what a reader sees of a cancelled stream.
var errGivenUp = errors.New("memtun: stream given up")
