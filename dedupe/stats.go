package dedupe

import (
	"math"
	"sync/atomic"
)

// counters are what Stats sums up, since Open.
type counters struct {
	rawIn, rawOut      atomic.Int64
	matched, literal   atomic.Int64
	literalOut, copies atomic.Int64
	stored, storedIn   atomic.Int64
	cipher             atomic.Int64
	opaque             atomic.Int64
	misses, struck     atomic.Int64
	repairs, repaired  atomic.Int64
	needs              atomic.Int64
	ahead, parked      atomic.Int64
	failed             atomic.Int64
	matchedIn          atomic.Int64
	literalIn          atomic.Int64
	literalCodedIn     atomic.Int64
	opaqueIn           atomic.Int64
	hitAge             atomic.Uint64 // bits of a float64, bytes
}

// hitAgeBytes is the number of matched bytes over which the age of hits is averaged.
const hitAgeBytes = 64 << 20

// noteHits averages how far behind the heads of their logs the copies of a frame lay. Two frames at the same moment may cost one of them its say.
func (c *Codec) noteHits(spans []span) {
	var sum, n float64
	for i := range spans {
		x := &spans[i]
		if head := c.logs[x.log].head.Load(); head > x.pos {
			sum += float64(head-x.pos) * float64(x.n)
		}
		n += float64(x.n)
	}
	if n == 0 {
		return
	}
	old := c.stats.hitAge.Load()
	age := math.Float64frombits(old)
	weight := min(1, n/hitAgeBytes)
	if age == 0 {
		weight = 1 // the first hits
	}
	c.stats.hitAge.CompareAndSwap(old, math.Float64bits(age+(sum/n-age)*weight))
}

// Stats are counts since Open, in bytes unless said otherwise, and present sizes.
type Stats struct {
	EncodedRawBytes    int64 // given to encoders
	DecodedRawBytes    int64 // returned by decoders
	MatchedBytes       int64 // of the encoded ones, sent as copies
	LiteralBytes       int64 // of the encoded ones, sent as literals
	LiteralCodedBytes  int64 // what the literals took after zstd
	MatchedInBytes     int64 // of the decoded ones, came as copies
	LiteralInBytes     int64 // of the decoded ones, came as literals
	LiteralInCoded     int64 // what those literals took on the wire
	CiphertextBytes    int64 // of the literals, recognised as encrypted by the application
	OpaqueBytes        int64 // of the literals: encrypted, only relayed, or of a flow that neither repeats nor compresses
	OpaqueInBytes      int64 // of the literals decoded: came hardly smaller than they are, at least opaqueFrame of them in a frame
	Copies             int64 // number of copies sent
	HitAgeBytes        int64 // how far behind the head of its log what was copied lay, averaged by bytes over about the last 64 MiB matched
	StoredBytes        int64 // added to the log we write
	StoredPeerBytes    int64 // added to our copy of the peer's log
	Misses             int64 // frames that referred to what was not held and were not repaired: each ended its flow
	Repairs            int64 // frames that referred to what was not held and were sent the bytes for
	RepairedBytes      int64 // those bytes
	Needs              int64 // how often the peer asked for bytes
	AheadFrames        int64 // frames sent that refer to bytes under way
	Waits              int64 // how often a frame that arrived waited for bytes under way
	RepairKeptBytes    int64 // raw bytes of unacknowledged frames kept now
	StruckBlocks       int64 // blocks given up, by us or by the peer
	FailedFrames       int64 // frames that did not decode
	CacheBytes         int64 // on disk now
	CacheCapacityBytes int64
	HotBytes           int64 // sealed blocks in memory now
	OpenBytes          int64 // blocks being filled or waiting for the disk now
	WriteBacklogBytes  int64 // waiting for the disk now
	IndexBytes         int64
	DiskReads          int64  // blocks read from disk
	DiskFailures       int64  // blocks that could not be written or read
	DiskLate           int64  // blocks that nobody waited for any longer
	StoreRestarts      int64  // of the process that keeps the history on disk
	StoreEpochs        int    // on disk, both logs
	StoreFull          bool   // the file system has no space to spare: nothing is written
	StoreOff           string // why nothing on disk can be used at the moment; "" while it can
	EffortLevel        int    // least zstd level of literals at present: 0 fastest to 2 better
	StreamingContexts  int    // in use now, both directions
}

// Stats returns the counts.
func (c *Codec) Stats() Stats {
	z, st := c.store.Sizes(), c.store.Status()
	return Stats{
		EncodedRawBytes:    c.stats.rawIn.Load(),
		DecodedRawBytes:    c.stats.rawOut.Load(),
		MatchedBytes:       c.stats.matched.Load(),
		LiteralBytes:       c.stats.literal.Load(),
		LiteralCodedBytes:  c.stats.literalOut.Load(),
		MatchedInBytes:     c.stats.matchedIn.Load(),
		LiteralInBytes:     c.stats.literalIn.Load(),
		LiteralInCoded:     c.stats.literalCodedIn.Load(),
		CiphertextBytes:    c.stats.cipher.Load(),
		OpaqueBytes:        c.stats.opaque.Load(),
		OpaqueInBytes:      c.stats.opaqueIn.Load(),
		Copies:             c.stats.copies.Load(),
		HitAgeBytes:        int64(math.Float64frombits(c.stats.hitAge.Load())),
		StoredBytes:        c.stats.stored.Load(),
		StoredPeerBytes:    c.stats.storedIn.Load(),
		Misses:             c.stats.misses.Load(),
		Repairs:            c.stats.repairs.Load(),
		RepairedBytes:      c.stats.repaired.Load(),
		Needs:              c.stats.needs.Load(),
		AheadFrames:        c.stats.ahead.Load(),
		Waits:              c.stats.parked.Load(),
		RepairKeptBytes:    c.repairs.bytes.Load(),
		StruckBlocks:       c.stats.struck.Load(),
		FailedFrames:       c.stats.failed.Load(),
		CacheBytes:         z.Disk,
		CacheCapacityBytes: c.cfg.SizeBytes,
		HotBytes:           z.Hot,
		OpenBytes:          z.Open,
		WriteBacklogBytes:  z.Backlog,
		IndexBytes:         c.index.Bytes(),
		DiskReads:          c.store.Reads.Load(),
		DiskFailures:       c.store.Failed.Load(),
		DiskLate:           c.store.Late.Load(),
		StoreRestarts:      st.Restarts,
		StoreEpochs:        len(st.Extents[own]) + len(st.Extents[peer]),
		StoreFull:          st.Full,
		StoreOff:           st.Off,
		EffortLevel:        c.effort.now(),
	}
}
