package main

import (
	"bytes"
	"errors"
	"fmt"
	"io"
	"math/rand/v2"
	"os"
	"path/filepath"
	"runtime"
	"strconv"
	"strings"

	"golang.org/x/sys/unix"

	"wanpair/dedupe"
)

// codecBench is a sending and a receiving side, joined by two queues of messages.
type codecBench struct {
	dir       string
	set       codecSettings
	near, far *dedupe.Codec
	toNear    [][]byte
	toFar     [][]byte
	flow      uint64
	rand      *rand.Rand
	enc, dec  float64 // CPU seconds of this thread spent in Encode and Decode
	frames    []codecFrame
	raw, wire []byte // of a batch
	out       []byte
	backlog   int64 // bytes that may wait for the disk
	batch     int   // bytes encoded before they are decoded
}

// codecFrame is a frame of the batch at hand.
type codecFrame struct {
	flow      *benchFlow
	rawAt     int
	rawLen    int
	wireAt    int
	wireLen   int
	number    uint64
	decodedTo int // bytes of the batch decoded with this frame
}

// benchFlow is one flow of a file.
type benchFlow struct {
	src  *io.SectionReader
	left int64
	enc  *dedupe.Encoder
	dec  *dedupe.Decoder
	next uint64
	done bool
}

// ackLater is an acknowledgement on its way.
type ackLater struct {
	flow *benchFlow
	next uint64
	due  int64 // raw bytes encoded by then
}

// batchBytes is how much is encoded before it is decoded, at most: enough to make the clock's own cost vanish. Messages pass between batches only, and
// the sides need a few to agree on what a full cache drops next: an epoch of a small cache is no more than perEpoch batches.
const (
	batchBytes = 4 << 20
	perEpoch   = 8
)

func openBench(dir string, set codecSettings) (*codecBench, error) {
	plan, err := dedupe.NewPlan(set.cache)
	if err != nil {
		return nil, err
	}
	b := &codecBench{
		dir: dir, set: set, rand: rand.New(rand.NewPCG(1, 1)),
		backlog: min(max(plan.HotBytes/4, 8<<20), 64<<20, plan.EpochBytes), // half of what keeps the codec from storing: a batch of frames comes on top
		batch:   int(min(batchBytes, plan.EpochBytes/perEpoch)),
	}
	return b, b.open()
}

func (b *codecBench) open() error {
	var err error
	for _, side := range []struct {
		codec **dedupe.Codec
		name  string
	}{{&b.near, "near"}, {&b.far, "far"}} {
		cfg := b.set.cache
		cfg.Dir = filepath.Join(b.dir, side.name)
		if *side.codec, err = dedupe.Open(cfg); err != nil {
			return err
		}
	}
	b.near.FixEffort(b.set.effort)
	b.near.WaitRebuilt()
	b.far.WaitRebuilt()
	if err := b.near.Begin(func(m []byte) error { b.toFar = append(b.toFar, m); return nil }, dedupe.AllFeatures); err != nil {
		return err
	}
	if err := b.far.Begin(func(m []byte) error { b.toNear = append(b.toNear, m); return nil }, dedupe.AllFeatures); err != nil {
		return err
	}
	return b.pump()
}

func (b *codecBench) close() (err error) {
	for _, c := range []*dedupe.Codec{b.near, b.far} {
		if c != nil {
			err = errors.Join(err, c.Close())
		}
	}
	return err
}

// reopen closes both sides, drops the page cache where that is allowed, and opens them again.
func (b *codecBench) reopen() error {
	if err := b.close(); err != nil {
		return err
	}
	unix.Sync()
	if err := os.WriteFile("/proc/sys/vm/drop_caches", []byte("3"), 0); err != nil {
		return fmt.Errorf("--drop-caches needs root: %w", err)
	}
	return b.open()
}

// pump delivers the messages that wait.
func (b *codecBench) pump() error {
	for len(b.toNear)+len(b.toFar) > 0 {
		if len(b.toFar) > 0 {
			m := b.toFar[0]
			b.toFar = b.toFar[1:]
			if err := b.far.HandleMessage(m); err != nil {
				return err
			}
		}
		if len(b.toNear) > 0 {
			m := b.toNear[0]
			b.toNear = b.toNear[1:]
			if err := b.near.HandleMessage(m); err != nil {
				return err
			}
		}
	}
	return nil
}

// measure sends one file as n flows. It ends with the error of progress, which hears of the bytes that are through.
func (b *codecBench) measure(name string, n int, progress func(int64) error) (row codecRow, err error) {
	runtime.LockOSThread() // the CPU clock is this thread's
	defer runtime.UnlockOSThread()
	f, err := os.Open(name)
	if err != nil {
		return row, err
	}
	defer f.Close()
	st, err := f.Stat()
	if err != nil {
		return row, err
	}
	flows := b.split(f, st.Size(), n)
	before, repaired, reads := b.near.Stats(), b.far.Stats().RepairedBytes, b.near.Stats().DiskReads+b.far.Stats().DiskReads
	cpu := processCPU()
	b.enc, b.dec = 0, 0
	row = codecRow{File: name}
	var acks []ackLater
	for live := len(flows); live > 0; {
		if err := b.encodeBatch(flows); err != nil {
			return row, err
		}
		if err := b.decodeBatch(); err != nil {
			return row, err
		}
		for _, fr := range b.frames {
			row.RawBytes += int64(fr.rawLen)
			row.WireBytes += int64(fr.wireLen)
			acks = append(acks, ackLater{fr.flow, fr.number + 1, row.RawBytes + int64(b.set.inFlight)})
			if fr.flow.done && fr.number+1 == fr.flow.next {
				live--
			}
		}
		for len(acks) > 0 && (acks[0].due <= row.RawBytes || live == 0) {
			acks[0].flow.enc.Acked(acks[0].next)
			acks = acks[1:]
		}
		if err := b.pump(); err != nil {
			return row, err
		}
		b.throttle()
		if err := progress(row.RawBytes); err != nil {
			return row, err
		}
	}
	for _, fl := range flows {
		fl.enc.Close(true)
		fl.dec.Close()
	}
	after := b.near.Stats()
	row.Repaired = b.far.Stats().RepairedBytes - repaired
	row.WireBytes += row.Repaired
	row.Ratio = float64(row.RawBytes) / float64(max(row.WireBytes, 1))
	row.StoredBytes = after.StoredBytes - before.StoredBytes
	row.EncodeRate = float64(row.RawBytes) / 1e6 / b.enc
	row.DecodeRate = float64(row.RawBytes) / 1e6 / b.dec
	row.Verified = row.RawBytes == st.Size()
	row.ProcessCPU = processCPU() - cpu
	row.MemoryBytes = residentBytes()
	row.DiskBytes = after.CacheBytes
	row.Copies = after.Copies - before.Copies
	row.Literals = after.LiteralBytes - before.LiteralBytes
	row.LiteralWire = after.LiteralCodedBytes - before.LiteralCodedBytes
	row.DiskReads = after.DiskReads + b.far.Stats().DiskReads - reads
	return row, nil
}

// throttle lets the disk catch up: a WAN would be slower than it, and with too much waiting for the disk nothing more is stored.
func (b *codecBench) throttle() {
	for _, c := range []*dedupe.Codec{b.near, b.far} {
		if c.Stats().WriteBacklogBytes > b.backlog {
			c.Flush()
		}
	}
}

// split divides a file into n flows.
func (b *codecBench) split(f *os.File, size int64, n int) (flows []*benchFlow) {
	for i := range int64(n) {
		from, to := size*i/int64(n), size*(i+1)/int64(n)
		b.flow++
		flows = append(flows, &benchFlow{
			src: io.NewSectionReader(f, from, to-from), left: to - from, enc: b.near.NewEncoder(b.flow), dec: b.far.NewDecoder(b.flow),
		})
	}
	return flows
}

// encodeBatch reads and encodes the next few megabytes of all flows, a frame of one after a frame of another.
func (b *codecBench) encodeBatch(flows []*benchFlow) error {
	b.frames, b.raw, b.wire = b.frames[:0], b.raw[:0], b.wire[:0]
	for len(b.raw) < b.batch {
		moved := false
		for _, fl := range flows {
			if fl.done {
				continue
			}
			size := b.set.frame
			if len(flows) > 1 {
				size = 4<<10 + b.rand.IntN(60<<10+1)
			}
			at := len(b.raw)
			n := int(min(int64(size), fl.left))
			b.raw = append(b.raw, make([]byte, n)...)
			if _, err := io.ReadFull(fl.src, b.raw[at:]); err != nil {
				return err
			}
			fl.left -= int64(n)
			fl.done = fl.left == 0
			b.frames = append(b.frames, codecFrame{flow: fl, rawAt: at, rawLen: n, number: fl.next})
			fl.next++
			moved = true
		}
		if !moved {
			break
		}
	}
	var err error
	began := threadCPU()
	for i := range b.frames {
		fr := &b.frames[i]
		end := fr.flow.done && fr.number+1 == fr.flow.next
		fr.wireAt = len(b.wire)
		if b.wire, err = fr.flow.enc.Encode(b.wire, b.raw[fr.rawAt:fr.rawAt+fr.rawLen], fr.number, end); err != nil {
			return fmt.Errorf("encode: %w", err)
		}
		fr.wireLen = len(b.wire) - fr.wireAt
	}
	b.enc += threadCPU() - began
	return nil
}

// decodeBatch decodes the batch and compares it.
func (b *codecBench) decodeBatch() error {
	b.out = b.out[:0]
	began := threadCPU()
	for _, fr := range b.frames {
		out, end, err := fr.flow.dec.Decode(b.out, b.wire[fr.wireAt:fr.wireAt+fr.wireLen], fr.number, fr.rawLen)
		for errors.Is(err, dedupe.ErrWait) {
			out, end, err = b.repair(fr.flow.dec)
		}
		if err != nil {
			return fmt.Errorf("decode: %w", err)
		}
		b.out = out
		if want := fr.flow.done && fr.number+1 == fr.flow.next; end != want {
			return fmt.Errorf("decode: end of the flow is %v, not %v", end, want)
		}
	}
	b.dec += threadCPU() - began
	if !bytes.Equal(b.out, b.raw) {
		return errors.New("decoded bytes differ from the file")
	}
	return nil
}

// repair lets the far side have the bytes that a frame lacks: when a cache is full, one side may have given up what the other still refers to.
func (b *codecBench) repair(d *dedupe.Decoder) (out []byte, end bool, err error) {
	if err := b.pump(); err != nil {
		return nil, false, err
	}
	late := false // what is under way here has come with the messages: no need to wait for the rest
	select {
	case <-d.Ready():
	default:
		late = true
	}
	return d.Resume(late)
}

// threadCPU is the CPU time of the calling thread in seconds.
func threadCPU() float64 {
	var ts unix.Timespec
	if err := unix.ClockGettime(unix.CLOCK_THREAD_CPUTIME_ID, &ts); err != nil {
		return 0
	}
	return float64(ts.Nano()) / 1e9
}

// processCPU is the CPU time of the whole process in seconds.
func processCPU() float64 {
	var r unix.Rusage
	if err := unix.Getrusage(unix.RUSAGE_SELF, &r); err != nil {
		return 0
	}
	return float64(r.Utime.Nano()+r.Stime.Nano()) / 1e9
}

// residentBytes is the process's resident memory as /proc says, without pages of files: the store maps its files, which is page cache.
func residentBytes() int64 {
	text, err := os.ReadFile("/proc/self/status")
	if err != nil {
		return 0
	}
	for line := range strings.Lines(string(text)) {
		if f := strings.Fields(line); len(f) >= 2 && f[0] == "RssAnon:" {
			kib, _ := strconv.ParseInt(f[1], 10, 64) // 0 when the kernel writes something else
			return kib << 10
		}
	}
	return 0
}
