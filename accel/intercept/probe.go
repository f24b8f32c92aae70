package intercept

import (
	"context"
	"errors"
	"fmt"
	"math/rand/v2"
	"net/netip"
	"strings"
	"sync"
	"time"

	"wanpair/accel/edge"
)

// ErrSwallowed says that a diverted connection did not reach the listener: something on this host drops it, so every connection
// that was diverted would hang.
var ErrSwallowed = errors.New("diverted connections do not arrive")

// ErrProbeImpossible says that no probe could be made, which says nothing about diverted connections.
var ErrProbeImpossible = errors.New("the path of diverted connections cannot be probed")

// The probe's addresses are from the blocks for documentation (RFC 5737, RFC 3849): they are nobody's.
var probeAddrs = map[family]struct{ client, target netip.AddrPort }{
	v4: {netip.MustParseAddrPort("192.0.2.1:0"), netip.MustParseAddrPort("198.51.100.1:9")},
	v6: {netip.MustParseAddrPort("[2001:db8:0:1::1]:0"), netip.MustParseAddrPort("[2001:db8:0:2::1]:9")},
}

// Times of a probe. Everything happens on this host, in microseconds when it is idle; the second try covers a packet lost while the
// interface comes up. Both together stay below the alive timeout, for nothing is refreshed meanwhile.
const (
	probeTry  = 250 * time.Millisecond
	probeWait = 800 * time.Millisecond
	// firstProbeWait is for a second probe at the start, where nothing has to be refreshed: a machine that is too busy to take the first one in
	// time is no black hole, and a gateway that does not start for it would be one less.
	firstProbeWait = 5 * time.Second
)

// probeDesk is where the accept loops hand in the connections that probes made.
type probeDesk struct {
	mu      sync.Mutex
	waiting map[netip.AddrPort]chan struct{} // by the probe's client address
}

func (d *probeDesk) expect(client netip.AddrPort) <-chan struct{} {
	d.mu.Lock()
	defer d.mu.Unlock()
	if d.waiting == nil {
		d.waiting = map[netip.AddrPort]chan struct{}{}
	}
	c := make(chan struct{})
	d.waiting[client] = c
	return c
}

func (d *probeDesk) forget(client netip.AddrPort) {
	d.mu.Lock()
	defer d.mu.Unlock()
	delete(d.waiting, client)
}

// probeArrived takes a connection that a probe made, and says whether it was one.
func (i *Interceptor) probeArrived(e *edge.Conn) bool {
	if e.LocalAddr() != probeAddrs[family(e.LocalAddr().Addr().Is4())].target {
		return false
	}
	i.probing.mu.Lock()
	if c := i.probing.waiting[e.RemoteAddr()]; c != nil {
		close(c)
		delete(i.probing.waiting, e.RemoteAddr())
	}
	i.probing.mu.Unlock()
	e.Reset() // also one that comes too late: nobody's traffic goes to these addresses
	return true
}

// firstProbe is the probe before the first connection is diverted; the accept loops do not run yet. When ctx ends it says so, and nothing about
// what was swallowed.
func (i *Interceptor) firstProbe(ctx context.Context) error {
	if i.fixed.Probe == ProbeOff || len(i.listeners) == 0 {
		return nil
	}
	ctx, cancel := context.WithCancel(ctx)
	var wg sync.WaitGroup
	for _, l := range i.listeners {
		wg.Go(func() { i.acceptLoop(ctx, l) })
	}
	err := i.probe(ctx, probeWait)
	if errors.Is(err, ErrSwallowed) {
		i.fixed.Log.Warn("the probe did not arrive in time, trying again with more patience", "err", err)
		err = i.probe(ctx, firstProbeWait)
	}
	cancel()
	wg.Wait()
	return i.judgeProbe(err)
}

// judgeProbe decides whether what a probe returned is a reason not to divert.
func (i *Interceptor) judgeProbe(err error) error {
	if errors.Is(err, ErrProbeImpossible) && i.fixed.Probe != ProbeRequired {
		i.fixed.Log.Warn("diverting without a probe; only the watchdog will notice a firewall that swallows connections", "err", err)
		return nil
	}
	return err
}

// probe makes one connection per family from a temporary interface, through the rules, to the listener, and waits for it to arrive. It must
// not be called with mu held: the accept loops hand the connections in. The end of ctx ends it within probeTry, with ctx's error: connections
// that nobody takes any more are not swallowed.
func (i *Interceptor) probe(ctx context.Context, wait time.Duration) error {
	tries := map[family]*try{}
	var behind []netip.Addr
	for _, f := range i.families {
		a := probeAddrs[f]
		t := &try{client: netip.AddrPortFrom(a.client.Addr(), uint16(20000+rand.IntN(40000))), target: a.target, seq: rand.Uint32()}
		tries[f] = t
		behind = append(behind, t.client.Addr())
	}
	dev, err := openTUN(behind)
	if err != nil {
		return fmt.Errorf("intercept: %w: %w", ErrProbeImpossible, err)
	}
	defer dev.close()
	if err := i.letProbeIn(probeDevice); err != nil {
		return err
	}
	defer func() {
		if err := i.letProbeIn(""); err != nil {
			i.fixed.Log.Warn("cannot end a probe", "err", err)
		}
	}()
	for _, t := range tries {
		t.arrived = i.probing.expect(t.client)
		defer i.probing.forget(t.client)
	}
	until := time.Now().Add(wait)
	if err := knock(ctx, dev, tries, until); err != nil {
		return fmt.Errorf("intercept: %w: %w", ErrProbeImpossible, err)
	}
	var lost []string
	for _, f := range i.families {
		// The last step, from the accept queue to here, gets its own time: the answers may have come late.
		if !arrives(ctx, tries[f].arrived, max(probeTry, time.Until(until))) {
			lost = append(lost, tries[f].describe(f))
		}
	}
	if err := ctx.Err(); err != nil {
		return err
	}
	if len(lost) == 0 {
		return nil
	}
	return i.swallowed(lost)
}

func arrives(ctx context.Context, c <-chan struct{}, within time.Duration) bool {
	select {
	case <-c:
		return true
	default:
	}
	select {
	case <-c:
		return true
	case <-time.After(within):
		return false
	case <-ctx.Done():
		return false
	}
}

// swallowed makes the error of a lost probe, with what this host's settings say about the cause.
func (i *Interceptor) swallowed(lost []string) error {
	var causes []string
	i.mu.Lock()
	cfg := i.cfg
	i.mu.Unlock()
	for _, f := range CheckHost(cfg) {
		if f.Swallows {
			causes = append(causes, f.Text+". "+f.Remedy)
		}
	}
	if len(causes) == 0 {
		causes = []string{fmt.Sprintf("No usual cause was found. Look for a firewall rule that drops packets with the mark bit %#x, or from %v, in input or prerouting.",
			i.fixed.DivertBit, probeAddrs[v4].client.Addr())}
	}
	return fmt.Errorf("intercept: %w (probe: %s): %s", ErrSwallowed, strings.Join(lost, ", "), strings.Join(causes, " "))
}

func (i *Interceptor) letProbeIn(device string) error {
	i.mu.Lock()
	defer i.mu.Unlock()
	if i.state == stateRemoved {
		return ErrState
	}
	i.probeDevice = device
	err := i.table.setProbe(device)
	if errors.Is(err, errTableGone) {
		err = i.reinstallLocked("somebody removed it")
	}
	return err
}

// try is one handshake of a probe.
type try struct {
	client, target netip.AddrPort
	seq            uint32
	answered       bool // the SYN-ACK came
	refused        bool // a reset came
	arrived        <-chan struct{}
}

func (t *try) describe(f family) string {
	switch {
	case t.refused:
		return "IPv" + f.digit() + " was reset"
	case t.answered:
		return "IPv" + f.digit() + " was answered but not accepted"
	}
	return "IPv" + f.digit() + " got no answer"
}

// knock speaks the client's part of the handshakes: SYN, and ACK for the SYN-ACK. It returns when all are answered, time is up or ctx ended.
func knock(ctx context.Context, dev *tun, tries map[family]*try, until time.Time) error {
	buf := make([]byte, 2048)
	for open := len(tries); open > 0 && time.Now().Before(until) && ctx.Err() == nil; {
		for _, t := range tries {
			if !t.answered && !t.refused {
				if err := dev.send(segment{from: t.client, to: t.target, seq: t.seq, flags: flagSYN}.append(nil)); err != nil {
					return fmt.Errorf("send a probe: %w", err)
				}
			}
		}
		next := time.Now().Add(probeTry)
		for open > 0 {
			n, ok, err := dev.receive(buf, next)
			if err != nil {
				return fmt.Errorf("receive a probe's answer: %w", err)
			}
			if !ok {
				break
			}
			s, ok := parseSegment(buf[:n])
			if !ok {
				continue
			}
			for _, t := range tries {
				if s.from != t.target || s.to != t.client || t.answered || t.refused {
					continue
				}
				switch {
				case s.flags&flagRST != 0:
					t.refused = true
					open--
				case s.flags&(flagSYN|flagACK) == flagSYN|flagACK && s.ack == t.seq+1:
					t.answered = true
					open--
					ack := segment{from: t.client, to: t.target, seq: t.seq + 1, ack: s.seq + 1, flags: flagACK}
					if err := dev.send(ack.append(nil)); err != nil {
						return fmt.Errorf("send a probe: %w", err)
					}
				}
			}
		}
	}
	return nil
}
