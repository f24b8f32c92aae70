package stats

import (
	"maps"
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

// Kinds lists all kinds of events.
func Kinds() []Kind {
	return []Kind{
		EventStarted, EventStopping, EventReloaded, EventPeerUp, EventPeerDown, EventSubnetMismatch, EventBypassOn, EventBypassOff, EventRepair,
		EventCacheOff, EventCacheOn, EventOverload, EventOverloadOver, EventIntercept,
	}
}

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
	mu     sync.Mutex
	latest ring[Event]     // guarded by mu
	totals map[Kind]uint64 // ever added, guarded by mu
}

// NewEvents keeps the latest n events.
func NewEvents(n int) *Events {
	return &Events{latest: newRing[Event](max(1, n)), totals: map[Kind]uint64{}}
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
	e.totals[kind]++
	if last := e.latest.newest(); last != nil && last.Kind == kind && last.Peer == peer && last.Text == text {
		last.Time = now
		last.Count++
		return
	}
	e.latest.push(Event{Time: now, Kind: kind, Peer: peer, Text: text, Count: 1})
}

// Latest returns at most n events, newest first.
func (e *Events) Latest(n int) []Event {
	e.mu.Lock()
	defer e.mu.Unlock()
	out := make([]Event, 0, max(0, min(n, e.latest.len())))
	for i := range cap(out) {
		out = append(out, e.latest.at(e.latest.len()-1-i))
	}
	return out
}

// Totals returns how many events of each kind were ever added.
func (e *Events) Totals() map[Kind]uint64 {
	e.mu.Lock()
	defer e.mu.Unlock()
	return maps.Clone(e.totals)
}
