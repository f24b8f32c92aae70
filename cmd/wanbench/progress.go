package main

import (
	"os"
	"time"

	"github.com/schollz/progressbar/v3"
	"golang.org/x/term"
)

// newBar shows progress and the estimated time left on standard error; where that is no terminal it says each step on a line of its own.
func newBar(total int) *bar {
	b := &bar{terminal: term.IsTerminal(int(os.Stderr.Fd())), total: total, began: time.Now(), resumed: -1}
	if b.terminal {
		b.drawn = progressbar.NewOptions(max(total, 1),
			progressbar.OptionSetWriter(os.Stderr),
			progressbar.OptionSetWidth(24),
			progressbar.OptionShowElapsedTimeOnFinish(),
			progressbar.OptionSetPredictTime(true),
			progressbar.OptionThrottle(100*time.Millisecond),
			progressbar.OptionClearOnFinish())
	}
	return b
}

// bar is a progress bar over work that is measured in estimated seconds.
type bar struct {
	terminal bool
	drawn    *progressbar.ProgressBar
	total    int
	began    time.Time
	last     string
	lastAt   time.Time
	// resumed is what was done before the first step, by a run that was interrupted; -1 until then.
	resumed int
}

// step says what is being done now and how much of the whole is done.
func (b *bar) step(what string, done int) {
	if b.terminal {
		b.drawn.Describe(what)
		_ = b.drawn.Set(done) // a terminal that went away is no reason to stop
		return
	}
	const quiet = time.Second // thousands of small steps are no news
	if what == b.last || time.Since(b.lastAt) < quiet {
		return
	}
	b.last, b.lastAt = what, time.Now()
	if b.resumed < 0 {
		b.resumed = done
	}
	left := ""
	if now := done - b.resumed; now > 0 && done < b.total {
		rest := time.Duration(float64(time.Since(b.began)) / float64(now) * float64(b.total-done))
		left = ", about " + rest.Round(time.Second).String() + " left"
	}
	os.Stderr.WriteString(what + left + "\n")
}

// finish clears the bar.
func (b *bar) finish() {
	if b.terminal {
		_ = b.drawn.Finish()
	}
}
