package grid

import (
	"context"
	"errors"
	"fmt"
	"math/rand/v2"
	"time"
)

// idleTime is how long requests are sent over the idle link, settleTime how long a bulk flow runs before it counts as one.
func idleTime(rtt time.Duration) time.Duration { return max(4*time.Second, 30*rtt) }

func settleTime(rtt time.Duration) time.Duration { return max(3*time.Second, 20*rtt) }

// Of the requests beside bulk flows: how long one may take, and how long is waited between two at most.
const (
	askPatience = 30 * time.Second
	askPause    = 60 * time.Millisecond
)

// cutPatience is how long after a repair is waited for the flows to go on.
const cutPatience = 90 * time.Second

// measure makes the measurement of the stage's point. What the flows or gateways did wrong is in the result; the error is about the
// machinery.
func (s *stage) measure(ctx context.Context) (Result, error) {
	r := Result{Point: s.point, Congestion: s.used}
	if err := s.lab.ResetLink(ctx); err != nil {
		return r, err
	}
	cpu, _, err := s.cpu()
	if err != nil {
		return r, err
	}
	lost, err := s.drops()
	if err != nil {
		return r, err
	}
	var carried int64
	switch s.point.Kind {
	case Bulk:
		carried, err = s.bulk(ctx, &r)
	case Latency:
		carried, err = s.latency(ctx, &r)
	case Cut:
		carried, err = s.cut(ctx, &r)
	case Fairness:
		carried, err = s.fairness(ctx, &r)
	}
	if ctx.Err() != nil {
		return r, ctx.Err()
	}
	if err == nil {
		err = s.carried(ctx, carried)
	}
	after, rss, cpuErr := s.cpu()
	if err = errors.Join(err, cpuErr); err != nil {
		r.Failure = err.Error()
	}
	if now, err := s.drops(); err == nil { // else a gateway is gone, which is said already
		r.Drops = now.sub(lost)
	}
	if carried > 0 && s.pair != nil {
		const gb = 1e9
		r.CPUSecondsPerGB, r.RSSBytes = (after-cpu).Seconds()/(float64(carried)/gb), rss
	}
	stats, err := s.lab.LinkStats(ctx)
	if err != nil {
		return r, err
	}
	r.LossDrops, r.QueueDrops = stats.BtoA.LossDrops, stats.BtoA.QueueDrops
	r.QueueMaxMillis = s.queueMillis(float64(stats.BtoA.MaxQueuedBytes))
	r.LateMillis = max(stats.AtoB.LateMaxSeconds, stats.BtoA.LateMaxSeconds) * 1e3
	if s.point.Kind == Latency {
		err = stats.Check(latenessOfLatency)
	} else {
		err = stats.CheckStalls(s.stallShare)
	}
	if err != nil {
		r.Void = err.Error()
	}
	return r, nil
}

// latenessOfLatency is how late the link's worst packet may have been for latencies to count.
const latenessOfLatency = 5 * time.Millisecond

func (s *stage) queueMillis(bytes float64) float64 { return bytes * 8 / (s.point.RateMbit * 1e6) * 1e3 }

// start connects flows with streams of numbers from first on. began is the time just before.
func (s *stage) start(ctx context.Context, n int, port int, first uint64) (flows []*flow, began time.Time, err error) {
	began = time.Now()
	for i := range n {
		f, err := newFlow(ctx, s.lab, port, first+uint64(i))
		if err != nil {
			return nil, began, errors.Join(fmt.Errorf("connect: %w", err), stopAll(flows))
		}
		flows = append(flows, f)
	}
	return flows, began, nil
}

func stopAll(flows []*flow) error {
	var faults []error
	for _, f := range flows {
		faults = append(faults, f.stop())
	}
	return errors.Join(faults...)
}

// bulk lets flows run; it returns how many bytes arrived.
func (s *stage) bulk(ctx context.Context, r *Result) (int64, error) {
	flows, began, err := s.start(ctx, s.point.Flows, port, 1)
	if err != nil {
		return 0, err
	}
	w := s.watch(ctx, began, flows)
	run := s.point.run()
	err = wait(ctx, began, run/2, flows)
	half, halfErr := s.moment(ctx, began)
	if err == nil {
		err = wait(ctx, began, run, flows)
	}
	end, endErr := s.moment(ctx, began)
	samples := w.stop()
	s.goodput(r, samples)
	arrived := received(samples, end.at, total) - received(samples, half.at, total)
	if err == nil && finish(ctx, flows, finishPatience) {
		// All that was sent has arrived, so the counts are those of the same bytes; else what is under way blurs them.
		arrived, half = float64(bytesOf(flows)), moment{}
		end, endErr = s.moment(ctx, began)
	}
	s.wire(r, arrived, half, end)
	return bytesOf(flows), errors.Join(err, stopAll(flows), halfErr, endErr)
}

// finishPatience is how long after the end of a run is waited for what was sent before.
const finishPatience = 8 * time.Second

// goodput fills in what bulk flows did.
func (s *stage) goodput(r *Result, samples []sample) {
	run := s.point.run()
	r.MeanBits, r.HalfBits = rate(samples, 0, run, total), secondHalf(samples, run, total)
	for i := range s.point.Flows {
		r.FlowBits = append(r.FlowBits, secondHalf(samples, run, ofFlow(i)))
	}
	if s.point.Flows > 1 {
		r.Jain = jain(r.FlowBits)
	} else {
		r.FlowBits = nil
	}
	r.ColdSeconds = coldTime(samples, run).Seconds()
	if r.ColdSeconds < 0 {
		r.ColdSeconds = -1
	}
	r.GapSeconds = longestGap(samples, run/2, run).Seconds()
	r.QueueMillis = s.queueMillis(queue(samples, run/2, run))
	r.Series = series(samples, run, total)
}

// wire compares what entered the link between two moments with what arrived at the client of it.
func (s *stage) wire(r *Result, arrived float64, from, to moment) {
	packets := float64(to.BtoA.OfferedPackets - from.BtoA.OfferedPackets)
	bytes := float64(to.BtoA.OfferedBytes - from.BtoA.OfferedBytes)
	headers := tcpHeaders
	if s.column.Gateway {
		headers = tunnelHeaders
	}
	if arrived > 0 {
		r.BeyondShare, r.ResentShare = bytes/arrived-1, resentShare(packets, bytes, arrived, headers)
	}
}

// latency sends small requests, first alone, then beside bulk flows.
func (s *stage) latency(ctx context.Context, r *Result) (int64, error) {
	p, err := newProbe(ctx, s.lab)
	if err != nil {
		return 0, err
	}
	defer p.close()
	if _, err := p.ask(askPatience); err != nil { // the far side's connect is part of the first answer
		return 0, err
	}
	idle, err := p.askFor(ctx, idleTime(s.point.rtt()))
	r.Idle = timesOf(idle)
	if err != nil {
		return 0, err
	}
	flows, began, err := s.start(ctx, s.point.Flows, port, 1)
	if err != nil {
		return 0, err
	}
	w := s.watch(ctx, began, flows)
	settle := settleTime(s.point.rtt())
	err = wait(ctx, began, settle, flows)
	var busy []time.Duration
	if err == nil {
		busy, err = p.askFor(ctx, s.point.run())
	}
	r.Busy = timesOf(busy)
	samples := w.stop()
	end := samples[len(samples)-1].at
	r.MeanBits, r.HalfBits = rate(samples, 0, end, total), rate(samples, settle, end, total)
	r.QueueMillis = s.queueMillis(queue(samples, settle, end))
	r.Series = series(samples, end, total)
	return samples[len(samples)-1].total, errors.Join(err, stopAll(flows))
}

// askFor sends requests one after the other for a time, at moments that do not depend on the flows beside.
func (p *probe) askFor(ctx context.Context, d time.Duration) (took []time.Duration, err error) {
	for end := time.Now().Add(d); time.Now().Before(end); {
		one, err := p.ask(askPatience)
		if err != nil {
			return took, err
		}
		took = append(took, one)
		if err := wait(ctx, time.Now(), rand.N(askPause), nil); err != nil {
			return took, err
		}
	}
	return took, nil
}

// cut takes the link away under a bulk flow, a request under way and a silent connection, and repairs it.
func (s *stage) cut(ctx context.Context, r *Result) (int64, error) {
	var probes [2]*probe
	for i := range probes {
		p, err := newProbe(ctx, s.lab)
		if err != nil {
			return 0, err
		}
		defer p.close()
		if _, err := p.ask(askPatience); err != nil {
			return 0, err
		}
		probes[i] = p
	}
	flows, began, err := s.start(ctx, s.point.Flows, port, 1)
	if err != nil {
		return 0, err
	}
	w := s.watch(ctx, began, flows)
	err = s.cutAndRepair(ctx, r, began, flows, probes[0], probes[1])
	samples := w.stop()
	r.Series = series(samples, samples[len(samples)-1].at, total)
	return samples[len(samples)-1].total, errors.Join(err, stopAll(flows))
}

func (s *stage) cutAndRepair(ctx context.Context, r *Result, began time.Time, flows []*flow, held, silent *probe) error {
	run, away := s.point.run(), time.Duration(s.point.CutSeconds*float64(time.Second))
	if err := wait(ctx, began, run, flows); err != nil {
		return err
	}
	if err := s.lab.SetLink(ctx, "both", "down"); err != nil {
		return err
	}
	if err := wait(ctx, time.Now(), away/2, flows); err != nil {
		return fmt.Errorf("during the cut: %w", err)
	}
	answered := make(chan error, 1)
	var answeredAt time.Time
	go func() {
		_, err := held.ask(away/2 + cutPatience)
		answeredAt = time.Now()
		answered <- err
	}()
	var repaired time.Time
	err := wait(ctx, time.Now(), away/2, flows)
	if err == nil {
		repaired, err = s.repair(ctx, r, flows, silent)
	} else {
		err = fmt.Errorf("during the cut: %w", err)
		held.close() // ends the question
	}
	heldErr := <-answered
	if heldErr == nil {
		r.HeldSeconds = max(0, answeredAt.Sub(repaired).Seconds())
	}
	if err != nil {
		return err
	}
	if heldErr != nil {
		return fmt.Errorf("asked during the cut: %w", heldErr)
	}
	end := time.Now()
	before := bytesOf(flows)
	err = wait(ctx, end, run, flows)
	r.HalfBits = float64(bytesOf(flows)-before) * 8 / time.Since(end).Seconds()
	return err
}

func bytesOf(flows []*flow) (sum int64) {
	for _, f := range flows {
		sum += f.bytes.Load()
	}
	return sum
}

// repair brings the link back and waits for the bulk flows and for an answer on the silent connection.
// It returns when the link was back.
func (s *stage) repair(ctx context.Context, r *Result, flows []*flow, silent *probe) (repaired time.Time, err error) {
	before := bytesOf(flows)
	if err := s.lab.SetLink(ctx, "both", "up"); err != nil {
		return time.Now(), err
	}
	repaired = time.Now()
	asked := make(chan error, 1)
	var took time.Duration
	go func() {
		var err error
		took, err = silent.ask(cutPatience)
		asked <- err
	}()
	for bytesOf(flows) == before && time.Since(repaired) < cutPatience {
		if err := wait(ctx, time.Now(), sampleEvery, flows); err != nil {
			return repaired, errors.Join(fmt.Errorf("%v after the repair: %w", time.Since(repaired).Round(time.Millisecond), err), <-asked)
		}
	}
	r.ResumeSeconds = time.Since(repaired).Seconds()
	err = <-asked
	r.SilentSeconds = took.Seconds()
	if err != nil {
		return repaired, fmt.Errorf("asked after the cut: %w", err)
	}
	if bytesOf(flows) == before {
		return repaired, fmt.Errorf("no bulk flow went on within %v of the repair", cutPatience)
	}
	return repaired, nil
}

// fairness lets one flow of the column and one of the kernel's run side by side.
func (s *stage) fairness(ctx context.Context, r *Result) (int64, error) {
	ours, began, err := s.start(ctx, s.point.Flows, port, 1)
	if err != nil {
		return 0, err
	}
	const besideStream = 1 << 32
	theirs, _, err := s.start(ctx, 1, bypassPort, besideStream)
	if err != nil {
		return 0, errors.Join(err, stopAll(ours))
	}
	both := append(append([]*flow(nil), ours...), theirs...)
	w := s.watch(ctx, began, both)
	err = wait(ctx, began, s.point.run(), both)
	samples := w.stop()
	err = errors.Join(err, stopAll(both))
	beside := ofFlow(len(ours))
	us := func(one sample) int64 { return one.total - beside(one) }
	run := s.point.run()
	r.MeanBits, r.HalfBits, r.BesideBits = rate(samples, 0, run, us), secondHalf(samples, run, us), rate(samples, 0, run, beside)
	if sum := r.MeanBits + r.BesideBits; sum > 0 {
		r.Share = r.MeanBits / sum
	}
	r.QueueMillis = s.queueMillis(queue(samples, run/2, run))
	r.Series, r.BesideSeries = series(samples, run, us), series(samples, run, beside)
	return us(samples[len(samples)-1]), err
}
