package quictun

import (
	"context"
	"net"
	"net/netip"
	"sync"
	"time"

	"github.com/quic-go/quic-go"
	"github.com/quic-go/quic-go/qlogwriter"

	"wanpair/transport/quictun/governor"
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
	gov  *governor.Governor
	mu   sync.Mutex
	over bool
}

// watch is the quic.Transport's ConnContext: it gives every accepted connection
// a handshake.
func (e *Endpoint) watch(ctx context.Context, info *quic.ClientInfo) (context.Context, error) {
	h := &handshake{gov: e.newGovernor()}
	remote := addrOf(info.RemoteAddr)
	context.AfterFunc(ctx, func() {
		h.mu.Lock()
		defer h.mu.Unlock()
		if !h.over && timedOut(context.Cause(ctx)) {
			e.small.note(remote)
		}
	})
	return context.WithValue(ctx, handshakeKey{}, h), nil
}

// handshakeOf finds what watch put into a connection's context.
func handshakeOf(ctx context.Context) *handshake {
	if h, ok := ctx.Value(handshakeKey{}).(*handshake); ok {
		return h
	}
	return &handshake{}
}

// tracerOf is the quic.Config.Tracer of accepted connections.
func tracerOf(ctx context.Context, client bool, id quic.ConnectionID) qlogwriter.Trace {
	if gov := handshakeOf(ctx).gov; gov != nil {
		return gov.Tracer(ctx, client, id)
	}
	return nil
}

// done says that the handshake succeeded.
func (h *handshake) done() {
	h.mu.Lock()
	defer h.mu.Unlock()
	h.over = true
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
