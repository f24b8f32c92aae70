package quictun

import (
	"context"
	"net"
	"net/netip"
	"sync"
	"time"

	"github.com/quic-go/quic-go"
)

// maxRemembered bounds what is kept about remote addresses and log lines;
// beyond it everything is forgotten.
const maxRemembered = 1024

// repeats tells news from what was logged within the last minute.
type repeats struct {
	mu   sync.Mutex
	last map[string]time.Time
}

func (r *repeats) first(text string) bool {
	const period = time.Minute
	r.mu.Lock()
	defer r.mu.Unlock()
	now := time.Now()
	if t, ok := r.last[text]; ok && now.Sub(t) < period {
		return false
	}
	if r.last == nil || len(r.last) >= maxRemembered {
		r.last = make(map[string]time.Time)
	}
	r.last[text] = now
	return true
}

// smallPaths remembers, for accepted lanes, the remote addresses whose
// handshakes came to nothing: perhaps the path does not carry our packets, so
// the next attempt is answered with small ones.
type smallPaths struct {
	mu   sync.Mutex
	addr map[netip.Addr]time.Time
}

type handshakeKey struct{}

// handshake is one accepted connection until its handshake is over.
type handshake struct {
	mu   sync.Mutex
	over bool
}

// watch is a quic.Transport.ConnContext.
func (s *smallPaths) watch(ctx context.Context, info *quic.ClientInfo) (context.Context, error) {
	h := &handshake{}
	remote := addrOf(info.RemoteAddr)
	context.AfterFunc(ctx, func() {
		h.mu.Lock()
		defer h.mu.Unlock()
		if !h.over {
			s.note(remote)
		}
	})
	return context.WithValue(ctx, handshakeKey{}, h), nil
}

// done says that the handshake of a connection succeeded.
func (s *smallPaths) done(ctx context.Context) {
	if h, ok := ctx.Value(handshakeKey{}).(*handshake); ok {
		h.mu.Lock()
		defer h.mu.Unlock()
		h.over = true
	}
}

func (s *smallPaths) note(a netip.Addr) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.addr == nil || len(s.addr) >= maxRemembered {
		s.addr = make(map[netip.Addr]time.Time)
	}
	s.addr[a] = time.Now()
}

// has says whether packets to remote should be small. It is forgotten after an
// hour, so that a path that was mended is found.
func (s *smallPaths) has(remote net.Addr) bool {
	const memory = time.Hour
	s.mu.Lock()
	defer s.mu.Unlock()
	t, ok := s.addr[addrOf(remote)]
	return ok && time.Since(t) < memory
}

func addrOf(a net.Addr) netip.Addr {
	if u, ok := a.(*net.UDPAddr); ok {
		return u.AddrPort().Addr().Unmap()
	}
	return netip.Addr{}
}
