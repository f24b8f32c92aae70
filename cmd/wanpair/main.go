// Command wanpair is one side of the accelerator, and the tools its operator needs: keys, a check of the configuration, the status of a running gateway.
package main

import (
	"errors"
	"fmt"
	"io"
	"os"

	"github.com/alecthomas/kong"

	"wanpair/accel/config"
)

// Exit codes. 0 is success.
const (
	exitFault = 1 // what was asked could not be done, or something is wrong
	exitUsage = 2 // the command line makes no sense
)

// commands is the root of the command line; each field is one command with its own file.
type commands struct {
	Gateway gatewayCmd `cmd:"" help:"Run one side in the foreground. SIGTERM drains and exits 0, SIGHUP reloads."`
	Check   checkCmd   `cmd:"" help:"Check a configuration and print what would be done."`
	Status  statusCmd  `cmd:"" help:"Show the state of a running gateway on one page."`
	Top     topCmd     `cmd:"" help:"Watch a running gateway: its flows, sorted and filtered, live."`
	Doctor  doctorCmd  `cmd:"" help:"Look for what keeps a gateway from working: this host, the way to the peers, the running gateway."`
	Cache   cacheCmd   `cmd:"" help:"Look at the cache on disk, check it, fill it."`
	Keygen  keygenCmd  `cmd:"" help:"Make a private key and print its public key."`
	Pubkey  pubkeyCmd  `cmd:"" help:"Print the public key of the private key on standard input."`
	Version versionCmd `cmd:"" help:"Print version, commit, Go and protocol."`
}

// output is where commands write to and read from.
type output struct {
	stdin          io.Reader
	stdout, stderr io.Writer
}

func main() {
	os.Exit(run(os.Args[1:], output{os.Stdin, os.Stdout, os.Stderr}))
}

// run executes a command line and returns the exit code.
func run(args []string, out output) int {
	var root commands
	code := -1
	parser, err := newParser(&root, out, kong.Exit(func(c int) { code = c }))
	if err != nil {
		panic(err) // the struct above is wrong, which the first test finds
	}
	if len(args) == 0 {
		args = []string{"--help"}
	}
	ctx, err := parser.Parse(args)
	if code >= 0 { // help was printed
		return code
	}
	if err != nil {
		complain(out.stderr, err)
		fmt.Fprintln(out.stderr, "wanpair: run wanpair --help for the commands")
		return exitUsage
	}
	if err := ctx.Run(out); err != nil {
		complain(out.stderr, err)
		return exitFault
	}
	return 0
}

//go:generate go test -run TestGeneratedFiles -update

// newParser makes the command line's parser, which is also what the manual pages and the completions are made from.
func newParser(root *commands, out output, more ...kong.Option) (*kong.Kong, error) {
	return kong.New(root, append([]kong.Option{
		kong.Name("wanpair"),
		kong.Description("WAN accelerator: deduplicates, compresses and tunnels the TCP between two sites."),
		kong.ConfigureHelp(kong.HelpOptions{Compact: true}),
		kong.Writers(out.stdout, out.stderr),
		kong.Bind(out),
	}, more...)...)
}

// complain prints an error: faults of the configuration a line each, which editors can jump to, anything else in one line.
func complain(w io.Writer, err error) {
	if faults, ok := errors.AsType[config.Faults](err); ok {
		fmt.Fprintln(w, faults)
		return
	}
	fmt.Fprintln(w, "wanpair:", err)
}
