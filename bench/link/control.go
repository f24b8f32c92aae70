package link

import (
	"bufio"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net"
	"os"
	"runtime"
	"runtime/debug"
	"strconv"
	"strings"
	"time"

	"golang.org/x/sync/errgroup"
	"golang.org/x/sys/unix"
)

// The control protocol: over a stream socket the client sends one JSON object and a newline, the server answers with one and closes.

const (
	maxRequestBytes = 64 << 10
	controlTimeout  = 10 * time.Second
)

type request struct {
	Do    string   `json:"do"` // set, stats, reset, stop
	Words []string `json:"words,omitempty"`
}

type answer struct {
	Error     string `json:"error,omitempty"`
	Parameter bool   `json:"parameter,omitempty"` // the error is the caller's: ErrParameter
	Stats     *Stats `json:"stats,omitempty"`
}

// Dedicate tunes the process for an emulator and nothing else: no garbage collection until the heap is far larger than control makes it
// in days, and real-time priority for every thread there is and will be. The latter because the runtime takes the processor from a
// goroutine that has run for 10 ms without a pause, as a pump does, and gives it back by way of another thread: were that one ordinary,
// the pump would wait for its turn among all programs of the machine.
func Dedicate() error {
	const heapBytes = 256 << 20
	debug.SetGCPercent(-1)
	debug.SetMemoryLimit(heapBytes)
	runtime.GC()
	threads, err := os.ReadDir("/proc/self/task")
	if err != nil {
		return fmt.Errorf("list threads: %w", err)
	}
	for _, thread := range threads {
		tid, err := strconv.Atoi(thread.Name())
		if err != nil {
			return fmt.Errorf("list threads: %w", err)
		}
		if err := setRealtime(tid); err != nil && !errors.Is(err, unix.ESRCH) {
			return err
		}
	}
	return nil
}

// Serve runs the emulator and answers requests on listener, which it closes, until ctx ends or a client says stop.
func Serve(ctx context.Context, e *Emulator, listener net.Listener) error {
	ctx, cancel := context.WithCancel(ctx)
	defer cancel()
	group, ctx := errgroup.WithContext(ctx)
	group.Go(func() error {
		defer cancel()
		return e.Run(ctx)
	})
	group.Go(func() error {
		<-ctx.Done()
		return listener.Close()
	})
	group.Go(func() error {
		for e.awaitReady(ctx) {
			conn, err := listener.Accept()
			if err != nil {
				if ctx.Err() != nil || errors.Is(err, net.ErrClosed) {
					return nil
				}
				return fmt.Errorf("accept on control socket: %w", err)
			}
			// One after the other: a request takes microseconds, and a client that says nothing is cut off.
			serveConn(conn, e, cancel)
		}
		return nil
	})
	return group.Wait()
}

func serveConn(conn net.Conn, e *Emulator, stop func()) {
	defer conn.Close()
	_ = conn.SetDeadline(time.Now().Add(time.Second))
	var r request
	line, err := bufio.NewReader(io.LimitReader(conn, maxRequestBytes)).ReadBytes('\n')
	if err == nil {
		err = json.Unmarshal(line, &r)
	}
	var a answer
	if err != nil {
		err = fmt.Errorf("request not understood: %w", err)
	} else {
		a, err = handle(r, e, stop)
	}
	if err != nil {
		a = answer{Error: err.Error(), Parameter: errors.Is(err, ErrParameter)}
	}
	_ = json.NewEncoder(conn).Encode(a)
}

func handle(r request, e *Emulator, stop func()) (a answer, err error) {
	switch r.Do {
	case "set":
		err = e.Set(r.Words...)
	case "reset":
		err = e.Reset()
	case "stop":
		stop()
		return a, nil
	case "stats":
	default:
		return a, fmt.Errorf("request %q is not known", r.Do)
	}
	if err != nil {
		return a, err
	}
	s, err := e.Stats()
	return answer{Stats: &s}, err
}

// Client speaks to the emulator of another process.
type Client struct {
	Socket string // path of its control socket
}

// Set changes parameters by the words that Parse knows; an error the emulator finds in them wraps ErrParameter.
func (c Client) Set(ctx context.Context, words ...string) error {
	_, err := c.call(ctx, request{Do: "set", Words: words})
	return err
}

// Stats returns what the link did since the last reset.
func (c Client) Stats(ctx context.Context) (Stats, error) {
	a, err := c.call(ctx, request{Do: "stats"})
	if err != nil {
		return Stats{}, err
	}
	if a.Stats == nil {
		return Stats{}, fmt.Errorf("link control %s: answer without stats", c.Socket)
	}
	return *a.Stats, nil
}

// Reset forgets all counts and starts the random sequences anew.
func (c Client) Reset(ctx context.Context) error {
	_, err := c.call(ctx, request{Do: "reset"})
	return err
}

// Stop ends the emulator.
func (c Client) Stop(ctx context.Context) error {
	_, err := c.call(ctx, request{Do: "stop"})
	return err
}

func (c Client) call(ctx context.Context, r request) (a answer, err error) {
	ctx, cancel := context.WithTimeout(ctx, controlTimeout)
	defer cancel()
	conn, err := new(net.Dialer).DialContext(ctx, "unix", c.Socket)
	if err != nil {
		return a, fmt.Errorf("link control: %w", err)
	}
	defer conn.Close()
	defer context.AfterFunc(ctx, func() { _ = conn.SetDeadline(time.Unix(1, 0)) })()
	if err := json.NewEncoder(conn).Encode(r); err != nil {
		return a, fmt.Errorf("link control: %w", err)
	}
	if err := json.NewDecoder(conn).Decode(&a); err != nil {
		return a, fmt.Errorf("link control: %w", err)
	}
	switch {
	case a.Parameter:
		return a, fmt.Errorf("%w%s", ErrParameter, strings.TrimPrefix(a.Error, ErrParameter.Error()))
	case a.Error != "":
		return a, fmt.Errorf("link control: %s", a.Error)
	}
	return a, nil
}
