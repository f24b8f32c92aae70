package accel

import (
	"net/netip"
	"testing"
	"time"
)

func TestRefusals(t *testing.T) {
	now := time.Unix(1_700_000_000, 0)
	r := newRefusals(func() time.Time { return now })
	target := netip.MustParseAddrPort("10.2.0.2:80")
	if r.active(target) {
		t.Error("active before any refusal")
	}
	want := firstBypass
	for range 8 {
		if got := r.note(target); got != want {
			t.Fatalf("bypass %v, want %v", got, want)
		}
		if got := r.note(target); got != want || !r.active(target) {
			t.Fatalf("a second refusal within the bypass: %v, active %v", got, r.active(target))
		}
		now = now.Add(want + time.Second)
		if r.active(target) {
			t.Fatal("active after its time")
		}
		want = min(2*want, maxBypass)
	}
	now = now.Add(forgetRefusal + time.Hour)
	if got := r.note(target); got != firstBypass {
		t.Errorf("an old refusal still counts: %v", got)
	}
	for i := range 5 * maxRefusals {
		r.note(netip.AddrPortFrom(target.Addr(), uint16(i)))
	}
	if len(r.seen) > maxRefusals {
		t.Errorf("%d destinations remembered", len(r.seen))
	}
}
