package quictun

import (
	"encoding/binary"
	"net"
	"sync"
	"time"

	"github.com/quic-go/quic-go"
	"golang.org/x/net/ipv4"
	"golang.org/x/sys/unix"
)

// Sizes of what is read at a time.
const (
	readBuffers  = 8        // datagrams asked of the kernel in one call
	coalesced    = 64 << 10 // the longest of them: the kernel joins packets of one sender
	controlBytes = 128
)

// Back pressure. quic-go drops what is beyond 256 packets that a connection has
// not handled yet; the kernel's buffer, which holds thousands, is the place for
// them to wait.
const (
	unhandledMost = 160                    // packets read and not handled, over all connections of a socket
	backoffStep   = 100 * time.Microsecond // between two looks
	backoffMost   = 3 * time.Millisecond   // then some were not for us: counting begins anew
)

// Gathering. While packets come often, the socket is looked at now and then
// instead of at each of them: to wake up three goroutines costs more than to
// handle a packet.
const (
	gatherAbove  = 2000                   // packets a second
	gatherWindow = 10 * time.Millisecond  // over which they are counted at least
	gatherTime   = 500 * time.Microsecond // the longest that a packet waits for others
)

// socket is a UDP socket that reads what the kernel has joined (UDP_GRO) and
// hands it on packet by packet. It stands for a plain socket in every other
// way: quic-go uses segmentation offload, the Don't Fragment bit and congestion
// marks on it as before.
type socket struct {
	*net.UDPConn
	batch *ipv4.PacketConn

	// What follows belongs to the one goroutine that reads.
	messages []ipv4.Message
	waiting  []ipv4.Message // read and not handed on
	next     int            // offset in the first of them
	size     int            // of its packets
	read     uint64         // packets handed on
	drained  bool           // the kernel had no more
	gather   gathering

	mu    sync.Mutex
	conns map[*quic.Conn]uint64 // packets handled when the connection came
	gone  uint64                // packets handled by connections that ended
}

// newSocket makes a socket of conn. A kernel that does not join packets gives
// them one by one.
func newSocket(conn *net.UDPConn) *socket {
	s := &socket{UDPConn: conn, batch: ipv4.NewPacketConn(conn), conns: make(map[*quic.Conn]uint64)}
	for range readBuffers {
		s.messages = append(s.messages, ipv4.Message{Buffers: [][]byte{make([]byte, coalesced)}, OOB: make([]byte, controlBytes)})
	}
	if raw, err := conn.SyscallConn(); err == nil {
		_ = raw.Control(func(fd uintptr) { _ = unix.SetsockoptInt(int(fd), unix.IPPROTO_UDP, unix.UDP_GRO, 1) })
	}
	return s
}

// ReadBatch fills ms with packets. It is what quic-go reads with.
func (s *socket) ReadBatch(ms []ipv4.Message, flags int) (int, error) {
	if len(s.waiting) == 0 {
		s.hold()
		if s.drained {
			time.Sleep(s.gather.wait(time.Now()))
		}
		n, err := s.batch.ReadBatch(s.messages, flags)
		if n == 0 || err != nil {
			return 0, err
		}
		s.drained = n < len(s.messages)
		s.waiting = s.messages[:n]
		s.begin()
	}
	n := 0
	for n < len(ms) && len(s.waiting) > 0 {
		from, to := &s.waiting[0], &ms[n]
		data := from.Buffers[0][s.next:min(s.next+s.size, from.N)]
		to.N = copy(to.Buffers[0], data)
		to.NN = copy(to.OOB, from.OOB[:from.NN])
		to.Addr, to.Flags = from.Addr, from.Flags
		n++
		if s.next += s.size; s.next >= from.N {
			s.waiting = s.waiting[1:]
			s.begin()
		}
	}
	s.read += uint64(n)
	s.gather.packets += n
	return n, nil
}

// begin begins with the first datagram that waits.
func (s *socket) begin() {
	s.next = 0
	if len(s.waiting) > 0 {
		m := &s.waiting[0]
		s.size = max(segmentSize(m.OOB[:m.NN]), 0)
		if s.size == 0 {
			s.size = max(m.N, 1)
		}
	}
}

// segmentSize finds how long each packet of a joined datagram is; 0: it is one.
func segmentSize(control []byte) int {
	for len(control) > 0 {
		h, data, rest, err := unix.ParseOneSocketControlMessage(control)
		if err != nil {
			return 0
		}
		if h.Level == unix.IPPROTO_UDP && h.Type == unix.UDP_GRO && len(data) >= 4 {
			return int(int32(binary.NativeEndian.Uint32(data)))
		}
		control = rest
	}
	return 0
}

// gathering decides how long packets are left to gather. After a pause the next
// one is read at once.
type gathering struct {
	packets int       // since the present window of counting began
	since   time.Time // when that was
	often   bool      // packets came often in the window before
}

// wait says for how long the socket, which has no more packets, is left alone.
func (g *gathering) wait(now time.Time) time.Duration {
	if span := now.Sub(g.since); span >= gatherWindow {
		g.often = float64(g.packets) >= gatherAbove*span.Seconds()
		g.packets, g.since = 0, now
	}
	if !g.often {
		return 0
	}
	return gatherTime
}

// hold waits while the connections have much left to handle.
func (s *socket) hold() {
	if s.unhandled() <= unhandledMost {
		return
	}
	for until := time.Now().Add(backoffMost); time.Now().Before(until); {
		time.Sleep(backoffStep)
		if s.unhandled() <= unhandledMost {
			return
		}
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	s.read = s.handled()
}

func (s *socket) unhandled() int64 {
	s.mu.Lock()
	defer s.mu.Unlock()
	if len(s.conns) == 0 {
		s.read = s.gone
		return 0
	}
	left := int64(s.read - s.handled())
	if left < 0 {
		s.read = s.handled()
	}
	return left
}

// handled is how many packets the connections have handled since they came.
func (s *socket) handled() uint64 {
	n := s.gone
	for c, before := range s.conns {
		n += c.ConnectionStats().PacketsReceived - before
	}
	return n
}

// watch counts what c handles from now until the returned function is called.
func (s *socket) watch(c *quic.Conn) (forget func()) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.conns[c] = c.ConnectionStats().PacketsReceived
	return func() {
		s.mu.Lock()
		defer s.mu.Unlock()
		s.gone += c.ConnectionStats().PacketsReceived - s.conns[c]
		delete(s.conns, c)
	}
}
