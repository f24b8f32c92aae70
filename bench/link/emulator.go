package link

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"math/rand/v2"
	"os"
	"runtime"
	"sync"
	"time"

	"golang.org/x/sync/errgroup"
	"golang.org/x/sys/unix"
)

// Defaults of Config.
const (
	DefaultMTU         = 1500
	DefaultMemoryBytes = 256 << 20
	DefaultTick        = 100 * time.Microsecond
	DefaultDevice      = "wan0"

	minMemoryBytes = 1 << 20  // some super-packets, so that it is a link at all
	maxMemoryBytes = 64 << 30 //
	minMTU         = 1280     // IPv6 needs it (RFC 8200, section 5)
	maxMTU         = 65535
)

// End is one end of the link: a device that the emulator makes.
type End struct {
	Namespace string // name or path of a network namespace; "" is the caller's own
	Device    string // "" is wan0
}

// String names the end in messages.
func (e End) String() string {
	if e.Namespace == "" {
		return "device " + e.Device
	}
	return fmt.Sprintf("device %s in network namespace %s", e.Device, e.Namespace)
}

// Config says what link to make. Zero fields take the defaults named beside them.
type Config struct {
	A, B        End
	Link        Pair
	MTU         int           // of both devices, 1500
	Seed        uint64        // of loss, jitter and reordering; 0 takes a random one, which Stats names
	MemoryBytes int64         // for packets under way, per direction, 256 MiB; used as far as needed
	Tick        time.Duration // of wake-ups on a busy link, 100 µs; negative: wake up for every packet
	NoOffload   bool          // take wire packets from the kernel, no super-packets
	NoRealtime  bool          // do not ask for SCHED_FIFO
}

func (c Config) withDefaults() (Config, error) {
	if c.MTU == 0 {
		c.MTU = DefaultMTU
	}
	if c.MemoryBytes == 0 {
		c.MemoryBytes = DefaultMemoryBytes
	}
	if c.Tick == 0 {
		c.Tick = DefaultTick
	}
	if c.Seed == 0 {
		c.Seed = rand.Uint64() | 1
	}
	for _, end := range []*End{&c.A, &c.B} {
		if end.Device == "" {
			end.Device = DefaultDevice
		}
	}
	switch {
	case c.MTU < minMTU || c.MTU > maxMTU:
		return c, fmt.Errorf("%w mtu of the devices: %d is not within %d to %d", ErrParameter, c.MTU, minMTU, maxMTU)
	case c.MemoryBytes < minMemoryBytes || c.MemoryBytes > maxMemoryBytes:
		return c, fmt.Errorf("%w memory: %d bytes are not within 1MiB to 64GiB", ErrParameter, c.MemoryBytes)
	case c.Tick > 10*time.Millisecond:
		return c, fmt.Errorf("%w tick: %v is more than 10ms", ErrParameter, c.Tick)
	case c.A == c.B:
		return c, fmt.Errorf("%w ends: both are device %s in namespace %q", ErrParameter, c.A.Device, c.A.Namespace)
	}
	return c, c.Link.Validate()
}

// ErrClosed is returned by the methods of a closed Emulator.
var ErrClosed = errors.New("the link is closed")

// Emulator is a link between two devices of its own. Its methods may be called from any goroutine.
type Emulator struct {
	log     *slog.Logger
	config  Config
	started time.Time
	pumps   [2]*pump

	mu      sync.Mutex
	link    Pair // guarded by mu
	resetAt time.Time
	running bool // pumps own their paths while it is set
	closed  bool
}

// New makes the devices and brings them up; packets move once Run is called.
func New(config Config, log *slog.Logger) (*Emulator, error) {
	config, err := config.withDefaults()
	if err != nil {
		return nil, err
	}
	devices := [2]int{-1, -1}
	for i, end := range []End{config.A, config.B} {
		err := InNamespace(end.Namespace, func() (err error) {
			devices[i], err = openDevice(end.Device, config.MTU, !config.NoOffload)
			return err
		})
		if err != nil {
			closeAll(devices[:i])
			return nil, fmt.Errorf("%s: %w", end, err)
		}
	}
	return assemble(config, devices, log)
}

// assemble makes the pumps between two devices, which it owns from now on.
func assemble(config Config, devices [2]int, log *slog.Logger) (_ *Emulator, err error) {
	e := &Emulator{log: log, config: config, started: time.Now(), resetAt: time.Now()}
	for d, end := range []End{config.A, config.B} {
		e.pumps[d] = &pump{
			name: end.String(), in: devices[d], out: devices[1-d], wake: -1,
			started: e.started, tick: max(config.Tick, 0), realtime: !config.NoRealtime,
			commands: make(chan command, 1), ready: make(chan struct{}), dead: make(chan struct{}),
		}
	}
	for d, p := range e.pumps {
		if p.wake, err = unix.Eventfd(0, unix.EFD_NONBLOCK|unix.EFD_CLOEXEC); err != nil {
			return nil, errors.Join(os.NewSyscallError("eventfd", err), e.Close())
		}
		memory, err := unix.Mmap(-1, 0, int(config.MemoryBytes), unix.PROT_READ|unix.PROT_WRITE, unix.MAP_PRIVATE|unix.MAP_ANONYMOUS|unix.MAP_NORESERVE)
		if err != nil {
			return nil, errors.Join(fmt.Errorf("memory for packets: %w", os.NewSyscallError("mmap", err)), e.Close())
		}
		p.path = newPath(memory, config.Seed, Direction(d))
		p.readVector = make([]unix.Iovec, len(p.hand))
		p.writeVector = make([]unix.Iovec, 0, len(p.hand))
		p.loadHand(len(p.hand))
	}
	e.apply(config.Link)
	return e, nil
}

// Run carries packets until ctx ends, which is no error, or a device is gone. It may be called once; the Emulator is closed after it.
//
// Its two threads never give up the runtime's processors they hold, so it raises GOMAXPROCS by two while it runs. A garbage collection
// makes it late; where exactness matters, run it in a process of its own and call Dedicate there.
func (e *Emulator) Run(ctx context.Context) error {
	if err := e.start(); err != nil {
		return err
	}
	addProcessors(len(e.pumps))
	defer addProcessors(-len(e.pumps))
	var group errgroup.Group
	for _, p := range e.pumps {
		group.Go(func() error {
			defer close(p.dead)
			return p.loop(e.log)
		})
	}
	select {
	case <-ctx.Done():
	case <-e.pumps[AtoB].dead:
	case <-e.pumps[BtoA].dead:
	}
	e.mu.Lock()
	for _, p := range e.pumps {
		e.order(p, func(p *pump, _ int64) { p.stop = true })
	}
	err := group.Wait()
	e.running = false
	e.mu.Unlock()
	return errors.Join(err, e.Close())
}

func (e *Emulator) start() error {
	e.mu.Lock()
	defer e.mu.Unlock()
	if e.closed || e.running {
		return ErrClosed
	}
	e.running = true
	return nil
}

// awaitReady waits until both threads are prepared, so that Stats tells what they got; false when ctx ends before.
func (e *Emulator) awaitReady(ctx context.Context) bool {
	for _, p := range e.pumps {
		select {
		case <-p.ready:
		case <-ctx.Done():
			return false
		}
	}
	return true
}

func addProcessors(n int) { runtime.GOMAXPROCS(runtime.GOMAXPROCS(0) + n) }

// order has f run on p's thread between two rounds, or here when there is no thread, and waits until it has run. A pump that has ended
// by itself runs nothing any more. The caller holds e.mu.
func (e *Emulator) order(p *pump, f func(p *pump, now int64)) {
	if !e.running {
		f(p, p.now())
		return
	}
	c := command{run: f, done: make(chan struct{})}
	select {
	case p.commands <- c:
	case <-p.dead:
		return
	}
	one := [8]byte{1, 0, 0, 0, 0, 0, 0, 1} // counts up in either byte order
	_, _ = unix.Write(p.wake, one[:])      // fails only when the count is full: then it is awake
	select {
	case <-c.done:
	case <-p.dead:
	}
}

// Link returns the parameters in force.
func (e *Emulator) Link() Pair {
	e.mu.Lock()
	defer e.mu.Unlock()
	return e.link
}

// Set changes parameters by the words that Parse knows. On an error, which wraps ErrParameter or is ErrClosed, nothing has changed.
func (e *Emulator) Set(words ...string) error {
	e.mu.Lock()
	defer e.mu.Unlock()
	if e.closed {
		return ErrClosed
	}
	link, err := Parse(e.link, words...)
	if err != nil {
		return err
	}
	e.apply(link)
	return nil
}

// apply puts valid parameters in force; the caller holds e.mu or is alone.
func (e *Emulator) apply(link Pair) {
	e.link = link
	for d, p := range e.pumps {
		params, queue := *link.direction(Direction(d)), link.QueueBytes(Direction(d))
		e.order(p, func(p *pump, _ int64) { p.configure(params, queue) })
	}
}

// Reset forgets all counts and starts the random sequences anew, so that with the same seed the same packets meet the same fate.
func (e *Emulator) Reset() error {
	e.mu.Lock()
	defer e.mu.Unlock()
	if e.closed {
		return ErrClosed
	}
	for d, p := range e.pumps {
		e.order(p, func(p *pump, _ int64) {
			p.counters.reset()
			p.reseed(e.config.Seed, Direction(d))
		})
	}
	e.resetAt = time.Now()
	return nil
}

// Stats returns what the link did since the last reset.
func (e *Emulator) Stats() (Stats, error) {
	e.mu.Lock()
	defer e.mu.Unlock()
	if e.closed {
		return Stats{}, ErrClosed
	}
	s := Stats{Seconds: time.Since(e.resetAt).Seconds(), Seed: e.config.Seed, Realtime: true}
	for d, p := range e.pumps {
		e.order(p, func(p *pump, now int64) {
			*s.Direction(Direction(d)) = p.stats(now)
			s.Realtime = s.Realtime && p.realtime
		})
		one := s.Direction(Direction(d))
		one.DeliveredBitsPerSecond = float64(one.DeliveredBytes) * 8 / max(s.Seconds, 1e-9)
	}
	return s, nil
}

// Close removes the devices. An Emulator that runs is closed by ending the context of Run instead. Calling it again does nothing.
func (e *Emulator) Close() error {
	e.mu.Lock()
	defer e.mu.Unlock()
	if e.closed || e.running {
		return nil
	}
	e.closed = true
	var faults []error
	for _, p := range e.pumps {
		closeAll([]int{p.in, p.wake})
		if p.path != nil {
			faults = append(faults, os.NewSyscallError("munmap", unix.Munmap(p.cells.memory)))
		}
	}
	return errors.Join(faults...)
}

// closeAll closes descriptors; those below 0 were never opened. A device takes no data to flush, so closing cannot lose any.
func closeAll(descriptors []int) {
	for _, fd := range descriptors {
		if fd >= 0 {
			_ = unix.Close(fd)
		}
	}
}
