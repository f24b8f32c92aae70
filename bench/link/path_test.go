package link

import (
	"bytes"
	"cmp"
	"errors"
	"math"
	"slices"
	"testing"
	"time"

	"pgregory.net/rapid"
)

// fill puts a packet into the hand of p, as the pump does by reading from the device.
func fill(p *path, packet []byte) {
	for i := 0; len(packet) > 0; i++ {
		packet = packet[copy(p.cells.at(p.hand[i]), packet):]
	}
}

// contents is what the pump would write to the device for e.
func contents(p *path, e entry) []byte {
	var b []byte
	cell := e.cell
	for rest := int(e.bytes); rest > 0; rest -= cellBytes {
		b = append(b, p.cells.at(cell)[:min(rest, cellBytes)]...)
		cell = p.cells.next[cell]
	}
	return b
}

// plain returns a packet of n IP bytes that is no super-packet; mark makes it recognisable.
func plain(n int, mark byte) []byte {
	b := bytes.Repeat([]byte{mark}, vnetBytes+n)
	clear(b[:vnetBytes])
	return b
}

func pathWith(t rapid.TB, memoryBytes int, words ...string) *path {
	t.Helper()
	pair, err := Parse(Pair{}, words...)
	if err != nil {
		t.Fatal(err)
	}
	p := newPath(make([]byte, memoryBytes), 1, AtoB)
	p.configure(pair.AtoB, pair.QueueBytes(AtoB))
	return p
}

func TestScheduleGivesTheEarliestFirst(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		s := newSchedule(64)
		var want []entry
		var inPlace int64
		take := func() {
			slices.SortStableFunc(want, func(a, b entry) int {
				return cmp.Or(cmp.Compare(a.due, b.due), cmp.Compare(a.number, b.number))
			})
			if next := s.next(); next == nil || *next != want[0] {
				t.Fatalf("next is %v, want %v", next, want[0])
			}
			if got := s.pop(); got != want[0] {
				t.Fatalf("popped %v, want %v", got, want[0])
			}
			want = want[1:]
		}
		for i := range rapid.IntRange(1, 300).Draw(t, "steps") {
			if len(want) > 0 && (len(want) == 60 || rapid.Bool().Draw(t, "take")) {
				take()
				continue
			}
			e := entry{due: rapid.Int64Range(0, 40).Draw(t, "due"), cell: uint32(i), number: s.numbers}
			ordered := rapid.Bool().Draw(t, "in place")
			if ordered {
				inPlace = max(inPlace, e.due)
				e.due = inPlace
			}
			s.add(e, ordered)
			want = append(want, e)
			if s.len() != len(want) {
				t.Fatalf("holds %d, want %d", s.len(), len(want))
			}
		}
		for len(want) > 0 {
			take()
		}
		if s.next() != nil || s.len() != 0 {
			t.Fatal("not empty at the end")
		}
	})
}

func TestPacketsComeOutAsTheyWentIn(t *testing.T) {
	p := pathWith(t, 1<<20, "delay=1ms")
	free := len(p.cells.free)
	sizes := []int{20, 1500, cellBytes - vnetBytes, cellBytes - vnetBytes + 1, 2*cellBytes - vnetBytes, 65535}
	for i, n := range sizes {
		packet := plain(n, byte(i+1))
		fill(p, packet)
		p.accept(int64(i), len(packet))
	}
	for i, n := range sizes {
		due, ok := p.due()
		if !ok || due != int64(i)+int64(time.Millisecond) {
			t.Fatalf("packet %d is due at %d, %v", i, due, ok)
		}
		e := p.deliver()
		if !bytes.Equal(contents(p, e), plain(n, byte(i+1))) || e.wire != uint32(n) {
			t.Errorf("packet %d of %d bytes came out changed", i, n)
		}
		p.release(e)
	}
	if _, ok := p.due(); ok || len(p.cells.free) != free {
		t.Errorf("%d of %d cells are free at the end", len(p.cells.free), free)
	}
}

// TestEveryPacketIsAccountedFor drives a path with everything on at random and checks that no packet, byte or cell appears or vanishes.
func TestEveryPacketIsAccountedFor(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		p := newPath(make([]byte, minMemoryBytes), rapid.Uint64().Draw(t, "seed"), AtoB)
		free := len(p.cells.free)
		var now int64
		var accepted int
		drain := func(until int64) {
			last := int64(math.MinInt64)
			for {
				due, ok := p.due()
				if !ok || due > until {
					return
				}
				if due < last {
					t.Fatalf("due at %d after %d", due, last)
				}
				last = due
				e := p.deliver()
				if got, err := parseSuper(contents(p, e), int(e.bytes)); err != nil || got.segments != int(e.segments) {
					t.Fatalf("a piece of %d segments came out as %+v, %v", e.segments, got, err)
				}
				switch rapid.IntRange(0, 9).Draw(t, "device") {
				case 0:
					p.failed(e)
				case 1:
					p.cut(e)
				default:
					p.delivered(e, until-due)
				}
				p.release(e)
			}
		}
		for range rapid.IntRange(1, 60).Draw(t, "steps") {
			switch rapid.IntRange(0, 5).Draw(t, "step") {
			case 0:
				params := genParams(t)
				pair := Pair{AtoB: params}
				p.configure(params, pair.QueueBytes(AtoB))
			case 1:
				now += rapid.Int64Range(0, int64(time.Second)).Draw(t, "pause")
				drain(now)
			default:
				packet := plain(rapid.IntRange(20, 65535).Draw(t, "bytes"), 0x45)
				if rapid.Bool().Draw(t, "super-packet") {
					packet = genShape(t).packet(1)
				}
				fill(p, packet)
				p.accept(now, len(packet))
				accepted++
			}
		}
		c := p.counters
		gone := c.LossDrops + c.QueueDrops + c.MTUDrops + c.CutDrops + c.MemoryDrops + c.ErrorDrops
		if c.OfferedPackets != c.DeliveredPackets+gone+c.underWay {
			t.Fatalf("offered %d, delivered %d, dropped %d, under way %d", c.OfferedPackets, c.DeliveredPackets, gone, c.underWay)
		}
		if c.OfferedPackets < uint64(accepted) {
			t.Fatalf("%d packets in, %d offered", accepted, c.OfferedPackets)
		}
		drain(math.MaxInt64)
		if p.counters.underWay != 0 || len(p.cells.free) != free {
			t.Fatalf("at the end %d packets are under way and %d of %d cells are free", p.counters.underWay, len(p.cells.free), free)
		}
		cells := append(slices.Clone(p.cells.free), p.hand...)
		slices.Sort(cells)
		if len(slices.Compact(cells)) != len(p.cells.next) {
			t.Fatal("a cell is in two places")
		}
	})
}

func TestLostSegmentsSplitASuperPacket(t *testing.T) {
	sh := shape{tcp: true, tcpWords: 8, size: 1000, payload: 40_500, flags: 0x18}
	packet := sh.packet(1)
	wire := segmentReference(t, packet)
	p := pathWith(t, 1<<20, "loss=20%")
	fill(p, packet)
	p.accept(0, len(packet))
	lost := int(p.counters.LossDrops)
	if lost == 0 || lost == len(wire) || p.schedule.len() < 2 {
		t.Fatalf("%d of %d segments lost, %d pieces: choose another seed", lost, len(wire), p.schedule.len())
	}
	next := 0
	var arrived int
	for p.schedule.len() > 0 {
		e := p.deliver()
		for _, segment := range segmentReference(t, contents(p, e)) {
			for !bytes.Equal(wire[next], segment) {
				if next++; next == len(wire) {
					t.Fatal("a piece holds a segment that was not sent, or not in order")
				}
			}
			next++
			arrived++
		}
		p.release(e)
	}
	if arrived+lost != len(wire) {
		t.Errorf("%d arrived and %d were lost of %d", arrived, lost, len(wire))
	}
}

func TestSlowLineDividesSuperPackets(t *testing.T) {
	sh := shape{tcp: true, tcpWords: 5, size: 1460, payload: 44 * 1460, flags: 0x10}
	for _, c := range []struct {
		words  string
		pieces int
	}{
		{"rate=1mbit queue=1m", 44},  // 12 ms a segment: each arrives by itself
		{"rate=100mbit", 5},          // 0.12 ms a segment: nine make more than a millisecond
		{"rate=10gbit", 1},           // all in 53 µs
		{"rate=unlimited", 1},        //
		{"reorder=100%", 1},          // all are held back alike
		{"mtu=1000", 0},              // none fits
		{"down", 0},                  //
		{"rate=1mbit queue=15k", 10}, // the queue holds ten
	} {
		p := pathWith(t, 1<<20, splitWords(c.words)...)
		packet := sh.packet(1)
		fill(p, packet)
		p.accept(0, len(packet))
		if got := p.schedule.len(); got != c.pieces {
			t.Errorf("%s: %d pieces, want %d", c.words, got, c.pieces)
		}
	}
}

func TestFullMemoryDropsAndSaysSo(t *testing.T) {
	p := pathWith(t, minMemoryBytes, "delay=1s")
	offered := 0
	for p.counters.MemoryDrops == 0 {
		packet := plain(1500, 1)
		fill(p, packet)
		p.accept(0, len(packet))
		if offered++; offered > minMemoryBytes/cellBytes {
			t.Fatal("more packets than cells")
		}
	}
	super := shape{tcp: true, tcpWords: 5, size: 1000, payload: 9000, flags: 0x10}.packet(1)
	fill(p, super)
	p.accept(0, len(super))
	if p.counters.MemoryDrops != 1+9 {
		t.Errorf("%d packets counted, want 10", p.counters.MemoryDrops)
	}
	stats := Stats{AtoB: p.stats(0)}
	if err := stats.Check(time.Hour); err == nil {
		t.Error("a link that ran out of memory calls itself exact")
	}
	for p.schedule.len() > 0 {
		p.release(p.deliver())
	}
	fill(p, super)
	p.accept(0, len(super))
	if p.schedule.len() != 1 {
		t.Error("the path does not recover when its memory is free again")
	}
}

func TestMalformedPacketIsCountedAndLeftOut(t *testing.T) {
	p := pathWith(t, minMemoryBytes)
	for _, n := range []int{1, vnetBytes, vnetBytes + 19} {
		p.accept(0, n)
	}
	if p.counters.Errors != 3 || p.schedule.len() != 0 || p.counters.OfferedPackets != 0 {
		t.Errorf("counted %+v, %d under way", p.counters, p.schedule.len())
	}
}

func TestResetKeepsWhatIsUnderWay(t *testing.T) {
	p := pathWith(t, minMemoryBytes, "delay=1ms")
	packet := plain(100, 1)
	fill(p, packet)
	p.accept(0, len(packet))
	p.counters.reset()
	if s := p.stats(0); s.OfferedPackets != 0 || s.UnderWayPackets != 1 {
		t.Errorf("after a reset: %+v", s)
	}
	e := p.deliver()
	p.delivered(e, 2*int64(time.Millisecond))
	if s := p.stats(0); s.DeliveredPackets != 1 || s.UnderWayPackets != 0 || s.LateOver1ms != 1 || s.LateMaxSeconds != 0.002 {
		t.Errorf("after the delivery: %+v", s)
	}
}

func BenchmarkPath(b *testing.B) {
	packet := shape{tcp: true, tcpWords: 8, size: 1448, payload: 44 * 1448, flags: 0x10}.packet(1)
	for _, words := range []string{"delay=1ms", "delay=1ms loss=1%"} {
		b.Run(words, func(b *testing.B) {
			p := pathWith(b, 16<<20, splitWords(words)...)
			b.SetBytes(int64(len(packet)))
			var now int64
			for b.Loop() {
				fill(p, packet)
				p.accept(now, len(packet))
				now += int64(time.Millisecond)
				for due, ok := p.due(); ok && due <= now; due, ok = p.due() {
					p.release(p.deliver())
				}
			}
		})
	}
}

func TestCheckTellsLatenessFromStalls(t *testing.T) {
	var c Counters
	c.late(int64(30 * time.Millisecond))
	c.stall(int64(30 * time.Millisecond))
	c.stall(int64(900 * time.Microsecond))
	p := pathWith(t, minMemoryBytes)
	p.counters = c
	for _, k := range []struct {
		seconds       float64
		limit         time.Duration
		share         float64
		late, stalled bool
	}{
		{60, 2 * time.Millisecond, 0.001, true, false},
		{10, 2 * time.Millisecond, 0.001, true, true},
		{10, 40 * time.Millisecond, 0.01, false, false},
	} {
		s := Stats{Seconds: k.seconds, BtoA: p.stats(0)}
		if err := s.Check(k.limit); errors.Is(err, ErrInexact) != k.late {
			t.Errorf("%+v: Check gave %v", k, err)
		}
		if err := s.CheckStalls(k.share); errors.Is(err, ErrInexact) != k.stalled {
			t.Errorf("%+v: CheckStalls gave %v", k, err)
		}
	}
	if s := (Stats{BtoA: DirectionStats{Counters: Counters{MemoryDrops: 1}}}); s.CheckStalls(1) == nil {
		t.Error("a link that ran out of memory calls itself exact")
	}
}
