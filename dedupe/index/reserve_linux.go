package index

import "golang.org/x/sys/unix"

// reserve maps zeroed memory outside the collected heap, so that the table does not double through the collector's pacing, and asks for
// huge pages: a lookup is one random cache line, and without them also one miss of the page table.
func reserve(n int) (mem []byte, release func([]byte)) {
	b, err := unix.Mmap(-1, 0, n, unix.PROT_READ|unix.PROT_WRITE, unix.MAP_ANON|unix.MAP_PRIVATE|unix.MAP_NORESERVE)
	if err != nil {
		return make([]byte, n), nil
	}
	// Advice only: the table works with small pages too.
	_ = unix.Madvise(b, unix.MADV_HUGEPAGE)
	return b, func(m []byte) { _ = unix.Munmap(m) }
}
