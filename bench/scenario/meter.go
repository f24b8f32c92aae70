package scenario

import (
	"context"
	"errors"
	"fmt"
	"time"

	"github.com/vishvananda/netlink"
	"github.com/vishvananda/netns"
	"golang.org/x/sys/unix"

	"wanpair/bench/lab"
	"wanpair/bench/link"
	"wanpair/bench/pair"
	"wanpair/bench/report"
	"wanpair/bench/server"
)

// sampleEvery is the distance of two points of a series.
const sampleEvery = 200 * time.Millisecond

// Meter measures what a function does to the lab: time, bytes on the link, throughput at the client, what the gateways use.
type Meter struct {
	lab   *lab.Lab
	pair  *pair.Pair // nil without gateways
	limit time.Duration
	nic   *nic
}

func newMeter(l *lab.Lab, p *pair.Pair, limit time.Duration) (*Meter, error) {
	n, err := openNIC(l.Namespace(lab.Client), lab.HostDevice)
	if err != nil {
		return nil, err
	}
	return &Meter{lab: l, pair: p, limit: limit, nic: n}, nil
}

// close gives back what newMeter took.
func (m *Meter) close() { m.nic.close() }

// Measure runs f and says what it took. The link's counters begin at zero. An error of f is returned as it is.
func (m *Meter) Measure(ctx context.Context, f func(ctx context.Context) (Work, error)) (report.Run, error) {
	if err := m.lab.ResetLink(ctx); err != nil {
		return report.Run{}, err
	}
	before, err := m.usage()
	if err != nil {
		return report.Run{}, err
	}
	sampling, stop := context.WithCancel(ctx)
	series := make(chan []report.Point, 1)
	began := time.Now()
	go func() { series <- m.sample(sampling, began) }()
	work, err := f(ctx)
	took := time.Since(began)
	stop()
	points := <-series
	if err != nil {
		return report.Run{}, err
	}
	stats, err := m.lab.LinkStats(ctx)
	if err != nil {
		return report.Run{}, err
	}
	after, err := m.usage()
	if err != nil {
		return report.Run{}, err
	}
	if work.Took > 0 {
		took = work.Took
	}
	run := report.Run{
		Seconds: took.Seconds(), PayloadBytes: work.Bytes, Latency: work.Latency, Series: withLag(points, work.Lag),
		Wire:       report.Wire{AtoB: int64(stats.AtoB.OfferedBytes), BtoA: int64(stats.BtoA.OfferedBytes)},
		CPUSeconds: (after.cpu - before.cpu).Seconds(), RSSBytes: after.rss,
		LateSeconds: max(stats.AtoB.LateMaxSeconds, stats.BtoA.LateMaxSeconds),
	}
	for _, l := range work.Lag {
		run.LagBytes = max(run.LagBytes, l.Bytes)
	}
	if err := stats.Check(m.limit); err != nil {
		run.Void = err.Error()
	}
	return run, nil
}

// sample reads the counters until ctx ends; what cannot be read is left out, it is a picture only.
func (m *Meter) sample(ctx context.Context, began time.Time) []report.Point {
	ticker := time.NewTicker(sampleEvery)
	defer ticker.Stop()
	var points []report.Point
	lastTime := began
	lastLAN, err := m.nic.bytes()
	if err != nil {
		return nil
	}
	var lastWire uint64
	take := func() {
		stats, err := m.lab.LinkStats(context.WithoutCancel(ctx))
		if err != nil {
			return
		}
		lan, err := m.nic.bytes()
		if err != nil {
			return
		}
		now := time.Now()
		seconds := now.Sub(lastTime).Seconds()
		if seconds <= 0 || lan < lastLAN {
			return
		}
		wire := wireBytes(stats)
		points = append(points, report.Point{
			Seconds: now.Sub(began).Seconds(), LANBits: float64(lan-lastLAN) * 8 / seconds, WireBits: float64(wire-min(wire, lastWire)) * 8 / seconds,
		})
		lastTime, lastLAN, lastWire = now, lan, wire
	}
	for {
		select {
		case <-ctx.Done():
			if time.Since(lastTime) > sampleEvery/4 { // a last short one, unless it is mostly noise
				take()
			}
			return points
		case <-ticker.C:
			take()
		}
	}
}

func wireBytes(s link.Stats) uint64 { return s.AtoB.OfferedBytes + s.BtoA.OfferedBytes }

// withLag puts each lag into the point next to it in time.
func withLag(points []report.Point, lags []server.Lag) []report.Point {
	i := 0
	for p := range points {
		for i < len(lags) && lags[i].Since.Seconds() <= points[p].Seconds {
			points[p].LagBytes = lags[i].Bytes
			i++
		}
		if p > 0 && points[p].LagBytes == 0 && i > 0 {
			points[p].LagBytes = lags[i-1].Bytes
		}
	}
	return points
}

// nic counts what goes through a device of a namespace.
type nic struct {
	ns     netns.NsHandle
	handle *netlink.Handle
	device string
}

func openNIC(namespace, device string) (*nic, error) {
	ns, err := netns.GetFromPath(link.NamedNamespaces + "/" + namespace)
	if err != nil {
		return nil, fmt.Errorf("open network namespace %s: %w", namespace, err)
	}
	handle, err := netlink.NewHandleAt(ns, unix.NETLINK_ROUTE)
	if err != nil {
		return nil, errors.Join(fmt.Errorf("netlink in %s: %w", namespace, err), ns.Close())
	}
	return &nic{ns: ns, handle: handle, device: device}, nil
}

func (n *nic) bytes() (uint64, error) {
	l, err := n.handle.LinkByName(n.device)
	if err != nil {
		return 0, err
	}
	s := l.Attrs().Statistics
	if s == nil {
		return 0, errors.New("device without counters")
	}
	return s.RxBytes + s.TxBytes, nil
}

func (n *nic) close() {
	n.handle.Close()
	_ = n.ns.Close()
}
