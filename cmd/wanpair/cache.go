package main

import (
	"context"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"os"
	"os/signal"
	"path/filepath"
	"syscall"
	"text/tabwriter"
	"time"

	"github.com/schollz/progressbar/v3"
	"golang.org/x/term"

	"wanpair/accel/config"
	"wanpair/accel/stats"
	"wanpair/dedupe"
	"wanpair/dedupe/history"
	"wanpair/dedupe/history/remote"
)

// cacheCmd looks at the cache on disk.
type cacheCmd struct {
	Info   cacheInfoCmd   `cmd:"" help:"Show what the cache holds, per peer. The gateway may be running."`
	Verify cacheVerifyCmd `cmd:"" help:"Read everything in the cache and compare it with its checksums. The gateway must not be running."`
	Warm   cacheWarmCmd   `cmd:"" help:"Send files through the tunnel once, so that both sites have them before they are asked for."`
	Serve  cacheServeCmd  `cmd:"" hidden:"" help:"Keep a cache for the gateway that started this process."`
}

// cacheServeCmd is the process in which the gateway keeps its cache: a disk that fails ends it and not the gateway.
type cacheServeCmd struct{}

// Run serves until the gateway is gone.
func (cacheServeCmd) Run() error { return remote.ServeChild() }

// storeCommand is how the gateway starts the process above: the very program that runs, even when its file was replaced meanwhile.
func storeCommand() []string { return []string{"/proc/self/exe", "cache", "serve"} }

// logStore returns what writes the store's events of one peer to the log, and those that change what users get to the list of events.
func logStore(log *slog.Logger, events *stats.Events, peerName string) func(dedupe.StoreEvent) {
	log = log.With("peer", peerName)
	return func(e dedupe.StoreEvent) {
		switch {
		case e.Off:
			log.Error("cache is off", "err", e.Reason)
			events.Add(stats.EventCacheOff, peerName, "the cache is off: "+e.Reason)
		case e.On:
			log.Info("cache works again")
			events.Add(stats.EventCacheOn, peerName, "the cache works again")
		case e.Full:
			log.Warn("cache is not written to: the file system is nearly full")
			events.Add(stats.EventCacheOff, peerName, "nothing new is kept: the file system is nearly full")
		case e.Room:
			log.Info("cache is written to again")
			events.Add(stats.EventCacheOn, peerName, "there is room to keep new data again")
		case e.Died:
			log.Warn("store process died", "err", e.Reason)
		case e.DiscardedFrom != "":
			log.Warn("part of the cache is given up", "epoch", e.DiscardedFrom, "reason", e.Reason)
		}
	}
}

// cacheInfoCmd shows what the cache holds.
type cacheInfoCmd struct {
	Config string `short:"c" required:"" type:"path" placeholder:"FILE" help:"Configuration file."`
}

// Run prints a table, a line per peer and log.
func (c cacheInfoCmd) Run(out output) error {
	cfg, err := config.Load(c.Config)
	if err != nil {
		return err
	}
	w := tabwriter.NewWriter(out.stdout, 0, 0, 2, ' ', 0)
	fmt.Fprintln(w, "peer\tlog\tepochs\tblocks\traw\ton disk\toldest\tnewest\t")
	var faults []error
	for _, p := range cfg.Peers {
		info, err := history.Inspect(filepath.Join(cfg.Cache.Dir, p.Name), cfg.Cache.Key)
		switch {
		case errors.Is(err, os.ErrNotExist):
			fmt.Fprintf(w, "%s\tnothing yet\t\t\t\t\t\t\t\n", p.Name)
			continue
		case err != nil:
			faults = append(faults, fmt.Errorf("cache of %s: %w", p.Name, err))
			continue
		}
		for log, name := range [2]string{"written here", "written there"} {
			printLog(w, p.Name, name, info.Epochs[log])
		}
	}
	return errors.Join(append(faults, w.Flush())...)
}

// printLog prints the line of one log.
func printLog(w io.Writer, peerName, log string, epochs []history.EpochInfo) {
	var blocks int
	var raw, disk int64
	for _, e := range epochs {
		blocks += e.Blocks
		raw += e.RawBytes
		disk += e.Bytes
	}
	oldest, newest := "-", "-"
	if n := len(epochs); n > 0 {
		oldest, newest = agoText(epochs[0].Written), agoText(epochs[n-1].Written)
	}
	fmt.Fprintf(w, "%s\t%s\t%d\t%d\t%s\t%s\t%s\t%s\t\n", peerName, log, len(epochs), blocks, size(raw), size(disk), oldest, newest)
}

// agoText says how long ago something was written to.
func agoText(t time.Time) string {
	if t.IsZero() {
		return "-"
	}
	return age(time.Since(t).Seconds())
}

// cacheVerifyCmd reads the whole cache.
type cacheVerifyCmd struct {
	Config string `short:"c" required:"" type:"path" placeholder:"FILE" help:"Configuration file."`
}

// errDamagedBlocks makes the exit code tell.
var errDamagedBlocks = errors.New("some of the cache is damaged; the gateway does without it, nothing has to be done but to look at the disk")

// Run verifies peer after peer.
func (c cacheVerifyCmd) Run(out output) error {
	cfg, err := config.Load(c.Config)
	if err != nil {
		return err
	}
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt, syscall.SIGTERM)
	defer stop()
	damaged := false
	for _, p := range cfg.Peers {
		dir := filepath.Join(cfg.Cache.Dir, p.Name)
		bar := verifyBar(out.stderr, p.Name)
		report, err := history.Verify(ctx, dir, cfg.Cache.Key, bar)
		switch {
		case errors.Is(err, os.ErrNotExist):
			fmt.Fprintf(out.stdout, "%s: nothing yet\n", p.Name)
			continue
		case errors.Is(err, history.ErrLocked):
			return fmt.Errorf("cache of %s: %w; stop the gateway first", p.Name, err)
		case err != nil:
			return fmt.Errorf("cache of %s: %w", p.Name, err)
		}
		fmt.Fprintf(out.stdout, "%s: %d blocks, %s good, %d damaged\n", p.Name, report.Blocks, size(report.Bytes), report.Damaged)
		for _, x := range report.Unopened {
			fmt.Fprintf(out.stdout, "%s: %s does not open\n", p.Name, x)
		}
		damaged = damaged || report.Damaged > 0 || len(report.Unopened) > 0
	}
	if damaged {
		return errDamagedBlocks
	}
	return nil
}

// verifyBar returns a progress function that draws on a terminal and is nil elsewhere.
func verifyBar(w io.Writer, name string) func(done, all int) {
	f, ok := w.(*os.File)
	if !ok || !term.IsTerminal(int(f.Fd())) {
		return nil
	}
	var bar *progressbar.ProgressBar
	return func(done, all int) {
		if bar == nil {
			bar = progressbar.NewOptions(all, progressbar.OptionSetWriter(w), progressbar.OptionSetDescription(name),
				progressbar.OptionShowCount(), progressbar.OptionThrottle(100*time.Millisecond), progressbar.OptionClearOnFinish())
		}
		_ = bar.Set(done) // a bar that cannot be drawn is not missed
	}
}
