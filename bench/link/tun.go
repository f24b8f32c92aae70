package link

import (
	"fmt"
	"os"

	"github.com/vishvananda/netlink"
	"golang.org/x/sys/unix"
)

// tunPath is the device that makes TUN devices.
const tunPath = "/dev/net/tun"

// deviceQueuePackets is the kernel's own queue in front of the emulator: room for what comes in during a nap at several Gbit/s. It is no
// part of the emulated link, whose queue is Params.QueueBytes, and is empty whenever the emulator is awake.
const deviceQueuePackets = 10_000

// openDevice makes a TUN device in the namespace the calling thread is in, sets its MTU and brings it up. The device lives as long as the
// returned descriptor. With offload the kernel may hand over super-packets.
func openDevice(name string, mtu int, offload bool) (fd int, err error) {
	fd, err = unix.Open(tunPath, unix.O_RDWR|unix.O_NONBLOCK|unix.O_CLOEXEC, 0)
	if err != nil {
		return -1, fmt.Errorf("open %s: %w", tunPath, err)
	}
	defer func() {
		if err != nil {
			unix.Close(fd)
		}
	}()
	request, err := unix.NewIfreq(name)
	if err != nil {
		return -1, fmt.Errorf("device name %q: %w", name, err)
	}
	request.SetUint16(unix.IFF_TUN | unix.IFF_NO_PI | unix.IFF_VNET_HDR | unix.IFF_TUN_EXCL)
	if err := unix.IoctlIfreq(fd, unix.TUNSETIFF, request); err != nil {
		return -1, os.NewSyscallError("TUNSETIFF", err)
	}
	const checksum = unix.TUN_F_CSUM
	const tcp = checksum | unix.TUN_F_TSO4 | unix.TUN_F_TSO6
	const udp = tcp | unix.TUN_F_USO4 | unix.TUN_F_USO6
	switch {
	case !offload:
		err = unix.IoctlSetInt(fd, unix.TUNSETOFFLOAD, checksum)
	case unix.IoctlSetInt(fd, unix.TUNSETOFFLOAD, udp) != nil:
		err = unix.IoctlSetInt(fd, unix.TUNSETOFFLOAD, tcp) // USO needs Linux 6.2
	}
	if err != nil {
		return -1, os.NewSyscallError("TUNSETOFFLOAD", err)
	}
	if err := configureDevice(name, mtu); err != nil {
		return -1, err
	}
	return fd, nil
}

// configureDevice works through netlink: the older ioctl refuses a queue length to root of a user namespace.
func configureDevice(name string, mtu int) error {
	device, err := netlink.LinkByName(name)
	if err != nil {
		return fmt.Errorf("find the device: %w", err)
	}
	if err := netlink.LinkSetMTU(device, mtu); err != nil {
		return fmt.Errorf("set MTU %d: %w", mtu, err)
	}
	if err := netlink.LinkSetTxQLen(device, deviceQueuePackets); err != nil {
		return fmt.Errorf("set queue length: %w", err)
	}
	if err := netlink.LinkSetUp(device); err != nil {
		return fmt.Errorf("bring up: %w", err)
	}
	return nil
}
