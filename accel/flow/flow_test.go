package flow

import (
	"bytes"
	"errors"
	"io"
	"sync"
	"testing"
	"testing/synctest"
	"time"
)

var errReset = errors.New("reset")

// pipeEdge is an edge in memory: what the client sent is in input, what it gets is in output.
type pipeEdge struct {
	mu       sync.Mutex
	changed  sync.Cond
	input    []byte
	inputEnd error // io.EOF or a fault, behind input
	output   bytes.Buffer
	stalled  bool
	fin      bool
	finished bool
	reset    bool
	writeErr error
	broken   error // a reset that nobody has read or written into
}

func newPipeEdge() *pipeEdge {
	e := &pipeEdge{}
	e.changed.L = &e.mu
	return e
}

func (e *pipeEdge) do(f func()) {
	e.mu.Lock()
	defer e.mu.Unlock()
	f()
	e.changed.Broadcast()
}

func (e *pipeEdge) feed(b string)     { e.do(func() { e.input = append(e.input, b...) }) }
func (e *pipeEdge) endInput(as error) { e.do(func() { e.inputEnd = as }) }

func (e *pipeEdge) WaitReadable() error {
	e.mu.Lock()
	defer e.mu.Unlock()
	for len(e.input) == 0 && e.inputEnd == nil && !e.reset {
		e.changed.Wait()
	}
	if e.reset {
		return errReset
	}
	return nil
}

func (e *pipeEdge) ReadAvailable(p []byte) (int, error) {
	e.mu.Lock()
	defer e.mu.Unlock()
	n := copy(p, e.input)
	e.input = e.input[n:]
	if len(e.input) == 0 {
		return n, e.inputEnd
	}
	return n, nil
}

func (e *pipeEdge) Write(p []byte) (int, error) {
	e.mu.Lock()
	defer e.mu.Unlock()
	for e.stalled && !e.reset {
		e.changed.Wait()
	}
	if e.reset {
		return 0, errReset
	}
	if e.writeErr != nil {
		return 0, e.writeErr
	}
	return e.output.Write(p)
}

func (e *pipeEdge) CloseWrite() error { e.do(func() { e.fin = true }); return nil }

func (e *pipeEdge) WaitHangup() error {
	e.mu.Lock()
	defer e.mu.Unlock()
	for !e.fin && !e.reset && e.broken == nil {
		e.changed.Wait()
	}
	if e.reset {
		return errReset
	}
	return e.broken
}

func (e *pipeEdge) Broken() error {
	e.mu.Lock()
	defer e.mu.Unlock()
	return e.broken
}

func (e *pipeEdge) Finish() error { e.do(func() { e.finished = true }); return nil }
func (e *pipeEdge) Reset()        { e.do(func() { e.reset = true }) }

// fakeStream is the tunnel side in memory.
type fakeStream struct {
	mu       sync.Mutex
	changed  sync.Cond
	window   int
	sent     bytes.Buffer
	sentEnd  bool
	sizes    []int
	arrived  []Segment
	fault    error
	consumed int
	finished bool
	aborted  error
	over     chan struct{}
}

func newFakeStream(window int) *fakeStream {
	s := &fakeStream{window: window, over: make(chan struct{})}
	s.changed.L = &s.mu
	return s
}

func (s *fakeStream) do(f func()) {
	s.mu.Lock()
	defer s.mu.Unlock()
	f()
	s.changed.Broadcast()
}

func (s *fakeStream) arrive(b string, end bool) {
	s.do(func() { s.arrived = append(s.arrived, Segment{Data: []byte(b), End: end}) })
}

func (s *fakeStream) Window() (int, error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	for s.window == 0 && s.aborted == nil {
		s.changed.Wait()
	}
	return s.window, s.aborted
}

func (s *fakeStream) Send(p []byte, end bool) error {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.sent.Write(p)
	s.sizes = append(s.sizes, len(p))
	s.sentEnd = s.sentEnd || end
	return s.aborted
}

func (s *fakeStream) Receive() (Segment, error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	for len(s.arrived) == 0 && s.fault == nil && s.aborted == nil {
		s.changed.Wait()
	}
	if len(s.arrived) == 0 {
		return Segment{}, errors.Join(s.fault, s.aborted)
	}
	got := s.arrived[0]
	s.arrived = s.arrived[1:]
	return got, nil
}

func (s *fakeStream) Consumed(g Segment) { s.do(func() { s.consumed += len(g.Data) }) }
func (s *fakeStream) Finish()            { s.do(func() { s.finished = true }) }
func (s *fakeStream) Abort(cause error) {
	s.do(func() {
		if s.aborted == nil {
			s.aborted = cause
			close(s.over)
		}
	})
}

func (s *fakeStream) Done() <-chan struct{} { return s.over }

func (s *fakeStream) Err() error {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.aborted
}

type fixture struct {
	edge   *pipeEdge
	stream *fakeStream
	count  Counters
	result error
	done   bool
}

// start runs a flow inside a bubble; synctest.Wait then means that everything that could happen has happened.
func start(window int) *fixture {
	f := &fixture{edge: newPipeEdge(), stream: newFakeStream(window)}
	go func() {
		f.result = Run(f.edge, f.stream, NewBuffers(), &f.count)
		f.done = true
	}()
	return f
}

func TestLateReplyAfterRequestAndFIN(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		f := start(1 << 20)
		f.edge.feed("request")
		f.edge.endInput(io.EOF)
		synctest.Wait()
		if f.stream.sent.String() != "request" || !f.stream.sentEnd {
			t.Fatalf("sent %q, end %v", f.stream.sent.String(), f.stream.sentEnd)
		}
		if f.done {
			t.Fatal("the first direction's end ended the flow")
		}
		f.stream.arrive("late reply", false)
		f.stream.arrive("", true)
		synctest.Wait()
		if !f.done || f.result != nil || f.edge.output.String() != "late reply" || !f.edge.fin || !f.edge.finished || !f.stream.finished {
			t.Errorf("done %v, %v, output %q, fin %v", f.done, f.result, f.edge.output.String(), f.edge.fin)
		}
		if f.count.FromEdge.Load() != 7 || f.count.ToEdge.Load() != 10 || f.stream.consumed != 10 {
			t.Errorf("counted %d and %d, consumed %d", f.count.FromEdge.Load(), f.count.ToEdge.Load(), f.stream.consumed)
		}
	})
}

func TestBrokenEndsAreNeverClean(t *testing.T) {
	faults := map[string]func(*fixture){
		"read error at the edge":  func(f *fixture) { f.edge.endInput(errReset) },
		"write error at the edge": func(f *fixture) { f.edge.do(func() { f.edge.writeErr = errReset }); f.stream.arrive("x", false) },
		"stream broke":            func(f *fixture) { f.stream.do(func() { f.stream.fault = errors.New("lost") }) },
		"stream aborted":          func(f *fixture) { f.stream.Abort(errors.New("aborted")) },
	}
	for name, fault := range faults {
		t.Run(name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				f := start(1 << 20)
				f.stream.arrive("part", false)
				synctest.Wait()
				fault(f)
				synctest.Wait()
				if !f.done || f.result == nil {
					t.Fatalf("done %v, result %v", f.done, f.result)
				}
				if !f.edge.reset || f.edge.fin || f.edge.finished || f.stream.sentEnd || f.stream.finished || f.stream.aborted == nil {
					t.Errorf("edge reset %v fin %v, stream end %v aborted %v", f.edge.reset, f.edge.fin, f.stream.sentEnd, f.stream.aborted)
				}
			})
		})
	}
}

// TestBreaksNobodyReads: what breaks while no call of a pump could meet it is noticed all the same, and never delivered as an end.
func TestBreaksNobodyReads(t *testing.T) {
	breakEdge := func(f *fixture) { f.edge.do(func() { f.edge.broken = errReset }) }
	for name, c := range map[string]struct {
		window   int
		prepare  func(*fixture)
		breaking func(*fixture)
	}{
		"edge, while the tunnel takes nothing": {0, func(f *fixture) { f.edge.feed("unread") }, breakEdge},
		"edge, after its end":                  {1 << 20, func(f *fixture) { f.edge.endInput(io.EOF) }, breakEdge},
		"stream, after its end":                {1 << 20, func(f *fixture) { f.stream.arrive("all", true) }, func(f *fixture) { f.stream.Abort(errReset) }},
	} {
		t.Run(name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				f := start(c.window)
				c.prepare(f)
				time.Sleep(10 * time.Second)
				synctest.Wait()
				if f.done {
					t.Fatalf("it ended before anything broke: %v", f.result)
				}
				c.breaking(f)
				time.Sleep(time.Second)
				synctest.Wait()
				if !f.done || f.result == nil || !f.edge.reset || f.edge.finished || f.stream.finished || f.stream.aborted == nil {
					t.Errorf("done %v: %v; edge reset %v finished %v, stream aborted %v", f.done, f.result, f.edge.reset, f.edge.finished, f.stream.aborted)
				}
			})
		})
	}
}

func TestStalledReaderStopsNeitherDecodingNorTheOtherDirection(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		f := start(1 << 20)
		f.edge.do(func() { f.edge.stalled = true })
		for range 50 {
			f.stream.arrive("segment", false)
		}
		f.edge.feed("still talking")
		synctest.Wait()
		if len(f.stream.arrived) != 0 {
			t.Errorf("%d segments were left in the stream", len(f.stream.arrived))
		}
		if f.stream.consumed != 0 {
			t.Errorf("%d bytes were given credit before they were delivered", f.stream.consumed)
		}
		if f.stream.sent.String() != "still talking" {
			t.Errorf("sent %q", f.stream.sent.String())
		}
		f.edge.do(func() { f.edge.stalled = false })
		f.stream.arrive("", true)
		f.edge.endInput(io.EOF)
		synctest.Wait()
		if f.result != nil || f.edge.output.Len() != 350 || f.stream.consumed != 350 {
			t.Errorf("%v, %d bytes out, %d consumed", f.result, f.edge.output.Len(), f.stream.consumed)
		}
	})
}

func TestWindowBoundsWhatIsTaken(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		f := start(0)
		f.edge.feed("0123456789")
		synctest.Wait()
		if f.stream.sent.Len() != 0 || len(f.edge.input) != 10 {
			t.Fatal("bytes left the socket without a window")
		}
		f.stream.do(func() { f.stream.window = 4 })
		f.edge.endInput(io.EOF)
		f.stream.arrive("", true)
		synctest.Wait()
		if got := f.stream.sizes; f.stream.sent.String() != "0123456789" || got[0] != 4 || got[1] != 4 || got[2] != 2 {
			t.Errorf("frames %v of %q", got, f.stream.sent.String())
		}
	})
}

func TestSplice(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		near, far := newPipeEdge(), newPipeEdge()
		var count Counters
		var result error
		done := false
		go func() { result = Splice(near, far, NewBuffers(), &count); done = true }()
		near.feed("ask")
		near.endInput(io.EOF)
		synctest.Wait()
		if far.output.String() != "ask" || !far.fin || done {
			t.Fatalf("far got %q, fin %v, done %v", far.output.String(), far.fin, done)
		}
		far.feed("answer")
		far.endInput(io.EOF)
		synctest.Wait()
		if !done || result != nil || near.output.String() != "answer" || !near.finished || !far.finished {
			t.Errorf("done %v: %v, near got %q", done, result, near.output.String())
		}
	})
	synctest.Test(t, func(t *testing.T) {
		near, far := newPipeEdge(), newPipeEdge()
		var count Counters
		var result error
		go func() { result = Splice(near, far, NewBuffers(), &count) }()
		far.endInput(errReset)
		synctest.Wait()
		if result == nil || !near.reset || near.fin {
			t.Errorf("%v, near reset %v fin %v", result, near.reset, near.fin)
		}
	})
}
