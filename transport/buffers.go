package transport

import (
	"math/bits"
	"sync"
)

// buffers lends byte slices in size classes: powers of two from 512 bytes to
// 256 KiB and one that holds the largest frame, so that a kept frame costs at
// most twice its size.
type buffers struct {
	class [largestClass + 1]sync.Pool
}

const (
	minBufferBits = 9
	largestClass  = 10
	// largestBuffer is the largest header, open body and payload, rounded up
	// to pages.
	largestBuffer = (maxFrameHeader + maxOpenBody + maxPayload + 8191) / 8192 * 8192
)

// bufferClass returns the class for n bytes and the size of its slices.
func bufferClass(n int) (class, size int) {
	class = max(0, bits.Len(uint(n-1))-minBufferBits)
	if class >= largestClass {
		return largestClass, largestBuffer
	}
	return class, 1 << (class + minBufferBits)
}

// get returns a slice of length n, at most largestBuffer. Its content is
// undefined.
func (p *buffers) get(n int) []byte {
	if n == 0 {
		return nil
	}
	class, size := bufferClass(n)
	if b, ok := p.class[class].Get().(*[]byte); ok {
		return (*b)[:n]
	}
	return make([]byte, n, size)
}

// put takes back what get lent. Slices of other origin are dropped.
func (p *buffers) put(b []byte) {
	n := cap(b)
	if n == 0 {
		return
	}
	class, size := bufferClass(n)
	if n != size {
		return
	}
	b = b[:n]
	p.class[class].Put(&b)
}
