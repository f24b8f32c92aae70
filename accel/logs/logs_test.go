package logs

import (
	"bytes"
	"flag"
	"fmt"
	"go/ast"
	"go/parser"
	"go/token"
	"io/fs"
	"log/slog"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"github.com/google/go-cmp/cmp"
)

//go:generate go test -run TestFieldsDocument -update

var update = flag.Bool("update", false, "rewrite generated documents")

// newLog returns a logger behind a limiter and what it wrote, without times.
func newLog(level slog.Level) (*slog.Logger, *bytes.Buffer) {
	var b bytes.Buffer
	return slog.New(NewLimiter(slog.NewTextHandler(&b, &slog.HandlerOptions{Level: level, ReplaceAttr: func(_ []string, a slog.Attr) slog.Attr {
		if a.Key == slog.TimeKey {
			return slog.Attr{}
		}
		return a
	}}))), &b
}

func TestRepeatsAreLimited(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		log, out := newLog(slog.LevelInfo)
		for range 100 {
			log.Warn("no lane", "peer", "nyc")
		}
		log.Warn("no lane", "peer", "sfo")
		log.With("peer", "lon").Warn("no lane")
		if got := strings.Count(out.String(), "peer=nyc"); got != burst {
			t.Errorf("%d lines about nyc, want %d", got, burst)
		}
		if !strings.Contains(out.String(), "peer=sfo") || !strings.Contains(out.String(), "peer=lon") {
			t.Errorf("other peers are silenced too:\n%s", out)
		}
		out.Reset()
		time.Sleep(period)
		log.Warn("no lane", "peer", "nyc")
		log.Warn("no lane", "peer", "nyc")
		want := "level=WARN msg=\"no lane\" peer=nyc suppressed=95\nlevel=WARN msg=\"no lane\" peer=nyc\n"
		if diff := cmp.Diff(want, out.String()); diff != "" {
			t.Errorf("after the period (-want +got):\n%s", diff)
		}
	})
}

func TestDebugIsNotLimited(t *testing.T) {
	log, out := newLog(slog.LevelDebug)
	for range 100 {
		log.Debug("flow ended")
	}
	if got := strings.Count(out.String(), "\n"); got != 100 {
		t.Errorf("%d lines, want 100", got)
	}
}

func TestNoFieldTwice(t *testing.T) {
	log, out := newLog(slog.LevelInfo)
	log.With("peer", "nyc").With("lane", 1).Info("a", "peer", "new york", "err", "x", "err", "y")
	log.With("peer", "nyc").WithGroup("g").Info("b", "peer", "other")
	want := "level=INFO msg=a peer=nyc lane=1 err=x\nlevel=INFO msg=b peer=nyc g.peer=other\n"
	if diff := cmp.Diff(want, out.String()); diff != "" {
		t.Errorf("lines (-want +got):\n%s", diff)
	}
}

func TestMemoryIsBounded(t *testing.T) {
	l := NewLimiter(slog.DiscardHandler)
	log := slog.New(l)
	for i := range 10 * maxKeys {
		log.Info("x", "peer", i)
	}
	// The discarding handler is not enabled, so ask directly.
	for i := range 10 * maxKeys {
		l.state.admit(time.Now(), strconv.Itoa(i))
	}
	if n := len(l.state.seen); n > maxKeys {
		t.Errorf("%d kinds remembered", n)
	}
}

func TestFieldsDocument(t *testing.T) {
	file := filepath.Join("..", "..", "docs", "log-fields.md")
	if *update {
		if err := os.WriteFile(file, []byte(Markdown()), 0o644); err != nil {
			t.Fatal(err)
		}
	}
	got, err := os.ReadFile(file)
	if err != nil {
		t.Fatal(err)
	}
	if diff := cmp.Diff(Markdown(), string(got)); diff != "" {
		t.Errorf("docs/log-fields.md is out of date, run go generate ./accel/logs (-want +got):\n%s", diff)
	}
	if !slices.IsSortedFunc(Fields(), func(a, b Field) int { return strings.Compare(a.Name, b.Name) }) {
		t.Error("the fields are not sorted")
	}
}

// TestOnlyKnownFields reads the source of the gateway: every field of every log line must be in the list.
func TestOnlyKnownFields(t *testing.T) {
	known := map[string]bool{}
	for _, f := range Fields() {
		known[f.Name] = true
	}
	calls := 0
	for _, dir := range []string{"accel", "transport", "dedupe", filepath.Join("cmd", "wanpair")} {
		err := filepath.WalkDir(filepath.Join("..", "..", dir), func(path string, d fs.DirEntry, err error) error {
			if err != nil || d.IsDir() || !strings.HasSuffix(path, ".go") || strings.HasSuffix(path, "_test.go") {
				return err
			}
			files := token.NewFileSet()
			file, err := parser.ParseFile(files, path, nil, 0)
			if err != nil {
				return err
			}
			for call := range fieldNames(file) {
				calls++
				if name, err := strconv.Unquote(call.Value); err != nil || !known[name] {
					t.Errorf("%s: field %s is not in logs.Fields", files.Position(call.Pos()), call.Value)
				}
			}
			return nil
		})
		if err != nil {
			t.Fatal(err)
		}
	}
	if calls < 10 {
		t.Errorf("only %d fields found: does this test still see the calls?", calls)
	}
}

// fieldNames finds the names of fields in calls like log.Info("message", "name", value): a literal message first, names as literals.
func fieldNames(file *ast.File) func(yield func(*ast.BasicLit) bool) {
	literal := func(e ast.Expr) (*ast.BasicLit, bool) {
		l, ok := e.(*ast.BasicLit)
		return l, ok && l.Kind == token.STRING
	}
	return func(yield func(*ast.BasicLit) bool) {
		ast.Inspect(file, func(n ast.Node) bool {
			call, ok := n.(*ast.CallExpr)
			if !ok || len(call.Args) == 0 {
				return true
			}
			method, ok := call.Fun.(*ast.SelectorExpr)
			if !ok || !slices.Contains([]string{"Debug", "Info", "Warn", "Error"}, method.Sel.Name) {
				return true
			}
			if _, ok := literal(call.Args[0]); !ok {
				return true
			}
			for i := 1; i < len(call.Args); i += 2 {
				if name, ok := literal(call.Args[i]); ok && !yield(name) {
					return false
				}
			}
			return true
		})
	}
}

func ExampleNewLimiter() {
	var b bytes.Buffer
	log := slog.New(NewLimiter(slog.NewTextHandler(&b, nil)))
	for range 1000 {
		log.Info("peer up", "peer", "nyc")
	}
	fmt.Println(strings.Count(b.String(), "\n"), "lines")
	// Output: 5 lines
}
