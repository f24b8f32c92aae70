package beat

import (
	"testing"
	"testing/synctest"
	"time"

	"pgregory.net/rapid"
)

func TestUntil(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		period := time.Duration(rapid.Int64Range(1, int64(time.Hour)).Draw(t, "period"))
		if d := Until(period); d < 1 || d > period {
			t.Fatalf("%v until the next of every %v", d, period)
		}
	})
}

func TestTwoMeet(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		meet := func(before time.Duration) time.Time {
			time.Sleep(before)
			time.Sleep(Until(time.Second))
			return time.Now()
		}
		met := make(chan time.Time, 2)
		go func() { met <- meet(130 * time.Millisecond) }()
		go func() { met <- meet(970 * time.Millisecond) }()
		if a, b := <-met, <-met; !a.Equal(b) {
			t.Errorf("one woke up at %v, the other at %v", a, b)
		}
	})
}
