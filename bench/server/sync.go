package server

import (
	"context"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"syscall"
)

// Rsync is an rsync daemon with one module, read only.
type Rsync struct {
	place   Place
	process *Process
	port    int
}

// StartRsync serves root. dir is for the daemon's own files.
func StartRsync(ctx context.Context, place Place, dir, root string) (*Rsync, error) {
	path, err := Tool("rsync")
	if err != nil {
		return nil, err
	}
	if err := os.MkdirAll(dir, 0o755); err != nil {
		return nil, err
	}
	r := &Rsync{place: place}
	if r.port, err = freePort(ctx, place); err != nil {
		return nil, err
	}
	conf := filepath.Join(dir, "rsyncd.conf")
	owner := ""
	if os.Geteuid() == 0 {
		owner = "uid = root\ngid = root\n"
	}
	text := fmt.Sprintf("use chroot = no\nreverse lookup = no\nmax connections = 0\n%slog file = %s/rsyncd.log\npid file = %[2]s/rsyncd.pid\n[data]\npath = %s\nread only = yes\n", owner, dir, root)
	if err := os.WriteFile(conf, []byte(text), 0o644); err != nil {
		return nil, err
	}
	cmd := exec.CommandContext(context.WithoutCancel(ctx), path, "--daemon", "--no-detach", "--config", conf, "--address", place.Addr.String(), "--port", strconv.Itoa(r.port))
	if r.process, err = startProcess(place, "rsync daemon", cmd, filepath.Join(dir, "log")); err != nil {
		return nil, err
	}
	if err := r.process.waitReady(ctx, probeTCP(place, r.port)); err != nil {
		return nil, errors.Join(err, r.Stop())
	}
	return r, nil
}

// Pull mirrors a directory of the module into a local one; extra arguments come first, such as -z.
func (r *Rsync) Pull(ctx context.Context, from Place, name, into string, args ...string) error {
	path, err := Tool("rsync")
	if err != nil {
		return err
	}
	args = append(args, "-a", "--delete", "--contimeout=20", fmt.Sprintf("rsync://%s/data/%s/", r.place.HostPort(r.port), name), into+"/")
	_, err = Text(ctx, from, exec.CommandContext(ctx, path, args...))
	return err
}

// Stop ends the daemon.
func (r *Rsync) Stop() error { return r.process.Stop(syscall.SIGTERM) }

// Git is a git daemon that exports every repository of one directory.
type Git struct {
	place   Place
	process *Process
	port    int
	base    string
}

// gitEnviron keeps the machine's and the user's settings out, and makes commits the same each time.
func gitEnviron() []string {
	return append(os.Environ(), "GIT_CONFIG_GLOBAL=/dev/null", "GIT_CONFIG_SYSTEM=/dev/null", "GIT_TERMINAL_PROMPT=0",
		"GIT_AUTHOR_NAME=bench", "GIT_AUTHOR_EMAIL=bench@localhost", "GIT_COMMITTER_NAME=bench", "GIT_COMMITTER_EMAIL=bench@localhost",
		"GIT_AUTHOR_DATE=1700000000 +0000", "GIT_COMMITTER_DATE=1700000000 +0000")
}

// StartGit exports the repositories below base. dir is for the daemon's own files.
func StartGit(ctx context.Context, place Place, dir, base string) (*Git, error) {
	path, err := Tool("git")
	if err != nil {
		return nil, err
	}
	if err := os.MkdirAll(dir, 0o755); err != nil {
		return nil, err
	}
	g := &Git{place: place, base: base}
	if g.port, err = freePort(ctx, place); err != nil {
		return nil, err
	}
	cmd := exec.CommandContext(context.WithoutCancel(ctx), path, "-c", "pack.threads=1", "daemon", "--reuseaddr", "--export-all", "--max-connections=0",
		"--base-path="+base, "--listen="+place.Addr.String(), "--port="+strconv.Itoa(g.port), base)
	cmd.Env = gitEnviron()
	if g.process, err = startProcess(place, "git daemon", cmd, filepath.Join(dir, "log")); err != nil {
		return nil, err
	}
	if err := g.process.waitReady(ctx, probeTCP(place, g.port)); err != nil {
		return nil, errors.Join(err, g.Stop())
	}
	return g, nil
}

// Commit makes the files of tree the next commit of a repository of the daemon, which is made when it is not there.
func (g *Git) Commit(ctx context.Context, repository, tree, message string) error {
	dir := filepath.Join(g.base, repository)
	steps := [][]string{{"add", "-A", "."}, {"commit", "-q", "--no-verify", "-m", message}, {"repack", "-adq"}}
	if _, err := os.Stat(dir); err != nil {
		steps = append([][]string{{"init", "-q", "--bare", "-b", "main", dir}}, steps...)
	}
	for _, step := range steps {
		args := append([]string{"--git-dir=" + dir, "-c", "core.bare=false", "-c", "pack.threads=1", "-c", "gc.auto=0"}, step...)
		if step[0] == "init" {
			args = step
		} else {
			args = append([]string{"--work-tree=" + tree}, args...)
		}
		if err := runGit(ctx, Place{}, tree, args...); err != nil {
			return err
		}
	}
	return nil
}

// Clone clones a repository with its files, all of it over the network.
func (g *Git) Clone(ctx context.Context, from Place, repository, into string) error {
	return runGit(ctx, from, "", "clone", "-q", "git://"+g.place.HostPort(g.port)+"/"+repository, into)
}

// Update brings a clone up to date.
func (g *Git) Update(ctx context.Context, from Place, clone string) error {
	return runGit(ctx, from, clone, "pull", "-q", "--ff-only")
}

func runGit(ctx context.Context, place Place, dir string, args ...string) error {
	path, err := Tool("git")
	if err != nil {
		return err
	}
	cmd := exec.CommandContext(ctx, path, args...)
	cmd.Dir, cmd.Env = dir, gitEnviron()
	_, err = Text(ctx, place, cmd)
	return err
}

// Stop ends the daemon.
func (g *Git) Stop() error { return g.process.Stop(syscall.SIGTERM) }
