package dedupe

import (
	"runtime"
	"testing"
	"time"

	"wanpair/dedupe/literal"
)

// work lets encoders code a frame each after every pause, for a while: each frame takes so long. It returns the time after it.
func (f *effort) work(now time.Time, encoders []strain, pause, each, during time.Duration) time.Time {
	for end := now.Add(during); now.Before(end); now = now.Add(pause) {
		for i := range encoders {
			f.note(&encoders[i], now.Add(-each), now, 32<<10)
		}
	}
	return now
}

func TestEffortFollowsTheTimeEncodersHave(t *testing.T) {
	var f effort
	one := make([]strain, 1)
	now := f.work(time.Unix(1000, 0), one, 10*time.Millisecond, time.Millisecond, 900*time.Millisecond)
	if f.now() != literal.Fastest {
		t.Fatalf("level %d before it was calm for a second", f.now())
	}
	now = f.work(now, one, 10*time.Millisecond, time.Millisecond, 3*time.Second)
	if f.now() != literal.Better {
		t.Fatalf("level %d with time to spare", f.now())
	}
	now = f.work(now, one, 10*time.Millisecond, 3*time.Millisecond, 3*time.Second)
	if f.now() != literal.Better {
		t.Errorf("level %d: it should stay while the encoder is neither busy nor idle", f.now())
	}
	now = f.work(now, one, 10*time.Millisecond, 9*time.Millisecond, 3*effortWindow)
	if f.now() != literal.Fastest {
		t.Errorf("level %d while the flow waits for its encoder", f.now())
	}
	now = f.work(now, one, 10*time.Millisecond, time.Millisecond, 5*time.Second)
	if f.now() != literal.Fastest {
		t.Errorf("level %d soon after a higher one was too slow", f.now())
	}
	f.work(now, one, 10*time.Millisecond, time.Millisecond, 10*time.Second)
	if f.now() == literal.Fastest {
		t.Error("a level that was too slow once is never tried again")
	}
}

func TestEffortCountsAllEncoders(t *testing.T) {
	f := effort{level: literal.Better}
	many := make([]strain, 8*runtime.GOMAXPROCS(0))
	f.work(time.Unix(1000, 0), many, 100*time.Millisecond, 8*time.Millisecond, 2*time.Second) // each is idle for 92 % of the time
	if f.now() != literal.Fastest {
		t.Errorf("level %d with all processors at work", f.now())
	}
}

func TestEffortIsNotGuessedFromIdleTime(t *testing.T) {
	var f effort
	one := make([]strain, 1)
	now := time.Unix(1000, 0)
	for range 100 { // a request a minute
		now = f.work(now, one, time.Millisecond, 10*time.Microsecond, 2*time.Millisecond).Add(time.Minute)
	}
	if f.now() != literal.Fastest {
		t.Errorf("level %d without traffic worth it", f.now())
	}
}

func TestFixedEffortStays(t *testing.T) {
	p := newPair(t, testConfig(""), testConfig(""))
	p.a.FixEffort(literal.Default)
	p.a.effort.work(time.Now(), make([]strain, 1), 10*time.Millisecond, 9*time.Millisecond, 3*time.Second)
	if got := p.a.Stats().EffortLevel; got != literal.Default {
		t.Errorf("level %d", got)
	}
}
