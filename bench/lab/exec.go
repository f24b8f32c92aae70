package lab

import (
	"context"
	"errors"
	"fmt"
	"net"
	"net/netip"
	"os"
	"os/exec"
	"strconv"
	"strings"
	"time"

	"wanpair/bench/link"
)

// ErrAddress is wrapped by errors about addresses that are not literal IP addresses with a port.
var ErrAddress = errors.New("want a literal IP address and port")

// Namespace is the name of a node's network namespace, as `ip netns` lists it.
func (l *Lab) Namespace(n Node) string { return namespace(l.Name, n) }

// Command returns a command that runs a program in the namespace of a node, ready to be started; it is killed when ctx ends. The process
// that is started becomes the program (it is nsenter from util-linux first), so its number and its signals are the program's.
func (l *Lab) Command(ctx context.Context, n Node, name string, args ...string) *exec.Cmd {
	path, err := exec.LookPath(name)
	words := append([]string{"--net=" + link.NamedNamespaces + "/" + l.Namespace(n), "--", path}, args...)
	if os.Geteuid() != 0 { // then the lab lives in the user namespace of its emulator
		words = append([]string{"--preserve-credentials", "--user", "--mount", "--target", strconv.Itoa(emulatorOf(l.Name)), "--", "nsenter"}, words...)
	}
	cmd := exec.CommandContext(ctx, "nsenter", words...)
	if err != nil && cmd.Err == nil {
		cmd.Err = err
	}
	return cmd
}

// Do runs f on a thread in the namespace of a node: sockets that f opens belong to it. Goroutines that f starts do not run there.
func (l *Lab) Do(n Node, f func() error) error { return link.InNamespace(l.Namespace(n), f) }

// Dial connects from a node, over tcp or udp (4, 6), to a literal address.
func (l *Lab) Dial(ctx context.Context, n Node, network, address string) (conn net.Conn, err error) {
	if _, err := netip.ParseAddrPort(address); err != nil {
		return nil, fmt.Errorf("dial %s: %w", address, ErrAddress)
	}
	err = l.Do(n, func() (err error) {
		conn, err = new(net.Dialer).DialContext(ctx, network, address)
		return err
	})
	return conn, err
}

// Listen listens for TCP connections on a node, at a literal address or at ":port" for all of them.
func (l *Lab) Listen(ctx context.Context, n Node, address string) (listener *net.TCPListener, err error) {
	if err := checkListen(address); err != nil {
		return nil, err
	}
	err = l.Do(n, func() error {
		config := net.ListenConfig{}
		config.SetMultipathTCP(false) // a plain socket, as most servers have
		generic, err := config.Listen(ctx, "tcp", address)
		if err == nil {
			listener = generic.(*net.TCPListener)
		}
		return err
	})
	return listener, err
}

// ListenUDP opens a UDP socket on a node, at a literal address or at ":port" for all of them.
func (l *Lab) ListenUDP(ctx context.Context, n Node, address string) (conn *net.UDPConn, err error) {
	if err := checkListen(address); err != nil {
		return nil, err
	}
	err = l.Do(n, func() error {
		generic, err := new(net.ListenConfig).ListenPacket(ctx, "udp", address)
		if err == nil {
			conn = generic.(*net.UDPConn)
		}
		return err
	})
	return conn, err
}

func checkListen(address string) error {
	if strings.HasPrefix(address, ":") {
		return nil
	}
	if _, err := netip.ParseAddrPort(address); err != nil {
		return fmt.Errorf("listen on %s: %w", address, ErrAddress)
	}
	return nil
}

// WaitTCP waits until a TCP connection from a node to address succeeds, and closes it at once. The error at the end of ctx or of the
// patience names the last failure.
func (l *Lab) WaitTCP(ctx context.Context, n Node, address string, patience time.Duration) error {
	ctx, cancel := context.WithTimeout(ctx, patience)
	defer cancel()
	const pause = 20 * time.Millisecond
	ticker := time.NewTicker(pause)
	defer ticker.Stop()
	for {
		conn, err := l.Dial(ctx, n, "tcp", address)
		if err == nil {
			return conn.Close()
		}
		select {
		case <-ctx.Done():
			return fmt.Errorf("nobody answers at %s within %v: %w", address, patience, err)
		case <-ticker.C:
		}
	}
}
