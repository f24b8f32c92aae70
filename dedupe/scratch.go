package dedupe

import "wanpair/dedupe/token"

// scratch is the memory that coding one frame takes, about 1.5 MB at most. Flows own none of it: they borrow it for a frame, and as many
// frames are coded at a time as there are scratches.
type scratch struct {
	matcher   matcher
	frame     token.Frame
	packed    []byte // coded tokens
	coded     []byte // coded literals
	stretches []stretch
	pieces    []piece
	anchors   []uint64
}

// borrow takes a scratch, waiting for one when all are in use; it is given back with giveBack.
func (c *Codec) borrow() *scratch {
	sc := <-c.scratch
	if sc == nil {
		sc = new(scratch)
	}
	return sc
}

// giveBack returns a scratch without anything that would keep blocks alive.
func (c *Codec) giveBack(sc *scratch) {
	sc.matcher.e, sc.matcher.in, sc.matcher.lits = nil, nil, nil
	clear(sc.matcher.view.slots[:])
	clear(sc.pieces[:cap(sc.pieces)])
	sc.frame = token.Frame{}
	c.scratch <- sc
}
