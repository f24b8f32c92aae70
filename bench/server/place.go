package server

import (
	"context"
	"fmt"
	"net"
	"net/netip"
	"os/exec"
	"runtime"
	"syscall"

	"wanpair/bench/link"
)

// Place is where a program runs and how others reach it.
type Place struct {
	// Namespace is the name of a network namespace, or the path of its file; "" is the one this process is in.
	Namespace string
	// Addr is the address servers of this place listen on.
	Addr netip.Addr
}

// Here is the namespace of this process, reached by loopback.
func Here() Place { return Place{Addr: netip.AddrFrom4([4]byte{127, 0, 0, 1})} }

// HostPort joins the place's address and a port.
func (p Place) HostPort(port int) string {
	return netip.AddrPortFrom(p.Addr, uint16(port)).String()
}

// Do calls f on a thread that is in the place's namespace, see link.InNamespace.
func (p Place) Do(f func() error) error { return link.InNamespace(p.Namespace, f) }

// attend starts a command in the place and waits for it, on a thread of its own: the child inherits the namespace of that thread, and the
// kernel sends it the signal end when the thread is gone, which is when this process is. It calls started once, then returns how the
// command ended.
func (p Place) attend(cmd *exec.Cmd, end syscall.Signal, started func(error)) error {
	if cmd.SysProcAttr == nil {
		cmd.SysProcAttr = &syscall.SysProcAttr{}
	}
	cmd.SysProcAttr.Pdeathsig = end
	runtime.LockOSThread()
	defer runtime.UnlockOSThread()
	if p.Namespace == "" {
		if err := cmd.Start(); err != nil {
			started(err)
			return err
		}
		started(nil)
		return cmd.Wait()
	}
	return p.Do(func() error { // it stays on one locked thread until it returns
		if err := cmd.Start(); err != nil {
			started(err)
			return err
		}
		started(nil)
		return cmd.Wait()
	})
}

// Listen opens a TCP listener in the place; Multipath TCP is off, so that the peer sees plain TCP. The control function may be nil.
func (p Place) Listen(ctx context.Context, port int, control func(fd int) error) (*net.TCPListener, error) {
	var listener net.Listener
	err := p.Do(func() (err error) {
		config := net.ListenConfig{Control: rawControl(control)}
		config.SetMultipathTCP(false)
		listener, err = config.Listen(ctx, "tcp", p.HostPort(port))
		return err
	})
	if err != nil {
		return nil, err
	}
	return listener.(*net.TCPListener), nil
}

// Dial connects from the place to an address (a literal one: names are not looked up in namespaces).
func (p Place) Dial(ctx context.Context, address string, control func(fd int) error) (*net.TCPConn, error) {
	if _, err := netip.ParseAddrPort(address); err != nil {
		return nil, fmt.Errorf("dial: %w", err)
	}
	var conn net.Conn
	err := p.Do(func() (err error) {
		dialer := net.Dialer{Control: rawControl(control)}
		dialer.SetMultipathTCP(false)
		conn, err = dialer.DialContext(ctx, "tcp", address)
		return err
	})
	if err != nil {
		return nil, err
	}
	return conn.(*net.TCPConn), nil
}
