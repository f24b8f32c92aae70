package doctor

import (
	"context"
	"errors"
	"os"
	"path/filepath"
	"strconv"
	"strings"

	"golang.org/x/sys/unix"

	"wanpair/accel/config"
)

const (
	// wantedBuffer is what quic-go asks a socket's buffers to be: 7 MiB, from its own warning text and its documentation on UDP buffer sizes.
	wantedBuffer = 7 << 20

	descriptorsPerFlow = 2    // its two sockets are on two boxes, but a forward or raw connection has both here
	descriptorsBeside  = 1000 // the store's files, the tunnel's sockets, the stats server
)

// limits looks at what the kernel lets this user have. A service may be given more than the shell doctor runs in.
func limits(_ context.Context, s Subject) []Finding {
	var out []Finding
	need := uint64(s.Config.Limits.Flows)*descriptorsPerFlow + descriptorsBeside
	var files unix.Rlimit
	if err := unix.Getrlimit(unix.RLIMIT_NOFILE, &files); err == nil {
		if files.Max < need {
			out = append(out, found(Warning, AreaLimits, "Raise LimitNOFILE of the service, or lower limits.flows. Beyond the limit connections pass unaccelerated.",
				"limits.flows = %d needs about %d open files, the limit here is %d", s.Config.Limits.Flows, need, files.Max))
		} else {
			out = append(out, ok(AreaLimits, "%d open files are enough for %d flows", files.Max, s.Config.Limits.Flows))
		}
	}
	if s.Rules == nil { // with CAP_NET_ADMIN, which interception needs, buffers are forced beyond the limits
		for _, name := range []string{"rmem_max", "wmem_max"} {
			out = append(out, buffer(name, sysctl("core/"+name))...)
		}
	}
	memory := s.Config.Cache.MemoryBytes + s.Config.Limits.MemoryBytes
	if have, err := machineMemory("/proc/meminfo"); err == nil && memory > have*8/10 {
		out = append(out, found(Warning, AreaLimits, "Lower cache.memory or limits.memory: the page cache and everything else need room too.",
			"cache.memory and limits.memory together are %s, the machine has %s", config.FormatSize(memory), config.FormatSize(have)))
	}
	return out
}

// buffer judges the highest size a socket's buffer may have.
func buffer(name, text string) []Finding {
	n, err := strconv.Atoi(text)
	if err != nil || n >= wantedBuffer {
		return nil
	}
	return []Finding{found(Warning, AreaLimits, "Set net.core."+name+" = "+strconv.Itoa(wantedBuffer)+", as deploy/systemd's sysctl file does.",
		"net.core.%s is %d: bursts of a fast link do not fit into the socket's buffer", name, n)}
}

// sysctl reads a value below /proc/sys/net; "" when there is none.
func sysctl(key string) string {
	text, err := os.ReadFile(filepath.Join("/proc/sys/net", key))
	if err != nil {
		return ""
	}
	return strings.TrimSpace(string(text))
}

var errNoTotal = errors.New("no MemTotal")

// machineMemory reads the size of the memory in bytes from a file like /proc/meminfo.
func machineMemory(path string) (int64, error) {
	text, err := os.ReadFile(path)
	if err != nil {
		return 0, err
	}
	for line := range strings.Lines(string(text)) {
		if f := strings.Fields(line); len(f) == 3 && f[0] == "MemTotal:" && f[2] == "kB" {
			n, err := strconv.ParseInt(f[1], 10, 64)
			return n << 10, err
		}
	}
	return 0, errNoTotal
}

// cache looks at the disk.
func cache(_ context.Context, s Subject) []Finding {
	dir, size := s.Config.Cache.Dir, s.Config.Cache.SizeBytes
	info, err := os.Stat(dir)
	switch {
	case errors.Is(err, os.ErrNotExist):
		dir = existing(dir)
	case err != nil:
		return []Finding{found(Fault, AreaCache, "Correct cache.dir or the rights on the way to it.", "the cache directory cannot be read: %v", err)}
	case !info.IsDir():
		return []Finding{found(Fault, AreaCache, "Move it away or correct cache.dir.", "%s is no directory", dir)}
	}
	if unix.Access(dir, unix.W_OK) != nil {
		return []Finding{found(Fault, AreaCache, "Let the gateway's user own it.", "%s cannot be written by this user", dir)}
	}
	var fs unix.Statfs_t
	if err := unix.Statfs(dir, &fs); err != nil {
		return []Finding{found(Warning, AreaCache, "", "the disk under %s cannot be judged: %v", dir, err)}
	}
	var out []Finding
	free, total := int64(fs.Bavail)*fs.Bsize, int64(fs.Blocks)*fs.Bsize
	used := diskUsage(s.Config.Cache.Dir)
	switch {
	case total < size:
		out = append(out, found(Fault, AreaCache, "Lower cache.size or use a larger disk.", "cache.size is %s, the disk under %s has %s in all", config.FormatSize(size), dir, config.FormatSize(total)))
	case free+used < size:
		out = append(out, found(Warning, AreaCache, "Make room or lower cache.size: the store stops writing before the disk is full.",
			"cache.size is %s, but only %s are free beside the %s it has", config.FormatSize(size), config.FormatSize(free), config.FormatSize(used)))
	default:
		out = append(out, ok(AreaCache, "%s of %s are used, %s are free on the disk", config.FormatSize(used), config.FormatSize(size), config.FormatSize(free)))
	}
	if fs.Type == unix.TMPFS_MAGIC {
		out = append(out, found(Warning, AreaCache, "Use a disk, or count it as memory.", "%s is in memory (tmpfs): the history does not survive a reboot and takes memory beside cache.memory", dir))
	}
	if fs.Ffree == 0 && fs.Files > 0 {
		out = append(out, found(Fault, AreaCache, "Make room.", "the disk under %s has no inodes left", dir))
	}
	return out
}

// existing is the deepest directory on the way to dir that exists: the cache will be made on its disk.
func existing(dir string) string {
	for {
		up := filepath.Dir(dir)
		if _, err := os.Stat(up); err == nil || up == dir {
			return up
		}
		dir = up
	}
}

// diskUsage is what the files below a directory take, as du counts; what cannot be read counts nothing.
func diskUsage(dir string) int64 {
	total := int64(0)
	_ = filepath.WalkDir(dir, func(path string, d os.DirEntry, err error) error {
		if err != nil {
			return nil //nolint:nilerr // a file that vanished or may not be read is not counted
		}
		var st unix.Stat_t
		if unix.Lstat(path, &st) == nil {
			total += st.Blocks * 512
		}
		return nil
	})
	return total
}
