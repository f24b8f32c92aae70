package pair_test

import (
	"bytes"
	"debug/elf"
	"fmt"
	"net"
	"os"
	"path/filepath"
	"runtime"
	"sync"
	"syscall"
	"testing"
	"time"

	"wanpair/bench/pair"
)

// standStill is machine code that waits for signals, and again after each: pause(2) for ever.
var standStill = []byte{
	0xb8, 0x22, 0x00, 0x00, 0x00, // mov eax, 34
	0x0f, 0x05, // syscall
	0xeb, 0xf7, // jmp to the first one
}

// wedge makes every thread of a running gateway that enters the function stay there, in the memory of that process alone.
func wedge(t *testing.T, g *pair.Gateway, function string) {
	t.Helper()
	program, err := elf.Open(binary)
	must(t, err)
	defer program.Close()
	symbols, err := program.Symbols()
	must(t, err)
	for _, s := range symbols {
		if s.Name != function {
			continue
		}
		memory, err := os.OpenFile(fmt.Sprintf("/proc/%d/mem", g.PID()), os.O_WRONLY, 0)
		must(t, err)
		defer memory.Close()
		_, err = memory.WriteAt(standStill, int64(s.Value))
		must(t, err)
		return
	}
	t.Fatalf("no function %s in the gateway", function)
}

// manager is what a service manager's watchdog is to one gateway.
type manager struct {
	socket *net.UnixConn
	mu     sync.Mutex
	fed    time.Time
}

// managed starts a gateway again as a service with a watchdog. It gets many threads at a time, so that those that stand still leave some to
// the rest of the process, and neither is interrupted nor collects garbage: the runtime cannot make sense of a stack that stands in code it did not
// compile, and would end the process.
func managed(t *testing.T, w *world, g *pair.Gateway, watchdog time.Duration) *manager {
	t.Helper()
	path := filepath.Join(w.dir, g.Name+"-notify")
	socket, err := net.ListenUnixgram("unixgram", &net.UnixAddr{Name: path, Net: "unixgram"})
	must(t, err)
	t.Cleanup(func() { socket.Close() })
	m := &manager{socket: socket}
	go func() {
		b := make([]byte, 4096)
		for {
			n, err := socket.Read(b)
			if err != nil {
				return
			}
			if bytes.Contains(b[:n], []byte("WATCHDOG=1")) {
				m.mu.Lock()
				m.fed = time.Now()
				m.mu.Unlock()
			}
		}
	}()
	script := filepath.Join(w.dir, g.Name+"-managed")
	must(t, os.WriteFile(script, fmt.Appendf(nil, "#!/bin/sh\nexport GOMAXPROCS=64 GOGC=off GODEBUG=asyncpreemptoff=1 NOTIFY_SOCKET=%s WATCHDOG_USEC=%d\nexec %s \"$@\"\n",
		path, watchdog.Microseconds(), binary), 0o755))
	must(t, g.Stop(w.ctx))
	g.SetBinary(script)
	must(t, g.Start(w.ctx))
	w.waitUp(patience)
	return m
}

// lastFed is when the watchdog was fed last; the zero time: never.
func (m *manager) lastFed() time.Time {
	m.mu.Lock()
	defer m.mu.Unlock()
	return m.fed
}

// TestCodecStandsStill wedges the codec of a living process: every thread that encodes (or decodes) a frame stays there. New connections pass
// raw, the service manager's watchdog is not fed any more, and when the process is ended for it the ends of its connections see resets.
func TestCodecStandsStill(t *testing.T) {
	if runtime.GOARCH != "amd64" {
		t.Skip("the code that stands still is amd64's")
	}
	t.Parallel()
	const watchdog = 3 * time.Second
	w := newWorld(t, testLink)
	w.serve("7804", echoServer)
	for _, c := range []struct {
		victim   *pair.Gateway
		function string
	}{
		{w.Near, "wanpair/dedupe.(*Encoder).Encode"},
		{w.Far, "wanpair/dedupe.(*Decoder).Decode"},
	} {
		t.Run(c.victim.Name, func(t *testing.T) {
			m := managed(t, w, c.victim, watchdog)
			promised(t, "new connections raw after the codec stood still", 5*time.Second, func() time.Duration {
				if !c.victim.Running() {
					must(t, c.victim.Start(w.ctx))
				}
				w.waitUp(patience)
				w.acceleratedAgain(t, "7804")
				established := w.establish(t, "7804")
				eventually(t, patience, "the watchdog is fed", func() error {
					if age := time.Since(m.lastFed()); age > watchdog {
						return fmt.Errorf("fed %v ago", age)
					}
					return nil
				})
				wedge(t, c.victim, c.function)
				took := w.rawAfter(t, "7804", time.Now())
				if !c.victim.Running() {
					t.Fatal("the process did not stand still, it ended")
				}
				eventually(t, 2*patience, "the watchdog goes hungry", func() error {
					if age := time.Since(m.lastFed()); age < watchdog {
						return fmt.Errorf("fed %v ago", age)
					}
					return nil
				})
				must(t, c.victim.Signal(syscall.SIGABRT)) // as WatchdogSec does
				ended := time.Now()
				for c.victim.Running() {
					if time.Since(ended) > 3*time.Second { // TimeoutAbortSec
						_ = c.victim.Signal(syscall.SIGKILL)
					}
					time.Sleep(10 * time.Millisecond)
				}
				must(t, c.victim.Start(w.ctx))
				w.waitUp(2 * patience)
				for _, r := range established {
					if err := r.say(); !isReset(err) {
						t.Errorf("an established connection saw %v instead of a reset", err)
					}
				}
				return took
			})
			w.acceleratedAgain(t, "7804")
		})
	}
}
