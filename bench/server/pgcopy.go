package server

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"
	"time"
)

// CopyPostgres makes a cluster as a copy of another one's directory, whose server must not run.
func CopyPostgres(ctx context.Context, cfg PostgresConfig, from string) (*Postgres, error) {
	p, err := preparePostgres(ctx, cfg)
	if err != nil {
		return nil, err
	}
	_, err = Text(ctx, Place{}, exec.CommandContext(ctx, "cp", "-a", "--reflink=auto", filepath.Join(from, "data"), p.dataDir()))
	if err == nil {
		err = p.configure()
	}
	if err != nil {
		return nil, errors.Join(err, os.RemoveAll(p.sockets))
	}
	return p, nil
}

// Dump is the command of a plain dump of the database that is the same each time: newer releases put a random word into it otherwise.
func (p *Postgres) Dump(ctx context.Context, remote bool) (*exec.Cmd, error) {
	help, err := p.Run(ctx, "pg_dump", "--help")
	if err != nil {
		return nil, err
	}
	var args []string
	if strings.Contains(help, "--restrict-key") {
		args = append(args, "--restrict-key=wanbench")
	}
	if remote {
		return p.Remote(ctx, "pg_dump", append(args, "bench")...)
	}
	return p.Local(ctx, "pg_dump", append(args, "bench")...)
}

// BaseBackup takes a base backup from a place over the network into a directory that it makes, without WAL, and returns its bytes.
// VerifyBackup checks it.
func (p *Postgres) BaseBackup(ctx context.Context, from Place, into string) (int64, error) {
	if err := os.Mkdir(into, 0o700); err != nil {
		return 0, err
	}
	if p.credential != nil {
		if err := os.Chown(into, int(p.credential.Uid), int(p.credential.Gid)); err != nil {
			return 0, err
		}
	}
	cmd, err := p.Remote(ctx, "pg_basebackup", "-D", into, "-Fp", "-X", "none", "-c", "fast", "--no-sync", "--manifest-checksums=SHA256")
	if err != nil {
		return 0, err
	}
	if _, err := Text(ctx, from, cmd); err != nil {
		return 0, err
	}
	return treeBytes(into)
}

// VerifyBackup checks every byte of a backup against the checksums that the server sent with it.
func (p *Postgres) VerifyBackup(ctx context.Context, dir string) error {
	_, err := p.Run(ctx, "pg_verifybackup", "-n", "-q", dir)
	return err
}

// DataBytes is how much the data directory holds, without WAL.
func (p *Postgres) DataBytes() (int64, error) {
	all, err := treeBytes(p.dataDir())
	if err != nil {
		return 0, err
	}
	wal, err := treeBytes(filepath.Join(p.dataDir(), "pg_wal"))
	return all - wal, err
}

// treeBytes adds up the files below dir; files that vanish meanwhile do not count.
func treeBytes(dir string) (int64, error) {
	var total int64
	err := filepath.WalkDir(dir, func(_ string, entry fs.DirEntry, err error) error {
		if errors.Is(err, fs.ErrNotExist) {
			return nil
		}
		if err != nil || !entry.Type().IsRegular() {
			return err
		}
		info, err := entry.Info()
		if errors.Is(err, fs.ErrNotExist) {
			return nil
		}
		if err == nil {
			total += info.Size()
		}
		return err
	})
	return total, err
}

// Work runs pgbench's standard mix beside the server at a rate, for a time.
func (p *Postgres) Work(ctx context.Context, perSecond int, duration time.Duration, seed uint64) error {
	_, err := p.Run(ctx, "pgbench", "-n", "-c", "4", "-j", "1", "-R", strconv.Itoa(perSecond), "-T", strconv.Itoa(max(1, int(duration/time.Second))),
		"--random-seed="+strconv.FormatUint(seed%(1<<31), 10), "bench")
	return err
}

// Position is how much WAL the server has written (a primary) or replayed (a standby), as a byte position.
func (p *Postgres) Position(ctx context.Context) (int64, error) {
	text, err := p.Query(ctx, "bench", "select case when pg_is_in_recovery() then pg_wal_lsn_diff(pg_last_wal_replay_lsn(), '0/0') else pg_wal_lsn_diff(pg_current_wal_lsn(), '0/0') end::bigint")
	if err != nil {
		return 0, err
	}
	return strconv.ParseInt(text, 10, 64)
}

// WaitReplayed waits until a standby has replayed up to a position.
func (p *Postgres) WaitReplayed(ctx context.Context, position int64) error {
	tick := time.NewTicker(probeEvery)
	defer tick.Stop()
	for {
		at, err := p.Position(ctx)
		if err != nil {
			return err
		}
		if at >= position {
			return nil
		}
		select {
		case <-ctx.Done():
			return fmt.Errorf("the standby is %d bytes behind: %w", position-at, ctx.Err())
		case <-tick.C:
		}
	}
}

// Fingerprint is a hash over all rows of pgbench's tables: two servers with the same hold the same data.
func (p *Postgres) Fingerprint(ctx context.Context) (string, error) {
	var parts []string
	for _, table := range []string{"pgbench_accounts", "pgbench_branches", "pgbench_tellers", "pgbench_history"} {
		text, err := p.Query(ctx, "bench", "select count(*), sum(hashtextextended(t::text, 0)) from "+table+" t")
		if err != nil {
			return "", err
		}
		parts = append(parts, text)
	}
	return strings.Join(parts, " "), nil
}
