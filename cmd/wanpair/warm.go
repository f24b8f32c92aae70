package main

import (
	"context"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"os/signal"
	"path/filepath"
	"syscall"
	"time"

	"github.com/schollz/progressbar/v3"
	"golang.org/x/term"

	"wanpair/accel/config"
	"wanpair/accel/control"
)

// cacheWarmCmd pre-seeds the caches of both sites.
type cacheWarmCmd struct {
	Config string   `short:"c" required:"" type:"path" placeholder:"FILE" help:"Configuration file of the gateway that runs on this host."`
	Peer   string   `placeholder:"NAME" help:"Peer to warm the cache with, where there are several."`
	Paths  []string `arg:"" name:"path" type:"path" help:"Files, and directories with all that is below them."`
}

// Help is what --help says beyond the flags.
func (cacheWarmCmd) Help() string {
	return `Sends the files through the tunnel once, so that both sites have them in their caches before users ask for them. The far gateway verifies and keeps
what comes, and delivers it nowhere. It goes like any other traffic: what the caches have already costs next to nothing, so an interrupted warm-up is
simply repeated. The running gateway is asked through the socket control.sock in its cache directory, as root or as its user. Symbolic links below a
directory, devices and sockets are left out.`
}

// errSkipped makes the exit code tell.
var errSkipped = errors.New("some files could not be read; the rest has been sent")

// Run walks the paths, then streams all files in one flow.
func (c cacheWarmCmd) Run(out output) error {
	text, err := os.ReadFile(c.Config)
	if err != nil {
		return fmt.Errorf("configuration: %w", err)
	}
	cfg, err := config.Parse(c.Config, text) // not Load: the private key is the gateway's
	if err != nil {
		return err
	}
	tree := &fileStream{complain: func(err error) { fmt.Fprintln(out.stderr, "wanpair: left out:", err) }}
	if err := tree.walk(c.Paths); err != nil {
		return err
	}
	if len(tree.files) == 0 {
		return errors.New("there is no file to send")
	}
	if share := cfg.Cache.SizeBytes / int64(len(cfg.Peers)) / 2; tree.bytes > share {
		fmt.Fprintf(out.stderr, "wanpair: %s is more than the %s that one direction of a peer's cache holds: what comes last stays\n", size(tree.bytes), size(share))
	}
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt, syscall.SIGTERM)
	defer stop()
	defer tree.close()
	var data io.Reader = tree
	if bar := warmBar(out.stderr, tree.bytes); bar != nil {
		defer bar.Finish() //nolint:errcheck // a bar that cannot be drawn is not missed
		data = io.TeeReader(tree, bar)
	}
	begun := time.Now()
	warmed, err := control.Warm(ctx, control.Path(cfg.Cache.Dir), c.Peer, data)
	if err != nil {
		return err
	}
	fmt.Fprintf(out.stdout, "%s: %d files, %s, sent as %s in %s\n",
		warmed.Peer, len(tree.files)-tree.skipped, size(warmed.RawBytes), size(warmed.WireBytes), age(time.Since(begun).Seconds()))
	if tree.skipped > 0 {
		return errSkipped
	}
	return nil
}

func warmBar(w io.Writer, bytes int64) *progressbar.ProgressBar {
	f, ok := w.(*os.File)
	if !ok || !term.IsTerminal(int(f.Fd())) {
		return nil
	}
	return progressbar.NewOptions64(bytes, progressbar.OptionSetWriter(w), progressbar.OptionSetDescription("warm"),
		progressbar.OptionShowBytes(true), progressbar.OptionThrottle(100*time.Millisecond), progressbar.OptionClearOnFinish())
}

// fileStream reads many files as one stream. A file that cannot be read is left out and complained of.
type fileStream struct {
	complain func(error)
	files    []string
	bytes    int64
	skipped  int

	next int
	open *os.File
}

// walk finds the files. A path that is not there is an error; below a path what cannot be entered is left out.
func (s *fileStream) walk(paths []string) error {
	for _, root := range paths {
		at, err := filepath.EvalSymlinks(root)
		if err != nil {
			return err
		}
		err = filepath.WalkDir(at, func(path string, d fs.DirEntry, err error) error {
			if err != nil {
				s.skipped++
				s.complain(err)
				return nil
			}
			if !d.Type().IsRegular() {
				return nil
			}
			info, err := d.Info()
			if err != nil {
				s.skipped++
				s.complain(err)
				return nil
			}
			s.files = append(s.files, path)
			s.bytes += info.Size()
			return nil
		})
		if err != nil {
			return err
		}
	}
	return nil
}

// Read implements io.Reader.
func (s *fileStream) Read(p []byte) (int, error) {
	for {
		if s.open == nil {
			if s.next == len(s.files) {
				return 0, io.EOF
			}
			f, err := os.Open(s.files[s.next])
			s.next++
			if err != nil {
				s.skip(err)
				continue
			}
			s.open = f
		}
		n, err := s.open.Read(p)
		if n > 0 {
			return n, nil
		}
		s.close()
		if err != nil && !errors.Is(err, io.EOF) {
			s.skip(err)
		}
	}
}

func (s *fileStream) skip(err error) {
	s.skipped++
	s.complain(err)
}

func (s *fileStream) close() {
	if s.open != nil {
		_ = s.open.Close() // it was only read
		s.open = nil
	}
}
