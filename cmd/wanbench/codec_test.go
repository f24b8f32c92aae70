package main

import (
	"bytes"
	"encoding/json"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"wanpair/bench/rival"
)

// editions writes a text and one in which some lines changed, below names of a corpus.
func editions(t *testing.T, dir, old, file string) {
	t.Helper()
	first := bytes.Repeat(text(t), 4)
	second := bytes.ReplaceAll(first, []byte("return err\n"), []byte("return errors.Join(err)\n"))
	for name, data := range map[string][]byte{old: first, file: second} {
		path := filepath.Join(dir, name)
		if err := os.MkdirAll(filepath.Dir(path), 0o755); err != nil {
			t.Fatal(err)
		}
		if err := os.WriteFile(path, data, 0o644); err != nil {
			t.Fatal(err)
		}
	}
}

// installed is how many of the programs there are here, and fails where all must be.
func installed(t *testing.T, all []rival.Program) int {
	t.Helper()
	there, missing := rival.Installed(all)
	if len(missing) > 0 && os.Getenv("WANPAIR_REQUIRE_ROOT") == "1" {
		t.Fatal(missing)
	}
	return len(there)
}

func TestCodecCompare(t *testing.T) {
	dir := t.TempDir()
	editions(t, dir, "old", "new")
	old, file := filepath.Join(dir, "old"), filepath.Join(dir, "new")
	out, errs, err := wanbench(t, "codec", "--compare", "--json", "--cache-size=64MiB", "--cache-memory=64MiB", old, file, file)
	if err != nil {
		t.Fatalf("%v: %s", err, errs)
	}
	var rows []codecRow
	if err := json.Unmarshal([]byte(out), &rows); err != nil || len(rows) != 3 {
		t.Fatalf("%v: %s", err, out)
	}
	want := []int{installed(t, rival.Alone()), installed(t, rival.Delta()), 0}
	for i, r := range rows {
		if !r.Verified || r.Flows != 1 || r.First != (i == 0) || len(r.Others) != want[i] {
			t.Errorf("row %d: %+v; %d others are installed", i, r, want[i])
		}
		for _, o := range r.Others {
			if o.WireBytes <= 0 || o.Rate <= 0 || r.over(o) <= 0 {
				t.Errorf("row %d: %+v", i, o)
			}
		}
	}
	if rows[1].Ratio < 2*rows[0].Ratio {
		t.Errorf("the second edition is sent at %.1f, the first at %.1f", rows[1].Ratio, rows[0].Ratio)
	}
	out, errs, err = wanbench(t, "codec", "--compare", "--cache-size=64MiB", "--cache-memory=64MiB", old, file)
	if err != nil || !strings.Contains(out, "ours over theirs") || !strings.Contains(out, "Go zstd, fastest") {
		t.Errorf("%v: %s%s", err, out, errs)
	}
}

// TestCodecWithoutPrograms shows that what is not installed is named and left out.
func TestCodecWithoutPrograms(t *testing.T) {
	dir := t.TempDir()
	editions(t, dir, "old", "new")
	t.Setenv("PATH", t.TempDir())
	out, errs, err := wanbench(t, "codec", "--compare", "--cache-size=64MiB", "--cache-memory=64MiB", filepath.Join(dir, "old"), filepath.Join(dir, "new"))
	if err != nil {
		t.Fatalf("%v: %s", err, errs)
	}
	if !strings.Contains(errs, "left out: zstd -1") || !strings.Contains(errs, "left out: xdelta3 -e -9") || strings.Contains(out, "xdelta3") {
		t.Errorf("without zstd and xdelta3:\n%s%s", out, errs)
	}
}

func TestCodecCorpus(t *testing.T) {
	dir := t.TempDir()
	editions(t, dir, "npm/5.4.5.tar", "npm/5.5.2.tar")
	editions(t, dir, "pg/query1.txt", "pg/query2.txt")
	out, errs, err := wanbench(t, "codec", "--corpus", dir, "--compare", "--interleave=8", "--markdown", "--cache-size=64MiB", "--cache-memory=64MiB")
	if err != nil {
		t.Fatalf("%v: %s", err, errs)
	}
	tables := strings.Split(strings.TrimSpace(out), "\n\n")
	if len(tables) != 2 {
		t.Fatalf("not two tables:\n%s", out)
	}
	for i, names := range [][]string{{"npm/5.5.2.tar", "pg/query2.txt"}, {"npm/5.4.5.tar", "pg/query1.txt"}} {
		lines := strings.Split(tables[i], "\n")
		if len(lines) != 4 {
			t.Fatalf("table %d:\n%s", i, tables[i])
		}
		for k, line := range lines {
			if strings.Count(line, "|") != strings.Count(lines[0], "|") {
				t.Errorf("line %d of table %d has other columns than its head:\n%s", k, i, tables[i])
			}
			if k >= 2 && !strings.HasPrefix(line, "| "+names[k-2]+" |") {
				t.Errorf("line %d of table %d is not about %s: %s", k, i, names[k-2], line)
			}
		}
		if !strings.Contains(lines[0], "| 8 flows |") {
			t.Errorf("no column of the interleaved flows: %s", lines[0])
		}
	}
	if !strings.Contains(errs, "left out: images (not in "+dir+")") {
		t.Errorf("what is not there is not said:\n%s", errs)
	}
}

func TestCodecRefuses(t *testing.T) {
	dir := t.TempDir()
	for _, c := range []struct {
		args []string
		want string
	}{
		{nil, "name files, or a corpus"},
		{[]string{"--corpus", dir, "/proc/self/exe"}, "name files, or a corpus"},
		{[]string{"--corpus", dir}, "holds no corpus"},
		{[]string{"--corpus", dir, "--cache-dir", dir}, "a cache of its own"},
		{[]string{"--interleave=0", "/proc/self/exe"}, "--interleave"},
		{[]string{"--cache-size=many", "/proc/self/exe"}, "is no size"},
	} {
		out, errs, err := wanbench(t, append([]string{"codec"}, c.args...)...)
		if err == nil || !strings.Contains(errs, c.want) {
			t.Errorf("%v: %v, %q%q, want %q", c.args, err, out, errs, c.want)
		}
	}
}
