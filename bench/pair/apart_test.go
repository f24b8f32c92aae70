package pair_test

import (
	"bytes"
	"io"
	"math/rand/v2"
	"net"
	"testing"

	"wanpair/bench/lab"
	"wanpair/bench/pair"
)

// TestHistoriesApart fetches the same bytes on ports of three classes through real gateways: one that everybody shares, one without history, one with
// a history of its own. What the link carries says who found what.
func TestHistoriesApart(t *testing.T) {
	t.Parallel()
	const classes = "[[class]]\nname = \"off\"\nports = [7951]\nhistory = \"off\"\n\n[[class]]\nname = \"guest\"\nports = [7952]\nhistory = \"own\"\n"
	w := newWorldWith(t, lab.Config{Link: testLink}, pair.Config{NearExtra: classes, FarExtra: classes})
	data := make([]byte, 1<<20)
	var key [32]byte
	_, _ = rand.NewChaCha8(key).Read(data)
	for _, port := range []string{"7950", "7951", "7952"} {
		w.serve(port, func(c *net.TCPConn) {
			defer c.Close()
			_, _ = c.Write(data)
		})
	}
	for i, c := range []struct {
		port  string
		known bool
	}{
		{"7951", false}, {"7950", false}, {"7950", true}, {"7952", false}, {"7952", true}, {"7951", false}, {"7950", true},
	} {
		before := w.wanBytes()
		got, err := io.ReadAll(w.dial(c.port))
		if err != nil || !bytes.Equal(got, data) {
			t.Fatalf("step %d, port %s: %d of %d bytes, %v", i, c.port, len(got), len(data), err)
		}
		wire := w.wanBytes() - before
		if c.known && wire > int64(len(data))/5 || !c.known && wire < int64(len(data)) {
			t.Errorf("step %d, port %s: the link carried %d bytes for %d", i, c.port, wire, len(data))
		}
	}
	w.tunnelled()
}
