package edge

import (
	"bufio"
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"os"
	"os/exec"
	"strings"
	"syscall"
	"testing"

	"go.uber.org/goleak"
)

// TestMain lets the test binary play the gateway that is killed.
func TestMain(m *testing.M) {
	if os.Getenv("EDGE_TEST_VICTIM") == "1" {
		if err := victim(); err != nil {
			fmt.Fprintln(os.Stderr, err)
			os.Exit(1)
		}
		return
	}
	goleak.VerifyTestMain(m)
}

// victim listens, accepts one connection, dials what stdin names, leaves a third in the accept queue, and waits to be killed.
func victim() error {
	control := func(_, _ string, rc syscall.RawConn) error {
		var err error
		if cerr := rc.Control(func(fd uintptr) { err = Prepare(int(fd), Options{}) }); cerr != nil {
			return cerr
		}
		return err
	}
	lc := net.ListenConfig{Control: control, KeepAlive: -1}
	lc.SetMultipathTCP(false)
	l, err := lc.Listen(context.Background(), "tcp4", "127.0.0.1:0")
	if err != nil {
		return err
	}
	fmt.Println(l.Addr())
	in := bufio.NewReader(os.Stdin)
	target, err := in.ReadString('\n')
	if err != nil {
		return err
	}
	a, err := l.Accept()
	if err != nil {
		return err
	}
	accepted, err := New(a.(*net.TCPConn), Options{})
	if err != nil {
		return err
	}
	d := net.Dialer{Control: control}
	c, err := d.Dial("tcp4", strings.TrimSpace(target))
	if err != nil {
		return err
	}
	dialled, err := New(c.(*net.TCPConn), Options{})
	if err != nil {
		return err
	}
	for _, e := range []*Conn{accepted, dialled} {
		if _, err := e.Write([]byte("hello")); err != nil {
			return err
		}
	}
	_, err = io.Copy(io.Discard, in)
	return err
}

// A killed process resets what it accepted, what it dialled and what waits in its accept queue.
func TestKillIsSeenAsReset(t *testing.T) {
	l, err := (&net.ListenConfig{}).Listen(t.Context(), "tcp4", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer l.Close()
	cmd := exec.CommandContext(t.Context(), os.Args[0])
	cmd.Env = append(os.Environ(), "EDGE_TEST_VICTIM=1")
	cmd.Stderr = os.Stderr
	stdin, err := cmd.StdinPipe()
	if err != nil {
		t.Fatal(err)
	}
	stdout, err := cmd.StdoutPipe()
	if err != nil {
		t.Fatal(err)
	}
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	defer func() { _ = cmd.Process.Kill() }()
	addr, err := bufio.NewReader(stdout).ReadString('\n')
	if err != nil {
		t.Fatal(err)
	}
	addr = strings.TrimSpace(addr)
	conns := map[string]net.Conn{}
	dial := func(name string) {
		c, err := (&net.Dialer{}).DialContext(t.Context(), "tcp4", addr)
		if err != nil {
			t.Fatal(err)
		}
		conns[name] = c
	}
	dial("accepted")
	fmt.Fprintln(stdin, l.Addr())
	if conns["dialled"], err = l.Accept(); err != nil {
		t.Fatal(err)
	}
	for _, name := range []string{"accepted", "dialled"} {
		if _, err := io.ReadFull(conns[name], make([]byte, 5)); err != nil {
			t.Fatalf("%s: %v", name, err)
		}
	}
	dial("in the accept queue")
	if err := cmd.Process.Kill(); err != nil {
		t.Fatal(err)
	}
	_ = cmd.Wait()
	for name, c := range conns {
		if n, err := c.Read(make([]byte, 1)); !errors.Is(err, syscall.ECONNRESET) {
			t.Errorf("%s: read %d, %v; want a reset", name, n, err)
		}
		c.Close()
	}
}
