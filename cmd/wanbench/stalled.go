package main

import (
	"errors"
	"fmt"
	"os"

	"wanpair/bench/chaos"
	"wanpair/bench/lab"
)

// stalledCmd pushes at readers that take nothing.
type stalledCmd struct {
	Readers int    `default:"1000" help:"How many connections take nothing."`
	PushMB  int64  `name:"push-mb" default:"10000" help:"What is pushed at all of them together, in MB."`
	Runs    int    `default:"5" help:"Transfers beside them: so many before and so many during the stall."`
	RunMB   int64  `name:"run-mb" default:"10" help:"Size of such a transfer, in MB."`
	Seed    uint64 `default:"1" help:"Of the data."`
	Binary  string `placeholder:"FILE" help:"The wanpair binary; default: beside this one."`
	JSON    string `name:"json" placeholder:"FILE" help:"Write the result."`
	Keep    string `placeholder:"DIR" help:"Keep configurations, caches and logs here."`
}

// Run measures and prints the report.
func (c stalledCmd) Run() error {
	binary, _, err := chaosCmd{Binary: c.Binary}.gateway()
	if err != nil {
		return err
	}
	if c.Readers < 1 || c.Runs < 1 || c.PushMB < 1 || c.RunMB < 1 {
		return errors.New("readers, transfers and sizes must be at least 1")
	}
	if err := lab.Enter(); err != nil {
		return fmt.Errorf("stalled makes network namespaces: %w", err)
	}
	ctx, stop := interrupted()
	defer stop()
	result, err := chaos.Stall(ctx, chaos.StallPlan{Binary: binary, Dir: c.Keep, Readers: c.Readers, PushBytes: c.PushMB * 1e6, Runs: c.Runs, RunBytes: c.RunMB * 1e6,
		Seed: c.Seed, Commit: commit, Log: os.Stderr})
	if result == nil {
		return err
	}
	if c.JSON != "" {
		err = errors.Join(err, result.Write(c.JSON))
	}
	_, printErr := fmt.Print(result.Text())
	return errors.Join(err, printErr)
}
