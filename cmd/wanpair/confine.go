package main

import (
	"fmt"
	"os"
	"runtime"

	"golang.org/x/sys/unix"
)

// neededCapabilities is all a gateway ever uses: rules, transparent sockets, marks, socket buffers; and dialling as a client whose port is
// below 1024. Files are opened as the user it runs as, root or not.
const neededCapabilities = 1<<unix.CAP_NET_ADMIN | 1<<unix.CAP_NET_BIND_SERVICE

// confinedVariable marks a process that confine has started again.
const confinedVariable = "WANPAIR_CONFINED"

// confine gives up all rights but those a gateway needs, and the way to ever get others (capabilities(7), PR_SET_NO_NEW_PRIVS). The kernel
// keeps them per thread and a Go program has several before main begins, so the program is started again, in the same process, by the
// one thread that has given them up. Where the service manager has done all that it returns at once.
func confine() error {
	if os.Getenv(confinedVariable) != "" {
		return os.Unsetenv(confinedVariable)
	}
	runtime.LockOSThread()
	defer runtime.UnlockOSThread()
	surplus, err := surplusCapabilities()
	if err != nil {
		return fmt.Errorf("give up rights: %w", err)
	}
	noNew, err := unix.PrctlRetInt(unix.PR_GET_NO_NEW_PRIVS, 0, 0, 0, 0)
	if err != nil {
		return fmt.Errorf("give up rights: %w", err)
	}
	if noNew == 1 && len(surplus) == 0 {
		return nil
	}
	for _, c := range surplus {
		if err := unix.Prctl(unix.PR_CAPBSET_DROP, uintptr(c), 0, 0, 0); err != nil {
			return fmt.Errorf("give up capability %d: %w", c, err)
		}
	}
	if err := keepNeeded(); err != nil {
		return fmt.Errorf("give up rights: %w", err)
	}
	if err := unix.Prctl(unix.PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0); err != nil {
		return fmt.Errorf("give up new privileges: %w", err)
	}
	if err := unix.Exec("/proc/self/exe", os.Args, append(os.Environ(), confinedVariable+"=1")); err != nil {
		return fmt.Errorf("start again with fewer rights: %w", err)
	}
	return nil // never reached
}

// capabilities are the three sets of a thread, as capget(2) gives them.
type capabilities struct{ effective, permitted, inheritable uint64 }

func readCapabilities() (capabilities, error) {
	header := unix.CapUserHeader{Version: unix.LINUX_CAPABILITY_VERSION_3}
	var data [2]unix.CapUserData
	if err := unix.Capget(&header, &data[0]); err != nil {
		return capabilities{}, fmt.Errorf("capget: %w", err)
	}
	join := func(low, high uint32) uint64 { return uint64(high)<<32 | uint64(low) }
	return capabilities{
		effective:   join(data[0].Effective, data[1].Effective),
		permitted:   join(data[0].Permitted, data[1].Permitted),
		inheritable: join(data[0].Inheritable, data[1].Inheritable),
	}, nil
}

// surplusCapabilities are those a program started by this thread could have and a gateway does not need; none where they cannot be dropped.
func surplusCapabilities() ([]int, error) {
	have, err := readCapabilities()
	if err != nil || have.effective&(1<<unix.CAP_SETPCAP) == 0 {
		return nil, err
	}
	var surplus []int
	for c := range 64 {
		in, err := unix.PrctlRetInt(unix.PR_CAPBSET_READ, uintptr(c), 0, 0, 0)
		if err != nil { // EINVAL: the kernel knows no more
			break
		}
		if in == 1 && neededCapabilities&(1<<c) == 0 {
			surplus = append(surplus, c)
		}
	}
	return surplus, nil
}

// keepNeeded hands the needed capabilities on to the program started next. Root would keep them anyway; a user who has them from the file
// would lose them, since files give nothing any more.
func keepNeeded() error {
	have, err := readCapabilities()
	if err != nil {
		return err
	}
	keep := have.permitted & neededCapabilities
	if keep == 0 {
		return nil
	}
	header := unix.CapUserHeader{Version: unix.LINUX_CAPABILITY_VERSION_3}
	data := [2]unix.CapUserData{{
		Effective: uint32(have.effective), Permitted: uint32(have.permitted), Inheritable: uint32(keep),
	}, {
		Effective: uint32(have.effective >> 32), Permitted: uint32(have.permitted >> 32), Inheritable: uint32(keep >> 32),
	}}
	if err := unix.Capset(&header, &data[0]); err != nil {
		return fmt.Errorf("capset: %w", err)
	}
	for c := range 64 {
		if keep&(1<<c) == 0 {
			continue
		}
		if err := unix.Prctl(unix.PR_CAP_AMBIENT, unix.PR_CAP_AMBIENT_RAISE, uintptr(c), 0, 0); err != nil {
			return fmt.Errorf("keep capability %d: %w", c, err)
		}
	}
	return nil
}
