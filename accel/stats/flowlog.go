package stats

import (
	"bufio"
	"cmp"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"log/slog"
	"os"
	"sync/atomic"
	"time"
)

// flowLogQueue is how many ended flows may wait for the disk; beyond them records are dropped and counted, for no connection waits for a log.
const flowLogQueue = 8192

// FlowRecord is one line of the flow log.
type FlowRecord struct {
	Time        time.Time     `json:"time"` // when it ended
	ID          uint64        `json:"id"`
	Source      string        `json:"source"`
	Destination string        `json:"destination"`
	Peer        string        `json:"peer"`
	Class       string        `json:"class,omitempty"`
	Outcome     Outcome       `json:"outcome"`
	Reason      *ReasonReport `json:"reason"` // null when accelerated
	LAN         Traffic       `json:"lan_bytes"`
	WAN         Traffic       `json:"wan_bytes"`
	Seconds     float64       `json:"seconds"`
}

// FlowLog writes a line of JSON per ended flow into a file, which is renamed to FILE.1 when it has grown to its size.
type FlowLog struct {
	path    string
	limit   int64
	log     *slog.Logger
	queue   chan FlowRecord
	dropped atomic.Uint64

	file   *os.File // Run's own
	writer *bufio.Writer
	size   int64
}

// NewFlowLog opens the file, so that a fault shows at the start. limitBytes is the size it is rotated at.
func NewFlowLog(path string, limitBytes int64, log *slog.Logger) (*FlowLog, error) {
	l := &FlowLog{path: path, limit: limitBytes, log: log, queue: make(chan FlowRecord, flowLogQueue)}
	if err := l.open(); err != nil {
		return nil, err
	}
	return l, nil
}

func (l *FlowLog) open() error {
	f, err := os.OpenFile(l.path, os.O_WRONLY|os.O_CREATE|os.O_APPEND, 0o640)
	if err != nil {
		return fmt.Errorf("flow log: %w", err)
	}
	info, err := f.Stat()
	if err != nil {
		return errors.Join(fmt.Errorf("flow log: %w", err), f.Close())
	}
	l.file, l.writer, l.size = f, bufio.NewWriter(f), info.Size()
	return nil
}

// outcomePassed stands in the flow log for a connection that was accepted here but went raw. It is no outcome of a carried flow: those are counted by reason.
const outcomePassed Outcome = "passed"

// Ended queues a record. An empty outcome means that the connection went raw, for its reason. It never blocks.
func (l *FlowLog) Ended(f Flow, how Outcome) {
	now := time.Now()
	how = cmp.Or(how, outcomePassed)
	select {
	case l.queue <- FlowRecord{
		Time: now, ID: f.ID, Source: f.Source, Destination: f.Destination, Peer: f.Peer, Class: f.Class, Outcome: how,
		Reason: newReasonReport(f.Reason), LAN: f.LAN, WAN: f.WAN, Seconds: seconds(now.Sub(f.Started)),
	}:
	default:
		l.dropped.Add(1)
	}
}

// Dropped returns how many records were lost because the disk did not keep up or failed.
func (l *FlowLog) Dropped() uint64 { return l.dropped.Load() }

// Run writes what is queued until ctx ends, then what is left, and closes the file. A disk that fails is reported once per failure and tried again with the
// next record: the log is the least important thing the gateway does.
func (l *FlowLog) Run(ctx context.Context) error {
	failing := false
	write := func(r FlowRecord) {
		err := l.write(r)
		if err != nil {
			l.dropped.Add(1)
			if !failing {
				l.log.Warn("flow log cannot be written", "file", l.path, "err", err)
			}
		}
		failing = err != nil
	}
	for {
		select {
		case r := <-l.queue:
			write(r)
		case <-ctx.Done():
			for {
				select {
				case r := <-l.queue:
					write(r)
				default:
					return l.close()
				}
			}
		}
	}
}

// write adds one record, rotating the file first when it is full. Lines reach the file when the queue is empty.
func (l *FlowLog) write(r FlowRecord) error {
	line, err := json.Marshal(r)
	if err != nil {
		return err
	}
	line = append(line, '\n')
	if l.file == nil {
		if err := l.open(); err != nil {
			return err
		}
	}
	if l.size > 0 && l.size+int64(len(line)) > l.limit {
		if err := l.rotate(); err != nil {
			return err
		}
	}
	n, err := l.writer.Write(line)
	l.size += int64(n)
	if err == nil && len(l.queue) == 0 {
		err = l.writer.Flush()
	}
	if err != nil { // the writer keeps its error: begin again with a new one
		err = errors.Join(err, l.file.Close())
		l.file = nil
	}
	return err
}

func (l *FlowLog) rotate() error {
	err := l.close()
	if err == nil {
		err = os.Rename(l.path, l.path+".1")
	}
	return errors.Join(err, l.open())
}

func (l *FlowLog) close() error {
	if l.file == nil {
		return nil
	}
	err := errors.Join(l.writer.Flush(), l.file.Close())
	l.file = nil
	return err
}
