package chaos

import (
	"context"
	"errors"
	"fmt"
	"math/rand/v2"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"syscall"
	"time"

	"golang.org/x/sys/unix"

	"wanpair/bench/faultfs"
)

// breakDisks lets the disks under the victims' caches fail or hang.
func breakDisks(fault string, victims []*keeper, rng *rand.Rand) (repair func() error, err error) {
	errno := syscall.EIO
	if fault == "disk-full" {
		errno = syscall.ENOSPC
	}
	which := 1 + rng.IntN(7) // at least one of the three
	f := faultfs.Faults{Hang: fault == "disk-hang"}
	if which&1 != 0 && fault != "disk-full" {
		f.Read = errno
	}
	if which&2 != 0 || fault == "disk-full" {
		f.Write = errno
	}
	if which&4 != 0 {
		f.Sync = errno
	}
	set := func(f faultfs.Faults) func(*keeper) error {
		return func(k *keeper) error {
			if k.disk == nil {
				return fmt.Errorf("%w: the cache lies on no file system of ours", errNotHere)
			}
			k.disk.Set(f)
			return nil
		}
	}
	return func() error { return each(victims, set(faultfs.Faults{})) }, each(victims, set(f))
}

// mountDisk puts a tmpfs under a gateway's cache, and on it, when it is to fail, a file system that can.
func (k *keeper) mountDisk(faulty bool) error {
	below := k.CacheDir()
	if faulty {
		below = k.belowCache()
	}
	for _, dir := range []string{below, k.CacheDir()} {
		if err := os.MkdirAll(dir, 0o755); err != nil {
			return err
		}
	}
	if err := unix.Mount("chaos", below, "tmpfs", 0, cacheDisk); err != nil {
		return os.NewSyscallError("mount tmpfs", err)
	}
	if !faulty {
		return nil
	}
	var err error
	k.disk, err = faultfs.Mount(below, k.CacheDir(), "")
	return err
}

func (k *keeper) belowCache() string { return filepath.Join(k.Dir(), "disk") }

// unmountDisk undoes mountDisk, as far as it came.
func (k *keeper) unmountDisk() error {
	var faults []error
	if k.disk != nil {
		faults = append(faults, k.disk.Close())
	}
	for _, dir := range []string{k.CacheDir(), k.belowCache()} {
		if err := unix.Unmount(dir, unix.MNT_DETACH); err != nil && !errors.Is(err, unix.EINVAL) && !errors.Is(err, unix.ENOENT) {
			faults = append(faults, os.NewSyscallError("umount", err))
		}
	}
	return errors.Join(faults...)
}

// cgroup is a control group for memory: version 2, or 1 where the memory controller is still there.
type cgroup struct {
	dir, limit string
}

// newCgroup makes one.
func newCgroup(name string) (cgroup, error) {
	for _, try := range []struct{ parent, limit string }{
		{"/sys/fs/cgroup", "memory.max"},
		{"/sys/fs/cgroup/unified", "memory.max"},
		{"/sys/fs/cgroup/memory", "memory.limit_in_bytes"},
	} {
		g := cgroup{filepath.Join(try.parent, name), try.limit}
		if os.Mkdir(g.dir, 0o755) != nil {
			continue
		}
		if _, err := os.Stat(filepath.Join(g.dir, g.limit)); err == nil {
			return g, nil
		}
		_ = os.Remove(g.dir) // a hierarchy without the controller
	}
	return cgroup{}, fmt.Errorf("%w: no control group for memory can be made", errNotHere)
}

func (g cgroup) write(file, value string) error {
	return os.WriteFile(filepath.Join(g.dir, file), []byte(value), 0o644)
}

// remove moves the group's processes to its parent and removes it.
func (g cgroup) remove() error {
	deadline := time.Now().Add(5 * time.Second)
	for {
		pids, err := os.ReadFile(filepath.Join(g.dir, "cgroup.procs"))
		if err != nil {
			return err
		}
		for pid := range strings.FieldsSeq(string(pids)) {
			_ = os.WriteFile(filepath.Join(filepath.Dir(g.dir), "cgroup.procs"), []byte(pid), 0o644) // it may have ended
		}
		if err = os.Remove(g.dir); err == nil || time.Now().After(deadline) {
			return err
		}
		time.Sleep(10 * time.Millisecond) // a process that was killed leaves when the kernel has cleaned up after it
	}
}

// starve lets the victims have no more than bytes of memory beyond what they have.
func starve(victims []*keeper, bytes int64) (repair func() error, err error) {
	var groups []cgroup
	repair = func() error {
		var faults []error
		for _, g := range groups {
			faults = append(faults, g.remove())
		}
		for _, k := range victims {
			k.mayDie(false)
		}
		return errors.Join(faults...)
	}
	err = each(victims, func(k *keeper) error {
		g, err := newCgroup(fmt.Sprintf("wanpair-chaos-%d-%s", os.Getpid(), k.side))
		if err != nil {
			return err
		}
		groups = append(groups, g)
		k.mayDie(true)
		if err := g.write(g.limit, strconv.FormatInt(bytes, 10)); err != nil {
			return err
		}
		for _, pid := range []int{k.PID(), k.store()} {
			if pid == 0 {
				continue
			}
			if err := g.write("cgroup.procs", strconv.Itoa(pid)); err != nil && !errors.Is(err, syscall.ESRCH) {
				return err
			}
		}
		return nil
	})
	if err != nil {
		err = errors.Join(err, repair())
		return nothing, err
	}
	return repair, nil
}

// exchange stops the victims in order and starts them as another binary.
func (j *injector) exchange(ctx context.Context, victims []*keeper, binary string) error {
	return each(victims, func(k *keeper) error {
		if err := k.stop(ctx); err != nil {
			return err
		}
		k.SetBinary(binary)
		return k.start(ctx)
	})
}
