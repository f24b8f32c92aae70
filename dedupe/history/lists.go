package history

import (
	"encoding/binary"
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
	crypt         crypt
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
	if rest := (size - sidecarHeader) % int64(l.metaBytes()); name == lengthsName && rest != 0 {
		return file.Truncate(size - rest)
	}
	return nil
}

// note appends to the list of lengths; the last entry of a block counts, and length 0 means that it is not held.
func (l *lists) note(number uint64, length int) error {
	if err := l.open(); err != nil {
		return err
	}
	_, err := l.meta.Write(l.crypt.append(nil, appendMeta(nil, number, length), aboutLength))
	return err
}

// add notes a block and its anchors.
func (l *lists) add(number uint64, length int, packed []uint64) error {
	if err := l.open(); err != nil {
		return err
	}
	if len(packed) > 0 {
		if _, err := l.anchors.Write(l.appendAnchors(nil, number, packed)); err != nil {
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
	size := l.metaBytes()
	buf := make([]byte, 4096*size)
	var clear [metaRecord]byte
	for {
		n, err := io.ReadFull(f, buf)
		for rec := buf[:n-n%size]; len(rec) > 0; rec = rec[size:] {
			entry, err := l.crypt.open(clear[:0], rec[:size], aboutLength)
			number, length, ok := parseMeta(entry)
			switch {
			case err != nil || !ok || !x.Covers(number):
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

// metaBytes is the size of an entry of the list of lengths on disk.
func (l *lists) metaBytes() int { return metaRecord + l.crypt.overhead() }

// appendAnchors appends a block's anchor list as it is on disk: where it is encrypted, its length there as u32, then that.
func (l *lists) appendAnchors(dst []byte, number uint64, packed []uint64) []byte {
	rec := appendAnchors(nil, number, packed)
	if !l.crypt.on() {
		return append(dst, rec...)
	}
	dst = binary.BigEndian.AppendUint32(dst, uint32(len(rec)+l.crypt.overhead()))
	return l.crypt.append(dst, rec, aboutAnchors)
}

// records returns whole records of the anchor list from an offset on, in clear, up to the first damaged one, about anchorBatch bytes.
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
	read := readAnchors
	if l.crypt.on() {
		read = l.openAnchors
	}
	for len(out) < anchorBatch {
		more, n := read(f, out)
		if n == 0 || len(out) > 0 && len(more) > MaxAnchorBytes {
			break
		}
		out, offset = more, offset+int64(n)
	}
	return out, offset, nil
}

// readAnchors appends the next record of a list in clear to out, and says how long it is on disk: 0 when there is none that is whole.
func readAnchors(f io.Reader, out []byte) ([]byte, int) {
	at := len(out)
	out = slices.Grow(out, anchorHeader)[:at+anchorHeader]
	if _, err := io.ReadFull(f, out[at:]); err != nil {
		return nil, 0
	}
	n, ok := anchorBytes(out[at:])
	if !ok || at > 0 && at+n > MaxAnchorBytes {
		return nil, 0
	}
	out = slices.Grow(out, n-anchorHeader)[:at+n]
	if _, err := io.ReadFull(f, out[at+anchorHeader:]); err != nil || !anchorsValid(out[at:]) {
		return nil, 0
	}
	return out, n
}

// openAnchors is readAnchors for an encrypted list.
func (l *lists) openAnchors(f io.Reader, out []byte) ([]byte, int) {
	var head [4]byte
	if _, err := io.ReadFull(f, head[:]); err != nil {
		return nil, 0
	}
	n := int(binary.BigEndian.Uint32(head[:]))
	if n > anchorHeader+8*maxAnchors+l.crypt.overhead() || len(out) > 0 && len(out)+n > MaxAnchorBytes {
		return nil, 0
	}
	sealed := make([]byte, n)
	if _, err := io.ReadFull(f, sealed); err != nil {
		return nil, 0
	}
	at := len(out)
	out, err := l.crypt.open(out, sealed, aboutAnchors)
	if err != nil || !anchorsValid(out[at:]) {
		return nil, 0
	}
	return out, len(head) + n
}
