package history

import (
	"errors"
	"fmt"
	"os"
	"path/filepath"

	"golang.org/x/sys/unix"
)

// lockDir takes the directory's lock; the kernel gives it free when the process ends, however it ends.
func lockDir(dir string) (*os.File, error) {
	f, err := os.OpenFile(filepath.Join(dir, "lock"), os.O_RDWR|os.O_CREATE, 0o600)
	if err != nil {
		return nil, fmt.Errorf("cache lock: %w", err)
	}
	if err := unix.Flock(int(f.Fd()), unix.LOCK_EX|unix.LOCK_NB); err != nil {
		if errors.Is(err, unix.EWOULDBLOCK) {
			err = ErrLocked
		}
		return nil, errors.Join(fmt.Errorf("%s: %w", dir, err), f.Close())
	}
	return f, nil
}

// roomOnDisk tells whether the file system has space to spare: Badger maps its files, and a full disk would be a bus error. Once it was full it
// takes a quarter more to count as free again.
func roomOnDisk(dir string, wasFull bool) bool {
	var st unix.Statfs_t
	if err := unix.Statfs(dir, &st); err != nil {
		return false
	}
	free, all := st.Bavail*uint64(st.Bsize), st.Blocks*uint64(st.Bsize)
	margin := min(marginBytes, all/8)
	if wasFull {
		margin += margin / 4
	}
	return free > margin
}

// marginBytes is what stays free on a file system of 2 GiB or more; smaller ones keep an eighth.
const marginBytes = 256 << 20
