// Package doctor looks for what keeps a gateway from working, or from working well: on this host, on the way to its peers, and in what the running gateway says.
//
// It promises to change nothing and to end in bounded time, and that each Finding says what to do. It judges from outside: that nothing was found is no proof.
//
// Its nouns: a Finding is one thing worth telling; an Area is what it is about.
package doctor

import (
	"context"
	"fmt"
	"slices"
	"time"

	"wanpair/accel/config"
	"wanpair/accel/intercept"
	"wanpair/accel/stats"
)

// Severity is how bad a finding is.
type Severity uint8

// The severities.
const (
	OK      Severity = iota // looked at and right
	Note                    // a limit worth knowing
	Warning                 // costs something, or may be meant
	Fault                   // something does not work
)

// String returns the severity in one word.
func (s Severity) String() string {
	return [...]string{OK: "ok", Note: "note", Warning: "warning", Fault: "FAULT"}[min(s, Fault)]
}

// Area is what a finding is about.
type Area string

// The areas, in the order they are looked at.
const (
	AreaHost    Area = "host"
	AreaLimits  Area = "limits"
	AreaCache   Area = "cache"
	AreaRoutes  Area = "routes"
	AreaNetwork Area = "network"
	AreaGateway Area = "gateway"
)

// Finding is one thing worth telling.
type Finding struct {
	Severity Severity
	Area     Area
	Text     string // what was found, without a full stop
	Remedy   string // what to do, in whole sentences; "" when there is nothing to do
}

func ok(area Area, format string, args ...any) Finding {
	return Finding{Severity: OK, Area: area, Text: fmt.Sprintf(format, args...)}
}

func found(s Severity, area Area, remedy, format string, args ...any) Finding {
	return Finding{Severity: s, Area: area, Text: fmt.Sprintf(format, args...), Remedy: remedy}
}

// Subject is what is examined.
type Subject struct {
	Config  *config.Config
	Rules   *intercept.Config // what would be installed; nil where nothing is intercepted
	Version string            // of this program
	Gateway *stats.Report     // what the running gateway says; nil when it does not run
	Silence string            // why there is no report
}

// probeTimeout is how long a peer may take to answer a probe: three times the longest round trip a link should have.
const probeTimeout = time.Second

// Examine looks at everything and returns what was found, area by area, worst first.
func Examine(ctx context.Context, s Subject) []Finding {
	var all []Finding
	for _, look := range []func(context.Context, Subject) []Finding{host, machine, limits, cache, routes, network, gateway} {
		part := look(ctx, s)
		slices.SortStableFunc(part, func(a, b Finding) int { return int(b.Severity) - int(a.Severity) })
		all = append(all, part...)
	}
	return all
}

// Worst returns the highest severity of the findings.
func Worst(findings []Finding) Severity {
	worst := OK
	for _, f := range findings {
		worst = max(worst, f.Severity)
	}
	return worst
}

// host asks the interceptor what it thinks of this machine.
func host(_ context.Context, s Subject) []Finding {
	if s.Rules == nil {
		return []Finding{ok(AreaHost, "nothing is intercepted, so the kernel's settings do not matter")}
	}
	severity := map[intercept.Severity]Severity{intercept.Note: Note, intercept.Warning: Warning, intercept.Fatal: Fault}
	var out []Finding
	for _, f := range intercept.CheckHost(*s.Rules) {
		out = append(out, Finding{Severity: severity[f.Severity], Area: AreaHost, Text: f.Text, Remedy: f.Remedy})
	}
	if len(out) == 0 {
		out = append(out, ok(AreaHost, "kernel, capabilities, settings and firewalls let connections be diverted"))
	}
	return out
}

// gateway judges what the running gateway says.
func gateway(_ context.Context, s Subject) []Finding {
	r := s.Gateway
	if r == nil {
		return []Finding{found(Warning, AreaGateway, "Start it, or give the right configuration.", "no gateway answers: %s", s.Silence)}
	}
	var out []Finding
	if r.Health != "ok" {
		out = append(out, found(Fault, AreaGateway, "See its log.", "the gateway is not healthy: %s", r.Health))
	}
	if r.Version != s.Version {
		out = append(out, found(Note, AreaGateway, "Restart the gateway if the new version should run.", "the gateway runs version %s, this program is %s", r.Version, s.Version))
	}
	for _, p := range r.Peers {
		out = append(out, peer(r, p)...)
	}
	if r.Cache.State != "on" {
		out = append(out, found(Fault, AreaGateway, "See the log for the store's error: a full or broken disk.", "the cache is not used: %s", r.Cache.State))
	}
	if r.CreditCapacityBytes > 0 && r.CreditBytes*10 > r.CreditCapacityBytes*9 {
		out = append(out, found(Warning, AreaGateway, "Raise limits.memory, or look for readers that do not take their data: wanpair top --sort age.", "flows hold nearly all of limits.memory"))
	}
	for _, reason := range r.FlowsPassed {
		if a := reason.Number.Explain(); slices.Contains(limiting(), a.Name) {
			out = append(out, found(Warning, AreaGateway, a.Remedy, "%d connections were not accelerated: %s", reason.Count, a.Text))
		}
	}
	if len(out) == 0 {
		out = append(out, ok(AreaGateway, "the gateway is healthy and all peers are up"))
	}
	return out
}

// limiting lists the reasons that say something is too small or broken; the others are meant or pass by themselves.
func limiting() []string {
	return []string{"flow_limit", "memory_limit", "overload", "cache_off", "peer_limit", "intercept_fault"}
}

// Bounds beyond which a link is worth a word.
const (
	maxSkew  = 60.0 // seconds between the clocks
	badLoss  = 0.05
	badFrame = 0
)

func peer(r *stats.Report, p stats.PeerReport) []Finding {
	var out []Finding
	if why := handshake(p); p.State != stats.StateUp && len(why) > 0 {
		out = append(out, why...)
	} else if p.State != stats.StateUp {
		out = append(out, found(Fault, AreaGateway, "Compare with what was found about the network here, then ask wanpair status on the other side: does it run, do the keys match, does UDP arrive there?",
			"peer %s is %s for %.0f s: %s", p.Name, p.State, p.StateSeconds, p.Detail))
	}
	if p.Software != "" && p.Software != r.Version {
		out = append(out, found(Note, AreaGateway, "Upgrade the older side when it suits you.", "peer %s runs version %s, this side %s", p.Name, p.Software, r.Version))
	}
	if p.ClockSkewSeconds > maxSkew || p.ClockSkewSeconds < -maxSkew {
		out = append(out, found(Warning, AreaGateway, "Set up NTP on both boxes, or their logs cannot be compared.", "the clocks of peer %s and this host differ by %.0f s", p.Name, p.ClockSkewSeconds))
	}
	if p.LossRatio > badLoss {
		out = append(out, found(Warning, AreaGateway, "If it rises with the load, set tunnel.bandwidth a little below the link's rate; otherwise ask the provider.", "%.1f %% of the packets to peer %s are lost", 100*p.LossRatio, p.Name))
	}
	if p.FrameErrors > badFrame {
		out = append(out, found(Warning, AreaGateway, "Nothing wrong was delivered, but it should not happen: please report it with both logs.", "%d frames from peer %s did not verify", p.FrameErrors, p.Name))
	}
	return out
}
