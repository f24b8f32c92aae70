package corpus

import (
	"bytes"
	"errors"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"

	"wanpair/bench/server"
)

func TestMakeSmallPostgres(t *testing.T) {
	need(t, "initdb", "postgres", "psql", "pgbench", "pg_dump", "pg_basebackup")
	dir := openDir(t)
	var steps []string
	cfg := Config{Dir: dir, Scale: 1, Transactions: 200, Rows: 100, Progress: func(step string, _, _ int) { steps = append(steps, step) }}
	files, err := Make(t.Context(), cfg, "pg")
	if err != nil {
		t.Fatal(err)
	}
	var names []string
	for _, f := range files {
		names = append(names, f.Name)
	}
	want := []string{"base1.tar", "base2.tar", "dump1.sql", "dump2.sql", "query1.txt", "query2.txt", "wal1.bin", "wal2.bin"}
	if diff := cmp.Diff(want, names); diff != "" {
		t.Error(diff)
	}
	dump, err := os.ReadFile(filepath.Join(dir, "pg", "dump2.sql"))
	if err != nil || !bytes.Contains(dump, []byte("COPY public.pgbench_accounts")) {
		t.Errorf("dump2.sql is no dump: %v", err)
	}
	if bytes.Equal(dump, mustRead(t, filepath.Join(dir, "pg", "dump1.sql"))) {
		t.Error("the two nights are the same")
	}
	report := mustRead(t, filepath.Join(dir, "pg", "query1.txt"))
	if lines := bytes.Count(report, []byte("\n")); lines != 100 {
		t.Errorf("the report has %d lines, want 100", lines)
	}
	// The second time nothing is left to do.
	steps = nil
	if _, err := Make(t.Context(), cfg, "pg"); err != nil {
		t.Fatal(err)
	}
	if diff := cmp.Diff([]string{"done"}, steps); diff != "" {
		t.Error(diff)
	}
	left, err := filepath.Glob(filepath.Join(dir, "pg", "work*"))
	if err != nil || len(left) > 0 {
		t.Errorf("left behind: %v %v", left, err)
	}
}

func TestMakeSmallNights(t *testing.T) {
	need(t, "initdb", "postgres", "psql", "pgbench", "pg_dump", "pg_basebackup")
	dir := openDir(t)
	files, err := Make(t.Context(), Config{Dir: dir, Scale: 1, Transactions: 300}, "nights")
	if err != nil {
		t.Fatal(err)
	}
	if len(files) != 2*manyNights || files[0].Name != "base01.tar" || files[len(files)-1].Name != "dump10.sql" {
		t.Fatalf("made %v", files)
	}
	rows := 0
	for i := range manyNights {
		dump := mustRead(t, filepath.Join(dir, "nights", "dump"+nightName(i)+".sql"))
		_, history, ok := bytes.Cut(dump, []byte("COPY public.pgbench_history "))
		history, _, end := bytes.Cut(history, []byte("\n\\.\n"))
		if now := bytes.Count(history, []byte("\n")); !ok || !end || now <= rows {
			t.Errorf("night %d: %d rows of history after %d", i+1, now, rows)
		} else {
			rows = now
		}
	}
}

func TestRecordTLS(t *testing.T) {
	dir := t.TempDir()
	clear := bytes.Repeat([]byte("what nobody on the way should read\n"), 10_000)
	path := filepath.Join(dir, "clear")
	if err := os.WriteFile(path, clear, 0o644); err != nil {
		t.Fatal(err)
	}
	var record bytes.Buffer
	if err := recordTLS(t.Context(), path, &record); err != nil {
		t.Fatal(err)
	}
	got := record.Bytes()
	if len(got) <= len(clear) || len(got) > len(clear)*102/100+4096 || bytes.Contains(got, clear[:16]) {
		t.Errorf("%d bytes recorded of %d", len(got), len(clear))
	}
	records := 0
	for len(got) >= 5 { // RFC 8446, section 5.1
		n := 5 + int(got[3])<<8 + int(got[4])
		if got[0] < 20 || got[0] > 23 || got[1] != 3 || n > len(got) {
			t.Fatalf("record %d begins with % x, %d bytes left", records, got[:5], len(got))
		}
		got = got[n:]
		records++
	}
	if len(got) > 0 || records < len(clear)>>14 {
		t.Errorf("%d records, %d bytes left over", records, len(got))
	}
	if err := recordTLS(t.Context(), path, failing{}); !errors.Is(err, errors.ErrUnsupported) {
		t.Errorf("a record that cannot be written: %v", err)
	}
}

// failing takes no byte.
type failing struct{}

func (failing) Write([]byte) (int, error) { return 0, errors.ErrUnsupported }

func TestRows(t *testing.T) {
	dir := t.TempDir()
	rows, missing := Rows(dir)
	all := len(missing)
	if len(rows) > 0 || all < 8 {
		t.Fatalf("of nothing: %v, %v", rows, missing)
	}
	for _, name := range []string{"npm/5.4.5.tar", "npm/5.5.2.tar", "pg/dump1.sql"} {
		if err := os.MkdirAll(filepath.Dir(filepath.Join(dir, name)), 0o755); err != nil {
			t.Fatal(err)
		}
		if err := os.WriteFile(filepath.Join(dir, name), nil, 0o644); err != nil {
			t.Fatal(err)
		}
	}
	rows, missing = Rows(dir)
	if len(rows) != 1 || len(missing) != all-1 || filepath.Base(rows[0].Files[1]) != "5.5.2.tar" {
		t.Errorf("%v, %v", rows, missing)
	}
}

func TestMakeSmallModule(t *testing.T) {
	need(t, "go")
	if out, err := exec.Command("go", "mod", "download", "github.com/google/go-cmp@v0.7.0").CombinedOutput(); err != nil {
		t.Skipf("the module proxy does not answer: %v: %s", err, out)
	}
	dir := openDir(t)
	cfg := Config{Dir: dir, Module: "github.com/google/go-cmp", ModuleVersions: []string{"v0.7.0"}}
	files, err := Make(t.Context(), cfg, "source")
	if err != nil {
		t.Fatal(err)
	}
	if len(files) != 1 || files[0].Name != "v0.7.0.tar" {
		t.Fatalf("made %v", files)
	}
	first := mustRead(t, files[0].Path)
	if err := os.Remove(files[0].Path); err != nil {
		t.Fatal(err)
	}
	if _, err := Make(t.Context(), cfg, "source"); err != nil {
		t.Fatal(err)
	}
	if !bytes.Equal(first, mustRead(t, files[0].Path)) {
		t.Error("packing the same release twice gives different bytes")
	}
}

func TestMakeErrors(t *testing.T) {
	if _, err := Make(t.Context(), Config{Dir: t.TempDir()}, "nonsense"); !errors.Is(err, ErrUnknownSet) {
		t.Errorf("unknown set: %v", err)
	}
	t.Setenv("PATH", t.TempDir())
	_, err := Make(t.Context(), Config{Dir: t.TempDir()}, "npm")
	if !errors.Is(err, server.ErrMissing) || !strings.Contains(err.Error(), "Debian package npm") {
		t.Errorf("without npm: %v", err)
	}
}

func TestPackUnpack(t *testing.T) {
	src, dst := t.TempDir(), t.TempDir()
	for name, content := range map[string]string{"b.txt": "bee", "a/one.go": strings.Repeat("x", 5000), "a/two.go": "2", "empty": ""} {
		path := filepath.Join(src, name)
		if err := os.MkdirAll(filepath.Dir(path), 0o755); err != nil {
			t.Fatal(err)
		}
		if err := os.WriteFile(path, []byte(content), 0o644); err != nil {
			t.Fatal(err)
		}
	}
	var packed bytes.Buffer
	if err := Pack(&packed, src, "tree"); err != nil {
		t.Fatal(err)
	}
	if _, err := Unpack(bytes.NewReader(packed.Bytes()), dst, nil); err != nil {
		t.Fatal(err)
	}
	want, n, err := HashTree(src, nil)
	if err != nil {
		t.Fatal(err)
	}
	got, m, err := HashTree(filepath.Join(dst, "tree"), nil)
	if err != nil {
		t.Fatal(err)
	}
	if want != got || n != m || n != 5004 {
		t.Errorf("%d bytes %s came back as %d bytes %s", n, want, m, got)
	}
	if err := os.WriteFile(filepath.Join(dst, "tree", "b.txt"), []byte("bea"), 0o644); err != nil {
		t.Fatal(err)
	}
	if changed, _, _ := HashTree(filepath.Join(dst, "tree"), nil); changed == got {
		t.Error("a changed byte does not change the hash")
	}
	limited := t.TempDir()
	big := func(_ string, size int64) bool { return size >= 5000 }
	if n, err := Unpack(bytes.NewReader(packed.Bytes()), limited, big); err != nil || n != 5000 {
		t.Errorf("only the big one: %d %v", n, err)
	}
}

func TestUnpackRefusesEscape(t *testing.T) {
	evil := t.TempDir()
	if err := os.WriteFile(filepath.Join(evil, "x"), []byte("x"), 0o644); err != nil {
		t.Fatal(err)
	}
	var packed bytes.Buffer
	if err := Pack(&packed, evil, "../outside"); err != nil {
		t.Fatal(err)
	}
	if _, err := Unpack(&packed, t.TempDir(), nil); err == nil {
		t.Error("a name outside the directory was accepted")
	}
}

func TestCreateIsAtomic(t *testing.T) {
	path := filepath.Join(t.TempDir(), "f")
	wantErr := errors.New("half way")
	if err := create(path, func(f *os.File) error { f.WriteString("half"); return wantErr }); !errors.Is(err, wantErr) {
		t.Errorf("got %v", err)
	}
	for _, name := range []string{path, path + partSuffix} {
		if _, err := os.Stat(name); !errors.Is(err, os.ErrNotExist) {
			t.Errorf("%s is there: %v", name, err)
		}
	}
}

// need skips, or fails where everything is required, when a program is missing.
func need(t *testing.T, tools ...string) {
	t.Helper()
	if err := server.Require(tools...); err != nil {
		if os.Getenv("WANPAIR_REQUIRE_ROOT") == "1" {
			t.Fatal(err)
		}
		t.Skip(err)
	}
}

// openDir is a directory that other users may walk to.
func openDir(t *testing.T) string {
	t.Helper()
	dir, err := os.MkdirTemp("", "wbcorpus")
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { os.RemoveAll(dir) })
	if err := os.Chmod(dir, 0o755); err != nil {
		t.Fatal(err)
	}
	return dir
}

func mustRead(t *testing.T, path string) []byte {
	t.Helper()
	data, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	return data
}
