package intercept

import (
	"context"
	"fmt"
	"os"
	"regexp"
	"strings"
	"testing"
)

// The page for operators shows the rules as they are, and lists every finding.
func TestDocsAreUpToDate(t *testing.T) {
	const page = "../../docs/interception.md"
	b, err := os.ReadFile(page)
	if err != nil {
		t.Fatal(err)
	}
	text := string(b)
	plan, err := Plan(planConfigs()["pair"])
	if err != nil {
		t.Fatal(err)
	}
	if *update {
		block := regexp.MustCompile("(?s)(<!-- plan: [^>]*-->\n```\n).*?(\n```)")
		text = block.ReplaceAllStringFunc(text, func(s string) string {
			parts := block.FindStringSubmatch(s)
			return parts[1] + strings.TrimSuffix(plan, "\n") + parts[2]
		})
		if err := os.WriteFile(page, []byte(text), 0o644); err != nil {
			t.Fatal(err)
		}
	}
	if !strings.Contains(text, "```\n"+plan+"```") {
		t.Errorf("%s does not show the rules as they are now; run with -update", page)
	}
	sources, err := os.ReadDir(".")
	if err != nil {
		t.Fatal(err)
	}
	code := regexp.MustCompile(`h\.add\([^,]*, "([a-z0-9_]+)"|code: "([a-z0-9_]+)"`)
	for _, f := range sources {
		if !strings.HasSuffix(f.Name(), ".go") || strings.HasSuffix(f.Name(), "_test.go") {
			continue
		}
		src, err := os.ReadFile(f.Name())
		if err != nil {
			t.Fatal(err)
		}
		for _, m := range code.FindAllStringSubmatch(string(src), -1) {
			name := m[1] + m[2]
			if unlisted := map[string]bool{"capabilities": true, "firewall_unknown": true, "iptables_unknown": true}; unlisted[name] {
				continue // they only say that something could not be read
			}
			if strings.HasPrefix(name, "kernel_") {
				name = "kernel_*"
			}
			if !strings.Contains(text, "`"+name+"`") {
				t.Errorf("finding %s is not on the page", name)
			}
		}
	}
}

func Example() {
	i, err := New(Config{
		Interfaces: []string{"lan0"},
		Subnets:    prefixes("10.1.0.0/16"),
		Peers:      []Peer{{Name: "nyc", Subnets: prefixes("10.2.0.0/16")}},
	})
	if err != nil {
		fmt.Println(err)
		return
	}
	// Before Install nothing is touched, and nothing can be asked of it.
	fmt.Println(i.SetPeerAlive("nyc", prefixes("10.2.0.0/16"), nil))
	fmt.Println(i.Run(context.Background()))
	// Output:
	// intercept: called out of order
	// intercept: called out of order
}
