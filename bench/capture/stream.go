package capture

import (
	"container/list"
	"errors"
	"io"
	"net/netip"
	"slices"
	"time"
)

// Limits bound what a capture may cost. Zero values are defaults.
type Limits struct {
	// Streams kept at a time; the one idle longest ends when there are more. Default 65536.
	Streams int
	// StreamBytes out of order kept for one stream, TotalBytes for all; what waits for is then given up. Defaults 1 MiB, 64 MiB.
	StreamBytes, TotalBytes int
}

func (l Limits) withDefaults() Limits {
	for _, d := range []struct {
		value *int
		or    int
	}{{&l.Streams, 1 << 16}, {&l.StreamBytes, 1 << 20}, {&l.TotalBytes, 64 << 20}} {
		if *d.value <= 0 {
			*d.value = d.or
		}
	}
	return l
}

// Stream is one direction of a connection.
type Stream struct {
	// ID is different for every stream of a capture.
	ID       uint64
	From, To netip.AddrPort
	// ServerPort is the port that was connected to; where the capture began later, the lower one.
	ServerPort uint16
	// Data is for whoever handles the stream.
	Data any

	next     uint32 // sequence number awaited
	known    bool   // next is valid
	waiting  []held // by sequence number
	held     int    // bytes in waiting
	finished bool
	place    *list.Element
}

type held struct {
	seq    uint32
	data   []byte
	length int
}

// Handler gets what is in a capture. An error ends the reading.
type Handler interface {
	// Bytes are the next ones of a stream, seen at a time since 1970; b is valid until the call returns.
	Bytes(s *Stream, at time.Duration, b []byte) error
	// Gap means that bytes are missing here.
	Gap(s *Stream, bytes int64) error
	// End comes once, when the stream has ended or is forgotten.
	End(s *Stream) error
}

// Summary counts what was in a capture.
type Summary struct {
	Packets      int64
	OtherPackets int64 // no TCP, fragments, link types not known
	Connections  int64
	Bytes        int64 // of streams, handed on
	MissingBytes int64 // in gaps
	RepeatBytes  int64 // retransmitted
	// Damaged is why the reading ended before the end of the file; nil when it did not.
	Damaged error
}

type streamKey struct{ from, to netip.AddrPort }

// assembler puts streams together.
type assembler struct {
	limits  Limits
	handler Handler
	streams map[streamKey]*Stream
	recent  *list.List // of *Stream, the one used last in front
	held    int
	nextID  uint64
	sum     Summary
}

// Read reads a capture to its end. A file that is damaged in the middle gives what is before, with Summary.Damaged set; the error is only
// about files that are no captures, and the handler's own.
func Read(r io.Reader, limits Limits, handler Handler) (Summary, error) {
	f, err := openFile(r)
	if err != nil {
		return Summary{}, err
	}
	a := &assembler{limits: limits.withDefaults(), handler: handler, streams: map[streamKey]*Stream{}, recent: list.New()}
	for {
		p, err := f.next()
		if errors.Is(err, io.EOF) && !errors.Is(err, ErrFormat) {
			break
		}
		if err != nil {
			a.sum.Damaged = err
			break
		}
		a.sum.Packets++
		s, ok := parse(network(p.linkType, p.data))
		if !ok {
			a.sum.OtherPackets++
			continue
		}
		if err := a.segment(s, p.at); err != nil {
			return a.sum, err
		}
	}
	for a.recent.Len() > 0 {
		if err := a.forget(a.recent.Back().Value.(*Stream)); err != nil {
			return a.sum, err
		}
	}
	return a.sum, nil
}

func (a *assembler) segment(s segment, at time.Duration) error {
	key := streamKey{s.from, s.to}
	stream := a.streams[key]
	if stream != nil && s.flags&flagSYN != 0 && stream.known && s.seq+1 != stream.next && len(stream.waiting) == 0 {
		// The ports are used again.
		if err := a.forget(stream); err != nil {
			return err
		}
		stream = nil
	}
	if stream == nil {
		if s.length == 0 && s.flags&flagSYN == 0 { // an acknowledgement alone begins nothing
			return nil
		}
		var err error
		if stream, err = a.add(key, s); err != nil {
			return err
		}
	}
	a.recent.MoveToFront(stream.place)
	if s.flags&flagSYN != 0 {
		if !stream.known {
			stream.next, stream.known = s.seq+1, true
		}
		s.seq++
	}
	if !stream.known {
		stream.next, stream.known = s.seq, true
	}
	if s.length > 0 && !stream.finished {
		if err := a.accept(stream, held{s.seq, s.payload, s.length}, at); err != nil {
			return err
		}
	}
	switch {
	case s.flags&flagRST != 0:
		return a.forget(stream)
	case s.flags&flagFIN != 0 && s.seq+uint32(s.length) == stream.next:
		stream.finished = true
	}
	return nil
}

func (a *assembler) add(key streamKey, s segment) (*Stream, error) {
	if len(a.streams) >= a.limits.Streams {
		if err := a.forget(a.recent.Back().Value.(*Stream)); err != nil {
			return nil, err
		}
	}
	a.nextID++
	stream := &Stream{ID: a.nextID, From: key.from, To: key.to}
	other := a.streams[streamKey{key.to, key.from}]
	switch {
	case other != nil:
		stream.ServerPort = other.ServerPort
	case s.flags&flagSYN != 0 && s.flags&flagACK == 0:
		stream.ServerPort = key.to.Port()
	case s.flags&flagSYN != 0:
		stream.ServerPort = key.from.Port()
	default:
		stream.ServerPort = min(key.from.Port(), key.to.Port())
	}
	if other == nil {
		a.sum.Connections++
	}
	stream.place = a.recent.PushFront(stream)
	a.streams[key] = stream
	return stream, nil
}

// accept hands on what is in order, keeps what is ahead, and gives a gap up when too much waits behind it.
func (a *assembler) accept(s *Stream, h held, at time.Duration) error {
	if ahead := int32(h.seq - s.next); ahead > 0 {
		if int(ahead) > maxAhead {
			return nil // far outside of any window: not of this stream
		}
		at := slices.IndexFunc(s.waiting, func(w held) bool { return int32(w.seq-h.seq) >= 0 })
		if at < 0 {
			at = len(s.waiting)
		}
		if at < len(s.waiting) && s.waiting[at].seq == h.seq && s.waiting[at].length >= h.length {
			a.sum.RepeatBytes += int64(h.length)
			return nil
		}
		s.waiting = slices.Insert(s.waiting, at, held{h.seq, slices.Clone(h.data), h.length})
		s.held += cost(h)
		a.held += cost(h)
	} else if err := a.deliver(s, h, at); err != nil {
		return err
	}
	if err := a.drain(s, at); err != nil {
		return err
	}
	for s.held > a.limits.StreamBytes {
		if err := a.giveUp(s, at); err != nil {
			return err
		}
	}
	for a.held > a.limits.TotalBytes { // whoever waits longest gives up first
		victim := a.recent.Back()
		for victim != nil && len(victim.Value.(*Stream).waiting) == 0 {
			victim = victim.Prev()
		}
		if victim == nil {
			break
		}
		for v := victim.Value.(*Stream); len(v.waiting) > 0; {
			if err := a.giveUp(v, at); err != nil {
				return err
			}
		}
	}
	return nil
}

// maxAhead is the largest window there is (RFC 7323).
const maxAhead = 1 << 30

// cost is what a held segment takes, with its own record.
func cost(h held) int {
	const record = 64
	return len(h.data) + record
}

// deliver hands on what of h is new; it begins at or before what is awaited.
func (a *assembler) deliver(s *Stream, h held, at time.Duration) error {
	old := int(s.next - h.seq)
	if old >= h.length {
		a.sum.RepeatBytes += int64(h.length)
		return nil
	}
	a.sum.RepeatBytes += int64(old)
	fresh := h.length - old
	s.next += uint32(fresh)
	if old < len(h.data) {
		data := h.data[old:]
		a.sum.Bytes += int64(len(data))
		fresh -= len(data)
		if err := a.handler.Bytes(s, at, data); err != nil {
			return err
		}
	}
	if fresh > 0 { // the packet was captured in part
		a.sum.MissingBytes += int64(fresh)
		return a.handler.Gap(s, int64(fresh))
	}
	return nil
}

// drain hands on held segments that have become due.
func (a *assembler) drain(s *Stream, at time.Duration) error {
	for len(s.waiting) > 0 && int32(s.waiting[0].seq-s.next) <= 0 {
		h := s.waiting[0]
		s.waiting = slices.Delete(s.waiting, 0, 1)
		s.held -= cost(h)
		a.held -= cost(h)
		if err := a.deliver(s, h, at); err != nil {
			return err
		}
	}
	return nil
}

// giveUp skips to the first held segment.
func (a *assembler) giveUp(s *Stream, at time.Duration) error {
	if len(s.waiting) == 0 {
		return nil
	}
	gap := int64(s.waiting[0].seq - s.next)
	s.next = s.waiting[0].seq
	a.sum.MissingBytes += gap
	if err := a.handler.Gap(s, gap); err != nil {
		return err
	}
	return a.drain(s, at)
}

// forget ends a stream.
func (a *assembler) forget(s *Stream) error {
	for len(s.waiting) > 0 {
		if err := a.giveUp(s, 0); err != nil {
			return err
		}
	}
	delete(a.streams, streamKey{s.From, s.To})
	a.recent.Remove(s.place)
	return a.handler.End(s)
}
