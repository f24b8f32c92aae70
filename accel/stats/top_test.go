package stats

import (
	"encoding/json"
	"fmt"
	"testing"

	"github.com/google/go-cmp/cmp"

	"wanpair/accel/config"
)

func TestTop(t *testing.T) {
	top := NewTop()
	for _, f := range testFlows() {
		top.Ended(f)
	}
	top.Ended(Flow{Destination: "no address"})
	s := newTestServer(t, config.Stats{}, Source{Top: top})
	var got TopReport
	if err := json.Unmarshal(ask(s, loopback, "/api/v1/top?limit=2").Body.Bytes(), &got); err != nil {
		t.Fatal(err)
	}
	// Every flow counts twice: once ended, once as one that runs.
	want := TopReport{
		Ports: []Saving{{Name: "443", Flows: 2, LANBytes: 200, SavedBytes: 200}, {Name: "80", Flows: 2, LANBytes: 30, WANBytes: 6, SavedBytes: 24}},
		Hosts: []Saving{{Name: "10.2.0.1", Flows: 4, LANBytes: 230, WANBytes: 6, SavedBytes: 224}, {Name: "10.3.0.1", Flows: 2}},
	}
	if diff := cmp.Diff(want, got); diff != "" {
		t.Errorf("top (-want +got):\n%s", diff)
	}
}

func TestTopIsBoundedAndKeepsTheBest(t *testing.T) {
	top := NewTop()
	top.Ended(Flow{Destination: "10.0.0.1:1", LAN: Traffic{Sent: 1 << 40}})
	for i := range 5 * topKeys {
		top.Ended(Flow{Destination: fmt.Sprintf("host%d:%d", i, i), LAN: Traffic{Sent: uint64(i)}})
		if n := len(top.ended.hosts); n > 2*topKeys {
			t.Fatalf("%d hosts", n)
		}
	}
	if best := top.report(nil, 1); best.Hosts[0].Name != "10.0.0.1" || best.Ports[0].Name != "1" {
		t.Errorf("best is %+v", best)
	}
}
