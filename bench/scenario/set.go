package scenario

import (
	"context"
	"errors"
	"fmt"
	"net/netip"
	"os"
	"path/filepath"
	"strings"
	"time"

	"wanpair/bench/lab"
	"wanpair/bench/pair"
	"wanpair/bench/report"
	"wanpair/bench/server"
)

// upPatience is how long two gateways may take to find each other.
const upPatience = 30 * time.Second

// set is a lab with its TCP set up as a column wants it, and with its gateways if it has some.
type set struct {
	lab            *lab.Lab
	pair           *pair.Pair
	meter          *Meter
	client, server server.Place
	carriedBefore  int64
}

func buildSet(ctx context.Context, plan Plan, l Link, c Column, dir string, seed uint64) (_ *set, err error) {
	s := &set{}
	defer func() {
		if err != nil {
			err = errors.Join(err, s.close())
		}
	}()
	allow(c.Congestion) // again: another benchmark that has ended may have taken it back
	if s.lab, err = lab.Up(ctx, lab.Config{Link: c.words(l), Seed: seed}); err != nil {
		return nil, err
	}
	s.client = server.Place{Namespace: s.lab.Namespace(lab.Client), Addr: netip.MustParseAddr(lab.ClientIP4)}
	s.server = server.Place{Namespace: s.lab.Namespace(lab.Server), Addr: netip.MustParseAddr(lab.ServerIP4)}
	for node, place := range map[lab.Node]server.Place{lab.Client: s.client, lab.Server: s.server} {
		if err := s.lab.SetTCP(node, c.Congestion, c.BufferBytes); err != nil {
			return nil, err
		}
		if c.NoScaling {
			if err := place.Do(func() error { return writeSysctl("net/ipv4/tcp_window_scaling", "0") }); err != nil {
				return nil, err
			}
		}
	}
	if c.Gateway {
		level := "info"
		if plan.Logs != "" { // somebody looks for a fault
			level = "debug"
		}
		s.pair, err = pair.Start(ctx, pair.Config{Lab: s.lab, Binary: plan.Binary, Dir: filepath.Join(dir, "pair"), LogLevel: level})
		if err != nil {
			return nil, err
		}
		up, cancel := context.WithTimeout(ctx, upPatience)
		defer cancel()
		if err := s.pair.WaitUp(up); err != nil {
			return nil, err
		}
		if err := s.settle(ctx); err != nil {
			return nil, err
		}
	}
	s.meter, err = newMeter(s.lab, s.pair, plan.Late)
	return s, err
}

// settle waits until a new tunnel has found out what its path carries: a few full packets on each lane, once in its life, which is no part of
// what a transfer costs.
func (s *set) settle(ctx context.Context) error {
	const (
		every   = 500 * time.Millisecond
		quiet   = 3000 // bytes in that time; keep-alives and echoes are less
		longest = 8 * time.Second
	)
	deadline := time.Now().Add(longest)
	for last := int64(-1); time.Now().Before(deadline); {
		stats, err := s.lab.LinkStats(ctx)
		if err != nil {
			return err
		}
		now := int64(wireBytes(stats))
		if last >= 0 && now-last < quiet {
			return nil
		}
		last = now
		select {
		case <-ctx.Done():
			return ctx.Err()
		case <-time.After(every):
		}
	}
	return nil // a slow machine; what follows is measured all the same
}

func writeSysctl(name, value string) error {
	f, err := os.OpenFile("/proc/sys/"+name, os.O_WRONLY, 0)
	if err != nil {
		return err
	}
	_, err = f.WriteString(value)
	return errors.Join(err, f.Close())
}

// carried says why a phase does not count although it went well: because it went past the gateways. "" is all well.
func (s *set) carried(ctx context.Context, run report.Run) (string, error) {
	if s.pair == nil {
		return "", nil
	}
	peer, err := s.pair.Near.Peer(ctx)
	if err != nil {
		return "", fmt.Errorf("the gateways' stats: %w", err)
	}
	total := peer.LANBytes.Sent + peer.LANBytes.Received
	through := total - s.carriedBefore
	s.carriedBefore = total
	// Protocols with deltas of their own send less than the payload, so what crossed the link is the measure: without gateways it is at
	// least what went through them, with them hardly ever more.
	const overhead = 1 << 20
	if wire := run.Wire.Sum(); wire > 2*through+overhead || run.PayloadBytes > 0 && through == 0 {
		return fmt.Sprintf("the gateways carried %s, the link %s: it went past them", report.Bytes(float64(through)), report.Bytes(float64(wire))), nil
	}
	return "", nil
}

func (s *set) close() error {
	var faults []error
	if s.meter != nil {
		s.meter.close()
	}
	if s.pair != nil {
		ctx, cancel := context.WithTimeout(context.Background(), upPatience)
		defer cancel()
		faults = append(faults, s.pair.Stop(ctx))
	}
	if s.lab != nil {
		faults = append(faults, s.lab.Down())
	}
	return errors.Join(faults...)
}

// saveLogs copies the gateways' logs of a play that went wrong.
func (s *set) saveLogs(dir, name string) error {
	if s.pair == nil || dir == "" {
		return nil
	}
	if err := os.MkdirAll(dir, 0o755); err != nil {
		return err
	}
	var faults []error
	for _, g := range []*pair.Gateway{s.pair.Near, s.pair.Far} {
		data, err := os.ReadFile(g.LogPath())
		if err == nil {
			err = os.WriteFile(filepath.Join(dir, name+"."+g.Name+".log"), data, 0o644)
		}
		faults = append(faults, err)
	}
	return errors.Join(faults...)
}

func isRoot() bool { return os.Geteuid() == 0 && !lab.Entered() }

// oneLine shortens an error for a table.
func oneLine(err error) string {
	text := strings.Join(strings.Fields(err.Error()), " ")
	const most = 300
	if len(text) > most {
		text = strings.ToValidUTF8(text[:most], "") + "…"
	}
	return text
}
