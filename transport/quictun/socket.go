package quictun

import (
	"context"
	"fmt"
	"net"
	"syscall"

	"golang.org/x/sys/unix"
)

// socketBufferBytes holds 1 Gbit/s for 130 ms while the process does not run.
const socketBufferBytes = 16 << 20

// listenUDP opens a plain UDP socket: quic-go then sets the Don't Fragment bit
// and uses segmentation offload and batched reads on it. mark is the SO_MARK of
// its packets, 0 for none.
func listenUDP(ctx context.Context, address string, mark int) (*net.UDPConn, error) {
	var sockErr error
	lc := net.ListenConfig{Control: func(_, _ string, c syscall.RawConn) error {
		err := c.Control(func(fd uintptr) {
			forceBuffer(int(fd), unix.SO_RCVBUFFORCE, unix.SO_RCVBUF)
			forceBuffer(int(fd), unix.SO_SNDBUFFORCE, unix.SO_SNDBUF)
			if mark != 0 {
				sockErr = unix.SetsockoptInt(int(fd), unix.SOL_SOCKET, unix.SO_MARK, mark)
			}
		})
		if err == nil && sockErr != nil {
			err = fmt.Errorf("set mark 0x%x: %w", mark, sockErr)
		}
		return err
	}}
	conn, err := lc.ListenPacket(ctx, "udp", address)
	if err != nil {
		return nil, err
	}
	return conn.(*net.UDPConn), nil
}

// forceBuffer sets a socket buffer beyond the system's limit where the process
// may, else as far as the limit goes. That it fails is no error: the buffers
// there are will do, slower.
func forceBuffer(fd, force, normal int) {
	if unix.SetsockoptInt(fd, unix.SOL_SOCKET, force, socketBufferBytes) != nil {
		_ = unix.SetsockoptInt(fd, unix.SOL_SOCKET, normal, socketBufferBytes)
	}
}
