package scenario

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
	"time"

	"wanpair/bench/corpus"
	"wanpair/bench/report"
	"wanpair/bench/server"
)

func shareScenarios() []*Scenario {
	samba := []string{"smbd", "smbclient"}
	nfs := []string{"ganesha.nfsd", "rpcbind", "unshare", "nfs-cp"}
	const big = "One big file (a tar of Kubernetes v1.33.0), again, and the file of the next patch release."
	const small = "Fifty small source files one after the other, then again. Each costs several round trips, which nothing here saves, so about 1x is expected."
	return []*Scenario{
		{Name: "smb-big", Title: "File share: Samba, one big file", Text: big, Phases: []string{cold, again, changed}, Tools: samba, Sets: []string{"source"}, Root: true, Prepare: bigFile(openSamba)},
		{Name: "smb-small", Title: "File share: Samba, fifty small files", Text: small, Phases: []string{cold, again}, Tools: samba, Sets: []string{"source"}, Root: true, Prepare: smallFiles(openSamba)},
		{Name: "nfs-big", Title: "File share: NFSv3, one big file", Text: big, Phases: []string{cold, again, changed}, Tools: nfs, Sets: []string{"source"}, Root: true, Prepare: bigFile(openNFS)},
		{Name: "nfs-small", Title: "File share: NFSv3, fifty small files", Text: small, Phases: []string{cold, again}, Tools: nfs, Sets: []string{"source"}, Root: true, Prepare: smallFiles(openNFS)},
	}
}

// share is a file server as the scenarios use it: get copies every file of a directory of the share into a local one.
type share struct {
	get  func(ctx context.Context, names []string, folder, into string) error
	stop func() error
}

func openSamba(ctx context.Context, stage Stage, root string) (share, error) {
	s, err := server.StartSamba(ctx, stage.Server, filepath.Join(stage.Dir, "samba"), root)
	if err != nil {
		return share{}, err
	}
	return share{stop: s.Stop, get: func(ctx context.Context, _ []string, folder, into string) error {
		return s.Get(ctx, stage.Client, folder+"/*", into)
	}}, nil
}

func openNFS(ctx context.Context, stage Stage, root string) (share, error) {
	n, err := server.StartNFS(ctx, stage.Server, filepath.Join(stage.Dir, "nfs"), root)
	if err != nil {
		return share{}, err
	}
	return share{stop: n.Stop, get: func(ctx context.Context, names []string, folder, into string) error {
		for _, name := range names {
			if err := n.Get(ctx, stage.Client, folder+"/"+name, filepath.Join(into, name)); err != nil {
				return err
			}
		}
		return nil
	}}, nil
}

// folders is what a share holds: per phase a folder with files.
type folders struct {
	root   string
	folder map[string]string
	names  map[string][]string
}

// open makes a play that copies the folder of each phase and compares it.
func (f folders) open(start func(context.Context, Stage, string) (share, error)) func(ctx context.Context, stage Stage) (Play, error) {
	return func(ctx context.Context, stage Stage) (Play, error) {
		s, err := start(ctx, stage, f.root)
		if err != nil {
			return nil, err
		}
		return &phasePlay{stops: []func() error{s.stop}, phase: func(ctx context.Context, phase string, m *Meter) (report.Run, error) {
			want, bytes, err := corpus.HashTree(filepath.Join(f.root, f.folder[phase]), nil)
			if err != nil {
				return report.Run{}, err
			}
			into := filepath.Join(stage.Dir, "got-"+phase)
			if err := os.Mkdir(into, 0o755); err != nil {
				return report.Run{}, err
			}
			run, err := m.Measure(ctx, func(ctx context.Context) (Work, error) {
				return Work{Bytes: bytes}, s.get(ctx, f.names[phase], f.folder[phase], into)
			})
			if err != nil {
				return run, err
			}
			got, _, err := corpus.HashTree(into, nil)
			if err != nil {
				return run, err
			}
			return run, errors.Join(same(f.folder[phase], got, want), os.RemoveAll(into))
		}}, nil
	}
}

func bigFile(start func(context.Context, Stage, string) (share, error)) func(context.Context, Kit) (Material, error) {
	return func(ctx context.Context, kit Kit) (Material, error) {
		f := folders{
			root:   filepath.Join(kit.Dir, "share"),
			folder: map[string]string{cold: "one", again: "one", changed: "two"},
			names:  map[string][]string{cold: {"big.tar"}, again: {"big.tar"}, changed: {"big.tar"}},
		}
		files := map[string]string{}
		r, err := sampleReleases(kit, kit.Bytes)
		if err != nil {
			return Material{}, err
		}
		for _, phase := range []string{cold, changed} {
			dir := filepath.Join(f.root, f.folder[phase])
			if err := os.MkdirAll(dir, 0o755); err != nil {
				return Material{}, err
			}
			files[phase] = filepath.Join(dir, "big.tar")
			if _, _, err := packTree(r.dir[phase], "kubernetes", files[phase]); err != nil {
				return Material{}, err
			}
		}
		files[again] = files[cold]
		best, err := idealPhases(ctx, []string{cold, again, changed}, files)
		return Material{Open: f.open(start), Ideal: best}, err
	}
}

// Fifty small files, fewer where round trips alone would take too long: about four and a half each with SMB.
const (
	smallCount      = 50
	turnsPerFile    = 4.5
	smallFileBytes  = 16 << 10
	smallestTree    = 3 << 20
	smallPatience   = 25 * time.Second
	leastSmallFiles = 10
)

func smallFiles(start func(context.Context, Stage, string) (share, error)) func(context.Context, Kit) (Material, error) {
	return func(_ context.Context, kit Kit) (Material, error) {
		f := folders{root: filepath.Join(kit.Dir, "share"), folder: map[string]string{cold: "small", again: "small"}, names: map[string][]string{}}
		r, err := sampleReleases(kit, smallestTree)
		if err != nil {
			return Material{}, err
		}
		patience := min(smallPatience, max(time.Second, kit.Link.duration(kit.Bytes)*2))
		count := min(smallCount, max(leastSmallFiles, int(float64(patience)/float64(kit.Link.RTT)/turnsPerFile)))
		names, err := linkSmall(r.dir[cold], filepath.Join(f.root, "small"), count)
		f.names[cold], f.names[again] = names, names
		return Material{Open: f.open(start)}, err
	}
}

// linkSmall puts the first files of a tree that are small, but not tiny, into one folder.
func linkSmall(tree, folder string, count int) ([]string, error) {
	if err := os.MkdirAll(folder, 0o755); err != nil {
		return nil, err
	}
	type file struct {
		path string
		size int64
	}
	var files []file
	err := filepath.WalkDir(tree, func(p string, entry fs.DirEntry, err error) error {
		if err != nil || !entry.Type().IsRegular() {
			return err
		}
		info, err := entry.Info()
		if err == nil && info.Size() <= smallFileBytes && info.Size() > 0 {
			files = append(files, file{p, info.Size()})
		}
		return err
	})
	if err != nil {
		return nil, err
	}
	slices.SortStableFunc(files, func(a, b file) int { return cmp.Compare(b.size, a.size) })
	if len(files) < count {
		return nil, fmt.Errorf("only %d small files, not %d", len(files), count)
	}
	var names []string
	for i, f := range files[:count] {
		name := fmt.Sprintf("%02d-%s", i, filepath.Base(f.path))
		if err := os.Link(f.path, filepath.Join(folder, name)); err != nil {
			return nil, err
		}
		names = append(names, name)
	}
	return names, nil
}
