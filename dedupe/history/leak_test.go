package history

import (
	"fmt"
	"os"
	"strings"
	"testing"

	"go.uber.org/goleak"
)

// TestMain fails the package when a test leaves a goroutine behind that is not one of a damaged database: such a one cannot always be closed and is
// then left alone (see closeBadger).
func TestMain(m *testing.M) {
	code := m.Run()
	if left := leaks(); code == 0 && left != "" {
		fmt.Fprintln(os.Stderr, "left behind:", left)
		code = 1
	}
	os.Exit(code)
}

// leaks describes goroutines that ought not to be there.
func leaks() string {
	err := goleak.Find()
	if err == nil {
		return ""
	}
	var ours []string
	for _, g := range strings.Split(err.Error(), "Goroutine ")[1:] {
		if !strings.Contains(g, "github.com/dgraph-io/") {
			ours = append(ours, g)
		}
	}
	return strings.Join(ours, "\n")
}
