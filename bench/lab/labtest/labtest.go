// Package labtest joins labs to Go tests: a test main that makes labs possible, and a gate for tests that need one.
package labtest

import (
	"context"
	"os"
	"testing"

	"wanpair/bench/lab"
)

// RequireVariable, set to 1, turns tests that cannot run for want of rights from skipped into failed.
const RequireVariable = "WANPAIR_REQUIRE_ROOT"

// Main is the TestMain of packages whose tests build labs:
//
//	func TestMain(m *testing.M) { labtest.Main(m) }
func Main(m *testing.M) {
	Setup()
	os.Exit(m.Run())
}

// Setup is what Main does before it runs the tests, for packages with a TestMain of their own; call it first thing. It may start the test
// binary again, in a user namespace, and not return: see lab.Enter.
func Setup() {
	lab.Main()
	// Where it cannot be done the tests run all the same, and those that need a lab say why they do not: see Require.
	_ = lab.Enter()
}

// Require ends the test, with the reason, when labs cannot be built here: skipped, or failed where WANPAIR_REQUIRE_ROOT=1.
func Require(t testing.TB) {
	t.Helper()
	Refuse(t, lab.Check())
}

// RequireRoot is Require for tests that need the real root, for other users or for the machine's own /run.
func RequireRoot(t testing.TB) {
	t.Helper()
	Require(t)
	if lab.Entered() {
		Refuse(t, lab.ErrUserNamespace)
	}
}

// Refuse ends the test when err says why it cannot do its work here: skipped, or failed where WANPAIR_REQUIRE_ROOT=1.
func Refuse(t testing.TB, err error) {
	t.Helper()
	switch {
	case err == nil:
	case os.Getenv(RequireVariable) == "1":
		t.Fatalf("%v (and %s=1 forbids to skip)", err, RequireVariable)
	default:
		t.Skipf("skipped: %v", err)
	}
}

// Up builds a lab for the test and takes it down after it; where labs cannot be built it ends the test like Require.
func Up(t testing.TB, config lab.Config) *lab.Lab {
	t.Helper()
	Require(t)
	l, err := lab.Up(t.Context(), config)
	if err != nil {
		t.Fatalf("build the lab: %v", err)
	}
	t.Cleanup(func() {
		if err := l.Down(); err != nil {
			t.Errorf("take the lab down: %v", err)
		}
	})
	return l
}

// SetLink changes the lab's link or ends the test.
func SetLink(t testing.TB, l *lab.Lab, words ...string) {
	t.Helper()
	if err := l.SetLink(context.WithoutCancel(t.Context()), words...); err != nil {
		t.Fatalf("set the link: %v", err)
	}
}
