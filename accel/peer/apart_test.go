package peer_test

import (
	"testing"
	"time"

	"wanpair/accel/peer"
	"wanpair/dedupe"
	"wanpair/transport/memtun"
)

// TestHistoriesApart: a flow without history is not shaped by what others sent nor do they gain from it, and flows of a history of its own gain from
// each other only; in both directions, for both sides treat a flow as the side that opened it says.
func TestHistoriesApart(t *testing.T) {
	a, b := newSide(t, "a"), newSide(t, "b")
	defer a.end(t)
	defer b.end(t)
	join(t, a, b, memtun.Config{Delay: time.Millisecond})
	waitUp(t, a, b)
	up, down := text(1<<20, 31), text(1<<20, 32)
	none, one, two := request, request, request
	none.NoHistory, one.Scope, two.Scope = true, 1, 2
	for i, c := range []struct {
		who   string
		as    peer.OpenRequest
		known bool
	}{
		{"without history", none, false}, {"everybody", request, false}, {"everybody", request, true}, {"without history", none, false},
		{"one", one, false}, {"two", two, false}, {"one", one, true}, {"two", two, true}, {"without history", none, false},
	} {
		matched := func() int64 { return a.Codec().Stats().MatchedBytes + b.Codec().Stats().MatchedBytes }
		before := matched()
		exchangeAs(t, a, b, c.as, up, down, uint64(40+i))
		got := matched() - before
		if all := int64(len(up) + len(down)); c.known && got < all*9/10 || !c.known && got > all/10 {
			t.Errorf("step %d, %s: %d bytes of %d were found in the history", i, c.who, got, all)
		}
	}
}

// TestScopesWithAnOldPeer: towards a side that cannot keep histories apart, a flow with one of its own has none: nobody there finds what it sent.
func TestScopesWithAnOldPeer(t *testing.T) {
	old := dedupe.AllFeatures
	old.Scopes = false
	for _, c := range []struct {
		name string
		a, b *dedupe.Features
	}{{"the other side", nil, &old}, {"this side", &old, nil}} {
		t.Run(c.name, func(t *testing.T) {
			a, b := newSideWith(t, "a", c.a), newSideWith(t, "b", c.b)
			defer a.end(t)
			defer b.end(t)
			join(t, a, b, memtun.Config{Delay: time.Millisecond})
			waitUp(t, a, b)
			up, down := text(1<<20, 33), text(1<<20, 34)
			own := request
			own.Scope = 1
			for i, as := range []peer.OpenRequest{own, own, request} {
				exchangeAs(t, a, b, as, up, down, uint64(60+i))
			}
			if st, far := a.Codec().Stats(), b.Codec().Stats(); st.MatchedBytes+far.MatchedBytes > 200_000 {
				t.Errorf("%d and %d bytes were found in the history", st.MatchedBytes, far.MatchedBytes)
			}
		})
	}
}
