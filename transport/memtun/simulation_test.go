package memtun_test

import (
	"context"
	"encoding/binary"
	"errors"
	"flag"
	"fmt"
	"io"
	"math/rand/v2"
	"os"
	"strconv"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"wanpair/transport"
	"wanpair/transport/memtun"
	"wanpair/transport/tuntest"
)

var (
	seeds    = flag.Int("seeds", 60, "how many seeds the simulation runs")
	seedFrom = flag.Uint64("seed", 1, "the first seed")
)

// TestSimulation runs two gateways over bad lanes in virtual time: lanes that
// reorder, lose, stand still and die, readers that dawdle, flows that abort,
// processes that restart. Whatever happens: what arrives is what was sent, in
// order, once; and when the faults end everything that was not aborted ends.
//
//	go test ./transport/memtun -run Simulation -seeds 5000 -seed 1
func TestSimulation(t *testing.T) {
	n := *seeds
	if v, err := strconv.Atoi(os.Getenv("WANPAIR_SEEDS")); err == nil {
		n = v
	}
	for i := range n {
		seed := *seedFrom + uint64(i)
		ok := t.Run(strconv.FormatUint(seed, 10), func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) { newWorld(t, seed).run() })
		})
		if !ok {
			t.Fatalf("seed %d; repeat with -seeds 1 -seed %d", seed, seed)
		}
	}
}

// world is one simulation.
type world struct {
	t    *testing.T
	mu   sync.Mutex
	rng  *rand.Rand
	cfg  memtun.Config
	a, b *tuntest.End
	ends int // how many sides have been replaced

	wires []*memtun.Wire // that live
	wg    sync.WaitGroup
	calm  chan struct{} // closed when the faults are over
	quit  chan struct{} // closed when everything has ended

	mayAbort bool // flows may end for other reasons than their own

	shared  bool               // classes have shares
	ceiling *transport.Ceiling // of both ends; nil: none
}

func newWorld(t *testing.T, seed uint64) *world {
	rng := rand.New(rand.NewPCG(seed, 99))
	w := &world{t: t, rng: rng, calm: make(chan struct{}), quit: make(chan struct{})}
	w.cfg = memtun.Config{
		Delay:  time.Duration(rng.IntN(100)) * time.Millisecond,
		Jitter: time.Duration(rng.IntN(30)) * time.Millisecond,
		Loss:   rng.Float64() * 0.1,
		Rate:   50_000 << rng.IntN(8),
		Ahead:  16 << 10,
	}
	if w.shared = rng.IntN(2) == 0; w.shared && rng.IntN(2) == 0 {
		var err error
		if w.ceiling, err = transport.NewCeiling(1_600_000 << rng.IntN(6)); err != nil {
			t.Fatal(err)
		}
	}
	if rng.IntN(4) == 0 {
		w.cfg.Streams = 1 + rng.IntN(8)
	}
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

func (w *world) config(site string) transport.LinkConfig {
	c := tuntest.Config(site)
	c.InitialCreditBytes = 16 << 10
	c.CreditBudgetBytes = 4 << 20
	if w.shared {
		c.Shares = map[string]int{"some": 50, "few": 5}
		c.Ceiling = w.ceiling
	}
	return c
}

// classify puts a flow into some class, or none, and may change the shares.
func (w *world) classify(f *transport.Flow) {
	if !w.shared {
		return
	}
	f.SetClass([]string{"some", "few", "", "unknown"}[w.draw(4)])
	if w.draw(4) > 0 {
		return
	}
	shares := []map[string]int{nil, {"few": 100}, {"some": 1, "more": 7}}[w.draw(3)]
	w.mu.Lock()
	end := w.a
	w.mu.Unlock()
	if err := end.Link.SetShares(shares); err != nil {
		w.t.Error(err)
	}
}

func (w *world) run() {
	w.a, w.b = tuntest.NewEnd(w.t, w.config("a")), tuntest.NewEnd(w.t, w.config("b"))
	lanes := 1 + w.draw(3)
	restarts := w.draw(3) == 0
	w.mayAbort = restarts
	for range lanes {
		w.wg.Go(w.keepLane)
	}
	sa, sb := w.a.Session(), w.b.Session()
	w.wg.Go(func() { w.faults(restarts) })
	flows := 1 + w.draw(8)
	var wg sync.WaitGroup
	for _, s := range [][2]*transport.Session{{sa, sb}, {sb, sa}} {
		wg.Go(func() { w.serve(s[0]) })
		wg.Go(func() { w.messages(s[0], s[1]) })
		for range flows {
			wg.Go(func() { w.flow(s[0], s[1]) })
		}
	}
	stuck := time.AfterFunc(time.Hour, func() {
		w.t.Error("flows or messages are stuck")
		w.a.Stop()
		w.b.Stop()
	})
	wg.Wait()
	stuck.Stop()
	if !restarts {
		w.settled(sa, sb)
	}
	<-w.calm // a restart in work still changes the ends
	close(w.quit)
	w.a.Stop()
	w.b.Stop()
	w.wg.Wait()
}

// keepLane has one lane up most of the time.
func (w *world) keepLane() {
	for {
		select {
		case <-w.quit:
			return
		default:
		}
		wire, x, y := memtun.New(w.cfg)
		w.mu.Lock()
		w.wires = append(w.wires, wire)
		a, b := w.a, w.b
		if w.rng.IntN(2) == 0 {
			x, y = y, x
		}
		w.mu.Unlock()
		var wg sync.WaitGroup
		ctx, cancel := context.WithCancel(context.Background())
		stop := make(chan struct{})
		wg.Go(func() { _ = a.Link.ServeLane(ctx, x); cancel() })
		wg.Go(func() { _ = b.Link.ServeLane(ctx, y) })
		wg.Go(func() {
			select {
			case <-w.quit:
				cancel()
			case <-stop:
			case <-ctx.Done():
			}
		})
		<-ctx.Done()
		// The other side may be behind a cut: its own clock tells it.
		close(stop)
		wg.Wait()
		cancel()
		w.pause(50*time.Millisecond, 1500*time.Millisecond)
	}
}

// faults harms wires for a while, then stops.
func (w *world) faults(restarts bool) {
	defer close(w.calm)
	for range 3 + w.draw(10) {
		w.pause(50*time.Millisecond, 3*time.Second)
		w.mu.Lock()
		var wire *memtun.Wire
		if n := len(w.wires); n > 0 {
			wire = w.wires[max(0, n-1-w.rng.IntN(4))]
		}
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
			if restarts {
				w.restart()
			}
		}
	}
}

// restart replaces one side's process: its lanes die without a word.
func (w *world) restart() {
	w.mu.Lock()
	w.ends++
	end := tuntest.NewEnd(w.t, w.config(fmt.Sprint("restarted ", w.ends)))
	old := w.a
	if w.rng.IntN(2) == 0 {
		w.a = end
	} else {
		old, w.b = w.b, end
	}
	wires := w.wires
	w.wires = nil
	w.mu.Unlock()
	for _, wire := range wires {
		wire.Kill(errors.New("process gone"))
	}
	old.Stop()
}

// body says what both directions of a flow shall carry.
type body struct {
	seed     byte
	request  int64
	reply    int64
	dawdle   bool // the reader takes its time
	abortsIn int64
}

func (b body) bytes() []byte {
	out := []byte{b.seed, 0}
	if b.dawdle {
		out[1] = 1
	}
	out = binary.BigEndian.AppendUint64(out, uint64(b.request))
	out = binary.BigEndian.AppendUint64(out, uint64(b.reply))
	return binary.BigEndian.AppendUint64(out, uint64(b.abortsIn))
}

func parseBody(p []byte) body {
	return body{
		seed: p[0], dawdle: p[1] == 1, request: int64(binary.BigEndian.Uint64(p[2:])),
		reply: int64(binary.BigEndian.Uint64(p[10:])), abortsIn: int64(binary.BigEndian.Uint64(p[18:])),
	}
}

// flow opens one flow from s and sees it through.
func (w *world) flow(s, _ *transport.Session) {
	w.pause(0, 10*time.Second)
	b := body{seed: byte(w.draw(256)), request: int64(w.draw(1 << w.draw(20))), reply: int64(w.draw(1 << w.draw(20))), dawdle: w.draw(5) == 0}
	if w.draw(6) == 0 {
		b.abortsIn = 1 + int64(w.draw(int(b.reply)+1))
	}
	var f *transport.Flow
	for {
		var err error
		f, err = s.Open(b.bytes())
		if err == nil {
			break
		}
		if errors.Is(err, transport.ErrSessionEnded) {
			return
		}
		if !errors.Is(err, transport.ErrNoLane) {
			w.t.Errorf("open: %v", err)
			return
		}
		time.Sleep(time.Second)
	}
	w.classify(f)
	if _, err := f.WaitAnswer(); err != nil {
		w.ended(f, b, "answer", err)
		return
	}
	w.both(f, b, b.seed, b.request, b.seed+1, b.reply)
}

// serve answers the flows the other side opens.
func (w *world) serve(s *transport.Session) {
	var wg sync.WaitGroup
	defer wg.Wait()
	ctx, cancel := context.WithCancel(context.Background())
	defer cancel()
	wg.Go(func() {
		select {
		case <-w.calm:
			time.Sleep(15 * time.Minute) // every flow has been opened by then
		case <-s.Done():
		}
		cancel()
	})
	for {
		f, err := s.Accept(ctx)
		if err != nil {
			return
		}
		wg.Go(func() {
			b := parseBody(f.OpenBody())
			if err := f.Answer(nil); err != nil {
				w.ended(f, b, "answer", err)
				return
			}
			w.both(f, b, b.seed+1, b.reply, b.seed, b.request)
		})
	}
}

// both runs the two directions of a flow at one of its ends.
func (w *world) both(f *transport.Flow, b body, sendSeed byte, send int64, recvSeed byte, recv int64) {
	var wg sync.WaitGroup
	wg.Go(func() {
		if err := tuntest.Send(f, stream(sendSeed, send)); err != nil {
			w.ended(f, b, "send", err)
		}
	})
	v := &verifier{want: stream(recvSeed, recv), world: w, flow: f, body: b}
	err := tuntest.Receive(f, v)
	switch {
	case err != nil:
		w.ended(f, b, "receive", err)
	case v.n != recv:
		w.t.Errorf("flow %d ended cleanly after %d of %d bytes", f.ID(), v.n, recv)
	}
	wg.Wait()
	<-f.Done()
	if err := f.Err(); err != nil {
		w.ended(f, b, "end", err)
	} else if v.n != recv {
		w.t.Errorf("flow %d is over without all its bytes: %d of %d", f.ID(), v.n, recv)
	}
}

// ended judges the error of a flow.
func (w *world) ended(f *transport.Flow, b body, what string, err error) {
	var ae *transport.AbortError
	if !errors.As(err, &ae) {
		w.t.Errorf("flow %d: %s: %v", f.ID(), what, err)
		return
	}
	switch {
	case ae.Code == transport.AbortReset && b.abortsIn > 0:
	case w.mayAbort && (ae.Code == transport.AbortPeerRestarted || ae.Code == transport.AbortShutdown || ae.Code == transport.AbortLinkLost):
	default:
		w.t.Errorf("flow %d: %s: %v", f.ID(), what, err)
	}
}

func stream(seed byte, n int64) io.Reader {
	return io.LimitReader(rand.NewChaCha8([32]byte{seed, 1}), n)
}

// verifier compares what arrives with what it should be, byte by byte.
type verifier struct {
	want  io.Reader
	n     int64
	world *world
	flow  *transport.Flow
	body  body
}

func (v *verifier) Write(p []byte) (int, error) {
	want := make([]byte, len(p))
	if _, err := io.ReadFull(v.want, want); err != nil || string(want) != string(p) {
		v.world.t.Errorf("flow %d: wrong bytes behind %d", v.flow.ID(), v.n)
	}
	v.n += int64(len(p))
	if v.body.abortsIn > 0 && v.n >= v.body.abortsIn {
		v.flow.Abort(transport.AbortReset)
	}
	if v.body.dawdle && v.world.draw(3) == 0 {
		v.world.pause(0, 400*time.Millisecond)
	}
	return len(p), nil
}

// messages sends numbered messages from one session to the other.
func (w *world) messages(s, to *transport.Session) {
	n := w.draw(400)
	var wg sync.WaitGroup
	defer wg.Wait()
	wg.Go(func() {
		for i := range n {
			msg := binary.BigEndian.AppendUint32(nil, uint32(i))
			if err := s.SendCodec(append(msg, make([]byte, w.draw(2000))...)); err != nil {
				return
			}
			if w.draw(10) == 0 {
				w.pause(0, 300*time.Millisecond)
			}
		}
	})
	for i := range n {
		_, msg, err := to.Messages(context.Background())
		if err != nil {
			if !w.mayAbort {
				w.t.Errorf("message %d: %v", i, err)
			}
			return
		}
		if got := binary.BigEndian.Uint32(msg); got != uint32(i) {
			w.t.Errorf("message %d came instead of %d", got, i)
			return
		}
	}
}

// settled checks that nothing is left behind once everything has ended.
func (w *world) settled(a, b *transport.Session) {
	if a.Err() != nil || b.Err() != nil {
		w.t.Errorf("a session ended: %v, %v", a.Err(), b.Err())
		return
	}
	for _, e := range []*tuntest.End{w.a, w.b} {
		st := e.Link.Stats()
		for range 600 { // the last acknowledgement may have to wait for a lane
			if st.QueuedMsgs == 0 && st.Flows == 0 {
				break
			}
			time.Sleep(100 * time.Millisecond)
			st = e.Link.Stats()
		}
		if st.QueuedMsgs != 0 {
			w.t.Errorf("%d messages are kept for ever", st.QueuedMsgs)
		}
		if st.Flows != 0 || st.QueuedBytes != 0 || st.CreditGranted != 0 {
			w.t.Errorf("left behind: %d flows, %d bytes kept, %d granted", st.Flows, st.QueuedBytes, st.CreditGranted)
		}
		if st.FrameErrors != 0 {
			w.t.Errorf("%d frames broke the rules", st.FrameErrors)
		}
	}
}
