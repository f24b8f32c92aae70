package link

// entry is a piece under way: where it lies and when it is due.
type entry struct {
	due      int64
	number   uint64 // order of departure; decides between equal times
	cell     uint32
	bytes    uint32 // as the device takes it, vnet header included
	segments uint32
	wire     uint32 // IP bytes of its segments
}

// schedule gives entries back in the order they are due. Nearly all keep their place and go through a ring; those held back go through
// a heap, so that a link without reordering pays nothing for it.
type schedule struct {
	ring       []entry
	head, tail uint64 // entries tail..head are in the ring
	heap       []entry
	numbers    uint64
}

func newSchedule(capacity int) *schedule { return &schedule{ring: make([]entry, capacity)} }

func (s *schedule) len() int { return int(s.head-s.tail) + len(s.heap) }

// add puts e in; inPlace says that it is due no earlier than the entry that was added in place before it.
func (s *schedule) add(e entry, inPlace bool) {
	e.number = s.numbers
	s.numbers++
	if inPlace {
		s.ring[s.head%uint64(len(s.ring))] = e
		s.head++
		return
	}
	s.heap = append(s.heap, e)
	for i := len(s.heap) - 1; i > 0; {
		up := (i - 1) / 2
		if !before(&s.heap[i], &s.heap[up]) {
			break
		}
		s.heap[i], s.heap[up] = s.heap[up], s.heap[i]
		i = up
	}
}

// next returns the entry that is due first, which stays in; nil when there is none.
func (s *schedule) next() *entry {
	var e *entry
	if s.head != s.tail {
		e = &s.ring[s.tail%uint64(len(s.ring))]
	}
	if len(s.heap) > 0 && (e == nil || before(&s.heap[0], e)) {
		e = &s.heap[0]
	}
	return e
}

// pop takes out the entry that next returns.
func (s *schedule) pop() entry {
	e := s.next()
	if len(s.heap) == 0 || e != &s.heap[0] {
		s.tail++
		return *e
	}
	first, last := *e, len(s.heap)-1
	s.heap[0] = s.heap[last]
	s.heap = s.heap[:last]
	for i := 0; ; {
		least := i
		for child := 2*i + 1; child <= 2*i+2 && child < last; child++ {
			if before(&s.heap[child], &s.heap[least]) {
				least = child
			}
		}
		if least == i {
			return first
		}
		s.heap[i], s.heap[least] = s.heap[least], s.heap[i]
		i = least
	}
}

func before(a, b *entry) bool { return a.due < b.due || a.due == b.due && a.number < b.number }
