package transport

import (
	"bufio"
	"encoding/binary"
	"fmt"
	"io"
)

// Types of control records; docs/protocol.md, A2. Those with bit 0 clear may
// be skipped by who does not know them.
const (
	recHello  = 0x01
	recPing   = 0x03
	recPong   = 0x05
	recAck    = 0x07
	recMsg    = 0x09
	recMsgAck = 0x0b
	recGoAway = 0x0d
	recInfo   = 0x0e
)

// Kinds of session messages; docs/protocol.md, A4.
const (
	msgAbort = 1

	// KindCodec marks a codec message.
	KindCodec byte = 2
	// KindSite marks a message of the accel layer.
	KindSite byte = 3
)

// Keys of INFO records.
const (
	infoReceiveRate = 1 // bytes/s
	infoCreditFree  = 2 // bytes
)

// ackEntry is one entry of an ACK record.
type ackEntry struct {
	flow, next, credit uint64
}

func appendRecord(dst []byte, typ uint64, body []byte) []byte {
	dst = binary.AppendUvarint(dst, typ)
	dst = binary.AppendUvarint(dst, uint64(len(body)))
	return append(dst, body...)
}

func appendToken(dst []byte, typ, token uint64) []byte {
	dst = append(dst, byte(typ), 8)
	return binary.BigEndian.AppendUint64(dst, token)
}

func appendAck(body []byte, e ackEntry) []byte {
	body = binary.AppendUvarint(body, e.flow)
	body = binary.AppendUvarint(body, e.next)
	return binary.AppendUvarint(body, e.credit)
}

// parseAcks calls f for each entry of an ACK record's body.
func parseAcks(b []byte, f func(ackEntry) error) error {
	c := cursor{b: b}
	if len(b) == 0 {
		return malformed("empty ACK")
	}
	for len(c.b) > 0 {
		e := ackEntry{flow: c.uv(), next: c.uv(), credit: c.bounded(maxOffset, "credit above its bound")}
		if c.err != nil {
			break
		}
		if err := f(e); err != nil {
			return err
		}
	}
	return c.end()
}

// appendMsg appends a whole MSG record; m begins with its kind.
func appendMsg(dst []byte, seq uint64, m []byte) []byte {
	var tmp [binary.MaxVarintLen64]byte
	n := binary.PutUvarint(tmp[:], seq)
	dst = append(dst, recMsg)
	dst = binary.AppendUvarint(dst, uint64(n+len(m)))
	dst = append(dst, tmp[:n]...)
	return append(dst, m...)
}

// parseMsg splits a MSG record's body; m is part of b.
func parseMsg(b []byte) (seq uint64, m []byte, err error) {
	c := cursor{b: b}
	seq = c.uv()
	if c.err != nil {
		return 0, nil, c.end()
	}
	if len(c.b) == 0 {
		return 0, nil, malformed("message without a kind")
	}
	if len(c.b) > maxMessageBytes+1 {
		return 0, nil, malformed("message too long")
	}
	return seq, c.b, nil
}

func appendAbort(dst []byte, flow uint64, code AbortCode) []byte {
	dst = append(dst, msgAbort)
	dst = binary.AppendUvarint(dst, flow)
	return binary.AppendUvarint(dst, uint64(code))
}

// parseAbort reads an ABORT message after its kind.
func parseAbort(b []byte) (flow uint64, code AbortCode, err error) {
	c := cursor{b: b}
	flow, code = c.uv(), AbortCode(c.uv())
	return flow, code, c.end()
}

// parseUv reads a body that is one number.
func parseUv(b []byte) (uint64, error) {
	c := cursor{b: b}
	v := c.uv()
	return v, c.end()
}

func parseToken(b []byte) (uint64, error) {
	c := cursor{b: b}
	v := c.u64()
	return v, c.end()
}

func appendGoAway(dst []byte, code uint8, reason string) []byte {
	return appendRecord(dst, recGoAway, appendStr([]byte{code}, reason))
}

func parseGoAway(b []byte) (code uint8, reason string, err error) {
	c := cursor{b: b}
	code, reason = c.u8(), c.str()
	return code, reason, c.end()
}

func appendInfo(dst []byte, key, value uint64) []byte {
	body := binary.AppendUvarint(nil, key)
	return appendRecord(dst, recInfo, binary.AppendUvarint(body, value))
}

// parseInfo reads an INFO record. The value of an unknown key is not read.
func parseInfo(b []byte) (key, value uint64, err error) {
	c := cursor{b: b}
	key = c.uv()
	if c.err != nil {
		return 0, 0, c.end()
	}
	if key != infoReceiveRate && key != infoCreditFree {
		return key, 0, nil
	}
	value = c.uv()
	return key, value, c.end()
}

// recordReader takes records off a control stream.
type recordReader struct {
	r   *bufio.Reader
	buf []byte
}

func newRecordReader(r io.Reader) *recordReader {
	return &recordReader{r: bufio.NewReaderSize(r, 4096)}
}

// next returns the next record's type and body; the body is valid until the
// next call. Its buffer is at most maxRecordBytes long.
func (rr *recordReader) next() (typ uint64, body []byte, err error) {
	if typ, err = rr.uvarint(); err != nil {
		return 0, nil, err
	}
	length, err := rr.uvarint()
	if err != nil {
		return 0, nil, err
	}
	if length > maxRecordBytes {
		return 0, nil, malformed(fmt.Sprintf("record 0x%02x of %d bytes", typ, length))
	}
	n := int(length)
	if cap(rr.buf) < n {
		rr.buf = make([]byte, n, max(n, min(2*n, maxRecordBytes)))
	}
	rr.buf = rr.buf[:n]
	if _, err := io.ReadFull(rr.r, rr.buf); err != nil {
		return 0, nil, err
	}
	return typ, rr.buf, nil
}

// uvarint is binary.ReadUvarint with a malformed number told from the errors
// of the stream.
func (rr *recordReader) uvarint() (uint64, error) {
	var v uint64
	for i := range binary.MaxVarintLen64 {
		b, err := rr.r.ReadByte()
		if err != nil {
			return 0, err
		}
		if i == binary.MaxVarintLen64-1 && b > 1 {
			break
		}
		v |= uint64(b&0x7f) << (7 * i)
		if b < 0x80 {
			return v, nil
		}
	}
	return 0, malformed("record header above 64 bits")
}
