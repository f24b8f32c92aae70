// Package report holds what a benchmark measured and shows it: as JSON, as Markdown, as one HTML page with pictures, and against another
// report.
//
// It promises that the same results give the same text, that a page needs nothing but itself (no script, no font, no address), and that a
// comparison calls something better or worse only beyond the noise that the runs themselves show.
//
// Nouns: a row is one scenario in one phase over one link by one column; a column is one way to carry the bytes (direct TCP with cubic,
// wanpair, rsync -z); a run is one measurement of a row; a target is a figure to reach, as a ratio of two rows of one report.
package report

import (
	"encoding/json"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"time"
)

// Format is the version of the JSON; a reader refuses others.
const Format = 1

// ErrFormat is wrapped when a file is no report that this version reads.
var ErrFormat = errors.New("not a benchmark report of this version")

// Report is everything one invocation measured.
type Report struct {
	Format  int       `json:"format"`
	Started time.Time `json:"started"`
	Machine Machine   `json:"machine"`
	// Seed of the link's loss and of the load generators.
	Seed  uint64   `json:"seed"`
	Rows  []Row    `json:"rows"`
	Notes []string `json:"notes,omitempty"`
	// Codec are the groups of files that the codec alone was measured with.
	Codec [][]CodecRow `json:"codec,omitempty"`
}

// Machine says what the report was measured on, and what.
type Machine struct {
	Commit      string `json:"commit"`
	Go          string `json:"go"`
	Kernel      string `json:"kernel"`
	CPU         string `json:"cpu"`
	Cores       int    `json:"cores"`
	MemoryBytes int64  `json:"memory_bytes"`
}

// Key names a row.
type Key struct {
	Scenario string `json:"scenario"`
	Phase    string `json:"phase"` // cold, again, changed, or what the scenario calls it
	Link     string `json:"link"`
	Column   string `json:"column"`
}

// Row is one scenario, phase, link and column, with its runs.
type Row struct {
	Key
	// LinkParams are the words that set the link up.
	LinkParams string `json:"link_params"`
	// Congestion and Buffers say which TCP it was, in words; for a tunnel they are those of the last metre on each side.
	Congestion string `json:"congestion,omitempty"`
	Buffers    string `json:"buffers,omitempty"`
	// Baseline marks the columns that others are measured against: plain TCP as it comes.
	Baseline bool  `json:"baseline,omitempty"`
	Runs     []Run `json:"runs"`
	// Summary is, per metric, what the runs that count say; worked out when the report is written.
	Summary map[string]Summary `json:"summary,omitempty"`
	// Missing says why there are no runs, such as a program that is not installed.
	Missing string `json:"missing,omitempty"`
}

// Run is one measurement. Zero means not measured, except where a field says otherwise.
type Run struct {
	Seconds float64 `json:"seconds"`
	// PayloadBytes are what the application received or sent, checked byte by byte.
	PayloadBytes int64 `json:"payload_bytes"`
	// Items are the files that were moved, where that is told.
	Items int64 `json:"items,omitempty"`
	// Wire is what was offered to the link: IP packets in both directions, with all headers, retransmissions included.
	Wire Wire `json:"wire_bytes"`
	// Latency of the single operations of this run, where it has some.
	Latency *Latency `json:"latency,omitempty"`
	// CPUSeconds and RSSBytes are of both gateways together; RSS is the most each ever held.
	CPUSeconds float64 `json:"cpu_seconds,omitempty"`
	RSSBytes   int64   `json:"rss_bytes,omitempty"`
	// LagBytes is the most a replica was behind.
	LagBytes int64 `json:"lag_bytes,omitempty"`
	// Series is what happened over time.
	Series []Point `json:"series,omitempty"`
	// LateSeconds is how late the link's emulator was at worst.
	LateSeconds float64 `json:"link_late_seconds,omitempty"`
	// Void says why the run does not count; such runs are kept and left out of every median.
	Void string `json:"void,omitempty"`
	// SameAs names the phase this run was taken from: a repetition of the same bytes by something that remembers nothing.
	SameAs string `json:"same_as,omitempty"`
	// Calculated marks a run that was worked out from sizes, not carried over the link.
	Calculated bool `json:"calculated,omitempty"`
}

// Wire is bytes on the link by direction.
type Wire struct {
	AtoB int64 `json:"a2b"` // from clients to servers
	BtoA int64 `json:"b2a"`
}

// Sum is both directions.
func (w Wire) Sum() int64 { return w.AtoB + w.BtoA }

// Latency is how long operations took, in seconds.
type Latency struct {
	Count int64   `json:"count"`
	P50   float64 `json:"p50"`
	P90   float64 `json:"p90"`
	P99   float64 `json:"p99"`
	Max   float64 `json:"max"`
}

// Point is one sample of a series.
type Point struct {
	Seconds float64 `json:"t"` // since the run began
	// LANBits and WireBits are rates since the sample before, both directions, bit/s.
	LANBits  float64 `json:"lan"`
	WireBits float64 `json:"wire"`
	LagBytes int64   `json:"lag,omitempty"`
}

// Write writes the report as JSON, by way of a file of its own, so that a reader never sees half of it.
func (r *Report) Write(path string) error {
	r.Format = Format
	for i := range r.Rows {
		row := &r.Rows[i]
		row.Summary = map[string]Summary{}
		for _, m := range Metrics() {
			if s, ok := Summarize(row, m); ok {
				row.Summary[m.Name] = s
			}
		}
		if len(row.Summary) == 0 {
			row.Summary = nil
		}
	}
	data, err := json.MarshalIndent(r, "", " ")
	if err != nil {
		return err
	}
	return WriteFile(path, append(data, '\n'))
}

// WriteFile replaces a file at once.
func WriteFile(path string, data []byte) error {
	f, err := os.CreateTemp(filepath.Dir(path), filepath.Base(path)+".*")
	if err != nil {
		return err
	}
	_, err = f.Write(data)
	err = errors.Join(err, f.Chmod(0o644), f.Close())
	if err == nil {
		err = os.Rename(f.Name(), path)
	}
	if err != nil {
		return errors.Join(err, os.Remove(f.Name()))
	}
	return nil
}

// Read reads what Write wrote.
func Read(path string) (*Report, error) {
	data, err := os.ReadFile(path)
	if err != nil {
		return nil, err
	}
	var r Report
	if err := json.Unmarshal(data, &r); err != nil {
		return nil, fmt.Errorf("%s: %w: %w", path, ErrFormat, err)
	}
	if r.Format != Format {
		return nil, fmt.Errorf("%s: %w: format %d", path, ErrFormat, r.Format)
	}
	return &r, nil
}

// Row returns the row of that key, made when it is not there.
func (r *Report) Row(key Key) *Row {
	for i := range r.Rows {
		if r.Rows[i].Key == key {
			return &r.Rows[i]
		}
	}
	r.Rows = append(r.Rows, Row{Key: key})
	return &r.Rows[len(r.Rows)-1]
}

// Find returns the row of that key, or nil.
func (r *Report) Find(key Key) *Row {
	for i := range r.Rows {
		if r.Rows[i].Key == key {
			return &r.Rows[i]
		}
	}
	return nil
}
