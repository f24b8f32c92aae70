package link

import (
	"errors"
	"fmt"
	"log/slog"
	"os"
	"runtime"
	"time"
	"unsafe"

	"golang.org/x/sys/unix"
)

// Order of a round of a pump: commands, packets in, pieces out, sleep. While packets are rare it wakes for each one and for each delivery;
// when they are frequent it naps one tick at a time, so that a busy link costs a bounded number of wake-ups, and delivers what falls due
// in the first half of the next nap, so that pieces are early as often as late.
//
// Waking up takes time itself: some microseconds on bare metal, a tenth of a millisecond where a hypervisor has put the idle processor to
// sleep. The pump learns how long from its own timers. It sets them earlier by that much, delivers what it finds due within it, and takes
// a packet that woke it to have come that much earlier, so that the sleepiness of the machine is no part of the emulated delay.
//
// System calls are raw: the runtime does not learn of them, so it neither hands the thread's processor to somebody else meanwhile nor
// makes the thread queue for one afterwards. The price is that a garbage collection waits for the end of a nap or a poll; the process
// form therefore runs without one.

const (
	roundReads      = 64 // packets read before deliveries are looked at again
	freeWakeups     = 32 // wake-ups in hand before naps begin; one comes back per tick
	priority        = 10 // of SCHED_FIFO; any beats the programs of the lab
	pollForever     = -1
	maxWakeNanos    = 250_000 // bounds what is learned about waking up: more than that is no sleep but a busy machine, which is to show
	wakeWeight      = 8       // a wake-up counts for 1/8 in the running mean
	timerSlackNanos = 1
)

var errDeviceGone = errors.New("the device is gone")

// command is run by a pump between two rounds, on its own thread; done is closed after it.
type command struct {
	run  func(p *pump, now int64)
	done chan struct{}
}

// pump moves packets of one direction from one device to the other.
type pump struct {
	*path
	name     string
	in, out  int // devices
	wake     int // eventfd: a command waits
	started  time.Time
	tick     time.Duration // 0: never nap
	realtime bool
	commands chan command
	ready    chan struct{} // closed when the thread is prepared
	dead     chan struct{} // closed when loop has returned

	readVector  []unix.Iovec // the cells of path.hand
	writeVector []unix.Iovec
	wakeups     int64 // in hand
	wakeupsAt   int64 // when the last one came back
	wakeNanos   int64 // running mean of how long after its time a timer wakes the thread
	early       int64 // how much before its time a piece may be delivered in this round
	stalled     bool  // what held the round up is counted
	asleep      int64 // how long ago the packet that ended the sleep is taken to have come in
	stop        bool
	fault       error
}

// now is the pump's clock: nanoseconds since the emulator was made.
func (p *pump) now() int64 { return int64(time.Since(p.started)) }

// prepare makes the calling thread fit for exact timing; an error says that it did not get the priority for it.
func prepare(wantRealtime bool) error {
	if err := unix.Prctl(unix.PR_SET_TIMERSLACK, timerSlackNanos, 0, 0, 0); err != nil {
		return os.NewSyscallError("PR_SET_TIMERSLACK", err)
	}
	if !wantRealtime {
		return nil
	}
	return setRealtime(0)
}

// setRealtime puts a thread (0 is the calling one) under SCHED_FIFO; threads that it starts inherit that.
func setRealtime(tid int) error {
	attributes := &unix.SchedAttr{Size: unix.SizeofSchedAttr, Policy: unix.SCHED_FIFO, Priority: priority}
	return os.NewSyscallError("sched_setattr", unix.SchedSetAttr(tid, attributes, 0))
}

// loop runs until a command stops it or the device is gone. It holds its thread and ends it with itself.
func (p *pump) loop(log *slog.Logger) error {
	runtime.LockOSThread()
	if err := prepare(p.realtime); err != nil {
		p.realtime = false
		log.Warn("link runs without real-time priority and may be late", "device", p.name, "err", err)
	}
	close(p.ready)
	p.wakeups = freeWakeups
	p.wakeupsAt = p.now()
	for {
		select {
		case c := <-p.commands:
			c.run(p, p.now())
			close(c.done)
		default:
		}
		if p.stop || p.fault != nil {
			return p.fault
		}
		more := p.readSome()
		p.writeDue()
		if !more && p.fault == nil {
			p.sleep()
		}
	}
}

// readSome takes what waits at the device, up to a round's share; true when there may be more.
func (p *pump) readSome() bool {
	for range roundReads {
		n, _, errno := unix.RawSyscall(unix.SYS_READV, uintptr(p.in), uintptr(unsafe.Pointer(&p.readVector[0])), uintptr(len(p.readVector)))
		switch errno {
		case 0:
		case unix.EAGAIN:
			return false
		case unix.EINTR:
			return true
		default:
			p.fault = fmt.Errorf("read from %s: %w: %w", p.name, errDeviceGone, errno)
			return false
		}
		if n == 0 {
			p.fault = fmt.Errorf("read from %s: %w", p.name, errDeviceGone)
			return false
		}
		now := p.now() - p.asleep
		p.accept(now, int(n))
		p.asleep = 0
		p.loadHand(cellsFor(int(n)))
		if due, ok := p.due(); ok && due <= now {
			return true // deliveries come first
		}
	}
	return true
}

// loadHand points the first k elements of the read vector at the cells that are in hand now.
func (p *pump) loadHand(k int) {
	for i := range min(k, len(p.hand)) {
		p.readVector[i].Base = &p.cells.at(p.hand[i])[0]
		p.readVector[i].SetLen(cellBytes)
	}
}

func (p *pump) writeDue() {
	for first := true; ; first = false {
		due, ok := p.due()
		now := p.now()
		if !ok || due > now+p.early {
			return
		}
		if first && !p.stalled { // an overlong nap has been counted
			p.counters.stall(now - due)
		}
		e := p.deliver()
		switch {
		case p.params.Down:
			p.cut(e)
		case !p.write(&e):
			p.failed(e)
		default:
			p.delivered(e, now-due)
		}
		p.release(e)
	}
}

func (p *pump) write(e *entry) bool {
	v := p.writeVector[:0]
	cell := e.cell
	for rest := int(e.bytes); rest > 0; rest -= cellBytes {
		piece := unix.Iovec{Base: &p.cells.at(cell)[0]}
		piece.SetLen(min(rest, cellBytes))
		v = append(v, piece)
		cell = p.cells.next[cell]
	}
	for {
		_, _, errno := unix.RawSyscall(unix.SYS_WRITEV, uintptr(p.out), uintptr(unsafe.Pointer(&v[0])), uintptr(len(v)))
		if errno != unix.EINTR {
			return errno == 0
		}
	}
}

// sleep waits for a packet, the next delivery or a command, or naps one tick when wake-ups have used up their allowance.
func (p *pump) sleep() {
	now := p.now()
	wait := int64(pollForever)
	if due, ok := p.due(); ok {
		if wait = due - now - p.wakeNanos; wait <= 0 {
			p.early = p.wakeNanos // too late to sleep; it may as well go now
			return
		}
	}
	p.early, p.asleep, p.stalled = 0, 0, false
	tick := int64(p.tick)
	if tick > 0 {
		if back := (now - p.wakeupsAt) / tick; back > 0 {
			p.wakeups = min(p.wakeups+back, freeWakeups)
			p.wakeupsAt += back * tick
		}
		if p.wakeups == 0 {
			p.nap(now)
			return
		}
		p.wakeups--
	}
	p.poll(now, wait)
}

// nap sleeps one tick whatever happens meanwhile.
func (p *pump) nap(now int64) {
	ts := unix.NsecToTimespec(int64(p.tick))
	_, _, _ = unix.RawSyscall(unix.SYS_NANOSLEEP, uintptr(unsafe.Pointer(&ts)), 0, 0)
	late := p.now() - now - int64(p.tick)
	p.counters.late(late) // what came in meanwhile comes in late
	p.counters.stall(late)
	p.stalled = true
	p.early = int64(p.tick) / 2
}

// poll sleeps until a packet comes in, a command waits, or wait is over.
func (p *pump) poll(now, wait int64) {
	fds := [2]unix.PollFd{{Fd: int32(p.in), Events: unix.POLLIN}, {Fd: int32(p.wake), Events: unix.POLLIN}}
	var timeout unsafe.Pointer
	if wait != pollForever {
		ts := unix.NsecToTimespec(wait)
		timeout = unsafe.Pointer(&ts)
	}
	ready, _, errno := unix.RawSyscall6(unix.SYS_PPOLL, uintptr(unsafe.Pointer(&fds[0])), uintptr(len(fds)), uintptr(timeout), 0, 0, 0)
	switch {
	case errno != 0: // interrupted
	case ready == 0:
		late := min(p.now()-now-wait, maxWakeNanos)
		p.wakeNanos += (late - p.wakeNanos) / wakeWeight
		p.early = p.wakeNanos
	case fds[0].Revents != 0:
		p.asleep = min(p.wakeNanos, p.now()-now) // not before the sleep began: time must not go backwards
	}
	if fds[1].Revents != 0 {
		var count [8]byte
		_, _, _ = unix.RawSyscall(unix.SYS_READ, uintptr(p.wake), uintptr(unsafe.Pointer(&count[0])), uintptr(len(count)))
	}
}
