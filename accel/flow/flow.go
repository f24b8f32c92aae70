// Package flow moves the bytes of one intercepted connection between its TCP edge and its tunnel stream.
//
// It owns the two pumps of a flow, half-close, abort and the byte counts, and nothing else: it sees no socket and no codec, only the
// [Edge] and the [Stream] it is given.
//
// What it promises:
//
//   - Both directions are awaited. A direction that ends cleanly leaves the other one running for as long as it likes.
//   - Abort stays abort. A read error, a write error, a stream error or an end that was not verified resets the edge and aborts the
//     stream. Only a clean end-of-file becomes a clean end of the stream, and only a verified end of the stream becomes a FIN.
//   - No deadline of its own: a bare link has none.
//   - Bytes leave at once: a pump takes what the edge holds and sends it. Only the stream holds it up, in Window.
//
// The order of steps for a byte from the edge: wait until the edge is readable (no buffer is held), wait until the stream has room
// (so that waiting bytes stay in the socket, not in encoded frames), borrow a buffer, take what is there, send, give the buffer back.
package flow

import (
	"errors"
	"fmt"
	"io"
	"sync"
	"sync/atomic"
)

// MaxSegmentBytes is the most a pump takes from the edge at once: the raw size of one frame.
const MaxSegmentBytes = 256 << 10

// Edge is the TCP side of a flow. All methods but Reset are called by one goroutine per direction.
type Edge interface {
	// WaitReadable blocks until there is something to read, an end or an error, without holding a buffer.
	WaitReadable() error
	// ReadAvailable takes what is there without blocking and fills p as far as it goes. It returns 0, nil when nothing is there
	// and io.EOF, possibly together with bytes, after a clean FIN.
	ReadAvailable(p []byte) (int, error)
	// Write blocks until all of p is in the send queue.
	Write(p []byte) (int, error)
	// CloseWrite sends a FIN behind all that was written.
	CloseWrite() error
	// WaitHangup blocks until both directions have ended (nil) or the connection is broken. Called by the reader after io.EOF.
	WaitHangup() error
	// Broken says without waiting whether the connection is broken. Any goroutine may call it.
	Broken() error
	// Finish closes after both directions ended cleanly.
	Finish() error
	// Reset ends the connection with a RST and wakes every blocked call. Any goroutine may call it, any number of times.
	Reset()
}

// Segment is a piece of a flow as it comes out of the tunnel, decoded and verified.
type Segment struct {
	Data []byte // owned by the stream, handed back with Stream.Consumed
	End  bool   // the direction ends behind Data; its length and hash agree
}

// Stream is the tunnel side of a flow.
type Stream interface {
	// Window blocks until the tunnel can take a frame soon, and says how many raw bytes it may stand for.
	Window() (int, error)
	// Send encodes and sends p (borrowed until return) as one frame. With end it is the last one of this direction.
	Send(p []byte, end bool) error
	// Receive blocks for the next segment. After one with End it is not called again.
	Receive() (Segment, error)
	// Consumed gives a segment back after its bytes were delivered: credit grows.
	Consumed(Segment)
	// Done is closed when both directions have ended and all is acknowledged, or when the stream was aborted; Err says which.
	Done() <-chan struct{}
	// Err is nil until the stream is aborted.
	Err() error
	// Finish ends the stream after both directions ended cleanly.
	Finish()
	// Abort ends both directions and wakes every blocked call. The cause says why. Any goroutine, any number of times.
	Abort(cause error)
}

// ErrEdge wraps what went wrong at the TCP edge: the stream is told that its connection was reset.
var ErrEdge = errors.New("connection at the edge broke")

// Counters are the raw bytes of a flow, updated while it runs.
type Counters struct {
	FromEdge atomic.Int64 // bytes read from the TCP edge
	ToEdge   atomic.Int64 // bytes delivered to the TCP edge
}

// Buffers lends segments of MaxSegmentBytes to the pumps of many flows.
type Buffers struct{ pool sync.Pool }

// NewBuffers returns an empty pool; buffers are made when first needed.
func NewBuffers() *Buffers {
	return &Buffers{pool: sync.Pool{New: func() any { return new([MaxSegmentBytes]byte) }}}
}

func (b *Buffers) get() *[MaxSegmentBytes]byte  { return b.pool.Get().(*[MaxSegmentBytes]byte) }
func (b *Buffers) put(p *[MaxSegmentBytes]byte) { b.pool.Put(p) }

// Run moves bytes both ways until both directions have ended, or one of them broke. It returns nil only when both ends were clean; then
// edge and stream are finished. Otherwise both have been aborted. It returns after all of its goroutines.
func Run(edge Edge, stream Stream, buffers *Buffers, count *Counters) error {
	f := &run{edge: edge, stream: stream, buffers: buffers, count: count, outEnded: make(chan struct{})}
	var group sync.WaitGroup
	group.Go(f.pumpIn)
	f.pumpOut()
	close(f.outEnded)
	group.Wait()
	if f.cause != nil {
		return f.cause
	}
	if err := edge.Finish(); err != nil {
		f.fail(fmt.Errorf("%w: close: %w", ErrEdge, err))
		return f.cause
	}
	stream.Finish()
	return nil
}

type run struct {
	edge    Edge
	stream  Stream
	buffers *Buffers
	count   *Counters

	outEnded chan struct{} // closed when pumpOut has returned
	failOnce sync.Once
	cause    error // written once before both sides are aborted, read after both pumps ended
}

// fail aborts both sides; the first cause counts.
func (f *run) fail(cause error) {
	f.failOnce.Do(func() {
		f.cause = cause
		f.edge.Reset()
		f.stream.Abort(cause)
	})
}

// pumpOut carries edge -> stream.
func (f *run) pumpOut() {
	for {
		if err := f.edge.WaitReadable(); err != nil {
			f.fail(fmt.Errorf("%w: wait: %w", ErrEdge, err))
			return
		}
		var window int
		var err error
		attend(f.edge, f.fail, func() { window, err = f.stream.Window() })
		if err != nil {
			f.fail(err)
			return
		}
		var ended bool
		Deep(func() { ended, err = f.sendAvailable(window) })
		if err != nil {
			f.fail(err)
			return
		}
		if ended {
			break
		}
	}
	// The client has sent its last byte, but it can still break the connection while it waits for the answer.
	if err := f.edge.WaitHangup(); err != nil {
		f.fail(fmt.Errorf("%w: after its end: %w", ErrEdge, err))
	}
}

// sendAvailable sends what the edge holds, at most window bytes, as one frame.
func (f *run) sendAvailable(window int) (ended bool, err error) {
	buffer := f.buffers.get()
	defer f.buffers.put(buffer)
	n, err := f.edge.ReadAvailable(buffer[:min(window, MaxSegmentBytes)])
	ended = errors.Is(err, io.EOF)
	if err != nil && !ended {
		return false, fmt.Errorf("%w: read: %w", ErrEdge, err)
	}
	if n == 0 && !ended {
		return false, nil // a spurious wake-up
	}
	f.count.FromEdge.Add(int64(n))
	return ended, f.stream.Send(buffer[:n], ended)
}

// pumpIn carries stream -> edge. Segments are taken from the stream as they come, so that decoding never waits for the application; a
// writer runs only while there is something to write.
func (f *run) pumpIn() {
	w := writer{run: f}
	for {
		segment, err := f.stream.Receive()
		if err != nil {
			f.fail(err)
			break
		}
		w.add(segment)
		if segment.End {
			f.awaitAbort()
			break
		}
	}
	w.group.Wait()
}

// awaitAbort waits until the other direction has ended too. The other side has sent its last byte, but it can still abort.
func (f *run) awaitAbort() {
	select {
	case <-f.outEnded:
	case <-f.stream.Done():
		if err := f.stream.Err(); err != nil {
			f.fail(err)
		}
	}
}

// writer delivers queued segments in order. Its goroutine lives from the first queued segment to the empty queue. The queue is bounded
// by the credit granted to the other side.
type writer struct {
	run   *run
	group sync.WaitGroup

	mu      sync.Mutex
	queue   []Segment
	running bool
}

func (w *writer) add(s Segment) {
	w.mu.Lock()
	defer w.mu.Unlock()
	w.queue = append(w.queue, s)
	if !w.running {
		w.running = true
		w.group.Go(w.drain)
	}
}

func (w *writer) next() (Segment, bool) {
	w.mu.Lock()
	defer w.mu.Unlock()
	if len(w.queue) == 0 {
		w.running = false
		w.queue = nil // an idle flow keeps no queue
		return Segment{}, false
	}
	s := w.queue[0]
	w.queue[0] = Segment{}
	w.queue = w.queue[1:]
	return s, true
}

func (w *writer) drain() {
	broken := false
	for {
		s, ok := w.next()
		if !ok {
			return
		}
		if !broken {
			if err := w.deliver(s); err != nil {
				w.run.fail(err)
				broken = true // go on taking, so that every segment is given back
			}
		}
		w.run.stream.Consumed(s)
	}
}

func (w *writer) deliver(s Segment) error {
	if len(s.Data) > 0 {
		n, err := w.run.edge.Write(s.Data)
		w.run.count.ToEdge.Add(int64(n))
		if err != nil {
			return fmt.Errorf("%w: write: %w", ErrEdge, err)
		}
	}
	if s.End {
		if err := w.run.edge.CloseWrite(); err != nil {
			return fmt.Errorf("%w: half-close: %w", ErrEdge, err)
		}
	}
	return nil
}
