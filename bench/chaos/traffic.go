package chaos

import (
	"context"
	"errors"
	"fmt"
	"io"
	"math/rand/v2"
	"net"
	"sync"
	"time"

	"golang.org/x/sys/unix"

	"wanpair/bench/lab"
	"wanpair/bench/server"
)

// talkPort is where the server of our own client listens.
const talkPort = "7100"

// traffic is our own client and server.
type traffic struct {
	lab      *lab.Lab
	pool     []byte
	account  *account
	patience time.Duration

	mu       sync.Mutex
	nextID   uint64
	verdicts map[uint64]chan error // how the server's end of a connection ended
	open     map[*net.TCPConn]bool // the server's connections
	busy     sync.WaitGroup
}

func newTraffic(l *lab.Lab, pool []byte, a *account, patience time.Duration) *traffic {
	return &traffic{lab: l, pool: pool, account: a, patience: patience, verdicts: map[uint64]chan error{}, open: map[*net.TCPConn]bool{}}
}

// serve accepts until ctx ends, then waits for its connections.
func (t *traffic) serve(ctx context.Context, l *net.TCPListener) {
	defer context.AfterFunc(ctx, func() { _ = l.Close() })()
	for {
		conn, err := l.AcceptTCP()
		if err != nil {
			break
		}
		t.mu.Lock()
		t.open[conn] = true
		t.mu.Unlock()
		t.busy.Go(func() { t.answer(conn) })
	}
	t.mu.Lock()
	for conn := range t.open {
		_ = conn.SetLinger(0)
		_ = conn.Close()
	}
	t.mu.Unlock()
	t.busy.Wait()
}

// answer is the server's end of one connection.
func (t *traffic) answer(conn *net.TCPConn) {
	defer func() {
		t.mu.Lock()
		delete(t.open, conn)
		t.mu.Unlock()
	}()
	// The client may wait for as long as it likes; an end that is gone is found by keep-alive. Nobody waits for ever, though.
	s := talker{conn: conn, pool: t.pool, patience: 2 * t.patience}
	head := make([]byte, headerBytes)
	for n := 0; n < len(head); {
		k, err := s.read(head[n:])
		if n += k; err == nil {
			continue
		}
		if errors.Is(err, io.EOF) {
			t.account.violate(fmt.Sprintf("the server got %v after %d bytes of a header", errCleanEnd, n))
		}
		s.reset()
		return
	}
	o, err := parseHeader(head)
	if err != nil {
		t.account.violate(fmt.Sprintf("the server got %v", err))
		s.reset()
		return
	}
	s.order = o
	err = s.server()
	if violation(err) {
		t.account.violate(fmt.Sprintf("server of %q %d: %v", o.mode, o.id, err))
	}
	t.mu.Lock()
	verdict := t.verdicts[o.id]
	t.mu.Unlock()
	if verdict != nil {
		select {
		case verdict <- err:
		default:
			t.account.violate(fmt.Sprintf("connection %d came to the server twice", o.id))
		}
	}
}

// dial connects from the client. The socket resets from before its handshake until both ends ended cleanly: an attempt that is given up
// just when it succeeds must not look like a clean end to the server.
func (t *traffic) dial(ctx context.Context, address string) (*net.TCPConn, error) {
	ctx, cancel := context.WithTimeout(ctx, t.patience)
	defer cancel()
	place := server.Place{Namespace: t.lab.Namespace(lab.Client)}
	return place.Dial(ctx, address, func(fd int) error {
		return unix.SetsockoptLinger(fd, unix.SOL_SOCKET, unix.SO_LINGER, &unix.Linger{Onoff: 1})
	})
}

// newOrder makes up a connection. Sizes are spread evenly over their logarithm: most are small, some are large.
func (t *traffic) newOrder(rng *rand.Rand) order {
	size := func(most int) int64 {
		n := int64(1) << rng.IntN(most)
		return n - 1 + rng.Int64N(n)
	}
	t.mu.Lock()
	t.nextID++
	o := order{mode: mode(rng.IntN(int(modes))), id: t.nextID, seed: rng.Uint64()}
	t.mu.Unlock()
	const megabyte = 21 // of log2
	switch o.mode {
	case modeDown, modeServerFirst:
		o.down, o.up = size(megabyte+1), size(12)
		if o.mode == modeDown {
			o.up = 0
		}
	case modeUp:
		o.up, o.down = size(megabyte+1), size(16)
	case modeDuplex:
		o.up, o.down = size(megabyte), size(megabyte)
	case modeClientReset:
		o.up, o.down = 1+size(megabyte), size(megabyte)
		o.cut = rng.Int64N(o.up)
	case modeServerReset:
		o.down, o.up = 1+size(megabyte), 0
		o.cut = rng.Int64N(o.down)
	case modeStall:
		o.down = 1<<18 + size(megabyte+1)
		o.cut, o.stall = rng.Int64N(o.down), time.Duration(rng.IntN(4000))*time.Millisecond
	case modeDribble:
		o.up = 1 + rng.Int64N(60)
		o.down = o.up
	}
	return o
}

// transfer runs one connection and counts it.
func (t *traffic) transfer(ctx context.Context, rng *rand.Rand) {
	o := t.newOrder(rng)
	host := lab.ServerIP4
	if rng.IntN(3) == 0 {
		host = lab.ServerIP6
	}
	kind := "own client: " + o.mode.String()
	verdict := make(chan error, 1)
	t.mu.Lock()
	t.verdicts[o.id] = verdict
	t.mu.Unlock()
	defer func() {
		// The server of a connection that broke may still come to its end; it then has nobody to tell, which is fine.
		t.mu.Lock()
		delete(t.verdicts, o.id)
		t.mu.Unlock()
	}()
	conn, err := t.dial(ctx, net.JoinHostPort(host, talkPort))
	if err != nil {
		if ctx.Err() == nil {
			t.account.end(kind, Refused, 0, err)
		}
		return
	}
	c := talker{conn: conn, pool: t.pool, order: o, patience: t.patience}
	over := context.AfterFunc(ctx, c.reset)
	err = c.client()
	over()
	if ctx.Err() != nil && !violation(err) {
		return // the campaign is over and ended it
	}
	if err == nil && o.mode != modeClientReset {
		select {
		case err = <-verdict:
			if violation(err) {
				err = errors.New("the server saw it") // and counted it
			}
		case <-ctx.Done():
			return
		case <-time.After(t.patience):
			err = errStalled
		}
	}
	t.count(kind, o, c.got, err, conn.LocalAddr())
}

// count sorts how a connection ended.
func (t *traffic) count(kind string, o order, got int64, err error, client net.Addr) {
	outcome := Whole
	switch {
	case violation(err):
		outcome, err = Wrong, fmt.Errorf("connection %d from %v, seed %#x: %w", o.id, client, o.seed, err)
	case errors.Is(err, errStalled):
		outcome = Stalled
		t.account.find("stalled", "%s from %v: %d of %d bytes down, %d up, no progress for %v", kind, client, got, o.down, o.up, t.patience)
	case err == nil && o.mode == modeClientReset:
		outcome = Intended
	case err == nil && o.mode == modeServerReset:
		outcome, err = Wrong, fmt.Errorf("%w: connection %d from %v: the server reset it", errCleanEnd, o.id, client)
	case err != nil && o.mode == modeServerReset && got <= o.cut:
		outcome = Intended
	case err != nil:
		outcome = Broken
	}
	t.account.end(kind, outcome, got, err)
}

// work runs connections one after the other until ctx ends.
func (t *traffic) work(ctx context.Context, seed uint64) {
	rng := rand.New(rand.NewPCG(seed, 4))
	for ctx.Err() == nil {
		began := time.Now()
		t.transfer(ctx, rng)
		pause(ctx, max(0, 20*time.Millisecond-time.Since(began))+time.Duration(rng.IntN(150))*time.Millisecond)
	}
}

// pause waits, or until ctx ends.
func pause(ctx context.Context, d time.Duration) {
	timer := time.NewTimer(d)
	defer timer.Stop()
	select {
	case <-ctx.Done():
	case <-timer.C:
	}
}
