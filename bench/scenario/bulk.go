package scenario

import (
	"context"
	"fmt"
	"path/filepath"
	"strconv"

	"golang.org/x/sync/errgroup"

	"wanpair/bench/corpus"
	"wanpair/bench/report"
	"wanpair/bench/server"
)

func bulkScenarios() []*Scenario {
	const text = " of a tar of Kubernetes v1.33.0, the same again, and of the next patch release, by a plain sender."
	phases := []string{cold, again, changed}
	sets := []string{"source"}
	return []*Scenario{
		{Name: "bulk-1", Title: "One bulk flow", Text: "One flow" + text, Phases: phases, Sets: sets, Alternatives: []string{"kcptun", "ssh -C"}, Prepare: prepareBulk(1)},
		{Name: "bulk-10", Title: "Ten bulk flows", Text: "Ten flows, each a part" + text, Phases: phases, Sets: sets, Alternatives: []string{"kcptun"}, Prepare: prepareBulk(10)},
		{Name: "bulk-1000", Title: "A thousand flows", Text: "A thousand flows at once, each a small part" + text, Phases: phases, Sets: sets, Prepare: prepareBulk(1000)},
	}
}

func prepareBulk(flows int) func(context.Context, Kit) (Material, error) {
	return func(ctx context.Context, kit Kit) (Material, error) {
		if kit.Bytes < int64(flows) {
			return Material{}, fmt.Errorf("%w: %d flows of less than a byte", ErrTooLong, flows)
		}
		phases := []string{cold, again, changed}
		r, err := sampleReleases(kit, kit.Bytes)
		if err != nil {
			return Material{}, err
		}
		files := map[string]string{}
		for _, phase := range []string{cold, changed} {
			files[phase] = filepath.Join(kit.Dir, phase+".tar")
			if _, _, err := packTree(r.dir[phase], "kubernetes", files[phase]); err != nil {
				return Material{}, err
			}
		}
		files[again] = files[cold]
		best, err := idealPhases(ctx, phases, files)
		return Material{Ideal: best, Open: func(ctx context.Context, stage Stage) (Play, error) {
			if stage.Column.Tool == "ssh -C" {
				return openCompressedSSH(ctx, stage, kit, files)
			}
			p := &bulkPlay{stage: stage, files: files, flows: flows}
			return p, nil
		}}, err
	}
}

// bulkPlay has one sender per phase, on a port of its own.
type bulkPlay struct {
	stage Stage
	files map[string]string
	flows int
}

func (p *bulkPlay) Close() error { return nil }

func (p *bulkPlay) Phase(ctx context.Context, phase string, m *Meter) (run report.Run, err error) {
	options := server.SocketOptions{Congestion: p.stage.Column.Congestion, BufferBytes: p.stage.Column.BufferBytes}
	sender, err := server.StartBulk(ctx, p.stage.Server, p.files[phase], options)
	if err != nil {
		return run, err
	}
	defer func() {
		if stopErr := sender.Stop(); err == nil {
			err = stopErr
		}
	}()
	var stops []func() error
	defer func() {
		if stopErr := stopAll(stops); err == nil {
			err = stopErr
		}
	}()
	address := sender.Address()
	if p.stage.Column.Tool == "kcptun" {
		k, err := server.StartKcptun(ctx, p.stage.Client, p.stage.Server, filepath.Join(p.stage.Dir, "kcptun-"+phase), address)
		if err != nil {
			return run, err
		}
		stops = append(stops, k.Stop)
		address = k.Address()
	}
	part := sender.Size() / int64(p.flows)
	if p.stage.Column.NoScaling { // it would take minutes on a fast link; rates are compared by the byte
		part = min(part, p.stage.Link.windowBytes(longest/2))
	}
	outputs := make([]server.Output, p.flows)
	run, err = m.Measure(ctx, func(ctx context.Context) (Work, error) {
		group, ctx := errgroup.WithContext(ctx)
		for i := range p.flows {
			group.Go(func() (err error) {
				outputs[i], err = sender.ReceiveFrom(ctx, p.stage.Client, address, int64(i)*part, part, options)
				return err
			})
		}
		err := group.Wait()
		return Work{Bytes: part * int64(p.flows)}, err
	})
	if err != nil {
		return run, err
	}
	for i, out := range outputs {
		want, err := sender.Hash(int64(i)*part, part)
		if err != nil {
			return run, err
		}
		if err := same("flow "+strconv.Itoa(i), out.SHA256, want); err != nil {
			return run, err
		}
	}
	return run, nil
}

// openCompressedSSH fetches the same files by ssh -C.
func openCompressedSSH(ctx context.Context, stage Stage, kit Kit, files map[string]string) (Play, error) {
	d, err := server.StartSSH(ctx, stage.Server, filepath.Join(stage.Dir, "ssh"))
	if err != nil {
		return nil, err
	}
	names, hash := map[string]string{}, map[string]string{}
	for phase, path := range files {
		names[phase] = filepath.Base(path)
		if hash[phase], _, err = corpus.HashFile(path); err != nil {
			return nil, stopAll([]func() error{d.Stop, func() error { return err }})
		}
	}
	return &fetchPlay{files: names, hash: hash, stop: []func() error{d.Stop}, fetch: func(ctx context.Context, name string) (server.Output, error) {
		return d.Cat(ctx, stage.Client, filepath.Join(kit.Dir, name), true)
	}}, nil
}
