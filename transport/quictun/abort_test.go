package quictun

import (
	"bytes"
	"hash"
	"hash/fnv"
	"io"
	"math/rand/v2"
	"sync"
	"sync/atomic"
	"testing"

	"github.com/quic-go/quic-go"

	"wanpair/transport"
	"wanpair/transport/tuntest"
)

// steady is noise that is hashed as it is read, until it is told to end.
type steady struct {
	noise *rand.ChaCha8
	sum   hash.Hash64
	over  atomic.Bool
}

func (s *steady) Read(p []byte) (int, error) {
	if s.over.Load() {
		return 0, io.EOF
	}
	_, _ = s.noise.Read(p)
	return s.sum.Write(p)
}

// tally hashes and counts what is written to it.
type tally struct {
	sum hash.Hash64
	n   atomic.Int64
}

func (c *tally) Write(p []byte) (int, error) {
	c.n.Add(int64(len(p)))
	return c.sum.Write(p)
}

// TestOthersGoOnWhenFlowsAreAborted aborts flows of bulk in the midst of their frames, at either end, over and over, while flows of another class go
// on over the same lanes. What an abort took of the lanes or of QUIC's windows and did not give back would add up: the windows here hold a small
// part of what is given up.
func TestOthersGoOnWhenFlowsAreAborted(t *testing.T) {
	const (
		lanes, rounds = 4, 24
		window        = 512 << 10
		each          = 256 << 10 // arrives of a flow before it is aborted
		then          = 1 << 20   // and of the others afterwards, before the next
	)
	shares := map[string]int{"first": 60, "second": 20}
	connect := connectorWith(t, func(c *quic.Config) {
		c.InitialStreamReceiveWindow, c.MaxStreamReceiveWindow = window, window
		c.InitialConnectionReceiveWindow, c.MaxConnectionReceiveWindow = window, window
		c.MaxIncomingUniStreams = 2 * creditHeld
	})
	p := tuntest.NewPair(t, connect, func(a, b *transport.LinkConfig) { a.Shares, b.Shares = shares, shares })
	a, b := p.Sessions(t)
	for range lanes - 1 {
		p.AddLane(t, true)
	}
	open := func(class string) (near, far *transport.Flow) {
		near, far = tuntest.Flow(t, a, b)
		near.SetClass(class)
		far.SetClass(class)
		return near, far
	}
	var group sync.WaitGroup
	defer group.Wait()
	type other struct {
		from steady
		to   tally
	}
	var others [2]*other
	for i := range others {
		o := &other{from: steady{noise: rand.NewChaCha8([32]byte{byte(i)}), sum: fnv.New64a()}, to: tally{sum: fnv.New64a()}}
		others[i] = o
		near, far := open("second")
		defer near.Abort(transport.AbortReset) // where the test gives up
		group.Go(func() {
			if err := tuntest.Send(near, &o.from); err != nil {
				t.Errorf("send: %v", err)
			}
		})
		group.Go(func() {
			if err := tuntest.Receive(far, &o.to); err != nil {
				t.Errorf("receive: %v", err)
			}
		})
	}
	for round := range rounds {
		var firsts sync.WaitGroup
		for i := range 2 {
			near, far := open("first")
			got := tally{sum: fnv.New64a()}
			firsts.Go(func() {
				_ = tuntest.Send(near, &steady{noise: rand.NewChaCha8([32]byte{byte(round), byte(i), 1}), sum: fnv.New64a()})
			})
			firsts.Go(func() { _ = tuntest.Receive(far, &got) })
			waitFor(t, "bytes of a flow that will be aborted", func() bool { return got.n.Load() >= each })
			if round%2 == 0 {
				near.Abort(transport.AbortReset)
			} else {
				far.Abort(transport.AbortReset)
			}
		}
		firsts.Wait()
		for _, o := range others {
			before := o.to.n.Load()
			waitFor(t, "the flows that were not aborted", func() bool { return o.to.n.Load() >= before+then })
		}
	}
	for _, o := range others {
		o.from.over.Store(true)
	}
	group.Wait()
	for i, o := range others {
		if !bytes.Equal(o.from.sum.Sum(nil), o.to.sum.Sum(nil)) {
			t.Errorf("flow %d: other bytes arrived than were sent", i)
		}
	}
}
