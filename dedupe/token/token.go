// Package token owns the codec's wire grammar: frame headers, copy tokens and control messages, as docs/protocol.md B2, B3 and B5 state them.
//
// It promises that parsing never allocates by a number the peer chose, never panics, and accepts exactly what appending writes (overlong
// varints aside). It knows nothing of logs, flows or zstd.
//
// Nouns: a copy is a run of consecutive log positions; a literal run is the bytes between two copies; a cursor is the state that tokens are
// relative to.
package token

import (
	"encoding/binary"
	"errors"
	"fmt"
)

// Limits of the grammar (protocol B2 to B5).
const (
	MaxRawBytes       = 1 << 18 // of a frame
	MaxStores         = 8
	MaxTokenRawBytes  = 1 << 20
	MaxRanges         = 4096
	MaxParts          = 1024  // of a NEED
	MaxDataBytes      = 64000 // of a BYTES
	BlockBytes        = 1 << 18
	BlockShift        = 18
	MaxMessageBytes   = 65000
	maxPosition       = 1 << 60 // far beyond any log; differences of positions keep two bits free for the token
	logOfReceiver     = 1
	logs              = 2
	minCopyTokenBytes = 3
)

// ErrGrammar is wrapped by every error of this package.
var ErrGrammar = errors.New("codec grammar")

// fault makes an ErrGrammar with the rule that was broken.
func fault(rule string) error { return fmt.Errorf("%w: %s", ErrGrammar, rule) }

// Zigzag maps a signed difference to an unsigned number, small ones to small ones.
func Zigzag(d int64) uint64 { return uint64(d<<1) ^ uint64(d>>63) }

// Unzigzag is the inverse of Zigzag.
func Unzigzag(u uint64) int64 { return int64(u>>1) ^ -int64(u&1) }

// reader takes fields off a byte slice and remembers the first fault.
type reader struct {
	b   []byte
	bad bool
}

func (r *reader) uvarint(limit uint64) uint64 {
	v, n := binary.Uvarint(r.b)
	if n <= 0 || v > limit {
		r.bad = true
		r.b = nil
		return 0
	}
	r.b = r.b[n:]
	return v
}

func (r *reader) bytes(n int) []byte {
	if n < 0 || n > len(r.b) {
		r.bad = true
		r.b = nil
		return nil
	}
	v := r.b[:n:n]
	r.b = r.b[n:]
	return v
}

func (r *reader) u8() uint8 {
	if b := r.bytes(1); b != nil {
		return b[0]
	}
	return 0
}

func (r *reader) u64() uint64 {
	if b := r.bytes(8); b != nil {
		return binary.BigEndian.Uint64(b)
	}
	return 0
}

// Copy is one token: Literal bytes of the literals, then Length bytes of a log from Position on.
type Copy struct {
	Literal, Length int
	Log             uint8
	Position        uint64
}

// Cursor is the state of a flow direction that positions are coded against (protocol B3). The zero value is the start of a direction.
type Cursor struct {
	expected [logs]uint64
	log      uint8
}

// Log is the log in use: that of the last copy.
func (c *Cursor) Log() uint8 { return c.log }

// Expected is the position at which the last copy would go on.
func (c *Cursor) Expected() uint64 { return c.expected[c.log] }

// Append appends the token of a copy and moves on.
func (c *Cursor) Append(dst []byte, t Copy) []byte {
	dst = binary.AppendUvarint(dst, uint64(t.Literal))
	dst = binary.AppendUvarint(dst, uint64(t.Length))
	x := Zigzag(int64(t.Position-c.expected[t.Log]-uint64(t.Literal))) << 1
	if t.Log != c.log {
		dst = binary.AppendUvarint(dst, x|1)
		dst = binary.AppendUvarint(dst, uint64(t.Log))
	} else {
		dst = binary.AppendUvarint(dst, x)
	}
	c.log = t.Log
	c.expected[t.Log] = t.Position + uint64(t.Length)
	return dst
}

// Next takes the next token off src and moves on.
func (c *Cursor) Next(src []byte) (t Copy, rest []byte, err error) {
	r := reader{b: src}
	t.Literal = int(r.uvarint(MaxRawBytes))
	t.Length = int(r.uvarint(MaxRawBytes))
	x := r.uvarint(^uint64(0))
	t.Log = c.log
	if x&1 != 0 {
		t.Log = uint8(r.uvarint(logs - 1))
	}
	if r.bad || t.Length == 0 {
		return Copy{}, nil, fault("token")
	}
	t.Position = c.expected[t.Log] + uint64(t.Literal) + uint64(Unzigzag(x>>1))
	c.log = t.Log
	c.expected[t.Log] = t.Position + uint64(t.Length)
	return t, r.b, nil
}

// Trail accounts for the literals behind a frame's last token: the position expected next moves on by as many bytes.
func (c *Cursor) Trail(n int) { c.expected[c.log] += uint64(n) }
