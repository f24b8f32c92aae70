// Package literal lends zstd encoders and decoders to whoever has bytes to code this moment.
//
// A zstd context costs far more memory than a flow may hold, so flows own none: they borrow one for the time of a frame. The package promises
// that decoding never yields more than the caller's limit and never keeps a window above [WindowBytes], whatever the peer sends.
package literal

import (
	"errors"
	"fmt"
	"sync"
	"sync/atomic"

	"github.com/klauspost/compress/zstd"
)

// WindowBytes is the largest window of an independent frame (protocol B4).
const WindowBytes = 1 << 20

// ErrCorrupt wraps what a zstd decoder found wrong.
var ErrCorrupt = errors.New("corrupt zstd data")

// Levels of effort, from the fastest to the smallest result. (The library's best level takes 35 MB of tables for a context.)
const (
	Fastest = iota
	Default
	Better
	levels
)

// Pool owns the contexts. It is safe for concurrent use.
type Pool struct {
	encoders    [levels]atomic.Pointer[zstd.Encoder]
	decoder     *zstd.Decoder
	concurrency int

	mu           sync.Mutex
	idleEncoders [levels][]*zstd.Encoder // of streams that ended, keptIdle at most of a level
	idleDecoders []*zstd.Decoder
}

// keptIdle is how many contexts of ended streams are kept for the next ones.
const keptIdle = 2

var speeds = [levels]zstd.EncoderLevel{zstd.SpeedFastest, zstd.SpeedDefault, zstd.SpeedBetterCompression}

// NewPool returns a pool that runs at most concurrency encoders of a level and as many decoders at once.
func NewPool(concurrency int) (*Pool, error) {
	p := &Pool{concurrency: max(concurrency, 1)}
	d, err := zstd.NewReader(nil, zstd.WithDecoderConcurrency(p.concurrency), zstd.WithDecoderLowmem(true),
		zstd.WithDecoderMaxWindow(WindowBytes), zstd.WithDecoderMaxMemory(WindowBytes), zstd.WithDecodeAllCapLimit(true))
	if err != nil {
		return nil, fmt.Errorf("zstd decoder: %w", err)
	}
	p.decoder = d
	if _, err := p.encoder(Fastest); err != nil {
		return nil, err
	}
	return p, nil
}

// encoder returns the shared encoder of a level, made when it is first asked for.
func (p *Pool) encoder(level int) (*zstd.Encoder, error) {
	level = min(max(level, Fastest), Better)
	if e := p.encoders[level].Load(); e != nil {
		return e, nil
	}
	e, err := zstd.NewWriter(nil, zstd.WithEncoderLevel(speeds[level]), zstd.WithEncoderConcurrency(p.concurrency), zstd.WithEncoderCRC(false),
		zstd.WithSingleSegment(true), zstd.WithWindowSize(WindowBytes))
	if err != nil {
		return nil, fmt.Errorf("zstd encoder: %w", err)
	}
	if !p.encoders[level].CompareAndSwap(nil, e) {
		return p.encoders[level].Load(), nil
	}
	return e, nil
}

// Append appends src as one zstd frame to dst. ok is false, and dst as it was, when that is no shorter than src.
func (p *Pool) Append(dst, src []byte, level int) (out []byte, ok bool) {
	e, err := p.encoder(level)
	if err != nil || len(src) == 0 {
		return dst, false
	}
	n := len(dst)
	out = e.EncodeAll(src, dst)
	if len(out)-n >= len(src) {
		return out[:n], false
	}
	return out, true
}

// Decode appends the content of a zstd frame to dst, which must have room for want bytes; it must be exactly that long.
func (p *Pool) Decode(dst, src []byte, want int) ([]byte, error) {
	n := len(dst)
	if cap(dst)-n < want {
		return nil, fmt.Errorf("%w: no room for %d bytes", ErrCorrupt, want)
	}
	out, err := p.decoder.DecodeAll(src, dst[:n:n+want])
	if err != nil {
		return nil, fmt.Errorf("%w: %w", ErrCorrupt, err)
	}
	if len(out)-n != want {
		return nil, fmt.Errorf("%w: %d bytes where %d were stated", ErrCorrupt, len(out)-n, want)
	}
	return dst[:n+want], nil
}

// idleEncoder takes the context of an ended stream, or nil.
func (p *Pool) idleEncoder(level int) (z *zstd.Encoder) {
	p.mu.Lock()
	defer p.mu.Unlock()
	list := &p.idleEncoders[level]
	if n := len(*list); n > 0 {
		z, (*list)[n-1] = (*list)[n-1], nil
		*list = (*list)[:n-1]
	}
	return z
}

func (p *Pool) keepEncoder(level int, z *zstd.Encoder) {
	p.mu.Lock()
	defer p.mu.Unlock()
	if len(p.idleEncoders[level]) < keptIdle {
		p.idleEncoders[level] = append(p.idleEncoders[level], z)
	}
}

// idleBytes is the memory of the contexts kept.
func (p *Pool) idleBytes() (n int64) {
	p.mu.Lock()
	defer p.mu.Unlock()
	for level, list := range p.idleEncoders {
		n += int64(len(list)) * streamEncoderBytes[level]
	}
	return n + int64(len(p.idleDecoders))*StreamDecoderBytes
}

// idleDecoder takes the context of an ended stream, or nil.
func (p *Pool) idleDecoder() (z *zstd.Decoder) {
	p.mu.Lock()
	defer p.mu.Unlock()
	if n := len(p.idleDecoders); n > 0 {
		z, p.idleDecoders[n-1] = p.idleDecoders[n-1], nil
		p.idleDecoders = p.idleDecoders[:n-1]
	}
	return z
}

func (p *Pool) keepDecoder(z *zstd.Decoder) {
	p.mu.Lock()
	defer p.mu.Unlock()
	if len(p.idleDecoders) < keptIdle {
		p.idleDecoders = append(p.idleDecoders, z)
		return
	}
	z.Close()
}

// Close gives back the contexts' memory. Nothing may be coded any more.
func (p *Pool) Close() {
	p.mu.Lock()
	for _, z := range p.idleDecoders {
		z.Close()
	}
	p.idleDecoders = nil
	p.mu.Unlock()
	p.decoder.Close()
	for i := range p.encoders {
		if e := p.encoders[i].Load(); e != nil {
			_ = e.Close() // nothing is buffered
		}
	}
}
