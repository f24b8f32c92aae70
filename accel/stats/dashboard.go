package stats

import (
	"embed"
	"io/fs"
	"net/http"
)

// page holds the dashboard: what is served is what lies in the directory.
//
//go:embed page
var page embed.FS

// dashboard serves the page and its parts. Anything else is not found.
func dashboard() http.Handler {
	root, err := fs.Sub(page, "page")
	if err != nil {
		panic(err) // the path is a constant that the compiler has seen
	}
	files := http.FileServerFS(root)
	return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		w.Header().Set("Cache-Control", "no-cache")
		files.ServeHTTP(w, r)
	})
}
