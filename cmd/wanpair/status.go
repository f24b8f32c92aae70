package main

import (
	"cmp"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"maps"
	"net"
	"net/http"
	"net/netip"
	"os"
	"slices"
	"strings"
	"syscall"
	"text/tabwriter"
	"time"

	"wanpair/accel/config"
	"wanpair/accel/stats"
)

// statsTarget says which gateway's stats endpoint is asked.
type statsTarget struct {
	Config string `short:"c" type:"path" placeholder:"FILE" xor:"target" help:"Ask the gateway of this configuration."`
	Stats  string `placeholder:"ADDR" xor:"target" help:"Ask the stats endpoint at this address (default 127.0.0.1:9460)."`
	Token  string `env:"WANPAIR_STATS_TOKEN" placeholder:"TOKEN" help:"Bearer token, where the endpoint asks for one and no configuration is given."`
}

// client makes a client for the target.
func (t statsTarget) client() (*statsClient, error) {
	c := &statsClient{address: cmp.Or(t.Stats, config.Default().Stats.Listen.String()), token: t.Token}
	if t.Config != "" {
		text, err := os.ReadFile(t.Config)
		if err != nil {
			return nil, fmt.Errorf("configuration: %w", err)
		}
		cfg, err := config.Parse(t.Config, text) // not Load: to ask for the status nobody needs the private key
		if err != nil {
			return nil, err
		}
		c.address, c.token = reachable(cfg.Stats.Listen).String(), cmp.Or(t.Token, cfg.Stats.Token)
	}
	return c, nil
}

// reachable turns the address of a listener on all addresses into one that can be dialled.
func reachable(a netip.AddrPort) netip.AddrPort {
	if !a.Addr().IsUnspecified() {
		return a
	}
	if a.Addr().Is4() {
		return netip.AddrPortFrom(netip.AddrFrom4([4]byte{127, 0, 0, 1}), a.Port())
	}
	return netip.AddrPortFrom(netip.IPv6Loopback(), a.Port())
}

// statsClient asks one stats endpoint.
type statsClient struct {
	address, token string
}

// answerLimit bounds a document: a hundred thousand flows of 400 bytes.
const answerLimit = 40 << 20

// get reads one document as it is.
func (c *statsClient) get(ctx context.Context, path string) ([]byte, error) {
	request, err := http.NewRequestWithContext(ctx, http.MethodGet, "http://"+c.address+path, nil)
	if err != nil {
		return nil, fmt.Errorf("stats address %q: %w", c.address, err)
	}
	if c.token != "" {
		request.Header.Set("Authorization", "Bearer "+c.token)
	}
	response, err := (&http.Client{Timeout: 10 * time.Second}).Do(request)
	switch {
	case errors.Is(err, syscall.ECONNREFUSED):
		return nil, fmt.Errorf("nothing answers at %s: is the gateway running? Give its stats address with -c FILE or --stats ADDR", c.address)
	case err != nil:
		if cause, ok := errors.AsType[*net.OpError](err); ok {
			err = cause
		}
		return nil, fmt.Errorf("the gateway at %s does not answer: %w", c.address, err)
	}
	defer response.Body.Close()
	body, err := io.ReadAll(io.LimitReader(response.Body, answerLimit))
	if err != nil {
		return nil, fmt.Errorf("the gateway at %s broke off: %w", c.address, err)
	}
	if response.StatusCode != http.StatusOK {
		text, _, _ := strings.Cut(string(body), "\n")
		return nil, fmt.Errorf("the gateway at %s refused: %d %s", c.address, response.StatusCode, text)
	}
	return body, nil
}

// read decodes one document.
func (c *statsClient) read(ctx context.Context, path string, doc any) error {
	body, err := c.get(ctx, path)
	if err != nil {
		return err
	}
	if err := json.Unmarshal(body, doc); err != nil {
		return fmt.Errorf("what answers at %s is no wanpair gateway: %w", c.address, err)
	}
	return nil
}

type statusCmd struct {
	statsTarget `embed:""`

	JSON bool `name:"json" help:"Print the document of /api/v1/stats as it is."`
}

// Run asks a gateway and prints one page.
func (c statusCmd) Run(out output) error {
	client, err := c.client()
	if err != nil {
		return err
	}
	ctx := context.Background()
	if c.JSON {
		body, err := client.get(ctx, "/api/v1/stats")
		if err != nil {
			return err
		}
		_, err = out.stdout.Write(body)
		return err
	}
	var report stats.Report
	if err := client.read(ctx, "/api/v1/stats", &report); err != nil {
		return err
	}
	var events stats.EventsReport
	if err := client.read(ctx, "/api/v1/events?limit=5", &events); err != nil {
		return err
	}
	return page(out.stdout, report, events.Events)
}

// page prints the status for people.
func page(w io.Writer, r stats.Report, events []stats.Event) error {
	p := &printer{w: w}
	health := "healthy"
	switch {
	case r.Health != "ok":
		health = "NOT HEALTHY: " + r.Health
	case r.Ready != "ok":
		health = "not ready: " + r.Ready
	}
	p.line("%s, wanpair %s, up %s, %s", r.Site, r.Version, age(r.UptimeSeconds), health)
	for _, peer := range r.Peers {
		peerPage(p, peer)
	}
	p.section("flows      %d running; ended: %s", r.FlowsActive, counts(r.FlowsTotal))
	if len(r.FlowsPassed) > 0 {
		p.line("           not accelerated:")
		for _, reason := range r.FlowsPassed {
			p.line("           %8d  %2d %s: %s", reason.Count, reason.Number, reason.Name, reason.Text)
		}
	}
	fill := ""
	if r.Cache.CapacityBytes > 0 {
		fill = fmt.Sprintf(" (%.0f %%)", 100*float64(r.Cache.SizeBytes)/float64(r.Cache.CapacityBytes))
	}
	p.line("cache      %s of %s%s on disk, %s of memory%s", size(r.Cache.SizeBytes), size(r.Cache.CapacityBytes), fill, size(r.Cache.MemoryBytes), unlessOn(r.Cache.State))
	if len(events) > 0 {
		p.section("latest events")
		for _, e := range events {
			p.line("  %s  %s", e.Time.Local().Format("Jan _2 15:04:05"), strings.TrimSpace(e.Peer+" "+e.Text+times(e.Count)))
		}
	}
	return p.err
}

func peerPage(p *printer, peer stats.PeerReport) {
	state := strings.ToUpper(string(peer.State))
	if peer.State == stats.StateUp {
		state = "up"
	}
	p.section("%-10s %s for %s%s", peer.Name, state, age(peer.StateSeconds), after(": ", peer.Detail))
	if peer.State == stats.StateUp {
		p.line("link       RTT %s, loss %.2f %%, %d lanes, %s sent again, peer runs %s", milliseconds(peer.RTTSeconds), 100*peer.LossRatio, peer.Lanes, size(int64(peer.ResentBytes)), cmp.Or(peer.Software, "an unknown version"))
	}
	table := tabwriter.NewWriter(p.w, 0, 0, 2, ' ', tabwriter.AlignRight)
	rows := []struct {
		name        string
		now, minute float64
		all         uint64
	}{
		{"LAN sent", peer.Throughput.LAN.Sent, peer.Throughput60s.LAN.Sent, peer.LAN.Sent},
		{"WAN sent", peer.Throughput.WAN.Sent, peer.Throughput60s.WAN.Sent, peer.WAN.Sent},
		{"LAN received", peer.Throughput.LAN.Received, peer.Throughput60s.LAN.Received, peer.LAN.Received},
		{"WAN received", peer.Throughput.WAN.Received, peer.Throughput60s.WAN.Received, peer.WAN.Received},
	}
	fmt.Fprintln(table, "\tnow\tlast minute\tsince start\t")
	for _, row := range rows {
		fmt.Fprintf(table, "%s\t%s\t%s\t%s\t\n", row.name, rate(row.now), rate(row.minute), size(int64(row.all)))
	}
	for _, row := range []struct {
		name        string
		minute, all *float64
	}{
		{"reduction sent", peer.ReductionRatio60s, peer.ReductionRatio},
		{"received", peer.ReceivedReductionRatio60s, peer.ReceivedReductionRatio},
		{"dedupe sent", peer.DedupeRatio60s, peer.DedupeRatio},
		{"received", peer.ReceivedDedupeRatio60s, peer.ReceivedDedupeRatio},
	} {
		fmt.Fprintf(table, "%s\t\t%s\t%s\t\n", row.name, factor(row.minute), factor(row.all))
	}
	if err := table.Flush(); err != nil && p.err == nil {
		p.err = err
	}
	p.line("sent       %s", gain(peer.Gain.Sent))
	p.line("received   %s", gain(peer.Gain.Received))
	if peer.HitAgeBytes > 0 {
		p.line("hits       %s back in the history, on average", size(int64(peer.HitAgeBytes)))
	}
	for _, c := range peer.Classes {
		p.line("class      %s: sent %s, entitled to %d %%", cmp.Or(c.Name, "all others"), size(int64(c.SentBytes)), c.SharePercent)
	}
	p.line("effort     zstd level %d of 2 for what is sent the first time", peer.ZstdLevel)
	p.line("flows      %d running, %d held; %d repairs, %d bad frames", peer.FlowsActive, peer.FlowsHeld, peer.MissRepairs, peer.FrameErrors)
}

// gain says what became of the raw bytes.
func gain(g stats.Gain) string {
	all := g.MatchedBytes + g.LiteralBytes
	if all == 0 {
		return "nothing yet"
	}
	percent := func(n uint64) float64 { return 100 * float64(n) / float64(all) }
	opaque := min(g.OpaqueBytes, g.LiteralBytes)
	return fmt.Sprintf("%.1f %% known already, %.1f %% new (compressed to %s), %.1f %% not reducible", percent(g.MatchedBytes), percent(g.LiteralBytes-opaque), size(int64(g.LiteralWireBytes)), percent(opaque))
}

func counts(m map[string]uint64) string {
	var parts []string
	for _, name := range slices.Sorted(maps.Keys(m)) {
		if m[name] > 0 {
			parts = append(parts, fmt.Sprintf("%d %s", m[name], name))
		}
	}
	return cmp.Or(strings.Join(parts, ", "), "none")
}

func unlessOn(state string) string {
	if state == "on" {
		return ""
	}
	return "; NOT USED: " + state
}

func after(separator, text string) string {
	if text == "" {
		return ""
	}
	return separator + text
}

func times(n int) string {
	if n < 2 {
		return ""
	}
	return fmt.Sprintf(" (%d times)", n)
}

// age writes seconds with the unit people would use.
func age(s float64) string {
	switch {
	case s < 120:
		return fmt.Sprintf("%.0f s", s)
	case s < 2*3600:
		return fmt.Sprintf("%.0f min", s/60)
	case s < 48*3600:
		return fmt.Sprintf("%.1f h", s/3600)
	}
	return fmt.Sprintf("%.1f days", s/86400)
}

func milliseconds(s float64) string {
	if s == 0 {
		return "unknown"
	}
	return fmt.Sprintf("%.1f ms", s*1000)
}

func factor(r *float64) string {
	switch {
	case r == nil:
		return "-"
	case *r >= 100:
		return fmt.Sprintf("%.0fx", *r)
	}
	return fmt.Sprintf("%.2fx", *r)
}

// size writes bytes with a space before the unit, as text for people has it.
func size(n int64) string { return spaced(config.FormatSize(n)) }

// rate writes bits per second.
func rate(bits float64) string { return spaced(config.FormatRate(int64(bits))) + "/s" }

func spaced(s string) string {
	i := strings.IndexFunc(s, func(r rune) bool { return r >= 'A' })
	return s[:i] + " " + s[i:]
}
