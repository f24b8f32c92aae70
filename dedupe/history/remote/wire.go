package remote

import (
	"encoding/binary"
	"errors"
	"fmt"
	"io"
	"strings"

	"wanpair/dedupe/history"
)

// A frame, all integers big-endian:
//
//	0  length of the body, u32
//	4  kind, u8
//	5  id of the call, u64; 0 when nothing is called
//	13 the body
//
// Both ends are the same program, so there is no version to agree on and every surprise is an error.
const (
	frameHeader = 13
	maxBody     = 5 << 20 // a block with one anchor per byte: 256 KiB + 2 MiB; an answer of anchor records: 4 MiB
	maxPath     = 4096
	maxReason   = 1024
	maxDiscards = 64
	maxExtents  = 1 << 16 // of one log
)

// kind says what a frame is.
type kind uint8

// Requests.
const (
	kindOpen kind = 1 + iota
	kindLogs
	kindGet
	kindPut
	kindNote
	kindLengths
	kindAnchors
	kindPing
	kindClose
)

// Answers. Each begins with a status record.
const (
	kindDone     kind = 64 + iota // body: nothing
	kindOpened                    // two states
	kindBlock                     // next, scope, bytes
	kindHoldings                  // list
	kindRecords                   // next, records
	kindFailed                    // code, reason
	kindStatus                    // of its own accord, id 0
)

// ErrFrame means that the other end of the socket does not speak this protocol.
var ErrFrame = errors.New("malformed frame between gateway and store")

// header is a frame's first bytes.
type header struct {
	kind   kind
	id     uint64
	length int
}

func (h header) append(b []byte) []byte {
	b = binary.BigEndian.AppendUint32(b, uint32(h.length))
	b = append(b, byte(h.kind))
	return binary.BigEndian.AppendUint64(b, h.id)
}

// readFrame reads one frame. The body is in buf when it fits.
func readFrame(r io.Reader, buf []byte) (header, []byte, error) {
	var b [frameHeader]byte
	if _, err := io.ReadFull(r, b[:]); err != nil {
		return header{}, nil, err
	}
	h := header{kind(b[4]), binary.BigEndian.Uint64(b[5:]), int(binary.BigEndian.Uint32(b[:4]))}
	if h.length > maxBody {
		return h, nil, fmt.Errorf("%w: body of %d bytes", ErrFrame, h.length)
	}
	if cap(buf) < h.length {
		buf = make([]byte, h.length)
	}
	buf = buf[:h.length]
	_, err := io.ReadFull(r, buf)
	return h, buf, err
}

// reader takes a body apart. After the first fault everything is zero.
type reader struct {
	b   []byte
	bad bool
}

func (r *reader) bytes(n int) []byte {
	if n < 0 || n > len(r.b) {
		r.bad, r.b = true, nil
		return nil
	}
	out := r.b[:n:n]
	r.b = r.b[n:]
	return out
}

func (r *reader) u8() uint8 {
	if b := r.bytes(1); b != nil {
		return b[0]
	}
	return 0
}

func (r *reader) u32() uint32 {
	if b := r.bytes(4); b != nil {
		return binary.BigEndian.Uint32(b)
	}
	return 0
}

func (r *reader) u64() uint64 {
	if b := r.bytes(8); b != nil {
		return binary.BigEndian.Uint64(b)
	}
	return 0
}

// count reads a number of entries of at least size bytes each, no more than limit and no more than can be there.
func (r *reader) count(size, limit int) int {
	n := int(r.u32())
	if n > limit || n*size > len(r.b) {
		r.bad, r.b = true, nil
		return 0
	}
	return n
}

// text reads a length-prefixed string.
func (r *reader) text(limit int) string { return string(r.bytes(r.count(1, limit))) }

func (r *reader) key() history.Key {
	k := history.Key{Log: r.u8(), Number: r.u64()}
	r.bad = r.bad || k.Log > 1 || k.Number >= 1<<(64-history.BlockShift)
	return k
}

func (r *reader) extent() history.Extent {
	x := history.Extent{Log: r.u8(), First: r.u64(), Count: r.u64()}
	r.bad = r.bad || !x.Valid()
	return x
}

func (r *reader) states() (logs [2]history.State) {
	for i := range logs {
		copy(logs[i].ID[:], r.bytes(len(logs[i].ID)))
		logs[i].Tail, logs[i].Head = r.u64(), r.u64()
		r.bad = r.bad || logs[i].Tail > logs[i].Head
	}
	return logs
}

// end reports a body that was too short, too long or impossible.
func (r *reader) end() error {
	if r.bad || len(r.b) > 0 {
		return ErrFrame
	}
	return nil
}

func appendText(b []byte, s string, limit int) []byte {
	s = s[:min(len(s), limit)]
	return append(binary.BigEndian.AppendUint32(b, uint32(len(s))), s...)
}

func appendKey(b []byte, k history.Key) []byte {
	return binary.BigEndian.AppendUint64(append(b, k.Log), k.Number)
}

func appendExtent(b []byte, x history.Extent) []byte {
	b = binary.BigEndian.AppendUint64(append(b, x.Log), x.First)
	return binary.BigEndian.AppendUint64(b, x.Count)
}

func appendStates(b []byte, logs [2]history.State) []byte {
	for _, l := range logs {
		b = append(b, l.ID[:]...)
		b = binary.BigEndian.AppendUint64(b, l.Tail)
		b = binary.BigEndian.AppendUint64(b, l.Head)
	}
	return b
}

// request is any request; which fields count follows from the kind.
type request struct {
	kind   kind
	open   openRequest
	logs   [2]history.State
	key    history.Key
	length int
	block  history.Sealed
	extent history.Extent
	from   uint64
}

// openRequest is what a child must know.
type openRequest struct {
	cfg     history.EpochsConfig
	known   bool             // logs is what the directory must agree with; otherwise the child says what it finds
	logs    [2]history.State // see known
	discard []history.Extent // epochs that killed a child before
}

// append appends the request's body, without a block's data and anchors (see blockHead).
func (q *request) append(b []byte) []byte {
	switch q.kind {
	case kindOpen:
		o := &q.open
		b = appendText(b, o.cfg.Dir, maxPath)
		b = binary.BigEndian.AppendUint64(b, uint64(o.cfg.SizeBytes))
		b = binary.BigEndian.AppendUint64(b, o.cfg.BlocksPerEpoch)
		b = binary.BigEndian.AppendUint64(b, o.cfg.Writer)
		b = appendText(b, string(o.cfg.Key), history.KeyBytes)
		known := byte(0)
		if o.known {
			known = 1
		}
		b = appendStates(append(b, known), o.logs)
		list := o.discard[:min(len(o.discard), maxDiscards)]
		b = binary.BigEndian.AppendUint32(b, uint32(len(list)))
		for _, x := range list {
			b = appendExtent(b, x)
		}
	case kindLogs:
		b = appendStates(b, q.logs)
	case kindGet:
		b = appendKey(b, q.key)
	case kindPut:
		b = appendKey(b, q.block.Key)
		b = binary.BigEndian.AppendUint64(b, q.block.Next)
		b = binary.BigEndian.AppendUint32(b, q.block.Scope)
		b = binary.BigEndian.AppendUint32(b, uint32(len(q.block.Anchors)))
		for _, v := range q.block.Anchors {
			b = binary.BigEndian.AppendUint64(b, v)
		}
		b = binary.BigEndian.AppendUint32(b, uint32(len(q.block.Data)))
		b = append(b, q.block.Data...)
	case kindNote:
		b = binary.BigEndian.AppendUint32(appendKey(b, q.key), uint32(q.length))
	case kindLengths, kindAnchors:
		b = binary.BigEndian.AppendUint64(appendExtent(b, q.extent), q.from)
	default: // no body
	}
	return b
}

// parseRequest reads a request. A block's data points into body.
func parseRequest(k kind, body []byte) (*request, error) {
	q := &request{kind: k}
	r := &reader{b: body}
	switch k {
	case kindOpen:
		o := &q.open
		o.cfg.Dir = r.text(maxPath)
		o.cfg.SizeBytes = int64(r.u64())
		o.cfg.BlocksPerEpoch = r.u64()
		o.cfg.Writer = r.u64()
		if key := r.text(history.KeyBytes); key != "" {
			o.cfg.Key = []byte(key)
			r.bad = r.bad || len(key) != history.KeyBytes
		}
		o.known = r.u8() == 1
		o.logs = r.states()
		for range r.count(17, maxDiscards) {
			o.discard = append(o.discard, r.extent())
		}
		r.bad = r.bad || o.cfg.SizeBytes < 0 || o.cfg.Dir == ""
	case kindLogs:
		q.logs = r.states()
	case kindGet:
		q.key = r.key()
	case kindPut:
		q.block.Key = r.key()
		q.block.Next = r.u64()
		q.block.Scope = r.u32()
		n := r.count(8, history.BlockBytes)
		q.block.Anchors = make([]uint64, 0, n)
		for range n {
			q.block.Anchors = append(q.block.Anchors, r.u64())
		}
		q.block.Data = r.bytes(r.count(1, history.BlockBytes))
		r.bad = r.bad || len(q.block.Data) == 0
	case kindNote:
		q.key = r.key()
		q.length = int(r.u32())
		r.bad = r.bad || q.length > history.BlockBytes
	case kindLengths, kindAnchors:
		q.extent = r.extent()
		q.from = r.u64()
		r.bad = r.bad || q.from > 1<<62
	case kindPing, kindClose:
	default:
		return nil, fmt.Errorf("%w: request kind %d", ErrFrame, k)
	}
	return q, r.end()
}

// Codes of a failure.
const (
	codeAbsent      = 1 + iota // history.ErrAbsent
	codeNoRoom                 // history.ErrNoRoom
	codeLocked                 // history.ErrLocked
	codeConfig                 // the directory cannot be, whatever is tried
	codeUnavailable            // anything else
)

// errConfig is wrapped by what a child says of a directory that the operator has to see to.
var errConfig = errors.New("cache directory")

// codes maps errors to codes; the first that fits counts.
func codes() []struct {
	err  error
	code uint8
} {
	return []struct {
		err  error
		code uint8
	}{
		{history.ErrAbsent, codeAbsent},
		{history.ErrNoRoom, codeNoRoom},
		{history.ErrLocked, codeLocked},
		{errConfig, codeConfig},
		{history.ErrUnavailable, codeUnavailable},
	}
}

// failure turns an error into a code.
func failure(err error) uint8 {
	for _, c := range codes() {
		if errors.Is(err, c.err) {
			return c.code
		}
	}
	return codeUnavailable
}

// repeated is an error of the child with its text.
type repeated struct {
	text string
	err  error
}

func (r *repeated) Error() string { return r.text }
func (r *repeated) Unwrap() error { return r.err }

// failed is the inverse.
func failed(code uint8, reason string) error {
	for _, c := range codes() {
		if c.code == code {
			if strings.Contains(reason, c.err.Error()) {
				return &repeated{reason, c.err} // the child's error says it already
			}
			return fmt.Errorf("%w: %s", c.err, reason)
		}
	}
	return fmt.Errorf("%w: %s", history.ErrUnavailable, reason)
}

// answer is any answer; which fields count follows from the kind.
type answer struct {
	kind     kind
	bytes    int64
	full     bool
	moved    bool // extents follow: they changed since the last answer
	extents  [2][]history.Extent
	logs     [2]history.State
	next     uint64
	scope    uint32 // of a block
	data     []byte // block or records
	holdings []history.Holding
	code     uint8
	reason   string
}

// append appends the body, without data, which ends it.
func (a *answer) append(b []byte) []byte {
	b = binary.BigEndian.AppendUint64(b, uint64(a.bytes))
	flags := byte(0)
	if a.full {
		flags |= 1
	}
	if a.moved {
		flags |= 2
	}
	b = append(b, flags)
	if a.moved {
		for _, list := range a.extents {
			b = binary.BigEndian.AppendUint32(b, uint32(len(list)))
			for _, x := range list {
				b = appendExtent(b, x)
			}
		}
	}
	switch a.kind {
	case kindOpened:
		b = appendStates(b, a.logs)
	case kindBlock, kindRecords:
		b = binary.BigEndian.AppendUint64(b, a.next)
		if a.kind == kindBlock {
			b = binary.BigEndian.AppendUint32(b, a.scope)
		}
		b = binary.BigEndian.AppendUint32(b, uint32(len(a.data)))
	case kindHoldings:
		b = binary.BigEndian.AppendUint64(b, a.next)
		b = binary.BigEndian.AppendUint32(b, uint32(len(a.holdings)))
		for _, h := range a.holdings {
			b = binary.BigEndian.AppendUint32(b, uint32(h.Number-a.next))
			b = binary.BigEndian.AppendUint32(b, uint32(h.Length))
		}
	case kindFailed:
		b = appendText(append(b, a.code), a.reason, maxReason)
	default: // the status is all
	}
	return b
}

// parseAnswer reads an answer. Data points into body.
func parseAnswer(k kind, body []byte) (*answer, error) {
	a := &answer{kind: k}
	r := &reader{b: body}
	a.bytes = int64(r.u64())
	flags := r.u8()
	a.full, a.moved = flags&1 != 0, flags&2 != 0
	r.bad = r.bad || flags > 3
	if a.moved {
		for log := range a.extents {
			n := r.count(17, maxExtents)
			a.extents[log] = make([]history.Extent, 0, n)
			for range n {
				x := r.extent()
				r.bad = r.bad || int(x.Log) != log
				a.extents[log] = append(a.extents[log], x)
			}
		}
	}
	switch k {
	case kindDone, kindStatus:
	case kindOpened:
		a.logs = r.states()
	case kindBlock:
		a.next = r.u64()
		a.scope = r.u32()
		a.data = r.bytes(r.count(1, history.BlockBytes))
		r.bad = r.bad || len(a.data) == 0
	case kindRecords:
		a.next = r.u64()
		a.data = r.bytes(r.count(1, history.MaxAnchorBytes))
		r.bad = r.bad || a.next > 1<<62
	case kindHoldings:
		a.next = r.u64()
		n := r.count(8, history.MaxHoldings)
		a.holdings = make([]history.Holding, 0, n)
		for range n {
			h := history.Holding{Number: a.next + uint64(r.u32()), Length: int(r.u32())}
			r.bad = r.bad || h.Length == 0 || h.Length > history.BlockBytes
			a.holdings = append(a.holdings, h)
		}
	case kindFailed:
		a.code = r.u8()
		a.reason = r.text(maxReason)
	default:
		return nil, fmt.Errorf("%w: answer kind %d", ErrFrame, k)
	}
	return a, r.end()
}
