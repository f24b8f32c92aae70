package quictun

import (
	"context"
	"errors"
	"io"
	"sync"
	"sync/atomic"

	"github.com/quic-go/quic-go"

	"wanpair/transport"
	"wanpair/transport/quictun/governor"
)

// Urgency of streams as quic-go has it: lower goes first.
const (
	urgencyControl = 0
	urgencySmall   = 2 // a frame that fits into a packet, of a flow that moves no bulk
)

// smallWrite is below what quic-go copies into its own buffer at once: such a
// write would return before anything was sent, and nothing would hold back a
// flow of many small frames.
const smallWrite = 1500

// lane is one QUIC connection.
type lane struct {
	conn   *quic.Conn
	ctl    *quic.Stream
	dialed bool
	closed atomic.Pointer[transport.LaneError] // by this side
	gov    *governor.Governor                  // nil: the connection runs as quic-go has it
	group  *governor.Group
	ranked sync.Once // the control stream has its priority
	credit streamCredit
}

var (
	_ transport.Lane   = (*lane)(nil)
	_ transport.Sharer = (*lane)(nil)
)

// newLane makes a lane of a connection whose control stream is there. gov may
// be nil; group is that of the lanes to the same peer.
func newLane(conn *quic.Conn, ctl *quic.Stream, dialed bool, gov *governor.Governor, group *governor.Group) *lane {
	if gov != nil {
		gov.Attach(conn, group)
	}
	return &lane{conn: conn, ctl: ctl, dialed: dialed, gov: gov, group: group}
}

// SetSenders implements transport.Sharer.
func (l *lane) SetSenders(n int) { l.group.SetWeight(n) }

// mayRank says whether priorities of streams may be set: not while the governor
// is about to take over, which it does at the first packets of the hello.
func (l *lane) mayRank() bool { return l.gov == nil || l.gov.Attached() || l.gov.Err() != nil }

func (l *lane) Dialed() bool { return l.dialed }

func (l *lane) Control() io.ReadWriter { return control{l} }

type control struct{ l *lane }

func (c control) Read(p []byte) (int, error) {
	n, err := c.l.ctl.Read(p)
	return n, c.l.readError(err)
}

func (c control) Write(p []byte) (int, error) {
	if c.l.mayRank() {
		c.l.ranked.Do(func() { c.l.ctl.SetPriority(urgencyControl, true) })
	}
	n, err := c.l.ctl.Write(p)
	return n, c.l.readError(err)
}

func (l *lane) OpenFrame(ctx context.Context) (transport.FrameWriter, error) {
	s, err := l.conn.OpenUniStreamSync(ctx)
	if err != nil {
		return nil, l.readError(err)
	}
	return frameWriter{l, s}, nil
}

func (l *lane) TryFrame(p []byte) error {
	s, err := l.conn.OpenUniStream()
	if err != nil {
		if _, limit := errors.AsType[quic.StreamLimitReachedError](err); limit {
			return transport.ErrWouldBlock
		}
		return l.readError(err)
	}
	if l.mayRank() {
		s.SetPriority(urgencySmall, true)
	}
	if err := s.TryWriteAll(p); err != nil {
		s.CancelWrite(0)
		if errors.Is(err, quic.ErrWouldBlock) {
			return transport.ErrWouldBlock
		}
		return l.readError(err)
	}
	return l.closeStream(s)
}

func (l *lane) AcceptFrame(ctx context.Context) (transport.FrameReader, error) {
	s, err := l.conn.AcceptUniStream(ctx)
	if err != nil {
		return nil, l.readError(err)
	}
	l.credit.add(s)
	return frameReader{l, s}, nil
}

// Bounds of the streams that are through and whose credit is not given back yet.
const (
	creditHeld  = 64
	creditBatch = 32
)

// streamCredit gives the peer leave for further streams in batches, the oldest
// first, which have ended by then. Given back one by one, as quic-go does by
// itself, each frame would cost a packet that says so and one that acknowledges
// it: more than a small frame itself.
type streamCredit struct {
	mu   sync.Mutex
	held []*quic.ReceiveStream
}

func (c *streamCredit) add(s *quic.ReceiveStream) {
	c.mu.Lock()
	c.held = append(c.held, s)
	var free []*quic.ReceiveStream
	if len(c.held) >= creditHeld {
		free = append(free, c.held[:creditBatch]...)
		c.held = append(c.held[:0], c.held[creditBatch:]...)
	}
	c.mu.Unlock()
	for _, s := range free {
		s.ReleaseStreamCredit()
	}
}

func (l *lane) Close(code transport.LaneCode, reason string) {
	if l.closed.CompareAndSwap(nil, &transport.LaneError{Code: code, Reason: reason}) {
		_ = l.conn.CloseWithError(quic.ApplicationErrorCode(code), reason)
	}
}

func (l *lane) Stats() transport.LaneStats {
	st := l.conn.ConnectionStats()
	x := transport.LaneStats{
		Local: l.conn.LocalAddr().String(), Remote: l.conn.RemoteAddr().String(), Dialed: l.dialed,
		RTT: st.SmoothedRTT, MinRTT: st.MinRTT, WindowBytes: st.CongestionWindow,
		BytesSent: st.BytesSent, BytesRecv: st.BytesReceived,
		PacketsSent: st.PacketsSent, PacketsLost: st.PacketsLost, BytesLost: st.BytesLost,
	}
	if l.gov != nil && l.gov.Rate() > 0 {
		x.RateBytes, x.LinkBytes, x.WindowBytes = l.gov.Rate(), l.gov.GroupRate(), l.gov.Window()
	} else if st.SmoothedRTT > 0 {
		x.RateBytes = uint64(float64(st.CongestionWindow) / st.SmoothedRTT.Seconds())
	}
	return x
}

// readError gives an error of quic-go the form transport wants.
func (l *lane) readError(err error) error {
	if err == nil || errors.Is(err, io.EOF) {
		return err
	}
	if _, ok := errors.AsType[*quic.StreamError](err); ok {
		return transport.ErrFrameRefused
	}
	if own := l.closed.Load(); own != nil {
		return own
	}
	if app, ok := errors.AsType[*quic.ApplicationError](err); ok {
		return &transport.LaneError{Code: transport.LaneCode(app.ErrorCode), Reason: app.ErrorMessage, Remote: app.Remote}
	}
	return err
}

type frameWriter struct {
	l *lane
	s *quic.SendStream
}

func (w frameWriter) Write(p []byte) (n int, err error) {
	if len(p) <= smallWrite {
		n, err = w.s.WriteWithLimit(p, func(n int) int { return n })
	} else {
		n, err = w.s.Write(p)
	}
	return n, w.l.readError(err)
}

func (w frameWriter) Close() error                    { return w.l.closeStream(w.s) }
func (w frameWriter) Cancel(code transport.AbortCode) { w.s.CancelWrite(quic.StreamErrorCode(code)) }

// closeStream ends s. quic-go's error for a stream that either side gave up
// after the last write has no type; the lane must not pass for ended by it.
func (l *lane) closeStream(s *quic.SendStream) error {
	err := s.Close()
	if err == nil {
		return nil
	}
	if _, ok := errors.AsType[*quic.StreamError](context.Cause(s.Context())); ok {
		return transport.ErrFrameRefused
	}
	return l.readError(err)
}

type frameReader struct {
	l *lane
	s *quic.ReceiveStream
}

func (r frameReader) Read(p []byte) (int, error) {
	n, err := r.s.Read(p)
	return n, r.l.readError(err)
}

func (r frameReader) Cancel(code transport.AbortCode) { r.s.CancelRead(quic.StreamErrorCode(code)) }
