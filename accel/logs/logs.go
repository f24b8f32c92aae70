// Package logs owns the names of the fields in log lines, and the limit on lines that repeat.
//
// It promises that a field means the same in every line, and that a fault that happens a thousand times a second does not fill the disk: of lines that say the
// same about the same peer a few are written per period, and the next one says how many were left out.
//
// Its nouns: a Field is a name with its meaning; a Limiter is a slog.Handler before another one.
package logs

import (
	"context"
	"fmt"
	"log/slog"
	"slices"
	"strings"
	"sync"
	"time"
)

// Field is the name of a field and what it means.
type Field struct{ Name, Meaning string }

// Fields lists every name that may be used. A test holds the calls in this module to it.
func Fields() []Field {
	return []Field{
		{"applied", "sections of the configuration that were taken over"},
		{"bytes", "raw bytes"},
		{"detail", "what exactly does not match"},
		{"doing", "what was attempted"},
		{"dst", "where the client connects to, address and port"},
		{"endpoint", "address of a peer's box as configured"},
		{"epoch", "directory of the cache that holds a stretch of the history"},
		{"err", "what went wrong"},
		{"file", "path of a file"},
		{"finding", "something on this host that stands in the way"},
		{"flow", "number of the connection, as in /api/v1/flows"},
		{"flows", "number of connections"},
		{"from_edge_bytes", "raw bytes read from the local connection"},
		{"key", "public key"},
		{"lane", "number of a connection of the tunnel"},
		{"lanes", "number of connections of the tunnel"},
		{"listener", "forward or SOCKS5 listener"},
		{"peer", "name of the peer as configured"},
		{"reason", "name of a reason, see docs/reasons.md, or the peer's own words"},
		{"remedy", "what to do about the finding"},
		{"remote", "UDP address of the peer's box as seen"},
		{"restarted", "whether the peer is a new process"},
		{"retry_in", "time until the next attempt"},
		{"rtt", "round trip of a proof of work"},
		{"sections", "sections of the configuration"},
		{"site", "name of a site as it calls itself"},
		{"software", "version the peer runs"},
		{"src", "the client, address and port"},
		{"state", "state of the peer or the service"},
		{"stats", "address of the stats endpoint"},
		{"suppressed", "how many lines like this one were left out before it"},
		{"table", "nftables table"},
		{"timeout", "how long is waited"},
		{"to_edge_bytes", "raw bytes written to the local connection"},
		{"tunnel", "UDP address of the tunnel"},
		{"version", "version of wanpair"},
		{"warning", "something in the configuration that is allowed but hardly meant"},
		{"why", "why it was done"},
		{"wire_bytes", "what raw bytes became in frames"},
	}
}

// Markdown writes the fields as a table for the documentation.
func Markdown() string {
	var b strings.Builder
	b.WriteString(`# Fields of log lines

One name means one thing in every line, as text and as JSON, beside ` + "`time`, `level` and `msg`" + `. This page is made from the table in ` + "`accel/logs`" + ` by
` + "`go generate ./accel/logs`" + `.

| field | meaning |
|---|---|
`)
	for _, f := range Fields() {
		fmt.Fprintf(&b, "| `%s` | %s |\n", f.Name, f.Meaning)
	}
	return b.String()
}

const (
	burst   = 5                // lines alike that are written per period
	period  = 10 * time.Second // counted from the first of them
	maxKeys = 1024             // kinds of lines remembered; beyond them all are forgotten at once
)

// Limiter passes records on to another handler: lines of level info and above that say the same about the same peer only a few times per period, and no field
// twice in a line. Debug lines are what somebody asked for: they are not limited.
type Limiter struct {
	next  slog.Handler
	bound []slog.Attr // top-level fields given with With
	group bool        // inside a group: fields are passed as they are
	state *limits     // shared by all handlers made from one
}

type limits struct {
	mu   sync.Mutex
	seen map[string]*repeats // guarded by mu
}

// repeats counts the lines of one kind.
type repeats struct {
	since   time.Time
	written int
	dropped int
}

// NewLimiter puts a limit before a handler.
func NewLimiter(next slog.Handler) *Limiter {
	return &Limiter{next: next, state: &limits{seen: map[string]*repeats{}}}
}

// Enabled asks the next handler.
func (l *Limiter) Enabled(ctx context.Context, level slog.Level) bool {
	return l.next.Enabled(ctx, level)
}

// Handle passes a record on, without fields it has twice, or drops it.
func (l *Limiter) Handle(ctx context.Context, r slog.Record) error {
	out := slog.NewRecord(r.Time, r.Level, r.Message, r.PC)
	about := ""
	for _, a := range l.bound {
		if a.Key == "peer" {
			about = a.Value.String()
		}
	}
	seen := make([]string, 0, 8)
	r.Attrs(func(a slog.Attr) bool {
		if !l.group {
			for _, b := range l.bound {
				if a.Key == b.Key {
					return true
				}
			}
			if slices.Contains(seen, a.Key) {
				return true
			}
			seen = append(seen, a.Key)
		}
		if a.Key == "peer" {
			about = a.Value.String()
		}
		out.AddAttrs(a)
		return true
	})
	if r.Level >= slog.LevelInfo {
		write, dropped := l.state.admit(r.Time, r.Message+"\x00"+about)
		if !write {
			return nil
		}
		if dropped > 0 {
			out.AddAttrs(slog.Int("suppressed", dropped))
		}
	}
	return l.next.Handle(ctx, out)
}

// admit says whether a line of a kind is written now, and how many before it were not.
func (s *limits) admit(now time.Time, kind string) (write bool, dropped int) {
	s.mu.Lock()
	defer s.mu.Unlock()
	k := s.seen[kind]
	if k == nil {
		if len(s.seen) >= maxKeys {
			clear(s.seen)
		}
		k = &repeats{since: now}
		s.seen[kind] = k
	}
	if now.Sub(k.since) >= period || now.Before(k.since) {
		dropped = k.dropped
		*k = repeats{since: now}
	}
	if k.written >= burst {
		k.dropped++
		return false, 0
	}
	k.written++
	return true, dropped
}

// WithAttrs binds fields.
func (l *Limiter) WithAttrs(attrs []slog.Attr) slog.Handler {
	out := *l
	out.next = l.next.WithAttrs(attrs)
	if !l.group {
		out.bound = append(slices.Clip(l.bound), attrs...)
	}
	return &out
}

// WithGroup opens a group.
func (l *Limiter) WithGroup(name string) slog.Handler {
	out := *l
	out.next = l.next.WithGroup(name)
	out.group = l.group || name != ""
	return &out
}
