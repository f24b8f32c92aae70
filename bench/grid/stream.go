package grid

import (
	"bytes"
	"crypto/aes"
	"crypto/cipher"
	"encoding/binary"
	"errors"
	"fmt"
)

// ErrDiffers is wrapped when a byte arrived that was not the one sent.
var ErrDiffers = errors.New("bytes that arrived differ from those sent")

// chunkBytes is how much is made, sent and compared at a time.
const chunkBytes = 256 << 10

// stream makes the bytes of one flow: a key stream, so that nothing can be compressed or found again and both ends know all of it without
// having stored any. It is not for several goroutines.
type stream struct {
	cipher cipher.Stream
	at     int64
	zeros  []byte
	work   []byte
}

// newStream begins the stream of a number; different numbers give different bytes.
func newStream(number uint64) *stream {
	var key, start [aes.BlockSize]byte
	binary.BigEndian.PutUint64(key[:], number)
	block, err := aes.NewCipher(key[:])
	if err != nil {
		panic(err) // the length of the key is right
	}
	return &stream{cipher: cipher.NewCTR(block, start[:]), zeros: make([]byte, chunkBytes), work: make([]byte, chunkBytes)}
}

// next returns the next bytes, valid until the next call.
func (s *stream) next() []byte {
	s.cipher.XORKeyStream(s.work, s.zeros)
	s.at += int64(len(s.work))
	return s.work
}

// check compares the next bytes with what arrived: at most chunkBytes.
func (s *stream) check(arrived []byte) error {
	work := s.work[:len(arrived)]
	s.cipher.XORKeyStream(work, arrived)
	if !bytes.Equal(work, s.zeros[:len(arrived)]) {
		for i, b := range work {
			if b != 0 {
				return fmt.Errorf("%w: first at %d", ErrDiffers, s.at+int64(i))
			}
		}
	}
	s.at += int64(len(arrived))
	return nil
}
