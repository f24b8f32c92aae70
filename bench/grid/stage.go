package grid

import (
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"sync"
	"time"

	"wanpair/bench/lab"
	"wanpair/bench/link"
	"wanpair/bench/pair"
	"wanpair/bench/scenario"
)

// upPatience is how long two gateways may take to find each other.
const upPatience = 30 * time.Second

// stage is the lab of one point with its gateways and its source.
type stage struct {
	point  Point
	column Column
	lab    *lab.Lab
	pair   *pair.Pair // nil without gateways
	source *source
	dir    string
	used   string // congestion control of the source

	stallShare float64 // see Plan
}

// bypass makes the gateways pass what goes to bypassPort.
const bypass = "[[class]]\nname = \"bypass\"\nports = [7002]\naction = \"pass\"\n"

// build makes the stage; on an error nothing is left but the directory.
func build(ctx context.Context, plan Plan, p Point, dir string, seed uint64) (_ *stage, err error) {
	s := &stage{point: p, source: newSource(), dir: dir, stallShare: plan.StallShare}
	defer func() {
		if err != nil {
			err = errors.Join(err, s.close())
		}
	}()
	if s.column, err = FindColumn(p.Column); err != nil {
		return nil, err
	}
	if s.lab, err = lab.Up(ctx, lab.Config{Link: p.LinkWords(), Seed: seed}); err != nil {
		return nil, err
	}
	buffer := s.column.BufferBytes
	if p.Kind == Fairness {
		buffer = bigBuffer // the kernel's flow is to be held back by nothing else
	}
	for _, node := range []lab.Node{lab.Client, lab.Server} {
		if err := s.lab.SetTCP(node, "", buffer); err != nil {
			return nil, err
		}
	}
	if s.used, err = s.source.listen(ctx, s.lab, port, s.column.Congestion); err != nil {
		return nil, err
	}
	if p.Kind == Fairness {
		used, err := s.source.listen(ctx, s.lab, bypassPort, p.Beside)
		if err != nil {
			return nil, err
		}
		if used != p.Beside {
			return nil, fmt.Errorf("congestion control %s cannot be set", p.Beside)
		}
	}
	if !s.column.Gateway {
		return s, nil
	}
	s.pair, err = pair.Start(ctx, pair.Config{
		Lab: s.lab, Binary: plan.Binary, Dir: filepath.Join(dir, "pair"), LogLevel: "info", Tunnel: s.column.Tunnel, NearExtra: bypass, FarExtra: bypass,
	})
	if err != nil {
		return nil, err
	}
	up, cancel := context.WithTimeout(ctx, upPatience)
	defer cancel()
	return s, s.pair.WaitUp(up)
}

// close takes everything down.
func (s *stage) close() error {
	var faults []error
	s.source.close()
	if s.pair != nil {
		ctx, cancel := context.WithTimeout(context.Background(), upPatience)
		defer cancel()
		faults = append(faults, s.pair.Stop(ctx))
	}
	if s.lab != nil {
		faults = append(faults, s.lab.Down())
	}
	return errors.Join(faults...)
}

// cpu is what both gateways have used so far, and held at most; zeros without gateways.
func (s *stage) cpu() (sum time.Duration, rssBytes int64, err error) {
	if s.pair == nil {
		return 0, 0, nil
	}
	for _, g := range []*pair.Gateway{s.pair.Near, s.pair.Far} {
		pid := g.PID()
		if pid == 0 {
			return 0, 0, fmt.Errorf("the %s gateway does not run any more; its log ends:\n%s", g.Name, tail(g.LogPath()))
		}
		cpu, rss, err := scenario.TreeUsage(pid)
		if err != nil {
			return 0, 0, err
		}
		sum += cpu
		rssBytes += rss
	}
	return sum, rssBytes, nil
}

// carried checks that the flows went through the gateways, and not past them.
func (s *stage) carried(ctx context.Context, bytes int64) error {
	if s.pair == nil {
		return nil
	}
	peer, err := s.pair.Near.Peer(ctx)
	if err != nil {
		return fmt.Errorf("the gateways' stats: %w", err)
	}
	if through := peer.LANBytes.Sent + peer.LANBytes.Received; through < bytes/2 {
		return fmt.Errorf("%d bytes arrived, of which only %d went through the gateways", bytes, through)
	}
	return nil
}

// tail is the end of a log.
func tail(path string) string {
	b, err := os.ReadFile(path)
	if err != nil {
		return err.Error()
	}
	const most = 2000
	return string(b[max(0, len(b)-most):])
}

// Intervals of sampling: of the flows' counts, and of the link's queue, which needs a question to another process.
const (
	sampleEvery = 20 * time.Millisecond
	queueEvery  = 5 // samples
)

// watch counts what flows receive, from its start until stop.
type watch struct {
	began time.Time
	flows []*flow
	stage *stage
	end   context.CancelFunc
	work  sync.WaitGroup
	taken []sample // after stop
}

func (s *stage) watch(ctx context.Context, began time.Time, flows []*flow) *watch {
	ctx, end := context.WithCancel(ctx)
	w := &watch{began: began, flows: flows, stage: s, end: end}
	w.work.Go(func() { w.run(ctx) })
	return w
}

func (w *watch) run(ctx context.Context) {
	ticker := time.NewTicker(sampleEvery)
	defer ticker.Stop()
	for n := 0; ; n++ {
		w.take(ctx, n%queueEvery == 0)
		select {
		case <-ctx.Done():
			w.take(ctx, false)
			return
		case <-ticker.C:
		}
	}
}

func (w *watch) take(ctx context.Context, queue bool) {
	one := sample{queued: -1, flows: make([]int64, len(w.flows))}
	if queue {
		if stats, err := w.stage.lab.LinkStats(ctx); err == nil { // else a sample less
			one.queued = stats.BtoA.QueuedBytes
		}
	}
	one.at = time.Since(w.began)
	for i, f := range w.flows {
		one.flows[i] = f.bytes.Load()
		one.total += one.flows[i]
	}
	w.taken = append(w.taken, one)
}

// stop ends the counting and returns the samples.
func (w *watch) stop() []sample {
	w.end()
	w.work.Wait()
	return w.taken
}

// queue is the mean of what waited in the queue between two times, in bytes.
func queue(samples []sample, from, to time.Duration) float64 {
	var sum, n float64
	for _, s := range samples {
		if s.queued >= 0 && s.at >= from && s.at <= to {
			sum += float64(s.queued)
			n++
		}
	}
	if n == 0 {
		return 0
	}
	return sum / n
}

// moment is the link's counts at a time.
type moment struct {
	at time.Duration
	link.Stats
}

func (s *stage) moment(ctx context.Context, began time.Time) (moment, error) {
	stats, err := s.lab.LinkStats(ctx)
	return moment{at: time.Since(began), Stats: stats}, err
}

// wait sleeps until a time after began, or until the context ends or one of the flows does.
func wait(ctx context.Context, began time.Time, at time.Duration, flows []*flow) error {
	timer := time.NewTimer(time.Until(began.Add(at)))
	defer timer.Stop()
	ticker := time.NewTicker(sampleEvery * queueEvery)
	defer ticker.Stop()
	for {
		select {
		case <-ctx.Done():
			return ctx.Err()
		case <-timer.C:
			return nil
		case <-ticker.C:
			for _, f := range flows {
				select {
				case <-f.done:
					return f.err
				default:
				}
			}
		}
	}
}
