package dedupe

import (
	"crypto/rand"
	"encoding/binary"
	"errors"
	"fmt"
	"slices"
	"sync"
	"sync/atomic"

	"wanpair/dedupe/anchor"
	"wanpair/dedupe/history"
	"wanpair/dedupe/index"
	"wanpair/dedupe/ledger"
	"wanpair/dedupe/literal"
	"wanpair/dedupe/token"
)

// Log numbers as this side's encoders write them: the log this side writes, and the log the peer writes. In a frame that arrives they are
// the other way round.
const (
	own  = 0
	peer = 1
)

// Errors of Encode and Decode. A flow that met one of them, or a *MissError, is dead: its frames can no longer be told apart.
var (
	// ErrGrammar means that a frame or message breaks the protocol (abort code CODEC).
	ErrGrammar = token.ErrGrammar
	// ErrChecksum means that a frame or a whole direction is not what the sender encoded (abort code CHECKSUM).
	ErrChecksum = errors.New("decoded bytes do not match their checksum")
	// ErrSession means that the encoder or decoder belongs to a session that has ended.
	ErrSession = errors.New("session of this encoder or decoder has ended")
	// ErrClosed means that the codec, encoder or decoder was closed.
	ErrClosed = errors.New("codec is closed")
)

// MissError says that a copy could not be resolved, or was resolved to wrong bytes (abort code CACHE_MISS). The blocks named were struck on
// both sides, so the same data will go through when the flow's owner tries again.
type MissError struct {
	Blocks int // number of blocks struck
}

// Error describes the miss.
func (e *MissError) Error() string {
	return fmt.Sprintf("history does not hold what a frame refers to (%d blocks struck)", e.Blocks)
}

// logState is what the codec knows of one of the two logs.
type logState struct {
	ledger ledger.Table
	tail   atomic.Uint64 // positions below are not referenced any more
	head   atomic.Uint64 // first position above everything used
	retain atomic.Uint64 // copies from below are stored again whatever their length
}

// Codec is the dedupe of one link: both logs, their index and ledgers, and the memory that flows borrow. Create it with Open.
type Codec struct {
	cfg     Config
	plan    Plan
	store   *history.Store
	index   *index.Index
	pool    *literal.Pool
	scratch chan *scratch
	// fingerprint names the window before an anchor: anchor.Fingerprint, or something worse in tests.
	fingerprint func(window []byte) uint64
	logs        [2]logState
	stats       counters
	effort      effort

	// life is held for reading by Encode and Decode, for writing while a session begins or the codec closes.
	life   sync.RWMutex
	closed bool
	sess   atomic.Pointer[session]

	lead    sync.Mutex // held by the encoder that finds what no flow has sent, until it is stored
	repairs repairs
	parking parking

	writer   writer   // own log
	receiver receiver // peer's log
	evict    evictor

	flows struct {
		sync.Mutex
		encoders map[*Encoder]struct{}
		byFlow   map[uint64]*Encoder
		ids      uint64
	}

	rebuild sync.WaitGroup
	stop    chan struct{}
}

// Open opens the codec of one link and reads what its directory holds; the index is rebuilt in the background. It fails only for an impossible
// configuration, a directory that cannot be made, or one that another process uses (history.ErrLocked): damage on disk is a cold cache.
func Open(cfg Config) (*Codec, error) {
	cfg, err := cfg.withDefaults()
	if err != nil {
		return nil, err
	}
	c := &Codec{cfg: cfg, plan: plan(cfg), stop: make(chan struct{}), scratch: make(chan *scratch, cfg.Concurrency), fingerprint: anchor.Fingerprint}
	c.flows.encoders = map[*Encoder]struct{}{}
	c.flows.byFlow = map[uint64]*Encoder{}
	c.repairs.limit = cfg.RepairBytes
	for range cfg.Concurrency {
		c.scratch <- nil // made when first borrowed
	}
	if c.pool, err = literal.NewPool(min(cfg.Concurrency, 8)); err != nil {
		return nil, err
	}
	var writerID [8]byte
	_, _ = rand.Read(writerID[:]) // never fails
	c.writer.instance = binary.BigEndian.Uint64(writerID[:])
	hot := c.plan.HotBytes
	if cfg.Dir == "" {
		hot = min(hot, cfg.SizeBytes)
	}
	if c.store, err = c.openStore(hot); err != nil {
		c.pool.Close()
		return nil, err
	}
	c.index = index.New(c.plan.IndexBytes / index.EntryBytes)
	for log := range uint8(2) {
		c.load(log)
	}
	c.writer.next = c.logs[own].head.Load() >> history.BlockShift
	c.rebuild.Go(c.rebuildIndex)
	return c, nil
}

// load takes over what the store knows of a log.
func (c *Codec) load(log uint8) {
	l := &c.logs[log]
	st := c.store.State(log)
	end := c.store.Held(log, func(number uint64, n int) { l.ledger.SetMine(number, n) })
	head := max(st.Head, end<<history.BlockShift)
	l.tail.Store(st.Tail)
	l.head.Store(head)
	c.index.SetTail(log, st.Tail)
	c.index.SetHead(log, head)
}

// rebuildIndex puts the anchors of what is on disk back into the index, newest first, while traffic flows.
func (c *Codec) rebuildIndex() {
	c.index.Populate()
	c.store.EachAnchors(func(k history.Key, packed []uint64) bool {
		select {
		case <-c.stop:
			return false
		default:
		}
		if c.logs[k.Log].ledger.Mine(k.Number) == 0 {
			return true
		}
		for _, v := range packed {
			end, fp := history.UnpackAnchor(v)
			c.index.Insert(fp, k.Log, k.Number<<history.BlockShift+uint64(end))
		}
		return true
	})
}

// WaitRebuilt blocks until the index is back.
func (c *Codec) WaitRebuilt() { c.rebuild.Wait() }

// Flush blocks until everything sealed so far is on disk.
func (c *Codec) Flush() { c.store.Flush() }

// Close ends all encoders and decoders, writes open blocks and waits for the codec's goroutines.
func (c *Codec) Close() error {
	c.life.Lock()
	if c.closed {
		c.life.Unlock()
		return nil
	}
	c.closed = true
	c.sess.Store(nil)
	c.life.Unlock()
	close(c.stop)
	c.rebuild.Wait()
	c.store.SetHead(own, c.logs[own].head.Load())
	c.store.SetHead(peer, c.logs[peer].head.Load())
	err := c.store.Close()
	c.pool.Close()
	return err
}

// strike gives up blocks of a log, a list that it may sort, on this side and tells the other side: RETRACT for its log, SEAL at 0 for ours.
func (c *Codec) strike(log uint8, blocks []uint64) {
	if len(blocks) == 0 {
		return
	}
	slices.Sort(blocks)
	l := &c.logs[log]
	retract := token.Message{Kind: token.KindRetract}
	for _, b := range blocks {
		if l.ledger.Struck(b) && l.ledger.Mine(b) == 0 {
			continue
		}
		if l.ledger.Known(b) { // else it need not be forbidden, and a peer could make the table grow by naming any block
			l.ledger.Strike(b)
			l.ledger.SetMine(b, 0)
		}
		c.stats.struck.Add(1)
		c.store.Forget(history.Key{Log: log, Number: b}, 0)
		if log == own {
			c.post(&token.Message{Kind: token.KindSeal, Block: b})
			continue
		}
		c.receiver.forget(b)
		c.parking.closed(b)
		retract.Ranges = append(retract.Ranges, token.Range{First: b, Count: 1})
		if len(retract.Ranges) == token.MaxRanges {
			c.post(&retract)
			retract.Ranges = nil
		}
	}
	if len(retract.Ranges) > 0 {
		c.post(&retract)
	}
}
