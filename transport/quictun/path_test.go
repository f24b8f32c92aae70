package quictun

import (
	"net"
	"strings"
	"sync"
	"sync/atomic"
	"testing"

	"wanpair/transport"
	"wanpair/transport/tuntest"
)

// relay is a path between two UDP sockets on loopback that can be narrowed and
// cut.
type relay struct {
	front, back *net.UDPConn // towards the dialler, towards the listener
	listener    atomic.Pointer[net.UDPAddr]
	limit       atomic.Int64 // larger packets are lost
	cut         atomic.Bool
	wg          sync.WaitGroup
	mu          sync.Mutex
	dialler     *net.UDPAddr
}

func newRelay(t *testing.T, listener string) *relay {
	t.Helper()
	r := &relay{}
	r.limit.Store(65536)
	r.to(t, listener)
	var err error
	if r.front, err = net.ListenUDP("udp", &net.UDPAddr{IP: net.IPv4(127, 0, 0, 1)}); err != nil {
		t.Fatal(err)
	}
	if r.back, err = net.ListenUDP("udp", &net.UDPAddr{IP: net.IPv4(127, 0, 0, 1)}); err != nil {
		t.Fatal(err)
	}
	r.wg.Go(func() {
		buf := make([]byte, 65536)
		for {
			n, from, err := r.front.ReadFromUDP(buf)
			if err != nil {
				return
			}
			r.mu.Lock()
			r.dialler = from
			r.mu.Unlock()
			if r.carries(n) {
				_, _ = r.back.WriteToUDP(buf[:n], r.listener.Load())
			}
		}
	})
	r.wg.Go(func() {
		buf := make([]byte, 65536)
		for {
			n, err := r.back.Read(buf)
			if err != nil {
				return
			}
			r.mu.Lock()
			to := r.dialler
			r.mu.Unlock()
			if r.carries(n) && to != nil {
				_, _ = r.front.WriteToUDP(buf[:n], to)
			}
		}
	})
	t.Cleanup(func() {
		_ = r.front.Close()
		_ = r.back.Close()
		r.wg.Wait()
	})
	return r
}

// to changes where the path leads.
func (r *relay) to(t *testing.T, listener string) {
	t.Helper()
	addr, err := net.ResolveUDPAddr("udp", listener)
	if err != nil {
		t.Fatal(err)
	}
	r.listener.Store(addr)
}

func (r *relay) carries(n int) bool { return !r.cut.Load() && int64(n) <= r.limit.Load() }

// TestNarrowPath: a path that carries no packets of 1400 bytes is found out by
// both sides and used.
func TestNarrowPath(t *testing.T) {
	t.Parallel()
	ka, kb := testKey(1), testKey(2)
	b := startSide(t, "b", kb, public(ka), nil, 1)
	r := newRelay(t, b.ep.Addr().String())
	r.limit.Store(1300)
	a := startSide(t, "a", ka, public(kb), []string{r.front.LocalAddr().String()}, 1)
	near, far := tuntest.Flow(t, a.Session(), b.Session())
	done := make(chan error, 1)
	go func() { done <- tuntest.Send(near, strings.NewReader(strings.Repeat("narrow", 100000))) }()
	var got strings.Builder
	if err := tuntest.Receive(far, &got); err != nil {
		t.Fatal(err)
	}
	if err := <-done; err != nil || got.Len() != 600000 {
		t.Fatalf("%d bytes, %v", got.Len(), err)
	}
}

// TestBlockedPath: the status says that nothing answers; the flow goes on when
// the path is back.
func TestBlockedPath(t *testing.T) {
	t.Parallel()
	ka, kb := testKey(1), testKey(2)
	b := startSide(t, "b", kb, public(ka), nil, 1)
	r := newRelay(t, b.ep.Addr().String())
	a := startSide(t, "a", ka, public(kb), []string{r.front.LocalAddr().String()}, 1)
	near, far := tuntest.Flow(t, a.Session(), b.Session())
	r.cut.Store(true)
	waitFor(t, "the session to be held and the reason said", func() bool {
		st := a.Link.Stats()
		return st.State == transport.StateHeld && strings.Contains(st.LastError, "UDP blocked or peer down: no answer from "+r.front.LocalAddr().String())
	})
	sent := make(chan error, 1)
	go func() { sent <- tuntest.Send(near, strings.NewReader("after the outage")) }()
	r.cut.Store(false)
	var got strings.Builder
	if err := tuntest.Receive(far, &got); err != nil {
		t.Fatal(err)
	}
	if err := <-sent; err != nil || got.String() != "after the outage" {
		t.Fatalf("%q, %v", got.String(), err)
	}
}

// TestBothDial: both sides know where the other is. They come to one session,
// and after one of them is replaced to another.
func TestBothDial(t *testing.T) {
	t.Parallel()
	ka, kb := testKey(1), testKey(2)
	first, second := newRelay(t, "127.0.0.1:1"), newRelay(t, "127.0.0.1:1")
	a := startSide(t, "a", ka, public(kb), []string{first.front.LocalAddr().String()}, 1)
	b := startSide(t, "b", kb, public(ka), []string{second.front.LocalAddr().String()}, 1)
	first.to(t, b.ep.Addr().String())
	second.to(t, a.ep.Addr().String())
	sa, sb := a.Session(), b.Session()
	near, far := tuntest.Flow(t, sa, sb)
	if near.ID() != far.ID() || sa.Local() != sb.Peer().Instance {
		t.Fatal("two sessions")
	}
	b.stop()
	c := startSide(t, "c", kb, public(ka), []string{second.front.LocalAddr().String()}, 1)
	first.to(t, c.ep.Addr().String())
	<-near.Done()
	tuntest.Flow(t, a.Session(), c.Session())
}
