package stats

import (
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
)

// feed adds n samples a second apart in which the peer sends 125 bytes more each time, and returns the time after the last.
func feed(r *rates, at time.Time, from, n int) time.Time {
	for i := range n {
		r.add(at, []Peer{{Name: "nyc", LAN: Traffic{Sent: uint64(125 * (from + i))}, RTT: time.Millisecond}})
		at = at.Add(time.Second)
	}
	return at
}

func TestThroughput(t *testing.T) {
	r := newRates()
	at := time.Unix(1000, 0)
	if got := r.throughput("nyc", 1); got != (Throughput{}) {
		t.Errorf("before any sample: %+v", got)
	}
	at = feed(r, at, 0, 1)
	if got := r.throughput("nyc", 1); got != (Throughput{}) {
		t.Errorf("after one sample: %+v", got)
	}
	at = feed(r, at, 1, 200)
	for _, n := range []int{1, 60} {
		if got := r.throughput("nyc", n).LAN.Sent; got != 1000 {
			t.Errorf("over %d s: %v bit/s, want 1000", n, got)
		}
	}
	if got := r.throughput("sfo", 60); got != (Throughput{}) {
		t.Errorf("unknown peer: %+v", got)
	}
	feed(r, at, 0, 1) // the counter fell: the peer was made anew and has sent nothing since
	if got := r.throughput("nyc", 1).LAN.Sent; got != 0 {
		t.Errorf("after the counter fell: %v bit/s, want 0", got)
	}
}

func TestANewPeerHasAShorterWindow(t *testing.T) {
	r := newRates()
	at := time.Unix(1000, 0)
	for range 30 {
		r.add(at, nil)
		at = at.Add(time.Second)
	}
	feed(r, at, 100, 5)
	if got := r.throughput("nyc", 60).LAN.Sent; got != 1000 {
		t.Errorf("%v bit/s, want 1000", got)
	}
}

func TestHistory(t *testing.T) {
	r := newRates()
	feed(r, time.Unix(1000, 0), 0, 1+2*historyInterval)
	got := r.report(0)
	v := func(x float64) []*float64 { return []*float64{&x, &x} }
	want := HistoryReport{IntervalSeconds: 5, Time: []int64{1005, 1010}, Peers: map[string]PeerHistory{"nyc": {
		LANSent: v(1000), LANReceived: v(0), WANSent: v(0), WANReceived: v(0), Matched: v(0), Literal: v(0), Opaque: v(0), Resent: v(0), RTT: v(0.001), Loss: v(0),
	}}}
	if diff := cmp.Diff(want, got); diff != "" {
		t.Errorf("history (-want +got):\n%s", diff)
	}
}

func TestHistorySince(t *testing.T) {
	r := newRates()
	feed(r, time.Unix(1000, 0), 0, 1+4*historyInterval)
	for since, want := range map[int64][]int64{0: {1005, 1010, 1015, 1020}, 1010: {1015, 1020}, 1011: {1015, 1020}, 1020: {}, 5000: {}} {
		got := r.report(since)
		if diff := cmp.Diff(want, got.Time); diff != "" {
			t.Errorf("since %d (-want +got):\n%s", since, diff)
		}
		if n := len(got.Peers["nyc"].LANSent); n != len(want) {
			t.Errorf("since %d: column of %d, want %d", since, n, len(want))
		}
	}
}

func TestHistoryIsBounded(t *testing.T) {
	r := newRates()
	feed(r, time.Unix(0, 0), 0, historyInterval*(historyCount+100))
	if got := len(r.report(0).Time); got != historyCount {
		t.Errorf("%d points, want %d", got, historyCount)
	}
}

func TestEvents(t *testing.T) {
	e := NewEvents(3)
	texts := func(n int) (out []string) {
		for _, x := range e.Latest(n) {
			out = append(out, x.Text)
		}
		return out
	}
	if got := texts(5); len(got) != 0 {
		t.Errorf("no events: %v", got)
	}
	for _, text := range []string{"a", "b", "c", "d"} {
		e.Add(EventPeerUp, "nyc", text)
	}
	if diff := cmp.Diff([]string{"d", "c", "b"}, texts(5)); diff != "" {
		t.Errorf("latest (-want +got):\n%s", diff)
	}
	if diff := cmp.Diff([]string{"d"}, texts(1)); diff != "" {
		t.Errorf("latest one (-want +got):\n%s", diff)
	}
	e.Add(EventPeerUp, "nyc", "d")
	e.Add(EventPeerUp, "sfo", "d")
	got := e.Latest(2)
	if got[0].Peer != "sfo" || got[0].Count != 1 || got[1].Count != 2 {
		t.Errorf("repeats: %+v", got)
	}
	if n := e.Totals()[EventPeerUp]; n != 6 {
		t.Errorf("total %d, want 6", n)
	}
	if texts(-1) != nil {
		t.Error("a negative number gives events")
	}
	e.Add(EventPeerUp, "", string(make([]byte, 10_000)))
	if n := len(e.Latest(1)[0].Text); n != eventTextLimit {
		t.Errorf("text of %d bytes", n)
	}
}
