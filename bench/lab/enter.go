package lab

import (
	"errors"
	"fmt"
	"os"
	"os/exec"
	"os/signal"
	"syscall"

	"github.com/vishvananda/netlink"
	"golang.org/x/sys/unix"

	"wanpair/bench/link"
)

// ErrUnavailable is wrapped by the errors that say why labs cannot be built here.
var ErrUnavailable = errors.New("a lab needs root, or a kernel that lets users make user and network namespaces and a /dev/net/tun that is open to them")

// enteredVariable marks a process that Enter has started in a user namespace.
const enteredVariable = "WANPAIR_LAB_ENTERED"

// ErrUserNamespace says that this is not the real root.
var ErrUserNamespace = errors.New("needs the real root, not root of a user namespace")

// Entered says whether Enter has put this process into a user namespace.
func Entered() bool { return os.Getenv(enteredVariable) != "" }

// Check says why labs cannot be built by this process, or nil.
func Check() error {
	if os.Getenv(childVariable) != "" {
		return errInChild
	}
	tun, err := os.OpenFile("/dev/net/tun", os.O_RDWR, 0)
	if err != nil {
		return fmt.Errorf("%w: %w", ErrUnavailable, err)
	}
	_ = tun.Close()
	err = link.OnThread(func() error {
		return os.NewSyscallError("unshare network namespace", unix.Unshare(unix.CLONE_NEWNET))
	})
	if err != nil {
		return fmt.Errorf("%w: %w", ErrUnavailable, err)
	}
	return nil
}

// Enter makes this program able to build labs when it was started without root: it starts the program again, with the same arguments, as
// root of a user namespace of its own, passes signals on, and exits with its status; it returns only in the process that can build labs,
// or with an error that wraps ErrUnavailable. For root it does nothing. Call it before anything that must not be done twice.
//
// In the user namespace /run is empty, other users do not exist, and there is no network but the labs'.
func Enter() error {
	if os.Getenv(enteredVariable) != "" {
		return furnish()
	}
	if os.Geteuid() == 0 {
		return Check()
	}
	tun, err := os.OpenFile("/dev/net/tun", os.O_RDWR, 0)
	if err != nil {
		return fmt.Errorf("%w: %w", ErrUnavailable, err)
	}
	_ = tun.Close()
	cmd := exec.Command("/proc/self/exe", os.Args[1:]...)
	cmd.Args[0] = os.Args[0]
	cmd.Stdin, cmd.Stdout, cmd.Stderr = os.Stdin, os.Stdout, os.Stderr
	cmd.Env = append(os.Environ(), enteredVariable+"=1", directoryVariable+"="+directory())
	cmd.SysProcAttr = &syscall.SysProcAttr{
		Cloneflags:  unix.CLONE_NEWUSER | unix.CLONE_NEWNS | unix.CLONE_NEWNET,
		UidMappings: []syscall.SysProcIDMap{{ContainerID: 0, HostID: os.Geteuid(), Size: 1}},
		GidMappings: []syscall.SysProcIDMap{{ContainerID: 0, HostID: os.Getegid(), Size: 1}},
	}
	if err := cmd.Start(); err != nil {
		return fmt.Errorf("%w: make a user namespace: %w", ErrUnavailable, err)
	}
	signals := make(chan os.Signal, 8)
	signal.Notify(signals, unix.SIGTERM, unix.SIGINT, unix.SIGHUP, unix.SIGQUIT)
	go func() { // ends with the process
		for s := range signals {
			// A terminal sends SIGINT, SIGQUIT and SIGHUP to both processes itself; only what came to us alone is passed on.
			if s == unix.SIGTERM {
				_ = cmd.Process.Signal(s)
			}
		}
	}()
	_ = cmd.Wait()
	_ = os.Remove(directory()) // when nothing is in it
	code := cmd.ProcessState.ExitCode()
	if code < 0 {
		const diedOfSignal = 128
		code = diedOfSignal
		if status, ok := cmd.ProcessState.Sys().(syscall.WaitStatus); ok {
			code += int(status.Signal())
		}
	}
	os.Exit(code)
	return nil
}

// furnish makes a new user namespace fit for labs: a /run of its own, where namespaces can be mounted, and a loopback device that is up.
func furnish() error {
	// A program started from here is in the right place already, but must not furnish again.
	if os.Getenv(enteredVariable) == "furnished" {
		return nil
	}
	if err := unix.Mount("", "/", "none", unix.MS_REC|unix.MS_PRIVATE, ""); err != nil {
		return fmt.Errorf("%w: make mounts private: %w", ErrUnavailable, err)
	}
	if err := unix.Mount("tmpfs", "/run", "tmpfs", unix.MS_NOSUID|unix.MS_NODEV, "mode=0755"); err != nil {
		return fmt.Errorf("%w: mount /run: %w", ErrUnavailable, err)
	}
	loopback, err := netlink.LinkByName("lo")
	if err == nil {
		err = netlink.LinkSetUp(loopback)
	}
	if err != nil {
		return fmt.Errorf("%w: loopback: %w", ErrUnavailable, err)
	}
	return os.Setenv(enteredVariable, "furnished")
}
