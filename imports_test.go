// Package wanpair_test guards the layering of the module.
package wanpair_test

import (
	"os/exec"
	"slices"
	"strings"
	"testing"
)

// module is what our own import paths begin with.
const module = "wanpair/"

// layer says what the packages below a path must not import. A word ending in "/..." also forbids everything below it; ours are written without the module.
type layer struct {
	path   string // "accel/flow" stands for accel/flow and all below it
	except []string
	never  []string
	why    string
}

func layers() []layer {
	return []layer{
		{path: "dedupe", never: []string{"net/...", "log/slog", "accel/...", "transport/...", "bench/...", "cmd/..."}, why: "the codec sees bytes and numbers, never sockets, and reports by errors and counters"},
		{path: "transport", never: []string{"accel/...", "dedupe/...", "bench/...", "cmd/..."}, why: "the tunnel does not know what it carries"},
		{path: "accel", never: []string{"bench/...", "cmd/..."}, why: "dependencies point down"},
		{path: "accel/flow", never: []string{"net", "log/slog", "accel/...", "dedupe/...", "transport/..."}, why: "the pumps work on any pair of streams"},
		{path: "accel/edge", never: []string{"accel/...", "dedupe/...", "transport/..."}, why: "the edge knows TCP only"},
		{path: "accel/intercept", never: []string{"dedupe/...", "transport/..."}, why: "diverting packets does not depend on what becomes of them"},
		{path: "accel/egress", never: []string{"dedupe/...", "transport/..."}, why: "dialling does not depend on where the wish came from"},
		{path: "accel/policy", never: []string{"net", "net/http", "time", "os", "dedupe/...", "transport/..."}, why: "decisions are pure: no sockets, no clock"},
		{path: "accel/config", never: []string{"accel/...", "dedupe/...", "transport/..."}, why: "the configuration is read before anything runs"},
		{path: "accel/stats", never: []string{"dedupe/...", "transport/...", "accel/peer", "accel/intercept", "accel/egress"}, why: "statistics get snapshots, not the parts they are about"},
		{path: "accel/peer", never: []string{"accel/intercept", "accel/egress", "github.com/quic-go/...", "github.com/vishvananda/..."}, why: "a peer joins a link with its codec, whatever carries it"},
		{path: "bench", never: []string{"accel/...", "dedupe/...", "transport/...", "cmd/..."}, why: "the harness drives the real programs"},
		{path: "deploy", never: []string{"accel/...", "dedupe/...", "transport/...", "bench/...", "cmd/..."}, why: "packaging is about files"},
		{path: "", except: []string{"transport/quictun"}, never: []string{"github.com/quic-go/..."}, why: "only transport/quictun may name quic-go"},
		{path: "", except: []string{"accel/stats", "cmd/wanpair"}, never: []string{"github.com/prometheus/..."}, why: "count with atomics and export in accel/stats"},
		{path: "", except: []string{"accel", "cmd", "bench", "deploy"}, never: []string{"github.com/vishvananda/...", "github.com/google/nftables/..."}, why: "only the edges of the gateway and the harness touch the kernel's network"},
		{path: "", except: []string{"accel/config", "bench"}, never: []string{"github.com/pelletier/..."}, why: "nothing else reads configuration"},
		{path: "", except: []string{"cmd"}, never: []string{"github.com/alecthomas/kong"}, why: "flags end in cmd"},
	}
}

func TestImportDirection(t *testing.T) {
	out, err := exec.CommandContext(t.Context(), "go", "list", "-e", "-f", `{{.ImportPath}}{{range .Imports}} {{.}}{{end}}`, "./...").Output()
	if err != nil {
		t.Fatal(err)
	}
	for line := range strings.Lines(string(out)) {
		words := strings.Fields(line)
		pkg := strings.TrimPrefix(words[0], module)
		for _, l := range layers() {
			for _, problem := range l.check(pkg, words[1:]) {
				t.Error(problem)
			}
		}
	}
}

// check returns what is wrong with the imports of a package, by this layer.
func (l layer) check(pkg string, imports []string) []string {
	if !below(pkg, l.path) || slices.ContainsFunc(l.except, func(path string) bool { return below(pkg, path) }) {
		return nil
	}
	var problems []string
	for _, imp := range imports {
		imp := strings.TrimPrefix(imp, module)
		if below(imp, l.path) && l.path != "" {
			continue // a layer may import its own parts
		}
		for _, never := range l.never {
			path, all := strings.CutSuffix(never, "/...")
			if imp == path || all && below(imp, path) {
				problems = append(problems, pkg+" imports "+imp+": "+l.why)
			}
		}
	}
	return problems
}

// below says whether a path is dir or lies below it. Everything lies below "".
func below(path, dir string) bool {
	return dir == "" || path == dir || strings.HasPrefix(path, dir+"/")
}

// TestLayersCatchViolations seeds one fault per rule: a guard that never fires guards nothing.
func TestLayersCatchViolations(t *testing.T) {
	tests := []struct {
		pkg, imp string
		caught   bool
	}{
		{"dedupe/index", "net", true},
		{"dedupe/index", "net/netip", true},
		{"dedupe", module + "accel/stats", true},
		{"dedupe", module + "dedupe/index", false},
		{"transport", module + "dedupe", true},
		{"transport/memtun", "github.com/quic-go/quic-go", true},
		{"transport/quictun", "github.com/quic-go/quic-go/qlog", false},
		{"accel/flow", module + "accel/edge", true},
		{"accel/flow", "net", true},
		{"accel/flow", "io", false},
		{"accel/policy", module + "accel/config", false},
		{"accel/policy", "time", true},
		{"accel/config", module + "accel/policy", true},
		{"accel/stats", module + "dedupe", true},
		{"accel/stats", "github.com/prometheus/client_golang/prometheus", false},
		{"accel", "github.com/prometheus/client_golang/prometheus", true},
		{"accel/peer", module + "dedupe", false},
		{"bench/lab", module + "transport", true},
		{"cmd/wanbench", module + "dedupe", false},
		{"dedupe/history", "github.com/vishvananda/netlink", true},
	}
	for _, tt := range tests {
		caught := false
		for _, l := range layers() {
			caught = caught || len(l.check(tt.pkg, []string{tt.imp})) > 0
		}
		if caught != tt.caught {
			t.Errorf("%s importing %s: caught %v, want %v", tt.pkg, tt.imp, caught, tt.caught)
		}
	}
}
