package main

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"runtime/debug"
	"runtime/pprof"

	"github.com/dustin/go-humanize"

	"wanpair/bench/corpus"
	"wanpair/bench/rival"
	"wanpair/dedupe"
)

// codecCmd measures what the codec makes of real files: the same encoder, decoder and history that a pair of gateways runs, without the
// tunnel between them. Files go one after the other through one pair of histories, so each is measured with all before it seen.
type codecCmd struct {
	Files       []string `arg:"" optional:"" type:"existingfile" name:"file" help:"Files in the order in which they are sent."`
	Corpus      string   `type:"existingdir" placeholder:"DIR" help:"Instead of files: everything that wanbench corpus DIR made, a pair at a time, each through a cache of its own."`
	Compare     bool     `help:"Measure beside each file what else makes it small: zstd for the first, zstd --patch-from and xdelta3 with the file before it for the others."`
	Markdown    bool     `help:"Print tables for a document."`
	JSON        bool     `help:"Print one JSON array instead of the table."`
	Interleave  int      `default:"1" help:"Send each file as N flows at once, a part each, in frames of 4 to 64 KiB. With --corpus: as one flow, and again as N."`
	FrameSize   string   `default:"256KiB" help:"Raw bytes of a frame when flows are not interleaved."`
	CacheDir    string   `type:"path" help:"Keep the two histories in this directory (default: a new one, removed afterwards)."`
	CacheSize   string   `default:"4GiB" help:"Size of each side's cache on disk."`
	CacheMemory string   `default:"512MiB" help:"Memory of each side's cache."`
	Effort      int      `default:"0" help:"Least zstd level of literals: 0 fastest, 1 default, 2 better. A gateway chooses by the time its encoders have."`
	Density     int      `help:"One anchor in 2^N bytes; default as the sizes ask."`
	DropCaches  bool     `help:"Before each file reopen both caches and drop the page cache, so that history comes from disk."`
	CPUProfile  string   `name:"cpu-profile" type:"path" help:"Write a CPU profile of all files but the first (all, with one file) to this file."`
	InFlight    string   `default:"1MiB" help:"Raw bytes that are encoded before the first of them is acknowledged."`
}

// codecRow is the result of one file.
type codecRow struct {
	File        string  `json:"file"`
	RawBytes    int64   `json:"raw_bytes"`
	WireBytes   int64   `json:"wire_bytes"`
	Ratio       float64 `json:"ratio"`
	StoredBytes int64   `json:"stored_bytes"`
	EncodeRate  float64 `json:"encode_mb_per_cpu_second"`
	DecodeRate  float64 `json:"decode_mb_per_cpu_second"`
	Verified    bool    `json:"verified"`

	// Beyond what the contract names.
	Row         string  `json:"row,omitempty"`   // of the corpus
	First       bool    `json:"first,omitempty"` // no file came before it
	Flows       int     `json:"flows"`
	ManyRatio   float64 `json:"interleaved_ratio,omitempty"` // of the corpus with --interleave
	ProcessCPU  float64 `json:"process_cpu_seconds"`         // encoding, decoding, collector, disk writers of both sides, reading and comparing the file
	MemoryBytes int64   `json:"memory_bytes"`                // resident and of no file, after the file: both sides, and what this command itself needs
	DiskBytes   int64   `json:"disk_bytes"`                  // of the encoding side's cache
	DiskReads   int64   `json:"disk_reads"`                  // blocks fetched from disk by both sides
	Repaired    int64   `json:"repaired_bytes"`              // of the wire bytes: sent again, as one side had given up what the other still referred to
	Copies      int64   `json:"copies"`
	Literals    int64   `json:"literal_bytes"`      // not found in the history
	LiteralWire int64   `json:"literal_wire_bytes"` // what they became; the rest of the wire bytes is tokens and frame headers

	Others []rival.Result `json:"others,omitempty"` // by --compare
}

// over is the file's ratio as a multiple of another's of the same file: above 1 the codec's is the smaller.
func (r codecRow) over(other rival.Result) float64 {
	return float64(other.WireBytes) / float64(max(r.WireBytes, 1))
}

// codecSettings are the flags as numbers.
type codecSettings struct {
	frame, inFlight int
	effort          int
	cache           dedupe.Config
}

func (c *codecCmd) settings() (s codecSettings, err error) {
	for _, f := range []struct {
		flag, text string
		set        func(uint64)
	}{
		{"--frame-size", c.FrameSize, func(n uint64) { s.frame = int(n) }},
		{"--in-flight", c.InFlight, func(n uint64) { s.inFlight = int(n) }},
		{"--cache-size", c.CacheSize, func(n uint64) { s.cache.SizeBytes = int64(n) }},
		{"--cache-memory", c.CacheMemory, func(n uint64) { s.cache.MemoryBytes = int64(n) }},
	} {
		n, err := humanize.ParseBytes(f.text)
		if err != nil || n > 1<<50 {
			return s, fmt.Errorf("%s: %q is no size (try 256KiB or 16GiB)", f.flag, f.text)
		}
		f.set(n)
	}
	s.cache.Density, s.effort = c.Density, c.Effort
	if s.frame < 1 || s.frame > dedupe.MaxFrameBytes {
		return s, fmt.Errorf("--frame-size: %d is not between 1 and %d", s.frame, dedupe.MaxFrameBytes)
	}
	if c.Interleave < 1 || c.Interleave > 10000 {
		return s, fmt.Errorf("--interleave: %d is not between 1 and 10000", c.Interleave)
	}
	return s, nil
}

// Run measures the files and prints a row each.
func (c codecCmd) Run() (err error) {
	set, err := c.settings()
	if err != nil {
		return err
	}
	runs, missing, err := c.runs()
	if err != nil {
		return err
	}
	plan, err := dedupe.NewPlan(set.cache)
	if err != nil {
		return err
	}
	// The collector keeps the heap of both sides within their memory; the index lies outside of it.
	debug.SetMemoryLimit(2 * (set.cache.MemoryBytes - plan.IndexBytes) * 9 / 10)
	ctx, stop := interrupted()
	defer stop()
	r := &codecRunner{cmd: c, set: set}
	if c.Compare {
		var not []string
		if r.alone, not = rival.Installed(rival.Alone()); len(not) > 0 {
			missing = append(missing, not...)
		}
		if r.delta, not = rival.Installed(rival.Delta()); len(not) > 0 {
			missing = append(missing, not...)
		}
	}
	if err := r.all(ctx, runs); err != nil {
		return err
	}
	for _, what := range missing {
		fmt.Fprintln(os.Stderr, "left out:", what)
	}
	switch {
	case c.JSON:
		enc := json.NewEncoder(os.Stdout)
		enc.SetIndent("", "  ")
		return enc.Encode(r.rows)
	case c.Markdown:
		return markdownCodecRows(os.Stdout, r.rows, c.Interleave)
	}
	return printCodecRows(os.Stdout, r.rows)
}

// codecRun is some files that go through one pair of histories.
type codecRun struct {
	row   string // of the corpus
	files []string
	flows int
	again bool // the same as the run before, but for the flows: only its ratio counts
}

// runs lists what is to be measured, and what of a corpus is not there.
func (c codecCmd) runs() (runs []codecRun, missing []string, err error) {
	if (len(c.Files) == 0) == (c.Corpus == "") {
		return nil, nil, errors.New("codec: name files, or a corpus by --corpus, but not both")
	}
	if c.Corpus == "" {
		return []codecRun{{files: c.Files, flows: c.Interleave}}, nil, nil
	}
	if c.CacheDir != "" {
		return nil, nil, errors.New("codec: each pair of a corpus has a cache of its own: leave --cache-dir out")
	}
	rows, missing := corpus.Rows(c.Corpus)
	if len(rows) == 0 {
		return nil, nil, fmt.Errorf("codec: %s holds no corpus: wanbench corpus %s makes one", c.Corpus, c.Corpus)
	}
	for _, row := range rows {
		runs = append(runs, codecRun{row: row.Title, files: row.Files, flows: 1})
		if c.Interleave > 1 {
			runs = append(runs, codecRun{row: row.Title, files: row.Files, flows: c.Interleave, again: true})
		}
	}
	for i := range missing {
		missing[i] += " (not in " + c.Corpus + ")"
	}
	return runs, missing, nil
}

// codecRunner measures runs one after the other.
type codecRunner struct {
	cmd          codecCmd
	set          codecSettings
	alone, delta []rival.Program
	bar          *bar
	done         int64 // of the bar: bytes, times a weight where another program takes them
	rows         []codecRow
}

// all measures the runs.
func (r *codecRunner) all(ctx context.Context, runs []codecRun) error {
	total := int64(0)
	for _, run := range runs {
		for i, name := range run.files {
			st, err := os.Stat(name)
			if err != nil {
				return err
			}
			total += st.Size()
			for _, p := range r.others(run, i) {
				total += st.Size() * int64(p.Weight)
			}
		}
	}
	r.bar = newBar(int(total>>20) + 1)
	defer r.bar.finish()
	for i, run := range runs {
		rows, err := r.one(ctx, run, i == 0)
		if err != nil {
			return err
		}
		if run.again {
			for k := range rows {
				r.rows[len(r.rows)-len(rows)+k].ManyRatio = rows[k].Ratio
			}
		} else {
			r.rows = append(r.rows, rows...)
		}
		debug.FreeOSMemory() // the next run's memory is its own
	}
	return nil
}

// others lists the programs that a file of a run is given to. One that was there just before is given to none: zstd refuses to.
func (r *codecRunner) others(run codecRun, file int) []rival.Program {
	switch {
	case run.again, file > 0 && run.files[file] == run.files[file-1]:
		return nil
	case file == 0:
		return r.alone
	}
	return r.delta
}

// one measures one run.
func (r *codecRunner) one(ctx context.Context, run codecRun, profiled bool) (rows []codecRow, err error) {
	dir := r.cmd.CacheDir
	if dir == "" {
		if dir, err = os.MkdirTemp("", "wanbench-codec-"); err != nil {
			return nil, err
		}
		defer func() { err = errors.Join(err, os.RemoveAll(dir)) }()
	}
	b, err := openBench(dir, r.set)
	if err != nil {
		return nil, err
	}
	defer func() { err = errors.Join(err, b.close()) }()
	for i, name := range run.files {
		if r.cmd.DropCaches && i > 0 {
			if err := b.reopen(); err != nil {
				return nil, err
			}
		}
		if r.cmd.CPUProfile != "" && profiled && i == min(1, len(run.files)-1) {
			stop, err := startProfile(r.cmd.CPUProfile)
			if err != nil {
				return nil, err
			}
			defer stop()
		}
		row, err := b.measure(name, run.flows, func(n int64) error {
			r.bar.step(filepath.Base(name), int((r.done+n)>>20))
			return ctx.Err()
		})
		if err != nil {
			return nil, fmt.Errorf("%s: %w", name, err)
		}
		r.done += row.RawBytes
		row.Row, row.First, row.Flows = run.row, i == 0, run.flows
		rows = append(rows, row)
	}
	for i, name := range run.files {
		for _, p := range r.others(run, i) {
			r.bar.step(filepath.Base(name)+" by "+p.Name, int(r.done>>20))
			got, err := p.Measure(ctx, run.files[max(i-1, 0)], name)
			if err != nil {
				return nil, fmt.Errorf("%s: %w", name, err)
			}
			rows[i].Others = append(rows[i].Others, got)
			r.done += rows[i].RawBytes * int64(p.Weight)
		}
	}
	return rows, nil
}

// startProfile begins a CPU profile; stop ends it.
func startProfile(name string) (stop func(), err error) {
	f, err := os.Create(name)
	if err != nil {
		return nil, err
	}
	if err := pprof.StartCPUProfile(f); err != nil {
		return nil, errors.Join(err, f.Close())
	}
	return func() {
		pprof.StopCPUProfile()
		if err := f.Close(); err != nil {
			fmt.Fprintln(os.Stderr, err)
		}
	}, nil
}
