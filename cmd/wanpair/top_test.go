package main

import (
	"errors"
	"fmt"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"wanpair/accel/stats"
)

func testFlowsReport(bytes ...uint64) stats.FlowsReport {
	r := stats.FlowsReport{Total: len(bytes)}
	for i, n := range bytes {
		r.Flows = append(r.Flows, stats.FlowReport{
			ID: uint64(i + 1), Source: fmt.Sprintf("10.1.0.%d:1000", i+1), Destination: "10.2.0.1:80", Peer: "nyc", State: stats.FlowOpen,
			LAN: stats.Traffic{Sent: n}, WAN: stats.Traffic{Sent: n / uint64(i+2)}, AgeSeconds: float64(100 - i),
		})
	}
	return r
}

// ids returns the flows in the order shown.
func (v *topView) ids(width, height int) (ids []uint64) {
	v.lines(width, height)
	for _, f := range v.flows {
		ids = append(ids, f.ID)
	}
	return ids
}

func testView() *topView {
	v := &topView{}
	start := time.Unix(1000, 0)
	v.update(start, testReport(), testFlowsReport(1000, 2000, 3000))
	v.update(start.Add(2*time.Second), testReport(), testFlowsReport(1000, 4000, 4000))
	return v
}

func TestTopRatesAndOrder(t *testing.T) {
	v := testView()
	if diff := cmp.Diff([]uint64{2, 3, 1}, v.ids(120, 40)); diff != "" { // by rate: 8, 4 and 0 kbit/s
		t.Errorf("by rate (-want +got):\n%s", diff)
	}
	if v.flows[0].now != 8000 {
		t.Errorf("rate is %v, want 8000", v.flows[0].now)
	}
	for column, want := range map[string][]uint64{"lan": {2, 3, 1}, "gain": {3, 2, 1}, "age": {1, 2, 3}, "id": {1, 2, 3}, "source": {1, 2, 3}} {
		v.sort = columnNamed(column)
		if diff := cmp.Diff(want, v.ids(120, 40)); diff != "" {
			t.Errorf("by %s (-want +got):\n%s", column, diff)
		}
	}
	v.press("r")
	v.sort = columnNamed("id")
	if diff := cmp.Diff([]uint64{3, 2, 1}, v.ids(120, 40)); diff != "" {
		t.Errorf("reversed (-want +got):\n%s", diff)
	}
}

func TestTopFitsTheTerminal(t *testing.T) {
	v := testView()
	v.flows[0].Destination = "evil\x1b[2Jhost\n:80"
	for _, width := range []int{1, 20, 80, 300} {
		for _, height := range []int{1, 5, 8, 50} {
			lines := v.lines(width, height)
			if len(lines) > height {
				t.Errorf("%dx%d: %d lines", width, height, len(lines))
			}
			for _, line := range lines {
				if n := len([]rune(line.text)); n > width {
					t.Errorf("%dx%d: line of %d characters", width, height, n)
				}
				if strings.ContainsAny(line.text, "\x1b\n\r") {
					t.Errorf("%dx%d: control characters in %q", width, height, line.text)
				}
			}
		}
	}
	if frame := v.frame(120, 40); strings.Contains(frame, "\x1b[2J") {
		t.Error("a name clears the screen")
	}
}

func TestTopKeys(t *testing.T) {
	v := testView()
	v.press("/")
	for _, key := range []string{"4", "4", "3", "x", "\x7f", "\x1b[A"} {
		v.press(key)
	}
	if v.filter != "443" || !v.typing || !v.refilter {
		t.Errorf("filter %q", v.filter)
	}
	v.press("\r")
	if v.typing || !strings.Contains(v.plain(), "filter: 443 (Esc clears)") {
		t.Errorf("filter line missing in\n%s", v.plain())
	}
	v.press("\x1b")
	if v.filter != "" {
		t.Error("Esc does not clear the filter")
	}
	v.press("<")
	if v.sort != len(topColumns())-1 {
		t.Errorf("sort %d", v.sort)
	}
	v.press(">")
	v.press("j")
	v.lines(80, 8)
	if v.first > len(v.flows) {
		t.Error("scrolled beyond the end")
	}
	v.press(" ")
	if !v.paused || !strings.Contains(v.plain(), "PAUSED") {
		t.Error("not paused")
	}
	v.fault = errors.New("nothing answers")
	if !strings.Contains(v.plain(), "nothing answers") {
		t.Error("the fault is not shown")
	}
	v.press("q")
	if !v.done {
		t.Error("q does not quit")
	}
}

func TestSplitKeys(t *testing.T) {
	for in, want := range map[string][]string{
		"q": {"q"}, "80\r": {"8", "0", "\r"}, "\x1b[A\x1b[6~q": {"\x1b[A", "\x1b[6~", "q"}, "\x1b": {"\x1b"}, "\x1b[": {"\x1b["}, "\x1b[12": {"\x1b[12"}, "": nil,
	} {
		if diff := cmp.Diff(want, splitKeys(in)); diff != "" {
			t.Errorf("%q (-want +got):\n%s", in, diff)
		}
	}
}
