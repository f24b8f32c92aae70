package link

import (
	"errors"
	"fmt"
	"os"
	"runtime"
	"strings"

	"golang.org/x/sys/unix"
)

// NamedNamespaces is where named network namespaces are mounted, as iproute2 does it.
const NamedNamespaces = "/run/netns"

// namespacePath turns a namespace's name into its file; what has a slash is a path already.
func namespacePath(name string) string {
	if strings.Contains(name, "/") {
		return name
	}
	return NamedNamespaces + "/" + name
}

// InNamespace runs f on a thread that is in the named network namespace ("" is the caller's own) and returns what f returns. Sockets and
// files that f opens keep belonging to the namespace; goroutines that f starts do not run in it.
func InNamespace(name string, f func() error) error {
	if name == "" {
		return f()
	}
	return OnThread(func() error {
		file, err := os.Open(namespacePath(name))
		if err != nil {
			return fmt.Errorf("network namespace %s: %w", name, err)
		}
		defer file.Close()
		if err := unix.Setns(int(file.Fd()), unix.CLONE_NEWNET); err != nil {
			return fmt.Errorf("enter network namespace %s: %w", name, os.NewSyscallError("setns", err))
		}
		return f()
	})
}

// errNoReturn is what OnThread returns when its function ended its goroutine, as a failed test does.
var errNoReturn = errors.New("the function in the network namespace did not return")

// OnThread runs f on a thread of its own and returns what f returns. f may change the thread's network namespace: the thread is brought back
// to the one it came from, and where that fails it serves nobody else again.
func OnThread(f func() error) error {
	result := make(chan error, 1)
	go func() {
		runtime.LockOSThread()
		err := errNoReturn
		defer func() { result <- err }()
		home, openErr := os.Open("/proc/thread-self/ns/net")
		if openErr != nil {
			err = openErr
			return
		}
		defer home.Close()
		defer func() {
			// A goroutine that ends locked takes its thread along.
			if unix.Setns(int(home.Fd()), unix.CLONE_NEWNET) == nil {
				runtime.UnlockOSThread()
			}
		}()
		err = f()
	}()
	return <-result
}
