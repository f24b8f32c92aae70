package peer_test

import (
	"bytes"
	"context"
	"math/rand/v2"
	"net/netip"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"wanpair/accel/flow"
	"wanpair/accel/peer"
	"wanpair/transport/memtun"
)

// fetchSame lets n connections fetch the same data at once over 10 Mbit/s and 100 ms, and returns the payload bytes that it took.
func fetchSame(t *testing.T, n int, data []byte) (wire uint64, repairs int64) {
	synctest.Test(t, func(t *testing.T) {
		a, b := newSide(t, "a"), newSide(t, "b")
		lane := memtun.Config{Delay: 50 * time.Millisecond, Rate: 10_000_000 / 8, Ahead: 64 << 10}
		ctx, cancel := context.WithCancel(context.Background())
		var lanes sync.WaitGroup
		for range 4 {
			each := lane
			each.Rate /= 4
			_, dialer, listener := memtun.New(each)
			lanes.Go(func() { _ = a.Link().ServeLane(ctx, dialer) })
			lanes.Go(func() { _ = b.Link().ServeLane(ctx, listener) })
		}
		waitUp(t, a, b)
		time.Sleep(time.Second) // virtual: the lanes are measured by then
		before := b.Link().Stats().PayloadSent
		var flows sync.WaitGroup
		for range n {
			near, err := a.Open(request)
			if err != nil {
				t.Fatal(err)
			}
			far := <-b.served
			if err := far.Answer(netip.MustParseAddrPort("10.2.0.1:9")); err != nil {
				t.Fatal(err)
			}
			flows.Go(func() { // the server's side: as much as goes
				for rest := data; ; {
					window, err := far.Window()
					if err != nil {
						t.Error(err)
						return
					}
					part := rest[:min(window, len(rest), flow.MaxSegmentBytes)]
					rest = rest[len(part):]
					if err := far.Send(part, len(rest) == 0); err != nil {
						t.Error(err)
						return
					}
					if len(rest) == 0 {
						return
					}
				}
			})
			flows.Go(func() {
				if got, err := receive(near); err != nil || !bytes.Equal(got, data) {
					t.Errorf("received %d bytes of %d: %v", len(got), len(data), err)
				}
			})
			flows.Go(func() { _ = send(near, nil, rand.New(rand.NewPCG(1, 1))) })
			flows.Go(func() { _, _ = receive(far) })
			defer func(streams ...*peer.Stream) {
				for _, s := range streams {
					s.Finish()
					s.Close()
				}
			}(near, far)
		}
		flows.Wait()
		wire = b.Link().Stats().PayloadSent - before
		st := a.Codec().Stats()
		repairs = st.Repairs
		t.Logf("%d flows: %d bytes for %d each; %d waits, %d repairs, %d bytes repaired", n, wire, len(data), st.Waits, st.Repairs, st.RepairedBytes)
		cancel()
		lanes.Wait()
		a.end(t)
		b.end(t)
	})
	return wire, repairs
}

// TestManyFetchTheSame: 14 connections that fetch the same thing at once cost at most 1.2 times the bytes of one.
func TestManyFetchTheSame(t *testing.T) {
	data := text(12<<20, 77)
	one, _ := fetchSame(t, 1, data)
	many, repairs := fetchSame(t, 14, data)
	t.Logf("14 cost %.3f times one", float64(many)/float64(one))
	if many > one*6/5 {
		t.Errorf("14 flows cost %d bytes where one costs %d", many, one)
	}
	if repairs > 0 {
		t.Errorf("%d repairs on a link without faults", repairs)
	}
}
