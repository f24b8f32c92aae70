package stats

import (
	"slices"
	"sync"
	"time"
)

// Kind is what an event is about.
type Kind string

// The kinds of events, a closed set.
const (
	EventStarted        Kind = "started"
	EventStopping       Kind = "stopping"
	EventReloaded       Kind = "reloaded"
	EventPeerUp         Kind = "peer_up"
	EventPeerDown       Kind = "peer_down"
	EventSubnetMismatch Kind = "subnet_mismatch"
	EventBypassOn       Kind = "bypass_on"
	EventBypassOff      Kind = "bypass_off"
	EventRepair         Kind = "repair"
	EventCacheOff       Kind = "cache_off"
	EventCacheOn        Kind = "cache_on"
	EventOverload       Kind = "overload"
	EventOverloadOver   Kind = "overload_over"
	EventIntercept      Kind = "intercept"
)

// Event is one change worth telling people.
type Event struct {
	Time  time.Time `json:"time"` // of the last occurrence
	Kind  Kind      `json:"kind"`
	Peer  string    `json:"peer,omitempty"`
	Text  string    `json:"text"`
	Count int       `json:"count"` // more than 1 when the same event followed itself
}

// Events keeps the latest events. It may be used by any number of goroutines.
type Events struct {
	mu    sync.Mutex
	ring  []Event // guarded by mu
	next  int     // where the next event goes, guarded by mu
	total uint64  // ever added, guarded by mu
}

// NewEvents keeps the latest n events.
func NewEvents(n int) *Events {
	return &Events{ring: make([]Event, 0, max(1, n))}
}

// eventTextLimit bounds an event's text in bytes, since parts of it may come from a peer.
const eventTextLimit = 400

// Add notes an event at this moment. An event like the one before it only raises that one's count, so that a flapping link does not push out all others.
func (e *Events) Add(kind Kind, peer, text string) {
	if len(text) > eventTextLimit {
		text = text[:eventTextLimit]
	}
	now := time.Now()
	e.mu.Lock()
	defer e.mu.Unlock()
	e.total++
	if n := len(e.ring); n > 0 {
		last := &e.ring[(e.next+n-1)%n]
		if last.Kind == kind && last.Peer == peer && last.Text == text {
			last.Time = now
			last.Count++
			return
		}
	}
	event := Event{Time: now, Kind: kind, Peer: peer, Text: text, Count: 1}
	if len(e.ring) < cap(e.ring) {
		e.ring = append(e.ring, event)
		return
	}
	e.ring[e.next] = event
	e.next = (e.next + 1) % len(e.ring)
}

// Latest returns at most n events, newest first.
func (e *Events) Latest(n int) []Event {
	e.mu.Lock()
	defer e.mu.Unlock()
	out := make([]Event, 0, len(e.ring))
	out = append(out, e.ring[e.next:]...)
	out = append(out, e.ring[:e.next]...)
	slices.Reverse(out)
	return out[:min(max(n, 0), len(out))]
}

// Total returns how many events were ever added.
func (e *Events) Total() uint64 {
	e.mu.Lock()
	defer e.mu.Unlock()
	return e.total
}
