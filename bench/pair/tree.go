package pair

import (
	"archive/tar"
	"bufio"
	"crypto/sha256"
	"encoding/hex"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path/filepath"
	"strings"
	"time"
)

// errTreeFull ends the walk when enough was packed.
var errTreeFull = errors.New("enough")

// PackTree writes the regular files below root into one tar file, in the order of their names and with fixed owners and times, until
// maxBytes are reached. Of every editEvery-th text file one line is changed; 0 changes none. It returns what was written.
func PackTree(root, file string, maxBytes int64, editEvery int) (files, edited int, err error) {
	out, err := os.Create(file)
	if err != nil {
		return 0, 0, fmt.Errorf("pack tree: %w", err)
	}
	buffered := bufio.NewWriterSize(out, 1<<20)
	archive := tar.NewWriter(buffered)
	var written int64
	err = filepath.WalkDir(root, func(path string, d fs.DirEntry, err error) error {
		if err != nil || !d.Type().IsRegular() {
			return err
		}
		if written >= maxBytes {
			return errTreeFull
		}
		b, err := os.ReadFile(path)
		if err != nil {
			return err
		}
		if editEvery > 0 && files%editEvery == 0 {
			b = editText(b, files)
			edited++
		}
		files++
		written += int64(len(b)) + 1024
		name, err := filepath.Rel(root, path)
		if err != nil {
			return err
		}
		header := &tar.Header{Name: name, Size: int64(len(b)), Mode: 0o644, ModTime: time.Unix(1_700_000_000, 0), Format: tar.FormatUSTAR}
		if len(name) > 100 {
			header.Format = tar.FormatPAX
		}
		if err := archive.WriteHeader(header); err != nil {
			return err
		}
		_, err = archive.Write(b)
		return err
	})
	if errors.Is(err, errTreeFull) {
		err = nil
	}
	err = errors.Join(err, archive.Close(), buffered.Flush(), out.Close())
	if err == nil && files == 0 {
		err = fmt.Errorf("no files below %s", root)
	}
	if err != nil {
		return files, edited, fmt.Errorf("pack tree: %w", err)
	}
	return files, edited, nil
}

// editText changes one line in the middle, as a developer would: the line stays a comment-like line of its own.
func editText(b []byte, seed int) []byte {
	text := string(b)
	middle := strings.IndexByte(text[len(text)/2:], '\n')
	if middle < 0 {
		return b
	}
	at := len(text)/2 + middle + 1
	return []byte(text[:at] + fmt.Sprintf("// change %d: retry the request once more before giving up\n", seed) + text[at:])
}

// HashFile gives a file's size and SHA-256 in hex.
func HashFile(path string) (size int64, sum string, err error) {
	f, err := os.Open(path)
	if err != nil {
		return 0, "", err
	}
	defer f.Close()
	h := sha256.New()
	size, err = io.Copy(h, f)
	return size, hex.EncodeToString(h.Sum(nil)), err
}
