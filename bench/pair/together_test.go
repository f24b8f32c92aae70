package pair_test

import (
	"fmt"
	"os"
	"path/filepath"
	"testing"

	"golang.org/x/sync/errgroup"

	"wanpair/bench/lab"
	"wanpair/bench/pair"
)

// TestFourteenFetchTheSame lets fourteen clients fetch the same 90 MB at once over 10 Mbit/s and 100 ms, none of it seen before. They refer to each
// other's bytes while those are under way: all of them together cost at most a fifth more than one alone. WANPAIR_SOAK=1 runs it: a minute and a half.
func TestFourteenFetchTheSame(t *testing.T) {
	if !soak() {
		t.Skip("takes a minute and a half and most of a machine: WANPAIR_SOAK=1 runs it")
	}
	const clients, megabytes = 14, 90_000_000
	wire := map[int]int64{}
	for _, n := range []int{1, clients} {
		t.Run(fmt.Sprint(n), func(t *testing.T) { // caches of their own, so cold for both
			w := newWorldWith(t, lab.Config{Link: "both delay=50ms rate=10mbit"}, pair.Config{LogLevel: "info"})
			w.nginx()
			_, sum, size := w.sources("release.tar", megabytes, 0)
			before := w.wanBytes()
			var group errgroup.Group
			for i := range n {
				group.Go(func() error {
					out := filepath.Join(w.dir, fmt.Sprintf("got%d", i))
					text, err := w.run(lab.Client, "curl", "-sS", "--fail", "-m", "300", "-o", out, fmt.Sprintf("http://%s/release.tar", lab.ServerIP4))
					if err != nil {
						return fmt.Errorf("client %d: %w: %s", i, err, text)
					}
					_, got, err := pair.HashFile(out)
					if err == nil && got != sum {
						err = fmt.Errorf("client %d: bytes differ", i)
					}
					if err != nil {
						return err
					}
					return os.Remove(out)
				})
			}
			w.check(group.Wait())
			wire[n] = w.wanBytes() - before
			t.Logf("%d clients, %d bytes each: %d bytes on the wire", n, size, wire[n])
		})
	}
	t.Logf("%d clients cost %.3f times the bytes of one", clients, float64(wire[clients])/float64(wire[1]))
	if wire[1] == 0 || 5*wire[clients] > 6*wire[1] {
		t.Errorf("%d bytes for %d clients, %d for one", wire[clients], clients, wire[1])
	}
}
