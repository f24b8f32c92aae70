package governor_test

import (
	"testing"

	"wanpair/transport/quictun/governor"
)

// TestCheck fails when an upgrade of quic-go moves what the governor sets.
func TestCheck(t *testing.T) {
	if err := governor.Check(); err != nil {
		t.Fatal(err)
	}
}
