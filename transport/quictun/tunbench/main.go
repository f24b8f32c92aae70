// Command tunbench measures the tunnel alone: two of them, one on each side of a
// link, move incompressible bytes over flows, without codec and gateway.
//
//	tunbench -listen 10.9.0.2:4600                                  on one side
//	tunbench -dial 10.9.0.2:4600 -flows 10 -time 20s -echo          on the other
//
// It prints one JSON object. It is for people who work on the tunnel; the
// gateway's own figures come from wanbench.
package main

import (
	"bytes"
	"context"
	"crypto/ed25519"
	"encoding/json"
	"flag"
	"fmt"
	"log/slog"
	"math/rand/v2"
	"os"
	"os/signal"
	"slices"
	"sync"
	"sync/atomic"
	"syscall"
	"time"

	"wanpair/transport"
	"wanpair/transport/quictun"
)

type options struct {
	listen, dial string
	flows, lanes int
	length       time.Duration
	echo, plain  bool
	verbose      bool
}

func main() {
	var o options
	flag.StringVar(&o.listen, "listen", "0.0.0.0:4600", "UDP address")
	flag.StringVar(&o.dial, "dial", "", "the other side's address; without it: serve")
	flag.IntVar(&o.flows, "flows", 1, "bulk flows")
	flag.IntVar(&o.lanes, "lanes", 1, "connections")
	flag.DurationVar(&o.length, "time", 20*time.Second, "length of the run")
	flag.BoolVar(&o.echo, "echo", false, "measure 64-byte requests and answers beside the bulk")
	flag.BoolVar(&o.plain, "plain", false, "leave congestion control to quic-go")
	flag.BoolVar(&o.verbose, "v", false, "print the state every second")
	flag.Parse()
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt, syscall.SIGTERM)
	defer stop()
	if err := run(ctx, &o); err != nil {
		fmt.Fprintln(os.Stderr, err)
		os.Exit(1)
	}
}

// key is fixed: this program protects nothing.
func key(side byte) ed25519.PrivateKey {
	return ed25519.NewKeyFromSeed(bytes.Repeat([]byte{side}, ed25519.SeedSize))
}

func run(ctx context.Context, o *options) error {
	own, other := key(1), key(2)
	var endpoints []string
	if o.dial != "" {
		own, other = other, own
		endpoints = []string{o.dial}
	}
	log := slog.New(slog.NewTextHandler(os.Stderr, nil))
	sessions := make(chan *transport.Session, 16)
	link, err := transport.NewLink(transport.LinkConfig{
		Log: log, Hello: transport.Hello{Site: "bench"},
		OnSession: func(s *transport.Session) { sessions <- s },
	})
	if err != nil {
		return err
	}
	ep, err := quictun.Listen(quictun.Config{
		PrivateKey: own, Listen: o.listen, Lanes: o.lanes, NoGovernor: o.plain, Log: log,
		Peers: []quictun.Peer{{Name: "bench", PublicKeys: []ed25519.PublicKey{other.Public().(ed25519.PublicKey)}, Endpoints: endpoints, Link: link}},
	})
	if err != nil {
		return err
	}
	ctx, cancel := context.WithCancel(ctx)
	defer cancel()
	var wg sync.WaitGroup
	defer wg.Wait()
	wg.Go(func() { _ = link.Run(ctx) })
	wg.Go(func() { _ = ep.Run(ctx) })
	for {
		select {
		case <-ctx.Done():
			return nil
		case s := <-sessions:
			if o.dial == "" {
				wg.Go(func() { serve(ctx, s) })
				continue
			}
			err := measure(ctx, o, link, s)
			cancel()
			return err
		}
	}
}

// serve takes what comes; a flow whose open body is "echo" gets it back.
func serve(ctx context.Context, s *transport.Session) {
	for {
		f, err := s.Accept(ctx)
		if err != nil {
			return
		}
		go func() {
			if f.Answer(nil) != nil {
				return
			}
			for {
				fr, err := f.Receive()
				if err != nil {
					return
				}
				if string(f.OpenBody()) == "echo" {
					if _, err := f.Send(fr.Payload, fr.RawLen, fr.Fin); err != nil {
						return
					}
				}
				n, number := fr.RawLen, fr.Number
				f.Release(fr)
				f.Acknowledge(number)
				f.Consume(n)
			}
		}()
	}
}

// result is what is printed.
type result struct {
	Mbit       float64   `json:"mbit_per_second"`
	SecondHalf float64   `json:"second_half_mbit_per_second"`
	First1500  float64   `json:"after_1500ms_mbit_per_second"`
	PerFlow    []float64 `json:"per_flow_mbit_per_second"`
	Jain       float64   `json:"jain"`
	EchoMs     []float64 `json:"echo_ms_p50_p95_max,omitempty"`
	SentRatio  float64   `json:"wire_bytes_per_goodput_byte"`
	Loss       float64   `json:"packet_loss"`
	Resent     uint64    `json:"resent_frame_bytes"`
	RTTMs      float64   `json:"rtt_ms"`
	CPUSeconds float64   `json:"cpu_seconds_per_gb"`
}

func measure(ctx context.Context, o *options, link *transport.Link, s *transport.Session) error {
	acked := make([]atomic.Int64, o.flows)
	payload := make([]byte, transport.MaxPayload(transport.MaxRawLength))
	rand.NewChaCha8([32]byte{}).Read(payload)
	began, cpu := time.Now(), cpuSeconds()
	var flows []*transport.Flow
	for i := range o.flows {
		f, err := s.Open([]byte("bulk"))
		if err != nil {
			return err
		}
		flows = append(flows, f)
		go bulk(f, payload, &acked[i])
	}
	var echoes []float64
	var echoed sync.WaitGroup
	ectx, stop := context.WithCancel(ctx)
	defer stop()
	if o.echo {
		f, err := s.Open([]byte("echo"))
		if err != nil {
			return err
		}
		flows = append(flows, f)
		echoed.Go(func() { echoes = echo(ectx, f) })
	}
	var marks []int64
	sum := func() (n int64) {
		for i := range acked {
			n += acked[i].Load()
		}
		return n
	}
	const step = 100 * time.Millisecond
	half := make([]int64, o.flows)
	tick := time.NewTicker(step)
	defer tick.Stop()
	steps := int(o.length / step)
	for i := range steps {
		select {
		case <-ctx.Done():
			return ctx.Err()
		case <-tick.C:
		}
		marks = append(marks, sum())
		if i == steps/2 {
			for j := range half {
				half[j] = acked[j].Load()
			}
		}
		if o.verbose && i%10 == 9 {
			show(link, marks)
		}
	}
	stop()
	total := time.Since(began)
	st := link.Stats()
	r := result{Mbit: mbit(sum(), total), Loss: st.LossRatio, Resent: st.ResentBytes, RTTMs: float64(st.RTT) / 1e6}
	var squares, all float64
	for j := range half {
		m := mbit(acked[j].Load()-half[j], total-time.Duration(steps/2)*step)
		r.PerFlow = append(r.PerFlow, m)
		all += m
		squares += m * m
	}
	r.SecondHalf = all
	r.Jain = all * all / squares / float64(o.flows)
	if n := int(1500 * time.Millisecond / step); len(marks) > n+10 {
		r.First1500 = mbit(marks[n+10]-marks[n], time.Second)
	}
	r.SentRatio = float64(st.WANSent) / float64(sum())
	r.CPUSeconds = (cpuSeconds() - cpu) / float64(sum()) * 1e9
	for _, f := range flows {
		f.Abort(transport.AbortReset)
	}
	echoed.Wait()
	if n := len(echoes); n > 0 {
		slices.Sort(echoes)
		r.EchoMs = []float64{echoes[n/2], echoes[n*95/100], echoes[n-1]}
	}
	return json.NewEncoder(os.Stdout).Encode(r)
}

func bulk(f *transport.Flow, payload []byte, acked *atomic.Int64) {
	var mu sync.Mutex
	ends := make(map[uint64]int64) // frame number to raw bytes sent with it
	var lowest uint64 = 1
	f.SetOnAcked(func(next uint64) {
		mu.Lock()
		defer mu.Unlock()
		for ; lowest < next; lowest++ {
			acked.Add(ends[lowest])
			delete(ends, lowest)
		}
	})
	for {
		n, err := f.SendWindow()
		if err != nil {
			return
		}
		mu.Lock()
		ends[f.NextNumber()] = int64(n)
		mu.Unlock()
		if _, err := f.Send(payload[:n+1], n, false); err != nil {
			return
		}
	}
}

// echo sends a request every 50 ms and returns the times to the answers in ms.
func echo(ctx context.Context, f *transport.Flow) (ms []float64) {
	if _, err := f.WaitAnswer(); err != nil {
		return nil
	}
	tick := time.NewTicker(50 * time.Millisecond)
	defer tick.Stop()
	for {
		select {
		case <-ctx.Done():
			return ms
		case <-tick.C:
		}
		t := time.Now()
		if _, err := f.SendWindow(); err != nil {
			return ms
		}
		if _, err := f.Send(make([]byte, 65), 64, false); err != nil {
			return ms
		}
		fr, err := f.Receive()
		if err != nil {
			return ms
		}
		ms = append(ms, float64(time.Since(t))/1e6)
		f.Release(fr)
		f.Acknowledge(fr.Number)
		f.Consume(fr.RawLen)
	}
}

func show(link *transport.Link, marks []int64) {
	st := link.Stats()
	n := len(marks)
	fmt.Fprintf(os.Stderr, "%5.1f Mbit/s rtt %v min %v loss %.2f%% frame %d kept %d", mbit(marks[n-1]-marks[max(n-11, 0)], time.Second),
		st.RTT.Round(100*time.Microsecond), st.MinRTT.Round(100*time.Microsecond), st.LossRatio*100, st.FrameBytes, st.QueuedBytes)
	for _, l := range st.Lanes {
		fmt.Fprintf(os.Stderr, "  lane %d window %d rate %.1f", l.Lane, l.WindowBytes, float64(l.RateBytes)*8/1e6)
	}
	fmt.Fprintln(os.Stderr)
}

func mbit(n int64, d time.Duration) float64 { return float64(n) * 8 / d.Seconds() / 1e6 }

func cpuSeconds() float64 {
	var u syscall.Rusage
	if syscall.Getrusage(syscall.RUSAGE_SELF, &u) != nil {
		return 0
	}
	return float64(u.Utime.Nano()+u.Stime.Nano()) / 1e9
}
