package main

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"os"
	"os/signal"
	"strings"
	"syscall"
	"text/tabwriter"
	"time"

	"wanpair/bench/lab"
	"wanpair/bench/link"
)

// linkCmd holds the commands that build, change, watch and remove the lab.
type linkCmd struct {
	Up    linkUpCmd    `cmd:"" help:"Build the lab and its link; it stays until it is taken down."`
	Set   linkSetCmd   `cmd:"" help:"Change parameters of the link while it carries traffic."`
	Stats linkStatsCmd `cmd:"" help:"Show what the link did since the last reset, and whether it was exact."`
	Reset linkResetCmd `cmd:"" help:"Forget the counts and start the random sequences anew."`
	Exec  linkExecCmd  `cmd:"" help:"Run a program in one node of the lab: cli, gwA, gwB or srv."`
	List  linkListCmd  `cmd:"" help:"List the labs there are."`
	Down  linkDownCmd  `cmd:"" help:"Remove the lab and everything that runs in it, also after a crash."`
	Sweep linkSweepCmd `cmd:"" help:"Remove what the labs of dead processes have left."`
}

// Help describes the parameters below the list of commands.
func (linkCmd) Help() string {
	return `Parameters of up and set: both, a2b or b2a, then what it is to be, for example

  both delay=50ms rate=20mbit a2b loss=0.1% burst=4

delay=50ms jitter=2ms rate=20mbit queue=64KiB|auto loss=1% burst=4 reorder=1% gap=2ms mtu=1400 overhead=38 down up.
queue=auto is one bandwidth-delay product, at least 64 KiB.`
}

// labName is the flag by which a lab is chosen.
type labName struct {
	Name string `help:"Name of the lab; its namespaces are NAME-cli, NAME-gwA, NAME-gwB and NAME-srv." default:"lab" placeholder:"NAME"`
}

func (n labName) open() (*lab.Lab, error) {
	l, err := lab.Open(n.Name)
	if err != nil {
		return nil, fmt.Errorf("%w (wanbench link up builds one, wanbench link list shows those there are)", err)
	}
	return l, nil
}

type linkUpCmd struct {
	labName
	Params     []string `arg:"" optional:"" help:"Parameters of the link, see wanbench link --help."`
	MTU        int      `help:"MTU of the WAN devices." default:"1500"`
	Seed       uint64   `help:"Seed of loss, jitter and reordering; 0 is a random one."`
	MemoryMiB  int64    `name:"memory" help:"MiB of packets under way, per direction." default:"256"`
	NoOffload  bool     `help:"Carry wire packets only, no super-packets (GSO)."`
	Congestion string   `help:"TCP congestion control in all nodes, such as cubic, bbr or reno."`
	TCPBuffer  int      `help:"Largest TCP buffer in all nodes, in bytes." placeholder:"BYTES"`
	Clients    int      `help:"Addresses of the client, from 10.1.0.2 on." default:"1"`
	Servers    int      `help:"Addresses of the server, from 10.2.0.2 on." default:"1"`
	Bare       bool     `help:"Only a link between two network namespaces that exist."`
	NsA        string   `help:"With --bare: namespace of end A; its own if empty." placeholder:"NS"`
	NsB        string   `help:"With --bare: namespace of end B; its own if empty." placeholder:"NS"`
	Dev        string   `help:"With --bare: device at both ends." default:"wan0"`
}

// Run builds the lab and leaves it.
func (c *linkUpCmd) Run() error {
	ctx, cancel := interruptible()
	defer cancel()
	config := lab.Config{
		Name: c.Name, Link: strings.Join(c.Params, " "), MTU: c.MTU, Seed: c.Seed, MemoryBytes: c.MemoryMiB << 20, NoOffload: c.NoOffload,
		Congestion: c.Congestion, TCPBufferBytes: c.TCPBuffer, Clients: c.Clients, Servers: c.Servers, Detached: true,
	}
	switch {
	case c.Bare && c.NsA == c.NsB:
		return errors.New("link up --bare: --ns-a and --ns-b must name two different network namespaces")
	case c.Bare:
		config.Ends = &[2]link.End{{Namespace: c.NsA, Device: c.Dev}, {Namespace: c.NsB, Device: c.Dev}}
	case c.NsA != "" || c.NsB != "":
		return errors.New("link up: --ns-a and --ns-b need --bare")
	}
	if err := lab.Enter(); err != nil {
		return err
	}
	l, err := lab.Up(ctx, config)
	if errors.Is(err, lab.ErrExists) {
		return fmt.Errorf("%w (wanbench link down --name %s removes it)", err, c.Name)
	}
	if err != nil {
		return err
	}
	stats, err := l.LinkStats(ctx)
	if err != nil {
		return err
	}
	if !stats.Realtime {
		fmt.Fprintln(os.Stderr, "wanbench: the link has no real-time priority (it needs CAP_SYS_NICE) and may be late; link stats says so")
	}
	fmt.Printf("link up  a2b %s\n         b2a %s\n", stats.AtoB.Params, stats.BtoA.Params)
	if !c.Bare {
		fmt.Printf("nodes    %s cli - gwA = gwB - srv %s\n", lab.ClientIP4, lab.ServerIP4)
		fmt.Printf("try      wanbench link exec --name %s cli ping -c 3 %s\n", c.Name, lab.ServerIP4)
	}
	return nil
}

type linkSetCmd struct {
	labName
	Params []string `arg:"" help:"Parameters, see wanbench link --help."`
}

// Run changes the link.
func (c *linkSetCmd) Run() error {
	ctx, cancel := interruptible()
	defer cancel()
	l, err := c.open()
	if err != nil {
		return err
	}
	return l.SetLink(ctx, c.Params...)
}

type linkStatsCmd struct {
	labName
	JSON bool `help:"As JSON."`
}

// Run prints the counts.
func (c *linkStatsCmd) Run() error {
	ctx, cancel := interruptible()
	defer cancel()
	l, err := c.open()
	if err != nil {
		return err
	}
	stats, err := l.LinkStats(ctx)
	if err != nil {
		return err
	}
	if c.JSON {
		out := json.NewEncoder(os.Stdout)
		out.SetIndent("", "  ")
		return out.Encode(stats)
	}
	return printStats(os.Stdout, &stats)
}

// lateLimit is how late a packet may have been for the link to be called exact; stallLimit is the share of its time that it may have stood
// still for a throughput measured over it to count.
const (
	lateLimit  = 2 * time.Millisecond
	stallLimit = 0.002
)

// printStats writes a table for people.
func printStats(w io.Writer, s *link.Stats) error {
	t := tabwriter.NewWriter(w, 0, 0, 2, ' ', 0)
	fmt.Fprintf(t, "%.1f s\ta2b\tb2a\n", s.Seconds)
	for _, row := range []struct {
		name string
		cell func(d *link.DirectionStats) string
	}{
		{"parameters", func(d *link.DirectionStats) string { return d.Params }},
		{"offered packets", func(d *link.DirectionStats) string { return count(d.OfferedPackets) }},
		{"delivered packets", func(d *link.DirectionStats) string { return count(d.DeliveredPackets) }},
		{"delivered bytes", func(d *link.DirectionStats) string { return count(d.DeliveredBytes) }},
		{"mean Mbit/s", func(d *link.DirectionStats) string { return fmt.Sprintf("%.3f", d.DeliveredBitsPerSecond/1e6) }},
		{"lost on the way", func(d *link.DirectionStats) string { return share(d.LossDrops, d) }},
		{"dropped by the queue", func(d *link.DirectionStats) string { return share(d.QueueDrops, d) }},
		{"dropped by the cut", func(d *link.DirectionStats) string { return share(d.CutDrops, d) }},
		{"dropped by the path MTU", func(d *link.DirectionStats) string { return share(d.MTUDrops, d) }},
		{"reordered", func(d *link.DirectionStats) string { return share(d.ReorderedPackets, d) }},
		{"queue, most of limit", func(d *link.DirectionStats) string {
			return fmt.Sprintf("%d of %d bytes", d.MaxQueuedBytes, d.QueueLimitBytes)
		}},
		{"under way now", func(d *link.DirectionStats) string { return count(d.UnderWayPackets) }},
		{"latest", func(d *link.DirectionStats) string {
			return fmt.Sprintf("%.3f ms, %d over 1 ms", d.LateMaxSeconds*1e3, d.LateOver1ms)
		}},
		{"stood still", func(d *link.DirectionStats) string {
			return fmt.Sprintf("%.3f s (%.3f %%)", d.StalledSeconds, 100*d.StalledSeconds/max(s.Seconds, 1e-9))
		}},
		{"errors, out of memory", func(d *link.DirectionStats) string { return fmt.Sprintf("%d, %d", d.Errors, d.MemoryDrops) }},
	} {
		fmt.Fprintf(t, "%s\t%s\t%s\n", row.name, row.cell(&s.AtoB), row.cell(&s.BtoA))
	}
	if err := t.Flush(); err != nil {
		return err
	}
	verdict := "exact: no packet was more than " + lateLimit.String() + " late"
	if err := s.Check(lateLimit); err != nil {
		verdict = fmt.Sprintf("NOT EXACT, measure latency again: %v", err)
		if err := s.CheckStalls(stallLimit); err != nil {
			verdict = fmt.Sprintf("NOT EXACT, throw the measurement away: %v", err)
		}
	}
	_, err := fmt.Fprintln(w, verdict)
	return err
}

func count(n uint64) string { return fmt.Sprint(n) }

func share(n uint64, d *link.DirectionStats) string {
	if n == 0 {
		return "0"
	}
	return fmt.Sprintf("%d (%.3f %%)", n, 100*float64(n)/float64(max(d.OfferedPackets, 1)))
}

type linkResetCmd struct{ labName }

// Run forgets the counts.
func (c *linkResetCmd) Run() error {
	ctx, cancel := interruptible()
	defer cancel()
	l, err := c.open()
	if err != nil {
		return err
	}
	return l.ResetLink(ctx)
}

type linkExecCmd struct {
	labName
	Node    string   `arg:"" enum:"cli,gwA,gwB,srv" help:"cli, gwA, gwB or srv."`
	Program []string `arg:"" passthrough:"" help:"Program and its arguments."`
}

// Run runs the program on this terminal and ends with its status.
func (c *linkExecCmd) Run() error {
	l, err := c.open()
	if err != nil {
		return err
	}
	// The terminal sends its signals to the program as well: it decides what they mean, we wait for it.
	signal.Ignore(syscall.SIGINT, syscall.SIGQUIT)
	program := c.Program
	if len(program) > 1 && program[0] == "--" {
		program = program[1:]
	}
	cmd := l.Command(context.Background(), lab.Node(c.Node), program[0], program[1:]...)
	cmd.Stdin, cmd.Stdout, cmd.Stderr = os.Stdin, os.Stdout, os.Stderr
	return cmd.Run()
}

type linkListCmd struct{}

// Run prints one name a line, with the link's parameters where it runs.
func (linkListCmd) Run() error {
	ctx, cancel := interruptible()
	defer cancel()
	for _, name := range lab.List() {
		state := "no link: wanbench link down --name " + name
		if l, err := lab.Open(name); err == nil {
			if stats, err := l.LinkStats(ctx); err == nil {
				state = fmt.Sprintf("a2b %s | b2a %s", stats.AtoB.Params, stats.BtoA.Params)
			}
		}
		fmt.Printf("%-12s %s\n", name, state)
	}
	return nil
}

type linkDownCmd struct{ labName }

// Run removes the lab; that there is none is an error, so that a slip in the name is noticed.
func (c *linkDownCmd) Run() error {
	for _, name := range lab.List() {
		if name == c.Name {
			return lab.Remove(name)
		}
	}
	return fmt.Errorf("no lab %s (wanbench link list shows those there are)", c.Name)
}

type linkSweepCmd struct{}

// Run prints the names it removed.
func (linkSweepCmd) Run() error {
	removed, err := lab.Sweep()
	for _, name := range removed {
		fmt.Println("removed", name)
	}
	return err
}

func interruptible() (context.Context, context.CancelFunc) {
	return signal.NotifyContext(context.Background(), syscall.SIGINT, syscall.SIGTERM)
}
