package deploy_test

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"runtime"
	"strings"
	"sync"
	"sync/atomic"
	"syscall"
	"testing"
	"time"

	"golang.org/x/sys/unix"
)

// A lab is a handful of network namespaces joined by switches (bridges in a namespace of their own, so that a cable can be pulled at the
// switch's end: the box sees its carrier go, and nothing else).
type lab struct {
	prefix string
}

var labCount atomic.Int32

// newLab makes the namespaces, which know IPv6 addresses at once (no duplicate address detection) forward nothing yet and send no redirects.
func newLab(t *testing.T, namespaces ...string) *lab {
	t.Helper()
	requireRoot(t)
	requireTool(t, "ip", "sysctl", "nsenter")
	l := &lab{prefix: fmt.Sprintf("wpd%d-%d-", os.Getpid(), labCount.Add(1))}
	for _, ns := range append([]string{"switch"}, namespaces...) {
		run(t, "ip", "netns", "add", l.prefix+ns)
		t.Cleanup(func() { run(t, "ip", "netns", "del", l.prefix+ns) })
		l.exec(t, ns, "sysctl", "-qw", "net.ipv6.conf.default.accept_dad=0", "net.ipv6.conf.all.accept_dad=0",
			"net.ipv4.conf.default.send_redirects=0", "net.ipv4.conf.all.send_redirects=0")
		l.ip(t, ns, "link", "set", "lo", "up")
	}
	return l
}

// ip runs an ip command in a namespace.
func (l *lab) ip(t *testing.T, ns string, args ...string) string {
	t.Helper()
	return run(t, "ip", append([]string{"-n", l.prefix + ns}, args...)...)
}

// exec runs a command in a namespace.
func (l *lab) exec(t *testing.T, ns string, command ...string) string {
	t.Helper()
	return run(t, "ip", append([]string{"netns", "exec", l.prefix + ns}, command...)...)
}

// switchOn makes a switch.
func (l *lab) switchOn(t *testing.T, name string) {
	t.Helper()
	l.ip(t, "switch", "link", "add", name, "type", "bridge", "forward_delay", "0", "stp_state", "0", "mcast_snooping", "0")
	l.ip(t, "switch", "link", "set", name, "up")
}

// plug gives a box a network card with addresses, with its cable in a switch.
func (l *lab) plug(t *testing.T, ns, card, bridge string, addresses ...string) {
	t.Helper()
	port := l.port(ns, card)
	l.ip(t, "switch", "link", "add", port, "type", "veth", "peer", "name", card, "netns", l.prefix+ns)
	l.ip(t, "switch", "link", "set", port, "master", bridge, "up")
	l.ip(t, ns, "link", "set", card, "up")
	for _, a := range addresses {
		l.ip(t, ns, "address", "add", a, "dev", card)
	}
}

func (l *lab) port(ns, card string) string { return ns + "-" + card }

// cable pulls ("down") or puts back ("up") a box's cable at the switch.
func (l *lab) cable(t *testing.T, ns, card, state string) {
	t.Helper()
	l.ip(t, "switch", "link", "set", l.port(ns, card), state)
}

// do runs a function on a thread inside a namespace. The thread ends with it, so that no other goroutine ever finds itself there.
func (l *lab) do(t *testing.T, ns string, f func() error) {
	t.Helper()
	if err := l.try(ns, f); err != nil {
		t.Fatal(err)
	}
}

func (l *lab) try(ns string, f func() error) error {
	done := make(chan error)
	go func() {
		runtime.LockOSThread() // and never unlocked
		done <- func() error {
			fd, err := os.Open("/run/netns/" + l.prefix + ns)
			if err != nil {
				return err
			}
			defer func() { _ = fd.Close() }()
			if err := unix.Setns(int(fd.Fd()), unix.CLONE_NEWNET); err != nil {
				return err
			}
			return f()
		}()
	}()
	return <-done
}

// dial opens a TCP connection from a namespace.
func (l *lab) dial(ns, address string, timeout time.Duration) (net.Conn, error) {
	var conn net.Conn
	err := l.try(ns, func() (err error) {
		conn, err = (&net.Dialer{Timeout: timeout}).DialContext(context.Background(), "tcp", address)
		return err
	})
	return conn, err
}

// echo serves TCP connections in a namespace until the test ends: what comes in goes back.
func (l *lab) echo(t *testing.T, ns, address string) {
	t.Helper()
	var listener net.Listener
	l.do(t, ns, func() (err error) {
		listener, err = (&net.ListenConfig{}).Listen(t.Context(), "tcp", address)
		return err
	})
	var serving sync.WaitGroup
	var mu sync.Mutex
	var open []net.Conn
	t.Cleanup(func() {
		_ = listener.Close()
		mu.Lock()
		for _, c := range open {
			_ = c.Close()
		}
		mu.Unlock()
		serving.Wait()
	})
	serving.Go(func() {
		for {
			conn, err := listener.Accept()
			if err != nil {
				return
			}
			mu.Lock()
			open = append(open, conn)
			mu.Unlock()
			serving.Go(func() {
				_, _ = io.Copy(conn, conn)
				_ = conn.Close()
			})
		}
	})
}

// askTimeout is how long one try of a connection may take: shorter than the one second after which a SYN is repeated, so that the time a
// takeover took is not rounded up to it.
const askTimeout = 200 * time.Millisecond

// ask opens a connection, sends a line through it and waits for it to come back.
func (l *lab) ask(ns, address string) error {
	conn, err := l.dial(ns, address, askTimeout)
	if err != nil {
		return err
	}
	defer func() { _ = conn.Close() }()
	return talk(conn, askTimeout)
}

// talk sends a line through an open connection and waits for it to come back.
func talk(conn net.Conn, timeout time.Duration) error {
	if err := conn.SetDeadline(time.Now().Add(timeout)); err != nil {
		return err
	}
	const line = "are you there?\n"
	if _, err := io.WriteString(conn, line); err != nil {
		return err
	}
	got := make([]byte, len(line))
	if _, err := io.ReadFull(conn, got); err != nil {
		return err
	}
	if string(got) != line {
		return fmt.Errorf("sent %q, came back %q", line, got)
	}
	return nil
}

// waitFor repeats a try until it works and returns how long that took; after the timeout the test ends.
func waitFor(t *testing.T, what string, timeout time.Duration, try func() error) time.Duration {
	t.Helper()
	start := time.Now()
	tick := time.NewTicker(20 * time.Millisecond)
	defer tick.Stop()
	for {
		err := try()
		took := time.Since(start)
		if err == nil {
			return took
		}
		if took > timeout {
			t.Fatalf("%s: not within %v: %v", what, timeout, err)
		}
		<-tick.C
	}
}

// forwarded returns how many packets of a family a box has passed on.
func (l *lab) forwarded(t *testing.T, ns, family string) int {
	t.Helper()
	var n int
	if family == "ip6" {
		for line := range strings.Lines(l.exec(t, ns, "cat", "/proc/net/snmp6")) {
			if f := strings.Fields(line); len(f) == 2 && f[0] == "Ip6OutForwDatagrams" {
				_, _ = fmt.Sscan(f[1], &n)
			}
		}
		return n
	}
	var keys []string
	for line := range strings.Lines(l.exec(t, ns, "cat", "/proc/net/snmp")) {
		f := strings.Fields(line)
		if len(f) == 0 || f[0] != "Ip:" {
			continue
		}
		if keys == nil {
			keys = f
			continue
		}
		for i, k := range keys {
			if k == "ForwDatagrams" {
				_, _ = fmt.Sscan(f[i], &n)
			}
		}
	}
	return n
}

// A daemon is a program that runs in a namespace until the test ends.
type daemon struct {
	cmd  *exec.Cmd
	log  *syncBuffer
	done chan struct{}
}

// syncBuffer is a buffer two goroutines may use.
type syncBuffer struct {
	mu  sync.Mutex
	buf bytes.Buffer
}

func (b *syncBuffer) Write(p []byte) (int, error) {
	b.mu.Lock()
	defer b.mu.Unlock()
	return b.buf.Write(p)
}

func (b *syncBuffer) String() string {
	b.mu.Lock()
	defer b.mu.Unlock()
	return b.buf.String()
}

// start runs a program in a namespace. At the end of the test it is asked to stop, and made to when it does not; its log is shown when
// the test failed.
func (l *lab) start(t *testing.T, ns string, command ...string) *daemon {
	t.Helper()
	d := &daemon{log: &syncBuffer{}, done: make(chan struct{})}
	// nsenter changes the network only; ip netns exec also puts another /sys over the control groups.
	d.cmd = exec.CommandContext(context.WithoutCancel(t.Context()), "nsenter", append([]string{"--net=/run/netns/" + l.prefix + ns}, command...)...)
	d.cmd.Stdout, d.cmd.Stderr = d.log, d.log
	d.cmd.SysProcAttr = &syscall.SysProcAttr{Setpgid: true}
	if err := d.cmd.Start(); err != nil {
		t.Fatal(err)
	}
	go func() {
		_ = d.cmd.Wait()
		close(d.done)
	}()
	t.Cleanup(func() {
		d.stop(t)
		if t.Failed() {
			t.Logf("%s in %s:\n%s", filepath.Base(command[0]), ns, d.log)
		}
	})
	return d
}

// stop ends the program in order, or its whole process group when it does not listen.
func (d *daemon) stop(t *testing.T) {
	t.Helper()
	_ = d.cmd.Process.Signal(syscall.SIGTERM)
	select {
	case <-d.done:
	case <-time.After(10 * time.Second):
		d.kill(t)
	}
}

// kill ends the program and its children as a power cut does.
func (d *daemon) kill(t *testing.T) {
	t.Helper()
	if err := syscall.Kill(-d.cmd.Process.Pid, syscall.SIGKILL); err != nil && !errors.Is(err, syscall.ESRCH) {
		t.Error(err)
	}
	<-d.done
}
