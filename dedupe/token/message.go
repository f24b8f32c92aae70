package token

import (
	"encoding/binary"
	"slices"
)

// Kind is the first byte of a codec message (protocol B5).
type Kind uint8

// Codec messages.
const (
	KindLog      Kind = 1
	KindHeld     Kind = 2
	KindReady    Kind = 3
	KindSeal     Kind = 4
	KindRetract  Kind = 5
	KindTail     Kind = 6
	KindTailAck  Kind = 7
	KindContexts Kind = 8
	KindNeed     Kind = 9
	KindBytes    Kind = 10
	KindNewLog   Kind = 11 // not spoken yet
)

// LogID names a log.
type LogID [16]byte

// Range is a run of blocks.
type Range struct{ First, Count uint64 }

// Short is a block held in part.
type Short struct {
	Block  uint64
	Length int
}

// Part is a stretch of a frame's raw bytes.
type Part struct{ Offset, Length int }

// Message is any codec message; Kind says which fields count.
type Message struct {
	Kind     Kind
	Which    uint8  // Log, Held: 0 the log the message's sender writes, 1 the other
	ID       LogID  // Log
	Writer   uint64 // Log: instance of the process that writes
	Tail     uint64 // Log, Tail, TailAck: a position
	Head     uint64 // Log: a position
	Ranges   []Range
	Shorts   []Short
	Block    uint64 // Seal
	Length   int    // Seal
	Contexts int
	Flow     uint64 // Need, Bytes
	Frame    uint64 // Need, Bytes
	Parts    []Part // Need: ascending, not overlapping
	Offset   int    // Bytes: in the frame's raw bytes
	Data     []byte // Bytes: part of the message; empty says that the frame is not kept
}

// maxBlock bounds block numbers as maxPosition bounds positions.
const maxBlock = maxPosition >> BlockShift

// Append appends the message as it goes over the wire.
func (m *Message) Append(dst []byte) []byte {
	dst = append(dst, byte(m.Kind))
	switch m.Kind {
	case KindLog:
		dst = append(dst, m.Which)
		dst = append(dst, m.ID[:]...)
		dst = binary.BigEndian.AppendUint64(dst, m.Writer)
		dst = binary.AppendUvarint(dst, m.Tail)
		dst = binary.AppendUvarint(dst, m.Head)
	case KindHeld:
		dst = append(dst, m.Which)
		dst = appendRanges(dst, m.Ranges)
		dst = binary.AppendUvarint(dst, uint64(len(m.Shorts)))
		for _, s := range m.Shorts {
			dst = binary.AppendUvarint(dst, s.Block)
			dst = binary.AppendUvarint(dst, uint64(s.Length))
		}
	case KindRetract:
		dst = appendRanges(dst, m.Ranges)
	case KindSeal:
		dst = binary.AppendUvarint(dst, m.Block)
		dst = binary.AppendUvarint(dst, uint64(m.Length))
	case KindTail, KindTailAck:
		dst = binary.AppendUvarint(dst, m.Tail)
	case KindContexts:
		dst = binary.AppendUvarint(dst, uint64(m.Contexts))
	case KindNeed:
		dst = binary.AppendUvarint(dst, m.Flow)
		dst = binary.AppendUvarint(dst, m.Frame)
		dst = binary.AppendUvarint(dst, uint64(len(m.Parts)))
		for _, p := range m.Parts {
			dst = binary.AppendUvarint(dst, uint64(p.Offset))
			dst = binary.AppendUvarint(dst, uint64(p.Length))
		}
	case KindBytes:
		dst = binary.AppendUvarint(dst, m.Flow)
		dst = binary.AppendUvarint(dst, m.Frame)
		dst = binary.AppendUvarint(dst, uint64(m.Offset))
		dst = append(dst, m.Data...)
	}
	return dst
}

func appendRanges(dst []byte, ranges []Range) []byte {
	dst = binary.AppendUvarint(dst, uint64(len(ranges)))
	for _, r := range ranges {
		dst = binary.AppendUvarint(dst, r.First)
		dst = binary.AppendUvarint(dst, r.Count)
	}
	return dst
}

// ParseMessage reads one message, all of src.
func ParseMessage(src []byte) (Message, error) {
	r := reader{b: src}
	m := Message{Kind: Kind(r.u8())}
	switch m.Kind {
	case KindLog:
		m.Which = r.which()
		copy(m.ID[:], r.bytes(len(m.ID)))
		m.Writer = r.u64()
		m.Tail = r.uvarint(maxPosition)
		m.Head = r.uvarint(maxPosition)
		if m.Tail > m.Head {
			return Message{}, fault("log whose tail lies above its head")
		}
	case KindHeld:
		m.Which = r.which()
		m.Ranges = r.ranges()
		// A short entry takes two bytes at least, so the message's own length bounds what is allocated.
		n := int(r.uvarint(uint64(min(MaxRanges, len(r.b)/2))))
		for range n {
			s := Short{r.uvarint(maxBlock), int(r.uvarint(BlockBytes))}
			if r.bad {
				break
			}
			m.Shorts = append(m.Shorts, s)
		}
	case KindReady:
	case KindSeal:
		m.Block = r.uvarint(maxBlock)
		m.Length = int(r.uvarint(BlockBytes))
	case KindRetract:
		m.Ranges = r.ranges()
	case KindTail, KindTailAck:
		m.Tail = r.uvarint(maxPosition)
	case KindContexts:
		m.Contexts = int(r.uvarint(1 << 16))
	case KindNeed:
		m.Flow, m.Frame = r.uvarint(^uint64(0)), r.uvarint(^uint64(0))
		m.Parts = r.parts()
	case KindBytes:
		m.Flow, m.Frame = r.uvarint(^uint64(0)), r.uvarint(^uint64(0))
		m.Offset = int(r.uvarint(MaxRawBytes))
		m.Data = r.bytes(min(len(r.b), MaxDataBytes)) // what is longer is left over, and refused
		r.bad = r.bad || m.Offset+len(m.Data) > MaxRawBytes
	default:
		return Message{}, fault("message of an unknown kind")
	}
	if r.bad || len(r.b) != 0 {
		return Message{}, fault("message")
	}
	return m, nil
}

func (r *reader) which() uint8 {
	w := r.u8()
	if w > logOfReceiver {
		r.bad = true
	}
	return w
}

// parts reads stretches of a frame that ascend and do not overlap.
func (r *reader) parts() (out []Part) {
	n := int(r.uvarint(uint64(min(MaxParts, len(r.b)/2))))
	out = slices.Grow(out, n)
	at := 0
	for range n {
		p := Part{int(r.uvarint(MaxRawBytes)), int(r.uvarint(MaxRawBytes))}
		if r.bad || p.Offset < at || p.Length == 0 || p.Offset+p.Length > MaxRawBytes {
			r.bad = true
			return nil
		}
		at = p.Offset + p.Length
		out = append(out, p)
	}
	return out
}

func (r *reader) ranges() (out []Range) {
	n := int(r.uvarint(uint64(min(MaxRanges, len(r.b)/2))))
	out = slices.Grow(out, n)
	for range n {
		x := Range{r.uvarint(maxBlock), r.uvarint(maxBlock)}
		if r.bad {
			return nil
		}
		out = append(out, x)
	}
	return out
}
