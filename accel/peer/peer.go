// Package peer joins one link with what both of its ends must share: the codec with its two logs, and the flows that use both.
//
// It owns the order in which a session begins and ends (nothing is opened, accepted or handled for the old session once the codec speaks to
// the new one; a stream of the old one that its user has not closed yet is dead and holds nothing up), the proof of work that makes a link
// count as up, and the translation between faults and abort codes.
// It knows nothing of sockets: what it opens and accepts are [Stream]s, which package flow pumps.
package peer

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"sync"
	"sync/atomic"
	"time"

	"golang.org/x/sync/errgroup"

	"wanpair/dedupe"
	"wanpair/transport"
)

// State is what a link is good for at the moment.
type State int

// The states of a link.
const (
	Down       State = iota // no lane
	Connecting              // a lane, but no proof of work yet or any more
	Up                      // a round trip through both codecs succeeded just now
)

func (s State) String() string {
	switch s {
	case Up:
		return "up"
	case Connecting:
		return "connecting"
	default:
		return "down"
	}
}

const (
	echoInterval = time.Second
	// echoStale is how old the last proof of work may be: beyond it the link counts as not working. Three missed rounds, so that gaps
	// below a second are never an alarm.
	echoStale = 3 * time.Second
	// maxEchoExtra bounds what a slow link adds to echoStale, so that a dead peer is known within 5 s.
	maxEchoExtra = 2 * time.Second
	echoBytes    = 8
	echoRetry    = 50 * time.Millisecond // after an echo that could not be sent or failed
)

// repairShare is the part of the credit budget that raw bytes of unacknowledged frames may take, so that the peer can be sent what it misses.
const repairShare = 4

// featureBits are the hello's bits for features of the codec.
func featureBits(f dedupe.Features) (bits uint64) {
	if f.Ahead {
		bits |= transport.FeatureUnackedReferences
	}
	if f.Repair {
		bits |= transport.FeatureRepair
	}
	if f.Scopes {
		bits |= transport.FeatureScopes
	}
	return bits
}

// common is what both sides understand.
func common(own dedupe.Features, theirs uint64) dedupe.Features {
	return dedupe.Features{
		Ahead:  own.Ahead && theirs&transport.FeatureUnackedReferences != 0,
		Repair: own.Repair && theirs&transport.FeatureRepair != 0,
		Scopes: own.Scopes && theirs&transport.FeatureScopes != 0,
	}
}

// ErrNotUp says that a flow cannot be opened now; its connection goes raw.
var ErrNotUp = errors.New("peer is not up")

// Config is what a Peer needs. Link.OnSession is set by New.
type Config struct {
	Name  string
	Log   *slog.Logger
	Link  transport.LinkConfig
	Cache dedupe.Config
	// Features are what this side says it understands; nil is all that there is.
	Features *dedupe.Features
	// Serve handles a flow the other side opened, in a goroutine of its own; it must end by calling Stream.Close.
	Serve func(context.Context, *Stream)
	// Class says which class a flow the other side opened belongs to here, for its share of the link. Nil: the one the other side named.
	Class func(OpenRequest) string
}

// Peer is one link's other end.
type Peer struct {
	name    string
	log     *slog.Logger
	link    *transport.Link
	codec   *dedupe.Codec
	serve   func(context.Context, *Stream)
	class   func(OpenRequest) string
	began   chan *transport.Session
	buffers buffers

	features dedupe.Features // of this side

	work sync.Mutex // held while a proof of work is in the codec: see Touch

	mu      sync.Mutex
	current *session // nil while no session is ready to open flows

	served sync.WaitGroup // flows that the other side opened, of all sessions

	echoRTT  atomic.Int64 // ns
	counters Counters
}

// Counters are raw bytes of all flows of this peer since start.
type Counters struct {
	LANSent      atomic.Int64 // taken from the LAN here and sent to the peer
	LANReceived  atomic.Int64 // received from the peer and delivered to the LAN here
	FlowsOpened  atomic.Int64
	FlowsServed  atomic.Int64
	FrameErrors  atomic.Int64 // frames that did not decode or verify
	FlowsAborted atomic.Int64
}

// New opens the peer's cache and prepares its link. It starts nothing.
func New(cfg Config) (*Peer, error) {
	if cfg.Cache.RepairBytes == 0 && cfg.Link.CreditBudgetBytes > 0 {
		cfg.Cache.RepairBytes = cfg.Link.CreditBudgetBytes / repairShare
	}
	codec, err := dedupe.Open(cfg.Cache)
	if err != nil {
		return nil, fmt.Errorf("peer %s: cache: %w", cfg.Name, err)
	}
	p := &Peer{
		name:  cfg.Name,
		log:   cfg.Log.With("peer", cfg.Name),
		codec: codec,
		serve: cfg.Serve,
		class: cfg.Class,
		began: make(chan *transport.Session, 1),
	}
	p.features = dedupe.AllFeatures
	if cfg.Features != nil {
		p.features = *cfg.Features
	}
	cfg.Link.Hello.Features |= featureBits(p.features)
	cfg.Link.Log = p.log
	cfg.Link.Hello.Features |= transport.FeatureWarm
	cfg.Link.OnSession = p.sessionBegan
	if p.link, err = transport.NewLink(cfg.Link); err != nil {
		return nil, errors.Join(fmt.Errorf("peer %s: %w", cfg.Name, err), codec.Close())
	}
	return p, nil
}

// Name is the peer's name in the configuration.
func (p *Peer) Name() string { return p.name }

// Link is where the tunnel's lanes are handed over.
func (p *Peer) Link() *transport.Link { return p.link }

// Codec gives the cache's figures.
func (p *Peer) Codec() *dedupe.Codec { return p.codec }

// Counters gives the peer's byte and flow counts.
func (p *Peer) Counters() *Counters { return &p.counters }

// EchoRTT is the last round trip through accept queue, both codecs and back; 0 before the first.
func (p *Peer) EchoRTT() time.Duration { return time.Duration(p.echoRTT.Load()) }

// Drain asks the other side for no new flows; running ones go on.
func (p *Peer) Drain(reason string) {
	if s := p.session(); s != nil {
		s.GoAway(goAwayShutdown, reason)
	}
}

const goAwayShutdown = 1 // protocol A2

// State says what the link is good for at this moment.
func (p *Peer) State() State {
	s := p.session()
	if s == nil || !s.Up() {
		if ls := p.link.Session(); ls == nil || !ls.Up() {
			return Down
		}
		return Connecting
	}
	if s.PeerDraining() {
		return Connecting
	}
	if last := s.lastEcho.Load(); last == nil || time.Since(*last) > p.patience() {
		return Connecting
	}
	return Up
}

// Touch returns when no proof of work is in the codec, at once as a rule: where encoder or decoder hangs it does so too.
func (p *Peer) Touch() {
	p.work.Lock()
	defer p.work.Unlock()
}

// patience is how old the last proof of work may be: on a slow link with a full, deep queue a round trip takes its time although all works.
func (p *Peer) patience() time.Duration { return echoStale + min(2*p.EchoRTT(), maxEchoExtra) }

// sessionBegan is called by the link for a new session, before anything of it is delivered.
func (p *Peer) sessionBegan(s *transport.Session) {
	for {
		select {
		case p.began <- s:
			return
		default:
		}
		select {
		case <-p.began: // an older one that was never served has ended already
		default:
		}
	}
}

// Run serves the link until ctx ends, then closes the cache.
func (p *Peer) Run(ctx context.Context) error {
	group, ctx := errgroup.WithContext(ctx)
	group.Go(func() error { return p.link.Run(ctx) })
	group.Go(func() error { return p.serveSessions(ctx) })
	err := group.Wait()
	p.served.Wait()
	if closeErr := p.codec.Close(); closeErr != nil { // costs a colder cache at the next start, no byte
		p.log.Warn("cache did not close cleanly", "err", closeErr)
	}
	return err
}

func (p *Peer) serveSessions(ctx context.Context) error {
	for {
		select {
		case <-ctx.Done():
			return nil
		case s := <-p.began:
			if err := p.serveSession(ctx, s); err != nil && ctx.Err() == nil {
				p.log.Warn("session ended", "err", err)
			}
		}
	}
}

// serveSession runs one session from its first codec message to its end. Its streams are dead then, but their users may need a while to
// notice: a connection whose other end does not read, a dial under way. The next session does not wait for them.
func (p *Peer) serveSession(ctx context.Context, ts *transport.Session) error {
	s := &session{Session: ts, peer: p, streams: make(map[*Stream]struct{})}
	if err := p.codec.Begin(ts.SendCodec, common(p.features, ts.Peer().Features)); err != nil {
		ts.End(err, transport.AbortInternal)
		return fmt.Errorf("begin codec: %w", err)
	}
	p.setCurrent(s)
	p.log.Info("session began", "site", ts.Peer().Site, "version", ts.Peer().Software)

	outer := ctx
	group, ctx := errgroup.WithContext(ctx)
	group.Go(func() error { return s.handleMessages(ctx) })
	group.Go(func() error { return s.acceptStreams(ctx) })
	group.Go(func() error { return s.proveWork(ctx) })
	group.Go(func() error {
		select {
		case <-ctx.Done():
			if outer.Err() == nil { // one of the others failed
				ts.End(context.Cause(ctx), transport.AbortInternal)
			}
			return nil
		case <-ts.Done():
			return ts.Err()
		}
	})
	err := group.Wait()

	p.setCurrent(nil)
	if err == nil {
		err = transport.ErrLinkStopped
	}
	ts.End(err, transport.AbortLinkLost)
	s.end()
	return err
}

func (p *Peer) setCurrent(s *session) {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.current = s
}

func (p *Peer) session() *session {
	p.mu.Lock()
	defer p.mu.Unlock()
	return p.current
}

// Hello is what the other side said of itself; the zero value while there is no session.
func (p *Peer) Hello() transport.Hello {
	if s := p.session(); s != nil {
		return s.Peer()
	}
	return transport.Hello{}
}

// Open begins a flow to the other side. It fails with ErrNotUp when the connection had better go raw.
func (p *Peer) Open(r OpenRequest) (*Stream, error) {
	s := p.session()
	if s == nil || p.State() != Up {
		return nil, ErrNotUp
	}
	stream, err := s.open(r)
	if err == nil {
		p.counters.FlowsOpened.Add(1)
	}
	return stream, err
}
