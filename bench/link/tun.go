package link

import (
	"fmt"
	"os"

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
	return fd, configureDevice(name, mtu)
}

func configureDevice(name string, mtu int) error {
	socket, err := unix.Socket(unix.AF_INET, unix.SOCK_DGRAM|unix.SOCK_CLOEXEC, 0)
	if err != nil {
		return os.NewSyscallError("socket", err)
	}
	defer unix.Close(socket)
	for _, step := range []struct {
		name    string
		request uint
		fill    func(*unix.Ifreq)
	}{
		{"SIOCSIFMTU", unix.SIOCSIFMTU, func(r *unix.Ifreq) { r.SetUint32(uint32(mtu)) }},
		{"SIOCSIFTXQLEN", unix.SIOCSIFTXQLEN, func(r *unix.Ifreq) { r.SetUint32(deviceQueuePackets) }},
		{"SIOCSIFFLAGS", unix.SIOCSIFFLAGS, func(r *unix.Ifreq) { r.SetUint16(unix.IFF_UP) }},
	} {
		request, err := unix.NewIfreq(name)
		if err != nil {
			return fmt.Errorf("device name %q: %w", name, err)
		}
		step.fill(request)
		if err := unix.IoctlIfreq(socket, step.request, request); err != nil {
			return os.NewSyscallError(step.name, err)
		}
	}
	return nil
}
