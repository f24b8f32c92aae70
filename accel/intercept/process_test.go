package intercept

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
	"sync"
	"syscall"
	"testing"
	"time"

	"go.uber.org/goleak"
)

// TestMain lets the test binary play a gateway process, so that a real one can be killed and stopped.
func TestMain(m *testing.M) {
	if os.Getenv("INTERCEPT_TEST_GATEWAY") == "1" {
		if err := gatewayProcess(); err != nil {
			fmt.Fprintln(os.Stderr, err)
			os.Exit(1)
		}
		return
	}
	goleak.VerifyTestMain(m)
}

// gatewayProcess diverts what goes to nyc, answers each connection with a line and keeps it open until standard input ends.
func gatewayProcess() error {
	i, err := New(Config{
		Interfaces: []string{"lan0"},
		Subnets:    prefixes("10.1.0.0/16", "fd00:1::/64"),
		Peers:      []Peer{{Name: "nyc", Subnets: prefixes("10.2.0.0/16", "fd00:2::/64")}},
	})
	if err != nil {
		return err
	}
	ctx, cancel := context.WithCancel(context.Background())
	defer cancel()
	if err := i.Install(ctx); err != nil {
		return err
	}
	ended := make(chan error, 1)
	go func() { ended <- i.Run(ctx) }()
	go func() {
		for {
			c, err := i.Accept(ctx)
			if err != nil {
				return
			}
			fmt.Fprintln(c, "gateway")
		}
	}()
	if err := i.SetPeerAlive("nyc", prefixes("10.2.0.0/16", "fd00:2::/64"), nil); err != nil {
		return err
	}
	fmt.Println("ready")
	_, _ = io.Copy(io.Discard, os.Stdin)
	cancel()
	return errors.Join(<-ended, i.Remove())
}

type process struct {
	*exec.Cmd
	stdin io.Closer
}

func (s *site) startProcess() process {
	s.t.Helper()
	cmd := s.gateway.Command(os.Args[0])
	cmd.Env = append(os.Environ(), "INTERCEPT_TEST_GATEWAY=1")
	cmd.Stderr = os.Stderr
	stdin, err := cmd.StdinPipe()
	if err != nil {
		s.t.Fatal(err)
	}
	stdout, err := cmd.StdoutPipe()
	if err != nil {
		s.t.Fatal(err)
	}
	if err := cmd.Start(); err != nil {
		s.t.Fatal(err)
	}
	s.t.Cleanup(func() {
		_ = cmd.Process.Kill()
		_ = cmd.Wait()
	})
	if line, err := bufio.NewReader(stdout).ReadString('\n'); err != nil || line != "ready\n" {
		s.t.Fatalf("gateway process: %q, %v", line, err)
	}
	return process{cmd, stdin}
}

// established opens a connection and reads its first line.
func (s *site) established(target, line string) net.Conn {
	s.t.Helper()
	var c net.Conn
	s.client.Do(func() {
		var err error
		if c, err = (&net.Dialer{Timeout: 5 * time.Second}).DialContext(context.Background(), "tcp", target); err != nil {
			s.t.Error(err)
		}
	})
	if c == nil {
		s.t.FailNow()
	}
	s.t.Cleanup(func() { c.Close() })
	_ = c.SetDeadline(time.Now().Add(20 * time.Second))
	if got, err := bufio.NewReader(c).ReadString('\n'); strings.TrimSpace(got) != line {
		s.t.Fatalf("%s: got %q, %v; want %q", target, got, err, line)
	}
	return c
}

func TestProcessKilled(t *testing.T) {
	s := newSite(t)
	s.serve(s.server, "server", target4, target6)
	p := s.startProcess()
	conns := []net.Conn{s.established(target4, "gateway"), s.established(target6, "gateway")}
	if err := p.Process.Kill(); err != nil {
		t.Fatal(err)
	}
	_ = p.Wait()
	// Its sets are still full.
	s.want(target4, raw4)
	s.want(target6, raw6)
	for _, c := range conns {
		if n, err := c.Read(make([]byte, 1)); !errors.Is(err, syscall.ECONNRESET) {
			t.Errorf("established connection: %d, %v; want a reset", n, err)
		}
	}
	next := s.startProcess()
	s.established(target4, "gateway")
	next.stdin.Close()
	if err := next.Wait(); err != nil {
		t.Errorf("end of the second process: %v", err)
	}
	if got := s.table(); strings.TrimSpace(got) != "" {
		t.Errorf("left behind:\n%s", got)
	}
}

func TestProcessHangs(t *testing.T) {
	s := newSite(t)
	s.serve(s.server, "server", target4, target6)
	p := s.startProcess()
	c := s.established(target4, "gateway")
	if err := p.Process.Signal(syscall.SIGSTOP); err != nil {
		t.Fatal(err)
	}
	s.eventually(60*time.Second, s.answers(target4, raw4))
	s.want(target6, raw6)
	if err := p.Process.Signal(syscall.SIGCONT); err != nil {
		t.Fatal(err)
	}
	s.eventually(60*time.Second, func() error {
		got, _ := s.askLine(target4)
		if got != "gateway" {
			return fmt.Errorf("got %q", got)
		}
		return nil
	})
	// The connection from before is still there: nobody read its end.
	_ = c.SetReadDeadline(time.Now().Add(50 * time.Millisecond))
	if _, err := c.Read(make([]byte, 1)); !errors.Is(err, os.ErrDeadlineExceeded) {
		t.Errorf("established connection after the hang: %v", err)
	}
}

// askLine gives the first line of an answer.
func (s *site) askLine(target string) (line string, err error) {
	err = s.client.Run(func() error {
		c, err := (&net.Dialer{Timeout: retryPatience}).DialContext(context.Background(), "tcp", target)
		if err != nil {
			return err
		}
		defer c.Close()
		_ = c.SetDeadline(time.Now().Add(retryPatience))
		line, err = bufio.NewReader(c).ReadString('\n')
		line = strings.TrimSpace(line)
		return err
	})
	return line, err
}

// Clients that never stop connecting: the rules that a killed process left still divert, and must not lead anybody to a listener
// whose connections nobody takes yet. That also kept the first probe from arriving, and the process from starting.
func TestProcessKilledAndStartedUnderLoad(t *testing.T) {
	s := newSite(t)
	s.serve(s.server, "server", target4, target6)
	p := s.startProcess()
	ctx, stop := context.WithCancel(t.Context())
	var clients sync.WaitGroup
	for range 4 {
		clients.Go(func() {
			for ctx.Err() == nil {
				_ = s.client.Run(func() error { // some meet the process as it dies: how they end is not the point here
					c, err := (&net.Dialer{Timeout: time.Second}).DialContext(ctx, "tcp", target4)
					if err != nil {
						return err
					}
					defer c.Close()
					_ = c.SetDeadline(time.Now().Add(time.Second))
					_, err = c.Read(make([]byte, 1))
					return err
				})
			}
		})
	}
	for range 3 {
		if err := p.Process.Kill(); err != nil {
			t.Fatal(err)
		}
		_ = p.Wait()
		p = s.startProcess() // fails when the process does not say that it is ready
	}
	stop()
	clients.Wait()
	s.established(target4, "gateway")
}
