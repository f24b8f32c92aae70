package main

import (
	"bytes"
	"io"
	"os"
	"path/filepath"
	"strings"
	"testing"
)

// TestFileStream: all regular files below the paths, in the order of their names, and what cannot be read is left out.
func TestFileStream(t *testing.T) {
	dir := t.TempDir()
	for name, text := range map[string]string{"a/1": "one ", "a/2": "", "a/b/3": "three ", "z": "last"} {
		path := filepath.Join(dir, name)
		if err := os.MkdirAll(filepath.Dir(path), 0o755); err != nil {
			t.Fatal(err)
		}
		if err := os.WriteFile(path, []byte(text), 0o644); err != nil {
			t.Fatal(err)
		}
	}
	for _, link := range [][2]string{{"/dev/zero", "a/endless"}, {dir, "a/loop"}, {filepath.Join(dir, "a"), "linked"}} {
		if err := os.Symlink(link[0], filepath.Join(dir, link[1])); err != nil {
			t.Fatal(err)
		}
	}
	var complaints []error
	s := &fileStream{complain: func(err error) { complaints = append(complaints, err) }}
	if err := s.walk([]string{filepath.Join(dir, "linked"), filepath.Join(dir, "z"), filepath.Join(dir, "z")}); err != nil {
		t.Fatal(err)
	}
	if len(s.files) != 5 || s.bytes != 4+6+4+4 {
		t.Errorf("%d files, %d bytes: %v", len(s.files), s.bytes, s.files)
	}
	if err := os.Remove(filepath.Join(dir, "a/b/3")); err != nil { // between the walk and the reading
		t.Fatal(err)
	}
	got, err := io.ReadAll(s)
	if err != nil || string(got) != "one lastlast" {
		t.Errorf("%q, %v", got, err)
	}
	if s.skipped != 1 || len(complaints) != 1 {
		t.Errorf("%d skipped: %v", s.skipped, complaints)
	}
	if err := s.walk([]string{filepath.Join(dir, "nowhere")}); err == nil {
		t.Error("a path that is not there was taken")
	}
}

func TestCacheWarmWithoutAGateway(t *testing.T) {
	file, _ := cacheFile(t)
	var stdout, stderr bytes.Buffer
	if code := run([]string{"cache", "warm", "-c", file, file}, output{nil, &stdout, &stderr}); code != exitFault {
		t.Errorf("exit code %d", code)
	}
	if !strings.Contains(stderr.String(), "is the gateway running") {
		t.Errorf("it says %q", stderr.String())
	}
	stderr.Reset()
	if code := run([]string{"cache", "warm", "-c", file, t.TempDir()}, output{nil, &stdout, &stderr}); code != exitFault || !strings.Contains(stderr.String(), "no file") {
		t.Errorf("an empty directory: code %d, %q", code, stderr.String())
	}
}
