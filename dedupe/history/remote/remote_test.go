package remote

import (
	"bytes"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"syscall"
	"testing"
	"time"

	"go.uber.org/goleak"

	"wanpair/dedupe/history"
)

// childEnv makes the test binary a child.
const childEnv = "WANPAIR_TEST_STORE=1"

func TestMain(m *testing.M) {
	if os.Getenv("WANPAIR_TEST_STORE") != "" {
		if err := ServeChild(); err != nil {
			fmt.Fprintln(os.Stderr, err)
			os.Exit(1)
		}
		return
	}
	goleak.VerifyTestMain(m)
}

// testConfig is a small directory.
func testConfig(dir string) Config {
	return Config{
		Command: []string{"/proc/self/exe"}, Env: []string{childEnv},
		Epochs: history.EpochsConfig{Dir: dir, SizeBytes: 256 << 20, BlocksPerEpoch: 8, Writer: 7},
	}
}

// start starts a client that is closed with the test.
func start(t testing.TB, cfg Config) *Client {
	t.Helper()
	c, err := Start(cfg)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := c.Close(5 * time.Second); err != nil {
			t.Error(err)
		}
	})
	return c
}

// own is the log that tests write.
func own(id byte) [2]history.State {
	return [2]history.State{{ID: history.LogID{id}, Head: 1 << 30}, {}}
}

// block is the n-th block's content.
func block(n uint64) *history.Sealed {
	return &history.Sealed{
		Key: history.Key{Number: n}, Next: n + 1, Scope: uint32(n % 3),
		Data:    bytes.Repeat([]byte(fmt.Sprintf("block %d ", n)), 9000),
		Anchors: []uint64{n << 18, n<<18 | 77},
	}
}

func put(t testing.TB, c *Client, numbers ...uint64) {
	t.Helper()
	for _, n := range numbers {
		if err := c.Put(block(n)); err != nil {
			t.Fatalf("put %d: %v", n, err)
		}
	}
}

// check reads blocks back.
func check(t testing.TB, c *Client, numbers ...uint64) {
	t.Helper()
	for _, n := range numbers {
		data, about, err := c.Get(history.Key{Number: n})
		if err != nil || about != (history.About{Next: n + 1, Scope: uint32(n % 3)}) || !bytes.Equal(data, block(n).Data) {
			t.Fatalf("block %d: %d bytes, about %v, %v", n, len(data), about, err)
		}
	}
}

// eventually polls until ok.
func eventually(t testing.TB, what string, ok func() bool) {
	t.Helper()
	for end := time.Now().Add(30 * time.Second); !ok(); {
		if time.Now().After(end) {
			t.Fatalf("%s: not within 30 s", what)
		}
		time.Sleep(5 * time.Millisecond)
	}
}

// pid is the present child's process id.
func (c *Client) pid() int {
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.life == nil {
		return 0
	}
	return c.life.cmd.Process.Pid
}

func TestPutGetListReopen(t *testing.T) {
	dir := t.TempDir()
	c := start(t, testConfig(dir))
	if err := c.SetLogs(own(1)); err != nil {
		t.Fatal(err)
	}
	put(t, c, 0, 1, 2, 9, 10)
	check(t, c, 0, 1, 2, 9, 10)
	if _, _, err := c.Get(history.Key{Number: 5}); !errors.Is(err, history.ErrAbsent) {
		t.Errorf("a block that never was: %v", err)
	}
	if err := c.Note(history.Key{Number: 1}, 0); err != nil {
		t.Error(err)
	}
	if err := c.Close(10 * time.Second); err != nil {
		t.Fatal(err)
	}
	c = start(t, testConfig(dir))
	if c.Logs() != own(1) {
		t.Errorf("logs after reopening: %v", c.Logs())
	}
	var held []uint64
	anchors := 0
	for _, x := range c.Status().Extents[0] {
		list, err := c.Lengths(x, 0)
		if err != nil {
			t.Fatal(err)
		}
		for _, h := range list {
			held = append(held, h.Number)
		}
		if more, err := c.Lengths(x, x.First+x.Count); err != nil || len(more) > 0 {
			t.Errorf("behind the end: %v, %v", more, err)
		}
		rec, _, err := c.Anchors(x, 0)
		if err != nil {
			t.Fatal(err)
		}
		anchors += len(rec)
	}
	if fmt.Sprint(held) != "[0 2 9 10]" || anchors != 5*(20+16) {
		t.Errorf("held %v, %d bytes of anchors", held, anchors)
	}
	check(t, c, 0, 2, 9, 10)
}

func TestKilledChildIsSucceeded(t *testing.T) {
	c := start(t, testConfig(t.TempDir()))
	if err := c.SetLogs(own(1)); err != nil {
		t.Fatal(err)
	}
	for n := range uint64(40) {
		put(t, c, n)
		if n%16 == 5 {
			if pid := c.pid(); pid != 0 {
				if err := syscall.Kill(pid, syscall.SIGKILL); err != nil {
					t.Fatal(err)
				}
			}
		}
	}
	for n := range uint64(40) {
		check(t, c, n)
	}
	if st := c.Status(); st.Restarts == 0 || st.Off != "" {
		t.Errorf("status %+v", st)
	}
}

func TestStoppedChildIsKilled(t *testing.T) {
	if testing.Short() {
		t.Skip("takes as long as a hang is tolerated")
	}
	c := start(t, testConfig(t.TempDir()))
	if err := c.SetLogs(own(1)); err != nil {
		t.Fatal(err)
	}
	put(t, c, 0)
	pid := c.pid()
	if err := syscall.Kill(pid, syscall.SIGSTOP); err != nil {
		t.Fatal(err)
	}
	if _, _, err := c.Get(history.Key{}); err != nil && !errors.Is(err, history.ErrUnavailable) {
		t.Errorf("a read that hangs: %v", err)
	}
	eventually(t, "the next child", func() bool { now := c.pid(); return now != pid && now != 0 })
	eventually(t, "an answer of the next child", func() bool { _, _, err := c.Get(history.Key{}); return err == nil })
	check(t, c, 0)
}

func TestDirectoryOfAnother(t *testing.T) {
	dir := t.TempDir()
	start(t, testConfig(dir))
	_, err := Start(testConfig(dir))
	if !errors.Is(err, history.ErrLocked) {
		t.Errorf("a locked directory: %v", err)
	} else if strings.Count(err.Error(), "cache directory") != 1 {
		t.Errorf("a locked directory: %v: said more than once", err)
	}
	file := filepath.Join(dir, "file")
	if err := os.WriteFile(file, nil, 0o600); err != nil {
		t.Fatal(err)
	}
	if _, err := Start(testConfig(filepath.Join(file, "cache"))); !errors.Is(err, errConfig) {
		t.Errorf("a directory below a file: %v", err)
	} else if strings.Count(err.Error(), "cache directory") != 1 {
		t.Errorf("a directory below a file: %v: said more than once", err)
	}
}

func TestChildThatDoesNotStart(t *testing.T) {
	cfg := testConfig(t.TempDir())
	cfg.Command = []string{"/bin/false"}
	began := time.Now()
	c := start(t, cfg)
	if err := c.Put(block(1)); !errors.Is(err, history.ErrUnavailable) {
		t.Errorf("put: %v", err)
	}
	eventually(t, "off", func() bool { return c.Status().Off != "" })
	if _, _, err := c.Get(history.Key{Number: 1}); !errors.Is(err, history.ErrUnavailable) {
		t.Errorf("get: %v", err)
	}
	t.Logf("off after %v: %s", time.Since(began), c.Status().Off)
}

// TestChildEndsWithItsGateway closes the socket as a dying gateway does.
func TestChildEndsWithItsGateway(t *testing.T) {
	cfg := testConfig(t.TempDir())
	l, err := launch(cfg.Command, cfg.Env)
	if err != nil {
		t.Fatal(err)
	}
	call, err := l.begin(&request{kind: kindOpen, open: openRequest{cfg: cfg.Epochs, known: true, logs: own(1)}})
	if err != nil {
		t.Fatal(err)
	}
	go l.pump(func(*answer) {})
	if _, err := l.wait(call, 0); err != nil {
		t.Fatal(err)
	}
	if err := l.end(10 * time.Second); err != nil && l.reason.Error() != err.Error() {
		t.Errorf("child ended with %v", err)
	}
	if !l.reaped || l.cmd.ProcessState.ExitCode() != 0 {
		t.Errorf("child ended by force: %v", l.cmd.ProcessState)
	}
}
