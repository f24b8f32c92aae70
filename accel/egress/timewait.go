package egress

import (
	"encoding/binary"
	"net/netip"

	"github.com/mdlayher/netlink"
	"golang.org/x/sys/unix"
)

// Values of linux/include/uapi/linux/sock_diag.h and net/tcp_states.h that x/sys/unix lacks.
const (
	sockDiagByFamily = 20
	sockDestroy      = 21
	tcpTimeWait      = 6

	sizeofDiagRequest = 56 // struct inet_diag_req_v2
	sizeofDiagMessage = 72 // struct inet_diag_msg
	diagIDOffset      = 4  // struct inet_diag_sockid in inet_diag_msg
	diagRequestID     = 8  // and in inet_diag_req_v2
	diagIDLen         = 48
)

// destroyByDiag removes the connection local to remote if this host keeps it in TIME_WAIT, and in no other state. It needs
// CAP_NET_ADMIN and a kernel with CONFIG_INET_DIAG_DESTROY; without them it finds nothing to remove.
func destroyByDiag(local, remote netip.AddrPort) bool {
	c, err := netlink.Dial(unix.NETLINK_SOCK_DIAG, nil)
	if err != nil {
		return false
	}
	defer c.Close()
	req := diagRequest(local, remote)
	answers, err := c.Execute(netlink.Message{
		Header: netlink.Header{Type: sockDiagByFamily, Flags: netlink.Request | netlink.Acknowledge},
		Data:   req,
	})
	if err != nil {
		return false
	}
	for _, a := range answers {
		if len(a.Data) < sizeofDiagMessage || a.Data[1] != tcpTimeWait {
			continue
		}
		// The answer's identity, cookie included: nothing that took its place meanwhile is hit.
		copy(req[diagRequestID:diagRequestID+diagIDLen], a.Data[diagIDOffset:diagIDOffset+diagIDLen])
		_, err := c.Execute(netlink.Message{
			Header: netlink.Header{Type: sockDestroy, Flags: netlink.Request | netlink.Acknowledge},
			Data:   req,
		})
		return err == nil
	}
	return false
}

// diagRequest is a struct inet_diag_req_v2 that names one connection in whatever state.
func diagRequest(local, remote netip.AddrPort) []byte {
	b := make([]byte, sizeofDiagRequest)
	b[0] = unix.AF_INET6
	if local.Addr().Is4() {
		b[0] = unix.AF_INET
	}
	b[1] = unix.IPPROTO_TCP
	binary.NativeEndian.PutUint32(b[4:], 0xffffffff) // all states
	id := b[diagRequestID:]
	binary.BigEndian.PutUint16(id[0:], local.Port())
	binary.BigEndian.PutUint16(id[2:], remote.Port())
	copy(id[4:20], local.Addr().AsSlice())
	copy(id[20:36], remote.Addr().AsSlice())
	// interface 0 = any; the cookie of all ones = any
	binary.NativeEndian.PutUint32(id[40:], 0xffffffff)
	binary.NativeEndian.PutUint32(id[44:], 0xffffffff)
	return b
}
