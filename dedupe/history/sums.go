package history

import (
	"encoding/binary"
	"errors"
	"os"
	"path/filepath"
	"strings"

	"github.com/cespare/xxhash/v2"
)

// Badger reads its tables and its manifest in goroutines of its own, where a damaged byte is a panic that nobody can catch. So an epoch that is
// closed notes size and checksum of those files, and one that does not match them is thrown away before Badger sees it. Blocks themselves lie in
// the value log, are read in our goroutine and have checksums of their own.

// sumsName is the file beside the database that holds the notes: "wpC1", then per file a length-prefixed name, size u64, hash u64; then a hash over all.
const (
	sumsName  = "sums"
	sumsMagic = "wpC1"
	maxSmall  = 64 << 20 // of a file that is read whole to be hashed; tables and manifests stay far below
)

// noted tells whether a file of the database is covered by the notes.
func noted(name string) bool {
	return strings.HasSuffix(name, ".sst") || name == "MANIFEST" || name == "KEYREGISTRY"
}

// writeSums notes the files of a closed database. Files that were noted before must still be as they were then, or the damage done to them while
// the database was open would be noted as its right content: then there are no notes, and the next opening throws the database away.
func writeSums(dir, db string) error {
	if !checkSums(dir, db) {
		return errors.Join(ErrDamaged, os.RemoveAll(filepath.Join(dir, sumsName)))
	}
	entries, err := os.ReadDir(db)
	if err != nil {
		return err
	}
	rec := []byte(sumsMagic)
	for _, d := range entries {
		if !noted(d.Name()) {
			continue
		}
		data, err := os.ReadFile(filepath.Join(db, d.Name()))
		if err != nil {
			return err
		}
		rec = append(rec, byte(len(d.Name())))
		rec = append(rec, d.Name()...)
		rec = binary.BigEndian.AppendUint64(rec, uint64(len(data)))
		rec = binary.BigEndian.AppendUint64(rec, xxhash.Sum64(data))
	}
	rec = binary.BigEndian.AppendUint64(rec, xxhash.Sum64(rec))
	tmp := filepath.Join(dir, sumsName+".new")
	if err := os.WriteFile(tmp, rec, 0o600); err != nil {
		return err
	}
	return os.Rename(tmp, filepath.Join(dir, sumsName))
}

// mayOpen tells whether a database may be opened: its notes hold, or it was never closed. Then there is a write-ahead log and no table yet.
func mayOpen(dir, db string) bool {
	if _, err := os.Stat(filepath.Join(dir, sumsName)); err == nil {
		return checkSums(dir, db)
	}
	entries, err := os.ReadDir(db)
	if os.IsNotExist(err) {
		return true
	}
	for _, d := range entries {
		if strings.HasSuffix(d.Name(), ".sst") {
			return false
		}
	}
	return err == nil
}

// checkSums tells whether every file that was noted when the database was last closed is as it was. A manifest may have grown since, and other
// tables may be there, when the process died with the database open.
func checkSums(dir, db string) bool {
	rec, err := os.ReadFile(filepath.Join(dir, sumsName))
	if os.IsNotExist(err) {
		return true
	}
	n := len(rec) - 8
	if n < len(sumsMagic) || string(rec[:4]) != sumsMagic || binary.BigEndian.Uint64(rec[n:]) != xxhash.Sum64(rec[:n]) {
		return false
	}
	for rec = rec[4:n]; len(rec) > 0; {
		k := int(rec[0])
		if len(rec) < 1+k+16 {
			return false
		}
		name := string(rec[1 : 1+k])
		size, hash := binary.BigEndian.Uint64(rec[1+k:]), binary.BigEndian.Uint64(rec[9+k:])
		rec = rec[17+k:]
		if !checkSum(filepath.Join(db, name), name == "MANIFEST", size, hash) {
			return false
		}
	}
	return true
}

// checkSum compares one file, or the beginning of one that may have grown.
func checkSum(path string, grows bool, size, hash uint64) bool {
	st, err := os.Stat(path)
	if err != nil || st.Size() > maxSmall || size > maxSmall || uint64(st.Size()) < size || !grows && uint64(st.Size()) != size {
		return false
	}
	data, err := os.ReadFile(path)
	return err == nil && uint64(len(data)) >= size && xxhash.Sum64(data[:size]) == hash
}
