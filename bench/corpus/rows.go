package corpus

import (
	"os"
	"path/filepath"
)

// Row is a few files that cross a link one after the other, and what that shows.
type Row struct {
	Title string
	Files []string // paths; at least one
}

// Rows lists what the sets of [Sets] are there for: what is seen for the first time, then what comes after it. Rows with a file that is not there
// are left out and their titles returned.
func Rows(dir string) (rows []Row, missing []string) {
	for _, r := range []Row{
		{"source tree, minor release", []string{"source/v1.32.0.tar", "source/v1.33.0.tar"}},
		{"source tree, patch release; again", []string{"source/v1.33.1.tar", "source/v1.33.2.tar", "source/v1.33.2.tar"}},
		{"npm package, minor release", []string{"npm/5.4.5.tar", "npm/5.5.2.tar"}},
		{"pg_dump, next night", []string{"pg/dump1.sql", "pg/dump2.sql"}},
		{"base backup, next night", []string{"pg/base1.tar", "pg/base2.tar"}},
		{"WAL of another pgbench run", []string{"pg/wal1.bin", "pg/wal2.bin"}},
		{"same report queried again", []string{"pg/query1.txt", "pg/query2.txt"}},
		{"images", []string{"images/images.tar"}},
		{"the same over TLS", []string{"images/images.tls"}},
	} {
		there := true
		for i, name := range r.Files {
			r.Files[i] = filepath.Join(dir, filepath.FromSlash(name))
			_, err := os.Stat(r.Files[i])
			there = there && err == nil
		}
		if there {
			rows = append(rows, r)
		} else {
			missing = append(missing, r.Title)
		}
	}
	return rows, missing
}
