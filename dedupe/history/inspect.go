package history

import (
	"cmp"
	"context"
	"errors"
	"os"
	"path/filepath"
	"slices"
	"time"
)

// EpochInfo is what can be said of an epoch without opening its database.
type EpochInfo struct {
	Extent
	Blocks   int   // held
	RawBytes int64 // in them
	Bytes    int64 // on disk, as du counts
	Written  time.Time
}

// Info is what a directory of epochs holds.
type Info struct {
	Logs   [2]State
	Epochs [2][]EpochInfo // by log, ascending
	InUse  bool           // a process has it open
}

// Inspect reads what a directory holds without changing anything; a gateway may be using it meanwhile. key is that of EpochsConfig. A directory
// that was never a cache is an error that wraps os.ErrNotExist, one written with another key one that wraps ErrKey.
func Inspect(dir string, key []byte) (Info, error) {
	rec, err := os.ReadFile(filepath.Join(dir, "state"))
	if err != nil {
		return Info{}, err
	}
	var info Info
	c, err := newCrypt(key, LogID{})
	if err != nil {
		return info, err
	}
	var ok bool
	if info.Logs, ok = openState(rec, c); !ok {
		if c.on() || stateEncrypted(rec) {
			return info, ErrKey
		}
		return info, ErrDamaged
	}
	crypts, err := newCrypts(key, info.Logs)
	if err != nil {
		return info, err
	}
	if lock, err := lockDir(dir); err == nil {
		_ = lock.Close() // free again
	} else {
		info.InUse = errors.Is(err, ErrLocked)
	}
	entries, err := os.ReadDir(dir)
	if err != nil {
		return info, err
	}
	for _, d := range entries {
		x, named := parseName(d.Name())
		if !d.IsDir() || !named {
			continue
		}
		e := newEpoch(x, dir, info.Logs[x.Log].ID, crypts[x.Log])
		i := EpochInfo{Extent: x, Bytes: diskBytes(e.dir)}
		list, _ := e.lists.lengths(x) // without a list it holds nothing
		for _, h := range list {
			i.Blocks++
			i.RawBytes += int64(h.Length)
		}
		if st, err := os.Stat(filepath.Join(e.dir, lengthsName)); err == nil {
			i.Written = st.ModTime()
		}
		info.Epochs[x.Log] = append(info.Epochs[x.Log], i)
	}
	for log := range info.Epochs {
		slices.SortFunc(info.Epochs[log], func(a, b EpochInfo) int { return cmp.Compare(a.First, b.First) })
	}
	return info, nil
}

// Report is what Verify found.
type Report struct {
	Blocks   int   // held, according to the lists
	Bytes    int64 // in those that are good
	Damaged  int   // cannot be read, or are not what was written; the gateway will find out and do without
	Unopened []Extent
}

// Verify reads every block of a directory that nobody has open and compares it with its checksum. progress is called after every block with
// the number done and the number of all; it may be nil.
func Verify(ctx context.Context, dir string, key []byte, progress func(done, all int)) (Report, error) {
	var r Report
	info, err := Inspect(dir, key)
	if err != nil {
		return r, err
	}
	lock, err := lockDir(dir)
	if err != nil {
		return r, err
	}
	defer lock.Close()
	for _, list := range info.Epochs {
		for _, i := range list {
			r.Blocks += i.Blocks
		}
	}
	crypts, err := newCrypts(key, info.Logs)
	if err != nil {
		return r, err
	}
	done := 0
	for log, list := range info.Epochs {
		for _, i := range list {
			e := newEpoch(i.Extent, dir, info.Logs[log].ID, crypts[log])
			held, _ := e.lists.lengths(i.Extent) // counted above
			opened := e.open(false) == nil
			if !opened {
				r.Unopened = append(r.Unopened, i.Extent)
			}
			for _, h := range held {
				if err := ctx.Err(); err != nil {
					return r, errors.Join(err, e.close())
				}
				var data []byte
				err := ErrDamaged
				if opened {
					data, _, err = e.read(h.Number)
				}
				if err != nil || len(data) < h.Length {
					r.Damaged++
				} else {
					r.Bytes += int64(len(data))
				}
				done++
				if progress != nil {
					progress(done, r.Blocks)
				}
			}
			if err := e.close(); err != nil {
				return r, err
			}
		}
	}
	return r, nil
}
