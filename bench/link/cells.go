package link

// cellBytes is the unit of packet memory: one wire packet of 1500 bytes with its headers fits, and so does every header that is rewritten.
const cellBytes = 2 << 10

// cells is the packet memory of one direction: a packet is a chain of cells, taken from and given back in any order. The cell given back
// last is used first, so a link with little under way works in cached memory however large the memory is.
type cells struct {
	memory []byte
	next   []uint32 // the cell behind each one in its packet
	free   []uint32 // stack
}

// newCells divides memory; what is left over at its end is not used.
func newCells(memory []byte) *cells {
	n := len(memory) / cellBytes
	c := &cells{memory: memory, next: make([]uint32, n), free: make([]uint32, n)}
	for i := range c.free {
		c.free[i] = uint32(n - 1 - i)
	}
	return c
}

// cellsFor is how many cells hold n bytes.
func cellsFor(n int) int { return (n + cellBytes - 1) / cellBytes }

func (c *cells) at(i uint32) []byte {
	return c.memory[int(i)*cellBytes : (int(i)+1)*cellBytes : (int(i)+1)*cellBytes]
}

// take returns a free cell; the caller has looked that there is one.
func (c *cells) take() uint32 {
	i := c.free[len(c.free)-1]
	c.free = c.free[:len(c.free)-1]
	return i
}

// chain takes as many cells as n bytes need and returns the first; false when there are not enough.
func (c *cells) chain(n int) (first uint32, ok bool) {
	k := cellsFor(n)
	if len(c.free) < k {
		return 0, false
	}
	first = c.take()
	for last := first; k > 1; k-- {
		c.next[last] = c.take()
		last = c.next[last]
	}
	return first, true
}

// release gives back the chain of a packet of n bytes.
func (c *cells) release(first uint32, n int) {
	for k := cellsFor(n); k > 0; k-- {
		c.free = append(c.free, first)
		first = c.next[first]
	}
}

// copyOut copies bytes from..to of a packet that lies in the cells of source, in order, to a chain that has already been filled up to at.
func (c *cells) copyOut(first uint32, at int, source []uint32, from, to int) {
	for ; at >= cellBytes; at -= cellBytes {
		first = c.next[first]
	}
	for from < to {
		src := c.at(source[from/cellBytes])[from%cellBytes:]
		n := copy(c.at(first)[at:], src[:min(len(src), to-from)])
		from += n
		if at += n; at == cellBytes {
			at = 0
			first = c.next[first]
		}
	}
}
