// Package faultfs is a file system in user space that shows a directory as it is, until it is told to fail or hang: a disk with bad sectors,
// a full one, one that does not answer.
//
// The nouns: a [Disk] is one mounted directory; [Faults] are what its reads, writes and syncs meet at present.
package faultfs

import (
	"context"
	"fmt"
	"strings"
	"sync"
	"syscall"

	"github.com/hanwen/go-fuse/v2/fs"
	"github.com/hanwen/go-fuse/v2/fuse"
)

// Faults says what reads, writes and syncs of files meet. The zero value is a disk that works.
type Faults struct {
	Read, Write, Sync syscall.Errno // they fail with it; 0: they do not
	// Hang holds the operations of which the error above is not 0, instead of failing them, until the faults change.
	Hang bool
}

// Disk is a mounted directory.
type Disk struct {
	server *fuse.Server
	dir    string
	suffix string

	mu      sync.Mutex
	faults  Faults
	changed chan struct{} // closed when faults change
	met     int
}

// Mount shows the directory below at dir. Only files whose names end in suffix meet faults; "" is all.
func Mount(below, dir, suffix string) (*Disk, error) {
	d := &Disk{dir: dir, suffix: suffix, changed: make(chan struct{})}
	root := &fs.LoopbackRoot{Path: below}
	top := &node{&fs.LoopbackNode{RootData: root}, d}
	root.RootNode = top
	server, err := fs.Mount(dir, top, &fs.Options{MountOptions: fuse.MountOptions{DirectMountStrict: true, FsName: "faulty", AllowOther: true}})
	if err != nil {
		return nil, fmt.Errorf("mount a faulty file system: %w", err)
	}
	d.server = server
	return d, nil
}

// Set changes what is met from now on. What hangs goes on.
func (d *Disk) Set(f Faults) {
	d.mu.Lock()
	defer d.mu.Unlock()
	d.faults = f
	close(d.changed)
	d.changed = make(chan struct{})
}

// Met is the number of operations that a fault met.
func (d *Disk) Met() int {
	d.mu.Lock()
	defer d.mu.Unlock()
	return d.met
}

// Close ends all faults and unmounts; a directory that is in use vanishes when it no longer is.
func (d *Disk) Close() error {
	d.Set(Faults{})
	if err := d.server.Unmount(); err != nil {
		return syscall.Unmount(d.dir, syscall.MNT_DETACH)
	}
	return nil
}

// meet is called for every operation; which picks its fault.
func (d *Disk) meet(ctx context.Context, which func(Faults) syscall.Errno) syscall.Errno {
	for first := true; ; first = false {
		d.mu.Lock()
		errno, hang, changed := which(d.faults), d.faults.Hang, d.changed
		if errno != 0 && first {
			d.met++
		}
		d.mu.Unlock()
		if errno == 0 || !hang {
			return errno
		}
		select {
		case <-changed:
		case <-ctx.Done(): // whoever waited was killed
			return syscall.EINTR
		}
	}
}

// node is a directory or file of the directory below.
type node struct {
	*fs.LoopbackNode
	disk *Disk
}

var (
	_ fs.NodeOpener      = (*node)(nil)
	_ fs.NodeCreater     = (*node)(nil)
	_ fs.NodeWrapChilder = (*node)(nil)
)

func (n *node) WrapChild(_ context.Context, child fs.InodeEmbedder) fs.InodeEmbedder {
	return &node{child.(*fs.LoopbackNode), n.disk}
}

func (n *node) Open(ctx context.Context, flags uint32) (fs.FileHandle, uint32, syscall.Errno) {
	h, out, errno := n.LoopbackNode.Open(ctx, flags)
	return n.wrap(h, n.Path(nil)), out, errno
}

func (n *node) Create(ctx context.Context, name string, flags, mode uint32, out *fuse.EntryOut) (*fs.Inode, fs.FileHandle, uint32, syscall.Errno) {
	inode, h, fl, errno := n.LoopbackNode.Create(ctx, name, flags, mode, out)
	return inode, n.wrap(h, name), fl, errno
}

// wrap makes an open file faulty.
func (n *node) wrap(h fs.FileHandle, name string) fs.FileHandle {
	f, ok := h.(loopbackFile)
	if !ok || !strings.HasSuffix(name, n.disk.suffix) {
		return h
	}
	return &file{f, n.disk}
}

// loopbackFile is what the library's own handles can do.
type loopbackFile interface {
	fs.FileReader
	fs.FileWriter
	fs.FileReleaser
	fs.FileFlusher
	fs.FileFsyncer
	fs.FileGetattrer
	fs.FileSetattrer
	fs.FileAllocater
	fs.FileLseeker
}

type file struct {
	loopbackFile
	disk *Disk
}

func (f *file) Read(ctx context.Context, dest []byte, off int64) (fuse.ReadResult, syscall.Errno) {
	if errno := f.disk.meet(ctx, func(f Faults) syscall.Errno { return f.Read }); errno != 0 {
		return nil, errno
	}
	return f.loopbackFile.Read(ctx, dest, off)
}

func (f *file) Write(ctx context.Context, data []byte, off int64) (uint32, syscall.Errno) {
	if errno := f.disk.meet(ctx, func(f Faults) syscall.Errno { return f.Write }); errno != 0 {
		return 0, errno
	}
	return f.loopbackFile.Write(ctx, data, off)
}

func (f *file) Fsync(ctx context.Context, flags uint32) syscall.Errno {
	if errno := f.disk.meet(ctx, func(f Faults) syscall.Errno { return f.Sync }); errno != 0 {
		return errno
	}
	return f.loopbackFile.Fsync(ctx, flags)
}
