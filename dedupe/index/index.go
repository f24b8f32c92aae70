// Package index maps fingerprints to log positions in a flat table that any number of goroutines read and write at once.
//
// A bucket is one cache line of eight entries. An entry is one word: 1 bit log, 23 bits tag, the low 40 bits of the position; zero is empty.
// The rest of a position is restored from the log's head, so a live log must stay below 2^40 bytes. There are no deletes: what lies below a
// log's tail counts as empty, and the oldest entry of a full bucket gives way. Of one tag the three newest entries are kept.
//
// The index may lose entries at any moment (two writers of one slot) and may name positions that hold other bytes (a tag is 23 bits):
// whoever uses a hit compares the bytes first.
package index

import (
	"math/bits"
	"runtime"
	"sync/atomic"
	"unsafe"

	"wanpair/dedupe/anchor"
)

// Bucket is the number of entries that share a cache line.
const Bucket = 8

// EntryBytes is the size of an entry.
const EntryBytes = 8

// maxTwins is how many places of one window are kept: more help little and push out other windows.
const maxTwins = 3

// Logs is the number of logs an entry can name.
const Logs = 2

const (
	positionBits = 40
	positionMask = 1<<positionBits - 1
	tagBits      = 23
	tagMask      = (1<<tagBits - 1) << positionBits
	logShift     = positionBits + tagBits
)

// Hit is a place where the window of a fingerprint may have been stored: the position just behind the window.
type Hit struct {
	Log      uint8
	Position uint64
}

// Index is the table. Create it with New.
type Index struct {
	table   []uint64
	buckets uint64
	bounds  [Logs]bounds
}

// bounds are the live positions of a log.
type bounds struct {
	tail, head atomic.Uint64
	_          [48]byte // the heads move all the time: keep the two logs off one cache line
}

// New returns an empty index of about entries entries, at least one bucket.
func New(entries int64) *Index {
	n := max(uint64(entries)/Bucket, 1)
	mem, release := reserve(int(n) * Bucket * EntryBytes)
	ix := &Index{table: unsafe.Slice((*uint64)(unsafe.Pointer(unsafe.SliceData(mem))), int(n)*Bucket), buckets: n}
	if release != nil {
		// Encoders may still read when the codec is closed, so the pages go when nobody can reach the index any more.
		runtime.AddCleanup(ix, func(m []byte) { release(m) }, mem)
	}
	return ix
}

// Populate claims the table's memory, so that the first insertions do not pay for it. It may run beside lookups and insertions.
func (ix *Index) Populate() {
	populate(unsafe.Slice((*byte)(unsafe.Pointer(unsafe.SliceData(ix.table))), len(ix.table)*EntryBytes))
}

// Bytes is the size of the table.
func (ix *Index) Bytes() int64 { return int64(len(ix.table)) * EntryBytes }

// SetHead tells the first position above everything used of a log.
func (ix *Index) SetHead(log uint8, head uint64) { ix.bounds[log&1].head.Store(head) }

// RaiseHead is SetHead, unless the head is higher already.
func (ix *Index) RaiseHead(log uint8, head uint64) {
	h := &ix.bounds[log&1].head
	for old := h.Load(); head > old && !h.CompareAndSwap(old, head); old = h.Load() {
	}
}

// SetTail tells the first live position of a log; entries below it count as empty.
func (ix *Index) SetTail(log uint8, tail uint64) { ix.bounds[log&1].tail.Store(tail) }

// bucket returns the bucket of a fingerprint and the tag as it stands in an entry.
func (ix *Index) bucket(fp uint64) (b []uint64, tag uint64) {
	hi, _ := bits.Mul64(fp<<(64-anchor.FingerprintBits), ix.buckets)
	i := hi * Bucket
	return ix.table[i : i+Bucket : i+Bucket], fp << positionBits & tagMask
}

// age returns how far below the log's head an entry's position lies, and false when it lies below the tail.
func (ix *Index) age(entry uint64) (uint64, bool) {
	b := &ix.bounds[entry>>logShift]
	head := b.head.Load()
	age := (head - entry) & positionMask
	return age, age <= head-b.tail.Load()
}

// Lookup writes the live places of a fingerprint to hits and returns how many there are.
func (ix *Index) Lookup(fp uint64, hits *[Bucket]Hit) int {
	b, tag := ix.bucket(fp)
	n := 0
	for i := range b {
		e := atomic.LoadUint64(&b[i])
		if (e^tag)&tagMask != 0 || e == 0 {
			continue
		}
		age, live := ix.age(e)
		if !live {
			continue
		}
		log := uint8(e >> logShift)
		hits[n] = Hit{log, ix.bounds[log].head.Load() - age}
		n++
	}
	return n
}

// Touch fetches what Lookup and Insert of the fingerprint read into the processor's cache. Several calls in a row wait for memory once.
func (ix *Index) Touch(fp uint64) {
	b, _ := ix.bucket(fp)
	atomic.LoadUint64(&b[0])
}

// Insert remembers that a window with this fingerprint ends just before position.
func (ix *Index) Insert(fp uint64, log uint8, position uint64) {
	b, tag := ix.bucket(fp)
	entry := uint64(log&1)<<logShift | tag | position&positionMask
	slot, oldest := 0, uint64(0)
	twin, twinAge, twins := 0, uint64(0), 0
	for i := range b {
		e := atomic.LoadUint64(&b[i])
		if e == entry {
			return
		}
		if e == 0 {
			slot, oldest = i, ^uint64(0)
			break // slots fill from the front and are never emptied: no twin behind
		}
		age, live := ix.age(e)
		if !live {
			age = positionMask // stale entries of all logs give way first
		}
		if (e^tag)&tagMask == 0 {
			twins++
			if age >= twinAge {
				twin, twinAge = i, age
			}
		}
		if age >= oldest {
			slot, oldest = i, age
		}
	}
	if twins >= maxTwins {
		slot, oldest = twin, twinAge
	}
	if age, live := ix.age(entry); !live || age > oldest {
		return // a rebuild runs from new to old: what it brings late must not push out what is newer
	}
	atomic.StoreUint64(&b[slot], entry)
}
