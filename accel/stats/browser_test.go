package stats

import (
	"bufio"
	"context"
	"encoding/base64"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"

	"golang.org/x/net/websocket"
)

// browser is a headless Chromium with one page, driven through its debugging protocol.
type browser struct {
	t    *testing.T
	conn *websocket.Conn

	mu       sync.Mutex
	next     int                          // guarded by mu
	answers  map[int]chan json.RawMessage // by number of the request, guarded by mu
	problems []string                     // errors in the page's console and uncaught exceptions, guarded by mu
	closed   bool                         // guarded by mu
}

// startBrowser starts Chromium for one test. Where there is none the test is skipped, or fails where everything must run.
func startBrowser(t *testing.T) *browser {
	t.Helper()
	path, err := exec.LookPath("chromium")
	if err != nil {
		if os.Getenv("WANPAIR_REQUIRE_ROOT") == "1" {
			t.Fatalf("the page cannot be tested: %v", err)
		}
		t.Skipf("the page cannot be tested: %v", err)
	}
	cmd := exec.CommandContext(t.Context(), path, "--headless", "--no-sandbox", "--disable-gpu", "--disable-dev-shm-usage", "--no-first-run", "--disable-background-networking",
		"--disable-component-update", "--disable-sync", "--user-data-dir="+t.TempDir(), "--remote-debugging-port=0", "--remote-allow-origins=*", "about:blank")
	cmd.Env = append(os.Environ(), "TMPDIR="+t.TempDir()) // it leaves files there when it is killed
	cmd.SysProcAttr = &syscall.SysProcAttr{Setpgid: true}
	stderr, err := cmd.StderrPipe()
	if err != nil {
		t.Fatal(err)
	}
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	var drained sync.WaitGroup
	address := make(chan string, 1)
	drained.Go(func() {
		defer close(address)
		lines := bufio.NewScanner(stderr)
		for lines.Scan() {
			if _, a, found := strings.Cut(lines.Text(), "DevTools listening on "); found {
				address <- a
			}
		}
		_, _ = io.Copy(io.Discard, stderr)
	})
	t.Cleanup(func() {
		_ = syscall.Kill(-cmd.Process.Pid, syscall.SIGKILL) // with all its processes
		drained.Wait()
		_ = cmd.Wait() // killed: its status says so
	})
	control, ok := <-address
	if !ok {
		t.Fatal("Chromium ended before it said where it listens")
	}
	b := &browser{t: t, answers: map[int]chan json.RawMessage{}}
	b.connect(control)

	// The browser's own connection makes the page; the page has a connection of its own.
	var target struct {
		TargetID string `json:"targetId"`
	}
	b.call("Target.createTarget", map[string]any{"url": "about:blank"}, &target)
	page := &browser{t: t, answers: map[int]chan json.RawMessage{}}
	page.connect(control[:strings.Index(control, "/devtools/")] + "/devtools/page/" + target.TargetID)
	for _, domain := range []string{"Page", "Runtime", "Log"} {
		page.call(domain+".enable", nil, nil)
	}
	return page
}

func (b *browser) connect(url string) {
	b.t.Helper()
	conn, err := websocket.Dial(url, "", "http://127.0.0.1/")
	if err != nil {
		b.t.Fatal(err)
	}
	conn.MaxPayloadBytes = 64 << 20
	b.conn = conn
	var reading sync.WaitGroup
	reading.Go(b.read)
	b.t.Cleanup(func() {
		_ = conn.Close()
		reading.Wait()
	})
}

// read hands out answers and collects what went wrong in the page.
func (b *browser) read() {
	for {
		var m struct {
			ID     int
			Method string
			Result json.RawMessage
			Error  json.RawMessage
			Params json.RawMessage
		}
		if err := websocket.JSON.Receive(b.conn, &m); err != nil {
			b.mu.Lock()
			b.closed = true
			for _, answer := range b.answers {
				close(answer)
			}
			b.mu.Unlock()
			return
		}
		b.mu.Lock()
		switch {
		case m.ID != 0:
			if m.Error != nil {
				b.problems = append(b.problems, string(m.Error))
			}
			b.answers[m.ID] <- m.Result
			delete(b.answers, m.ID)
		case m.Method == "Runtime.exceptionThrown", m.Method == "Page.javascriptDialogOpening":
			b.problems = append(b.problems, m.Method+" "+string(m.Params))
		case m.Method == "Log.entryAdded", m.Method == "Runtime.consoleAPICalled":
			if text := string(m.Params); strings.Contains(text, `"error"`) || strings.Contains(text, `"warning"`) {
				b.problems = append(b.problems, m.Method+" "+text)
			}
		}
		b.mu.Unlock()
	}
}

// call makes one request of the protocol and decodes its result.
func (b *browser) call(method string, params, result any) {
	b.t.Helper()
	answer := make(chan json.RawMessage, 1)
	b.mu.Lock()
	b.next++
	id := b.next
	b.answers[id] = answer
	closed := b.closed
	b.mu.Unlock()
	if closed {
		b.t.Fatalf("%s: the browser is gone", method)
	}
	if err := websocket.JSON.Send(b.conn, map[string]any{"id": id, "method": method, "params": params}); err != nil {
		b.t.Fatal(err)
	}
	select {
	case raw, ok := <-answer:
		if !ok {
			b.t.Fatalf("%s: the browser is gone", method)
		}
		if result != nil {
			if err := json.Unmarshal(raw, result); err != nil {
				b.t.Fatalf("%s: %v in %s", method, err, raw)
			}
		}
	case <-time.After(time.Minute):
		b.t.Fatalf("%s: no answer within a minute", method)
	}
}

// eval returns the value of an expression in the page, as text.
func (b *browser) eval(expression string) string {
	b.t.Helper()
	var result struct {
		Result           struct{ Value any }
		ExceptionDetails json.RawMessage
	}
	b.call("Runtime.evaluate", map[string]any{"expression": expression, "returnByValue": true, "awaitPromise": true}, &result)
	if result.ExceptionDetails != nil {
		b.t.Fatalf("%s: %s", expression, result.ExceptionDetails)
	}
	return fmt.Sprint(result.Result.Value)
}

// await waits until an expression has a value. The deadline is generous: it is met only when something is broken.
func (b *browser) await(expression, want string) {
	b.t.Helper()
	ctx, cancel := context.WithTimeoutCause(b.t.Context(), time.Minute, errors.New("not within a minute"))
	defer cancel()
	tick := time.NewTicker(50 * time.Millisecond)
	defer tick.Stop()
	for {
		got := b.eval(expression)
		if got == want {
			return
		}
		select {
		case <-tick.C:
		case <-ctx.Done():
			b.t.Fatalf("%s is %q, want %q: %v", expression, got, want, context.Cause(ctx))
		}
	}
}

// view sets the window and the colour scheme.
func (b *browser) view(width, height int, scheme string) {
	b.t.Helper()
	b.call("Emulation.setDeviceMetricsOverride", map[string]any{"width": width, "height": height, "deviceScaleFactor": 1, "mobile": false}, nil)
	b.call("Emulation.setEmulatedMedia", map[string]any{"features": []map[string]string{{"name": "prefers-color-scheme", "value": scheme}}}, nil)
}

// screenshot keeps a picture of the whole page, where WANPAIR_SCREENSHOTS names a directory for people to look at it.
func (b *browser) screenshot(name string) {
	b.t.Helper()
	dir := os.Getenv("WANPAIR_SCREENSHOTS")
	if dir == "" {
		return
	}
	var shot struct{ Data string }
	b.call("Page.captureScreenshot", map[string]any{"format": "png", "captureBeyondViewport": true}, &shot)
	picture, err := base64.StdEncoding.DecodeString(shot.Data)
	if err != nil {
		b.t.Fatal(err)
	}
	if err := os.WriteFile(filepath.Join(dir, name+".png"), picture, 0o644); err != nil {
		b.t.Fatal(err)
	}
}

// faults returns what went wrong in the page so far.
func (b *browser) faults() []string {
	b.mu.Lock()
	defer b.mu.Unlock()
	return append([]string(nil), b.problems...)
}
