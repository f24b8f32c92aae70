package history

import "time"

// How much is asked of the disk at a time.
const (
	readAhead    = 4  // blocks of a log that are fetched behind one that was read after its predecessor
	aheadAtMost  = 32 // with so many on their way nothing is fetched ahead
	quickAtMost  = 64 // with so many on their way Quick asks for nothing
	alwaysAtMost = 448
)

// load is a read that several callers may wait for.
type load struct {
	done  chan struct{}
	ahead bool   // nobody asked for it yet
	block *Block // when done; nil when it failed
	gone  bool   // when done: it will not come back
}

// Get returns a block that is open, hot or on disk. Without one, gone says that it is not held; otherwise the disk took too long (LongWait).
func (s *Store) Get(k Key) (b *Block, gone bool) { return s.get(k, s.cfg.LongWait, alwaysAtMost) }

// Quick is Get for somebody who can do without: it waits for QuickWait.
func (s *Store) Quick(k Key) (b *Block, gone bool) { return s.get(k, s.cfg.QuickWait, quickAtMost) }

// Hot returns a block that is in memory, or nil.
func (s *Store) Hot(k Key) *Block { return s.hot.get(k) }

func (s *Store) get(k Key, wait time.Duration, limit int) (b *Block, gone bool) {
	if b := s.hot.get(k); b != nil {
		if b.ahead.Load() && b.ahead.CompareAndSwap(true, false) {
			s.fetch(Key{k.Log, k.Number + readAhead})
		}
		return b, false
	}
	l, since, gone := s.begin(k, limit, false)
	if l == nil {
		return nil, gone
	}
	if k.Number > 0 && s.hot.get(Key{k.Log, k.Number - 1}) != nil {
		for i := range uint64(readAhead) {
			s.fetch(Key{k.Log, k.Number + 1 + i})
		}
	}
	if !l.await(wait, since) {
		s.Late.Add(1)
		return nil, false
	}
	return l.block, l.gone
}

// await waits for a load, as long as wait, less the time for which the disk has stood still: so a disk that hangs is waited for once and not for
// every block.
func (l *load) await(wait time.Duration, since time.Time) bool {
	if wait == 0 {
		<-l.done
		return true
	}
	wait -= time.Since(since)
	if wait <= 0 {
		select {
		case <-l.done:
			return true
		default:
			return false
		}
	}
	t := time.NewTimer(wait)
	defer t.Stop()
	select {
	case <-l.done:
		return true
	case <-t.C:
		return false
	}
}

// fetch begins to load a block that is likely to be asked for.
func (s *Store) fetch(k Key) {
	if s.hot.get(k) == nil {
		s.begin(k, aheadAtMost, true)
	}
}

// begin returns the load of a block, a new one when there is none, unless too many are under way. since is from when on the disk has owed an answer
// and not given any.
func (s *Store) begin(k Key, limit int, ahead bool) (l *load, since time.Time, gone bool) {
	s.mu.Lock()
	defer s.mu.Unlock()
	now := time.Now()
	if len(s.loads) == 0 {
		s.idle = now
	}
	since = s.idle
	if l := s.loads[k]; l != nil {
		return l, since, false
	}
	switch {
	case !s.present[k.Log].has(k.Number):
		return nil, since, s.hot.get(k) == nil // it may have come meanwhile; then the next time finds it
	case s.closed || len(s.loads) >= limit:
		return nil, since, false
	}
	l = &load{done: make(chan struct{}), ahead: ahead}
	s.loads[k] = l
	s.wait.Go(func() { s.load(k, l) })
	return l, since, false
}

// load reads a block from disk.
func (s *Store) load(k Key, l *load) {
	data, about, err := s.disk.Get(k)
	var b *Block
	if err == nil {
		b = sealedBlock(k, data, about)
		b.ahead.Store(l.ahead)
		b.used.Store(l.ahead) // somebody is about to
		s.Reads.Add(1)
	}
	var lost []Key
	s.mu.Lock()
	mine := s.loads[k] == l // not after a Reset
	if mine {
		delete(s.loads, k)
	}
	if err == nil || isGone(err) {
		s.idle = time.Now()
	}
	switch {
	case !mine:
		b = nil
	case b == nil:
		if l.gone = isGone(err); l.gone && s.present[k.Log].has(k.Number) {
			s.present[k.Log].remove(k.Number)
			lost = []Key{k}
		}
	case s.present[k.Log].has(k.Number): // not forgotten meanwhile
		lost = s.hot.release(b, evictable)
		if l.block = s.hot.get(k); l.block == nil {
			l.block = b
		}
	}
	s.mu.Unlock()
	close(l.done)
	s.report(lost)
	if mine && err != nil && !l.gone {
		s.Failed.Add(1)
	}
}
