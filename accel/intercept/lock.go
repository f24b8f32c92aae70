package intercept

import (
	"errors"
	"fmt"
	"net"

	"golang.org/x/sys/unix"
)

// ErrRunning says that another live process intercepts here.
var ErrRunning = errors.New("another gateway intercepts in this network namespace already")

// acquireLock takes the one right to intercept in this network namespace. The lock is an abstract Unix socket: its names belong to
// the network namespace like the rules do, it vanishes with its process however that ends, and it needs no directory.
func acquireLock(tableName string) (*net.UnixListener, error) {
	addr := &net.UnixAddr{Name: "@wanpair/intercept/" + tableName, Net: "unix"}
	l, err := net.ListenUnix("unix", addr)
	if err == nil {
		return l, nil
	}
	if !errors.Is(err, unix.EADDRINUSE) {
		return nil, fmt.Errorf("intercept: take the lock: %w", err)
	}
	if pid := lockHolder(addr); pid > 0 {
		return nil, fmt.Errorf("intercept: process %d: %w", pid, ErrRunning)
	}
	return nil, fmt.Errorf("intercept: %w", ErrRunning)
}

// lockHolder gives the process that has the lock, 0 when it cannot be told (another process namespace).
func lockHolder(addr *net.UnixAddr) int {
	c, err := net.DialUnix("unix", nil, addr)
	if err != nil {
		return 0
	}
	defer c.Close()
	rc, err := c.SyscallConn()
	if err != nil {
		return 0
	}
	pid := 0
	_ = rc.Control(func(fd uintptr) {
		if cred, err := unix.GetsockoptUcred(int(fd), unix.SOL_SOCKET, unix.SO_PEERCRED); err == nil {
			pid = int(cred.Pid)
		}
	})
	return pid
}
