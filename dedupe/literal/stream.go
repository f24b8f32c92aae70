package literal

import (
	"errors"
	"fmt"
	"io"
	"sync"

	"github.com/klauspost/compress/zstd"
)

// StreamWindowBytes is the largest window of a streaming context (protocol B4). Four times as much was worth 0.3 % on source trees and nothing
// elsewhere, and cost three times the memory.
const StreamWindowBytes = 1 << 20

// StreamDecoderBytes is what a decoder's streaming context costs in memory, measured over 16 of them.
const StreamDecoderBytes = 3 << 19

// streamEncoderBytes is what an encoder's costs, by level.
var streamEncoderBytes = [levels]int64{33 << 17, 45 << 17, 60 << 17}

// abortedStreams is how many streams beyond what was granted are taken at least, and as many as were granted at most: a peer counts the stream of
// an aborted flow as closed before this side does, and one of an earlier version that of any frame on its way.
const abortedStreams = 4

// ErrNoContext is returned when the other side begins more streams than it was granted.
var ErrNoContext = errors.New("no streaming context left")

// Lender counts the streaming contexts of one session, so that both sides keep within what was granted.
type Lender struct {
	pool *Pool

	mu       sync.Mutex
	encoders int   // in use
	limit    int   // of encoders: what the peer grants
	used     int64 // bytes of encoders
	memory   int64 // bytes that encoders may use
	decoders int
	granted  int // of decoders
}

// Lender returns the lender of a new session: streams towards the peer, none before Grant, that together take memory bytes at most; and at most
// decoders streams from it.
func (p *Pool) Lender(memory int64, decoders int) *Lender {
	return &Lender{pool: p, memory: memory, granted: decoders}
}

// Grant notes how many streams the peer lets us keep open.
func (l *Lender) Grant(n int) {
	l.mu.Lock()
	l.limit = n
	l.mu.Unlock()
}

// Granted is how many streams the peer may keep open.
func (l *Lender) Granted() int { return l.granted }

// InUse counts the contexts in use, both directions.
func (l *Lender) InUse() int {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.encoders + l.decoders
}

// Bytes is the memory of the contexts in use, both directions, and of those kept for the next ones.
func (l *Lender) Bytes() int64 {
	n := l.pool.idleBytes()
	l.mu.Lock()
	defer l.mu.Unlock()
	return n + l.used + int64(l.decoders)*StreamDecoderBytes
}

// Return says that the peer knows of the end of n streams.
func (l *Lender) Return(n int) {
	l.mu.Lock()
	l.encoders -= n
	l.mu.Unlock()
}

// Scarce tells whether less than a quarter of the streams is free.
func (l *Lender) Scarce() bool {
	l.mu.Lock()
	defer l.mu.Unlock()
	return 4*(l.limit-l.encoders) < l.limit || 4*(l.memory-l.used) < l.memory
}

// Encoder is one stream towards the peer.
type Encoder struct {
	lender *Lender
	z      *zstd.Encoder
	level  int
	out    sink
	begun  bool
}

// sink collects what a zstd encoder writes.
type sink struct{ b []byte }

func (s *sink) Write(p []byte) (int, error) {
	s.b = append(s.b, p...)
	return len(p), nil
}

// Encoder begins a stream at a level of effort, or at a lower one that there is memory for, or returns nil when none is left.
func (l *Lender) Encoder(level int) *Encoder {
	level = min(max(level, Fastest), Better)
	l.mu.Lock()
	for level > Fastest && l.used+streamEncoderBytes[level] > l.memory {
		level--
	}
	ok := l.encoders < l.limit && l.used+streamEncoderBytes[level] <= l.memory
	if ok {
		l.encoders++
		l.used += streamEncoderBytes[level]
	}
	l.mu.Unlock()
	if !ok {
		return nil
	}
	e := &Encoder{lender: l, level: level, z: l.pool.idleEncoder(level)}
	if e.z == nil {
		z, err := zstd.NewWriter(nil, zstd.WithEncoderLevel(speeds[level]), zstd.WithEncoderConcurrency(1), zstd.WithEncoderCRC(false),
			zstd.WithWindowSize(StreamWindowBytes))
		if err != nil {
			e.Close()
			l.Return(1)
			return nil
		}
		e.z = z
	}
	e.z.Reset(&e.out)
	return e
}

// Level is the level the stream was begun with.
func (e *Encoder) Level() int { return e.level }

// Append appends the next piece of the stream, flushed to a block border. begins says that it is the first.
func (e *Encoder) Append(dst, src []byte) (out []byte, begins bool, err error) {
	e.out.b = dst
	if _, err = e.z.Write(src); err == nil {
		err = e.z.Flush()
	}
	out, e.out.b = e.out.b, nil
	begins, e.begun = !e.begun, true
	if err != nil {
		return dst, false, fmt.Errorf("zstd stream: %w", err)
	}
	return out, begins, nil
}

// Close gives the context's memory back. For the peer the stream stays open until it has decoded the frame that says so: Lender.Return.
func (e *Encoder) Close() {
	e.lender.mu.Lock()
	e.lender.used -= streamEncoderBytes[e.level]
	e.lender.mu.Unlock()
	if e.z != nil {
		e.z.Reset(nil)
		e.lender.pool.keepEncoder(e.level, e.z)
		e.z = nil
	}
}

// Decoder is one stream from the peer.
type Decoder struct {
	lender *Lender
	z      *zstd.Decoder
	in     source
}

// source feeds a zstd decoder with one piece at a time.
type source struct{ b []byte }

func (s *source) Read(p []byte) (int, error) {
	if len(s.b) == 0 {
		return 0, io.ErrUnexpectedEOF // the piece stated more than it holds
	}
	n := copy(p, s.b)
	s.b = s.b[n:]
	return n, nil
}

// Decoder begins a stream from the peer.
func (l *Lender) Decoder() (*Decoder, error) {
	l.mu.Lock()
	ok := l.decoders < l.granted+max(l.granted, abortedStreams)
	if ok {
		l.decoders++
	}
	l.mu.Unlock()
	if !ok {
		return nil, ErrNoContext
	}
	d := &Decoder{lender: l, z: l.pool.idleDecoder()}
	if d.z == nil {
		z, err := zstd.NewReader(nil, zstd.WithDecoderConcurrency(1), zstd.WithDecoderLowmem(true),
			zstd.WithDecoderMaxWindow(StreamWindowBytes), zstd.WithDecoderMaxMemory(2*StreamWindowBytes), zstd.WithDecodeBuffersBelow(0))
		if err != nil {
			d.Close()
			return nil, fmt.Errorf("zstd decoder: %w", err)
		}
		d.z = z
	}
	return d, nil
}

// Decode appends the want bytes of the next piece to dst, which must have room for them. begins says that a new stream begins with it. Bytes that a
// piece holds beyond want come out with the next one: the frame's checksum tells.
func (d *Decoder) Decode(dst, src []byte, want int, begins bool) ([]byte, error) {
	n := len(dst)
	if cap(dst)-n < want {
		return nil, fmt.Errorf("%w: no room for %d bytes", ErrCorrupt, want)
	}
	d.in.b = src
	defer func() { d.in.b = nil }()
	if begins {
		if err := d.z.Reset(&d.in); err != nil {
			return nil, fmt.Errorf("%w: %w", ErrCorrupt, err)
		}
	}
	if _, err := io.ReadFull(d.z, dst[n:n+want]); err != nil {
		return nil, fmt.Errorf("%w: %w", ErrCorrupt, err)
	}
	if len(d.in.b) != 0 {
		return nil, fmt.Errorf("%w: %d bytes behind a piece's end", ErrCorrupt, len(d.in.b))
	}
	return dst[:n+want], nil
}

// Close gives the context back.
func (d *Decoder) Close() {
	d.lender.mu.Lock()
	d.lender.decoders--
	d.lender.mu.Unlock()
	if d.z == nil {
		return
	}
	if err := d.z.Reset(nil); err == nil {
		d.lender.pool.keepDecoder(d.z)
	} else {
		d.z.Close()
	}
	d.z = nil
}
