package accel

import (
	"testing"

	"pgregory.net/rapid"

	"wanpair/accel/policy"
)

func TestAdmissionOpensWithRoomToSpare(t *testing.T) {
	a := newAdmission()
	a.flowsByFiles = 0
	for _, step := range []struct {
		flows, limit int
		want         policy.Reason
	}{
		{0, 100, policy.None},
		{99, 100, policy.None},
		{100, 100, policy.FlowLimit},
		{99, 100, policy.FlowLimit},
		{91, 100, policy.FlowLimit},
		{90, 100, policy.None},
		{99, 100, policy.None},
		{120, 100, policy.FlowLimit},
		{120, 200, policy.None},
		{120, 110, policy.FlowLimit}, // raised, and lowered
		{1, 1, policy.FlowLimit},
		{0, 1, policy.None},
	} {
		if got := a.update(step.flows, step.limit); got != step.want {
			t.Errorf("%d flows of %d: %v, want %v", step.flows, step.limit, got, step.want)
		}
	}
	if len(a.crowded) != 1 {
		t.Error("nobody was told that the door had closed")
	}
}

func TestAdmissionKnowsOfDescriptors(t *testing.T) {
	a := newAdmission()
	a.flowsByFiles = flowsByFiles(1200)
	if got := a.update(300, 10_000); got != policy.Overload {
		t.Errorf("300 flows with 1200 descriptors: %v", got)
	}
	rapid.Check(t, func(t *rapid.T) {
		files := rapid.Uint64().Draw(t, "files")
		n := flowsByFiles(files)
		if n < 0 || uint64(n)*descriptorsPerFlow > files {
			t.Fatalf("%d flows of %d descriptors", n, files)
		}
	})
}
