package link

import (
	"bytes"
	"context"
	"errors"
	"log/slog"
	"net"
	"path/filepath"
	"testing"
	"time"

	"golang.org/x/sync/errgroup"
	"golang.org/x/sys/unix"
)

// wired is an emulator whose devices are sockets that keep packets apart: the pumps cannot tell.
type wired struct {
	*Emulator
	ends [2]int // what a program would see of the devices
}

func newWired(t *testing.T, words ...string) *wired {
	t.Helper()
	link, err := Parse(Pair{}, words...)
	if err != nil {
		t.Fatal(err)
	}
	config, err := Config{Link: link, MemoryBytes: 4 << 20, Seed: 1, NoRealtime: true, A: End{Device: "a"}, B: End{Device: "b"}}.withDefaults()
	if err != nil {
		t.Fatal(err)
	}
	w := &wired{}
	var devices [2]int
	for i := range devices {
		pair, err := unix.Socketpair(unix.AF_UNIX, unix.SOCK_SEQPACKET|unix.SOCK_CLOEXEC, 0)
		if err != nil {
			t.Fatal(err)
		}
		if err := unix.SetNonblock(pair[0], true); err != nil {
			t.Fatal(err)
		}
		devices[i], w.ends[i] = pair[0], pair[1]
		t.Cleanup(func() { closeAll(pair[1:]) })
		patience := unix.NsecToTimeval(int64(20 * time.Second))
		if err := unix.SetsockoptTimeval(pair[1], unix.SOL_SOCKET, unix.SO_RCVTIMEO, &patience); err != nil {
			t.Fatal(err)
		}
	}
	if w.Emulator, err = assemble(config, devices, slog.New(slog.DiscardHandler)); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := w.Close(); err != nil {
			t.Error(err)
		}
	})
	return w
}

// run runs the emulator until the returned function is called, which gives the result of Run.
func (w *wired) run(t *testing.T) (stop func() error) {
	t.Helper()
	ctx, cancel := context.WithCancel(t.Context())
	var group errgroup.Group
	group.Go(func() error { return w.Run(ctx) })
	t.Cleanup(func() { cancel(); _ = group.Wait() })
	return func() error { cancel(); return group.Wait() }
}

func (w *wired) send(t *testing.T, end int, packet []byte) {
	t.Helper()
	if _, err := again(func() (int, error) { return unix.Write(w.ends[end], packet) }); err != nil {
		t.Fatal(err)
	}
}

// again repeats a system call that the runtime's signals have interrupted.
func again(call func() (int, error)) (n int, err error) {
	for {
		if n, err = call(); !errors.Is(err, unix.EINTR) {
			return n, err
		}
	}
}

func (w *wired) receive(t *testing.T, end int) []byte {
	t.Helper()
	b := make([]byte, maxPacketBytes)
	n, err := again(func() (int, error) { return unix.Read(w.ends[end], b) })
	if err != nil {
		t.Fatal(err)
	}
	return b[:n]
}

func TestEmulatorCarriesBothWays(t *testing.T) {
	w := newWired(t, "both", "delay=2ms")
	stop := w.run(t)
	const packets = 200
	for i := range packets {
		for end := range 2 {
			packet := plain(20+i*7*(end+1), byte(i))
			w.send(t, end, packet)
			if got := w.receive(t, 1-end); !bytes.Equal(got, packet) {
				t.Fatalf("packet %d from end %d came out as %d bytes", i, end, len(got))
			}
		}
	}
	s, err := w.Stats()
	if err != nil {
		t.Fatal(err)
	}
	for _, d := range []Direction{AtoB, BtoA} {
		if one := s.Direction(d); one.DeliveredPackets != packets || one.OfferedPackets != packets || one.UnderWayPackets != 0 || one.Params != "delay=2ms" {
			t.Errorf("%v: %+v", d, one)
		}
	}
	if err := stop(); err != nil {
		t.Error(err)
	}
	if _, err := w.Stats(); !errors.Is(err, ErrClosed) {
		t.Errorf("stats of a closed link: %v", err)
	}
	if err := w.Set("down"); !errors.Is(err, ErrClosed) {
		t.Errorf("change of a closed link: %v", err)
	}
	if err := w.Run(t.Context()); !errors.Is(err, ErrClosed) {
		t.Errorf("second run: %v", err)
	}
}

func TestEmulatorChangesWhileItRuns(t *testing.T) {
	w := newWired(t)
	w.run(t)
	if err := w.Set("a2b", "loss=100%"); err != nil {
		t.Fatal(err)
	}
	w.send(t, 0, plain(100, 1))
	waitFor(t, func() bool { s, err := w.Stats(); return err == nil && s.AtoB.LossDrops == 1 })
	if err := w.Set("loss=0", "loss=nonsense"); !errors.Is(err, ErrParameter) {
		t.Errorf("nonsense was taken: %v", err)
	}
	if got := w.Link().AtoB.Loss; got != 1 {
		t.Errorf("a refused change changed the loss to %v", got)
	}
	if err := errors.Join(w.Set("loss=0"), w.Reset()); err != nil {
		t.Fatal(err)
	}
	w.send(t, 0, plain(100, 2))
	if got := w.receive(t, 1); got[vnetBytes] != 2 {
		t.Errorf("packet %d arrived, want 2", got[vnetBytes])
	}
	s, err := w.Stats()
	if err != nil || s.AtoB.LossDrops != 0 || s.AtoB.DeliveredPackets != 1 {
		t.Errorf("after the reset: %+v, %v", s.AtoB, err)
	}
}

func TestEmulatorEndsWithItsDevice(t *testing.T) {
	w := newWired(t)
	ended := make(chan error, 1)
	go func() { ended <- w.Run(context.Background()) }()
	waitFor(t, func() bool { w.mu.Lock(); defer w.mu.Unlock(); return w.running })
	if err := unix.Shutdown(w.ends[1], unix.SHUT_RDWR); err != nil {
		t.Fatal(err)
	}
	if err := <-ended; !errors.Is(err, errDeviceGone) {
		t.Errorf("run ended with %v", err)
	}
}

func TestRefusedPacketsAreErrors(t *testing.T) {
	w := newWired(t)
	// The socket at the far end takes some hundred packets, then refuses: as a device that is down would.
	w.run(t)
	for refused := false; !refused; {
		w.send(t, 0, plain(9000, 1))
		s, err := w.Stats()
		if err != nil {
			t.Fatal(err)
		}
		refused = s.AtoB.ErrorDrops > 0
		if refused && !errors.Is(s.Check(time.Hour), ErrInexact) {
			t.Error("a link with errors calls itself exact")
		}
	}
}

func TestConfigIsChecked(t *testing.T) {
	good := Config{A: End{Namespace: "x"}, B: End{Namespace: "y"}}
	if c, err := good.withDefaults(); err != nil || c.MTU != DefaultMTU || c.Seed == 0 || c.A.Device != DefaultDevice {
		t.Errorf("defaults: %+v, %v", c, err)
	}
	for name, change := range map[string]func(*Config){
		"mtu":      func(c *Config) { c.MTU = 500 },
		"memory":   func(c *Config) { c.MemoryBytes = 100 },
		"tick":     func(c *Config) { c.Tick = time.Second },
		"one end":  func(c *Config) { c.B = c.A },
		"link":     func(c *Config) { c.Link.BtoA.Loss = 2 },
		"negative": func(c *Config) { c.MTU = -1 },
	} {
		c := good
		change(&c)
		if _, err := New(c, slog.New(slog.DiscardHandler)); !errors.Is(err, ErrParameter) {
			t.Errorf("%s: %v", name, err)
		}
	}
}

// waitFor waits until the condition holds.
func waitFor(t *testing.T, condition func() bool) {
	t.Helper()
	for deadline := time.Now().Add(20 * time.Second); !condition(); {
		if time.Now().After(deadline) {
			t.Fatal("waited in vain")
		}
		time.Sleep(time.Millisecond)
	}
}

func TestControl(t *testing.T) {
	w := newWired(t, "both", "delay=1ms")
	socket := filepath.Join(t.TempDir(), "control")
	listener, err := net.Listen("unix", socket)
	if err != nil {
		t.Fatal(err)
	}
	var served errgroup.Group
	served.Go(func() error { return Serve(t.Context(), w.Emulator, listener) })
	ctx, client := t.Context(), Client{Socket: socket}
	w.send(t, 1, plain(100, 1))
	w.receive(t, 0)
	if err := client.Set(ctx, "b2a", "rate=1mbit", "queue=5000"); err != nil {
		t.Fatal(err)
	}
	s, err := client.Stats(ctx)
	if err != nil {
		t.Fatal(err)
	}
	if s.BtoA.DeliveredPackets != 1 || s.BtoA.DeliveredBytes != 100 || s.BtoA.QueueLimitBytes != 5000 || s.BtoA.Params != "delay=1ms rate=1mbit queue=5000" {
		t.Errorf("stats: %+v", s.BtoA)
	}
	if err := client.Set(ctx, "both", "delay=never"); !errors.Is(err, ErrParameter) {
		t.Errorf("nonsense gave %v", err)
	}
	if err := client.Reset(ctx); err != nil {
		t.Error(err)
	}
	for _, nonsense := range []string{"\n", "{\n", `{"do":"dance"}` + "\n", string(bytes.Repeat([]byte("x"), maxRequestBytes+1))} {
		conn, err := net.Dial("unix", socket)
		if err != nil {
			t.Fatal(err)
		}
		_, _ = conn.Write([]byte(nonsense)) // cut off half-way when it is too long
		answer := make([]byte, 1000)
		if n, _ := conn.Read(answer); !bytes.Contains(answer[:n], []byte(`"error"`)) && len(nonsense) < maxRequestBytes {
			t.Errorf("request %q was answered with %q", nonsense, answer[:n])
		}
		_ = conn.Close()
	}
	if s, err := client.Stats(ctx); err != nil || s.BtoA.DeliveredPackets != 0 {
		t.Errorf("after reset and nonsense: %+v, %v", s.BtoA, err)
	}
	if err := client.Stop(ctx); err != nil {
		t.Error(err)
	}
	if err := served.Wait(); err != nil {
		t.Error(err)
	}
	if _, err := client.Stats(ctx); err == nil {
		t.Error("the server answers after its end")
	}
}
