package stats

import (
	"cmp"
	"net"
	"slices"
	"sync"
)

// topKeys bounds how many ports and how many hosts are remembered; twice as many may be there between two clearances.
const topKeys = 2048

// Saving is what was gained on the connections to one port or one host.
type Saving struct {
	Name       string `json:"name"` // port number or host
	Flows      uint64 `json:"flows"`
	LANBytes   uint64 `json:"lan_bytes"` // both directions
	WANBytes   uint64 `json:"wan_bytes"`
	SavedBytes int64  `json:"saved_bytes"` // LAN minus WAN; below zero when the tunnel's framing was all that was added
}

func (s *Saving) add(f Flow) {
	lan, wan := f.LAN.Sent+f.LAN.Received, f.WAN.Sent+f.WAN.Received
	s.Flows++
	s.LANBytes += lan
	s.WANBytes += wan
	s.SavedBytes += int64(lan) - int64(wan)
}

// savings sums up flows by port and by host. Those that gained least are forgotten when there are too many: a scan of all ports must not fill the memory.
type savings struct {
	ports, hosts map[string]*Saving
}

func newSavings() savings {
	return savings{ports: map[string]*Saving{}, hosts: map[string]*Saving{}}
}

func (s savings) add(f Flow) {
	host, port, err := net.SplitHostPort(f.Destination)
	if err != nil {
		return
	}
	addTo(s.hosts, host, f)
	addTo(s.ports, port, f)
}

func addTo(m map[string]*Saving, name string, f Flow) {
	entry := m[name]
	if entry == nil {
		if len(m) >= 2*topKeys {
			for _, gone := range ranked(m)[topKeys:] {
				delete(m, gone.Name)
			}
		}
		entry = &Saving{Name: name}
		m[name] = entry
	}
	entry.add(f)
}

// ranked lists the entries, most saved first.
func ranked(m map[string]*Saving) []Saving {
	out := make([]Saving, 0, len(m))
	for _, s := range m {
		out = append(out, *s)
	}
	slices.SortFunc(out, func(a, b Saving) int {
		return cmp.Or(cmp.Compare(b.SavedBytes, a.SavedBytes), cmp.Compare(b.LANBytes, a.LANBytes), cmp.Compare(a.Name, b.Name))
	})
	return out
}

// TopReport is the document of /api/v1/top.
type TopReport struct {
	Ports []Saving `json:"ports"`
	Hosts []Saving `json:"hosts"`
}

// Top remembers what ended connections gained. It may be used by any number of goroutines.
type Top struct {
	mu    sync.Mutex
	ended savings // guarded by mu
}

// NewTop remembers nothing yet.
func NewTop() *Top { return &Top{ended: newSavings()} }

// Ended adds a connection that has ended.
func (t *Top) Ended(f Flow) {
	t.mu.Lock()
	defer t.mu.Unlock()
	t.ended.add(f)
}

// report ranks ended and running connections together and returns at most n of each.
func (t *Top) report(running []Flow, n int) TopReport {
	all := newSavings()
	t.mu.Lock()
	for name, s := range t.ended.ports {
		all.ports[name] = new(*s)
	}
	for name, s := range t.ended.hosts {
		all.hosts[name] = new(*s)
	}
	t.mu.Unlock()
	for _, f := range running {
		all.add(f)
	}
	ports, hosts := ranked(all.ports), ranked(all.hosts)
	return TopReport{Ports: ports[:min(n, len(ports))], Hosts: hosts[:min(n, len(hosts))]}
}
