package transport

import (
	"encoding/binary"
	"errors"
	"fmt"
)

// frameKind is the first byte of every frame stream; docs/protocol.md, A5.
const frameKind = 0x10

// Flags of a frame.
const (
	flagOpen = 1 << 0
	flagFin  = 1 << 1
	flagAck  = 1 << 2
)

// maxFrameHeader bounds a frame header without its open body: kind, flags,
// three numbers of 10 bytes, raw length, next and credit of an acknowledgement,
// open body length and payload length (room for overlong encodings, which are
// accepted up to 10).
const maxFrameHeader = 2 + 3*10 + 5*10

// frameHeader is everything of a frame but its payload.
type frameHeader struct {
	open, fin  bool
	ack        bool // next and credit follow: an ACK entry of this flow
	flow       uint64
	number     uint64
	offset     uint64 // raw bytes of the direction before this frame
	rawLen     int
	ackNext    uint64 // only with ack
	ackCredit  uint64
	openBody   []byte // only with open; part of the input when parsed
	payloadLen int
}

// appendFrameHeader appends the header; the payload follows it on the wire.
func appendFrameHeader(dst []byte, h *frameHeader) []byte {
	var flags byte
	if h.open {
		flags |= flagOpen
	}
	if h.fin {
		flags |= flagFin
	}
	if h.ack {
		flags |= flagAck
	}
	dst = append(dst, frameKind, flags)
	dst = binary.AppendUvarint(dst, h.flow)
	dst = binary.AppendUvarint(dst, h.number)
	dst = binary.AppendUvarint(dst, h.offset)
	dst = binary.AppendUvarint(dst, uint64(h.rawLen))
	if h.ack {
		dst = binary.AppendUvarint(dst, h.ackNext)
		dst = binary.AppendUvarint(dst, h.ackCredit)
	}
	if h.open {
		dst = binary.AppendUvarint(dst, uint64(len(h.openBody)))
		dst = append(dst, h.openBody...)
	}
	return binary.AppendUvarint(dst, uint64(h.payloadLen))
}

// errUnknownKind says that a frame stream does not begin with frameKind.
var errUnknownKind = fmt.Errorf("%w: unknown kind of frame stream", ErrMalformed)

// parseFrameHeader reads a header from the front of b and says how long it is.
// It returns errShort when b ends inside of it.
func parseFrameHeader(b []byte) (h frameHeader, n int, err error) {
	c := cursor{b: b}
	if kind := c.u8(); c.err == nil && kind != frameKind {
		return h, 0, errUnknownKind
	}
	flags := c.u8()
	if flags&^(flagOpen|flagFin|flagAck) != 0 {
		return h, 0, malformed("unknown frame flags")
	}
	h.open, h.fin, h.ack = flags&flagOpen != 0, flags&flagFin != 0, flags&flagAck != 0
	h.flow = c.uv()
	h.number = c.bounded(maxOffset, "frame number above its bound")
	h.offset = c.bounded(maxOffset, "raw offset above its bound")
	h.rawLen = int(c.bounded(maxRawLength, "raw length above its bound"))
	if h.ack {
		h.ackNext, h.ackCredit = c.uv(), c.bounded(maxOffset, "credit above its bound")
	}
	if h.open {
		h.openBody = c.bytes(c.bounded(maxOpenBody, "open body above its bound"))
	}
	h.payloadLen = int(c.bounded(maxPayload, "payload above its bound"))
	if c.err != nil {
		if errors.Is(c.err, errShort) {
			return frameHeader{}, 0, errShort
		}
		return frameHeader{}, 0, c.err
	}
	return h, len(b) - len(c.b), h.check()
}

// check applies the rules of A5 that need no state.
func (h *frameHeader) check() error {
	switch {
	case h.open && h.number != 0:
		return malformed("OPEN in a later frame")
	case h.number == 0 && !h.open:
		return malformed("first frame without OPEN")
	case h.number == 0 && h.offset != 0:
		return malformed("first frame with an offset")
	case h.rawLen == 0 && !h.open && !h.fin:
		return malformed("empty frame")
	case h.payloadLen == 0 && (h.rawLen > 0 || h.fin):
		return malformed("frame without its payload")
	case h.payloadLen > h.rawLen+payloadSlack:
		return malformed("payload too long for its raw length")
	}
	return nil
}
