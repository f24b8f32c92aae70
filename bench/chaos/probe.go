package chaos

import (
	"bytes"
	"context"
	"encoding/binary"
	"fmt"
	"io"
	"net"
	"strings"
	"sync"
	"time"
	"unsafe"

	"golang.org/x/sys/unix"

	"wanpair/bench/lab"
)

const (
	probePort    = "7101"
	probeEvery   = 50 * time.Millisecond
	probeTimeout = 3 * time.Second // longer than two repetitions of a lost SYN: 1 s, then 2 s
)

// way is how a new connection reached the server.
type way byte

const (
	lost        way = iota // it did not, or no answer came
	raw                    // over the bare link
	accelerated            // through the pair
)

// probe is one short new connection.
type probe struct {
	began, ended time.Time
	way          way
	err          error // why it was lost
}

// prober opens short connections all the time. The server reads from the IP header of the first packet whether it comes from a host two
// routers away, the client, or from the far gateway beside it, and answers with that.
type prober struct {
	lab *lab.Lab
	a   *account

	mu     sync.Mutex
	probes []probe // in the order of their beginning, nearly
	raw    int
	accel  int
	lost   int
}

// initialTTL is what Linux sends with; each router on the way takes one off. The far gateway is beside the server.
const initialTTL = 64

// listenProbes opens the server's listener, which keeps the first packet of each connection.
func listenProbes(ctx context.Context, l *lab.Lab) (*net.TCPListener, error) {
	listener, err := l.Listen(ctx, lab.Server, ":"+probePort)
	if err != nil {
		return nil, err
	}
	rawConn, err := listener.SyscallConn()
	if err != nil {
		return nil, err
	}
	var option error
	err = rawConn.Control(func(fd uintptr) { option = unix.SetsockoptInt(int(fd), unix.IPPROTO_TCP, unix.TCP_SAVE_SYN, 1) })
	if err == nil {
		err = option
	}
	return listener, err
}

// came tells from the saved first packet of an accepted connection which way it came.
func came(conn *net.TCPConn) way {
	rawConn, err := conn.SyscallConn()
	if err != nil {
		return lost
	}
	var head [256]byte
	size := uint32(len(head))
	var failed unix.Errno
	err = rawConn.Control(func(fd uintptr) {
		_, _, failed = unix.Syscall6(unix.SYS_GETSOCKOPT, fd, unix.IPPROTO_TCP, unix.TCP_SAVED_SYN,
			uintptr(unsafe.Pointer(&head)), uintptr(unsafe.Pointer(&size)), 0) //nolint:gosec // getsockopt(2) fills a buffer; x/sys has no call for bytes with zeros in them
	})
	if err != nil || failed != 0 || size < 20 {
		return lost
	}
	ttl := head[8] // IPv4
	if head[0]>>4 == 6 {
		ttl = head[7]
	}
	if ttl == initialTTL {
		return accelerated
	}
	return raw
}

// serve answers probes until ctx ends.
func (p *prober) serve(ctx context.Context, l *net.TCPListener) {
	defer context.AfterFunc(ctx, func() { _ = l.Close() })()
	var busy sync.WaitGroup
	defer busy.Wait()
	for {
		conn, err := l.AcceptTCP()
		if err != nil {
			return
		}
		busy.Go(func() {
			defer conn.Close()
			_ = conn.SetDeadline(time.Now().Add(2 * probeTimeout))
			b := make([]byte, 9)
			if _, err := io.ReadFull(conn, b[:8]); err != nil {
				_ = conn.SetLinger(0)
				return
			}
			b[8] = byte(came(conn))
			_, _ = conn.Write(b)
		})
	}
}

// run probes until ctx ends.
func (p *prober) run(ctx context.Context) {
	ticker := time.NewTicker(probeEvery)
	defer ticker.Stop()
	var busy sync.WaitGroup
	defer busy.Wait()
	for i := uint64(0); ; i++ {
		select {
		case <-ctx.Done():
			return
		case <-ticker.C:
		}
		busy.Go(func() {
			one := p.once(ctx, i)
			if ctx.Err() != nil {
				return
			}
			p.mu.Lock()
			defer p.mu.Unlock()
			p.probes = append(p.probes, one)
			switch one.way {
			case lost:
				p.lost++
			case raw:
				p.raw++
			case accelerated:
				p.accel++
			}
			if len(p.probes) > 1<<14 {
				p.probes = append(p.probes[:0], p.probes[1<<13:]...)
			}
		})
	}
}

func (p *prober) once(ctx context.Context, nonce uint64) probe {
	out := probe{began: time.Now()}
	out.way, out.err = p.ask(ctx, out.began, nonce)
	out.ended = time.Now()
	return out
}

func (p *prober) ask(ctx context.Context, began time.Time, nonce uint64) (way, error) {
	ctx, cancel := context.WithTimeout(ctx, probeTimeout)
	defer cancel()
	conn, err := p.lab.Dial(ctx, lab.Client, "tcp", net.JoinHostPort(lab.ServerIP4, probePort))
	if err != nil {
		return lost, fmt.Errorf("connect: %w", err)
	}
	defer conn.Close()
	_ = conn.(*net.TCPConn).SetLinger(0) // thousands of probes shall leave nothing in TIME_WAIT
	_ = conn.SetDeadline(began.Add(probeTimeout))
	question := binary.BigEndian.AppendUint64(nil, nonce)
	if _, err := conn.Write(question); err != nil {
		return lost, err
	}
	answer := make([]byte, 9)
	if _, err := io.ReadFull(conn, answer); err != nil {
		return lost, err
	}
	if !bytes.Equal(answer[:8], question) {
		p.a.violate("a probe's answer: " + errWrongByte.Error())
	}
	return way(answer[8]), nil
}

// reason is a lost probe's error without what differs from probe to probe.
func (p probe) reason() string {
	text := p.err.Error()
	prefix := ""
	if strings.HasPrefix(text, "connect:") {
		prefix = "connect: "
	}
	return prefix + text[strings.LastIndex(text, ": ")+1:]
}

// since returns the probes that began at or after a moment.
func (p *prober) since(t time.Time) []probe {
	p.mu.Lock()
	defer p.mu.Unlock()
	var out []probe
	for _, one := range p.probes {
		if !one.began.Before(t) {
			out = append(out, one)
		}
	}
	return out
}

// passedAfter is how long after from new connections passed again: the beginning of the first probe behind which none that began before to
// was lost. There is no answer when the last ones were lost.
func passedAfter(probes []probe, from, to time.Time) (time.Duration, bool) {
	var lastLost time.Time
	passed := false
	for _, one := range probes {
		if one.began.Before(from) || one.began.After(to) {
			continue
		}
		if one.way == lost && one.began.After(lastLost) {
			lastLost = one.began
		}
	}
	first := time.Time{}
	for _, one := range probes {
		if one.way != lost && !one.began.Before(from) && one.began.After(lastLost) && !one.began.After(to) && (first.IsZero() || one.began.Before(first)) {
			first, passed = one.began, true
		}
	}
	if !passed {
		return 0, false
	}
	if lastLost.IsZero() {
		return 0, true // none was lost
	}
	return first.Sub(from), true
}

// acceleratedAfter is how long after from the first probe began that went through the pair.
func acceleratedAfter(probes []probe, from time.Time) (time.Duration, bool) {
	first := time.Duration(-1)
	for _, one := range probes {
		if d := one.began.Sub(from); one.way == accelerated && d >= 0 && (first < 0 || d < first) {
			first = d
		}
	}
	return max(first, 0), first >= 0
}
