package token

import "encoding/binary"

// LiteralMode says how a frame's literals are coded (protocol B4).
type LiteralMode uint8

// Literal modes.
const (
	Raw            LiteralMode = 0
	Zstd           LiteralMode = 1
	StreamContinue LiteralMode = 2
	StreamBegin    LiteralMode = 3
)

// Again says which copies of a frame are stored again.
type Again uint8

// Values of Again.
const (
	AgainNone   Again = 0
	AgainAll    Again = 1
	AgainBitmap Again = 2
)

// Flag bits of a frame's first byte.
const (
	flagEnd        = 1 << 0
	flagStore      = 1 << 1
	literalShift   = 2
	flagTokensZstd = 1 << 4
	againShift     = 5
	flagCloses     = 1 << 7
)

// Store is a place in log 0 for stored bytes.
type Store struct {
	Position uint64
	Length   int
}

// Header is what stands before a frame's tokens.
type Header struct {
	End             bool // the last frame of its direction: TotalBytes and TotalHash count
	TokensZstd      bool
	ContextCloses   bool // the sender's streaming context ends with this frame
	Literals        LiteralMode
	Again           Again
	RawBytes        int
	Checksum        uint64 // xxHash64 of the raw bytes
	Stores          []Store
	Copies          int
	TokenBytes      int // on the wire
	TokenRawBytes   int // equal to TokenBytes unless TokensZstd
	LiteralRawBytes int
	LiteralBytes    int // on the wire
	TotalBytes      uint64
	TotalHash       uint64
}

// BitmapBytes is the length of the bitmap between tokens and literals.
func (h *Header) BitmapBytes() int {
	if h.Again != AgainBitmap {
		return 0
	}
	return (h.Copies + 7) / 8
}

// AppendHeader appends the header.
func AppendHeader(dst []byte, h *Header) []byte {
	f := byte(h.Literals)<<literalShift | byte(h.Again)<<againShift
	if h.End {
		f |= flagEnd
	}
	if len(h.Stores) > 0 {
		f |= flagStore
	}
	if h.TokensZstd {
		f |= flagTokensZstd
	}
	if h.ContextCloses {
		f |= flagCloses
	}
	dst = append(dst, f)
	dst = binary.AppendUvarint(dst, uint64(h.RawBytes))
	dst = binary.BigEndian.AppendUint64(dst, h.Checksum)
	if len(h.Stores) > 0 {
		dst = binary.AppendUvarint(dst, uint64(len(h.Stores)))
		for _, s := range h.Stores {
			dst = binary.AppendUvarint(dst, s.Position)
			dst = binary.AppendUvarint(dst, uint64(s.Length))
		}
	}
	dst = binary.AppendUvarint(dst, uint64(h.Copies))
	dst = binary.AppendUvarint(dst, uint64(h.TokenBytes))
	if h.TokensZstd {
		dst = binary.AppendUvarint(dst, uint64(h.TokenRawBytes))
	}
	dst = binary.AppendUvarint(dst, uint64(h.LiteralRawBytes))
	dst = binary.AppendUvarint(dst, uint64(h.LiteralBytes))
	if h.End {
		dst = binary.BigEndian.AppendUint64(dst, h.TotalBytes)
		dst = binary.BigEndian.AppendUint64(dst, h.TotalHash)
	}
	return dst
}

// Frame is a parsed payload; the slices point into it.
type Frame struct {
	Header
	Tokens, Bitmap, Literal []byte
	stores                  [MaxStores]Store
}

// Parse takes a payload apart and checks every length against the others. f is overwritten.
func (f *Frame) Parse(payload []byte) error {
	r := reader{b: payload}
	flags := r.u8()
	f.Header = Header{
		End: flags&flagEnd != 0, TokensZstd: flags&flagTokensZstd != 0, ContextCloses: flags&flagCloses != 0,
		Literals: LiteralMode(flags >> literalShift & 3), Again: Again(flags >> againShift & 3),
	}
	if f.Again > AgainBitmap {
		return fault("copies stored again: value 3")
	}
	f.RawBytes = int(r.uvarint(MaxRawBytes))
	f.Checksum = r.u64()
	if flags&flagStore != 0 {
		n := int(r.uvarint(MaxStores))
		sum := 0
		for i := range n {
			s := Store{r.uvarint(maxPosition), int(r.uvarint(BlockBytes))}
			if s.Length == 0 || s.Position%BlockBytes+uint64(s.Length) > BlockBytes {
				return fault("store entry empty or over its block's end")
			}
			sum += s.Length
			f.stores[i] = s
		}
		if n == 0 || sum > f.RawBytes {
			return fault("store list empty or longer than the frame")
		}
		f.Stores = f.stores[:n]
	}
	f.Copies = int(r.uvarint(uint64(f.RawBytes/4 + 1)))
	f.TokenBytes = int(r.uvarint(uint64(len(payload))))
	f.TokenRawBytes = f.TokenBytes
	if f.TokensZstd {
		f.TokenRawBytes = int(r.uvarint(MaxTokenRawBytes))
	}
	f.LiteralRawBytes = int(r.uvarint(uint64(f.RawBytes)))
	f.LiteralBytes = int(r.uvarint(uint64(len(payload))))
	if f.End {
		f.TotalBytes = r.u64()
		f.TotalHash = r.u64()
	}
	f.Tokens = r.bytes(f.TokenBytes)
	f.Bitmap = r.bytes(f.BitmapBytes())
	f.Literal = r.bytes(f.LiteralBytes)
	switch {
	case r.bad:
		return fault("frame header")
	case len(r.b) != 0:
		return fault("bytes behind the frame")
	case f.TokenRawBytes < f.Copies*minCopyTokenBytes:
		return fault("fewer token bytes than copies need")
	case f.Literals == Raw && f.LiteralBytes != f.LiteralRawBytes:
		return fault("raw literals of two lengths")
	}
	return nil
}
