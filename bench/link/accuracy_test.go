package link_test

import (
	"crypto/sha256"
	"encoding/binary"
	"errors"
	"fmt"
	"io"
	"math"
	"math/rand/v2"
	"net"
	"net/netip"
	"os"
	"slices"
	"strconv"
	"strings"
	"testing"
	"time"
	"unsafe"

	"golang.org/x/sys/unix"

	"wanpair/bench/lab"
	"wanpair/bench/lab/labtest"
)

func TestMain(m *testing.M) { labtest.Main(m) }

// What the link promises, as shares of the value asked for.
const (
	rttTolerance  = 0.01
	rateTolerance = 0.02
	lossTolerance = 0.05
)

// lateLimit is how late a packet may have been in a measurement that counts; tries is how often one is repeated because it was later, or
// because the programs that measure were held up themselves, which the link cannot know.
const (
	lateLimit = 2 * time.Millisecond
	tries     = 8
)

// measure repeats a measurement until it comes within its tolerance over a link that says it was exact.
func measure(t *testing.T, l *lab.Lab, what string, want, tolerance float64, one func() (float64, error)) {
	t.Helper()
	var log []string
	for range tries {
		if err := l.ResetLink(t.Context()); err != nil {
			t.Fatal(err)
		}
		got, err := one()
		if err != nil {
			t.Fatal(err)
		}
		stats, err := l.LinkStats(t.Context())
		if err != nil {
			t.Fatal(err)
		}
		late := stats.Check(lateLimit)
		log = append(log, fmt.Sprintf("%.6g (%v)", got, late))
		if math.Abs(got/want-1) <= tolerance && late == nil {
			t.Logf("%s: %.6g for %.6g, %+.2f %%; latest %.3f ms", what, got, want, 100*(got/want-1),
				1e3*max(stats.AtoB.LateMaxSeconds, stats.BtoA.LateMaxSeconds))
			return
		}
	}
	t.Errorf("%s: want %.6g within %.0f %%, got %v", what, want, tolerance*100, log)
}

// sockets are a UDP socket on the client and one on the server.
func sockets(t *testing.T, l *lab.Lab) (client, server *net.UDPConn, to netip.AddrPort) {
	t.Helper()
	client, err := l.ListenUDP(t.Context(), lab.Client, ":0")
	if err != nil {
		t.Fatal(err)
	}
	server, err = l.ListenUDP(t.Context(), lab.Server, ":7")
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _, _ = client.Close(), server.Close() })
	const buffer = 8 << 20
	if err := server.SetReadBuffer(buffer); err != nil {
		t.Fatal(err)
	}
	return client, server, netip.AddrPortFrom(lab.ServerAddr(0), 7)
}

// onQuietMachine ends tests that measure the machine as much as the emulator: on one that is busy with other work every try is late, and a
// clock is no judge of code. They are run by hand, for the figures of docs/lab.md.
func onQuietMachine(t *testing.T) {
	t.Helper()
	if os.Getenv("WANPAIR_ACCURACY") != "1" {
		t.Skip("measures this machine: set WANPAIR_ACCURACY=1 on a quiet one")
	}
}

func TestRoundTripIsExact(t *testing.T) {
	onQuietMachine(t)
	l := labtest.Up(t, lab.Config{})
	client, server, to := sockets(t, l)
	go func() { // ends when the socket is closed
		b := make([]byte, 1500)
		for {
			n, from, err := server.ReadFromUDPAddrPort(b)
			if err != nil {
				return
			}
			_, _ = server.WriteToUDPAddrPort(b[:n], from)
		}
	}()
	// median of some round trips; far fewer than the machine's own hiccups make the middle one late.
	median := func() (time.Duration, error) {
		var took []time.Duration
		b := make([]byte, 64)
		for range 11 {
			start := time.Now()
			if _, err := client.WriteToUDPAddrPort(b, to); err != nil {
				return 0, err
			}
			if err := client.SetReadDeadline(start.Add(10 * time.Second)); err != nil {
				return 0, err
			}
			if _, _, err := client.ReadFromUDPAddrPort(b); err != nil {
				return 0, err
			}
			took = append(took, time.Since(start))
		}
		slices.Sort(took)
		return took[len(took)/2], nil
	}
	for _, delay := range []time.Duration{10 * time.Millisecond, 50 * time.Millisecond, 150 * time.Millisecond} {
		measure(t, l, "RTT in ms", 2e3*delay.Seconds(), rttTolerance, func() (float64, error) {
			// What the programs, the veth pairs and the forwarding of the machine take is not the link's.
			labtest.SetLink(t, l, "both delay=0", "rate=100mbit")
			own, err := median()
			if err != nil {
				return 0, err
			}
			labtest.SetLink(t, l, "both delay="+delay.String())
			took, err := median()
			return 1e3 * (took - own).Seconds(), err
		})
	}
}

// flood sends datagrams of size bytes, numbered from 0, as fast as asked for, and tells the receiver how many there were by last ones
// that are repeated until it has seen one.
func flood(client *net.UDPConn, to netip.AddrPort, size, datagrams int, bitsPerSec float64, seen <-chan struct{}) error {
	b := make([]byte, size)
	start := time.Now()
	for i := range datagrams {
		binary.BigEndian.PutUint64(b, uint64(i))
		if _, err := client.WriteToUDPAddrPort(b, to); err != nil {
			return err
		}
		const batch = 16
		if ahead := time.Duration(float64(i*size*8)/bitsPerSec*1e9) - time.Since(start); i%batch == 0 && ahead > 0 {
			time.Sleep(ahead)
		}
	}
	binary.BigEndian.PutUint64(b, math.MaxUint64)
	for range 500 {
		select {
		case <-seen:
			return nil
		case <-time.After(20 * time.Millisecond):
			if _, err := client.WriteToUDPAddrPort(b, to); err != nil {
				return err
			}
		}
	}
	return errors.New("the receiver never saw the end")
}

// receive counts datagrams until the one that says it was the last, and returns when the first and the last of them came.
func receive(server *net.UDPConn, seen chan<- struct{}) (datagrams int, took time.Duration, err error) {
	b := make([]byte, 2048)
	if err := server.SetReadDeadline(time.Now().Add(30 * time.Second)); err != nil {
		return 0, 0, err
	}
	var first, last time.Time
	for {
		n, _, err := server.ReadFromUDPAddrPort(b)
		if err != nil {
			return 0, 0, err
		}
		switch number := binary.BigEndian.Uint64(b[:n]); {
		case number != math.MaxUint64 || datagrams == 0:
			if last = time.Now(); datagrams == 0 {
				first = last
			}
			if number != math.MaxUint64 {
				datagrams++
			}
		default:
			close(seen)
			return datagrams, last.Sub(first), nil
		}
	}
}

func TestRateIsExact(t *testing.T) {
	onQuietMachine(t)
	l := labtest.Up(t, lab.Config{})
	client, server, to := sockets(t, l)
	const size, headers = 1400, 28
	for _, c := range []struct {
		rate string
		bits float64
	}{{"2mbit", 2e6}, {"20mbit", 20e6}, {"100mbit", 100e6}, {"400mbit", 400e6}} {
		labtest.SetLink(t, l, "both delay=5ms", "rate="+c.rate)
		measure(t, l, "rate in Mbit/s", c.bits/1e6, rateTolerance, func() (float64, error) {
			const overload, seconds = 1.25, 0.7
			seen := make(chan struct{})
			sent := make(chan error, 1)
			go func() { sent <- flood(client, to, size, int(overload*c.bits*seconds/8/size), overload*c.bits, seen) }()
			datagrams, took, err := receive(server, seen)
			return float64((datagrams-1)*(size+headers)*8) / took.Seconds() / 1e6, errors.Join(err, <-sent)
		})
	}
}

func TestLossIsExact(t *testing.T) {
	// Three standard deviations of the number lost are within the tolerance.
	const datagrams = 60_000
	l := labtest.Up(t, lab.Config{Seed: 11})
	client, server, to := sockets(t, l)
	for _, words := range []string{"loss=6%", "loss=40% burst=2"} {
		labtest.SetLink(t, l, "a2b delay=1ms "+words)
		var want float64
		if _, err := fmt.Sscanf(words, "loss=%g%%", &want); err != nil {
			t.Fatal(err)
		}
		measure(t, l, words+": loss in %", want, lossTolerance, func() (float64, error) {
			seen := make(chan struct{})
			sent := make(chan error, 1)
			go func() { sent <- flood(client, to, 200, datagrams, 80e6, seen) }()
			got, _, err := receive(server, seen)
			return 100 * (1 - float64(got)/datagrams), errors.Join(err, <-sent)
		})
	}
}

// TestTCPIsWholeOverABadLink sends data through every kind of trouble at once. The kernel leaves super-packets without checksums, so the
// server's device is told to take none over: what arrives is verified against checksums that were completed from the link's headers.
func TestTCPIsWholeOverABadLink(t *testing.T) {
	l := labtest.Up(t, lab.Config{Link: "both delay=2ms jitter=1ms rate=300mbit loss=0.5% burst=2 reorder=0.5%"})
	for _, device := range []struct {
		node lab.Node
		name string
	}{{lab.GatewayA, lab.LANDevice}, {lab.GatewayB, lab.LANDevice}} {
		if err := l.Do(device.node, func() error { return disableChecksumOffload(device.name) }); err != nil {
			t.Fatal(err)
		}
	}
	for _, address := range []string{lab.ServerIP4, lab.ServerIP6} {
		to := net.JoinHostPort(address, "9")
		listener, err := l.Listen(t.Context(), lab.Server, to)
		if err != nil {
			t.Fatal(err)
		}
		const bytes = 16 << 20
		received := make(chan error, 1)
		go func() {
			conn, err := listener.Accept()
			if err != nil {
				received <- err
				return
			}
			defer conn.Close()
			got, err := io.ReadAll(conn)
			if err == nil && sha256.Sum256(got) != sha256.Sum256(noise(bytes)) {
				err = errors.New("other bytes arrived than were sent")
			}
			received <- err
		}()
		conn, err := l.Dial(t.Context(), lab.Client, "tcp", to)
		if err != nil {
			t.Fatal(err)
		}
		_, err = conn.Write(noise(bytes))
		if err := errors.Join(err, conn.Close(), <-received, listener.Close()); err != nil {
			t.Fatalf("%s: %v", to, err)
		}
	}
	stats, err := l.LinkStats(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	if d := stats.AtoB; d.LossDrops == 0 || d.ReorderedPackets == 0 || d.Errors > 0 {
		t.Errorf("the link was not as bad as it should be, or worse: %+v", d)
	}
	if wrong := tcpChecksumErrors(t, l, lab.Server) + tcpChecksumErrors(t, l, lab.Client); wrong > 0 {
		t.Errorf("%d segments arrived with a wrong checksum", wrong)
	}
}

// noise is the same n bytes on every call.
func noise(n int) []byte {
	b := make([]byte, n)
	_, _ = rand.NewChaCha8([32]byte{1}).Read(b)
	return b
}

func disableChecksumOffload(device string) error {
	socket, err := unix.Socket(unix.AF_INET, unix.SOCK_DGRAM|unix.SOCK_CLOEXEC, 0)
	if err != nil {
		return err
	}
	defer unix.Close(socket)
	off := struct{ command, value uint32 }{unix.ETHTOOL_STXCSUM, 0} // struct ethtool_value
	request, err := unix.NewIfreq(device)
	if err != nil {
		return err
	}
	// The request ends in a pointer; the type for that is not exported, but its layout is the kernel's.
	raw := struct {
		name [unix.IFNAMSIZ]byte
		data unsafe.Pointer
		_    [16]byte
	}{data: unsafe.Pointer(&off)}
	copy(raw.name[:], request.Name())
	if _, _, errno := unix.Syscall(unix.SYS_IOCTL, uintptr(socket), unix.SIOCETHTOOL, uintptr(unsafe.Pointer(&raw))); errno != 0 {
		return os.NewSyscallError("SIOCETHTOOL", errno)
	}
	return nil
}

// tcpChecksumErrors reads how many TCP segments with a wrong checksum have come to a node.
func tcpChecksumErrors(t *testing.T, l *lab.Lab, n lab.Node) int {
	t.Helper()
	out, err := l.Command(t.Context(), n, "cat", "/proc/net/snmp").Output()
	if err != nil {
		t.Fatal(err)
	}
	var names []string
	for line := range strings.Lines(string(out)) {
		fields := strings.Fields(line)
		if len(fields) == 0 || fields[0] != "Tcp:" {
			continue
		}
		if names == nil {
			names = fields
			continue
		}
		errs, err := strconv.Atoi(fields[slices.Index(names, "InCsumErrors")])
		if err != nil {
			t.Fatal(err)
		}
		return errs
	}
	t.Fatal("no TCP counters")
	return 0
}
