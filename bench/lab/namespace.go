package lab

import (
	"errors"
	"fmt"
	"io/fs"
	"maps"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"time"

	"golang.org/x/sys/unix"

	"wanpair/bench/link"
)

// makeNamespace makes a network namespace and mounts it where iproute2 looks. The file is made exclusively, so it decides between two labs
// that want one name; then the error wraps fs.ErrExist.
func makeNamespace(name string) (err error) {
	if err := shareMounts(); err != nil {
		return err
	}
	path := filepath.Join(link.NamedNamespaces, name)
	file, err := os.OpenFile(path, os.O_RDONLY|os.O_CREATE|os.O_EXCL, 0o444)
	if err != nil {
		return fmt.Errorf("make network namespace: %w", err)
	}
	_ = file.Close()
	err = link.OnThread(func() error {
		if err := unix.Unshare(unix.CLONE_NEWNET); err != nil {
			return os.NewSyscallError("unshare", err)
		}
		return os.NewSyscallError("mount", unix.Mount("/proc/thread-self/ns/net", path, "none", unix.MS_BIND, ""))
	})
	if err != nil {
		return errors.Join(fmt.Errorf("make network namespace %s: %w", name, err), os.Remove(path))
	}
	return nil
}

// shareMounts makes the directory of named namespaces a shared mount, so that other mount namespaces see what is mounted and unmounted
// there; iproute2 does the same and whoever comes first wins.
func shareMounts() error {
	dir := link.NamedNamespaces
	if err := os.MkdirAll(dir, 0o755); err != nil {
		return fmt.Errorf("directory of network namespaces: %w", err)
	}
	share := func() error { return unix.Mount("", dir, "none", unix.MS_SHARED|unix.MS_REC, "") }
	err := share()
	if errors.Is(err, unix.EINVAL) { // no mount point yet
		if err = unix.Mount(dir, dir, "none", unix.MS_BIND|unix.MS_REC, ""); err == nil {
			err = share()
		}
	}
	if err != nil {
		return fmt.Errorf("share mounts under %s: %w", dir, err)
	}
	return nil
}

// removeNamespace kills what runs in the namespace and removes its name. It is no error when there is none.
func removeNamespace(name string) error {
	path := filepath.Join(link.NamedNamespaces, name)
	if _, err := os.Lstat(path); errors.Is(err, fs.ErrNotExist) {
		return nil
	}
	killIn(path)
	if err := unix.Unmount(path, unix.MNT_DETACH); err != nil && !errors.Is(err, unix.EINVAL) { // EINVAL: it was not mounted
		return fmt.Errorf("remove network namespace %s: %w", name, os.NewSyscallError("umount", err))
	}
	if err := os.Remove(path); err != nil && !errors.Is(err, fs.ErrNotExist) {
		return fmt.Errorf("remove network namespace %s: %w", name, err)
	}
	return nil
}

// killIn ends all processes whose network namespace is the one mounted at path, but not this one.
func killIn(path string) {
	const rounds = 20 // a process that forks while it is looked for is met in the next one
	for range rounds {
		pids := processesIn(path)
		if len(pids) == 0 {
			return
		}
		for _, pid := range pids {
			_ = unix.Kill(pid, unix.SIGKILL)
		}
		time.Sleep(5 * time.Millisecond)
	}
}

func processesIn(path string) []int {
	var want unix.Stat_t
	if unix.Stat(path, &want) != nil {
		return nil
	}
	entries, err := os.ReadDir("/proc")
	if err != nil {
		return nil
	}
	var pids []int
	for _, e := range entries {
		pid, err := strconv.Atoi(e.Name())
		if err != nil || pid == os.Getpid() {
			continue
		}
		var got unix.Stat_t
		if unix.Stat("/proc/"+e.Name()+"/ns/net", &got) == nil && got.Ino == want.Ino && got.Dev == want.Dev {
			pids = append(pids, pid)
		}
	}
	return pids
}

// leftovers lists the labs that have a namespace, a socket or a log here.
func leftovers() []string {
	seen := make(map[string]bool)
	if entries, err := os.ReadDir(link.NamedNamespaces); err == nil {
		for _, e := range entries {
			for _, n := range Nodes() {
				if name, ok := strings.CutSuffix(e.Name(), "-"+string(n)); ok && validName.MatchString(name) {
					seen[name] = true
				}
			}
		}
	}
	if entries, err := os.ReadDir(directory()); err == nil {
		for _, e := range entries {
			for _, suffix := range []string{".sock", ".log"} {
				if name, ok := strings.CutSuffix(e.Name(), suffix); ok && validName.MatchString(name) {
					seen[name] = true
				}
			}
		}
	}
	return slices.Sorted(maps.Keys(seen))
}
