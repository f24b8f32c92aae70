package wanpair_test

import (
	"go/ast"
	"go/parser"
	"go/token"
	"io/fs"
	"path/filepath"
	"slices"
	"strings"
	"testing"
)

// wallClock are the methods and functions of package time that leave the monotonic clock behind: what is computed from them jumps when somebody sets the
// clock. (Times as time.Now gives them are compared and subtracted by their monotonic readings.)
var wallClock = []string{"Unix", "UnixMilli", "UnixMicro", "UnixNano", "In", "Local", "UTC", "AddDate", "Date"}

// mayTellTheTime lists where the wall clock is read, only to be shown or to name something, and the deadlines that lie in the past on purpose.
var mayTellTheTime = map[string]string{
	"accel/gateway.go":              "since when a peer is in its state, for the status",
	"accel/report.go":               "the same, read back",
	"accel/stats":                   "times in documents, pages and logs",
	"accel/intercept/listen.go":     "a deadline in the past",
	"accel/intercept/samples.go":    "a deadline in the past",
	"dedupe/history/epochs.go":      "the name of a directory that is being removed",
	"transport/quictun/identity.go": "a certificate that is always valid; only its key counts",
	"transport/tuntest":             "addresses, which have a method of the same name",
	"internal/beat":                 "a wait that is within its bounds whatever the clock does; a clock that is set makes one of them shorter",
	"transport/hello.go":            "the clock's skew, for the status",
	"cmd/wanpair":                   "ages and times on a terminal",
}

// TestNothingDependsOnTheWallClock finds every use of the wall clock in what runs in a gateway: whether a peer is alive, when something is repeated, given
// up or forgotten must not change when the clock is set. It cannot be set in a test, as it is the machine's.
func TestNothingDependsOnTheWallClock(t *testing.T) {
	used := map[string]bool{}
	for _, root := range []string{"accel", "dedupe", "transport", "cmd/wanpair", "internal"} {
		err := filepath.WalkDir(root, func(path string, d fs.DirEntry, err error) error {
			if err != nil || d.IsDir() || !strings.HasSuffix(path, ".go") || strings.HasSuffix(path, "_test.go") {
				return err
			}
			files := token.NewFileSet()
			file, err := parser.ParseFile(files, path, nil, 0)
			if err != nil {
				return err
			}
			ast.Inspect(file, func(n ast.Node) bool {
				call, ok := n.(*ast.CallExpr)
				if !ok {
					return true
				}
				f, ok := call.Fun.(*ast.SelectorExpr)
				if !ok || !slices.Contains(wallClock, f.Sel.Name) && !strips(call) {
					return true
				}
				for place := range mayTellTheTime {
					if below(path, place) {
						used[place] = true
						return true
					}
				}
				t.Errorf("%s: %s reads the wall clock, which may jump: keep a time.Time or time.Since, or say in this test why it does no harm", files.Position(call.Pos()), f.Sel.Name)
				return true
			})
			return nil
		})
		if err != nil {
			t.Fatal(err)
		}
	}
	for place := range mayTellTheTime {
		if !used[place] {
			t.Errorf("%s does not read the wall clock any more: take it off the list", place)
		}
	}
}

// strips says whether a call is t.Round(0), which takes the monotonic reading off a time.
func strips(call *ast.CallExpr) bool {
	if call.Fun.(*ast.SelectorExpr).Sel.Name != "Round" || len(call.Args) != 1 {
		return false
	}
	arg, ok := call.Args[0].(*ast.BasicLit)
	return ok && arg.Value == "0"
}
