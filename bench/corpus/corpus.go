// Package corpus builds the data the benchmark measures with: real, redundant, fetched or made by the programs that make such data in
// daily work. Nothing in it is synthetic.
//
// It promises that a file with its final name is complete (files are written beside it and renamed), so that a run that was interrupted
// goes on where it stopped, and that a tar it packs has the same bytes whenever and wherever it is packed from the same tree.
//
// Nouns: a set is a group of files made together (source, npm, pg, images; nights). A step makes one or more files of a set. A row is a few
// files of a set in the order in which they cross a link.
package corpus

import (
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strings"
)

// ErrUnknownSet is wrapped when a set is asked for that does not exist.
var ErrUnknownSet = errors.New("unknown corpus")

// Sets lists the names of the sets that are made when none is named, in that order.
func Sets() []string { return []string{"source", "npm", "pg", "images"} }

// MoreSets lists those that are made only when they are named.
func MoreSets() []string { return []string{"nights"} }

// Config says what to make. The zero value of each field means the default.
type Config struct {
	// Dir holds the sets, one directory each.
	Dir string
	// Module and ModuleVersions are a Go module and the releases packed into one tar each: five neighbouring releases of Kubernetes,
	// 86 to 96 MB each.
	Module         string
	ModuleVersions []string
	// Package and PackageVersions are an npm package and its releases: three of TypeScript, 22 to 32 MB each.
	Package         string
	PackageVersions []string
	// Scale is pgbench's (15 MB of table each), Transactions the work between two nights, Rows the length of the report.
	Scale, Transactions, Rows int
	// ImagePackages are Debian packages with photographs and drawings in them.
	ImagePackages []string
	// Progress is called before each step and at the end, with the work done and all of it, in seconds as estimated; nil is nobody.
	Progress func(step string, done, total int)
}

func (c Config) withDefaults() Config {
	if c.Module == "" {
		c.Module, c.ModuleVersions = "k8s.io/kubernetes", []string{"v1.32.0", "v1.33.0", "v1.33.1", "v1.33.2", "v1.33.3"}
	}
	if c.Package == "" {
		c.Package, c.PackageVersions = "typescript", []string{"5.4.5", "5.5.2", "5.5.3"}
	}
	if c.Scale == 0 {
		c.Scale = 15
	}
	if c.Transactions == 0 {
		c.Transactions = 20_000
	}
	if c.Rows == 0 {
		c.Rows = 200_000
	}
	if len(c.ImagePackages) == 0 {
		c.ImagePackages = []string{"gnome-backgrounds", "desktop-base"}
	}
	if c.Progress == nil {
		c.Progress = func(string, int, int) {}
	}
	return c
}

// File is one file of a corpus.
type File struct {
	Set, Name string
	Path      string
	Bytes     int64
}

// step makes files; weight is the seconds it takes on a small machine.
type step struct {
	name   string
	files  []string // final paths; the step is left out when all are there
	weight int
	make   func(ctx context.Context) error
}

// Make builds the named sets, those of [Sets] when none is named, and returns their files. Steps whose files are there already are left out.
func Make(ctx context.Context, cfg Config, sets ...string) ([]File, error) {
	cfg = cfg.withDefaults()
	if len(sets) == 0 {
		sets = Sets()
	}
	dir, err := filepath.Abs(cfg.Dir)
	if err != nil {
		return nil, err
	}
	cfg.Dir = dir
	makers := map[string]func(Config) []step{"source": sourceSteps, "npm": npmSteps, "pg": pgSteps, "images": imageSteps, "nights": nightSteps}
	var all []step
	for _, set := range sets {
		maker := makers[set]
		if maker == nil {
			return nil, fmt.Errorf("%w %q: there are %s", ErrUnknownSet, set, strings.Join(slices.Concat(Sets(), MoreSets()), ", "))
		}
		all = append(all, maker(cfg)...)
	}
	done, total := 0, 0
	for _, s := range all {
		total += s.weight
	}
	for _, s := range all {
		if !complete(s.files) {
			cfg.Progress(s.name, done, total)
			if err := os.MkdirAll(filepath.Dir(s.files[0]), 0o755); err != nil {
				return nil, err
			}
			if err := s.make(ctx); err != nil {
				return nil, fmt.Errorf("%s: %w", s.name, err)
			}
		}
		done += s.weight
	}
	cfg.Progress("done", done, total)
	return Files(dir, sets...)
}

// Files lists what is there of the named sets, those of [Sets] when none is named; a set that is not there has no files.
func Files(dir string, sets ...string) ([]File, error) {
	if len(sets) == 0 {
		sets = Sets()
	}
	var files []File
	for _, set := range sets {
		if known := slices.Concat(Sets(), MoreSets()); !slices.Contains(known, set) {
			return nil, fmt.Errorf("%w %q: there are %s", ErrUnknownSet, set, strings.Join(known, ", "))
		}
		entries, err := os.ReadDir(filepath.Join(dir, set))
		if err != nil && !errors.Is(err, os.ErrNotExist) {
			return nil, err
		}
		for _, e := range entries {
			info, err := e.Info()
			if err != nil || !info.Mode().IsRegular() || strings.HasSuffix(e.Name(), partSuffix) {
				continue // gone meanwhile, or not one of ours
			}
			files = append(files, File{Set: set, Name: e.Name(), Path: filepath.Join(dir, set, e.Name()), Bytes: info.Size()})
		}
	}
	return files, nil
}

// complete says whether all files are there and not empty.
func complete(files []string) bool {
	for _, path := range files {
		if info, err := os.Stat(path); err != nil || info.Size() == 0 {
			return false
		}
	}
	return true
}

// partSuffix marks a file that is being written.
const partSuffix = ".part"

// create writes a file under a name of its own and renames it when write has succeeded, so that a file with its final name is complete.
func create(path string, write func(f *os.File) error) error {
	f, err := os.Create(path + partSuffix)
	if err != nil {
		return err
	}
	err = write(f)
	if err = errors.Join(err, f.Close()); err != nil {
		return errors.Join(err, os.Remove(path+partSuffix))
	}
	return os.Rename(path+partSuffix, path)
}
