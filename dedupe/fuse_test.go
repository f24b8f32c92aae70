package dedupe

import (
	"context"
	"path/filepath"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"

	"github.com/hanwen/go-fuse/v2/fs"
	"github.com/hanwen/go-fuse/v2/fuse"
)

// faults is what a faulty file system does to reads and writes of files with values.
type faults struct {
	mu          sync.Mutex
	read, write syscall.Errno
	hang        chan struct{} // reads wait for it to be closed
	met         int           // reads and writes that a fault met
}

func (f *faults) set(change func(*faults)) {
	f.mu.Lock()
	defer f.mu.Unlock()
	change(f)
}

func (f *faults) count() int {
	f.mu.Lock()
	defer f.mu.Unlock()
	return f.met
}

// meet is called for every read or write.
func (f *faults) meet(ctx context.Context, errno func() syscall.Errno, hangs bool) syscall.Errno {
	f.mu.Lock()
	no, hang := errno(), f.hang
	if no != 0 || hangs && hang != nil {
		f.met++
	}
	f.mu.Unlock()
	if hangs && hang != nil {
		select {
		case <-hang:
		case <-ctx.Done(): // the reader was killed
			return syscall.EINTR
		}
	}
	return no
}

// faultyNode is a directory or file of the file system below.
type faultyNode struct {
	*fs.LoopbackNode
	faults *faults
}

var (
	_ fs.NodeOpener      = (*faultyNode)(nil)
	_ fs.NodeCreater     = (*faultyNode)(nil)
	_ fs.NodeWrapChilder = (*faultyNode)(nil)
)

func (n *faultyNode) WrapChild(_ context.Context, child fs.InodeEmbedder) fs.InodeEmbedder {
	return &faultyNode{child.(*fs.LoopbackNode), n.faults}
}

func (n *faultyNode) Open(ctx context.Context, flags uint32) (fs.FileHandle, uint32, syscall.Errno) {
	h, out, errno := n.LoopbackNode.Open(ctx, flags)
	return n.wrap(h, n.Path(nil)), out, errno
}

func (n *faultyNode) Create(ctx context.Context, name string, flags, mode uint32, out *fuse.EntryOut) (*fs.Inode, fs.FileHandle, uint32, syscall.Errno) {
	inode, h, fl, errno := n.LoopbackNode.Create(ctx, name, flags, mode, out)
	return inode, n.wrap(h, name), fl, errno
}

// wrap makes a file of values faulty.
func (n *faultyNode) wrap(h fs.FileHandle, name string) fs.FileHandle {
	file, ok := h.(loopbackFile)
	if !ok || !strings.HasSuffix(name, ".vlog") {
		return h
	}
	return &faultyFile{file, n.faults}
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

type faultyFile struct {
	loopbackFile
	faults *faults
}

func (f *faultyFile) Read(ctx context.Context, dest []byte, off int64) (fuse.ReadResult, syscall.Errno) {
	if errno := f.faults.meet(ctx, func() syscall.Errno { return f.faults.read }, true); errno != 0 {
		return nil, errno
	}
	return f.loopbackFile.Read(ctx, dest, off)
}

func (f *faultyFile) Write(ctx context.Context, data []byte, off int64) (uint32, syscall.Errno) {
	if errno := f.faults.meet(ctx, func() syscall.Errno { return f.faults.write }, false); errno != 0 {
		return 0, errno
	}
	return f.loopbackFile.Write(ctx, data, off)
}

// mountFaulty mounts a faulty file system and returns its directory.
func mountFaulty(t *testing.T) (string, *faults) {
	t.Helper()
	requireRoot(t)
	below, dir, f := t.TempDir(), t.TempDir(), &faults{}
	root := &fs.LoopbackRoot{Path: below}
	node := &faultyNode{&fs.LoopbackNode{RootData: root}, f}
	root.RootNode = node
	server, err := fs.Mount(dir, node, &fs.Options{MountOptions: fuse.MountOptions{DirectMountStrict: true, FsName: "faulty"}})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		f.set(func(f *faults) {
			f.read, f.write = 0, 0
			if f.hang != nil {
				close(f.hang)
				f.hang = nil
			}
		})
		if err := server.Unmount(); err != nil {
			_ = syscall.Unmount(dir, syscall.MNT_DETACH)
		}
	})
	return dir, f
}

// TestFaultyDisk lets reads and writes of the receiver's cache fail or hang while data that was seen before goes through, and looks that the cache
// is of use again afterwards.
func TestFaultyDisk(t *testing.T) {
	for _, c := range []struct {
		name  string
		fault func(*faults)
	}{
		{"reads fail", func(f *faults) { f.read = syscall.EIO }},
		{"writes fail", func(f *faults) { f.write = syscall.EIO }},
		{"writes find no space", func(f *faults) { f.write = syscall.ENOSPC }},
		{"reads hang", func(f *faults) { f.hang = make(chan struct{}) }},
	} {
		t.Run(c.name, func(t *testing.T) {
			if testing.Short() && c.name == "reads hang" {
				t.Skip("takes as long as a hang is tolerated")
			}
			dir, f := mountFaulty(t)
			p := newPair(t, testConfig(t.TempDir()), childConfig(filepath.Join(dir, "cache")))
			first := noise(5, 16<<20)
			p.send(p.a, p.b, first, 200_000)
			p.restart(p.b) // so that nothing is in the pages of the process
			f.set(c.fault)
			misses := 0
			began := time.Now()
			for i := range uint64(3) {
				misses += p.sendMissing(p.a, p.b, edit(first, i, 20), 200_000)
				misses += p.sendMissing(p.a, p.b, noise(20+i, 4<<20), 200_000)
			}
			st := p.b.Stats()
			if f.write != 0 {
				p.restart(p.b) // mapped pages are written at the end
			}
			t.Logf("%d misses in %v, %d faults, restarts %d, off %q", misses, time.Since(began).Round(time.Millisecond), f.count(), st.StoreRestarts, st.StoreOff)
			f.set(func(f *faults) {
				f.read, f.write = 0, 0
				if f.hang != nil {
					close(f.hang)
					f.hang = nil
				}
			})
			eventually(t, "the store works again", func() bool { st := p.b.Stats(); return st.StoreOff == "" && st.WriteBacklogBytes == 0 })
			p.begin()
			again := noise(77, 4<<20)
			p.sendMissing(p.a, p.b, again, 200_000)
			if wire := p.send(p.a, p.b, again, 200_000); wire > len(again)/10 {
				t.Errorf("afterwards %d bytes of %d go over the wire: %+v", wire, len(again), p.b.Stats())
			}
		})
	}
}
