package lab_test

import (
	"bufio"
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"os"
	"path/filepath"
	"runtime"
	"strings"
	"testing"
	"time"

	"wanpair/bench/lab"
	"wanpair/bench/lab/labtest"
	"wanpair/bench/link"
)

// echo serves connections on a node by sending everything back.
func echo(t *testing.T, l *lab.Lab, n lab.Node, address string) {
	t.Helper()
	listener, err := l.Listen(t.Context(), n, address)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = listener.Close() })
	go func() {
		for {
			conn, err := listener.Accept()
			if err != nil {
				return
			}
			go func() {
				defer conn.Close()
				_, _ = io.Copy(conn, conn)
			}()
		}
	}()
}

func TestClientReachesServerOverTheLink(t *testing.T) {
	const delay = 30 * time.Millisecond
	l := labtest.Up(t, lab.Config{Link: "both delay=30ms rate=100mbit", Clients: 2, Servers: 3})
	echo(t, l, lab.Server, ":7")
	for _, address := range []string{
		net.JoinHostPort(lab.ServerIP4, "7"), net.JoinHostPort(lab.ServerIP6, "7"),
		net.JoinHostPort(lab.ServerAddr(2).String(), "7"), net.JoinHostPort(lab.ServerAddr6(2).String(), "7"),
	} {
		if err := l.WaitTCP(t.Context(), lab.Client, address, 60*time.Second); err != nil {
			t.Fatal(err)
		}
		conn, err := l.Dial(t.Context(), lab.Client, "tcp", address)
		if err != nil {
			t.Fatal(err)
		}
		start := time.Now()
		fmt.Fprintln(conn, "hello")
		line, err := bufio.NewReader(conn).ReadString('\n')
		if err != nil || line != "hello\n" {
			t.Errorf("%s: echo gave %q, %v", address, line, err)
		}
		if took := time.Since(start); took < 2*delay {
			t.Errorf("%s: a round trip took %v over a link of %v", address, took, 2*delay)
		}
		conn.Close()
	}
	stats, err := l.LinkStats(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	if stats.AtoB.DeliveredPackets == 0 || stats.BtoA.DeliveredPackets == 0 {
		t.Errorf("the link carried nothing: %+v", stats)
	}
}

func TestCommandRunsInItsNode(t *testing.T) {
	l := labtest.Up(t, lab.Config{})
	out, err := l.Command(t.Context(), lab.GatewayB, "ip", "-o", "addr").CombinedOutput()
	if err != nil {
		t.Fatalf("%v: %s", err, out)
	}
	for _, want := range []string{lab.GatewayBWANIP4, lab.GatewayBLANIP4, lab.GatewayBWANIP6, lab.GatewayBLANIP6} {
		if !strings.Contains(string(out), want) {
			t.Errorf("gateway B has no address %s: %s", want, out)
		}
	}
	if err := l.Command(t.Context(), lab.Client, "no-such-program-here").Run(); err == nil {
		t.Error("a program that does not exist ran")
	}
	out, err = l.Command(t.Context(), lab.Client, "ip", "netns").CombinedOutput()
	if err != nil || !strings.Contains(string(out), l.Namespace(lab.Server)) {
		t.Errorf("ip netns does not list %s: %v: %s", l.Namespace(lab.Server), err, out)
	}
}

func TestCutLinkCarriesNothing(t *testing.T) {
	l := labtest.Up(t, lab.Config{Link: "both delay=1ms"})
	echo(t, l, lab.Server, ":7")
	address := net.JoinHostPort(lab.ServerIP4, "7")
	if err := l.WaitTCP(t.Context(), lab.Client, address, 60*time.Second); err != nil {
		t.Fatal(err)
	}
	labtest.SetLink(t, l, "both down")
	if err := l.WaitTCP(t.Context(), lab.Client, address, 200*time.Millisecond); err == nil {
		t.Fatal("connected over a cut link")
	}
	labtest.SetLink(t, l, "up")
	if err := l.WaitTCP(t.Context(), lab.Client, address, 60*time.Second); err != nil {
		t.Fatalf("the link is up again: %v", err)
	}
	err := l.SetLink(t.Context(), "both", "loss=lots")
	if !errors.Is(err, link.ErrParameter) {
		t.Errorf("a loss of lots gave %v", err)
	}
}

// traces lists what a lab of that name has left on the machine.
func traces(t *testing.T, name string) (found []string) {
	t.Helper()
	for _, pattern := range []string{link.NamedNamespaces + "/" + name + "-*", "/run/wanpair-lab/" + name + ".*"} {
		matches, err := filepath.Glob(pattern)
		if err != nil {
			t.Fatal(err)
		}
		found = append(found, matches...)
	}
	return found
}

func TestDownLeavesNothing(t *testing.T) {
	labtest.Require(t)
	l, err := lab.Up(t.Context(), lab.Config{})
	if err != nil {
		t.Fatal(err)
	}
	sleeper := l.Command(context.Background(), lab.Server, "sleep", "1000")
	if err := sleeper.Start(); err != nil {
		t.Fatal(err)
	}
	if err := l.Down(); err != nil {
		t.Fatal(err)
	}
	if err := sleeper.Wait(); err == nil {
		t.Error("a program of the lab outlived it")
	}
	if found := traces(t, l.Name); len(found) > 0 {
		t.Errorf("left behind: %v", found)
	}
	if err := l.Down(); err != nil {
		t.Errorf("second Down: %v", err)
	}
}

func TestFailedUpLeavesNothing(t *testing.T) {
	labtest.Require(t)
	name := fmt.Sprintf("t%d", os.Getpid())
	for _, config := range []lab.Config{
		{Name: name, Congestion: "no-such-congestion-control"}, // fails while the nodes are prepared
		{Name: name, MTU: 1},      // fails in the emulator
		{Name: name, Link: "x=1"}, // fails before anything is made
	} {
		if l, err := lab.Up(t.Context(), config); err == nil {
			t.Errorf("%+v was built", config)
			_ = l.Down()
		}
		if found := traces(t, name); len(found) > 0 {
			t.Errorf("%+v left behind: %v", config, found)
		}
	}
}

func TestNameIsTakenOnce(t *testing.T) {
	l := labtest.Up(t, lab.Config{Name: fmt.Sprintf("u%d", os.Getpid())})
	if _, err := lab.Up(t.Context(), lab.Config{Name: l.Name}); !errors.Is(err, lab.ErrExists) {
		t.Errorf("second lab of that name: %v", err)
	}
	if _, err := l.LinkStats(t.Context()); err != nil {
		t.Errorf("the first one suffered: %v", err)
	}
}

func TestDoBringsItsThreadBack(t *testing.T) {
	l := labtest.Up(t, lab.Config{})
	here, err := os.Readlink("/proc/self/ns/net")
	if err != nil {
		t.Fatal(err)
	}
	for range 50 {
		var there string
		if err := l.Do(lab.Client, func() (err error) {
			there, err = os.Readlink("/proc/thread-self/ns/net")
			return err
		}); err != nil || there == here {
			t.Fatalf("the function ran in %q, the test runs in %q, %v", there, here, err)
		}
		if err := l.Do(lab.Client, func() error { runtime.Goexit(); return nil }); err == nil {
			t.Fatal("a function that ended its goroutine gave no error")
		}
	}
	threads, err := filepath.Glob("/proc/self/task/*/ns/net")
	if err != nil {
		t.Fatal(err)
	}
	for _, thread := range threads {
		if at, err := os.Readlink(thread); err == nil && at != here {
			t.Errorf("a thread stayed in %s", at)
		}
	}
}
