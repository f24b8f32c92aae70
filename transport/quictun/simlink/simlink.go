// Package simlink is a long thin lossy link between two packet sockets, in
// virtual time inside testing/synctest: rate, drop-tail queue, delay, random and
// bursty loss, both directions apart. It is for tests of congestion control:
// what they measure does not depend on how busy the machine is.
package simlink

import (
	"math/rand/v2"
	"net"
	"os"
	"sync"
	"time"
)

// Params describe one direction.
type Params struct {
	Rate  float64       // bits per second
	Delay time.Duration // one way
	Queue int           // bytes that may wait for the rate; beyond: dropped
	Loss  float64       // probability of losing a packet
	Burst float64       // mean length of a loss burst in packets; at most 1: independent losses
	// Stall is for how long, once in every StallEvery, nothing arrives: what
	// would have comes at the end of it, as on a busy machine.
	Stall, StallEvery time.Duration
}

// overhead is what UDP and IPv4 add to a packet on the link.
const overhead = 28

// Direction carries packets one way. Any number of senders share it.
type Direction struct {
	mu       sync.Mutex
	p        Params
	rng      *rand.Rand
	began    time.Time
	free     time.Time // when everything so far has left
	bad      bool      // inside a loss burst
	queue    []packet
	wake     chan struct{}
	sent     int64
	dropped  int64 // for want of room
	lost     int64 // by the link
	maxQueue int
}

type packet struct {
	due     time.Time
	data    []byte
	deliver func([]byte)
}

// NewDirection returns a direction whose packets are delivered while Run runs.
func NewDirection(p Params, seed uint64) *Direction {
	return &Direction{p: p, began: time.Now(), rng: rand.New(rand.NewPCG(seed, 7)), wake: make(chan struct{}, 1)}
}

// Set changes the parameters from now on.
func (d *Direction) Set(p Params) {
	d.mu.Lock()
	defer d.mu.Unlock()
	d.p = p
}

// Stats says how many packets were sent into the direction, lost by it, and
// dropped because the queue was full, and how many bytes ever waited.
func (d *Direction) Stats() (sent, lost, dropped int64, maxQueue int) {
	d.mu.Lock()
	defer d.mu.Unlock()
	return d.sent, d.lost, d.dropped, d.maxQueue
}

// Send puts a packet on the link; deliver gets it, or never.
func (d *Direction) Send(data []byte, deliver func([]byte)) {
	d.mu.Lock()
	defer d.mu.Unlock()
	now := time.Now()
	d.sent++
	if d.free.Before(now) {
		d.free = now
	}
	waiting := int(d.free.Sub(now).Seconds() * d.p.Rate / 8)
	if waiting > d.p.Queue {
		d.dropped++
		return
	}
	d.maxQueue = max(d.maxQueue, waiting)
	d.free = d.free.Add(time.Duration(float64(len(data)+overhead) * 8 / d.p.Rate * float64(time.Second)))
	if d.lose() {
		d.lost++
		return
	}
	due := d.free.Add(d.p.Delay)
	if d.p.StallEvery > 0 {
		due = due.Add(max(d.p.Stall-due.Sub(d.began)%d.p.StallEvery, 0))
	}
	d.queue = append(d.queue, packet{due, append([]byte(nil), data...), deliver})
	if len(d.queue) == 1 {
		select {
		case d.wake <- struct{}{}:
		default:
		}
	}
}

// lose decides the fate of one packet: a Gilbert model when losses come in
// bursts.
func (d *Direction) lose() bool {
	if d.p.Loss == 0 {
		return false
	}
	if d.p.Burst <= 1 {
		return d.rng.Float64() < d.p.Loss
	}
	if d.bad {
		d.bad = d.rng.Float64() >= 1/d.p.Burst
	} else {
		d.bad = d.rng.Float64() < d.p.Loss/(1-d.p.Loss)/d.p.Burst
	}
	return d.bad
}

// Run delivers packets until stop is closed.
func (d *Direction) Run(stop <-chan struct{}) {
	timer := time.NewTimer(time.Hour)
	defer timer.Stop()
	for {
		d.mu.Lock()
		var wait time.Duration = time.Hour
		var due []packet
		now := time.Now()
		for len(d.queue) > 0 {
			if wait = d.queue[0].due.Sub(now); wait > 0 {
				break
			}
			due = append(due, d.queue[0])
			d.queue = d.queue[1:]
			wait = time.Hour
		}
		d.mu.Unlock()
		for _, p := range due {
			p.deliver(p.data)
		}
		if len(due) > 0 {
			continue
		}
		timer.Reset(wait)
		select {
		case <-stop:
			return
		case <-d.wake:
		case <-timer.C:
		}
	}
}

// Conn is a packet socket on a link. Whatever it writes goes into its
// direction and to the socket at the other end with the address written to.
type Conn struct {
	addr  *net.UDPAddr
	out   *Direction
	net   *Net
	in    chan received
	done  chan struct{}
	once  sync.Once
	mu    sync.Mutex
	until time.Time
	moved chan struct{} // the deadline was changed
}

type received struct {
	data []byte
	from net.Addr
}

// Net joins sockets over two directions.
type Net struct {
	AtoB, BtoA *Direction
	mu         sync.Mutex
	conns      map[string]*Conn
	cut        map[string]bool
	next       int
}

// New returns a link; stop ends its goroutines, which wg waits for.
func New(ab, ba Params, seed uint64, wg *sync.WaitGroup, stop <-chan struct{}) *Net {
	n := &Net{AtoB: NewDirection(ab, seed), BtoA: NewDirection(ba, seed+1), conns: make(map[string]*Conn), cut: make(map[string]bool)}
	wg.Go(func() { n.AtoB.Run(stop) })
	wg.Go(func() { n.BtoA.Run(stop) })
	return n
}

// Socket makes a socket on side a or b.
func (n *Net) Socket(a bool) *Conn {
	n.mu.Lock()
	defer n.mu.Unlock()
	n.next++
	c := &Conn{net: n, in: make(chan received, 4096), done: make(chan struct{}), moved: make(chan struct{}, 1)}
	c.addr = &net.UDPAddr{IP: net.IPv4(10, 9, 0, 2), Port: 1000 + n.next}
	c.out = n.BtoA
	if a {
		c.addr.IP = net.IPv4(10, 9, 0, 1)
		c.out = n.AtoB
	}
	n.conns[c.addr.String()] = c
	return c
}

// Cut loses everything from now on that the socket with the address sends, or
// that is sent to it.
func (n *Net) Cut(addr net.Addr) {
	n.mu.Lock()
	defer n.mu.Unlock()
	n.cut[addr.String()] = true
}

// WriteTo implements net.PacketConn.
func (c *Conn) WriteTo(p []byte, to net.Addr) (int, error) {
	select {
	case <-c.done:
		return 0, net.ErrClosed
	default:
	}
	c.net.mu.Lock()
	peer := c.net.conns[to.String()]
	if c.net.cut[to.String()] || c.net.cut[c.addr.String()] {
		peer = nil
	}
	c.net.mu.Unlock()
	if peer != nil {
		c.out.Send(p, func(data []byte) {
			select {
			case peer.in <- received{data, c.addr}:
			case <-peer.done:
			default:
			}
		})
	}
	return len(p), nil
}

// ReadFrom implements net.PacketConn.
func (c *Conn) ReadFrom(p []byte) (int, net.Addr, error) {
	for {
		c.mu.Lock()
		until := c.until
		c.mu.Unlock()
		var expired <-chan time.Time
		if !until.IsZero() {
			d := time.Until(until)
			if d <= 0 {
				return 0, nil, os.ErrDeadlineExceeded
			}
			timer := time.NewTimer(d)
			defer timer.Stop()
			expired = timer.C
		}
		select {
		case r := <-c.in:
			return copy(p, r.data), r.from, nil
		case <-c.done:
			return 0, nil, net.ErrClosed
		case <-expired:
		case <-c.moved:
		}
	}
}

// Close implements net.PacketConn.
func (c *Conn) Close() error {
	c.once.Do(func() { close(c.done) })
	return nil
}

// LocalAddr implements net.PacketConn.
func (c *Conn) LocalAddr() net.Addr { return c.addr }

// SetDeadline implements net.PacketConn; writes never block.
func (c *Conn) SetDeadline(t time.Time) error { return c.SetReadDeadline(t) }

// SetWriteDeadline implements net.PacketConn.
func (c *Conn) SetWriteDeadline(time.Time) error { return nil }

// SetReadDeadline implements net.PacketConn.
func (c *Conn) SetReadDeadline(t time.Time) error {
	c.mu.Lock()
	c.until = t
	c.mu.Unlock()
	select {
	case c.moved <- struct{}{}:
	default:
	}
	return nil
}

// SetReadBuffer is asked for by quic-go.
func (c *Conn) SetReadBuffer(int) error { return nil }

// SetWriteBuffer is asked for by quic-go.
func (c *Conn) SetWriteBuffer(int) error { return nil }

// Wait is how long a packet sent now would wait for the rate.
func (d *Direction) Wait() time.Duration {
	d.mu.Lock()
	defer d.mu.Unlock()
	return max(time.Until(d.free), 0)
}
