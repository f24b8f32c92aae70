package transport

import (
	"encoding/binary"
	"errors"
	"fmt"
	"net/netip"
)

// Limits of the wire, docs/protocol.md. Every one is checked before anything
// is allocated for what it bounds.
const (
	maxRecordBytes   = 65536  // A2: body of a control record
	maxStrBytes      = 1024   // notation: str
	maxPrefixes      = 256    // A3: prefixes and addresses, each field
	maxRawLength     = 262144 // A5: raw bytes of a frame
	maxOpenBody      = 4096   // A5: open body
	maxPayload       = 266240 // A5: payload of a frame
	payloadSlack     = 4096   // A5: payload beyond the raw length; maxPayload = maxRawLength + payloadSlack
	maxEarlyFrames   = 4096   // A5: frames of a flow that wait for an earlier one
	maxEarlyMessages = 4096   // A4
	maxEarlyMsgBytes = 16 << 20
	maxInitialCredit = 16 << 20 // A3: key 11
	maxMessageBytes  = 65000    // A4: a CODEC message, without its kind byte
	maxOffset        = 1 << 62  // offsets and credits beyond are malformed, so that sums cannot wrap
)

// MaxRawLength is the largest number of raw bytes one frame may stand for.
const MaxRawLength = maxRawLength

// MaxPayload is the largest payload of a frame that stands for rawLen bytes.
func MaxPayload(rawLen int) int { return rawLen + payloadSlack }

// errShort says that the input ends before the value does.
var errShort = errors.New("input ends early")

func malformed(what string) error { return fmt.Errorf("%w: %s", ErrMalformed, what) }

// cursor takes values from the front of b; after the first error every take
// returns zero and the error stays.
type cursor struct {
	b   []byte
	err error
}

func (c *cursor) fail(err error) {
	if c.err == nil {
		c.err = err
	}
	c.b = nil
}

func (c *cursor) u8() uint8 {
	if len(c.b) < 1 {
		c.fail(errShort)
		return 0
	}
	v := c.b[0]
	c.b = c.b[1:]
	return v
}

func (c *cursor) u64() uint64 {
	if len(c.b) < 8 {
		c.fail(errShort)
		return 0
	}
	v := binary.BigEndian.Uint64(c.b)
	c.b = c.b[8:]
	return v
}

func (c *cursor) uv() uint64 {
	v, n := binary.Uvarint(c.b)
	switch {
	case n > 0:
		c.b = c.b[n:]
		return v
	case n == 0:
		c.fail(errShort)
	default:
		c.fail(malformed("number above 64 bits"))
	}
	return 0
}

// bounded takes a number that must not exceed limit.
func (c *cursor) bounded(limit uint64, what string) uint64 {
	v := c.uv()
	if v > limit {
		c.fail(malformed(what))
		return 0
	}
	return v
}

// bytes takes n bytes; the result is part of the input.
func (c *cursor) bytes(n uint64) []byte {
	if uint64(len(c.b)) < n {
		c.fail(errShort)
		return nil
	}
	v := c.b[:n:n]
	c.b = c.b[n:]
	return v
}

func (c *cursor) str() string {
	return string(c.bytes(c.bounded(maxStrBytes, "string too long")))
}

func (c *cursor) addrOfFamily(family uint8) netip.Addr {
	switch family {
	case 4:
		if b := c.bytes(4); b != nil {
			return netip.AddrFrom4([4]byte(b))
		}
	case 6:
		if b := c.bytes(16); b != nil {
			return netip.AddrFrom16([16]byte(b))
		}
	default:
		c.fail(malformed("unknown address family"))
	}
	return netip.Addr{}
}

func (c *cursor) addr() netip.Addr { return c.addrOfFamily(c.u8()) }

func (c *cursor) prefix() netip.Prefix {
	family, bits := c.u8(), c.u8()
	a := c.addrOfFamily(family)
	if c.err != nil {
		return netip.Prefix{}
	}
	if int(bits) > a.BitLen() {
		c.fail(malformed("prefix longer than its address"))
		return netip.Prefix{}
	}
	return netip.PrefixFrom(a, int(bits))
}

// end returns the error so far, or one when input is left over.
func (c *cursor) end() error {
	if c.err == nil && len(c.b) > 0 {
		return malformed("bytes left over")
	}
	if errors.Is(c.err, errShort) {
		return fmt.Errorf("%w: %w", ErrMalformed, errShort)
	}
	return c.err
}

func appendStr(dst []byte, s string) []byte {
	if len(s) > maxStrBytes {
		s = s[:maxStrBytes]
	}
	dst = binary.AppendUvarint(dst, uint64(len(s)))
	return append(dst, s...)
}

func appendAddr(dst []byte, a netip.Addr) []byte {
	a = a.Unmap()
	dst = append(dst, family(a))
	return append(dst, a.AsSlice()...)
}

func appendPrefix(dst []byte, p netip.Prefix) []byte {
	a, bits := p.Addr(), p.Bits()
	if a.Is4In6() && bits >= 96 {
		a, bits = a.Unmap(), bits-96
	}
	dst = append(dst, family(a), byte(bits))
	return append(dst, a.AsSlice()...)
}

func family(a netip.Addr) byte {
	if a.Is4() {
		return 4
	}
	return 6
}
