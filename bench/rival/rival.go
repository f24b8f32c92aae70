// Package rival runs what else makes a file small: real programs with the settings their users would pick, and the zstd encoder that wanpair itself
// is built with. So a ratio stands beside others of the same bytes, measured in the same run on the same machine.
//
// It promises that a program is bounded in time, that its output is counted and not kept, and that a program that is not installed is said by name.
package rival

import (
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"os/exec"
	"runtime"
	"strings"
	"time"

	"github.com/klauspost/compress/zstd"
	"golang.org/x/sys/unix"

	"wanpair/bench/server"
)

// limit ends a program that takes longer over one file: zstd -19 does 2 to 3 MB/s, and nobody waits an hour for a row of a table.
const limit = 20 * time.Minute

// ErrLimit is wrapped when a program took longer than is waited for.
var ErrLimit = errors.New("took too long")

// Program is one way to make a file small.
type Program struct {
	Name string // as shown: the program and the settings that matter
	// Weight is the time a megabyte takes, as a multiple of what the codec takes for one; for progress.
	Weight int

	tool string // "" is the encoder in this process
	args []string
	old  string // how the older file is named on the command line, before its path; "" when it is not needed
}

// Alone lists the ways for a file by itself.
func Alone() []Program {
	return []Program{
		{Name: "zstd --fast=1", Weight: 1, tool: "zstd", args: []string{"-q", "-c", "--fast=1"}},
		{Name: "zstd -1", Weight: 1, tool: "zstd", args: []string{"-q", "-c", "-1"}},
		{Name: "Go zstd, fastest", Weight: 1},
	}
}

// Delta lists the ways for a file of which the receiver has an older version.
func Delta() []Program {
	return []Program{
		{Name: "zstd -3 --long=31 --patch-from", Weight: 1, tool: "zstd", args: []string{"-q", "-c", "-3", "--long=31"}, old: "--patch-from="},
		{Name: "zstd -19 --long=31 --patch-from", Weight: 60, tool: "zstd", args: []string{"-q", "-c", "-19", "--long=31"}, old: "--patch-from="},
		{Name: "xdelta3 -e -9 -B 536870912", Weight: 6, tool: "xdelta3", args: []string{"-e", "-9", "-B", "536870912", "-c"}, old: "-s"},
	}
}

// Installed divides programs into those that can run here and the names of those that cannot.
func Installed(all []Program) (there []Program, missing []string) {
	for _, p := range all {
		if p.tool != "" {
			if _, err := server.Tool(p.tool); err != nil {
				missing = append(missing, fmt.Sprintf("%s (%v)", p.Name, err))
				continue
			}
		}
		there = append(there, p)
	}
	return there, missing
}

// Result is what a program made of a file.
type Result struct {
	Name      string  `json:"name"`
	WireBytes int64   `json:"wire_bytes"` // of its output
	Ratio     float64 `json:"ratio"`
	Rate      float64 `json:"mb_per_cpu_second"` // of the file's bytes; user and system time of all its threads
}

// Measure makes file small; old is the version that the receiver has, ignored by those that take none. Errors: the program's own words,
// server.ErrMissing, ErrLimit, or that of the context.
func (p Program) Measure(ctx context.Context, old, file string) (Result, error) {
	ctx, cancel := context.WithTimeoutCause(ctx, limit, ErrLimit)
	defer cancel()
	info, err := os.Stat(file)
	if err != nil {
		return Result{}, err
	}
	run := p.command
	if p.tool == "" {
		run = inProcess
	}
	n, cpu, err := run(ctx, old, file)
	if err != nil {
		if cause := context.Cause(ctx); cause != nil {
			err = cause
		}
		return Result{}, fmt.Errorf("%s: %w", p.Name, err)
	}
	return Result{Name: p.Name, WireBytes: n, Ratio: float64(info.Size()) / float64(max(n, 1)), Rate: float64(info.Size()) / 1e6 / cpu.Seconds()}, nil
}

// counter counts what is written to it.
type counter int64

func (c *counter) Write(b []byte) (int, error) {
	*c += counter(len(b))
	return len(b), nil
}

// command runs the program and counts what it prints.
func (p Program) command(ctx context.Context, old, file string) (int64, time.Duration, error) {
	path, err := server.Tool(p.tool)
	if err != nil {
		return 0, 0, err
	}
	args := p.args
	switch {
	case strings.HasSuffix(p.old, "="):
		args = append(args[:len(args):len(args)], p.old+old)
	case p.old != "":
		args = append(args[:len(args):len(args)], p.old, old)
	}
	var out counter
	var words strings.Builder
	cmd := exec.CommandContext(ctx, path, append(args[:len(args):len(args)], file)...)
	cmd.Stdout, cmd.Stderr = &out, &words
	if err := cmd.Run(); err != nil {
		return 0, 0, fmt.Errorf("%v: %s", err, strings.TrimSpace(words.String())) //nolint:errorlint // its exit status is not ours
	}
	return int64(out), cmd.ProcessState.UserTime() + cmd.ProcessState.SystemTime(), nil
}

// inProcess compresses with the fastest level of the encoder that wanpair is built with, as one frame.
func inProcess(ctx context.Context, _, file string) (int64, time.Duration, error) {
	runtime.LockOSThread() // the CPU clock is this thread's
	defer runtime.UnlockOSThread()
	in, err := os.Open(file)
	if err != nil {
		return 0, 0, err
	}
	defer in.Close()
	var out counter
	enc, err := zstd.NewWriter(&out, zstd.WithEncoderLevel(zstd.SpeedFastest), zstd.WithEncoderConcurrency(1))
	if err != nil {
		return 0, 0, err
	}
	began, err := threadTime()
	if err != nil {
		return 0, 0, err
	}
	for err == nil && ctx.Err() == nil {
		_, err = io.CopyN(enc, in, 4<<20)
	}
	if !errors.Is(err, io.EOF) {
		return 0, 0, errors.Join(err, ctx.Err(), enc.Close())
	}
	if err := enc.Close(); err != nil {
		return 0, 0, err
	}
	ended, err := threadTime()
	return int64(out), ended - began, err
}

// threadTime is the CPU time of the calling thread.
func threadTime() (time.Duration, error) {
	var ts unix.Timespec
	err := unix.ClockGettime(unix.CLOCK_THREAD_CPUTIME_ID, &ts)
	return time.Duration(ts.Nano()), err
}
