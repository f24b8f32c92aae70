package link

import (
	"errors"
	"math"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"pgregory.net/rapid"
)

func TestParse(t *testing.T) {
	ms := time.Millisecond
	for _, c := range []struct {
		words string
		want  Pair
	}{
		{"", Pair{}},
		{"both delay=50ms rate=20mbit", Pair{Params{Delay: 50 * ms, RateBitsPerSec: 20e6}, Params{Delay: 50 * ms, RateBitsPerSec: 20e6}}},
		{"delay=5ms b2a delay=7ms", Pair{Params{Delay: 5 * ms}, Params{Delay: 7 * ms}}},
		{"a2b rate=1.5gbit queue=64KiB both loss=0.1%", Pair{Params{RateBitsPerSec: 15e8, QueueBytes: 65536, Loss: 0.001}, Params{Loss: 0.001}}},
		{"a2b rate=512kbit queue=1250k b2a rate=64000 queue=3MiB",
			Pair{Params{RateBitsPerSec: 512e3, QueueBytes: 1250e3}, Params{RateBitsPerSec: 64e3, QueueBytes: 3 << 20}}},
		{"a2b loss=1% burst=4 reorder=2% gap=3ms", Pair{AtoB: Params{Loss: 0.01, Burst: 4, Reorder: 0.02, Gap: 3 * ms}}},
		{"a2b down mtu=1400 overhead=38 delay=2ms jitter=1ms", Pair{AtoB: Params{Down: true, MTU: 1400, OverheadBytes: 38, Delay: 2 * ms, Jitter: ms}}},
		{"down up loss=1% loss=0", Pair{}},
		{"rate=5mbit rate=unlimited queue=5kb queue=auto", Pair{}},
	} {
		got, err := Parse(Pair{}, strings.Fields(c.words)...)
		if err != nil {
			t.Errorf("%q: %v", c.words, err)
		}
		if diff := cmp.Diff(c.want, got); diff != "" {
			t.Errorf("%q (-want +got):\n%s", c.words, diff)
		}
	}
}

func TestParseSaysWhatIsWrong(t *testing.T) {
	base := Pair{AtoB: Params{Delay: time.Second}}
	for _, c := range []struct{ words, want string }{
		{"speed=5", "not known"},
		{"loss=1", "percentage"},
		{"loss=-1%", "0% to 100%"},
		{"loss=101%", "0% to 100%"},
		{"loss=nan%", "percentage"},
		{"delay=50", "duration"},
		{"delay=-1s", "delay"},
		{"delay=2h", "delay"},
		{"jitter=2s", "more than the delay"},
		{"rate=fast", "rate"},
		{"rate=-5mbit", "rate"},
		{"rate=5mb", "rate"},
		{"rate=1", "1kbit"},
		{"rate=2000gbit", "1000gbit"},
		{"queue=1", "2KiB"},
		{"queue=64kbit", "size"},
		{"queue=17GiB", "16GiB"},
		{"burst=x", "number"},
		{"loss=90% burst=4", "only up to 80%"},
		{"mtu=20", "68"},
		{"mtu=1e3", "whole number"},
		{"overhead=-1", "overhead"},
		{"gap=-1ms", "gap"},
		{"reorder=200%", "reorder"},
		{"down=1", "stands alone"},
		{"delay", "duration"},
	} {
		got, err := Parse(base, append([]string{"delay=1s"}, strings.Fields(c.words)...)...)
		if !errors.Is(err, ErrParameter) || !strings.Contains(err.Error(), c.want) {
			t.Errorf("%q: error %v, want one about %q", c.words, err, c.want)
		}
		if got != base {
			t.Errorf("%q: a refused change changed something: %+v", c.words, got)
		}
	}
}

func TestAutomaticQueueIsOneBandwidthDelayProduct(t *testing.T) {
	for _, c := range []struct {
		words  string
		ab, ba int64
	}{
		{"both delay=50ms rate=100mbit", 1_250_000, 1_250_000},
		{"a2b delay=80ms rate=100mbit b2a delay=20ms rate=10mbit", 1_250_000, 125_000},
		{"both delay=1ms rate=2mbit", 64 << 10, 64 << 10},
		{"both delay=50ms a2b rate=100mbit queue=5000", 5000, 0},
	} {
		p, err := Parse(Pair{}, strings.Fields(c.words)...)
		if err != nil {
			t.Fatal(err)
		}
		if ab, ba := p.QueueBytes(AtoB), p.QueueBytes(BtoA); ab != c.ab || ba != c.ba {
			t.Errorf("%q: queues of %d and %d bytes, want %d and %d", c.words, ab, ba, c.ab, c.ba)
		}
	}
}

func genParams(t *rapid.T) Params {
	maybe := func(name string, low, high int64) int64 {
		if rapid.Bool().Draw(t, name+" set") {
			return rapid.Int64Range(low, high).Draw(t, name)
		}
		return 0
	}
	p := Params{
		Delay:          time.Duration(maybe("delay", 0, int64(maxDelay))),
		RateBitsPerSec: maybe("rate", minRate, maxRate),
		QueueBytes:     maybe("queue", minQueueBytes, maxQueueBytes),
		OverheadBytes:  int(maybe("overhead", 0, maxOverhead)),
		Loss:           float64(maybe("loss", 0, 1e6)) / 1e6,
		Reorder:        float64(maybe("reorder", 0, 1e6)) / 1e6,
		Gap:            time.Duration(maybe("gap", 0, int64(maxDelay))),
		MTU:            int(maybe("mtu", minPathMTU, maxPathMTU)),
		Down:           rapid.Bool().Draw(t, "down"),
	}
	if p.Loss <= 0.5 {
		p.Burst = float64(maybe("burst", 0, maxBurst))
	}
	p.Jitter = time.Duration(maybe("jitter", 0, int64(p.Delay)))
	return p
}

func TestWordsAreReadBack(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		want := Pair{genParams(t), genParams(t)}
		got, err := Parse(Pair{}, want.Words()...)
		if err != nil {
			t.Fatalf("%v: %v", want, err)
		}
		for _, pair := range [][2]*float64{{&want.AtoB.Loss, &got.AtoB.Loss}, {&want.BtoA.Loss, &got.BtoA.Loss},
			{&want.AtoB.Reorder, &got.AtoB.Reorder}, {&want.BtoA.Reorder, &got.BtoA.Reorder}} {
			// A share that no decimal percentage stands for may move by the last bit.
			if math.Abs(*pair[0]-*pair[1]) < 1e-15 {
				*pair[1] = *pair[0]
			}
		}
		if want != got {
			t.Fatalf("wrote %v\nread  %v", want, got)
		}
	})
}

func FuzzParse(f *testing.F) {
	for _, words := range []string{
		"both delay=50ms rate=20mbit queue=auto a2b loss=0.1% burst=4", "down", "b2a up", "jitter=1ms delay=2ms reorder=1% gap=5ms",
		"mtu=1400 overhead=38", "rate=1e9", "rate=0x1p40", "queue=.5MiB", "loss=1e-300%", "delay=9223372036854775807ns", "rate=1e400", "=", "loss=%",
	} {
		f.Add(words)
	}
	f.Fuzz(func(t *testing.T, words string) {
		p, err := Parse(Pair{}, strings.Fields(words)...)
		if err != nil {
			if !errors.Is(err, ErrParameter) {
				t.Errorf("%q: %v is no parameter error", words, err)
			}
			return
		}
		again, err := Parse(Pair{}, p.Words()...)
		if err != nil {
			t.Fatalf("%q was written as %v, which is refused: %v", words, p, err)
		}
		if again != p {
			t.Errorf("%q was read as %+v, written as %v and read as %+v", words, p, p, again)
		}
	})
}
