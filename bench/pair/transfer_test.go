package pair_test

import (
	"fmt"
	"os"
	"path/filepath"
	"runtime"
	"strings"
	"testing"

	"wanpair/bench/lab"
	"wanpair/bench/pair"
)

const hundredMB = 100 << 20

// sources packs the Go installation's own source tree.
func (w *world) sources(name string, maxBytes int64, editEvery int) (path, sum string, size int64) {
	w.t.Helper()
	path = filepath.Join(w.www, name)
	_, _, err := pair.PackTree(filepath.Join(runtime.GOROOT(), "src"), path, maxBytes, editEvery)
	w.check(err)
	size, sum, err = pair.HashFile(path)
	w.check(err)
	return path, sum, size
}

// get fetches a file with curl and checks every byte; it returns what crossed the link for it.
func (w *world) get(host, name, sum string) (wan int64) {
	w.t.Helper()
	before := w.wanBytes()
	out := filepath.Join(w.dir, "got")
	w.must(lab.Client, "curl", "-sS", "--fail", "-m", "300", "-o", out, fmt.Sprintf("http://%s/%s", host, name))
	_, got, err := pair.HashFile(out)
	w.check(err)
	if got != sum {
		w.t.Fatalf("%s from %s: bytes differ", name, host)
	}
	w.check(os.Remove(out))
	return w.wanBytes() - before
}

func (w *world) put(host, path, sum string) (wan int64) {
	w.t.Helper()
	before := w.wanBytes()
	w.must(lab.Client, "curl", "-sS", "--fail", "-m", "300", "-T", path, fmt.Sprintf("http://%s/up", host))
	_, got, err := pair.HashFile(filepath.Join(w.www, "up"))
	w.check(err)
	if got != sum {
		w.t.Fatalf("upload to %s: bytes differ", host)
	}
	w.check(os.Remove(filepath.Join(w.www, "up")))
	return w.wanBytes() - before
}

func TestHundredMegabytesBothWaysAndAgain(t *testing.T) {
	w := newWorld(t, testLink)
	w.nginx()
	path, sum, size := w.sources("src.tar", hundredMB, 0)
	v6 := "[" + lab.ServerIP6 + "]"

	cold := w.get(lab.ServerIP4, "src.tar", sum)
	t.Logf("download cold: %d bytes on the wire of %d (%.1fx)", cold, size, float64(size)/float64(cold))
	if cold > size {
		t.Errorf("the tunnel made %d bytes of %d", cold, size)
	}
	limit := func(what string, wan, of int64, percent float64) {
		t.Helper()
		t.Logf("%s: %d bytes on the wire (%.3f %%)", what, wan, 100*float64(wan)/float64(of))
		if float64(wan) > float64(of)*percent/100 {
			t.Errorf("%s: %d bytes on the wire are more than %g %% of %d", what, wan, percent, of)
		}
	}
	limit("download again", w.get(lab.ServerIP4, "src.tar", sum), size, 1)
	limit("upload of what was downloaded", w.put(lab.ServerIP4, path, sum), size, 1)
	limit("download over IPv6", w.get(v6, "src.tar", sum), size, 1)
	limit("upload over IPv6", w.put(v6, path, sum), size, 1)

	access, err := os.ReadFile(filepath.Join(w.dir, "nginx-access.log"))
	w.check(err)
	for _, client := range []string{lab.ClientIP4, lab.ClientIP6} {
		if !strings.Contains(string(access), "\n"+client+" ") && !strings.HasPrefix(string(access), client+" ") {
			t.Errorf("the server did not see %s:\n%s", client, access)
		}
	}

	_, editedSum, editedSize := w.sources("edited.tar", hundredMB, 20)
	limit("5 % of the files edited", w.get(lab.ServerIP4, "edited.tar", editedSum), editedSize, 2)

	w.check(w.Restart(w.ctx))
	limit("again after both gateways were restarted", w.get(lab.ServerIP4, "src.tar", sum), size, 1)
}

func TestUploadCold(t *testing.T) {
	w := newWorld(t, testLink)
	w.nginx()
	path, sum, size := w.sources("src.tar", hundredMB, 0)
	cold := w.put("["+lab.ServerIP6+"]", path, sum)
	if cold > size {
		t.Errorf("the tunnel made %d bytes of %d", cold, size)
	}
	if again := w.put(lab.ServerIP4, path, sum); again > size/100 {
		t.Errorf("again: %d bytes on the wire of %d", again, size)
	}
}

func TestCacheOfOneSideLost(t *testing.T) {
	w := newWorld(t, testLink)
	w.nginx()
	_, sum, size := w.sources("src.tar", 30<<20, 0)
	w.get(lab.ServerIP4, "src.tar", sum)
	for _, victim := range []*pair.Gateway{w.Near, w.Far} {
		w.check(victim.Stop(w.ctx))
		w.check(os.RemoveAll(victim.CacheDir()))
		w.check(victim.Start(w.ctx))
		w.waitUp(2 * patience)
		w.get(lab.ServerIP4, "src.tar", sum) // cold again, and right
		if again := w.get(lab.ServerIP4, "src.tar", sum); again > size/50 {
			t.Errorf("after the cache of %s was deleted and filled again: %d bytes on the wire of %d", victim.Name, again, size)
		}
	}
}
