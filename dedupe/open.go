package dedupe

import (
	"time"

	"wanpair/dedupe/history"
	"wanpair/dedupe/history/remote"
	"wanpair/dedupe/literal"
)

// How long the store's process may take to answer. An encoder goes on without the reference: 20 ms is what a disk needs at its worst while it
// works. A decoder has nothing to go on with, and its flow ends: so it waits longer than any disk that works takes, on a machine however busy.
// Close gives what is sealed last this long to get to the disk.
const (
	encoderWait = 20 * time.Millisecond
	decoderWait = 2 * time.Second
	storeClose  = 8 * time.Second
	// storeMemory is what the process needs at least for some 36 open databases; with less it would do nothing but collect garbage.
	storeMemory = 64 << 20
)

// StoreEvent is something that happened to the process that keeps the history on disk.
type StoreEvent = remote.Event

// spareBytes is what streaming contexts could take and do not take now.
func (c *Codec) spareBytes() int64 {
	s := c.sess.Load()
	if s == nil {
		return 0
	}
	return max(c.plan.StreamBytes+int64(c.plan.StreamDecoders)*literal.StreamDecoderBytes-s.lender.Bytes(), 0)
}

// openStore opens the history where the configuration says it lies.
func (c *Codec) openStore(hotBytes int64) (*history.Store, error) {
	cfg := history.Config{HotBytes: hotBytes, BacklogBytes: 2 * c.storeBacklog(), Lost: c.strike}
	if c.cfg.Dir != "" && !c.cfg.frugal { // else what is evicted is lost, and the size is the limit
		cfg.OpenBytes, cfg.Spare = c.plan.OpenBytes, c.spareBytes
	}
	epochs := history.EpochsConfig{Dir: c.cfg.Dir, SizeBytes: c.cfg.SizeBytes, BlocksPerEpoch: c.plan.blocksPerEpoch, Writer: c.writer.instance, Key: c.cfg.Key}
	switch {
	case c.cfg.Dir == "":
	case len(c.cfg.StoreCommand) == 0:
		disk, err := history.OpenEpochs(epochs)
		if err != nil {
			return nil, err
		}
		cfg.Disk = disk
	default:
		disk, err := remote.Start(remote.Config{
			Command: c.cfg.StoreCommand, Env: c.cfg.StoreEnv, Epochs: epochs, MemoryBytes: max(c.plan.WorkBytes, storeMemory), Event: c.storeEvent,
		})
		if err != nil {
			return nil, err
		}
		cfg.Disk, cfg.QuickWait, cfg.LongWait, cfg.CloseWait = disk, encoderWait, decoderWait, storeClose
	}
	return history.Open(cfg), nil
}
