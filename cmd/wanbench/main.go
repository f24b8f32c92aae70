// Command wanbench is the benchmark harness of wanpair: it builds a lab of network namespaces with an emulated WAN link on one machine,
// drives the real programs over it and reports what they did. It treats the gateway as a black box.
package main

import (
	"errors"
	"fmt"
	"os"
	"os/exec"
	"runtime/debug"

	"github.com/alecthomas/kong"

	"wanpair/bench/lab"
)

// commands is the root of the command line; each field is one command with its own file.
type commands struct {
	Demo     demoCmd     `cmd:"" help:"Show the main job: two gateways over an emulated link, the same data directly, cold, again and with edits."`
	Link     linkCmd     `cmd:"" help:"The lab and its emulated WAN link by hand."`
	Codec    codecCmd    `cmd:"" help:"Run files through encoder and decoder in turn, one history: ratio, speed, verified byte by byte."`
	Run      runCmd      `cmd:"" help:"Measure scenarios over the emulated link: directly, through wanpair and by what a user would pick instead, in one run."`
	List     listCmd     `cmd:"" help:"List scenarios, links and columns."`
	Grid     gridCmd     `cmd:"" name:"link-grid" help:"Measure the tunnel beside plain TCP over a grid of rate, round trip, loss and queue: goodput, latency, cuts, fairness."`
	Chaos    chaosCmd    `cmd:"" help:"Break everything at random while real traffic flows, and keep account of every byte."`
	Stalled  stalledCmd  `cmd:"" help:"Push at a thousand readers that take nothing: what others get meanwhile, and what memory it takes."`
	Report   reportCmd   `cmd:"" help:"Show results measured before: join runs, write the page and the document anew."`
	Compare  compareCmd  `cmd:"" help:"Say what got better or worse beyond the noise between two runs; exit status 1 when something got worse."`
	Estimate estimateCmd `cmd:"" help:"Say what wanpair would save on your own files or packet captures, without a second box."`
	Corpus   corpusCmd   `cmd:"" help:"Build the data to measure with: real releases, dumps, backups, pictures."`
	Version  versionCmd  `cmd:"" help:"Print version, commit and Go release."`
}

// version is stamped by the build (-ldflags "-X main.version=..."); empty means: take what the Go tool recorded.
var version string

// commit is stamped likewise.
var commit string

type versionCmd struct{}

// Run prints one line.
func (versionCmd) Run() error {
	release, commit, goVersion := version, "unknown", "unknown"
	if info, ok := debug.ReadBuildInfo(); ok {
		goVersion = info.GoVersion
		if release == "" {
			release = info.Main.Version
		}
		for _, s := range info.Settings {
			if s.Key == "vcs.revision" {
				commit = s.Value
			}
		}
	}
	_, err := fmt.Printf("wanbench %s commit %s %s\n", release, commit, goVersion)
	return err
}

func main() {
	lab.Main() // this process may be the emulator of a lab's link
	var root commands
	parser := kong.Must(&root,
		kong.Name("wanbench"),
		kong.Description("Benchmark harness of wanpair: a lab in network namespaces, an emulated WAN link, real programs."),
		kong.UsageOnError(),
		kong.ConfigureHelp(kong.HelpOptions{Compact: true}))
	ctx, err := parser.Parse(os.Args[1:])
	parser.FatalIfErrorf(err)
	if err := ctx.Run(); err != nil {
		// A program run for the user (link exec) ended badly: its own words are out already, its status is ours.
		if exit := (*exec.ExitError)(nil); errors.As(err, &exit) && exit.ExitCode() > 0 {
			os.Exit(exit.ExitCode())
		}
		fmt.Fprintln(os.Stderr, "wanbench:", err)
		os.Exit(1)
	}
}
