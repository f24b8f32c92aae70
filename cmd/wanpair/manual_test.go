package main

import (
	"flag"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"github.com/alecthomas/kong"

	"wanpair/cmd/wanpair/manual"
)

var update = flag.Bool("update", false, "rewrite the manual pages and the shells' completions")

func model(t *testing.T) *kong.Application {
	t.Helper()
	parser, err := newParser(&commands{}, output{})
	if err != nil {
		t.Fatal(err)
	}
	return parser.Model
}

// TestGeneratedFiles: manual pages and completions say what the program does.
func TestGeneratedFiles(t *testing.T) {
	app := model(t)
	for name, want := range map[string]string{
		"docs/man/wanpair.1":              manual.Man(app),
		"docs/man/wanpair.toml.5":         manual.ConfigMan(),
		"deploy/completions/wanpair.bash": manual.Bash(app),
		"deploy/completions/wanpair.zsh":  manual.Zsh(app),
		"deploy/completions/wanpair.fish": manual.Fish(app),
	} {
		file := filepath.Join("..", "..", filepath.FromSlash(name))
		if *update {
			if err := os.WriteFile(file, []byte(want), 0o644); err != nil {
				t.Fatal(err)
			}
		}
		got, err := os.ReadFile(file)
		if err != nil {
			t.Fatal(err)
		}
		if string(got) != want {
			t.Errorf("%s is out of date: go generate ./cmd/wanpair", name)
		}
	}
}

// TestManualPages lets groff judge the pages, where it is there, and looks for every command and flag.
func TestManualPages(t *testing.T) {
	app := model(t)
	page := manual.Man(app)
	for _, n := range app.Leaves(true) {
		if name := strings.ReplaceAll(n.Path(), "-", `\-`); !strings.Contains(page, ".SS wanpair "+strings.Split(name, " <")[0]) {
			t.Errorf("the page says nothing of %s", n.Path())
		}
		for _, f := range n.Flags {
			if !f.Hidden && !strings.Contains(page, strings.ReplaceAll("--"+f.Name, "-", `\-`)) {
				t.Errorf("the page says nothing of --%s", f.Name)
			}
		}
	}
	groff, err := exec.LookPath("groff")
	if err != nil && os.Getenv("CI") == "true" {
		t.Fatal("groff is not installed: .ci/packages brings it")
	}
	if err != nil {
		t.Skip("groff is not installed: the pages' form was not checked")
	}
	for _, text := range []string{page, manual.ConfigMan()} {
		cmd := exec.CommandContext(t.Context(), groff, "-man", "-Tutf8", "-ww", "-z")
		cmd.Stdin = strings.NewReader(text)
		if out, err := cmd.CombinedOutput(); err != nil || len(out) > 0 {
			t.Errorf("groff: %v\n%s", err, out)
		}
	}
}

// TestBashCompletion asks a real bash.
func TestBashCompletion(t *testing.T) {
	bash, err := exec.LookPath("bash")
	if err != nil {
		t.Skip("bash is not installed")
	}
	dir := t.TempDir()
	if err := os.WriteFile(filepath.Join(dir, "some.toml"), nil, 0o644); err != nil {
		t.Fatal(err)
	}
	script := filepath.Join(dir, "completion")
	if err := os.WriteFile(script, []byte(manual.Bash(model(t))), 0o644); err != nil {
		t.Fatal(err)
	}
	for line, want := range map[string][]string{
		"wanpair ca":               {"cache"},
		"wanpair k":                {"keygen"},
		"wanpair cache ":           {"info", "verify", "warm"},
		"wanpair cache warm -c so": {"some.toml"},
		"wanpair cache warm so":    {"some.toml"},
		"wanpair cache warm --pe":  {"--peer"},
		"wanpair gateway --conf":   {"--config"},
		"wanpair status --js":      {"--json"},
	} {
		words := strings.Split(line, " ")
		text := fmt.Sprintf("source %s; COMP_WORDS=('%s'); COMP_CWORD=%d; _wanpair; printf '%%s\\n' \"${COMPREPLY[@]}\"", script, strings.Join(words, "' '"), len(words)-1)
		cmd := exec.CommandContext(t.Context(), bash, "--norc", "-c", text)
		cmd.Dir = dir
		out, err := cmd.CombinedOutput()
		if err != nil {
			t.Fatalf("%s: %v\n%s", line, err, out)
		}
		got := strings.Fields(string(out))
		for _, w := range want {
			if !slices.Contains(got, w) {
				t.Errorf("%q completes to %q, want %q among it", line, got, w)
			}
		}
		if slices.Contains(got, "serve") {
			t.Errorf("%q offers a hidden command", line)
		}
	}
}

// TestOtherShellsTakeTheirFiles lets zsh and fish read their files, where they are installed.
func TestOtherShellsTakeTheirFiles(t *testing.T) {
	app := model(t)
	tried := 0
	for shell, text := range map[string]string{"zsh": manual.Zsh(app), "fish": manual.Fish(app)} {
		path, err := exec.LookPath(shell)
		if err != nil {
			continue
		}
		tried++
		file := filepath.Join(t.TempDir(), "completion")
		if err := os.WriteFile(file, []byte(text), 0o644); err != nil {
			t.Fatal(err)
		}
		if out, err := exec.CommandContext(t.Context(), path, "-n", file).CombinedOutput(); err != nil || len(out) > 0 {
			t.Errorf("%s: %v\n%s", shell, err, out)
		}
	}
	if tried == 0 {
		t.Skip("neither zsh nor fish is installed")
	}
}
