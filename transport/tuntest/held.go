package tuntest

import (
	"context"
	"runtime"
	"testing"
	"time"

	"wanpair/transport"
)

// HeldOpen sends every beginning of a frame and of a record, says no more, and
// keeps the streams open for an hour. It is for virtual time, which does not pass
// while anybody spins: so it proves that a peer which stops in the middle costs
// no processor. The link still works afterwards.
func HeldOpen(t *testing.T, c Connect) {
	h := newByHand(t, c, nil)
	f := h.open(t, 2)
	whole := data(2, 1).bytes()
	for n := range len(whole) {
		w, err := h.lane.OpenFrame(context.Background())
		if err != nil {
			t.Fatal(err)
		}
		if _, err := w.Write(whole[:n]); err != nil {
			t.Fatal(err)
		}
	}
	info := record(0x0e, wire{}.uv(1).uv(1000))
	keep := record(3, make(wire, 8)) // a PING, so that the lane counts as alive
	end := time.Now().Add(time.Hour)
	for time.Now().Before(end) {
		for _, b := range append(append([]byte{}, info...), keep...) { // byte by byte: each record is cut everywhere
			h.write(t, []byte{b})
			time.Sleep(100 * time.Millisecond)
		}
	}
	h.send(t, whole)
	fr, err := f.Receive()
	if err != nil || fr.Payload[1] != 1 {
		t.Fatalf("an hour later: %+v, %v", fr, err)
	}
	if err := h.s.Err(); err != nil {
		t.Fatal(err)
	}
}

// AnnouncedPayloads begins thousands of frames, each of which announces the
// largest payload and sends one byte of it: what the link holds for them stays
// within its bound, not with what was announced, which is half a gigabyte.
func AnnouncedPayloads(t *testing.T, c Connect) {
	const frames, perFrame, bound = 2000, 24 << 10, 64 << 20
	h := newByHand(t, c, func(cfg *transport.LinkConfig) { cfg.InitialCreditBytes, cfg.CreditBudgetBytes = 1<<20, 64<<20 })
	f := h.open(t, 2)
	large := frame{flow: 2, number: 1, rawLen: 256 << 10, payloadLen: 256<<10 + 4096, payload: []byte{prefix}}.bytes()
	before := held()
	for range frames {
		w, err := h.lane.OpenFrame(context.Background())
		if err != nil {
			t.Fatal(err)
		}
		if _, err := w.Write(large); err != nil {
			t.Fatal(err)
		}
	}
	time.Sleep(time.Second) // virtual: all of them have been looked at
	if grown := held() - before; grown > bound+frames*perFrame {
		t.Errorf("%d frames of %d bytes hold %d MiB", frames, len(large), grown>>20)
	}
	h.send(t, data(2, 1).bytes())
	if fr, err := f.Receive(); err != nil || fr.Payload[1] != 1 {
		t.Errorf("the flow does not work beside them: %+v, %v", fr, err)
	}
}

// held is what the process holds on its heap and stacks.
func held() int64 {
	runtime.GC()
	var m runtime.MemStats
	runtime.ReadMemStats(&m)
	return int64(m.HeapAlloc + m.StackInuse)
}
