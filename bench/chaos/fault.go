package chaos

import (
	"context"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"math/rand/v2"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"syscall"

	"golang.org/x/sys/unix"

	"wanpair/bench/lab"
	"wanpair/bench/pair"
)

// errNotHere says that a fault cannot be made in this campaign.
var errNotHere = errors.New("cannot be made here")

// injector breaks and repairs.
type injector struct {
	lab              *lab.Lab
	near, far        *keeper
	binary, previous string
	places           int // of caches that were damaged since somebody asked
}

// victims are the gateways a fault happens to.
func (j *injector) victims(v victim) []*keeper {
	switch v {
	case near:
		return []*keeper{j.near}
	case far:
		return []*keeper{j.far}
	case both:
		return []*keeper{j.near, j.far}
	}
	return nil
}

// inject breaks what the event says and returns how to repair it.
func (j *injector) inject(ctx context.Context, e Event) (repair func() error, err error) {
	victims := j.victims(e.Victim)
	rng := rand.New(rand.NewPCG(e.Seed, 6))
	switch e.Fault {
	case "kill":
		return j.restart(ctx, victims), each(victims, (*keeper).kill)
	case "hang":
		return func() error { return each(victims, signal(syscall.SIGCONT)) }, each(victims, signal(syscall.SIGSTOP))
	case "cut":
		return func() error { return j.lab.SetLink(ctx, "both", "up") }, j.lab.SetLink(ctx, "both", "down")
	case "wipe":
		return j.restart(ctx, victims), each(victims, func(k *keeper) error { return errors.Join(k.kill(), empty(k.CacheDir())) })
	case "truncate", "flip":
		damage := func(k *keeper) error {
			n, err := damageCache(k.CacheDir(), rng, e.Fault == "truncate")
			j.places += n
			return err
		}
		if !e.Stopped {
			return nothing, each(victims, damage)
		}
		return j.restart(ctx, victims), each(victims, func(k *keeper) error { return errors.Join(k.kill(), damage(k)) })
	case "delete":
		return nothing, each(victims, func(k *keeper) error { return removeFiles(k.CacheDir()) })
	case "full":
		return func() error { return each(victims, func(k *keeper) error { return os.Remove(ballast(k)) }) }, each(victims, fill)
	case "udp":
		return func() error {
				return each(victims, func(k *keeper) error { return j.run(ctx, k, "nft", "delete", "table", "inet", "chaos") })
			}, each(victims, func(k *keeper) error {
				return j.run(ctx, k, "nft", fmt.Sprintf("table inet chaos { chain in { type filter hook input priority -200; udp dport %d drop; udp sport %[1]d drop; }; }", pair.TunnelPort))
			})
	case "flush":
		return nothing, each(victims, func(k *keeper) error { return j.run(ctx, k, "nft", "flush", "ruleset") })
	case "routing":
		return nothing, each(victims, func(k *keeper) error { return j.unroute(ctx, k) })
	case "descriptors":
		return limitFiles(victims)
	case "restart":
		return j.restart(ctx, victims), each(victims, func(k *keeper) error { return k.stop(ctx) })
	case "store-kill", "store-hang", "store-eio":
		return j.store(e.Fault, victims)
	case "disk-eio", "disk-full", "disk-hang":
		return breakDisks(e.Fault, victims, rng)
	case "memory":
		return starve(victims, int64(4+rng.IntN(28))<<20)
	case "upgrade":
		if j.previous == "" {
			return nothing, fmt.Errorf("%w: no binary of the version before (--previous)", errNotHere)
		}
		return func() error { return j.exchange(ctx, victims, j.binary) }, j.exchange(ctx, victims, j.previous)
	}
	return nothing, fmt.Errorf("%w: %s", ErrFault, e.Fault)
}

func nothing() error { return nil }

// each calls f for all victims.
func each(victims []*keeper, f func(*keeper) error) error {
	var faults []error
	for _, k := range victims {
		if err := f(k); err != nil {
			faults = append(faults, fmt.Errorf("%s: %w", k.side, err))
		}
	}
	return errors.Join(faults...)
}

func signal(s syscall.Signal) func(*keeper) error {
	return func(k *keeper) error {
		if !k.Running() {
			return nil // it died by itself; the keeper says so
		}
		return k.Signal(s)
	}
}

// restart starts the victims again.
func (j *injector) restart(ctx context.Context, victims []*keeper) func() error {
	return func() error {
		return each(victims, func(k *keeper) error {
			if k.Running() {
				return nil
			}
			return k.start(ctx)
		})
	}
}

// run runs a program in a gateway's namespace.
func (j *injector) run(ctx context.Context, k *keeper, name string, args ...string) error {
	out, err := j.lab.Command(ctx, k.Node(), name, args...).CombinedOutput()
	if err != nil {
		return fmt.Errorf("%s %s: %w: %s", name, strings.Join(args, " "), err, strings.TrimSpace(string(out)))
	}
	return nil
}

// unroute deletes the rules and routes that lead diverted packets to the gateway.
func (j *injector) unroute(ctx context.Context, k *keeper) error {
	const table = "4600"
	var faults []error
	for _, family := range []string{"-4", "-6"} {
		faults = append(faults, j.run(ctx, k, "ip", family, "rule", "del", "lookup", table), j.run(ctx, k, "ip", family, "route", "flush", "table", table))
	}
	return errors.Join(faults...)
}

// empty removes everything in a directory, which stays (it is a mount point).
func empty(dir string) error {
	entries, err := os.ReadDir(dir)
	for _, e := range entries {
		err = errors.Join(err, os.RemoveAll(filepath.Join(dir, e.Name())))
	}
	return err
}

// cacheFiles lists the regular files of a cache and their sizes. Files that go while it looks are left out.
func cacheFiles(dir string) (paths []string, sizes []int64, err error) {
	err = filepath.WalkDir(dir, func(path string, d fs.DirEntry, err error) error {
		if errors.Is(err, fs.ErrNotExist) {
			return nil
		}
		if err != nil || !d.Type().IsRegular() || d.Name() == ballastName {
			return err
		}
		if info, err := d.Info(); err == nil {
			paths, sizes = append(paths, path), append(sizes, info.Size())
		}
		return nil
	})
	return paths, sizes, err
}

func removeFiles(dir string) error {
	paths, _, err := cacheFiles(dir)
	for _, path := range paths {
		if e := os.Remove(path); e != nil && !errors.Is(e, fs.ErrNotExist) {
			err = errors.Join(err, e)
		}
	}
	return err
}

// damageCache cuts files short, or flips bits at up to twenty places of each: of one to five files, or, one time in three, of all. It returns the
// number of places.
func damageCache(dir string, rng *rand.Rand, truncate bool) (places int, err error) {
	paths, sizes, err := cacheFiles(dir)
	if err != nil || len(paths) == 0 {
		return 0, err
	}
	chosen := rng.Perm(len(paths))
	if rng.IntN(3) > 0 {
		chosen = chosen[:min(len(chosen), 1+rng.IntN(5))]
	}
	for _, i := range chosen {
		if sizes[i] == 0 {
			continue
		}
		n := 1
		if truncate {
			err = os.Truncate(paths[i], rng.Int64N(sizes[i]))
		} else {
			n += rng.IntN(20)
			err = flip(paths[i], sizes[i], n, rng)
		}
		switch {
		case err == nil:
			places += n
		case !errors.Is(err, fs.ErrNotExist):
			return places, err
		}
	}
	return places, nil
}

func flip(path string, size int64, places int, rng *rand.Rand) error {
	f, err := os.OpenFile(path, os.O_RDWR, 0)
	if err != nil {
		return err
	}
	defer f.Close()
	b := make([]byte, 1)
	for range places {
		at := rng.Int64N(size)
		if _, err := f.ReadAt(b, at); errors.Is(err, io.EOF) {
			continue // the gateway has just cut it
		} else if err != nil {
			return err
		}
		b[0] ^= 1 << rng.IntN(8)
		if _, err := f.WriteAt(b, at); err != nil {
			return err
		}
	}
	return nil
}

const ballastName = "ballast"

// ballast fills the disk of a gateway's cache.
func ballast(k *keeper) string { return filepath.Join(k.CacheDir(), ballastName) }

// fill writes until the disk is full.
func fill(k *keeper) error {
	f, err := os.Create(ballast(k))
	if err != nil {
		return err
	}
	defer f.Close()
	for piece := make([]byte, 1<<20); len(piece) >= 4096; {
		if _, err := f.Write(piece); err != nil {
			if !errors.Is(err, syscall.ENOSPC) {
				return err
			}
			piece = piece[:len(piece)/2]
		}
	}
	return nil
}

// limitFiles forbids the victims further descriptors, beyond a handful.
func limitFiles(victims []*keeper) (repair func() error, err error) {
	before := map[int]unix.Rlimit{}
	err = each(victims, func(k *keeper) error {
		pid := k.PID()
		s, err := look(pid)
		if err != nil {
			return err
		}
		var old unix.Rlimit
		if err := unix.Prlimit(pid, unix.RLIMIT_NOFILE, nil, &old); err != nil {
			return os.NewSyscallError("prlimit", err)
		}
		before[pid] = old
		tight := unix.Rlimit{Cur: uint64(s.Files + 2), Max: old.Max}
		return os.NewSyscallError("prlimit", unix.Prlimit(pid, unix.RLIMIT_NOFILE, &tight, nil))
	})
	return func() error {
		for pid, old := range before {
			if err := unix.Prlimit(pid, unix.RLIMIT_NOFILE, &old, nil); err != nil && !errors.Is(err, unix.ESRCH) {
				return os.NewSyscallError("prlimit", err)
			}
		}
		return nil
	}, err
}

// store breaks the store's process.
func (j *injector) store(fault string, victims []*keeper) (repair func() error, err error) {
	var pids []int
	for _, k := range victims {
		pid := k.store()
		if pid == 0 {
			return nothing, fmt.Errorf("%w: the gateway has no store process", errNotHere)
		}
		pids = append(pids, pid)
	}
	all := func(s syscall.Signal) error {
		for _, pid := range pids {
			if err := syscall.Kill(pid, s); err != nil && !errors.Is(err, syscall.ESRCH) {
				return err
			}
		}
		return nil
	}
	switch fault {
	case "store-kill":
		return nothing, all(syscall.SIGKILL)
	case "store-hang":
		return func() error { return all(syscall.SIGCONT) }, all(syscall.SIGSTOP)
	}
	if _, err := exec.LookPath("strace"); err != nil {
		return nothing, fmt.Errorf("%w: strace is not installed", errNotHere)
	}
	var tracers []*exec.Cmd
	for _, pid := range pids {
		cmd := exec.Command("strace", "-f", "-qq", "-o", "/dev/null", "-p", fmt.Sprint(pid), "-e", "trace=fsync,fdatasync,msync,ftruncate,pwrite64",
			"-e", "inject=fsync,fdatasync,msync,ftruncate,pwrite64:error=EIO")
		if err := cmd.Start(); err != nil {
			return nothing, err
		}
		tracers = append(tracers, cmd)
	}
	return func() error {
		for _, cmd := range tracers {
			_ = cmd.Process.Signal(syscall.SIGTERM) // strace lets go of the process and ends
			_ = cmd.Wait()
		}
		return all(syscall.SIGCONT)
	}, nil
}
