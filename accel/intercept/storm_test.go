package intercept

import (
	"context"
	"net"
	"sync"
	"sync/atomic"
	"testing"
	"time"
)

// Many new connections at once: none is lost, none passes raw, and the watchdog stays quiet.
func TestStorm(t *testing.T) {
	s := newSite(t)
	i, err := s.install(config(t))
	if err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithCancel(context.Background())
	r := &running{Interceptor: i, s: s, cancel: cancel}
	var accepted atomic.Int64
	r.wg.Go(func() { _ = s.gateway.Run(func() error { return i.Run(ctx) }) })
	r.wg.Go(func() {
		for {
			c, err := i.Accept(ctx)
			if err != nil {
				return
			}
			accepted.Add(1)
			r.wg.Go(func() {
				_, _ = c.Write([]byte("x"))
				_ = c.WaitReadable() // the client's reset
				c.Reset()
			})
		}
	})
	t.Cleanup(func() { r.stop(); r.remove() })
	r.alive()
	const clients, each = 8, 500
	var wg sync.WaitGroup
	start := time.Now()
	for n := range clients {
		target := target4
		if n%2 == 1 {
			target = target6
		}
		wg.Go(func() {
			err := s.client.Run(func() error {
				for range each {
					c, err := (&net.Dialer{}).DialContext(context.Background(), "tcp", target)
					if err != nil {
						return err
					}
					_ = c.(*net.TCPConn).SetLinger(0)
					_, _ = c.Read(make([]byte, 1))
					c.Close()
				}
				return nil
			})
			if err != nil {
				t.Error(err)
			}
		})
	}
	wg.Wait()
	t.Logf("%d connections in %v", clients*each, time.Since(start))
	if n := accepted.Load(); n != clients*each {
		t.Errorf("accepted %d of %d connections", n, clients*each)
	}
	if err := i.Fault(); err != nil {
		t.Error(err)
	}
	if c := r.counters(); c.Diverted["nyc"] != clients*each || c.RawPeer["nyc"][ReasonFault] != 0 {
		t.Errorf("counters: %+v", c)
	}
}
