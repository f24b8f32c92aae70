package faultfs_test

import (
	"bytes"
	"errors"
	"os"
	"path/filepath"
	"syscall"
	"testing"
	"time"

	"wanpair/bench/faultfs"
	"wanpair/bench/lab/labtest"
)

func TestMain(m *testing.M) { labtest.Main(m) }

func mount(t *testing.T, suffix string) (d *faultfs.Disk, below, dir string) {
	t.Helper()
	labtest.Require(t)
	below, dir = t.TempDir(), t.TempDir()
	d, err := faultfs.Mount(below, dir, suffix)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := d.Close(); err != nil {
			t.Error(err)
		}
	})
	return d, below, dir
}

func TestWithoutFaultsItIsADirectory(t *testing.T) {
	d, _, dir := mount(t, "")
	path := filepath.Join(dir, "a", "b")
	data := bytes.Repeat([]byte("data"), 50_000)
	if err := errors.Join(os.Mkdir(filepath.Dir(path), 0o755), os.WriteFile(path, data, 0o600)); err != nil {
		t.Fatal(err)
	}
	if got, err := os.ReadFile(path); err != nil || !bytes.Equal(got, data) {
		t.Errorf("%d bytes, %v", len(got), err)
	}
	if d.Met() != 0 {
		t.Errorf("%d operations met a fault", d.Met())
	}
}

func TestFaultsAreMet(t *testing.T) {
	d, below, dir := mount(t, ".bad")
	bad, good := filepath.Join(dir, "1.bad"), filepath.Join(dir, "1.good")
	if err := os.WriteFile(filepath.Join(below, "1.bad"), make([]byte, 1000), 0o600); err != nil {
		t.Fatal(err)
	}
	f, err := os.OpenFile(bad, os.O_RDWR, 0)
	if err != nil {
		t.Fatal(err)
	}
	defer f.Close()
	d.Set(faultfs.Faults{Read: syscall.EIO, Write: syscall.ENOSPC, Sync: syscall.EIO})
	if _, err := f.Write([]byte("x")); !errors.Is(err, syscall.ENOSPC) {
		t.Errorf("write: %v", err)
	}
	if err := f.Sync(); !errors.Is(err, syscall.EIO) {
		t.Errorf("sync: %v", err)
	}
	if _, err := f.ReadAt(make([]byte, 1), 0); !errors.Is(err, syscall.EIO) {
		t.Errorf("read: %v", err)
	}
	if d.Met() < 3 {
		t.Errorf("%d operations met a fault", d.Met())
	}
	if err := os.WriteFile(good, []byte("x"), 0o600); err != nil {
		t.Errorf("a file of another name: %v", err)
	}
	d.Set(faultfs.Faults{})
	if _, err := f.Write([]byte("x")); err != nil {
		t.Errorf("afterwards: %v", err)
	}
}

func TestHangEndsWithTheFault(t *testing.T) {
	d, _, dir := mount(t, "")
	f, err := os.Create(filepath.Join(dir, "file"))
	if err != nil {
		t.Fatal(err)
	}
	defer f.Close()
	d.Set(faultfs.Faults{Write: syscall.EIO, Hang: true})
	done := make(chan error, 1)
	go func() {
		_, err := f.Write([]byte("x"))
		done <- err
	}()
	for deadline := time.Now().Add(10 * time.Second); d.Met() == 0; time.Sleep(time.Millisecond) { // the kernel brings the write here when it likes
		if time.Now().After(deadline) {
			t.Fatal("the write did not arrive")
		}
	}
	select {
	case err := <-done:
		t.Errorf("a write that should hang ended: %v", err)
	case <-time.After(50 * time.Millisecond):
	}
	d.Set(faultfs.Faults{})
	if err := <-done; err != nil {
		t.Errorf("the write that hung: %v", err)
	}
}
