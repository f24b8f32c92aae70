package governor_test

import (
	"context"
	"crypto/ed25519"
	"crypto/rand"
	"crypto/tls"
	"crypto/x509"
	"flag"
	"fmt"
	"math/big"
	"slices"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"github.com/quic-go/quic-go"
	"go.uber.org/goleak"

	"wanpair/transport/quictun/governor"
	"wanpair/transport/quictun/simlink"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

var trace = flag.Bool("model", false, "print the model's state while a simulation runs")

// tlsPair makes the configurations of a listener and a dialler.
func tlsPair(t *testing.T) (*tls.Config, *tls.Config) {
	t.Helper()
	_, key, err := ed25519.GenerateKey(rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	tmpl := &x509.Certificate{SerialNumber: big.NewInt(1), NotAfter: time.Date(2100, 1, 1, 0, 0, 0, 0, time.UTC)}
	der, err := x509.CreateCertificate(rand.Reader, tmpl, tmpl, key.Public(), key)
	if err != nil {
		t.Fatal(err)
	}
	cert := tls.Certificate{Certificate: [][]byte{der}, PrivateKey: key}
	return &tls.Config{Certificates: []tls.Certificate{cert}, NextProtos: []string{"x"}, MinVersion: tls.VersionTLS13},
		&tls.Config{InsecureSkipVerify: true, NextProtos: []string{"x"}, MinVersion: tls.VersionTLS13}
}

func quicConfig() *quic.Config {
	return &quic.Config{
		InitialStreamReceiveWindow: 64 << 20, MaxStreamReceiveWindow: 64 << 20,
		InitialConnectionReceiveWindow: 128 << 20, MaxConnectionReceiveWindow: 128 << 20,
		InitialPacketSize: 1280, MaxIdleTimeout: time.Minute, MaxIncomingUniStreams: 65536, DisablePathMTUDiscovery: true,
	}
}

// sender is a tunnel of one or more connections that sends as fast as it may
// from side a to b.
type sender struct {
	lanes []lane
	mu    sync.Mutex
	got   int64
}

type lane struct {
	gov  *governor.Governor // nil: as quic-go has it
	conn *quic.Conn
}

func (s *sender) received() int64 {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.got
}

// sim is a link with senders on it.
type sim struct {
	t    *testing.T
	net  *simlink.Net
	wg   sync.WaitGroup
	stop chan struct{}
	end  []func()

	senders []*sender
}

func newSim(t *testing.T, l link) *sim {
	ab, ba := l.params()
	s := &sim{t: t, stop: make(chan struct{})}
	s.net = simlink.New(ab, ba, 1, &s.wg, s.stop)
	return s
}

func (s *sim) close() {
	for _, f := range s.end {
		f()
	}
	close(s.stop)
	s.wg.Wait()
}

// add starts a sender of one connection.
func (s *sim) add(governed bool) *sender {
	s.t.Helper()
	if governed {
		return s.tunnel(1, governor.NewGroup(uint64(len(s.end))*7919+1))
	}
	return s.tunnel(1, nil)
}

// tunnel starts a sender of several lanes; group nil: ungoverned.
func (s *sim) tunnel(lanes int, group *governor.Group) *sender {
	s.t.Helper()
	x := &sender{}
	for range lanes {
		s.lane(x, group)
	}
	s.senders = append(s.senders, x)
	return x
}

// lane adds a connection to x that sends.
func (s *sim) lane(x *sender, group *governor.Group) {
	s.t.Helper()
	serverTLS, clientTLS := tlsPair(s.t)
	a, b := s.net.Socket(true), s.net.Socket(false)
	ta, tb := &quic.Transport{Conn: a}, &quic.Transport{Conn: b}
	ln, err := tb.Listen(serverTLS, quicConfig())
	if err != nil {
		s.t.Fatal(err)
	}
	conf := quicConfig()
	var l lane
	if group != nil {
		l.gov = governor.New()
		conf.Tracer = l.gov.Tracer
	}
	l.conn, err = ta.Dial(context.Background(), b.LocalAddr(), clientTLS, conf)
	if err != nil {
		s.t.Fatal(err)
	}
	if group != nil {
		l.gov.Attach(l.conn, group)
	}
	x.lanes = append(x.lanes, l)
	far, err := ln.Accept(context.Background())
	if err != nil {
		s.t.Fatal(err)
	}
	var wg sync.WaitGroup
	// One stream per frame, as the tunnel does it: one long stream with more
	// than a thousand gaps would end the connection.
	wg.Go(func() {
		buf := make([]byte, 256<<10)
		for {
			str, err := l.conn.OpenUniStreamSync(l.conn.Context())
			if err != nil {
				return
			}
			if _, err := str.Write(buf); err != nil {
				return
			}
			_ = str.Close()
		}
	})
	wg.Go(func() {
		for {
			str, err := far.AcceptUniStream(far.Context())
			if err != nil {
				return
			}
			wg.Go(func() {
				buf := make([]byte, 64<<10)
				for {
					n, err := str.Read(buf)
					x.mu.Lock()
					x.got += int64(n)
					x.mu.Unlock()
					if err != nil {
						return
					}
				}
			})
		}
	})
	s.end = append(s.end, func() {
		_ = l.conn.CloseWithError(0, "")
		_ = far.CloseWithError(0, "")
		wg.Wait()
		_ = ln.Close()
		_ = ta.Close()
		_ = tb.Close()
		_ = a.Close()
		_ = b.Close()
	})
}

// trace shows the state of every sender.
func (s *sim) trace() (line string) {
	for _, x := range s.senders {
		for _, l := range x.lanes {
			st := l.conn.ConnectionStats()
			line += fmt.Sprintf("  rtt %6.1f lost %5d", float64(st.SmoothedRTT)/1e6, st.PacketsLost)
			if l.gov != nil {
				line += " " + l.gov.String()
			}
		}
	}
	return line
}

// run lets time pass and returns the goodput of each sender in Mbit/s.
func (s *sim) run(d time.Duration, senders ...*sender) []float64 {
	from := make([]int64, len(senders))
	for i, x := range senders {
		from[i] = x.received()
	}
	const step = 500 * time.Millisecond
	for t := time.Duration(0); t < d; t += step {
		time.Sleep(step)
		if *trace {
			s.t.Log(t, s.trace())
		}
	}
	out := make([]float64, len(senders))
	for i, x := range senders {
		out[i] = float64(x.received()-from[i]) * 8 / d.Seconds() / 1e6
	}
	return out
}

type link struct {
	mbit  float64
	rtt   time.Duration
	loss  float64
	burst float64
	queue float64 // in products of rate and round trip
}

func (l link) params() (ab, ba simlink.Params) {
	bdp := l.mbit * 1e6 / 8 * l.rtt.Seconds()
	ab = simlink.Params{Rate: l.mbit * 1e6, Delay: l.rtt / 2, Queue: max(int(bdp*l.queue), 15000), Loss: l.loss, Burst: l.burst}
	ba = ab
	return ab, ba
}

func (l link) String() string {
	return fmt.Sprintf("%g Mbit/s %v loss %g burst %g queue %g", l.mbit, l.rtt, l.loss, l.burst, l.queue)
}

// full runs the simulations that take long.
var full = flag.Bool("full", false, "run every simulation, some minutes")

func simulate(t *testing.T, l link, f func(s *sim)) {
	synctest.Test(t, func(t *testing.T) {
		s := newSim(t, l)
		defer s.close()
		f(s)
	})
}

const ms = time.Millisecond

// each runs a simulation with tunnels of one and of four lanes.
func each(t *testing.T, l link, long bool, f func(t *testing.T, lanes int)) {
	for _, lanes := range []int{1, 4} {
		t.Run(fmt.Sprintf("%v lanes %d", l, lanes), func(t *testing.T) {
			if long && !*full {
				t.Skip("long; run with -full")
			}
			f(t, lanes)
		})
	}
}

// TestGoodput: what one connection carries, second half of ten seconds.
func TestGoodput(t *testing.T) {
	cases := []struct {
		link
		want float64 // Mbit/s
		long bool
	}{
		{link{100, 100 * ms, 0, 0, 1}, 93, false},
		{link{100, 100 * ms, 0.001, 0, 1}, 92, true},
		{link{100, 100 * ms, 0.01, 0, 1}, 88, true},
		{link{100, 100 * ms, 0.03, 0, 1}, 80, false},
		{link{100, 100 * ms, 0.01, 4, 1}, 80, true},
		{link{100, 100 * ms, 0, 0, 0.1}, 92, true},
		{link{20, 300 * ms, 0.005, 0, 1}, 18, false},
		{link{2, 100 * ms, 0, 0, 1}, 1.8, false},
		{link{500, 20 * ms, 0.001, 0, 1}, 440, true},
	}
	for _, c := range cases {
		each(t, c.link, c.long, func(t *testing.T, lanes int) {
			simulate(t, c.link, func(s *sim) {
				x := s.tunnel(lanes, governor.NewGroup(1))
				s.run(1500*ms, x)
				full := s.run(time.Second, x)
				s.run(2500*ms, x)
				second := s.run(5*time.Second, x)
				sent, lost, dropped, _ := s.net.AtoB.Stats()
				t.Logf("%.1f Mbit/s after 1.5 s, %.1f in the second half; %d sent, %d lost, %d dropped", full[0], second[0], sent, lost, dropped)
				if second[0] < c.want {
					t.Errorf("%.1f Mbit/s in the second half, want %.1f", second[0], c.want)
				}
				if full[0] < c.want*0.75 && c.rtt < 200*ms {
					t.Errorf("%.1f Mbit/s after 1.5 s", full[0])
				}
				most := 0.01
				if c.queue < 1 {
					most = 0.035 // startup overruns so short a queue within a round trip
				}
				if repeats := float64(dropped) / float64(sent); repeats > most {
					t.Errorf("%.1f %% of the packets overran the queue", repeats*100)
				}
			})
		})
	}
}

// TestBusyMachine: packets that come late, again and again, are no queue: the
// start goes on.
func TestBusyMachine(t *testing.T) {
	l := link{100, 100 * ms, 0, 0, 1}
	for _, lanes := range []int{1, 4} {
		for _, stall := range []time.Duration{10 * ms, 25 * ms} {
			t.Run(fmt.Sprint(lanes, " lanes, ", stall), func(t *testing.T) {
				simulate(t, l, func(s *sim) {
					p, _ := l.params()
					p.Stall, p.StallEvery = stall, 3*stall
					s.net.AtoB.Set(p)
					x := s.tunnel(lanes, governor.NewGroup(1))
					s.run(2*time.Second, x)
					r := s.run(2*time.Second, x)
					t.Logf("%.1f Mbit/s after 2 s", r[0])
					if r[0] < 75 {
						t.Errorf("%.1f Mbit/s after 2 s", r[0])
					}
				})
			})
		}
	}
}

// queueDelay samples how long a packet would wait, each ms, and returns the
// percentile.
func (s *sim) queueDelay(d time.Duration, percentile float64) time.Duration {
	var waits []time.Duration
	for i := range d / time.Millisecond {
		time.Sleep(time.Millisecond)
		if *trace && i%500 == 0 {
			s.t.Log(s.trace())
		}
		waits = append(waits, s.net.AtoB.Wait())
	}
	slices.Sort(waits)
	return waits[int(float64(len(waits)-1)*percentile)]
}

// TestQueue: how long packets wait behind the bulk of one connection.
func TestQueue(t *testing.T) {
	cases := []struct {
		link
		wait time.Duration // 95th percentile
		long bool
	}{
		{link{100, 100 * ms, 0, 0, 1}, 20 * ms, false},
		{link{100, 100 * ms, 0.01, 0, 4}, 20 * ms, true},
		{link{2, 100 * ms, 0, 0, 2}, 40 * ms, false},
		{link{2, 50 * ms, 0, 0, 2}, 40 * ms, false},
		{link{20, 20 * ms, 0, 0, 4}, 10 * ms, true},
	}
	for _, c := range cases {
		each(t, c.link, c.long, func(t *testing.T, lanes int) {
			simulate(t, c.link, func(s *sim) {
				x := s.tunnel(lanes, governor.NewGroup(1))
				s.run(3*time.Second, x)
				p := s.queueDelay(12*time.Second, 0.95)
				t.Logf("95th percentile of the wait: %v", p)
				if p > c.wait {
					t.Errorf("packets wait %v, want at most %v", p, c.wait)
				}
			})
		})
	}
}

// TestChange: bandwidth that goes and comes.
func TestChange(t *testing.T) {
	l := link{50, 50 * ms, 0, 0, 1}
	simulate(t, l, func(s *sim) {
		x := s.add(true)
		s.run(3*time.Second, x)
		for _, rate := range []float64{10, 50, 5, 100} {
			p, _ := l.params()
			p.Rate = rate * 1e6
			s.net.AtoB.Set(p)
			s.run(6*time.Second, x)
			r := s.run(2*time.Second, x)
			wait := s.net.AtoB.Wait()
			t.Logf("%g Mbit/s: %.1f after 6 s, the queue waits %v", rate, r[0], wait)
			if r[0] < 0.85*rate {
				t.Errorf("%.1f of %g Mbit/s 6 s after the change", r[0], rate)
			}
			if wait > 30*ms {
				t.Errorf("the queue still waits %v", wait)
			}
		}
	})
}

// TestFair: connections of one kind share, and one that runs as quic-go has it
// is not pushed aside, nor pushes.
func TestFair(t *testing.T) {
	cases := []struct {
		governed []bool
		queue    float64
		least    float64 // share of the smallest, of an equal one
		long     bool
	}{
		{[]bool{true, true}, 1, 0.6, false},
		{[]bool{true, false}, 1, 0.5, false},
		{[]bool{true, true, true, true}, 1, 0.4, true},
		{[]bool{true, true}, 4, 0.6, true},
		{[]bool{true, false}, 4, 0.5, true},
	}
	for _, c := range cases {
		l := link{50, 50 * ms, 0, 0, c.queue}
		t.Run(fmt.Sprint(l, c.governed), func(t *testing.T) {
			if c.long && !*full {
				t.Skip("long; run with -full")
			}
			simulate(t, l, func(s *sim) {
				var senders []*sender
				for _, g := range c.governed {
					senders = append(senders, s.add(g))
					s.run(3*time.Second, senders...)
				}
				r := s.run(40*time.Second, senders...)
				t.Logf("%.1f Mbit/s", r)
				var sum float64
				for _, x := range r {
					sum += x
				}
				if least := slices.Min(r) * float64(len(r)) / sum; least < c.least {
					t.Errorf("the smallest share is %.2f of an equal one", least)
				}
			})
		})
	}
}

// TestDeadLane: what a lane has in flight that hears nothing is not held
// against the others, and a lane that comes gets its part.
func TestDeadLane(t *testing.T) {
	l := link{20, 50 * ms, 0, 0, 1}
	simulate(t, l, func(s *sim) {
		group := governor.NewGroup(1)
		x := s.tunnel(3, group)
		s.run(4*time.Second, x)
		s.net.Cut(x.lanes[0].conn.LocalAddr())
		s.run(3*time.Second, x)
		s.lane(x, group)
		s.run(time.Second, x)
		before := x.lanes[3].conn.ConnectionStats().BytesSent
		r := s.run(3*time.Second, x)
		part := float64(x.lanes[3].conn.ConnectionStats().BytesSent-before) * 8 / 3e6
		t.Logf("%.1f Mbit/s after one of three lanes died and one came, %.1f of it on that", r[0], part)
		if r[0] < 18 || part < 4 {
			t.Errorf("%.1f Mbit/s, of which %.1f on the new lane", r[0], part)
		}
	})
}

// TestShare lets one governed tunnel share a queue with a model of a kernel's
// TCP that began before it, or together with it.
func TestShare(t *testing.T) {
	for _, mbit := range []float64{20, 100} {
		for _, rtt := range []time.Duration{20 * ms, 50 * ms, 100 * ms} {
			for _, queue := range []float64{1, 4} {
				for _, lead := range []time.Duration{0, 2 * time.Second} {
					for _, bbr := range []bool{false, true} {
						c := share{link{mbit, rtt, 0, 0, queue}, bbr, lead}
						t.Run(c.String(), c.run)
					}
				}
			}
		}
	}
}

// share is one simulation of TestShare.
type share struct {
	link
	bbr  bool
	lead time.Duration // of the other
}

func (c share) String() string {
	return fmt.Sprintf("%s %gM %v queue %g lead %v", map[bool]string{false: "cubic", true: "bbr"}[c.bbr], c.mbit, c.rtt, c.queue, c.lead)
}

func (c share) run(t *testing.T) {
	if !*full && (c.mbit != 20 || c.rtt != 50*ms || c.lead == 0) {
		t.Skip("long; run with -full")
	}
	simulate(t, c.link, func(s *sim) {
		other := simlink.NewTCP(s.net, c.bbr)
		s.wg.Go(func() { other.Run(s.stop) })
		if c.lead > 0 {
			s.run(c.lead)
		}
		x := s.tunnel(1, governor.NewGroup(1))
		from := other.Delivered()
		r := s.run(60*time.Second, x)
		share := r[0] / (r[0] + float64(other.Delivered()-from)*8/60e6)
		t.Logf("share %.2f, %d dropped", share, dropped(s))
		least := 0.27
		if c.bbr && c.queue == 1 {
			least = 0.22 // losses bound both, and only one heeds them when it starts
		}
		if share < least || share > 0.7 {
			t.Errorf("share of the governed tunnel: %.2f", share)
		}
	})
}

func dropped(s *sim) int64 {
	_, _, n, _ := s.net.AtoB.Stats()
	return n
}
