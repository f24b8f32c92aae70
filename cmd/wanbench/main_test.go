package main

import (
	"bytes"
	"os"
	"os/exec"
	"strings"
	"testing"

	"wanpair/bench/lab"
	"wanpair/bench/lab/labtest"
)

// mainVariable makes the test binary the program itself.
const mainVariable = "WANBENCH_TEST_MAIN"

func TestMain(m *testing.M) {
	lab.Main()
	if os.Getenv(mainVariable) != "" {
		main()
		os.Exit(0)
	}
	labtest.Main(m)
}

// wanbench runs the program and returns what it printed; an error carries its exit status.
func wanbench(t *testing.T, args ...string) (stdout, stderr string, err error) {
	t.Helper()
	cmd := exec.CommandContext(t.Context(), "/proc/self/exe", args...)
	cmd.Env = append(os.Environ(), mainVariable+"=1")
	var out, errs bytes.Buffer
	cmd.Stdout, cmd.Stderr = &out, &errs
	err = cmd.Run()
	return out.String(), errs.String(), err
}

func TestVersion(t *testing.T) {
	out, _, err := wanbench(t, "version")
	if err != nil || !strings.HasPrefix(out, "wanbench ") || !strings.Contains(out, " commit ") {
		t.Errorf("version gave %q, %v", out, err)
	}
}
