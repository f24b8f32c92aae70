package chaos

import (
	"bytes"
	"encoding/binary"
	"fmt"
	"math/rand/v2"
)

// poolBytes is how much data transfers draw from: enough that not all of it is known to the gateways at once.
const poolBytes = 8 << 20

// newPool makes text that compresses like a program's source.
func newPool(seed uint64) []byte {
	rng := rand.New(rand.NewPCG(seed, 1))
	words := make([][]byte, 4096)
	for i := range words {
		words[i] = make([]byte, 2+rng.IntN(9))
		for k := range words[i] {
			words[i][k] = byte('a' + rng.IntN(26))
		}
	}
	pool := make([]byte, 0, poolBytes+16)
	for len(pool) < poolBytes {
		// Squared: the first words are the common ones.
		f := rng.Float64()
		pool = append(pool, words[int(f*f*float64(len(words)))]...)
		pool = append(pool, " \n"[rng.IntN(8)/7])
	}
	return pool[:poolBytes]
}

// content is an endless stream of known bytes. The same seed gives the same bytes, however they are read.
type content struct {
	rng  *rand.Rand
	pool []byte
	part []byte // what is left of the current part
	kind uint64
	own  [4096]byte
}

// Kinds of content: most of it repeats what other transfers had, with changes; some cannot be compressed; some is one long run.
const (
	repeated = iota
	random
	runs
)

func newContent(pool []byte, seed uint64) *content {
	c := &content{rng: rand.New(rand.NewPCG(seed, 2)), pool: pool}
	switch c.rng.IntN(8) {
	case 0:
		c.kind = random
	case 1:
		c.kind = runs
	}
	return c
}

// Read fills p; it never fails.
func (c *content) Read(p []byte) (int, error) {
	for n := 0; n < len(p); {
		if len(c.part) == 0 {
			c.next()
		}
		k := copy(p[n:], c.part)
		c.part, n = c.part[k:], n+k
	}
	return len(p), nil
}

func (c *content) next() {
	switch {
	case c.kind == repeated && c.rng.IntN(3) > 0:
		length := 1 << (6 + c.rng.IntN(13))
		from := c.rng.IntN(len(c.pool) - length)
		c.part = c.pool[from : from+length]
	case c.kind == runs && c.rng.IntN(4) > 0:
		length := 1 + c.rng.IntN(len(c.own))
		c.part = c.own[:length]
		fill := byte(c.rng.Uint32())
		for i := range c.part {
			c.part[i] = fill
		}
	default:
		length := 1 + c.rng.IntN(200)
		if c.kind == random {
			length = len(c.own)
		}
		for i := 0; i < length; i += 8 {
			binary.LittleEndian.PutUint64(c.own[i:i+8], c.rng.Uint64())
		}
		c.part = c.own[:length]
	}
}

// checker compares what arrives with what was sent.
type checker struct {
	want    *content
	total   int64 // what was announced
	at      int64 // what has arrived
	scratch []byte
}

// check takes the next bytes; an error says where they differ.
func (c *checker) check(p []byte) error {
	if c.at+int64(len(p)) > c.total {
		return fmt.Errorf("%w: %d bytes came of %d that were sent", errWrongByte, c.at+int64(len(p)), c.total)
	}
	if cap(c.scratch) < len(p) {
		c.scratch = make([]byte, len(p))
	}
	want := c.scratch[:len(p)]
	_, _ = c.want.Read(want)
	if !bytes.Equal(p, want) {
		i := 0
		for p[i] == want[i] {
			i++
		}
		upTo := min(len(p), i+32)
		return fmt.Errorf("%w: at %d of %d: got %x, sent was %x", errWrongByte, c.at+int64(i), c.total, p[i:upTo], want[i:upTo])
	}
	c.at += int64(len(p))
	return nil
}
