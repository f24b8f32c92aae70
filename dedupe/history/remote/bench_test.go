package remote

import (
	"bytes"
	"fmt"
	"math/rand/v2"
	"os"
	"testing"
	"time"

	"wanpair/dedupe/history"
)

// benchClient serves a directory with many epochs, n blocks in all.
func benchClient(b *testing.B, n uint64) (*Client, []byte) {
	cfg := testConfig(b.TempDir())
	cfg.Epochs.SizeBytes, cfg.Epochs.BlocksPerEpoch, cfg.MemoryBytes = 4<<30, 32, 64<<20
	c := start(b, cfg)
	if err := c.SetLogs(own(1)); err != nil {
		b.Fatal(err)
	}
	data := make([]byte, history.BlockBytes)
	r := rand.New(rand.NewPCG(1, 2))
	for i := range data {
		data[i] = byte(r.Uint32())
	}
	for i := range n {
		if err := c.Put(&history.Sealed{Key: history.Key{Number: i}, Data: data, Anchors: make([]uint64, 1024)}); err != nil {
			b.Fatal(err)
		}
	}
	return c, data
}

// anonymous is the child's memory that no file is behind.
func anonymous(b *testing.B, c *Client) string {
	text, err := os.ReadFile(fmt.Sprintf("/proc/%d/status", c.pid()))
	if err != nil {
		b.Fatal(err)
	}
	_, rest, _ := bytes.Cut(text, []byte("RssAnon:"))
	line, _, _ := bytes.Cut(rest, []byte("\n"))
	return string(bytes.TrimSpace(line))
}

func BenchmarkGet(b *testing.B) {
	const blocks = 2000 // 62 epochs
	c, data := benchClient(b, blocks)
	r := rand.New(rand.NewPCG(1, 3))
	b.SetBytes(int64(len(data)))
	var worst time.Duration
	for b.Loop() {
		began := time.Now()
		if _, _, err := c.Get(history.Key{Number: r.Uint64N(blocks)}); err != nil {
			b.Fatal(err)
		}
		worst = max(worst, time.Since(began))
	}
	b.ReportMetric(float64(worst.Microseconds()), "µs-worst")
	b.Logf("anonymous memory of the store's process: %s", anonymous(b, c))
}

func BenchmarkPut(b *testing.B) {
	c, data := benchClient(b, 1)
	b.SetBytes(int64(len(data)))
	n := uint64(1)
	for b.Loop() {
		if err := c.Put(&history.Sealed{Key: history.Key{Number: n}, Data: data, Anchors: make([]uint64, 1024)}); err != nil {
			b.Fatal(err)
		}
		n++
	}
	b.Logf("anonymous memory of the store's process: %s", anonymous(b, c))
}
