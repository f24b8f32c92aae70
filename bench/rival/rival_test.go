package rival

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"wanpair/bench/server"
)

// versions writes a text of 2 MB and one in which a few lines changed.
func versions(t *testing.T) (old, file string) {
	t.Helper()
	dir := t.TempDir()
	old, file = filepath.Join(dir, "old"), filepath.Join(dir, "new")
	var a, b bytes.Buffer
	for i := range 40_000 {
		line := fmt.Sprintf("%08x a line of text, its number %d, and what follows from it: %x\n", i*2654435761, i, uint64(i)*0x9e3779b97f4a7c15)
		a.WriteString(line)
		if i%10_000 == 5 {
			line = strings.ToUpper(line)
		}
		b.WriteString(line)
	}
	for name, text := range map[string][]byte{old: a.Bytes(), file: b.Bytes()} {
		if err := os.WriteFile(name, text, 0o644); err != nil {
			t.Fatal(err)
		}
	}
	return old, file
}

// programs are those of a list; all of them must be there where the machine is one that must have everything.
func programs(t *testing.T, all []Program) []Program {
	t.Helper()
	there, missing := Installed(all)
	if len(missing) > 0 {
		if os.Getenv("WANPAIR_REQUIRE_ROOT") == "1" {
			t.Fatal(missing)
		}
		t.Log("not installed: ", missing)
	}
	return there
}

func TestAlone(t *testing.T) {
	_, file := versions(t)
	for _, p := range programs(t, Alone()) {
		r, err := p.Measure(t.Context(), "", file)
		if err != nil {
			t.Error(err)
			continue
		}
		if r.Ratio < 1.5 || r.Ratio > 20 || r.Rate <= 0 || r.Name != p.Name {
			t.Errorf("of a text it makes %+v", r)
		}
	}
}

// TestDelta shows that the older file is used: the changes alone are hundreds of times smaller than the file.
func TestDelta(t *testing.T) {
	old, file := versions(t)
	for _, p := range programs(t, Delta()) {
		r, err := p.Measure(t.Context(), old, file)
		if err != nil {
			t.Error(err)
			continue
		}
		if r.Ratio < 500 || r.Rate <= 0 {
			t.Errorf("of a text of which it knows an older version it makes %+v", r)
		}
		if _, err := p.Measure(t.Context(), old+"-not-there", file); err == nil || !strings.Contains(err.Error(), p.tool) {
			t.Errorf("%s without the older file: %v", p.Name, err)
		}
	}
}

func TestEnds(t *testing.T) {
	old, file := versions(t)
	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	for _, p := range append(programs(t, Alone()), programs(t, Delta())...) {
		if _, err := p.Measure(ctx, old, file); !errors.Is(err, context.Canceled) {
			t.Errorf("%s after the end: %v", p.Name, err)
		}
	}
}

func TestMissing(t *testing.T) {
	all := []Program{{Name: "nothing -9", tool: "no-such-program"}, {Name: "ours"}}
	there, missing := Installed(all)
	if len(there) != 1 || len(missing) != 1 || !strings.Contains(missing[0], "nothing -9") {
		t.Errorf("there %v, missing %v", there, missing)
	}
	_, file := versions(t)
	if _, err := all[0].Measure(t.Context(), "", file); !errors.Is(err, server.ErrMissing) {
		t.Errorf("a program that is not there: %v", err)
	}
}
