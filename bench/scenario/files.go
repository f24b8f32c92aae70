package scenario

import (
	"context"
	"errors"
	"fmt"
	"hash/fnv"
	"io"
	"os"
	"os/exec"
	"path/filepath"

	"wanpair/bench/corpus"
	"wanpair/bench/report"
	"wanpair/bench/server"
)

// fetchPlay downloads one file per phase.
type fetchPlay struct {
	stage Stage
	files map[string]string // per phase, name of the file below root
	hash  map[string]string // of the file
	fetch func(ctx context.Context, name string) (server.Output, error)
	stop  []func() error
}

func (p *fetchPlay) Phase(ctx context.Context, phase string, m *Meter) (report.Run, error) {
	var out server.Output
	run, err := m.Measure(ctx, func(ctx context.Context) (Work, error) {
		var err error
		out, err = p.fetch(ctx, p.files[phase])
		return Work{Bytes: out.Bytes}, err
	})
	if err != nil {
		return run, err
	}
	return run, same(p.files[phase], out.SHA256, p.hash[phase])
}

func (p *fetchPlay) Close() error { return stopAll(p.stop) }

// stopAll stops what was started, the last one first.
func stopAll(stops []func() error) error {
	var faults []error
	for i := len(stops) - 1; i >= 0; i-- {
		faults = append(faults, stops[i]())
	}
	return errors.Join(faults...)
}

// cut copies the first n bytes of a file, all of it when it is shorter, and returns the hash of what it wrote.
func cut(from, to string, n int64) (string, error) {
	in, err := os.Open(from)
	if err != nil {
		return "", err
	}
	defer in.Close()
	out, err := os.Create(to)
	if err != nil {
		return "", err
	}
	_, err = io.Copy(out, io.LimitReader(in, n))
	if err = errors.Join(err, out.Close()); err != nil {
		return "", err
	}
	hash, _, err := corpus.HashFile(to)
	return hash, err
}

// sampleTree unpacks an even share of a release's files below dir, about limitBytes of them: a file is in it or not by its name, so the
// samples of two releases hold the same files. It returns their hash and bytes.
func sampleTree(tarFile, dir string, limitBytes int64) (string, int64, error) {
	info, err := os.Stat(tarFile)
	if err != nil {
		return "", 0, err
	}
	in, err := os.Open(tarFile)
	if err != nil {
		return "", 0, err
	}
	defer in.Close()
	if err := os.MkdirAll(dir, 0o755); err != nil {
		return "", 0, err
	}
	const grain = 10_000
	share := uint32(min(grain, max(1, float64(limitBytes)/float64(info.Size())*grain)))
	_, err = corpus.Unpack(in, dir, func(name string, size int64) bool {
		h := fnv.New32a()
		io.WriteString(h, name)
		return h.Sum32()%grain < share && size < limitBytes/4+1<<16 // one giant would be the whole sample
	})
	if err != nil {
		return "", 0, err
	}
	return corpus.HashTree(dir, nil)
}

// ideal is what `zstd -3 --patch-from OLD` makes of a file: the line to reach. Without an old file it is plain zstd.
func ideal(ctx context.Context, old, file string) (Sizes, error) {
	path, err := server.Tool("zstd")
	if err != nil {
		return Sizes{}, err
	}
	info, err := os.Stat(file)
	if err != nil {
		return Sizes{}, err
	}
	if old == file { // zstd refuses, and what is left to say fits into one packet
		return Sizes{Payload: info.Size(), Wire: 100}, nil
	}
	args := []string{"-3", "-q", "-c", "--long=30"}
	if old != "" {
		args = append(args, "--patch-from="+old)
	}
	out, err := server.Stream(ctx, server.Place{}, exec.CommandContext(ctx, path, append(args, file)...))
	if err != nil {
		return Sizes{}, fmt.Errorf("the ideal: %w", err)
	}
	return Sizes{Payload: info.Size(), Wire: out.Bytes}, nil
}

// idealPhases works out the ideal of files sent one after the other: each against the one before it, the first against nothing.
func idealPhases(ctx context.Context, phases []string, files map[string]string) (map[string]Sizes, error) {
	sizes := make(map[string]Sizes)
	old := ""
	for _, phase := range phases {
		s, err := ideal(ctx, old, files[phase])
		if errors.Is(err, server.ErrMissing) {
			return nil, nil // the column is left out
		}
		if err != nil {
			return nil, err
		}
		sizes[phase] = s
		old = files[phase]
	}
	return sizes, nil
}

// inside joins names below a directory.
func inside(dir string, names map[string]string) map[string]string {
	paths := make(map[string]string)
	for key, name := range names {
		paths[key] = filepath.Join(dir, name)
	}
	return paths
}
