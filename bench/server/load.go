package server

import (
	"bufio"
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"
	"time"
)

// Load is what a load generator did.
type Load struct {
	Requests int64
	Errors   int64
	Bytes    int64 // read, as the generator counts
	Took     time.Duration
	// Latencies of the single requests, where the generator tells them; else Percentiles.
	Latencies   []time.Duration
	Percentiles Percentiles
}

// Percentiles are what a generator that keeps its own histogram says.
type Percentiles struct {
	P50, P90, P99, Max time.Duration
}

// ErrOutput is wrapped when a load generator's output is not understood.
var ErrOutput = errors.New("output of the load generator is not understood")

// wrkScript prints what wrk knows in a form made for reading by program.
const wrkScript = `done = function(s, l, r)
  local e = s.errors
  io.write(string.format("WANBENCH %d %d %d %d %d %d %d %d\n", s.requests, e.connect + e.read + e.write + e.status + e.timeout, s.bytes, s.duration,
    l:percentile(50), l:percentile(90), l:percentile(99), l.max))
end
`

// Wrk asks for one URL over and over from a number of connections; with closing each request has a connection of its own.
func Wrk(ctx context.Context, from Place, url string, connections int, duration time.Duration, closing bool) (Load, error) {
	path, err := Tool("wrk")
	if err != nil {
		return Load{}, err
	}
	dir, err := os.MkdirTemp("", "wbwrk")
	if err != nil {
		return Load{}, err
	}
	defer os.RemoveAll(dir)
	script := filepath.Join(dir, "done.lua")
	if err := os.WriteFile(script, []byte(wrkScript), 0o644); err != nil {
		return Load{}, err
	}
	args := []string{"-t", "1", "-c", strconv.Itoa(connections), "-d", strconv.Itoa(max(1, int(duration.Round(time.Second)/time.Second))) + "s", "--timeout", "20s", "-s", script}
	if closing {
		args = append(args, "-H", "Connection: close")
	}
	out, err := Text(ctx, from, exec.CommandContext(ctx, path, append(args, url)...))
	if err != nil {
		return Load{}, err
	}
	return parseWrk(out)
}

func parseWrk(out string) (Load, error) {
	for line := range strings.Lines(out) {
		rest, ok := strings.CutPrefix(line, "WANBENCH ")
		if !ok {
			continue
		}
		var n [8]int64
		fields := strings.Fields(rest)
		if len(fields) != len(n) {
			break
		}
		for i, f := range fields {
			var err error
			if n[i], err = strconv.ParseInt(f, 10, 64); err != nil {
				return Load{}, fmt.Errorf("wrk: %w: %q", ErrOutput, line)
			}
		}
		us := func(v int64) time.Duration { return time.Duration(v) * time.Microsecond }
		return Load{Requests: n[0], Errors: n[1], Bytes: n[2], Took: us(n[3]), Percentiles: Percentiles{P50: us(n[4]), P90: us(n[5]), P99: us(n[6]), Max: us(n[7])}}, nil
	}
	return Load{}, fmt.Errorf("wrk: %w: %q", ErrOutput, out)
}

// H2load sends a number of requests by HTTP/2 without TLS over connections with a number of streams each.
func H2load(ctx context.Context, from Place, url string, requests, connections, streams int) (Load, error) {
	path, err := Tool("h2load")
	if err != nil {
		return Load{}, err
	}
	dir, err := os.MkdirTemp("", "wbh2load")
	if err != nil {
		return Load{}, err
	}
	defer os.RemoveAll(dir)
	log := filepath.Join(dir, "log")
	began := time.Now()
	_, err = Text(ctx, from, exec.CommandContext(ctx, path, "-n", strconv.Itoa(requests), "-c", strconv.Itoa(connections), "-m", strconv.Itoa(streams),
		"-t", "1", "--log-file="+log, url))
	if err != nil {
		return Load{}, err
	}
	f, err := os.Open(log)
	if err != nil {
		return Load{}, err
	}
	defer f.Close()
	load, err := parseH2load(f)
	load.Took = time.Since(began)
	return load, err
}

// parseH2load reads h2load's log: start in µs, status, duration in µs, separated by tabs.
func parseH2load(r io.Reader) (Load, error) {
	var load Load
	lines := bufio.NewScanner(r)
	for lines.Scan() {
		fields := strings.Split(lines.Text(), "\t")
		if len(fields) < 3 {
			return load, fmt.Errorf("h2load: %w: %q", ErrOutput, lines.Text())
		}
		took, err := strconv.ParseInt(fields[2], 10, 64)
		if err != nil {
			return load, fmt.Errorf("h2load: %w: %q", ErrOutput, lines.Text())
		}
		load.Requests++
		if !strings.HasPrefix(fields[1], "2") {
			load.Errors++
			continue
		}
		load.Latencies = append(load.Latencies, time.Duration(took)*time.Microsecond)
	}
	return load, lines.Err()
}

// SmallQueries runs a number of single-row selects by pgbench over one connection from a place.
func (p *Postgres) SmallQueries(ctx context.Context, from Place, queries int, seed uint64) (Load, error) {
	dir, err := os.MkdirTemp("", "wbpgbench")
	if err != nil {
		return Load{}, err
	}
	defer os.RemoveAll(dir)
	if p.credential != nil {
		if err := os.Chown(dir, int(p.credential.Uid), int(p.credential.Gid)); err != nil {
			return Load{}, err
		}
	}
	cmd, err := p.Remote(ctx, "pgbench", "-n", "-S", "-c", "1", "-t", strconv.Itoa(queries), "--random-seed="+strconv.FormatUint(seed%(1<<31), 10),
		"-l", "--log-prefix="+filepath.Join(dir, "log"), "bench")
	if err != nil {
		return Load{}, err
	}
	began := time.Now()
	if _, err := Text(ctx, from, cmd); err != nil {
		return Load{}, err
	}
	took := time.Since(began)
	logs, err := filepath.Glob(filepath.Join(dir, "log*"))
	if err != nil || len(logs) != 1 {
		return Load{}, fmt.Errorf("pgbench: %w: %d logs", ErrOutput, len(logs))
	}
	f, err := os.Open(logs[0])
	if err != nil {
		return Load{}, err
	}
	defer f.Close()
	load, err := parsePgbench(f)
	load.Took = took
	return load, err
}

// parsePgbench reads pgbench's log of single transactions: client, number, µs, script, time in s and µs.
func parsePgbench(r io.Reader) (Load, error) {
	var load Load
	lines := bufio.NewScanner(r)
	for lines.Scan() {
		fields := strings.Fields(lines.Text())
		if len(fields) < 6 {
			return load, fmt.Errorf("pgbench: %w: %q", ErrOutput, lines.Text())
		}
		took, err := strconv.ParseInt(fields[2], 10, 64)
		if err != nil {
			return load, fmt.Errorf("pgbench: %w: %q", ErrOutput, lines.Text())
		}
		load.Requests++
		load.Latencies = append(load.Latencies, time.Duration(took)*time.Microsecond)
	}
	return load, lines.Err()
}
