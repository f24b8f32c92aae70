package pair_test

import (
	"os"
	"path/filepath"
	"strings"
	"testing"

	"wanpair/bench/lab"
	"wanpair/bench/pair"
)

// TestCacheWarm sends a tree ahead through a running pair, then lets a client fetch it: nothing new crosses the link.
func TestCacheWarm(t *testing.T) {
	w := newWorld(t, testLink)
	w.nginx()
	path, sum, size := w.sources("tree", 20<<20, 0)
	seed := filepath.Join(w.dir, "seed", "deeper")
	w.check(os.MkdirAll(seed, 0o755))
	w.check(os.Link(path, filepath.Join(seed, "tree")))

	before := w.wanBytes()
	out := w.must(lab.GatewayA, binary, "cache", "warm", "-c", w.Near.ConfigPath(), filepath.Dir(seed))
	first := w.wanBytes() - before
	t.Logf("%s%d bytes over the link for %d", out, first, size)
	if !strings.Contains(out, "1 files") || first < size/50 {
		t.Errorf("after %d bytes over the link it says %q", first, out)
	}
	for _, host := range []string{lab.ServerIP4, lab.ServerIP6} {
		if host == lab.ServerIP6 {
			host = "[" + host + "]"
		}
		if wan := w.get(host, "tree", sum); wan > size/100 {
			t.Errorf("%d bytes crossed the link for %d that had been sent ahead", wan, size)
		}
	}
	before = w.wanBytes()
	w.must(lab.GatewayA, binary, "cache", "warm", "-c", w.Near.ConfigPath(), filepath.Dir(seed))
	if again := w.wanBytes() - before; again > size/100 {
		t.Errorf("a second warm-up cost %d bytes of %d", again, size)
	}

	// From the other side, whose gateway dialled nobody; then with the peer gone.
	w.must(lab.GatewayB, binary, "cache", "warm", "-c", w.Far.ConfigPath(), path)
	w.check(w.Far.Kill())
	w.waitStats(w.Near, "not up", func(p pair.PeerStats) bool { return p.State != "up" })
	out, err := w.run(lab.GatewayA, binary, "cache", "warm", "-c", w.Near.ConfigPath(), path)
	if err == nil || !strings.Contains(out, "not possible right now") {
		t.Errorf("with the peer gone: %v, %q", err, out)
	}
	w.check(w.Far.Start(w.ctx))
}
