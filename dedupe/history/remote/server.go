package remote

import (
	"errors"
	"fmt"
	"io"
	"os"
	"os/signal"
	"sync"
	"syscall"
	"time"

	"golang.org/x/sys/unix"

	"wanpair/dedupe/history"
)

// How many requests a child works on at a time. The client has fewer than maxWaiting under way.
const (
	readers    = 16
	maxWaiting = 1024
)

// Descriptor is where a child finds its end of the socket pair.
const Descriptor = 3

// ServeChild is all that a child process does: it serves the socket it inherited until the gateway is gone. Signals of the terminal and of the
// service manager are the gateway's business.
func ServeChild() error {
	signal.Ignore(syscall.SIGINT, syscall.SIGTERM, syscall.SIGHUP, syscall.SIGQUIT, syscall.SIGPIPE)
	var st unix.Stat_t
	if err := unix.Fstat(Descriptor, &st); err != nil || st.Mode&unix.S_IFMT != unix.S_IFSOCK {
		return errors.New("this is started by the gateway, with a socket as descriptor 3")
	}
	unix.CloseOnExec(Descriptor)
	if err := unix.SetNonblock(Descriptor, true); err != nil {
		return err
	}
	// When memory runs out a cache is what can be spared.
	_ = os.WriteFile("/proc/self/oom_score_adj", []byte("800"), 0) // a kernel that does not let us is no reason to end
	return Serve(os.NewFile(Descriptor, "gateway"))
}

// server is one directory being served.
type server struct {
	conn *os.File
	disk *history.Epochs

	mu   sync.Mutex // serialises writing, and what was said of the extents with it
	said [2][]history.Extent
	once bool // said is something
	buf  []byte
}

// Serve serves a directory of epochs over a socket, whose other end a [Client] has, until the other end is closed or asks for it. It closes
// conn.
func Serve(conn *os.File) error {
	s := &server{conn: conn}
	defer conn.Close()
	h, body, err := readFrame(conn, nil)
	if err != nil {
		return fmt.Errorf("read from the gateway: %w", err)
	}
	q, err := parseRequest(h.kind, body)
	if err != nil {
		return err
	}
	if q.kind != kindOpen {
		return fmt.Errorf("%w: first request of kind %d", ErrFrame, q.kind)
	}
	if err := s.open(&q.open); err != nil {
		return errors.Join(err, s.answer(h.id, &answer{kind: kindFailed, code: failure(err), reason: err.Error()}))
	}
	if err := s.answer(h.id, &answer{kind: kindOpened, logs: s.disk.Logs()}); err != nil {
		return errors.Join(err, s.disk.Close(0))
	}
	return s.serve()
}

// open opens the directory.
func (s *server) open(o *openRequest) (err error) {
	for _, x := range o.discard {
		if err := history.Discard(o.cfg.Dir, x); err != nil {
			return err
		}
	}
	s.disk, err = history.OpenEpochs(o.cfg)
	for _, e := range []error{os.ErrPermission, syscall.ENOTDIR, syscall.ENOENT, syscall.ELOOP, syscall.ENAMETOOLONG, syscall.EINVAL} {
		if errors.Is(err, e) {
			err = fmt.Errorf("%w: %w", errConfig, err)
			break
		}
	}
	if err == nil && o.known {
		_ = s.disk.SetLogs(o.logs) // what it cannot write down now it is told again
	}
	return err
}

// job is a request that waits for somebody to work on it.
type job struct {
	id uint64
	*request
}

// serve works until the gateway is gone or says that it is enough.
func (s *server) serve() error {
	s.disk.Watch(func() { _ = s.answer(0, &answer{kind: kindStatus}) }) // a gateway that is gone is noticed below
	var wait sync.WaitGroup
	ordered := make(chan job, maxWaiting) // what changes something, one after the other
	free := make(chan job, maxWaiting)
	work := func(jobs <-chan job) {
		for j := range jobs {
			s.do(j)
		}
	}
	wait.Go(func() { work(ordered) })
	for range readers {
		wait.Go(func() { work(free) })
	}
	last, err := s.read(ordered, free)
	// The gateway is gone, or will not ask again: a disk that hangs now must not keep the process.
	time.AfterFunc(orphanLimit, func() { os.Exit(1) })
	close(ordered)
	close(free)
	wait.Wait()
	err = errors.Join(err, s.disk.Close(0))
	if last != 0 {
		_ = s.answer(last, &answer{kind: kindDone}) // nobody may be there to hear it
	}
	return err
}

// read distributes requests. It returns the id of the request to close, or 0 when the gateway is gone.
func (s *server) read(ordered, free chan<- job) (last uint64, err error) {
	for {
		h, body, err := readFrame(s.conn, nil)
		switch {
		case errors.Is(err, io.EOF), errors.Is(err, syscall.ECONNRESET):
			return 0, nil
		case err != nil:
			return 0, fmt.Errorf("read from the gateway: %w", err)
		}
		q, err := parseRequest(h.kind, body)
		if err != nil {
			return 0, err
		}
		to := free
		switch q.kind {
		case kindOpen:
			return 0, fmt.Errorf("%w: opened twice", ErrFrame)
		case kindClose:
			return h.id, nil
		case kindPut, kindNote, kindLogs:
			to = ordered
		default: // reads
		}
		select {
		case to <- job{h.id, q}:
		default:
			return 0, fmt.Errorf("%w: more requests than agreed", ErrFrame)
		}
	}
}

// do works on one request.
func (s *server) do(j job) {
	a := &answer{kind: kindDone}
	var err error
	switch j.kind {
	case kindGet:
		a.kind = kindBlock
		var about history.About
		a.data, about, err = s.disk.Get(j.key)
		a.next, a.scope = about.Next, about.Scope
	case kindPut:
		err = s.disk.Put(&j.block)
	case kindNote:
		err = s.disk.Note(j.key, j.length)
	case kindLogs:
		err = s.disk.SetLogs(j.logs)
	case kindLengths:
		a.kind, a.next = kindHoldings, j.extent.First
		a.holdings, err = s.disk.Lengths(j.extent, j.from)
	case kindAnchors:
		a.kind = kindRecords
		var next int64
		a.data, next, err = s.disk.Anchors(j.extent, int64(j.from))
		a.next = uint64(next)
	case kindPing:
		s.disk.Probe()
	default: // read answers those
	}
	if err != nil {
		a = &answer{kind: kindFailed, code: failure(err), reason: err.Error()}
	}
	_ = s.answer(j.id, a) // a gateway that is gone is noticed by the reader
}

// answer sends an answer with the present status.
func (s *server) answer(id uint64, a *answer) error {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.disk != nil {
		st := s.disk.Status()
		a.bytes, a.full, a.extents = st.Bytes, st.Full, st.Extents
		a.moved = !s.once || !same(st.Extents[0], s.said[0]) || !same(st.Extents[1], s.said[1])
		s.said, s.once = st.Extents, true
	}
	b := a.append(append(s.buf[:0], make([]byte, frameHeader)...))
	s.buf = b
	header{a.kind, id, len(b) - frameHeader + len(a.data)}.append(b[:0])
	if _, err := s.conn.Write(b); err != nil {
		return err
	}
	if len(a.data) > 0 {
		if _, err := s.conn.Write(a.data); err != nil {
			return err
		}
	}
	return nil
}

// same compares lists by identity: each change makes a new one.
func same(a, b []history.Extent) bool {
	return len(a) == len(b) && (len(a) == 0 || &a[0] == &b[0])
}
