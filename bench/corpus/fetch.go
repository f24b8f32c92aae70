package corpus

import (
	"bytes"
	"compress/gzip"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"

	"wanpair/bench/server"
)

// sourceSteps packs releases of a Go module: what a source tree looks like when it is released again.
func sourceSteps(cfg Config) []step {
	var steps []step
	for _, version := range cfg.ModuleVersions {
		file := filepath.Join(cfg.Dir, "source", version+".tar")
		steps = append(steps, step{
			name: "source " + version, files: []string{file}, weight: 12,
			make: func(ctx context.Context) error { return fetchModule(ctx, cfg.Module, version, file) },
		})
	}
	return steps
}

func fetchModule(ctx context.Context, module, version, file string) error {
	work, err := os.MkdirTemp("", "wbsource")
	if err != nil {
		return err
	}
	defer os.RemoveAll(work)
	// A module of its own, so that the checkout we may stand in does not matter.
	if err := os.WriteFile(filepath.Join(work, "go.mod"), []byte("module corpus\n"), 0o644); err != nil {
		return err
	}
	out, err := runTool(ctx, work, []string{"GOFLAGS=-mod=mod", "GOWORK=off"}, "go", "mod", "download", "-json", module+"@"+version)
	if err != nil {
		return err
	}
	var got struct{ Dir, Error string }
	if err := json.Unmarshal(out, &got); err != nil {
		return fmt.Errorf("go mod download: %w", err)
	}
	if got.Error != "" || got.Dir == "" {
		return fmt.Errorf("go mod download %s@%s: %s", module, version, got.Error)
	}
	return create(file, func(f *os.File) error { return Pack(f, got.Dir, filepath.Base(module)) })
}

// npmSteps takes releases of an npm package as their tar, not compressed.
func npmSteps(cfg Config) []step {
	var steps []step
	for _, version := range cfg.PackageVersions {
		file := filepath.Join(cfg.Dir, "npm", version+".tar")
		steps = append(steps, step{
			name: "npm " + version, files: []string{file}, weight: 4,
			make: func(ctx context.Context) error { return fetchPackage(ctx, cfg.Package+"@"+version, file) },
		})
	}
	return steps
}

func fetchPackage(ctx context.Context, spec, file string) error {
	work, err := os.MkdirTemp("", "wbnpm")
	if err != nil {
		return err
	}
	defer os.RemoveAll(work)
	if _, err := runTool(ctx, work, nil, "npm", "pack", "--silent", spec); err != nil {
		return err
	}
	packed, err := filepath.Glob(filepath.Join(work, "*.tgz"))
	if err != nil || len(packed) != 1 {
		return fmt.Errorf("npm pack %s left %d archives", spec, len(packed))
	}
	in, err := os.Open(packed[0])
	if err != nil {
		return err
	}
	defer in.Close()
	plain, err := gzip.NewReader(in)
	if err != nil {
		return err
	}
	return create(file, func(f *os.File) error {
		_, err := io.Copy(f, plain)
		return err
	})
}

// imageSteps packs pictures as they are: what cannot be made smaller on first sight.
func imageSteps(cfg Config) []step {
	file := filepath.Join(cfg.Dir, "images", "images.tar")
	return append([]step{{
		name: "images", files: []string{file}, weight: 8,
		make: func(ctx context.Context) error { return fetchImages(ctx, cfg.ImagePackages, file) },
	}}, tlsSteps(cfg)...)
}

func fetchImages(ctx context.Context, packages []string, file string) error {
	if err := server.Require("apt-get", "dpkg-deb"); err != nil {
		return err
	}
	work, err := os.MkdirTemp("", "wbimages")
	if err != nil {
		return err
	}
	defer os.RemoveAll(work)
	if err := os.Chmod(work, 0o777); err != nil { // apt fetches as a user of its own
		return err
	}
	if _, err := runTool(ctx, work, nil, "apt-get", append([]string{"download", "-q"}, packages...)...); err != nil {
		return fmt.Errorf("%w (apt-get update may help)", err)
	}
	debs, err := filepath.Glob(filepath.Join(work, "*.deb"))
	if err != nil {
		return err
	}
	tree, pics := filepath.Join(work, "tree"), filepath.Join(work, "pics")
	for _, deb := range debs {
		if _, err := runTool(ctx, work, nil, "dpkg-deb", "-x", deb, tree); err != nil {
			return err
		}
	}
	if err := os.Mkdir(pics, 0o755); err != nil {
		return err
	}
	if err := collectImages(tree, pics); err != nil {
		return err
	}
	return create(file, func(f *os.File) error { return Pack(f, pics, "pics") })
}

// collectImages links every picture below tree into pics, numbered, so that equal names do not meet.
func collectImages(tree, pics string) error {
	n := 0
	err := filepath.WalkDir(tree, func(p string, entry fs.DirEntry, err error) error {
		if err != nil || !entry.Type().IsRegular() {
			return err
		}
		switch strings.ToLower(filepath.Ext(p)) {
		case ".jpg", ".jpeg", ".png", ".webp":
			n++
			return os.Link(p, filepath.Join(pics, strconv.Itoa(10_000 + n)[1:]+"-"+filepath.Base(p)))
		}
		return nil
	})
	if err == nil && n == 0 {
		err = errors.New("the packages hold no pictures")
	}
	return err
}

// runTool runs a program in dir and returns its standard output.
func runTool(ctx context.Context, dir string, env []string, name string, args ...string) ([]byte, error) {
	path, err := server.Tool(name)
	if err != nil {
		return nil, err
	}
	cmd := exec.CommandContext(ctx, path, args...)
	cmd.Dir = dir
	cmd.Env = append(os.Environ(), env...)
	var stderr bytes.Buffer
	cmd.Stderr = &stderr
	out, err := cmd.Output()
	if err != nil {
		return nil, fmt.Errorf("%s: %w: %s", name, err, bytes.TrimSpace(append(stderr.Bytes(), out...)))
	}
	return out, nil
}
