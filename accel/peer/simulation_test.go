package peer_test

import (
	"bytes"
	"context"
	"errors"
	"flag"
	"io"
	"log/slog"
	"math/rand/v2"
	"net/netip"
	"os"
	"strconv"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"wanpair/accel/flow"
	"wanpair/accel/peer"
	"wanpair/dedupe"
	"wanpair/transport"
	"wanpair/transport/memtun"
)

var (
	seeds    = flag.Int("seeds", 40, "how many seeds the simulation runs")
	seedFrom = flag.Uint64("seed", 1, "the first seed")
)

// TestWholeWay runs the whole way of a byte in virtual time: hosts on both sides talk over simulated TCP connections to two gateways' pumps,
// codecs and sessions, over lanes that lose, reorder, stand still and die, while a gateway may be started again without its cache. Hosts
// half-close, reset, dawdle and talk in single bytes. Whatever happens: every byte that comes is the right one, a clean end comes only behind the last
// byte, nothing breaks without a restart or a host that resets, and when the faults are over all works again and nothing is left behind.
//
//	go test ./accel/peer -run WholeWay -seeds 5000 -seed 1
func TestWholeWay(t *testing.T) {
	n := *seeds
	if v, err := strconv.Atoi(os.Getenv("WANPAIR_SEEDS")); err == nil {
		n = v
	}
	var total outcome
	for i := range n {
		seed := *seedFrom + uint64(i)
		ok := t.Run(strconv.FormatUint(seed, 10), func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				w := newWorld(t, seed)
				w.run()
				total.add(w.outcome)
			})
		})
		if !ok {
			t.Fatalf("seed %d; repeat with -seeds 1 -seed %d", seed, seed)
		}
	}
	t.Logf("%+v", total)
	if n >= 20 && (total.Whole == 0 || total.Broken == 0 || total.Restarts == 0 || total.LanesLost == 0 || total.Matched == 0) {
		t.Errorf("these seeds do not show much: %+v", total)
	}
}

// outcome counts what happened in worlds.
type outcome struct {
	Whole, Reset, Broken, Restarts, LanesLost int
	Raw, Matched                              int64 // bytes
}

func (o *outcome) add(p outcome) {
	o.Whole += p.Whole
	o.Reset += p.Reset
	o.Broken += p.Broken
	o.Restarts += p.Restarts
	o.LanesLost += p.LanesLost
	o.Raw += p.Raw
	o.Matched += p.Matched
}

// box is one gateway.
type box struct {
	*peer.Peer
	stop context.CancelFunc
	done chan struct{}
}

// world is one simulation.
type world struct {
	t       *testing.T
	buffers *flow.Buffers
	lane    memtun.Config
	shared  [][]byte // what hosts send pieces of

	mu      sync.Mutex
	rng     *rand.Rand
	boxes   [2]*box
	wires   []*memtun.Wire
	talks   []*talk
	outcome outcome

	mayBreak bool // a gateway is started again
	wg       sync.WaitGroup
	calm     chan struct{} // closed when the faults are over
	quit     chan struct{} // closed when everything has ended
}

func newWorld(t *testing.T, seed uint64) *world {
	rng := rand.New(rand.NewPCG(seed, 77))
	w := &world{t: t, rng: rng, buffers: flow.NewBuffers(), calm: make(chan struct{}), quit: make(chan struct{})}
	w.lane = memtun.Config{
		Delay:  time.Duration(rng.IntN(100)) * time.Millisecond,
		Jitter: time.Duration(rng.IntN(30)) * time.Millisecond,
		Loss:   rng.Float64() * 0.1,
		Rate:   100_000 << rng.IntN(6),
		Ahead:  16 << 10,
	}
	if rng.IntN(4) == 0 {
		w.lane.Streams = 1 + rng.IntN(8)
	}
	w.mayBreak = rng.IntN(3) == 0
	for i := range 3 {
		w.shared = append(w.shared, text(60_000, seed*3+uint64(i)))
	}
	noise := make([]byte, 30_000)
	for i := range noise {
		noise[i] = byte(rng.Uint32())
	}
	w.shared = append(w.shared, noise)
	return w
}

// draw is safe for any goroutine.
func (w *world) draw(n int) int {
	w.mu.Lock()
	defer w.mu.Unlock()
	return w.rng.IntN(n)
}

func (w *world) pause(from, to time.Duration) {
	time.Sleep(from + time.Duration(w.draw(int(to-from)+1)))
}

// content is what one direction of a connection carries: often a piece of what others carry, with a change.
func (w *world) content() []byte {
	source := w.shared[w.draw(len(w.shared))]
	at := w.draw(len(source))
	out := bytes.Clone(source[at : at+w.draw(1+min(len(source)-at, 1<<w.draw(17)))])
	if len(out) > 0 && w.draw(3) == 0 {
		out[w.draw(len(out))] ^= 0x55
	}
	return out
}

func (w *world) newBox(name string) *box {
	b := &box{done: make(chan struct{})}
	link := transport.LinkConfig{Hello: transport.Hello{Site: name}, InitialCreditBytes: 32 << 10, CreditBudgetBytes: 4 << 20}
	var err error
	b.Peer, err = peer.New(peer.Config{
		Name: name, Log: slog.New(slog.DiscardHandler), Link: link,
		Cache: dedupe.Config{SizeBytes: dedupe.MinSizeBytes, MemoryBytes: dedupe.MinMemoryBytes, Concurrency: 2},
		Serve: w.serve,
	})
	if err != nil {
		w.t.Fatal(err)
	}
	ctx, cancel := context.WithCancel(context.Background())
	b.stop = cancel
	go func() {
		defer close(b.done)
		if err := b.Run(ctx); err != nil {
			w.t.Errorf("%s: %v", name, err)
		}
	}()
	return b
}

func (w *world) box(side int) *box {
	w.mu.Lock()
	defer w.mu.Unlock()
	return w.boxes[side]
}

func (w *world) run() {
	w.boxes = [2]*box{w.newBox("a"), w.newBox("b")}
	for range 1 + w.draw(3) {
		w.wg.Go(w.keepLane)
	}
	w.wg.Go(w.faults)
	var talks sync.WaitGroup
	for range 2 + w.draw(10) {
		talks.Go(func() { w.connections(w.draw(2)) })
	}
	stuck := time.AfterFunc(2*time.Hour, func() {
		w.t.Error("connections are stuck")
		w.boxes[0].stop()
		w.boxes[1].stop()
	})
	talks.Wait()
	<-w.calm
	w.connections(0) // all works again
	stuck.Stop()
	w.settled()
	close(w.quit)
	for _, b := range w.boxes {
		st := b.Codec().Stats()
		w.outcome.Raw += st.EncodedRawBytes
		w.outcome.Matched += st.MatchedBytes
		b.stop()
		<-b.done
	}
	w.wg.Wait()
}

// settled waits until nothing is left of the connections.
func (w *world) settled() {
	for _, b := range w.boxes {
		st := b.Link().Stats()
		for range 600 { // the last acknowledgement may have to wait for a lane; one flow is the gateway's own
			if st.QueuedMsgs == 0 && st.Flows <= 2 && st.QueuedBytes < 1000 {
				break
			}
			time.Sleep(100 * time.Millisecond)
			st = b.Link().Stats()
		}
		if st.QueuedMsgs != 0 || st.Flows > 2 || st.FrameErrors != 0 {
			w.t.Errorf("%s: left behind: %+v", b.Name(), st)
		}
		if n := b.Counters().FrameErrors.Load(); n != 0 && !w.mayBreak {
			w.t.Errorf("%s: %d frames did not decode", b.Name(), n)
		}
	}
}

// keepLane has one lane up most of the time.
func (w *world) keepLane() {
	for {
		select {
		case <-w.quit:
			return
		default:
		}
		wire, x, y := memtun.New(w.lane)
		w.mu.Lock()
		w.wires = append(w.wires, wire)
		boxes := w.boxes
		if w.rng.IntN(2) == 0 {
			x, y = y, x
		}
		w.mu.Unlock()
		ctx, cancel := context.WithCancel(context.Background())
		stop := make(chan struct{})
		var wg sync.WaitGroup
		wg.Go(func() { _ = boxes[0].Link().ServeLane(ctx, x); cancel() })
		wg.Go(func() { _ = boxes[1].Link().ServeLane(ctx, y) })
		wg.Go(func() {
			select {
			case <-w.quit:
				cancel()
			case <-stop:
			}
		})
		<-ctx.Done()
		close(stop)
		wg.Wait() // the other side may be behind a cut: its own clock tells it
		w.pause(50*time.Millisecond, 1500*time.Millisecond)
	}
}

// faults harms lanes and gateways for a while, then stops.
func (w *world) faults() {
	defer close(w.calm)
	for range 2 + w.draw(8) {
		w.pause(50*time.Millisecond, 3*time.Second)
		w.mu.Lock()
		var wire *memtun.Wire
		if n := len(w.wires); n > 0 {
			wire = w.wires[max(0, n-1-w.rng.IntN(4))]
		}
		w.outcome.LanesLost++
		w.mu.Unlock()
		if wire == nil {
			continue
		}
		switch w.draw(5) {
		case 0, 1:
			wire.Kill(errors.New("killed"))
		case 2:
			wire.Cut()
			w.pause(100*time.Millisecond, 8*time.Second)
			wire.Mend()
		case 3:
			wire.Cut() // for ever
		case 4:
			if w.mayBreak {
				w.restart(w.draw(2))
			}
		}
	}
}

// restart replaces a gateway's process by another one, which has lost the cache.
func (w *world) restart(side int) {
	fresh := w.newBox([]string{"a", "b"}[side])
	w.mu.Lock()
	old := w.boxes[side]
	w.boxes[side] = fresh
	wires := w.wires
	w.wires = nil
	w.outcome.Restarts++
	w.mu.Unlock()
	for _, wire := range wires {
		wire.Kill(errors.New("process gone"))
	}
	old.stop()
	<-old.done
}

// talk is one connection between two hosts.
type talk struct {
	world    *world
	mode     int
	up, down []byte
	breakAt  int  // the host that resets does so behind this many bytes it read
	dawdles  bool // readers do
	served   bool // it has reached the server
	done     chan error
}

// How hosts behave.
const (
	askThenAnswer = iota // the client half-closes, the server answers then
	bothAtOnce
	serverFirst // the server half-closes first
	singleBytes // one byte there, one back
	clientResets
	serverResets
	modes
)

func (w *world) newTalk() (*talk, string) {
	t := &talk{world: w, mode: w.draw(modes), up: w.content(), down: w.content(), dawdles: w.draw(6) == 0, done: make(chan error, 1)}
	switch t.mode {
	case singleBytes:
		t.up = t.up[:min(len(t.up), 8)]
		t.down = bytes.Clone(t.up)
	case clientResets:
		t.breakAt = w.draw(len(t.down) + 1)
	case serverResets:
		t.breakAt = w.draw(len(t.up) + 1)
	}
	w.mu.Lock()
	defer w.mu.Unlock()
	w.talks = append(w.talks, t)
	return t, strconv.Itoa(len(w.talks)-1) + ":1"
}

// connections makes some connections one after the other from the hosts of a side.
func (w *world) connections(side int) {
	for range 1 + w.draw(4) {
		w.pause(0, 4*time.Second)
		t, target := w.newTalk()
		lan := newLANConn()
		stream := w.open(side, target)
		if stream == nil {
			return
		}
		var gateway sync.WaitGroup
		gateway.Go(func() {
			defer stream.Close()
			_ = flow.Run(lan.gateway(), stream, w.buffers, new(flow.Counters))
		})
		client := t.client(lan.host())
		server := error(nil)
		if client == nil {
			server = <-t.done
		}
		gateway.Wait()
		w.judge(t, client, server)
	}
}

// open opens a flow as soon as the link is up; nil when a gateway stopped.
func (w *world) open(side int, target string) *peer.Stream {
	var calmSince time.Time
	for {
		if b := w.box(side); b.State() == peer.Up {
			if s, err := b.Open(peer.OpenRequest{Kind: peer.Forward, Client: netip.MustParseAddrPort("10.1.0.2:4000"), TargetName: target}); err == nil {
				return s
			}
		}
		time.Sleep(100 * time.Millisecond)
		select {
		case <-w.calm:
			if calmSince.IsZero() {
				calmSince = time.Now()
			}
			if time.Since(calmSince) > 5*time.Minute {
				w.t.Errorf("the link is %v five minutes after the last fault", w.box(side).State())
				return nil
			}
		default:
		}
	}
}

// serve is the far gateway: it connects a flow to its server.
func (w *world) serve(_ context.Context, stream *peer.Stream) {
	defer stream.Close()
	n, err := strconv.Atoi(stream.Request.TargetName[:len(stream.Request.TargetName)-2])
	if err != nil {
		w.t.Errorf("target %q", stream.Request.TargetName)
		return
	}
	w.mu.Lock()
	t := w.talks[n]
	again := t.served
	t.served = true
	w.mu.Unlock()
	if again {
		w.t.Errorf("connection %d came to the server twice", n)
	}
	w.pause(0, 20*time.Millisecond)
	lan := newLANConn()
	if err := stream.Answer(netip.MustParseAddrPort("10.2.0.1:9")); err != nil {
		t.done <- err
		return
	}
	var server sync.WaitGroup
	server.Go(func() { t.done <- t.server(lan.host()) })
	_ = flow.Run(lan.gateway(), stream, w.buffers, new(flow.Counters))
	server.Wait()
}

// errIntended ends a connection that was meant to be reset.
var errIntended = errors.New("reset as intended")

// judge counts how a connection ended, and complains when it should not have ended so.
func (w *world) judge(t *talk, client, server error) {
	w.mu.Lock()
	defer w.mu.Unlock()
	resets := t.mode == clientResets || t.mode == serverResets
	switch {
	case client == nil && server == nil && !resets:
		w.outcome.Whole++
	case errors.Is(client, errIntended), t.mode == serverResets && errors.Is(client, errReset):
		w.outcome.Reset++
	case client == nil && resets:
		w.t.Errorf("a connection of mode %d ended cleanly although an end reset it", t.mode)
	case w.mayBreak:
		w.outcome.Broken++
	default:
		w.t.Errorf("a connection of mode %d broke without cause: client %v, server %v", t.mode, client, server)
	}
}

func (t *talk) client(c *lanEnd) error {
	switch t.mode {
	case askThenAnswer:
		if err := t.write(c, t.up); err != nil {
			return err
		}
		return t.read(c, t.down, len(t.down)+1)
	case serverFirst:
		if err := t.read(c, t.down, len(t.down)+1); err != nil {
			return err
		}
		return t.write(c, t.up)
	case singleBytes:
		for i := range t.up {
			if _, err := c.Write(t.up[i : i+1]); err != nil {
				return err
			}
			b := make([]byte, 1)
			if _, err := io.ReadFull(c, b); err != nil {
				return t.early(err)
			}
			if b[0] != t.down[i] {
				t.world.t.Error("a wrong byte came back")
			}
		}
		if err := c.CloseWrite(); err != nil {
			return err
		}
		return t.read(c, nil, 1)
	case clientResets:
		var wg sync.WaitGroup
		wg.Go(func() { _ = t.write(c, t.up) })
		err := t.read(c, t.down, t.breakAt)
		c.Reset()
		wg.Wait()
		if err != nil {
			return err
		}
		return errIntended
	default:
		return t.both(c, t.up, t.down)
	}
}

func (t *talk) server(c *lanEnd) error {
	switch t.mode {
	case askThenAnswer:
		if err := t.read(c, t.up, len(t.up)+1); err != nil {
			return err
		}
		return t.write(c, t.down)
	case serverFirst:
		if err := t.write(c, t.down); err != nil {
			return err
		}
		return t.read(c, t.up, len(t.up)+1)
	case singleBytes:
		b := make([]byte, 1)
		for range t.up {
			if _, err := io.ReadFull(c, b); err != nil {
				return t.early(err)
			}
			if _, err := c.Write(b); err != nil {
				return err
			}
		}
		if err := t.read(c, nil, 1); err != nil {
			return err
		}
		return c.CloseWrite()
	case serverResets:
		var wg sync.WaitGroup
		wg.Go(func() { _ = t.write(c, t.down[:len(t.down)/2]) })
		err := t.read(c, t.up, t.breakAt)
		c.Reset()
		wg.Wait()
		return err
	default:
		return t.both(c, t.down, t.up)
	}
}

// both writes and reads at the same time.
func (t *talk) both(c *lanEnd, out, in []byte) error {
	var wg sync.WaitGroup
	var wrote error
	wg.Go(func() { wrote = t.write(c, out) })
	err := t.read(c, in, len(in)+1)
	wg.Wait()
	return errors.Join(err, wrote)
}

// write sends a whole direction in pieces and ends it; the host of a connection that is to be reset leaves it open.
func (t *talk) write(c *lanEnd, p []byte) error {
	for len(p) > 0 {
		n := min(len(p), 1+t.world.draw(40_000))
		if _, err := c.Write(p[:n]); err != nil {
			return err
		}
		p = p[n:]
		if t.world.draw(4) == 0 {
			t.world.pause(0, 50*time.Millisecond)
		}
	}
	if t.mode == serverResets || t.mode == clientResets {
		return nil
	}
	return c.CloseWrite()
}

// read takes want and the end behind it, or the first limit bytes of it, and compares.
func (t *talk) read(c *lanEnd, want []byte, limit int) error {
	buf := make([]byte, 1+t.world.draw(20_000))
	for n := 0; n < limit; {
		k, err := c.Read(buf[:min(len(buf), limit-n)])
		if k > len(want)-n || !bytes.Equal(buf[:k], want[n:n+k]) {
			t.world.t.Errorf("wrong bytes behind %d of %d", n, len(want))
			return io.ErrShortBuffer
		}
		n += k
		if errors.Is(err, io.EOF) {
			if n < len(want) {
				return t.early(err)
			}
			return nil
		}
		if err != nil {
			return err
		}
		if t.dawdles && t.world.draw(3) == 0 {
			t.world.pause(0, 400*time.Millisecond)
		}
	}
	return nil
}

// early complains of a clean end before the last byte.
func (t *talk) early(err error) error {
	if errors.Is(err, io.EOF) || errors.Is(err, io.ErrUnexpectedEOF) {
		t.world.t.Errorf("a clean end of a truncated direction, mode %d", t.mode)
	}
	return err
}
