package transport

import "slices"

// maxSeenGaps bounds the memory of a seenSet. A peer that opens its flows in
// order makes as many gaps as flows are on their way.
const maxSeenGaps = 16384

// seenSet remembers which numbers of a growing sequence have been seen, as
// disjoint, sorted, closed intervals. The zero value is empty.
type seenSet struct {
	iv []interval
}

type interval struct{ lo, hi uint64 }

func (s *seenSet) find(n uint64) (i int, in bool) {
	i, in = slices.BinarySearchFunc(s.iv, n, func(v interval, n uint64) int {
		switch {
		case v.hi < n:
			return -1
		case v.lo > n:
			return 1
		}
		return 0
	})
	return i, in
}

func (s *seenSet) has(n uint64) bool {
	_, in := s.find(n)
	return in
}

// add adds n; it reports false when n would need more gaps than are kept.
func (s *seenSet) add(n uint64) bool {
	i, in := s.find(n)
	if in {
		return true
	}
	left := i > 0 && s.iv[i-1].hi+1 == n
	right := i < len(s.iv) && n+1 == s.iv[i].lo
	switch {
	case left && right:
		s.iv[i-1].hi = s.iv[i].hi
		s.iv = slices.Delete(s.iv, i, i+1)
	case left:
		s.iv[i-1].hi = n
	case right:
		s.iv[i].lo = n
	case len(s.iv) >= maxSeenGaps:
		return false
	default:
		s.iv = slices.Insert(s.iv, i, interval{n, n})
	}
	return true
}
