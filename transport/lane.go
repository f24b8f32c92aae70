package transport

import (
	"context"
	"io"
	"time"
)

// Lane is one connection to the peer, authenticated before it gets here. It
// carries one control stream and any number of frame streams.
//
// All methods may be called from any goroutine. After the lane ended, every
// call returns an error; a *[LaneError] when a side said why.
type Lane interface {
	// Dialed says that this side dialled the lane: it says hello first.
	Dialed() bool
	// Control is the control stream. Closing the lane ends a blocked Read or
	// Write. Its bytes go before those of frames.
	Control() io.ReadWriter
	// OpenFrame begins a frame stream. It blocks while the peer allows no more
	// streams.
	OpenFrame(ctx context.Context) (FrameWriter, error)
	// TryFrame sends a whole small frame, ahead of the frames of OpenFrame,
	// without blocking; ErrWouldBlock when that is not possible at this
	// moment. It does not keep p.
	TryFrame(p []byte) error
	// AcceptFrame returns the next frame stream the peer began. It blocks.
	AcceptFrame(ctx context.Context) (FrameReader, error)
	// Close ends the lane; the peer learns code and reason if it can still be
	// reached. Only the first call counts.
	Close(code LaneCode, reason string)
	// Stats returns the lane's counters.
	Stats() LaneStats
}

// Sharer is a [Lane] that can be told as how many senders the lanes to its peer
// shall count together, where the path has to be shared with others.
type Sharer interface {
	// SetSenders is told the number of flows that move bulk, at least 1 and at
	// most the number of lanes. It must not block.
	SetSenders(n int)
}

// FrameWriter is the sending side of one frame stream. Write and Close are for
// one goroutine, Cancel for any.
//
// Errors: [ErrFrameRefused] when the stream alone was given up by either side,
// any other when the lane has ended.
type FrameWriter interface {
	// Write blocks until the lane has sent all of p but what fits into one
	// packet, so that what waits in a lane is little. It does not keep p.
	io.Writer
	// Close ends the stream after everything written.
	Close() error
	// Cancel gives the frame up: a blocked Write returns, nothing is repeated.
	// It does not block.
	Cancel(code AbortCode)
}

// FrameReader is the receiving side of one frame stream. Read is for one
// goroutine, Cancel for any. io.EOF is the clean end of the stream.
type FrameReader interface {
	io.Reader
	// Cancel tells the sender that the rest is not wanted.
	Cancel(code AbortCode)
}

// LaneStats are the counters of one lane since it began. Zero means unknown
// where a lane cannot know.
type LaneStats struct {
	Lane          uint64 // number within the link
	Local, Remote string // addresses
	Dialed        bool

	RTT, MinRTT  time.Duration
	WindowBytes  uint64 // congestion window
	RateBytes    uint64 // bytes per second the lane is thought to carry towards the peer
	LinkBytes    uint64 // bytes per second all lanes to the peer are thought to carry together
	BytesSent    uint64 // UDP payload, all overhead and repeats counted
	BytesRecv    uint64
	PacketsSent  uint64
	PacketsLost  uint64
	BytesLost    uint64
	PacketBytes  uint64 // size of a full packet
	Silence      time.Duration
	Stalled      bool
	FramesQueued int // writes of frames outstanding
}
