package peer

import "sync"

// buffers lends the scratch of encoders and the segments of decoders. Segments come in size classes, so that many small segments queued
// for a stalled reader hold about the memory their bytes have credit for.
type buffers struct {
	frames  sync.Pool
	classes [len(classBytes)]sync.Pool
}

var classBytes = [...]int{16 << 10, 64 << 10, 256 << 10}

func (b *buffers) frame() *[]byte {
	if p, ok := b.frames.Get().(*[]byte); ok {
		return p
	}
	return new([]byte)
}

func (b *buffers) putFrame(p *[]byte) { b.frames.Put(p) }

// segment returns an empty slice with room for n bytes.
func (b *buffers) segment(n int) []byte {
	if n <= classBytes[0]/4 {
		return make([]byte, 0, n)
	}
	for i, size := range classBytes {
		if n <= size {
			if p, ok := b.classes[i].Get().(*[]byte); ok {
				return (*p)[:0]
			}
			return make([]byte, 0, size)
		}
	}
	return make([]byte, 0, n)
}

// putSegment takes a slice of segment back.
func (b *buffers) putSegment(s []byte) {
	for i, size := range classBytes {
		if cap(s) == size {
			s = s[:0]
			b.classes[i].Put(&s)
			return
		}
	}
}
