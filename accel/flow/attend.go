package flow

import (
	"fmt"
	"sync"
	"time"
)

// attendEvery is how often an edge is looked after while nobody reads it: the time a reset may take to be noticed then.
const attendEvery = 500 * time.Millisecond

// attend calls wait, which may block for as long as the other side takes nothing, and looks meanwhile whether edge is broken: nothing is
// read from it, so nobody else would see. broke is called at most once, and not after attend has returned. It costs a timer, no goroutine.
func attend(edge Edge, broke func(error), wait func()) {
	var mu sync.Mutex
	over := false
	var timer *time.Timer
	look := func() {
		mu.Lock()
		defer mu.Unlock()
		if over {
			return
		}
		if err := edge.Broken(); err != nil {
			over = true
			broke(fmt.Errorf("%w: while it waited: %w", ErrEdge, err))
			return
		}
		timer.Reset(attendEvery)
	}
	mu.Lock()
	timer = time.AfterFunc(attendEvery, look)
	mu.Unlock()
	wait()
	timer.Stop()
	mu.Lock()
	defer mu.Unlock()
	over = true
}
