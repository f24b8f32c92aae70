package intercept

import (
	"context"
	"errors"
	"io"
	"net"
	"syscall"
	"testing"
	"time"

	"golang.org/x/sys/unix"
)

// A connection that was finished with bytes still under way is waited for.
func TestSettle(t *testing.T) {
	for name, target := range map[string]string{"IPv4": target4, "IPv6": target6} {
		t.Run(name, func(t *testing.T) {
			s := newSite(t)
			i, err := s.install(config(t))
			if err != nil {
				t.Fatal(err)
			}
			ctx, cancel := context.WithCancel(context.Background())
			r := &running{Interceptor: i, s: s, cancel: cancel}
			r.wg.Go(func() { _ = s.gateway.Run(func() error { return i.Run(ctx) }) })
			t.Cleanup(func() { r.stop(); r.remove() })
			r.alive()
			settle := func(d time.Duration) (err error) {
				s.gateway.Do(func() {
					ctx, cancel := context.WithTimeout(context.Background(), d)
					defer cancel()
					err = i.Settle(ctx)
				})
				return err
			}
			if err := settle(time.Second); err != nil {
				t.Errorf("nothing under way: %v", err)
			}
			// A client with a small window that does not read yet.
			var client net.Conn
			s.client.Do(func() {
				var err error
				d := net.Dialer{Control: func(_, _ string, rc syscall.RawConn) error {
					return rc.Control(func(fd uintptr) { _ = unix.SetsockoptInt(int(fd), unix.SOL_SOCKET, unix.SO_RCVBUF, 4096) })
				}}
				if client, err = d.Dial("tcp", target); err != nil {
					t.Error(err)
				}
			})
			c, err := i.Accept(ctx)
			if err != nil {
				t.Fatal(err)
			}
			const size = 40_000 // fits the send buffer, not the client's window
			if _, err := c.Write(make([]byte, size)); err != nil {
				t.Fatal(err)
			}
			if err := c.CloseWrite(); err != nil {
				t.Fatal(err)
			}
			if err := c.Finish(); err != nil {
				t.Fatal(err)
			}
			if err := settle(200 * time.Millisecond); !errors.Is(err, context.DeadlineExceeded) {
				t.Fatalf("with bytes under way: %v", err)
			}
			read := make(chan int64, 1)
			go func() {
				n, _ := io.Copy(io.Discard, client)
				client.Close()
				read <- n
			}()
			if err := settle(20 * time.Second); err != nil {
				t.Error(err)
			}
			r.stop()
			r.remove()
			if n := <-read; n != size {
				t.Errorf("the client got %d of %d bytes", n, size)
			}
		})
	}
}
