package main

import (
	"context"
	"fmt"
	"os"
	"os/signal"
	"syscall"

	"wanpair/bench/corpus"
)

// corpusCmd builds the data that scenarios and codec rows are measured with.
type corpusCmd struct {
	Dir   string   `arg:"" help:"Where the sets go, one directory each (about 1.8 GB for four)."`
	Sets  []string `arg:"" optional:"" help:"source, npm, pg, images: all four when none is named; nights (ten dumps and ten base backups of one database, 1.7 GB) only by name."`
	Scale int      `default:"15" help:"Scale of the PostgreSQL set: 15 MB of table for each. The nights take a third of it."`
}

// Run builds what is not there yet and lists what is.
func (c corpusCmd) Run() error {
	ctx, stop := interrupted()
	defer stop()
	var b *bar
	files, err := corpus.Make(ctx, corpus.Config{
		Dir: c.Dir, Scale: c.Scale, Transactions: c.Scale * 1333, Rows: min(200_000, c.Scale*13_333),
		Progress: func(step string, done, total int) {
			if b == nil {
				b = newBar(total)
			}
			b.step(step, done)
		},
	}, c.Sets...)
	if b != nil {
		b.finish()
	}
	if err != nil {
		return err
	}
	for _, f := range files {
		if _, err := fmt.Printf("%12d  %s\n", f.Bytes, f.Path); err != nil {
			return err
		}
	}
	return nil
}

// interrupted is a context that ends with the first SIGINT or SIGTERM; a second one kills.
func interrupted() (context.Context, context.CancelFunc) {
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt, syscall.SIGTERM)
	context.AfterFunc(ctx, stop)
	return ctx, stop
}
