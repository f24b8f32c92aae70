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

// populate makes the kernel back the table's memory now, in large pages where it can; otherwise each first touch of a page would stop an encoder
// for as long as it takes to clear 2 MiB.
func populate(mem []byte) {
	_ = unix.Madvise(mem, unix.MADV_POPULATE_WRITE) // kernels before 5.14 do not know it: then first touches cost
}
