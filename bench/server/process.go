package server

import (
	"bytes"
	"context"
	"crypto/sha256"
	"encoding/hex"
	"errors"
	"fmt"
	"io"
	"net"
	"os"
	"os/exec"
	"strings"
	"sync"
	"syscall"
	"time"
)

const (
	readyTimeout = 30 * time.Second       // a server that has not answered by then will not
	probeEvery   = 20 * time.Millisecond  //
	stopTimeout  = 15 * time.Second       // before a server that was told to stop is killed
	logTailBytes = 2 << 10                // of a dead server's log, shown in the error
	dialTimeout  = 500 * time.Millisecond // of one probe
)

// ErrNotReady is wrapped by errors about a server that died or did not answer in time.
var ErrNotReady = errors.New("server did not become ready")

// Process is one running program.
type Process struct {
	name string
	cmd  *exec.Cmd
	log  string
	done chan struct{} // closed when it has ended
	err  error         // how it ended; read after done
	once sync.Once
}

// startProcess starts cmd in place with its output going to the file log; the kernel kills it when this process dies.
func startProcess(place Place, name string, cmd *exec.Cmd, log string) (*Process, error) {
	out, err := os.OpenFile(log, os.O_CREATE|os.O_WRONLY|os.O_APPEND, 0o644)
	if err != nil {
		return nil, err
	}
	defer out.Close() // the child has its own copy
	cmd.Stdout, cmd.Stderr = out, out
	if cmd.SysProcAttr == nil {
		cmd.SysProcAttr = &syscall.SysProcAttr{}
	}
	cmd.SysProcAttr.Setpgid = true // a Ctrl-C at the terminal is ours to handle
	p := &Process{name: name, cmd: cmd, log: log, done: make(chan struct{})}
	started := make(chan error, 1)
	go func() { // ends with the child; Stop waits for it
		defer close(p.done)
		p.err = place.attend(cmd, syscall.SIGTERM, func(err error) { started <- err })
	}()
	if err := <-started; err != nil {
		return nil, fmt.Errorf("start %s: %w", name, err)
	}
	return p, nil
}

// PID is the process id.
func (p *Process) PID() int { return p.cmd.Process.Pid }

// Done is closed when the process has ended.
func (p *Process) Done() <-chan struct{} { return p.done }

// waitReady calls probe until it succeeds, the process ends, or the time is over.
func (p *Process) waitReady(ctx context.Context, probe func(context.Context) error) error {
	ctx, cancel := context.WithTimeout(ctx, readyTimeout)
	defer cancel()
	tick := time.NewTicker(probeEvery)
	defer tick.Stop()
	for {
		last := probe(ctx)
		if last == nil {
			return nil
		}
		select {
		case <-p.done:
			return fmt.Errorf("%w: %s ended (%v): %s", ErrNotReady, p.name, p.err, tail(p.log))
		case <-ctx.Done():
			return fmt.Errorf("%w: %s: %w, last answer: %w: %s", ErrNotReady, p.name, ctx.Err(), last, tail(p.log))
		case <-tick.C:
		}
	}
}

// Stop sends sig, waits, and kills what is left of the process group. It may be called more than once; only the first call does anything.
func (p *Process) Stop(sig syscall.Signal) error {
	var result error
	p.once.Do(func() {
		defer syscall.Kill(-p.PID(), syscall.SIGKILL) // workers that a master left behind; ESRCH is the usual answer
		if err := p.cmd.Process.Signal(sig); err != nil && !errors.Is(err, os.ErrProcessDone) {
			result = fmt.Errorf("stop %s: %w", p.name, err)
		}
		timer := time.NewTimer(stopTimeout)
		defer timer.Stop()
		select {
		case <-p.done:
		case <-timer.C:
			result = errors.Join(result, fmt.Errorf("stop %s: did not end within %v and was killed", p.name, stopTimeout))
			_ = p.cmd.Process.Kill()
			<-p.done
		}
	})
	return result
}

// tail returns the end of a log for an error message.
func tail(path string) string {
	data, err := os.ReadFile(path)
	if err != nil {
		return err.Error()
	}
	if len(data) > logTailBytes {
		data = data[len(data)-logTailBytes:]
	}
	return strings.TrimSpace(string(data))
}

// probeTCP is ready when a connection to the port is accepted.
func probeTCP(place Place, port int) func(context.Context) error {
	return func(ctx context.Context) error {
		ctx, cancel := context.WithTimeout(ctx, dialTimeout)
		defer cancel()
		conn, err := place.Dial(ctx, place.HostPort(port), nil)
		if err != nil {
			return err
		}
		return conn.Close()
	}
}

// Output is what a client program wrote to its standard output: how much, and which bytes.
type Output struct {
	Bytes  int64
	SHA256 string // hex
	// FirstByte and Total are measured from the start of the program.
	FirstByte, Total time.Duration
}

// Stream runs a client program in place and hashes what it writes to standard output, without keeping it. A program that fails gives an
// error with the end of what it wrote to standard error.
func Stream(ctx context.Context, place Place, cmd *exec.Cmd) (Output, error) {
	sum := sha256.New()
	meter := &meter{w: sum, began: time.Now()}
	err := run(ctx, place, cmd, meter)
	out := Output{Bytes: meter.n, SHA256: hex.EncodeToString(sum.Sum(nil)), FirstByte: meter.first, Total: time.Since(meter.began)}
	return out, err
}

// Text runs a client program in place and returns its standard output, for short answers.
func Text(ctx context.Context, place Place, cmd *exec.Cmd) (string, error) {
	var out bytes.Buffer
	err := run(ctx, place, cmd, &out)
	return out.String(), err
}

func run(ctx context.Context, place Place, cmd *exec.Cmd, stdout io.Writer) error {
	var stderr bytes.Buffer
	cmd.Stdout, cmd.Stderr = stdout, &stderr
	cmd.WaitDelay = stopTimeout
	name := cmd.Path[strings.LastIndexByte(cmd.Path, '/')+1:]
	if err := place.attend(cmd, syscall.SIGKILL, func(error) {}); err != nil {
		if ctx.Err() != nil {
			err = ctx.Err()
		}
		text := bytes.TrimSpace(stderr.Bytes())
		if len(text) > logTailBytes {
			text = text[len(text)-logTailBytes:]
		}
		return fmt.Errorf("%s: %w: %s", name, err, text)
	}
	return nil
}

// meter counts what passes and notes when the first byte came.
type meter struct {
	w     io.Writer
	n     int64
	began time.Time
	first time.Duration
}

func (m *meter) Write(b []byte) (int, error) {
	if m.n == 0 && len(b) > 0 {
		m.first = time.Since(m.began)
	}
	m.n += int64(len(b))
	return m.w.Write(b)
}

// freePort returns a port of the place that nobody listens on at the moment. Places of a lab are empty, so there is no race in them.
func freePort(ctx context.Context, place Place) (int, error) {
	listener, err := place.Listen(ctx, 0, nil)
	if err != nil {
		return 0, err
	}
	port := listener.Addr().(*net.TCPAddr).Port
	return port, listener.Close()
}

// Copy runs a client program in place and writes its standard output to w as it comes.
func Copy(ctx context.Context, place Place, cmd *exec.Cmd, w io.Writer) error {
	return run(ctx, place, cmd, w)
}
