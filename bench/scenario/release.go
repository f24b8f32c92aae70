package scenario

import (
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"

	"golang.org/x/sync/errgroup"

	"wanpair/bench/corpus"
	"wanpair/bench/report"
	"wanpair/bench/server"
)

// webServers is how many machines a release goes to at once.
const webServers = 14

func releaseScenarios() []*Scenario {
	const text = " to 14 web servers at once, then the next patch release. An even sample of the files of Kubernetes v1.33.0 and v1.33.1, as large as the link allows. Every file of every server is compared."
	return []*Scenario{
		{
			Name: "release-http", Title: "Source release to 14 servers: HTTP", Phases: []string{cold, changed}, Sets: []string{"source"}, Tools: []string{"nginx", "curl"},
			Text: "One tar file from nginx" + text, Prepare: prepareReleaseHTTP,
		},
		{
			Name: "release-rsync", Title: "Source release to 14 servers: rsync", Phases: []string{cold, changed}, Sets: []string{"source"}, Tools: []string{"rsync"},
			Alternatives: []string{"rsync -z"},
			Text:         "A tree from an rsync daemon" + text, Prepare: prepareReleaseRsync,
		},
		{
			Name: "release-git", Title: "Source release to 14 servers: git", Phases: []string{cold, changed}, Sets: []string{"source"}, Tools: []string{"git"},
			Text: "A repository from a git daemon, cloned, then pulled (git compresses by itself)," + text, Prepare: prepareReleaseGit,
		},
	}
}

// releases are the two versions' samples: directory, hash and bytes by phase.
type releases struct {
	dir   map[string]string
	hash  map[string]string
	bytes map[string]int64
}

// versions names the releases of the phases.
func versions() map[string]string { return map[string]string{cold: "v1.33.0", changed: "v1.33.1"} }

// sampleReleases unpacks both versions below dir/root/VERSION.
func sampleReleases(kit Kit, bytes int64) (releases, error) {
	r := releases{dir: map[string]string{}, hash: map[string]string{}, bytes: map[string]int64{}}
	for phase, version := range versions() {
		dir := filepath.Join(kit.Dir, "root", version)
		hash, n, err := sampleTree(filepath.Join(kit.Corpus, "source", version+".tar"), dir, bytes)
		if err != nil {
			return r, err
		}
		r.dir[phase], r.hash[phase], r.bytes[phase] = dir, hash, n
	}
	return r, nil
}

// everyServer runs f for each of the servers at once and adds up what they got.
func everyServer(ctx context.Context, f func(ctx context.Context, i int) (int64, error)) (Work, error) {
	group, ctx := errgroup.WithContext(ctx)
	var bytes [webServers]int64
	for i := range webServers {
		group.Go(func() (err error) {
			bytes[i], err = f(ctx, i)
			return err
		})
	}
	err := group.Wait()
	var work Work
	for _, n := range bytes {
		work.Bytes += n
	}
	return work, err
}

// phasePlay is a play made of functions.
type phasePlay struct {
	phase func(ctx context.Context, phase string, m *Meter) (report.Run, error)
	stops []func() error
}

func (p *phasePlay) Phase(ctx context.Context, phase string, m *Meter) (report.Run, error) {
	return p.phase(ctx, phase, m)
}
func (p *phasePlay) Close() error { return stopAll(p.stops) }

// packTree packs a directory as one tar file and returns its hash and bytes.
func packTree(dir, prefix, to string) (string, int64, error) {
	f, err := os.Create(to)
	if err != nil {
		return "", 0, err
	}
	if err := errors.Join(corpus.Pack(f, dir, prefix), f.Close()); err != nil {
		return "", 0, err
	}
	return corpus.HashFile(to)
}

func prepareReleaseHTTP(ctx context.Context, kit Kit) (Material, error) {
	r, err := sampleReleases(kit, kit.Bytes/webServers)
	if err != nil {
		return Material{}, err
	}
	www := filepath.Join(kit.Dir, "www")
	if err := os.Mkdir(www, 0o755); err != nil {
		return Material{}, err
	}
	hash, files := map[string]string{}, map[string]string{}
	for phase, dir := range r.dir {
		files[phase] = filepath.Join(www, phase+".tar")
		if hash[phase], _, err = packTree(dir, "kubernetes", files[phase]); err != nil {
			return Material{}, err
		}
	}
	best, err := idealPhases(ctx, []string{cold, changed}, files)
	for phase, s := range best { // the ideal sends it once
		best[phase] = Sizes{Payload: s.Payload * webServers, Wire: s.Wire}
	}
	return Material{Ideal: best, Open: func(ctx context.Context, stage Stage) (Play, error) {
		n, err := server.StartNginx(ctx, stage.Server, filepath.Join(stage.Dir, "nginx"), www)
		if err != nil {
			return nil, err
		}
		return &phasePlay{stops: []func() error{n.Stop}, phase: func(ctx context.Context, phase string, m *Meter) (report.Run, error) {
			return m.Measure(ctx, func(ctx context.Context) (Work, error) {
				return everyServer(ctx, func(ctx context.Context, i int) (int64, error) {
					out, err := server.Fetch(ctx, stage.Client, n.URL(phase+".tar"), false)
					if err == nil {
						err = same(fmt.Sprintf("server %d", i), out.SHA256, hash[phase])
					}
					return out.Bytes, err
				})
			})
		}}, nil
	}}, err
}

// compareTrees compares what each server has with what it should have.
func compareTrees(dirs func(i int) string, want string) error {
	for i := range webServers {
		got, _, err := corpus.HashTree(dirs(i), func(name string) bool { return name == ".git" })
		if err != nil {
			return err
		}
		if err := same(fmt.Sprintf("server %d", i), got, want); err != nil {
			return err
		}
	}
	return nil
}

func prepareReleaseRsync(_ context.Context, kit Kit) (Material, error) {
	r, err := sampleReleases(kit, kit.Bytes/webServers)
	return Material{Open: func(ctx context.Context, stage Stage) (Play, error) {
		daemon, err := server.StartRsync(ctx, stage.Server, filepath.Join(stage.Dir, "rsyncd"), filepath.Join(kit.Dir, "root"))
		if err != nil {
			return nil, err
		}
		var args []string
		if stage.Column.Tool == "rsync -z" {
			args = []string{"-z"}
		}
		target := func(i int) string { return filepath.Join(stage.Dir, fmt.Sprintf("server%d", i)) }
		return &phasePlay{stops: []func() error{daemon.Stop}, phase: func(ctx context.Context, phase string, m *Meter) (report.Run, error) {
			run, err := m.Measure(ctx, func(ctx context.Context) (Work, error) {
				return everyServer(ctx, func(ctx context.Context, i int) (int64, error) {
					return r.bytes[phase], daemon.Pull(ctx, stage.Client, versions()[phase], target(i), args...)
				})
			})
			if err != nil {
				return run, err
			}
			return run, compareTrees(target, r.hash[phase])
		}}, nil
	}}, err
}

func prepareReleaseGit(_ context.Context, kit Kit) (Material, error) {
	// git packs about five times, and each of the 14 gets a pack of its own.
	const packs = 5
	r, err := sampleReleases(kit, min(kit.Bytes/webServers*packs, 40<<20))
	return Material{Open: func(ctx context.Context, stage Stage) (Play, error) {
		base := filepath.Join(stage.Dir, "git")
		if err := os.Mkdir(base, 0o755); err != nil {
			return nil, err
		}
		daemon, err := server.StartGit(ctx, stage.Server, filepath.Join(stage.Dir, "daemon"), base)
		if err != nil {
			return nil, err
		}
		const repository = "source.git"
		target := func(i int) string { return filepath.Join(stage.Dir, fmt.Sprintf("server%d", i)) }
		return &phasePlay{stops: []func() error{daemon.Stop}, phase: func(ctx context.Context, phase string, m *Meter) (report.Run, error) {
			if err := daemon.Commit(ctx, repository, r.dir[phase], versions()[phase]); err != nil {
				return report.Run{}, err
			}
			run, err := m.Measure(ctx, func(ctx context.Context) (Work, error) {
				return everyServer(ctx, func(ctx context.Context, i int) (int64, error) {
					if phase == cold {
						return r.bytes[phase], daemon.Clone(ctx, stage.Client, repository, target(i))
					}
					return r.bytes[phase], daemon.Update(ctx, stage.Client, target(i))
				})
			})
			if err != nil {
				return run, err
			}
			return run, compareTrees(target, r.hash[phase])
		}}, nil
	}}, err
}
