package accel

import (
	"testing"
	"time"

	"pgregory.net/rapid"

	"wanpair/accel/config"
	"wanpair/accel/policy"
)

func TestAdmissionOpensWithRoomToSpare(t *testing.T) {
	a := newAdmission()
	a.descriptors = 0
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
		if got := a.update(step.flows, 0, step.limit); got != step.want {
			t.Errorf("%d flows of %d: %v, want %v", step.flows, step.limit, got, step.want)
		}
	}
	if len(a.attention) != 1 {
		t.Error("nobody was told that the door had closed")
	}
}

func TestAdmissionKnowsOfDescriptors(t *testing.T) {
	a := newAdmission()
	a.descriptors = FlowDescriptors(1200)
	for _, step := range []struct {
		flows, raw int
		want       policy.Reason
	}{
		{599, 0, policy.None},
		{600, 0, policy.Overload},
		{541, 0, policy.Overload},
		{540, 0, policy.None},
		{300, 299, policy.None}, // raw ones need two
		{300, 300, policy.Overload},
		{270, 270, policy.None},
	} {
		if got := a.update(step.flows, step.raw, 10_000); got != step.want {
			t.Errorf("%d flows, %d of them raw, with 1200 descriptors: %v, want %v", step.flows, step.raw, got, step.want)
		}
	}
	a = newAdmission()
	a.descriptors = 50
	for i, want := range []policy.Reason{policy.Overload, policy.Overload, policy.None} {
		if got := a.update([]int{50, 46, 45}[i], 0, 10_000); got != want {
			t.Errorf("look %d with room for 50 flows: %v, want %v", i, got, want)
		}
	}
	rapid.Check(t, func(t *rapid.T) {
		files := rapid.Uint64().Draw(t, "files")
		n := FlowDescriptors(files)
		if n < 0 || uint64(n) > files {
			t.Fatalf("%d flows of %d descriptors", n, files)
		}
	})
}

func TestAdmissionClosesWhenTheProcessorDoesNotKeepUp(t *testing.T) {
	a := newAdmission()
	a.descriptors = 0
	now := time.Now()
	look := func(n int, late time.Duration) policy.Reason {
		for range n {
			now = now.Add(peerWatchInterval + late)
			a.looked(now, late)
		}
		return a.update(1, 0, 100)
	}
	for _, step := range []struct {
		name  string
		looks int
		late  time.Duration
		want  policy.Reason
	}{
		{"timely", 100, time.Millisecond, policy.None},
		{"a little late for long", 1000, strainLate, policy.None},
		{"stopped for a while", 1, time.Minute, policy.None},
		{"timely again", 1, 0, policy.None},
		{"late", 5, 150 * time.Millisecond, policy.None},
		{"one timely look", 1, 0, policy.None},
		{"late again", 5, 150 * time.Millisecond, policy.None},
		{"late for a second", 5, 150 * time.Millisecond, policy.Overload},
		{"one timely look is no calm", 1, 0, policy.Overload},
		{"not late enough to close, too late to open", 1000, strainLate, policy.Overload},
		{"calm, but not for long", 10, time.Millisecond, policy.Overload},
		{"calm", 15, time.Millisecond, policy.None},
	} {
		if got := look(step.looks, step.late); got != step.want {
			t.Errorf("%s: %v, want %v", step.name, got, step.want)
		}
	}
	if lag := a.lag(); lag > 10*time.Millisecond {
		t.Errorf("a lag of %v is shown", lag)
	}
}

// However looks come: the door is closed only after a second of late looks, and open after a second of calm ones.
func TestStrainProperty(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		var s strain
		now := time.Now()
		lastTimely, lastRough := now, now
		for range rapid.IntRange(1, 200).Draw(t, "looks") {
			late := time.Duration(rapid.IntRange(0, 400).Draw(t, "ms")) * time.Millisecond
			now = now.Add(peerWatchInterval + late)
			was := s.over
			s.look(now, late)
			if late <= strainLate {
				lastTimely = now
			}
			if late > calmLate {
				lastRough = now
			}
			if s.over && !was && now.Sub(lastTimely) < strainTime {
				t.Fatalf("closed %v after a timely look", now.Sub(lastTimely))
			}
			if !s.over && was && now.Sub(lastRough) < calmTime {
				t.Fatalf("opened %v after a rough look", now.Sub(lastRough))
			}
		}
	})
}

func TestRoomOfAPeer(t *testing.T) {
	const budget = 100 * config.FlowFloorBytes
	var r room
	for _, step := range []struct {
		granted int64
		want    bool
	}{
		{0, false}, {99 * config.FlowFloorBytes, false}, {99*config.FlowFloorBytes + 1, true}, {99 * config.FlowFloorBytes, true},
		{budget*9/10 + 1, true}, {budget * 9 / 10, false}, {2 * budget, true}, {0, false},
	} {
		if got := r.update(step.granted, budget); got != step.want {
			t.Errorf("%d of %d bytes granted: full is %v", step.granted, budget, got)
		}
	}
	if !new(room).update(0, config.FlowFloorBytes-1) {
		t.Error("a flow fits into less than the smallest window")
	}
}
