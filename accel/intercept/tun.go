package intercept

import (
	"errors"
	"fmt"
	"net"
	"net/netip"
	"os"
	"path/filepath"
	"time"

	"github.com/vishvananda/netlink"
	"golang.org/x/sys/unix"
)

// probeDevice is the interface a probe comes in by. It exists for some milliseconds.
const probeDevice = "wanpair-probe"

// tun is a temporary interface of this host whose wire is this process.
type tun struct {
	fd   int
	link netlink.Link
}

// openTUN makes the interface, up, with routes to the addresses that are to be behind it. It vanishes with close or the process.
func openTUN(behind []netip.Addr) (*tun, error) {
	fd, err := unix.Open("/dev/net/tun", unix.O_RDWR|unix.O_NONBLOCK|unix.O_CLOEXEC, 0)
	if err != nil {
		return nil, fmt.Errorf("open /dev/net/tun: %w", err)
	}
	t := &tun{fd: fd}
	if err := t.setUp(behind); err != nil {
		t.close()
		return nil, err
	}
	return t, nil
}

func (t *tun) setUp(behind []netip.Addr) error {
	req, err := unix.NewIfreq(probeDevice)
	if err != nil {
		return err
	}
	req.SetUint16(unix.IFF_TUN | unix.IFF_NO_PI | unix.IFF_TUN_EXCL)
	if err := unix.IoctlIfreq(t.fd, unix.TUNSETIFF, req); err != nil {
		return fmt.Errorf("make interface %s: %w", probeDevice, err)
	}
	if t.link, err = netlink.LinkByName(probeDevice); err != nil {
		return fmt.Errorf("find interface %s: %w", probeDevice, err)
	}
	if err := netlink.LinkSetUp(t.link); err != nil {
		return fmt.Errorf("set interface %s up: %w", probeDevice, err)
	}
	for _, a := range behind {
		if a.Is6() {
			// Where new interfaces are born without IPv6; where that cannot be changed the route below fails and says so.
			_ = os.WriteFile(filepath.Join("/proc/sys/net/ipv6/conf", probeDevice, "disable_ipv6"), []byte("0"), 0)
		}
		dst := &net.IPNet{IP: a.AsSlice(), Mask: net.CIDRMask(a.BitLen(), a.BitLen())}
		if err := netlink.RouteAdd(&netlink.Route{LinkIndex: t.link.Attrs().Index, Dst: dst, Scope: netlink.SCOPE_LINK}); err != nil {
			return fmt.Errorf("route %v to interface %s: %w", a, probeDevice, err)
		}
	}
	return nil
}

func (t *tun) close() { _ = unix.Close(t.fd) }

func (t *tun) send(packet []byte) error {
	for {
		if _, err := unix.Write(t.fd, packet); err != unix.EINTR {
			return err
		}
	}
}

// receive waits for a packet this host sends out by the interface; false when none came in time.
func (t *tun) receive(buf []byte, until time.Time) (int, bool, error) {
	for {
		n, err := unix.Read(t.fd, buf)
		switch {
		case err == nil:
			return n, true, nil
		case err == unix.EINTR:
			continue
		case !errors.Is(err, unix.EAGAIN):
			return 0, false, err
		}
		left := time.Until(until)
		if left <= 0 {
			return 0, false, nil
		}
		fds := []unix.PollFd{{Fd: int32(t.fd), Events: unix.POLLIN}}
		if _, err := unix.Poll(fds, int(left/time.Millisecond)+1); err != nil && err != unix.EINTR {
			return 0, false, err
		}
	}
}
