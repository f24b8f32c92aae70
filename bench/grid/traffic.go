package grid

import (
	"context"
	"encoding/binary"
	"errors"
	"fmt"
	"io"
	"net"
	"sync"
	"sync/atomic"
	"syscall"
	"time"

	"golang.org/x/sys/unix"

	"wanpair/bench/lab"
)

// Ports of the source: the second one bypasses the gateways, which are told to pass it.
const (
	port       = 7001
	bypassPort = 7002
)

// What a client asks the source for, in the first byte of its request; the number of a stream follows in 8 bytes.
const (
	askBulk      = 1
	askEcho      = 2
	requestBytes = 9
	echoBytes    = 64
)

// fallback is the congestion control that every kernel has and everybody may use.
const fallback = "reno"

// source sends streams and echoes to whoever asks.
type source struct {
	work      sync.WaitGroup
	mu        sync.Mutex
	listeners []*net.TCPListener
	open      map[*net.TCPConn]bool // nil when closed
}

func newSource() *source { return &source{open: make(map[*net.TCPConn]bool)} }

// listen adds a port. It returns the congestion control that its connections use, which is not the one asked for where that may not be set.
func (s *source) listen(ctx context.Context, l *lab.Lab, port int, congestion string) (string, error) {
	listener, err := l.Listen(ctx, lab.Server, fmt.Sprintf("%s:%d", lab.ServerIP4, port))
	if err != nil {
		return "", err
	}
	s.mu.Lock()
	s.listeners = append(s.listeners, listener)
	s.mu.Unlock()
	raw, err := listener.SyscallConn()
	if err != nil {
		return "", err
	}
	used, err := setCongestion(raw, congestion)
	if err != nil {
		return "", err
	}
	s.work.Go(func() { s.accept(listener) })
	return used, nil
}

// setCongestion sets the congestion control of a socket and of what it accepts, or the fallback, and returns which one it became.
func setCongestion(raw syscall.RawConn, name string) (used string, err error) {
	controlErr := raw.Control(func(fd uintptr) {
		if err = unix.SetsockoptString(int(fd), unix.IPPROTO_TCP, unix.TCP_CONGESTION, name); err != nil {
			err = unix.SetsockoptString(int(fd), unix.IPPROTO_TCP, unix.TCP_CONGESTION, fallback)
			name = fallback
		}
	})
	if err := errors.Join(controlErr, err); err != nil {
		return "", fmt.Errorf("congestion control %s: %w", name, err)
	}
	return name, nil
}

// accept ends when the listener is closed.
func (s *source) accept(listener *net.TCPListener) {
	for {
		conn, err := listener.AcceptTCP()
		if err != nil {
			return
		}
		s.mu.Lock()
		closed := s.open == nil
		if !closed {
			s.open[conn] = true
		}
		s.mu.Unlock()
		if closed {
			conn.Close()
			return
		}
		s.work.Go(func() {
			s.serve(conn)
			conn.Close()
			s.mu.Lock()
			defer s.mu.Unlock()
			delete(s.open, conn)
		})
	}
}

// serve answers one connection until the client ends it.
func (s *source) serve(conn *net.TCPConn) {
	var request [requestBytes]byte
	if _, err := io.ReadFull(conn, request[:]); err != nil {
		return
	}
	switch request[0] {
	case askBulk:
		var enough atomic.Bool
		s.work.Go(func() {
			if _, err := conn.Read(request[:1]); err == io.EOF { // the client's half-close: it wants no more
				enough.Store(true)
			}
		})
		for bytes := newStream(binary.BigEndian.Uint64(request[1:])); !enough.Load(); {
			if _, err := conn.Write(bytes.next()); err != nil {
				return
			}
		}
	case askEcho:
		for message := make([]byte, echoBytes); ; {
			if _, err := io.ReadFull(conn, message); err != nil {
				return
			}
			if _, err := conn.Write(message); err != nil {
				return
			}
		}
	}
}

// close ends everything at once and waits.
func (s *source) close() {
	s.mu.Lock()
	for _, listener := range s.listeners {
		listener.Close()
	}
	for conn := range s.open {
		abandon(conn)
	}
	s.open = nil
	s.mu.Unlock()
	s.work.Wait()
}

// abandon closes a connection by a reset, so that nothing lingers in its buffers.
func abandon(conn *net.TCPConn) {
	_ = conn.SetLinger(0) // a connection that is gone already
	conn.Close()
}

// dial connects from the client to the source and asks.
func dial(ctx context.Context, l *lab.Lab, port int, what byte, number uint64) (*net.TCPConn, error) {
	conn, err := l.Dial(ctx, lab.Client, "tcp", fmt.Sprintf("%s:%d", lab.ServerIP4, port))
	if err != nil {
		return nil, err
	}
	tcp := conn.(*net.TCPConn)
	if err := ask(tcp, what, number); err != nil {
		abandon(tcp)
		return nil, err
	}
	return tcp, nil
}

// ask sends the request that a connection begins with.
func ask(conn *net.TCPConn, what byte, number uint64) error {
	_, err := conn.Write(binary.BigEndian.AppendUint64([]byte{what}, number))
	return err
}

// flow receives one stream and compares it.
type flow struct {
	conn     *net.TCPConn
	bytes    atomic.Int64
	stopped  atomic.Bool // an error is no surprise any more
	finished atomic.Bool // the source was told that it is enough
	done     chan struct{}
	err      error // after done
}

// newFlow connects and receives until stop.
func newFlow(ctx context.Context, l *lab.Lab, port int, number uint64) (*flow, error) {
	conn, err := dial(ctx, l, port, askBulk, number)
	if err != nil {
		return nil, err
	}
	return follow(conn, number), nil
}

// follow receives a stream that was asked for.
func follow(conn *net.TCPConn, number uint64) *flow {
	f := &flow{conn: conn, done: make(chan struct{})}
	go f.receive(number)
	return f
}

func (f *flow) receive(number uint64) {
	defer close(f.done)
	want := newStream(number)
	for buffer := make([]byte, chunkBytes); ; {
		n, err := f.conn.Read(buffer)
		if differs := want.check(buffer[:n]); differs != nil {
			f.err = differs
			return
		}
		f.bytes.Add(int64(n))
		if err != nil {
			if !f.stopped.Load() && (err != io.EOF || !f.finished.Load()) {
				f.err = fmt.Errorf("a bulk flow broke off after %d bytes: %w", f.bytes.Load(), err)
			}
			return
		}
	}
}

// finish tells the source of every flow that it is enough, and waits until all it had sent has arrived. It says whether that came about.
func finish(ctx context.Context, flows []*flow, patience time.Duration) bool {
	for _, f := range flows {
		f.finished.Store(true)
		_ = f.conn.CloseWrite() // a connection that is gone has its own error
	}
	timer := time.NewTimer(patience)
	defer timer.Stop()
	for _, f := range flows {
		select {
		case <-f.done:
			if f.err != nil {
				return false
			}
		case <-timer.C:
			return false
		case <-ctx.Done():
			return false
		}
	}
	return true
}

// stop ends the flow and returns what went wrong before.
func (f *flow) stop() error {
	f.stopped.Store(true)
	abandon(f.conn)
	<-f.done
	return f.err
}

// probe sends small requests over a connection of its own. It is not for several goroutines.
type probe struct {
	conn  *net.TCPConn
	count uint64
}

func newProbe(ctx context.Context, l *lab.Lab) (*probe, error) {
	conn, err := dial(ctx, l, port, askEcho, 0)
	if err != nil {
		return nil, err
	}
	return &probe{conn: conn}, nil
}

// ask sends one request and returns how long the answer took.
func (p *probe) ask(patience time.Duration) (time.Duration, error) {
	var request, answer [echoBytes]byte
	p.count++
	binary.BigEndian.PutUint64(request[:], p.count)
	if err := p.conn.SetDeadline(time.Now().Add(patience)); err != nil {
		return 0, err
	}
	began := time.Now()
	if _, err := p.conn.Write(request[:]); err != nil {
		return 0, fmt.Errorf("a small request: %w", err)
	}
	if _, err := io.ReadFull(p.conn, answer[:]); err != nil {
		return 0, fmt.Errorf("the answer to a small request after %v: %w", time.Since(began).Round(time.Millisecond), err)
	}
	took := time.Since(began)
	if answer != request {
		return 0, fmt.Errorf("%w: an answer to a small request", ErrDiffers)
	}
	return took, nil
}

func (p *probe) close() { abandon(p.conn) }
