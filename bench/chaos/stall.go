package chaos

import (
	"bytes"
	"context"
	"encoding/binary"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"math/rand/v2"
	"net"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"time"

	"wanpair/bench/lab"
	"wanpair/bench/pair"
	"wanpair/bench/report"
)

// StallPlan says how many readers to stall, and what is pushed at them.
type StallPlan struct {
	Binary, Dir string // as in Plan
	Readers     int
	PushBytes   int64 // at all of them together
	Runs        int   // transfers beside them, before and during the stall each
	RunBytes    int64 // of each such transfer
	Seed        uint64
	Commit      string
	Log         io.Writer // takes a line per step; nil: nobody
}

// StallResult is what was seen.
type StallResult struct {
	Machine   report.Machine `json:"machine"`
	Readers   int            `json:"readers"`
	PushBytes int64          `json:"push_bytes"`
	// BudgetBytes is limits.memory and cache.memory of a gateway, MaxRSS the most that a gateway and its store held, from before the stall to its end.
	BudgetBytes int64            `json:"budget_bytes"`
	IdleRSS     map[string]int64 `json:"idle_rss_bytes"`
	MaxRSS      map[string]int64 `json:"max_rss_bytes"`
	// Before and During are rates of transfers beside the readers, in bits per second.
	Before []float64 `json:"before"`
	During []float64 `json:"during"`
	// Whole is how many of the readers got everything right when they read on.
	Whole int `json:"whole"`
}

const (
	stallPort  = "7102"
	stallLink  = "both delay=10ms rate=50mbit loss=0% burst=1 reorder=0% mtu=0 queue=1MB" // slow enough that the processor is not what is measured
	stallCache = "256MiB"                                                                 // memory
	stallLimit = "512MiB"                                                                 // limits.memory
)

// Stall lets many readers take nothing while their servers push, measures what that does to others and to memory, and lets them read on.
func Stall(ctx context.Context, plan StallPlan) (result *StallResult, err error) {
	dir := plan.Dir
	if dir == "" {
		if dir, err = os.MkdirTemp("", "wanpair-stall-"); err != nil {
			return nil, err
		}
		defer os.RemoveAll(dir)
	}
	if err := errors.Join(os.MkdirAll(dir, 0o755), os.Chmod(dir, 0o755)); err != nil {
		return nil, err
	}
	l, err := lab.Up(ctx, lab.Config{Link: stallLink, Seed: plan.Seed | 1})
	if err != nil {
		return nil, err
	}
	defer func() { err = errors.Join(err, l.Down()) }()
	p, err := pair.Start(ctx, pair.Config{Lab: l, Binary: plan.Binary, Dir: filepath.Join(dir, "pair"), CacheMemory: stallCache, LogLevel: "info",
		NearExtra: "[limits]\nmemory = \"" + stallLimit + "\"", FarExtra: "[limits]\nmemory = \"" + stallLimit + "\""})
	if err != nil {
		return nil, err
	}
	defer func() { err = errors.Join(err, p.Stop(context.WithoutCancel(ctx))) }()
	up, cancel := context.WithTimeout(ctx, upTimeout)
	defer cancel()
	if err := p.WaitUp(up); err != nil {
		return nil, err
	}
	s := &stall{plan: plan, lab: l, pair: p, pattern: newPool(plan.Seed)[:1<<20], result: &StallResult{
		Machine: report.ThisMachine(plan.Commit), Readers: plan.Readers, PushBytes: plan.PushBytes, BudgetBytes: 768 << 20, IdleRSS: map[string]int64{}, MaxRSS: map[string]int64{},
	}}
	return s.result, s.run(ctx)
}

// stall is one run.
type stall struct {
	plan    StallPlan
	lab     *lab.Lab
	pair    *pair.Pair
	pattern []byte // what is pushed, again and again
	result  *StallResult
}

func (s *stall) say(format string, args ...any) {
	if s.plan.Log != nil {
		_, _ = fmt.Fprintf(s.plan.Log, format+"\n", args...)
	}
}

func (s *stall) run(ctx context.Context) error {
	listener, err := s.lab.Listen(ctx, lab.Server, ":"+stallPort)
	if err != nil {
		return err
	}
	var serving sync.WaitGroup
	serving.Go(func() { s.serve(listener, &serving) })
	defer serving.Wait()
	defer listener.Close()
	watching, stop := context.WithCancel(ctx)
	var watch sync.WaitGroup
	watch.Go(func() { s.watch(watching) })
	defer watch.Wait()
	defer stop()

	for side, g := range map[string]*pair.Gateway{"near": s.pair.Near, "far": s.pair.Far} {
		u, err := look(g.PID())
		if err != nil {
			return err
		}
		s.result.IdleRSS[side] = u.RSS
	}
	if s.result.Before, err = s.beside(ctx, 0); err != nil {
		return err
	}
	s.say("before: %s", rates(s.result.Before))
	readers := make([]net.Conn, 0, s.plan.Readers)
	defer func() {
		for _, c := range readers {
			_ = c.Close()
		}
	}()
	for range s.plan.Readers {
		c, err := s.ask(ctx, s.plan.PushBytes/int64(s.plan.Readers), 0)
		if err != nil {
			return fmt.Errorf("reader %d: %w", len(readers), err)
		}
		readers = append(readers, c)
	}
	if err := s.quiet(ctx); err != nil {
		return err
	}
	s.say("%d readers stand still, gateways hold %s", len(readers), s.holds())
	if s.result.During, err = s.beside(ctx, 1000); err != nil {
		return err
	}
	s.say("during: %s, gateways hold at most %s", rates(s.result.During), s.holds())
	return s.readOn(ctx, readers)
}

// serve answers requests: how many bytes, and of what: 0 is the pattern, anything else the seed of noise.
func (s *stall) serve(l *net.TCPListener, group *sync.WaitGroup) {
	for {
		c, err := l.AcceptTCP()
		if err != nil {
			return
		}
		group.Go(func() {
			defer c.Close()
			var b [16]byte
			if _, err := io.ReadFull(c, b[:]); err != nil {
				return
			}
			_, _ = io.CopyN(c, s.source(binary.BigEndian.Uint64(b[8:])), int64(binary.BigEndian.Uint64(b[:]))) // the reader compares
		})
	}
}

// source is an endless stream.
func (s *stall) source(seed uint64) io.Reader {
	if seed == 0 {
		return &circle{data: s.pattern}
	}
	var key [32]byte
	binary.BigEndian.PutUint64(key[:], seed)
	return rand.NewChaCha8(key)
}

// circle reads data again and again.
type circle struct {
	data []byte
	at   int
}

func (c *circle) Read(p []byte) (int, error) {
	n := copy(p, c.data[c.at:])
	c.at = (c.at + n) % len(c.data)
	return n, nil
}

// ask connects and asks for bytes.
func (s *stall) ask(ctx context.Context, size int64, seed uint64) (net.Conn, error) {
	c, err := s.lab.Dial(ctx, lab.Client, "tcp", net.JoinHostPort(lab.ServerIP4, stallPort))
	if err != nil {
		return nil, err
	}
	b := binary.BigEndian.AppendUint64(nil, uint64(size))
	if _, err := c.Write(binary.BigEndian.AppendUint64(b, seed)); err != nil {
		return nil, errors.Join(err, c.Close())
	}
	return c, nil
}

// take reads a whole answer and compares.
func (s *stall) take(c net.Conn, size int64, seed uint64) error {
	source := s.source(seed)
	got, want := make([]byte, 64<<10), make([]byte, 64<<10)
	for left := size; ; {
		if err := c.SetReadDeadline(time.Now().Add(2 * time.Minute)); err != nil {
			return err
		}
		n, err := c.Read(got)
		if _, werr := io.ReadFull(source, want[:n]); werr != nil {
			return werr
		}
		if int64(n) > left || !bytes.Equal(got[:n], want[:n]) {
			return fmt.Errorf("%w behind %d of %d", errWrongByte, size-left, size)
		}
		left -= int64(n)
		switch {
		case errors.Is(err, io.EOF) && left > 0:
			return fmt.Errorf("%w: %d of %d bytes are missing", errCleanEnd, left, size)
		case errors.Is(err, io.EOF):
			return nil
		case err != nil:
			return err
		}
	}
}

// beside makes transfers of noise one after the other and returns their rates.
func (s *stall) beside(ctx context.Context, seed uint64) (rates []float64, err error) {
	for i := range s.plan.Runs {
		began := time.Now()
		seed := seed + uint64(i) + 1
		c, err := s.ask(ctx, s.plan.RunBytes, seed)
		if err != nil {
			return nil, err
		}
		err = s.take(c, s.plan.RunBytes, seed)
		_ = c.Close()
		if err != nil {
			return nil, fmt.Errorf("transfer beside the readers: %w", err)
		}
		rates = append(rates, float64(8*s.plan.RunBytes)/time.Since(began).Seconds())
	}
	return rates, nil
}

// quiet waits until the link carries next to nothing: everybody is full.
func (s *stall) quiet(ctx context.Context) error {
	last := int64(-1)
	for still := 0; still < 3; {
		pause(ctx, time.Second)
		if err := ctx.Err(); err != nil {
			return err
		}
		st, err := s.pair.Far.Peer(ctx)
		if err != nil {
			return err
		}
		if st.WANBytes.Sent-last < 100_000 {
			still++
		} else {
			still = 0
		}
		last = st.WANBytes.Sent
	}
	return nil
}

// watch notes the largest resident memory.
func (s *stall) watch(ctx context.Context) {
	for ctx.Err() == nil {
		for side, g := range map[string]*pair.Gateway{"near": s.pair.Near, "far": s.pair.Far} {
			if u, err := look(g.PID()); err == nil {
				s.result.MaxRSS[side] = max(s.result.MaxRSS[side], u.RSS)
			}
		}
		pause(ctx, 250*time.Millisecond)
	}
}

func (s *stall) holds() string {
	var parts []string
	for side, g := range map[string]*pair.Gateway{"near": s.pair.Near, "far": s.pair.Far} {
		if u, err := look(g.PID()); err == nil {
			parts = append(parts, fmt.Sprintf("%s %d MiB", side, u.RSS>>20))
		}
	}
	slices.Sort(parts)
	return strings.Join(parts, ", ")
}

// readOn lets a few at a time of the readers take everything.
func (s *stall) readOn(ctx context.Context, readers []net.Conn) error {
	const together = 8
	var mu sync.Mutex
	var faults []error
	var group sync.WaitGroup
	slots := make(chan struct{}, together)
	for i, c := range readers {
		if ctx.Err() != nil {
			break
		}
		slots <- struct{}{}
		group.Go(func() {
			defer func() { <-slots }()
			err := s.take(c, s.plan.PushBytes/int64(s.plan.Readers), 0)
			mu.Lock()
			defer mu.Unlock()
			if err != nil {
				faults = append(faults, fmt.Errorf("reader %d: %w", i, err))
				return
			}
			s.result.Whole++
		})
	}
	group.Wait()
	return errors.Join(append(faults, ctx.Err())...)
}

// median of rates, in bits per second.
func median(rates []float64) float64 {
	if len(rates) == 0 {
		return 0
	}
	return slices.Sorted(slices.Values(rates))[len(rates)/2]
}

func rates(list []float64) string {
	var parts []string
	for _, r := range list {
		parts = append(parts, fmt.Sprintf("%.1f", r/1e6))
	}
	return strings.Join(parts, ", ") + " Mbit/s"
}

// Text is the report for a terminal.
func (r *StallResult) Text() string {
	var b strings.Builder
	fmt.Fprintf(&b, "%d stalled readers, %d MB pushed at them; %s, %d cores\n", r.Readers, r.PushBytes/1e6, r.Machine.CPU, r.Machine.Cores)
	fmt.Fprintf(&b, "a transfer beside them, median of %d: %.1f Mbit/s before, %.1f during (%.0f %%)\n", len(r.Before), median(r.Before)/1e6, median(r.During)/1e6, 100*median(r.During)/max(median(r.Before), 1))
	for _, side := range []string{"near", "far"} {
		fmt.Fprintf(&b, "memory %s: %d MiB idle, %d MiB at most, budget %d MiB\n", side, r.IdleRSS[side]>>20, r.MaxRSS[side]>>20, r.BudgetBytes>>20)
	}
	fmt.Fprintf(&b, "then %d of %d read everything, right to the byte\n", r.Whole, r.Readers)
	return b.String()
}

// Write writes the result as JSON.
func (r *StallResult) Write(path string) error {
	text, err := json.MarshalIndent(r, "", "  ")
	if err != nil {
		return err
	}
	return report.WriteFile(path, append(text, '\n'))
}
