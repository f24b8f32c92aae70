package deploy_test

import (
	"fmt"
	"os"
	"path/filepath"
	"regexp"
	"strings"
	"testing"
)

func guides(t *testing.T) map[string]string {
	t.Helper()
	files, err := filepath.Glob("../docs/deploy/*.md")
	if err != nil || len(files) < 5 {
		t.Fatalf("guides: %v, %v", files, err)
	}
	texts := map[string]string{}
	for _, f := range files {
		texts[f] = read(t, f)
	}
	return texts
}

// TestGuidesAreComplete: each guide to a set-up shows the packets' way and says how to set up, check and undo.
func TestGuidesAreComplete(t *testing.T) {
	for file, text := range guides(t) {
		if filepath.Base(file) == "sizing.md" {
			continue
		}
		for _, heading := range []string{"\n## The packets' way\n\n```\n", "\n## Set up", "\n## Check\n", "\n## Undo\n"} {
			if !strings.Contains(text, heading) {
				t.Errorf("%s has no %q", file, strings.TrimSpace(heading))
			}
		}
	}
}

var (
	link      = regexp.MustCompile(`\]\(([^)#:]+\.md)(?:#([a-z-]+))?\)`)
	example   = regexp.MustCompile(`/usr/share/doc/wanpair/examples/([a-zA-Z0-9_./-]*[a-z])`)
	heading   = regexp.MustCompile(`(?m)^#+ (.*)$`)
	notInSlug = regexp.MustCompile(`[^a-z0-9 -]`)
)

// TestGuidesReferToWhatIsThere: links between guides lead somewhere, and every file they copy from the package's examples is packed.
func TestGuidesReferToWhatIsThere(t *testing.T) {
	places := []string{"samples/%s", "%s", "systemd/%s"} // where the build takes an example from
	for file, text := range guides(t) {
		for _, m := range link.FindAllStringSubmatch(text, -1) {
			target := filepath.Join(filepath.Dir(file), m[1])
			data, err := os.ReadFile(target)
			if err != nil {
				t.Errorf("%s: %v", file, err)
				continue
			}
			if m[2] != "" && !hasAnchor(string(data), m[2]) {
				t.Errorf("%s: no heading #%s in %s", file, m[2], m[1])
			}
		}
		for _, m := range example.FindAllStringSubmatch(text, -1) {
			name := strings.Replace(m[1], "61-wanpair-gateway.conf", "61-wanpair-gateway.sysctl.conf", 1)
			found := false
			for _, place := range places {
				if _, err := os.Stat(fmt.Sprintf(place, name)); err == nil {
					found = true
				}
			}
			if !found {
				t.Errorf("%s: no example %s", file, m[1])
			}
		}
	}
}

func hasAnchor(text, anchor string) bool {
	for _, m := range heading.FindAllStringSubmatch(text, -1) {
		if strings.ReplaceAll(notInSlug.ReplaceAllString(strings.ToLower(m[1]), ""), " ", "-") == anchor {
			return true
		}
	}
	return false
}

// TestSizingTable asks `wanpair check` for every row of the table.
func TestSizingTable(t *testing.T) {
	requireTool(t, "go")
	dir := t.TempDir()
	program := filepath.Join(dir, "wanpair")
	run(t, "go", "build", "-o", program, "../cmd/wanpair")
	key := filepath.Join(dir, "private.key")
	run(t, program, "keygen", "-o", key)

	rows := regexp.MustCompile(`(?m)^\| (\d+[GT]iB) \| (\d+[MG]iB) \| (\d+) B \| ([0-9.]+[MG]iB) \| (\d+) % \|$`).FindAllStringSubmatch(read(t, "../docs/deploy/sizing.md"), -1)
	if len(rows) < 5 {
		t.Fatalf("only %d rows found", len(rows))
	}
	for _, row := range rows {
		file := filepath.Join(dir, "wanpair.toml")
		write(t, file, fmt.Sprintf(`
[site]
name = "ams"
private_key_file = %q
[cache]
dir = %q
size = %q
memory = %q
[[peer]]
name = "nyc"
public_keys = ["pGLn7uRofkEF4zABvp71jHqrT3rnF+b6PBtFdB7iW9E="]
subnets = ["10.2.0.0/16"]
[egress]
allow = ["10.1.0.0/16"]
`, key, filepath.Join(dir, "cache"), row[1], row[2]), 0o600)
		out, _ := try(t, program, "check", "-c", file) // a disk too small for the row is a fault of this machine
		for _, want := range []string{"index " + row[4] + ",", "one in " + row[3] + " bytes, about " + row[5] + " % less"} {
			if !strings.Contains(out, want) {
				t.Errorf("size %s, memory %s: check does not say %q:\n%s", row[1], row[2], want, out)
			}
		}
	}
}
