package stats

import (
	"encoding/json"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
	"testing"

	"wanpair/accel/config"
)

// deployed returns the text of a file below deploy.
func deployed(t *testing.T, path ...string) string {
	t.Helper()
	text, err := os.ReadFile(filepath.Join(append([]string{"..", "..", "deploy"}, path...)...))
	if err != nil {
		t.Fatal(err)
	}
	return string(text)
}

// TestDeployedFilesNameRealMetrics: dashboards and alerts only use what the gateway exports, with labels and values it has.
func TestDeployedFilesNameRealMetrics(t *testing.T) {
	exported := ask(newTestServer(t, config.Stats{}, Source{}), loopback, "/metrics").Body.String()
	values := map[string][]string{} // label to its values, of closed sets
	for _, m := range regexp.MustCompile(`(outcome|reason|kind|direction)="([^"]*)"`).FindAllStringSubmatch(exported, -1) {
		values[m[1]] = append(values[m[1]], m[2])
	}
	for _, file := range [][]string{{"grafana", "wanpair.json"}, {"prometheus", "wanpair.rules.yml"}} {
		text := strings.ReplaceAll(deployed(t, file...), `\"`, `"`)
		names := regexp.MustCompile(`\b(wanpair|process)_[a-z_]+`).FindAllString(text, -1)
		if len(names) == 0 {
			t.Errorf("%v names no metric", file)
		}
		for _, name := range names {
			if !strings.Contains(exported, "\n"+name+" ") && !strings.Contains(exported, "\n"+name+"{") {
				t.Errorf("%v: %s is not exported", file, name)
			}
		}
		for _, m := range regexp.MustCompile(`(outcome|reason|kind|direction)=~?"([^"]*)"`).FindAllStringSubmatch(text, -1) {
			for value := range strings.SplitSeq(m[2], "|") {
				if !slices.Contains(values[m[1]], value) {
					t.Errorf("%v: there is no %s %q", file, m[1], value)
				}
			}
		}
	}
}

func TestGrafanaDashboard(t *testing.T) {
	var d struct {
		UID    string
		Panels []struct {
			ID      int
			Title   string
			GridPos struct{ X, Y, W, H int }
			Targets []struct{ Expr string }
		}
	}
	if err := json.Unmarshal([]byte(deployed(t, "grafana", "wanpair.json")), &d); err != nil {
		t.Fatal(err)
	}
	if d.UID == "" || len(d.Panels) == 0 {
		t.Fatal("no dashboard")
	}
	ids := map[int]bool{}
	rules := "groups:\n  - name: panels\n    rules:\n"
	for i, p := range d.Panels {
		if ids[p.ID] || len(p.Targets) == 0 {
			t.Errorf("panel %q: number used twice, or nothing to show", p.Title)
		}
		ids[p.ID] = true
		for _, q := range d.Panels[:i] {
			a, b := p.GridPos, q.GridPos
			if a.X < b.X+b.W && b.X < a.X+a.W && a.Y < b.Y+b.H && b.Y < a.Y+a.H {
				t.Errorf("panels %q and %q overlap", p.Title, q.Title)
			}
		}
		for j, target := range p.Targets { // as Grafana fills in its variables
			expr := strings.NewReplacer("$__rate_interval", "1m", "$instance", ".*", "$peer", ".*").Replace(target.Expr)
			rules += fmt.Sprintf("      - {record: panel%d_%d, expr: %q}\n", p.ID, j, expr)
		}
	}
	// promtool reads rules, so the expressions become some.
	file := filepath.Join(t.TempDir(), "panels.yml")
	if err := os.WriteFile(file, []byte(rules), 0o600); err != nil {
		t.Fatal(err)
	}
	promtool(t, "", "check", "rules", file)
}

// promtool runs Prometheus' own checks in a directory. Where it is not installed the test is skipped, or fails where everything must run.
func promtool(t *testing.T, dir string, args ...string) {
	t.Helper()
	path, err := exec.LookPath("promtool")
	if err != nil {
		if os.Getenv("WANPAIR_REQUIRE_ROOT") == "1" {
			t.Fatal(err)
		}
		t.Skipf("not checked by Prometheus: %v", err)
	}
	cmd := exec.CommandContext(t.Context(), path, args...)
	cmd.Dir = dir
	if out, err := cmd.CombinedOutput(); err != nil {
		t.Errorf("promtool %v: %v\n%s", args, err, out)
	}
}

func TestAlertRules(t *testing.T) {
	dir := filepath.Join("..", "..", "deploy", "prometheus")
	promtool(t, dir, "check", "rules", "--lint-fatal", "wanpair.rules.yml")
	promtool(t, dir, "test", "rules", "wanpair.rules_test.yml")
}

// TestAlertsAreExplained: every alert has its section in the operations guide, where its runbook points.
func TestAlertsAreExplained(t *testing.T) {
	guide, err := os.ReadFile(filepath.Join("..", "..", "docs", "operations.md"))
	if err != nil {
		t.Fatal(err)
	}
	rules := deployed(t, "prometheus", "wanpair.rules.yml")
	alerts := regexp.MustCompile(`- alert: (\w+)`).FindAllStringSubmatch(rules, -1)
	if len(alerts) == 0 {
		t.Fatal("no alerts")
	}
	for _, m := range alerts {
		if !strings.Contains(string(guide), "\n#### "+m[1]+"\n") {
			t.Errorf("docs/operations.md does not explain %s", m[1])
		}
		if !strings.Contains(rules, "runbook: docs/operations.md#"+strings.ToLower(m[1])+"\n") {
			t.Errorf("%s does not point to its explanation", m[1])
		}
	}
}
