package grid

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"time"

	"wanpair/bench/report"
)

// Format is the version of the JSON.
const Format = 1

// ErrOtherGrid is wrapped when a state file belongs to other programs.
var ErrOtherGrid = errors.New("state file of another grid")

// Report is everything one invocation measured.
type Report struct {
	Format  int            `json:"format"`
	Started time.Time      `json:"started"`
	Machine report.Machine `json:"machine"`
	// Gateway is what the gateway's binary says it is.
	Gateway string   `json:"gateway"`
	Notes   []string `json:"notes"`
	Results []Result `json:"results"`
}

// Plan says what to measure.
type Plan struct {
	Points []Point
	// Binary is the gateway's, and Gateway what it says it is.
	Binary, Gateway string
	Machine         report.Machine
	Seed            uint64
	// Tries is how often a point is measured at most while the link is not exact; 0 is 3.
	Tries int
	// StallShare is the share of its time that the link may have stood still for a run to count; latencies do not count when a packet was
	// more than 5 ms late.
	StallShare float64
	// State is the file by which an interrupted grid goes on; "" keeps none.
	State string
	// Keep is a directory for the gateways' configurations and logs of every point; "" removes them.
	Keep string
	// Progress is told what is done now, and how much of the whole, in estimated seconds. Done is told every result. Both may be nil.
	Progress func(what string, done, total int)
	Done     func(Result)
}

// Run measures the points that the state file does not have, and returns all results.
func Run(ctx context.Context, plan Plan) (*Report, error) {
	rep, err := open(plan)
	if err != nil {
		return nil, err
	}
	done, total := 0, 0
	for _, p := range plan.Points {
		total += p.estimate()
	}
	for i, p := range plan.Points {
		if plan.Progress != nil {
			plan.Progress(p.String(), done, total)
		}
		done += p.estimate()
		if slices.ContainsFunc(rep.Results, func(r Result) bool { return r.Point == p }) {
			continue
		}
		r, err := measured(ctx, plan, p, i)
		if err != nil {
			return rep, fmt.Errorf("%v: %w", p, err)
		}
		rep.Results = append(rep.Results, r)
		if plan.Done != nil {
			plan.Done(r)
		}
		if err := rep.save(plan.State); err != nil {
			return rep, err
		}
	}
	if plan.Progress != nil {
		plan.Progress("done", total, total)
	}
	if plan.State == "" {
		return rep, nil
	}
	if err := os.Remove(plan.State); !errors.Is(err, fs.ErrNotExist) {
		return rep, err
	}
	return rep, nil
}

// measured measures a point until the link was exact, or as often as the plan allows.
func measured(ctx context.Context, plan Plan, p Point, number int) (Result, error) {
	tries := plan.Tries
	if tries == 0 {
		tries = 3
	}
	for try := 1; ; try++ {
		r, err := once(ctx, plan, p, fmt.Sprintf("%03d-%d", number, try), plan.Seed+uint64(try-1))
		r.Tries = try
		if err != nil || r.Void == "" || try >= tries {
			return r, err
		}
	}
}

// once builds a stage, measures and takes it down.
func once(ctx context.Context, plan Plan, p Point, name string, seed uint64) (r Result, err error) {
	dir := ""
	if plan.Keep != "" {
		dir = filepath.Join(plan.Keep, name)
		err = os.MkdirAll(dir, 0o755)
	} else {
		dir, err = os.MkdirTemp("", "wanbench-grid-")
	}
	if err != nil {
		return r, err
	}
	defer func() { err = errors.Join(err, tidy(dir, plan.Keep != "")) }()
	s, err := build(ctx, plan, p, dir, seed)
	if err != nil {
		if ctx.Err() == nil && gatewayFault(err) {
			return Result{Point: p, Failure: err.Error()}, nil
		}
		return r, err
	}
	r, err = s.measure(ctx)
	if closeErr := s.close(); closeErr != nil {
		r.Failure = strings.TrimSpace(r.Failure + "\n" + closeErr.Error())
	}
	return r, err
}

// gatewayFault says whether building failed because of the gateways, which is a result, not an end.
func gatewayFault(err error) bool { return strings.Contains(err.Error(), "pair: ") }

// tidy removes a stage's directory, or what is large in it.
func tidy(dir string, keep bool) error {
	if !keep {
		return os.RemoveAll(dir)
	}
	caches, err := filepath.Glob(filepath.Join(dir, "pair", "*", "cache"))
	for _, cache := range caches {
		err = errors.Join(err, os.RemoveAll(cache))
	}
	return err
}

// open reads the state file, or begins anew.
func open(plan Plan) (*Report, error) {
	fresh := &Report{
		Format: Format, Started: time.Now().UTC().Truncate(time.Second), Machine: plan.Machine, Gateway: plan.Gateway,
		Notes: append([]string{"goodput is what the client received and compared; the second half of the run stands beside the mean, for slow start hides in short ones"}, tcpDefaults()...),
	}
	if plan.State == "" {
		return fresh, nil
	}
	data, err := os.ReadFile(plan.State)
	if errors.Is(err, fs.ErrNotExist) {
		return fresh, nil
	}
	if err != nil {
		return nil, err
	}
	old := &Report{}
	if err := json.Unmarshal(data, old); err != nil {
		return nil, fmt.Errorf("%s: %w: %w", plan.State, ErrOtherGrid, err)
	}
	if old.Format != Format || old.Gateway != plan.Gateway {
		return nil, fmt.Errorf("%s: %w: it is of %s; remove it to begin anew", plan.State, ErrOtherGrid, old.Gateway)
	}
	return old, nil
}

// tcpDefaults describes the machine's TCP for readers: what the direct columns stand on.
func tcpDefaults() []string {
	value := func(name string) string {
		b, err := os.ReadFile("/proc/sys/net/ipv4/" + name)
		if err != nil {
			return "unknown"
		}
		return strings.Join(strings.Fields(string(b)), " ")
	}
	return []string{
		fmt.Sprintf("default TCP buffers of this machine: receive %s, send %s bytes (least, first, most)", value("tcp_rmem"), value("tcp_wmem")),
		fmt.Sprintf("the gateways' own TCP connections use the machine's default congestion control, %s; the server's use what the result says", value("tcp_congestion_control")),
	}
}

func (r *Report) save(path string) error {
	if path == "" {
		return nil
	}
	return r.Write(path)
}

// Write writes the report as JSON.
func (r *Report) Write(path string) error {
	data, err := json.MarshalIndent(r, "", " ")
	if err != nil {
		return err
	}
	return report.WriteFile(path, append(data, '\n'))
}
