package history

import (
	"errors"
	"io"
	"os"
	"path/filepath"
	"slices"
)

// names of the lists beside an epoch's database.
const (
	lengthsName = "lengths"
	anchorsName = "anchors"
)

// lists are the two files of an epoch that only grow: one entry per block with its length, and one record per block with its anchors. One
// goroutine writes them; they are read through descriptors of their own.
type lists struct {
	dir           string
	id            LogID
	meta, anchors *os.File
}

// open opens both for appending, with a header of their own.
func (l *lists) open() error {
	for _, f := range []struct {
		file **os.File
		name string
	}{{&l.meta, lengthsName}, {&l.anchors, anchorsName}} {
		if *f.file != nil {
			continue
		}
		file, err := os.OpenFile(filepath.Join(l.dir, f.name), os.O_RDWR|os.O_CREATE|os.O_APPEND, 0o600)
		if err != nil {
			return err
		}
		st, err := file.Stat()
		if err == nil {
			err = l.align(file, st.Size(), f.name)
		}
		if err != nil {
			return errors.Join(err, file.Close())
		}
		*f.file = file
	}
	return nil
}

// align writes the header of an empty list and cuts a torn entry off the list of lengths. (A torn anchor record ends the reading of that
// list; what is appended behind it is not found, which costs anchors and nothing else.)
func (l *lists) align(file *os.File, size int64, name string) error {
	if size < sidecarHeader {
		if err := file.Truncate(0); err != nil {
			return err
		}
		h := append([]byte(sidecarMagic), l.id[:]...)
		_, err := file.Write(append(h, 0, 0, 0, 0))
		return err
	}
	if rest := (size - sidecarHeader) % metaRecord; name == lengthsName && rest != 0 {
		return file.Truncate(size - rest)
	}
	return nil
}

// note appends to the list of lengths; the last entry of a block counts, and length 0 means that it is not held.
func (l *lists) note(number uint64, length int) error {
	if err := l.open(); err != nil {
		return err
	}
	_, err := l.meta.Write(appendMeta(nil, number, length))
	return err
}

// add notes a block and its anchors.
func (l *lists) add(number uint64, length int, packed []uint64) error {
	if err := l.open(); err != nil {
		return err
	}
	if len(packed) > 0 {
		if _, err := l.anchors.Write(appendAnchors(nil, number, packed)); err != nil {
			return err
		}
	}
	return l.note(number, length)
}

// close closes both files.
func (l *lists) close() (err error) {
	for _, f := range []**os.File{&l.meta, &l.anchors} {
		if *f != nil {
			err = errors.Join(err, (*f).Close())
			*f = nil
		}
	}
	return err
}

// header checks that a list belongs to this log.
func (l *lists) header(f io.Reader) bool {
	var h [sidecarHeader]byte
	_, err := io.ReadFull(f, h[:])
	return err == nil && string(h[:4]) == sidecarMagic && LogID(h[4:20]) == l.id
}

// lengths reads the list of lengths, the last entry of each block in x, in ascending order.
func (l *lists) lengths(x Extent) ([]Holding, error) {
	f, err := os.Open(filepath.Join(l.dir, lengthsName))
	if err != nil {
		return nil, err
	}
	defer f.Close()
	if !l.header(f) {
		return nil, ErrDamaged
	}
	held := map[uint64]int{}
	buf := make([]byte, 4096*metaRecord)
	for {
		n, err := io.ReadFull(f, buf)
		for rec := buf[:n-n%metaRecord]; len(rec) > 0; rec = rec[metaRecord:] {
			number, length, ok := parseMeta(rec[:metaRecord])
			switch {
			case !ok || !x.Covers(number):
			case length == 0:
				delete(held, number)
			default:
				held[number] = length
			}
		}
		if err != nil { // a list that ends early is a shorter list
			break
		}
	}
	out := make([]Holding, 0, len(held))
	for number, n := range held {
		out = append(out, Holding{number, n})
	}
	slices.SortFunc(out, func(a, b Holding) int {
		if a.Number < b.Number {
			return -1
		}
		return 1
	})
	return out, nil
}

// records returns whole records of the anchor list from an offset on, up to the first damaged one, about anchorBatch bytes.
func (l *lists) records(offset int64) (out []byte, next int64, err error) {
	f, err := os.Open(filepath.Join(l.dir, anchorsName))
	if err != nil {
		return nil, 0, err
	}
	defer f.Close()
	if !l.header(f) {
		return nil, 0, ErrDamaged
	}
	offset = max(offset, sidecarHeader)
	if _, err := f.Seek(offset, io.SeekStart); err != nil {
		return nil, 0, err
	}
	for len(out) < anchorBatch {
		at := len(out)
		out = slices.Grow(out, anchorHeader)[:at+anchorHeader]
		if _, err := io.ReadFull(f, out[at:]); err != nil {
			out = out[:at]
			break
		}
		n, ok := anchorBytes(out[at:])
		if !ok || at > 0 && at+n > MaxAnchorBytes {
			out = out[:at]
			break
		}
		out = slices.Grow(out, n-anchorHeader)[:at+n]
		if _, err := io.ReadFull(f, out[at+anchorHeader:]); err != nil || !anchorsValid(out[at:]) {
			out = out[:at]
			break
		}
	}
	return out, offset + int64(len(out)), nil
}
