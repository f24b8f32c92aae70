package main

import (
	"errors"
	"fmt"
	"io"
	"net"
	"os"
	"path/filepath"
	"strings"
	"syscall"

	"wanpair/accel"
	"wanpair/accel/config"
	"wanpair/accel/intercept"
)

type checkCmd struct {
	Config   string `short:"c" required:"" type:"path" placeholder:"FILE" help:"Configuration file."`
	FileOnly bool   `help:"Check the file only, not this host."`
}

// errHost is what check ends with when the file is right and the host is not.
var errHost = errors.New("the configuration has no faults, but this host has: a gateway would not start")

// Run validates a configuration, prints what a gateway would do with it, and what on this host stands in its way.
func (c checkCmd) Run(out output) error {
	cfg, err := config.Load(c.Config)
	if err != nil {
		return err
	}
	for _, w := range cfg.Warnings {
		fmt.Fprintln(out.stderr, "warning:", w)
	}
	if err := describe(out.stdout, cfg); err != nil || c.FileOnly {
		return err
	}
	if text := fewDescriptors(cfg); text != "" {
		fmt.Fprintln(out.stderr, "warning:", text)
	}
	if cfg.Intercept == nil {
		return nil
	}
	findings := intercept.CheckHost(interceptConfig(cfg))
	if !isThisHost(cfg.Intercept.Interfaces) {
		fmt.Fprintln(out.stderr, "warning: none of the interfaces exists here, so this is probably not the host the file is for, and the host was not judged")
		return nil
	}
	if report(out.stderr, findings) {
		return errHost
	}
	return nil
}

// fewDescriptors says what to do where a process of this host may not open as many descriptors as limits.flows needs, "" where it may.
func fewDescriptors(cfg *config.Config) string {
	var files syscall.Rlimit
	if err := syscall.Getrlimit(syscall.RLIMIT_NOFILE, &files); err != nil {
		return ""
	}
	n := accel.FlowDescriptors(files.Max)
	if n >= cfg.Limits.Flows {
		return ""
	}
	return fmt.Sprintf("limits.flows is %d, but a gateway started from here may open %d descriptors, enough for %d flows; more connections pass raw. "+
		"The unit in the package sets LimitNOFILE=262144; elsewhere raise the limit with ulimit -n", cfg.Limits.Flows, files.Max, n)
}

// report prints what was found on this host and says whether a gateway would refuse to start. That this user lacks rights says nothing about the gateway's.
func report(w io.Writer, findings []intercept.Finding) (fatal bool) {
	for _, f := range findings {
		severity := f.Severity.String()
		if f.Code == "cap_net_admin" && f.Severity == intercept.Fatal {
			severity = "warning"
		} else if f.Severity == intercept.Fatal {
			fatal = true
		}
		fmt.Fprintf(w, "%s: %s. %s\n", severity, f.Text, f.Remedy)
	}
	return fatal
}

// isThisHost says whether any of the interfaces exists.
func isThisHost(interfaces []string) bool {
	for _, name := range interfaces {
		if _, err := net.InterfaceByName(name); err == nil {
			return true
		}
	}
	return false
}

// describe prints what would be done.
func describe(w io.Writer, cfg *config.Config) error {
	p := &printer{w: w}
	p.line("%s: no faults", cfg.File)
	p.section("site %s", cfg.Site.Name)
	p.line("tunnel     UDP %s, %d lanes per peer, %s", cfg.Tunnel.Listen, cfg.Tunnel.Lanes, bandwidth(cfg.Tunnel.BandwidthBitsPerSec))
	p.line("stats      http://%s/%s", cfg.Stats.Listen, guarded(cfg.Stats))

	for _, peer := range cfg.Peers {
		p.section("peer %s", peer.Name)
		p.line("hosts      %s", list(peer.Subnets))
		p.line("keys       %d", len(peer.PublicKeys))
		if len(peer.Endpoints) == 0 {
			p.line("endpoints  none: it dials this site")
		} else {
			p.line("endpoints  %s", strings.Join(peer.Endpoints, ", "))
		}
	}

	p.section("connections")
	if cfg.Intercept == nil {
		p.line("intercept  nothing: no [intercept] section")
	} else {
		p.line("intercept  TCP from %s on %s to the peers' hosts%s", list(cfg.Intercept.Subnets), strings.Join(cfg.Intercept.Interfaces, ", "), except(cfg.Intercept.PassPorts))
	}
	for _, f := range cfg.Forwards {
		p.line("forward    %s to %s behind %s", f.Listen, f.Target, f.Peer)
	}
	if cfg.Socks != nil {
		p.line("socks      %s", cfg.Socks.Listen)
	}
	if own := cfg.OwnSubnets(); len(own) == 0 {
		p.line("egress     nothing is dialled for the peers")
	} else {
		p.line("egress     dials %s for the peers, %s", list(own), egressSource(cfg.Egress.Source))
	}
	for _, c := range cfg.Classes {
		p.line("class      %s: %s", c.Name, class(c))
	}
	if err := cache(p, cfg); err != nil {
		return err
	}

	p.section("limits")
	p.line("flows      %d, of which one peer may open %d here", cfg.Limits.Flows, min(cfg.LinkFlows(), cfg.Limits.Flows))
	p.line("memory     %s of credit, %s for a new flow and at least %s for any, beside the cache's %s", config.FormatSize(cfg.Limits.MemoryBytes), config.FormatSize(cfg.FlowCreditBytes()), config.FormatSize(config.FlowFloorBytes), config.FormatSize(cfg.Cache.MemoryBytes))
	p.line("hold       %s after a lost link", cfg.Limits.Hold)
	if err := rules(p, cfg); err != nil {
		return err
	}
	return p.err
}

// freeSpace says whether the cache fits on its disk, "" when that cannot be found out.
func freeSpace(c config.Cache) string {
	dir := c.Dir
	var fs syscall.Statfs_t
	for {
		err := syscall.Statfs(dir, &fs)
		if err == nil {
			break
		}
		up := filepath.Dir(dir)
		if !errors.Is(err, os.ErrNotExist) || up == dir {
			return ""
		}
		dir = up // the directory is not made yet: its parent's disk will hold it
	}
	free := int64(fs.Bavail) * fs.Bsize
	if free < c.SizeBytes {
		return fmt.Sprintf("; only %s free there now, less whatever an existing cache holds already", config.FormatSize(free))
	}
	return fmt.Sprintf("; %s free there now", config.FormatSize(free))
}

func perPeer(n, peers int64) string {
	if peers == 1 {
		return ""
	}
	return fmt.Sprintf(", %s for each of %d peers", config.FormatSize(n/peers), peers)
}

func bandwidth(n int64) string {
	if n == 0 {
		return "rate found out"
	}
	return "at most " + config.FormatRate(n)
}

func guarded(c config.Stats) string {
	switch {
	case c.Listen.Addr().IsLoopback():
		return ", this machine only"
	case len(c.Allow) > 0 && c.Token != "":
		return ", for " + list(c.Allow) + " with the token"
	case len(c.Allow) > 0:
		return ", for " + list(c.Allow)
	}
	return ", with the token"
}

func except(ports []uint16) string {
	if len(ports) == 0 {
		return ""
	}
	return ", except to ports " + list(ports)
}

func egressSource(s config.EgressSource) string {
	switch s {
	case config.SourceClient:
		return "always as the client"
	case config.SourceOwn:
		return "always from its own address"
	default:
		return "as the client, or from its own address for forwards and SOCKS5"
	}
}

func class(c config.Class) string {
	var parts []string
	if len(c.Ports) > 0 {
		var ports []string
		for _, r := range c.Ports {
			if r.First == r.Last {
				ports = append(ports, fmt.Sprint(r.First))
			} else {
				ports = append(ports, fmt.Sprintf("%d-%d", r.First, r.Last))
			}
		}
		parts = append(parts, "ports "+strings.Join(ports, ", "))
	}
	if len(c.Subnets) > 0 {
		parts = append(parts, "hosts "+list(c.Subnets))
	}
	parts = append(parts, string(c.Action))
	if c.History == config.HistoryOff {
		parts = append(parts, "kept out of the history")
	}
	if c.SharePercent > 0 {
		parts = append(parts, fmt.Sprintf("%d %% of the bandwidth", c.SharePercent))
	}
	return strings.Join(parts, "; ")
}

func list[T any](values []T) string {
	return strings.Join(strings.Fields(strings.Trim(fmt.Sprint(values), "[]")), ", ")
}

// printer writes lines and keeps the first error.
type printer struct {
	w   io.Writer
	err error
}

func (p *printer) section(format string, args ...any) { p.line("\n"+format, args...) }

func (p *printer) line(format string, args ...any) {
	if p.err == nil {
		_, p.err = fmt.Fprintf(p.w, format+"\n", args...)
	}
}

// rules prints the packet filter rules and routes a transparent gateway would install.
func rules(p *printer, cfg *config.Config) error {
	if cfg.Intercept == nil {
		return nil
	}
	text, err := intercept.Plan(interceptConfig(cfg))
	if err != nil {
		return err
	}
	p.section("rules installed while the gateway runs")
	for line := range strings.Lines(text) {
		p.line("  %s", strings.TrimRight(line, "\n"))
	}
	return nil
}
