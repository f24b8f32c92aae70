package main

import (
	"context"
	"fmt"
	"os"
	"os/signal"
	"path/filepath"
	"syscall"

	"wanpair/bench/demo"
	"wanpair/bench/lab"
)

// demoCmd is what `make demo` runs.
type demoCmd struct {
	Binary string `placeholder:"FILE" help:"The wanpair binary; default: beside this one."`
	Tree   string `placeholder:"DIR" help:"Source tree to send; default: the Go installation's."`
	Link   string `placeholder:"WORDS" help:"Parameters of the link; default: both delay=50ms rate=20mbit queue=256k."`
	Stay   bool   `env:"DEMO_STAY" help:"Leave everything running until interrupted."`
}

// Run shows the main job and ends by itself.
func (c demoCmd) Run() error {
	if err := lab.Enter(); err != nil {
		return fmt.Errorf("the demo makes network namespaces: %w", err)
	}
	if c.Binary == "" {
		self, err := os.Executable()
		if err != nil {
			return err
		}
		c.Binary = filepath.Join(filepath.Dir(self), "wanpair")
	}
	if _, err := os.Stat(c.Binary); err != nil {
		return fmt.Errorf("no gateway to show: %w: run make build first", err)
	}
	ctx, stop := signal.NotifyContext(context.Background(), syscall.SIGTERM, syscall.SIGINT)
	defer stop()
	return demo.Run(ctx, demo.Config{Binary: c.Binary, Tree: c.Tree, LinkWords: c.Link, Stay: c.Stay, Out: os.Stdout})
}
