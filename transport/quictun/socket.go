package quictun

import (
	"context"
	"errors"
	"fmt"
	"net"
	"net/netip"
	"syscall"

	"golang.org/x/sys/unix"
)

// socketBufferBytes holds 1 Gbit/s for 130 ms while the process does not run.
const socketBufferBytes = 16 << 20

// listenUDP opens a UDP socket: quic-go sets the Don't Fragment bit and uses
// segmentation offload and batched reads on it. mark is the SO_MARK of
// its packets, 0 for none; dscp their code point.
func listenUDP(ctx context.Context, address string, mark, dscp int) (*socket, error) {
	var sockErr error
	lc := net.ListenConfig{Control: func(_, _ string, c syscall.RawConn) error {
		err := c.Control(func(fd uintptr) {
			forceBuffer(int(fd), unix.SO_RCVBUFFORCE, unix.SO_RCVBUF)
			forceBuffer(int(fd), unix.SO_SNDBUFFORCE, unix.SO_SNDBUF)
			if dscp != 0 {
				// Six bits of the old type-of-service octet (RFC 2474); a socket has one of the two families' options, or both.
				v4 := unix.SetsockoptInt(int(fd), unix.SOL_IP, unix.IP_TOS, dscp<<2)
				v6 := unix.SetsockoptInt(int(fd), unix.SOL_IPV6, unix.IPV6_TCLASS, dscp<<2)
				if v4 != nil && v6 != nil {
					sockErr = fmt.Errorf("set DSCP %d: %w", dscp, v4)
				}
			}
			if mark != 0 {
				if err := unix.SetsockoptInt(int(fd), unix.SOL_SOCKET, unix.SO_MARK, mark); err != nil {
					sockErr = fmt.Errorf("set mark 0x%x: %w", mark, err)
				}
			}
		})
		return errors.Join(err, sockErr)
	}}
	// Left to itself, Go makes 0.0.0.0 a socket for IPv6 as well.
	network := "udp"
	if at, err := netip.ParseAddrPort(address); err == nil && at.Addr().Is4() {
		network = "udp4"
	}
	conn, err := lc.ListenPacket(ctx, network, address)
	if err != nil {
		return nil, err
	}
	return newSocket(conn.(*net.UDPConn)), nil
}

// forceBuffer sets a socket buffer beyond the system's limit where the process
// may, else as far as the limit goes. That it fails is no error: the buffers
// there are will do, slower.
func forceBuffer(fd, force, normal int) {
	if unix.SetsockoptInt(fd, unix.SOL_SOCKET, force, socketBufferBytes) != nil {
		_ = unix.SetsockoptInt(fd, unix.SOL_SOCKET, normal, socketBufferBytes)
	}
}
