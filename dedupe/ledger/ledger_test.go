package ledger

import (
	"maps"
	"slices"
	"sync"
	"testing"

	"github.com/google/go-cmp/cmp"
	"pgregory.net/rapid"
)

// entry is the slow model's view of a block.
type entry struct {
	mine, theirs, sent int
	struck             bool
}

func (e entry) both() int {
	if e.struck {
		return 0
	}
	return min(e.mine, e.theirs)
}

func (e entry) ahead() int {
	if e.struck {
		return 0
	}
	return min(e.mine, max(e.theirs, e.sent))
}

// TestModel drives table and model with the same random operations.
func TestModel(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		var tab Table
		model := map[uint64]entry{}
		block := rapid.Custom(func(t *rapid.T) uint64 {
			return rapid.SampledFrom([]uint64{0, 1, 2, 3, pageSize - 1, pageSize, pageSize + 1, 1 << 40}).Draw(t, "block")
		})
		length := rapid.SampledFrom([]int{0, 1, 1000, MaxLength - 1, MaxLength})
		for range rapid.IntRange(1, 60).Draw(t, "steps") {
			b := block.Draw(t, "b")
			n := length.Draw(t, "n")
			e := model[b]
			switch rapid.IntRange(0, 9).Draw(t, "op") {
			case 0:
				tab.SetMine(b, n)
				e.mine = n
			case 1:
				tab.SetTheirs(b, n)
				e.theirs = n
			case 2:
				tab.RaiseTheirs(b, n)
				e.theirs = max(e.theirs, n)
			case 3:
				tab.SetBoth(b, n)
				e.mine, e.theirs, e.sent = n, n, 0
			case 4:
				tab.Strike(b)
				e.struck = true
			case 5:
				tab.ForgetTheirs()
				for k, v := range model {
					model[k] = entry{mine: v.mine}
				}
				e.theirs, e.sent, e.struck = 0, 0, false
			case 6:
				tab.DropBelow(b)
				for k := range model {
					if k < b {
						delete(model, k)
					}
				}
			case 7:
				tab.RaiseSent(b, n)
				e.sent = max(e.sent, n)
			case 8:
				tab.ForgetSent(b)
				e.sent = 0
			case 9:
				if rapid.IntRange(0, 9).Draw(t, "really") == 0 {
					tab.Clear()
					clear(model)
					e = entry{}
				}
			}
			model[b] = e
		}
		for b, e := range model {
			if tab.Mine(b) != e.mine || tab.Theirs(b) != e.theirs || tab.Struck(b) != e.struck || tab.Both(b) != e.both() || tab.Ahead(b) != e.ahead() {
				t.Fatalf("block %d: mine %d theirs %d struck %v both %d, want %+v", b, tab.Mine(b), tab.Theirs(b), tab.Struck(b), tab.Both(b), e)
			}
		}
		got := map[uint64]int{}
		last := uint64(0)
		tab.Held(func(first, count uint64) {
			if count == 0 || first < last {
				t.Fatalf("range %d+%d out of order", first, count)
			}
			for i := range count {
				got[first+i] = MaxLength
			}
			last = first + count
		}, func(b uint64, n int) {
			if b < last {
				t.Fatalf("short block %d after the range that begins at %d", b, last)
			}
			got[b], last = n, b
		})
		want := map[uint64]int{}
		for b, e := range model {
			if e.mine > 0 && !e.struck {
				want[b] = e.mine
			}
		}
		if diff := cmp.Diff(want, got); diff != "" {
			t.Fatalf("held (-want +got):\n%s", diff)
		}
	})
}

func TestRangesAreJoined(t *testing.T) {
	var tab Table
	for b := uint64(pageSize - 3); b < pageSize+3; b++ {
		tab.SetBoth(b, MaxLength)
	}
	tab.SetBoth(pageSize+4, MaxLength)
	var got []uint64
	tab.Held(func(first, count uint64) { got = append(got, first, count) }, func(uint64, int) { t.Error("no short block") })
	if want := []uint64{pageSize - 3, 6, pageSize + 4, 1}; !slices.Equal(got, want) {
		t.Errorf("ranges %v, want %v", got, want)
	}
}

func TestConcurrentPages(t *testing.T) {
	var tab Table
	var wg sync.WaitGroup
	for g := range uint64(4) {
		wg.Go(func() {
			for i := range uint64(20) {
				tab.SetBoth(i*pageSize+g, int(g)+1)
				tab.Both(i * pageSize)
			}
		})
	}
	wg.Wait()
	seen := map[int]int{}
	tab.Held(nil, func(_ uint64, n int) { seen[n]++ })
	if diff := cmp.Diff(map[int]int{1: 20, 2: 20, 3: 20, 4: 20}, maps.Clone(seen)); diff != "" {
		t.Errorf("lost updates (-want +got):\n%s", diff)
	}
}
