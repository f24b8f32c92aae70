package grid

import (
	"errors"
	"io"
	"net"
	"strings"
	"testing"
	"time"
)

const testPatience = 20 * time.Second

// loopback starts a source on loopback and returns its address.
func loopback(t *testing.T) string {
	t.Helper()
	listener, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	s := newSource()
	s.listeners = append(s.listeners, listener.(*net.TCPListener))
	s.work.Go(func() { s.accept(listener.(*net.TCPListener)) })
	t.Cleanup(s.close)
	return listener.Addr().String()
}

func connect(t *testing.T, address string, what byte, number uint64) *net.TCPConn {
	t.Helper()
	conn, err := net.Dial("tcp", address)
	if err == nil {
		err = ask(conn.(*net.TCPConn), what, number)
	}
	if err != nil {
		t.Fatal(err)
	}
	return conn.(*net.TCPConn)
}

// reaches waits until a flow has received some bytes.
func reaches(t *testing.T, f *flow, bytes int64) {
	t.Helper()
	for deadline := time.Now().Add(testPatience); f.bytes.Load() < bytes; time.Sleep(time.Millisecond) { // the flow has no event for it
		select {
		case <-f.done:
			t.Fatalf("the flow ended: %v", f.err)
		default:
		}
		if time.Now().After(deadline) {
			t.Fatalf("only %d bytes came", f.bytes.Load())
		}
	}
}

func TestFlowsFinish(t *testing.T) {
	address := loopback(t)
	flows := []*flow{follow(connect(t, address, askBulk, 1), 1), follow(connect(t, address, askBulk, 2), 2)}
	for _, f := range flows {
		reaches(t, f, 1<<20)
	}
	if !finish(t.Context(), flows, testPatience) {
		t.Fatalf("not finished: %v, %v", flows[0].err, flows[1].err)
	}
	if n := bytesOf(flows); n < 2<<20 || n%chunkBytes != 0 {
		t.Errorf("%d bytes came: not whole chunks", n)
	}
	if err := stopAll(flows); err != nil {
		t.Error(err)
	}
}

func TestFlowsStop(t *testing.T) {
	f := follow(connect(t, loopback(t), askBulk, 1), 1)
	reaches(t, f, 1)
	if err := f.stop(); err != nil {
		t.Error(err)
	}
}

func TestFlowSeesWrongBytes(t *testing.T) {
	f := follow(connect(t, loopback(t), askBulk, 1), 2)
	<-f.done
	if err := f.stop(); !errors.Is(err, ErrDiffers) {
		t.Errorf("another stream gave %v", err)
	}
}

func TestFlowBreaksOff(t *testing.T) {
	for _, c := range []struct {
		name string
		end  func(*net.TCPConn)
		want error
	}{
		{"reset", abandon, nil},
		{"end", func(c *net.TCPConn) { c.Close() }, io.EOF}, // a clean end that nobody asked for
	} {
		listener, err := net.Listen("tcp", "127.0.0.1:0")
		if err != nil {
			t.Fatal(err)
		}
		done := make(chan struct{})
		go func() {
			defer close(done)
			if conn, err := listener.Accept(); err == nil {
				_, _ = io.ReadFull(conn, make([]byte, requestBytes))
				c.end(conn.(*net.TCPConn))
			}
		}()
		f := follow(connect(t, listener.Addr().String(), askBulk, 1), 1)
		<-f.done
		<-done
		listener.Close()
		if err := wait(t.Context(), time.Now(), testPatience, []*flow{f}); err == nil {
			t.Errorf("%s: waited on without an error", c.name)
		}
		if err := f.stop(); err == nil || !strings.Contains(err.Error(), "broke off after 0 bytes") || c.want != nil && !errors.Is(err, c.want) {
			t.Errorf("%s: %v", c.name, err)
		}
	}
}

func TestProbe(t *testing.T) {
	address := loopback(t)
	p := &probe{conn: connect(t, address, askEcho, 0)}
	defer p.close()
	for range 3 {
		if took, err := p.ask(testPatience); err != nil || took <= 0 {
			t.Fatalf("took %v, %v", took, err)
		}
	}
	took, err := p.askFor(t.Context(), 100*time.Millisecond)
	if err != nil || len(took) == 0 {
		t.Errorf("%d answers, %v", len(took), err)
	}
	silent := &probe{conn: connect(t, address, askBulk, 1)} // answers, but with other bytes
	defer silent.close()
	if _, err := silent.ask(testPatience); !errors.Is(err, ErrDiffers) {
		t.Errorf("a wrong answer gave %v", err)
	}
}

func TestSetCongestion(t *testing.T) {
	conn := connect(t, loopback(t), askEcho, 0)
	defer conn.Close()
	raw, err := conn.SyscallConn()
	if err != nil {
		t.Fatal(err)
	}
	for name, want := range map[string]string{"reno": "reno", "no-such-control": fallback} {
		if got, err := setCongestion(raw, name); err != nil || got != want {
			t.Errorf("%s became %q, %v", name, got, err)
		}
	}
}
