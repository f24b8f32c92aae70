package history

// presenceShift: a page of the presence map covers 4096 blocks in 512 bytes.
const presenceShift = 12

// presence is the set of blocks of one log that are on disk, as far as this side of the disk knows.
type presence map[uint64]*[1 << presenceShift / 64]uint64

func (p presence) has(number uint64) bool {
	page := p[number>>presenceShift]
	return page != nil && page[number>>6%64]>>(number%64)&1 != 0
}

func (p presence) add(number uint64) {
	page := p[number>>presenceShift]
	if page == nil {
		page = new([1 << presenceShift / 64]uint64)
		p[number>>presenceShift] = page
	}
	page[number>>6%64] |= 1 << (number % 64)
}

func (p presence) remove(number uint64) {
	if page := p[number>>presenceShift]; page != nil {
		page[number>>6%64] &^= 1 << (number % 64)
	}
}

// removeIf takes out all blocks for which f is true.
func (p presence) removeIf(f func(number uint64) bool) {
	for n, page := range p {
		empty := true
		for i, word := range page {
			for b := range uint64(64) {
				if word>>b&1 != 0 && f(n<<presenceShift|uint64(i)<<6|b) {
					page[i] &^= 1 << b
				}
			}
			empty = empty && page[i] == 0
		}
		if empty {
			delete(p, n)
		}
	}
}
