package corpus

import (
	"archive/tar"
	"bufio"
	"crypto/sha256"
	"encoding/binary"
	"encoding/hex"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path"
	"path/filepath"
	"time"
)

// packedTime is the modification time of everything in a tar: the tree's own would differ from machine to machine.
var packedTime = time.Unix(1_700_000_000, 0)

// Pack writes the tree below dir as an uncompressed tar, each name below prefix: names in byte order within each directory, owner root, one
// time for all, modes 0644 or 0755. Only directories, regular files and symbolic links are packed.
func Pack(w io.Writer, dir, prefix string) error {
	buffered := bufio.NewWriterSize(w, 1<<20)
	t := tar.NewWriter(buffered)
	err := filepath.WalkDir(dir, func(p string, entry fs.DirEntry, err error) error {
		if err != nil {
			return err
		}
		rel, err := filepath.Rel(dir, p)
		if err != nil {
			return err
		}
		return packEntry(t, p, path.Join(prefix, filepath.ToSlash(rel)), entry)
	})
	return errors.Join(err, t.Close(), buffered.Flush())
}

func packEntry(t *tar.Writer, p, name string, entry fs.DirEntry) error {
	info, err := entry.Info()
	if err != nil {
		return err
	}
	header := &tar.Header{Name: name, ModTime: packedTime, Mode: 0o644, Format: tar.FormatGNU}
	switch {
	case info.IsDir():
		header.Typeflag, header.Name, header.Mode = tar.TypeDir, name+"/", 0o755
		return t.WriteHeader(header)
	case info.Mode()&fs.ModeSymlink != 0:
		header.Typeflag = tar.TypeSymlink
		if header.Linkname, err = os.Readlink(p); err != nil {
			return err
		}
		return t.WriteHeader(header)
	case !info.Mode().IsRegular():
		return nil
	}
	header.Typeflag, header.Size = tar.TypeReg, info.Size()
	if info.Mode()&0o111 != 0 {
		header.Mode = 0o755
	}
	f, err := os.Open(p)
	if err != nil {
		return err
	}
	defer f.Close()
	if err := t.WriteHeader(header); err != nil {
		return err
	}
	_, err = io.Copy(t, f)
	return err
}

// Unpack writes regular files of a tar below dir, those that take says yes to (nil: all), and returns how many bytes that was. Names that
// would leave dir are refused.
func Unpack(r io.Reader, dir string, take func(name string, size int64) bool) (int64, error) {
	root, err := os.OpenRoot(dir)
	if err != nil {
		return 0, err
	}
	defer root.Close()
	var total int64
	t := tar.NewReader(bufio.NewReaderSize(r, 1<<20))
	for {
		header, err := t.Next()
		if errors.Is(err, io.EOF) {
			return total, nil
		}
		if err != nil {
			return total, err
		}
		if header.Typeflag != tar.TypeReg || take != nil && !take(header.Name, header.Size) {
			continue
		}
		if err := unpackFile(root, header.Name, t); err != nil {
			return total, fmt.Errorf("unpack %s: %w", header.Name, err)
		}
		total += header.Size
	}
}

func unpackFile(root *os.Root, name string, content io.Reader) error {
	if err := root.MkdirAll(path.Dir(name), 0o755); err != nil {
		return err
	}
	f, err := root.OpenFile(name, os.O_CREATE|os.O_TRUNC|os.O_WRONLY, 0o644)
	if err != nil {
		return err
	}
	_, err = io.Copy(f, content)
	return errors.Join(err, f.Close())
}

// HashFile returns the SHA-256 of a file in hex, and its length.
func HashFile(path string) (string, int64, error) {
	f, err := os.Open(path)
	if err != nil {
		return "", 0, err
	}
	defer f.Close()
	sum := sha256.New()
	n, err := io.Copy(sum, f)
	return hex.EncodeToString(sum.Sum(nil)), n, err
}

// HashTree returns one SHA-256 in hex over names and contents of all regular files below dir, and their bytes in all. Two trees with the
// same hash hold the same files; times, owners and modes do not count, nor do files for which skip (which may be nil) says true.
func HashTree(dir string, skip func(name string) bool) (string, int64, error) {
	sum := sha256.New()
	var total int64
	err := filepath.WalkDir(dir, func(p string, entry fs.DirEntry, err error) error {
		if err != nil {
			return err
		}
		rel, err := filepath.Rel(dir, p)
		if err != nil {
			return err
		}
		if skip != nil && skip(filepath.ToSlash(rel)) {
			if entry.IsDir() {
				return fs.SkipDir
			}
			return nil
		}
		if !entry.Type().IsRegular() {
			return nil
		}
		hash, n, err := HashFile(p)
		if err != nil {
			return err
		}
		// Each part has its length before it, so that no two different trees feed the hash the same bytes.
		sum.Write(binary.BigEndian.AppendUint64(nil, uint64(len(rel))))
		io.WriteString(sum, filepath.ToSlash(rel))
		io.WriteString(sum, hash)
		total += n
		return nil
	})
	return hex.EncodeToString(sum.Sum(nil)), total, err
}
