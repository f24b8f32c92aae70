package main

import (
	"context"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"time"

	"wanpair/bench/chaos"
	"wanpair/bench/lab"
	"wanpair/bench/report"
)

// chaosCmd breaks a pair at random while real traffic flows through it.
type chaosCmd struct {
	Seconds  int      `default:"120" help:"How long; up to 600 all faults are short ones, beyond that cuts last up to a minute."`
	Seed     uint64   `default:"1" help:"Of faults, data and losses: the same seed, the same faults in the same order."`
	Faults   []string `placeholder:"NAME" help:"Faults and conditions of the link to take, such as kill,cut,loss; default: all. 'list' says what there is."`
	Binary   string   `placeholder:"FILE" help:"The wanpair binary; default: beside this one."`
	Previous string   `placeholder:"FILE" help:"The binary of the version before, for upgrades; default: built from the latest tag, or else from 20 commits back, in a git checkout."`
	Fast     bool     `help:"Many faults, one right after the other: held for 0.3 s at most, and one time in three the next one comes before all is well again."`
	JSON     string   `name:"json" placeholder:"FILE" help:"Write the result."`
	HTML     string   `name:"html" placeholder:"FILE" help:"Write one page with a picture."`
	State    string   `placeholder:"FILE" help:"Lets an interrupted campaign go on, and collects the results of those that are over."`
	Keep     string   `placeholder:"DIR" help:"Keep configurations, caches and logs here. They are kept after a violation in any case."`
	Level    string   `default:"info" help:"Log level of the gateways."`
}

// Run runs the campaign and prints the report. Exit status 1 means a violation, or that the campaign could not be run.
func (c chaosCmd) Run() error {
	if len(c.Faults) == 1 && c.Faults[0] == "list" {
		names, what := chaos.Faults()
		for i, name := range names {
			fmt.Printf("%-12s %s\n", name, what[i])
		}
		return nil
	}
	binary, gateway, err := c.gateway()
	if err != nil {
		return err
	}
	if err := lab.Enter(); err != nil {
		return fmt.Errorf("chaos makes network namespaces: %w", err)
	}
	ctx, stop := interrupted()
	defer stop()
	b := newBar(c.Seconds)
	plan := chaos.Plan{Seconds: c.Seconds, Seed: c.Seed, Faults: c.Faults, Binary: binary, Dir: c.Keep, Keep: c.Keep != "", State: c.State, LogLevel: c.Level,
		Commit: commit, Gateway: gateway, Previous: c.Previous, Fast: c.Fast}
	if plan.Previous == "" && plan.Upgrades() {
		dir, err := os.MkdirTemp("", "wanpair-previous-")
		if err != nil {
			return err
		}
		defer os.RemoveAll(dir)
		if plan.Previous, err = buildPrevious(ctx, dir); err != nil {
			fmt.Fprintln(os.Stderr, "upgrades are left out, as the version before could not be built (--previous names one):", err)
		}
	}
	if b.terminal {
		plan.Progress = func(what string, done, _ int) { b.step(what, done) }
	} else {
		plan.Log = os.Stderr
	}
	result, err := chaos.Run(ctx, plan)
	b.finish()
	if result == nil {
		return err
	}
	if ctx.Err() != nil && c.State != "" {
		err = errors.Join(err, errors.New("interrupted: the same command goes on where this one stopped"))
	}
	if c.JSON != "" {
		err = errors.Join(err, result.Write(c.JSON))
	}
	if c.HTML != "" {
		page, pageErr := result.HTML()
		if pageErr == nil {
			pageErr = report.WriteFile(c.HTML, page)
		}
		err = errors.Join(err, pageErr)
	}
	_, printErr := fmt.Print(result.Text())
	return errors.Join(err, printErr)
}

// buildPrevious builds the version before from the checkout around the working directory, with what the Go toolchain has cached.
func buildPrevious(ctx context.Context, dir string) (string, error) {
	const script = `
		cd "$(git rev-parse --show-toplevel)"
		ref=$(git describe --tags --abbrev=0 2>/dev/null || git rev-parse HEAD~20)
		mkdir "$0/source"
		git archive "$ref" | tar -x -C "$0/source"
		cd "$0/source"
		CGO_ENABLED=0 go build -trimpath -ldflags "-X main.version=$ref" -o "$0/wanpair" ./cmd/wanpair`
	cmd := exec.CommandContext(ctx, "sh", "-ec", script, dir)
	if out, err := cmd.CombinedOutput(); err != nil {
		return "", fmt.Errorf("%w: %s", err, strings.TrimSpace(string(out)))
	}
	if err := os.Chmod(dir, 0o755); err != nil {
		return "", err
	}
	return filepath.Join(dir, "wanpair"), nil
}

// gateway finds the binary and asks what it is.
func (c chaosCmd) gateway() (path, version string, err error) {
	if path = c.Binary; path == "" {
		self, err := os.Executable()
		if err != nil {
			return "", "", err
		}
		path = filepath.Join(filepath.Dir(self), "wanpair")
	}
	if path, err = filepath.Abs(path); err != nil {
		return "", "", err
	}
	ctx, cancel := context.WithTimeout(context.Background(), 10*time.Second)
	defer cancel()
	out, err := exec.CommandContext(ctx, path, "version").Output()
	if err != nil {
		return "", "", fmt.Errorf("no gateway to break: %w: make build makes it, --binary names another", err)
	}
	return path, strings.Join(strings.Fields(string(out)), " "), nil
}
