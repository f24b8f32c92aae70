package link

import (
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
	result := make(chan error, 1)
	go func() {
		// The thread is not unlocked: when it cannot be brought back with certainty, it must not serve other goroutines. It ends here.
		runtime.LockOSThread()
		result <- func() error {
			file, err := os.Open(namespacePath(name))
			if err != nil {
				return fmt.Errorf("network namespace %s: %w", name, err)
			}
			defer file.Close()
			if err := unix.Setns(int(file.Fd()), unix.CLONE_NEWNET); err != nil {
				return fmt.Errorf("enter network namespace %s: %w", name, os.NewSyscallError("setns", err))
			}
			return f()
		}()
	}()
	return <-result
}
