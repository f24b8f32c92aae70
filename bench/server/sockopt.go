package server

import (
	"fmt"
	"syscall"

	"golang.org/x/sys/unix"
)

// rawControl adapts a function of a descriptor to what the net package calls; nil stays nil.
func rawControl(control func(fd int) error) func(network, address string, c syscall.RawConn) error {
	if control == nil {
		return nil
	}
	return func(_, _ string, c syscall.RawConn) error {
		var inner error
		if err := c.Control(func(fd uintptr) { inner = control(int(fd)) }); err != nil {
			return err
		}
		return inner
	}
}

// SocketOptions are what a bulk sender or receiver sets on its own sockets. Zero values leave the system's choice.
type SocketOptions struct {
	// Congestion is the congestion control: cubic, bbr, reno.
	Congestion string
	// BufferBytes is the send and receive buffer; setting it switches the kernel's own tuning off.
	BufferBytes int
	// WindowClampBytes bounds the window that a receiver advertises (TCP_WINDOW_CLAMP), 65535 for what TCP offers without scaling.
	WindowClampBytes int
}

// apply sets the options on a socket that is not connected yet.
func (o SocketOptions) apply(fd int) error {
	if o.Congestion != "" {
		if err := unix.SetsockoptString(fd, unix.IPPROTO_TCP, unix.TCP_CONGESTION, o.Congestion); err != nil {
			return fmt.Errorf("congestion control %s: %w", o.Congestion, err)
		}
	}
	if o.BufferBytes > 0 {
		for _, option := range []struct{ forced, plain int }{{unix.SO_SNDBUFFORCE, unix.SO_SNDBUF}, {unix.SO_RCVBUFFORCE, unix.SO_RCVBUF}} {
			if unix.SetsockoptInt(fd, unix.SOL_SOCKET, option.forced, o.BufferBytes) == nil {
				continue
			}
			if err := unix.SetsockoptInt(fd, unix.SOL_SOCKET, option.plain, o.BufferBytes); err != nil {
				return fmt.Errorf("socket buffer of %d bytes: %w", o.BufferBytes, err)
			}
		}
	}
	if o.WindowClampBytes > 0 {
		if err := unix.SetsockoptInt(fd, unix.IPPROTO_TCP, unix.TCP_WINDOW_CLAMP, o.WindowClampBytes); err != nil {
			return fmt.Errorf("window clamp of %d bytes: %w", o.WindowClampBytes, err)
		}
	}
	return nil
}
