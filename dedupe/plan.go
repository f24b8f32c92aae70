package dedupe

import (
	"errors"
	"fmt"
	"runtime"

	"wanpair/dedupe/anchor"
	"wanpair/dedupe/history"
	"wanpair/dedupe/index"
	"wanpair/dedupe/literal"
)

// Defaults and limits of Config.
const (
	DefaultSizeBytes   = 16 << 30
	DefaultMemoryBytes = 512 << 20
	DefaultRepairBytes = 64 << 20
	MinSizeBytes       = 16 << 20
	MinMemoryBytes     = 32 << 20
	// MaxSizeBytes keeps a live log below the 2^40 positions an index entry can tell apart.
	MaxSizeBytes = 1 << 40

	// MaxOpenBlocks is the most blocks of one log that are being filled at a time (protocol B1).
	MaxOpenBlocks = 256
	// epochsPerCache and maxEpochBytes: what is dropped at once is a 32nd of the cache and never more than 32 GiB.
	epochsPerCache = 32
	maxEpochBytes  = 32 << 30
	// maxStreams is the most streaming literal contexts granted.
	maxStreams = 32
	// overcommit is how many anchors per index slot are accepted; measured, 1.3 costs 3 % of the ratio and 5 nearly all of it.
	overcommit = 1.3
)

// ErrConfig is wrapped by what Open says of a configuration that cannot be.
var ErrConfig = errors.New("dedupe configuration")

// Config is the codec of one link. Zero fields take their defaults.
type Config struct {
	Dir         string // where the history lies; "" keeps it in memory only
	Key         []byte // 32 bytes: what lies there is encrypted with it; nil: it is not. What was written otherwise is given up
	SizeBytes   int64  // on disk for both logs together, as du counts; default 16 GiB
	MemoryBytes int64  // index, hot and open blocks, zstd contexts; default 512 MiB
	Density     int    // one anchor in 2^Density bytes, 8 to 15; 0 follows from the sizes
	Concurrency int    // encoders and decoders at work at once; default twice the processors
	RepairBytes int64  // raw bytes kept of unacknowledged frames that refer to the history, beside MemoryBytes; default 64 MiB

	// StoreCommand starts the process that keeps the history on disk: the program itself, with arguments that make it call
	// remote.ServeChild. Without one the history is kept in this process, which a fault of the disk ends. StoreEnv is added to the
	// child's environment, and OnStore is told, from any goroutine, of what an operator wants to know about it.
	StoreCommand, StoreEnv []string
	OnStore                func(StoreEvent)

	frugal bool // sealed blocks take no memory that others leave: for tests that want reads from disk
}

// withDefaults fills zero fields and checks the others.
func (c Config) withDefaults() (Config, error) {
	if c.SizeBytes == 0 {
		c.SizeBytes = DefaultSizeBytes
	}
	if c.MemoryBytes == 0 {
		c.MemoryBytes = DefaultMemoryBytes
	}
	if c.RepairBytes == 0 {
		c.RepairBytes = DefaultRepairBytes
	}
	if c.Concurrency == 0 {
		c.Concurrency = 2 * runtime.GOMAXPROCS(0)
	}
	switch {
	case c.SizeBytes < MinSizeBytes || c.SizeBytes > MaxSizeBytes:
		return c, fmt.Errorf("%w: cache size %d is not between 16 MiB and 1 TiB", ErrConfig, c.SizeBytes)
	case c.MemoryBytes < MinMemoryBytes:
		return c, fmt.Errorf("%w: cache memory %d is below 32 MiB", ErrConfig, c.MemoryBytes)
	case c.Density != 0 && (c.Density < anchor.MinDensity || c.Density > anchor.MaxDensity):
		return c, fmt.Errorf("%w: density %d is not between %d and %d", ErrConfig, c.Density, anchor.MinDensity, anchor.MaxDensity)
	case len(c.Key) != 0 && len(c.Key) != history.KeyBytes:
		return c, fmt.Errorf("%w: key of %d bytes, not %d", ErrConfig, len(c.Key), history.KeyBytes)
	case c.Concurrency < 1:
		return c, fmt.Errorf("%w: concurrency %d", ErrConfig, c.Concurrency)
	}
	return c, nil
}

// Plan is what follows from a configuration: how the memory is divided and what the division costs.
type Plan struct {
	Density        int     // one anchor in 2^Density bytes
	IndexBytes     int64   // of the index
	HotBytes       int64   // of sealed blocks in memory
	OpenBytes      int64   // of blocks being filled, both logs
	OpenBlocks     int     // being filled, per log
	WorkBytes      int64   // scratch, independent zstd contexts, the store's own tables
	StreamBytes    int64   // of streaming literal contexts towards the peer
	StreamDecoders int     // streaming literal contexts from it: what we grant
	EpochBytes     int64   // dropped at once when the cache is full
	Overcommit     float64 // anchors of a full cache per index slot
	ExpectedLoss   float64 // part of the ratio lost against the densest anchors and a roomy index
	blocksPerEpoch uint64
}

// NewPlan computes the plan of a configuration without opening anything.
func NewPlan(cfg Config) (Plan, error) {
	cfg, err := cfg.withDefaults()
	if err != nil {
		return Plan{}, err
	}
	return plan(cfg), nil
}

// plan divides the memory: two fifths for the index at most, a fifth for open blocks, a quarter for streaming contexts, a sixteenth for work, each
// up to what is of use, and the rest for hot blocks.
func plan(cfg Config) Plan {
	m := cfg.MemoryBytes
	p := Plan{Density: cfg.Density}
	p.OpenBlocks = int(min(MaxOpenBlocks, max(m/5/(2*history.BlockBytes), 4)))
	p.OpenBytes = 2 * int64(p.OpenBlocks) * history.BlockBytes
	p.WorkBytes = min(m/16, 64<<20)
	streams := min(m/4, 384<<20)
	p.StreamDecoders = int(min(maxStreams, max(streams/3/literal.StreamDecoderBytes, 1)))
	p.StreamBytes = streams - int64(p.StreamDecoders)*literal.StreamDecoderBytes
	budget := m * 2 / 5
	need := func(d int) int64 { return cfg.SizeBytes >> d * index.EntryBytes }
	if p.Density == 0 {
		p.Density = anchor.MinDensity
		for p.Density < anchor.MaxDensity && float64(need(p.Density)) > overcommit*float64(budget) {
			p.Density++
		}
	}
	p.IndexBytes = max(min(need(p.Density), budget), 1<<20)
	p.Overcommit = float64(need(p.Density)) / float64(p.IndexBytes)
	p.HotBytes = max(m-p.IndexBytes-p.OpenBytes-p.WorkBytes-streams, 4<<20)
	p.blocksPerEpoch = uint64(max(min(cfg.SizeBytes/epochsPerCache, maxEpochBytes)/history.BlockBytes, 1))
	p.EpochBytes = int64(p.blocksPerEpoch) * history.BlockBytes
	p.ExpectedLoss = expectedLoss(p.Density, p.Overcommit)
	return p
}

// sparseKeeps is what is left of the ratio of an edited copy at one anchor in 256, 512, 1024, 2048 and 4096 bytes: measured on a source release, which
// loses most (docs/dedupe.md).
var sparseKeeps = [...]float64{1, 0.90, 0.75, 0.53, 0.37}

// expectedLoss estimates what sparse anchors and a crowded index cost, from measurements: see sparseKeeps; a crowded index 3 % at 1.3 anchors per
// slot, three quarters at 5.
func expectedLoss(density int, over float64) float64 {
	last := len(sparseKeeps) - 1
	steps := density - anchor.MinDensity
	keep := sparseKeeps[min(steps, last)]
	for range steps - last {
		keep *= sparseKeeps[last] / sparseKeeps[last-1]
	}
	if over > 1 {
		keep *= max(0.1, 1-0.1*(over-1)-0.03*(over-1)*(over-1))
	}
	return 1 - keep
}
