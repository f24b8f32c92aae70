package main

import (
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"text/tabwriter"
	"time"

	"wanpair/bench/capture"
	"wanpair/bench/report"
	"wanpair/dedupe"
)

// estimateCmd says what wanpair would have saved on the user's own files or traffic, without a second box: it runs them through the same
// encoder and decoder, on this machine. Files count as sent one after the other; a capture's bytes in the order and pieces of the capture.
type estimateCmd struct {
	Files     []string `arg:"" optional:"" type:"existingpath" name:"file" help:"Files and directories, in the order in which they would be sent."`
	Pcap      []string `type:"existingfile" placeholder:"FILE" help:"Packet captures (pcap, pcapng), in order of time, taken at the WAN side of the LAN; the snapshot length must be whole packets."`
	JSON      string   `name:"json" placeholder:"FILE" help:"Write the figures as JSON."`
	CacheSize string   `default:"16GiB" help:"Size of the cache on disk, as a gateway would have it."`
	Memory    string   `default:"1GiB" help:"Memory of the cache."`
	Top       int      `default:"30" help:"Rows to print; the rest is summed up. The JSON has all."`
}

// estimateRow is one file, or one port of a capture.
type estimateRow struct {
	Name      string  `json:"name"`
	Flows     int64   `json:"flows"`
	RawBytes  int64   `json:"raw_bytes"`
	WireBytes int64   `json:"wire_bytes"`
	Ratio     float64 `json:"ratio"`
}

// estimate is everything that was found.
type estimate struct {
	Rows  []estimateRow `json:"rows"`
	Total estimateRow   `json:"total"`
	Notes []string      `json:"notes,omitempty"`
}

// Run estimates and prints.
func (c estimateCmd) Run() (err error) {
	if (len(c.Files) == 0) == (len(c.Pcap) == 0) {
		return errors.New("estimate: name files, or captures by --pcap, but not both")
	}
	set, err := (&codecCmd{FrameSize: "256KiB", InFlight: "1MiB", CacheSize: c.CacheSize, CacheMemory: c.Memory, Interleave: 1}).settings()
	if err != nil {
		return err
	}
	dir, err := os.MkdirTemp("", "wanbench-estimate-")
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, os.RemoveAll(dir)) }()
	b, err := openBench(dir, set)
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, b.close()) }()
	e := &estimator{bench: b, rows: map[string]*estimateRow{}}
	if len(c.Pcap) > 0 {
		err = e.captures(c.Pcap)
	} else {
		err = e.files(c.Files)
	}
	if err != nil {
		return err
	}
	result := e.result()
	if c.JSON != "" {
		data, err := json.MarshalIndent(result, "", "  ")
		if err == nil {
			err = report.WriteFile(c.JSON, append(data, '\n'))
		}
		if err != nil {
			return err
		}
	}
	return result.print(os.Stdout, c.Top)
}

// print writes a table, the rows that move most first.
func (r estimate) print(w io.Writer, top int) error {
	rows := r.Rows
	if top > 0 && len(rows) > top {
		rest := estimateRow{Name: fmt.Sprintf("%d more", len(rows)-top)}
		for _, row := range rows[top:] {
			rest.Flows += row.Flows
			rest.RawBytes += row.RawBytes
			rest.WireBytes += row.WireBytes
		}
		rows = append(slices.Clone(rows[:top]), rest)
	}
	t := tabwriter.NewWriter(w, 0, 0, 2, ' ', tabwriter.AlignRight)
	fmt.Fprintln(t, "flows\traw\ton the wire\tsaved\tratio\t")
	for _, row := range append(slices.Clone(rows), r.Total) {
		saved := 100 * (1 - float64(row.WireBytes)/float64(max(row.RawBytes, 1)))
		fmt.Fprintf(t, "%d\t%s\t%s\t%.1f %%\t%s\t  %s\n", row.Flows, report.Bytes(float64(row.RawBytes)), report.Bytes(float64(row.WireBytes)), saved,
			report.Times(float64(row.RawBytes)/float64(max(row.WireBytes, 1))), row.Name)
	}
	if err := t.Flush(); err != nil {
		return err
	}
	for _, note := range r.Notes {
		if _, err := fmt.Fprintln(w, note); err != nil {
			return err
		}
	}
	return nil
}

// estimator sends bytes through one pair of histories and counts.
type estimator struct {
	bench   *codecBench
	rows    map[string]*estimateRow
	notes   []string
	wire    []byte
	out     []byte
	pending []*pendingFlow // capture: flows with bytes that wait for a frame
	waiting int            // their bytes
}

// row returns the one of that name.
func (e *estimator) row(name string) *estimateRow {
	if e.rows[name] == nil {
		e.rows[name] = &estimateRow{Name: name}
	}
	return e.rows[name]
}

func (e *estimator) result() estimate {
	r := estimate{Total: estimateRow{Name: "all"}, Notes: e.notes}
	for _, row := range e.rows {
		row.Ratio = float64(row.RawBytes) / float64(max(row.WireBytes, 1))
		r.Rows = append(r.Rows, *row)
		r.Total.Flows += row.Flows
		r.Total.RawBytes += row.RawBytes
		r.Total.WireBytes += row.WireBytes
	}
	r.Total.Ratio = float64(r.Total.RawBytes) / float64(max(r.Total.WireBytes, 1))
	slices.SortFunc(r.Rows, func(a, b estimateRow) int {
		if a.RawBytes != b.RawBytes {
			return int(min(max(b.RawBytes-a.RawBytes, -1), 1))
		}
		return slices.Compare([]byte(a.Name), []byte(b.Name))
	})
	return r
}

// openFlow makes a flow.
func (e *estimator) openFlow() *benchFlow {
	e.bench.flow++
	return &benchFlow{enc: e.bench.near.NewEncoder(e.bench.flow), dec: e.bench.far.NewDecoder(e.bench.flow)}
}

// send encodes and decodes one frame, and acknowledges it at once: the link's round trip is not part of an estimate.
func (e *estimator) send(flow *benchFlow, row *estimateRow, data []byte, end bool) (err error) {
	if e.wire, err = flow.enc.Encode(e.wire[:0], data, flow.next, end); err != nil {
		return fmt.Errorf("encode: %w", err)
	}
	if e.out, _, err = flow.dec.Decode(e.out[:0], e.wire, flow.next, len(data)); err != nil {
		return fmt.Errorf("decode: %w", err)
	}
	flow.next++
	flow.enc.Acked(flow.next)
	row.RawBytes += int64(len(data))
	row.WireBytes += int64(len(e.wire))
	e.bench.throttle()
	return e.bench.pump()
}

func closeFlow(flow *benchFlow) {
	flow.enc.Close(true)
	flow.dec.Close()
}

// files sends every regular file, those of directories in the order of their names.
func (e *estimator) files(paths []string) error {
	var names []string
	var total int64
	for _, path := range paths {
		err := filepath.WalkDir(path, func(p string, entry fs.DirEntry, err error) error {
			if err != nil {
				return err
			}
			info, err := os.Stat(p) // follows the link that a user may name
			if err != nil || !info.Mode().IsRegular() {
				return nil // a dangling link, a socket: nothing to send
			}
			names, total = append(names, p), total+info.Size()
			return nil
		})
		if err != nil {
			return err
		}
	}
	bar := newBar(int(total>>20) + 1)
	defer bar.finish()
	var done int64
	buffer := make([]byte, dedupe.MaxFrameBytes)
	for _, name := range names {
		bar.step(filepath.Base(name), int(done>>20))
		n, err := e.file(name, buffer)
		if err != nil {
			return fmt.Errorf("%s: %w", name, err)
		}
		done += n
	}
	return nil
}

func (e *estimator) file(name string, buffer []byte) (int64, error) {
	f, err := os.Open(name)
	if err != nil {
		return 0, err
	}
	defer f.Close()
	row, flow := e.row(name), e.openFlow()
	defer closeFlow(flow)
	row.Flows++
	var total int64
	for {
		n, err := io.ReadFull(f, buffer)
		total += int64(n)
		end := errors.Is(err, io.EOF) || errors.Is(err, io.ErrUnexpectedEOF)
		if err != nil && !end {
			return total, err
		}
		if err := e.send(flow, row, buffer[:n], end); err != nil {
			return total, err
		}
		if end {
			return total, nil
		}
	}
}

// pendingFlow is one stream of a capture.
type pendingFlow struct {
	flow   *benchFlow
	row    *estimateRow
	data   []byte
	since  time.Duration // capture time of the first byte in data
	queued bool
}

const (
	// flushAfter is how long a gateway would at most gather bytes while more come: it flushes when the source pauses.
	flushAfter = 20 * time.Millisecond
	// mostWaiting bounds what all flows gather together.
	mostWaiting = 64 << 20
)

// captures sends what is in capture files.
func (e *estimator) captures(paths []string) error {
	var total int64
	for _, path := range paths {
		info, err := os.Stat(path)
		if err != nil {
			return err
		}
		total += info.Size()
	}
	bar := newBar(int(total>>20) + 1)
	defer bar.finish()
	var sum capture.Summary
	var done int64
	for _, path := range paths {
		f, err := os.Open(path)
		if err != nil {
			return err
		}
		in := &countingReader{r: f, progress: func(n int64) { bar.step(filepath.Base(path), int((done+n)>>20)) }}
		s, err := capture.Read(in, capture.Limits{}, e)
		if err = errors.Join(err, f.Close()); err != nil {
			return fmt.Errorf("%s: %w", path, err)
		}
		if s.Damaged != nil {
			e.notes = append(e.notes, fmt.Sprintf("%s: read up to where it is damaged: %v", path, s.Damaged))
		}
		done += in.n
		sum.Packets += s.Packets
		sum.OtherPackets += s.OtherPackets
		sum.MissingBytes += s.MissingBytes
		sum.RepeatBytes += s.RepeatBytes
	}
	e.notes = append(e.notes, fmt.Sprintf("%d packets, %d of them no TCP; %s retransmitted; ratios are of TCP's contents, headers on both sides left out",
		sum.Packets, sum.OtherPackets, report.Bytes(float64(sum.RepeatBytes))))
	if sum.MissingBytes > 0 {
		e.notes = append(e.notes, fmt.Sprintf("%s are missing in the capture and not counted (tcpdump -s 0 -B 65536 helps)", report.Bytes(float64(sum.MissingBytes))))
	}
	return nil
}

// Bytes gathers until a frame is full or the source has paused.
func (e *estimator) Bytes(s *capture.Stream, at time.Duration, b []byte) error {
	p, ok := s.Data.(*pendingFlow)
	if !ok {
		p = &pendingFlow{flow: e.openFlow(), row: e.row("port " + strconv.Itoa(int(s.ServerPort)))}
		p.row.Flows++
		s.Data = p
	}
	if len(p.data) > 0 && at-p.since > flushAfter {
		if err := e.flush(p); err != nil {
			return err
		}
	}
	for len(b) > 0 {
		if len(p.data) == 0 {
			p.since = at
		}
		n := min(len(b), dedupe.MaxFrameBytes-len(p.data))
		p.data, b = append(p.data, b[:n]...), b[n:]
		e.waiting += n
		if !p.queued {
			p.queued = true
			e.pending = append(e.pending, p)
		}
		if len(p.data) == dedupe.MaxFrameBytes {
			if err := e.flush(p); err != nil {
				return err
			}
		}
	}
	return e.flushOld(at)
}

// flushOld sends what has waited long enough: the other side of a conversation must not come first.
func (e *estimator) flushOld(at time.Duration) error {
	for len(e.pending) > 0 && (at-e.pending[0].since > flushAfter || e.waiting > mostWaiting) {
		p := e.pending[0]
		e.pending = e.pending[1:]
		p.queued = false
		if err := e.flush(p); err != nil {
			return err
		}
	}
	return nil
}

func (e *estimator) flush(p *pendingFlow) error {
	if len(p.data) == 0 {
		return nil
	}
	e.waiting -= len(p.data)
	err := e.send(p.flow, p.row, p.data, false)
	p.data = p.data[:0]
	if cap(p.data) > keepBytes {
		p.data = nil // thousands of flows that were busy once
	}
	return err
}

// keepBytes is how much buffer a flow keeps while it has nothing to send.
const keepBytes = 16 << 10

// Gap ends a frame: what comes next does not follow.
func (e *estimator) Gap(s *capture.Stream, _ int64) error {
	if p, ok := s.Data.(*pendingFlow); ok {
		return e.flush(p)
	}
	return nil
}

// End sends the rest and closes the flow.
func (e *estimator) End(s *capture.Stream) error {
	p, ok := s.Data.(*pendingFlow)
	if !ok {
		return nil
	}
	s.Data = nil
	e.waiting -= len(p.data)
	defer closeFlow(p.flow)
	data := p.data
	p.data = nil
	return e.send(p.flow, p.row, data, true)
}

// countingReader tells how far a file was read.
type countingReader struct {
	r        io.Reader
	n        int64
	progress func(int64)
}

func (c *countingReader) Read(b []byte) (int, error) {
	n, err := c.r.Read(b)
	c.n += int64(n)
	c.progress(c.n)
	return n, err
}
