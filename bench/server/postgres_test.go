package server

import (
	"context"
	"errors"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"
)

func TestPostgresServesAndReplicates(t *testing.T) {
	need(t, "initdb", "postgres", "psql", "pgbench", "pg_basebackup")
	dir := openDir(t)
	primary, err := NewPostgres(t.Context(), PostgresConfig{Place: Here(), Dir: filepath.Join(dir, "primary")})
	if err != nil {
		t.Fatal(err)
	}
	defer func() {
		if err := primary.Close(); err != nil {
			t.Error(err)
		}
	}()
	if err := primary.Start(t.Context()); err != nil {
		t.Fatal(err)
	}
	if err := primary.Fill(t.Context(), 1); err != nil {
		t.Fatal(err)
	}
	remote, err := primary.Remote(t.Context(), "psql", "-X", "-qAt", "-c", "select count(*) from pgbench_accounts")
	if err != nil {
		t.Fatal(err)
	}
	if out, err := Text(t.Context(), Here(), remote); err != nil || strings.TrimSpace(out) != "100000" {
		t.Fatalf("count by TCP: %q %v", out, err)
	}

	standby, err := NewStandby(t.Context(), PostgresConfig{Place: Here(), Dir: filepath.Join(dir, "standby")}, primary)
	if err != nil {
		t.Fatal(err)
	}
	defer func() {
		if err := standby.Close(); err != nil {
			t.Error(err)
		}
	}()
	if err := standby.Start(t.Context()); err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithTimeout(t.Context(), 20*time.Second)
	defer cancel()
	for streaming := ""; streaming != "1"; {
		if streaming, err = primary.Query(ctx, "bench", "select count(*) from pg_stat_replication where replay_lsn is not null"); err != nil {
			t.Fatal(err)
		}
	}
	watching, stop := context.WithCancel(t.Context())
	lags := make(chan []Lag, 1)
	go func() {
		seen, err := primary.WatchLag(watching)
		if err != nil {
			t.Error(err)
		}
		lags <- seen
	}()
	if err := primary.Transact(t.Context(), 400, 1); err != nil {
		t.Fatal(err)
	}
	const total = "select sum(delta), count(*) from pgbench_history"
	want, err := primary.Query(t.Context(), "bench", total)
	if err != nil {
		t.Fatal(err)
	}
	for got := ""; got != want; {
		if got, err = standby.Query(ctx, "bench", total); err != nil {
			t.Fatal(err)
		}
	}
	stop()
	if seen := <-lags; len(seen) == 0 {
		t.Error("no lag was sampled")
	}
}

func TestDeadServerSaysWhy(t *testing.T) {
	need(t, "initdb", "postgres", "psql")
	cluster, err := NewPostgres(t.Context(), PostgresConfig{Place: Here(), Dir: filepath.Join(openDir(t), "c"), Settings: map[string]string{"shared_buffers": "nonsense"}})
	if err != nil {
		t.Fatal(err)
	}
	defer cluster.Close()
	err = cluster.Start(t.Context())
	if !errors.Is(err, ErrNotReady) || !strings.Contains(err.Error(), "shared_buffers") {
		t.Errorf("got %v", err)
	}
}

// need skips, or fails where everything is required, when a program is missing.
func need(t *testing.T, tools ...string) {
	t.Helper()
	if err := Require(tools...); err != nil {
		if os.Getenv("WANPAIR_REQUIRE_ROOT") == "1" {
			t.Fatal(err)
		}
		t.Skip(err)
	}
}

// openDir is a directory that other users may walk to.
func openDir(t *testing.T) string {
	t.Helper()
	dir, err := os.MkdirTemp("", "wbserver")
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { os.RemoveAll(dir) })
	if err := os.Chmod(dir, 0o755); err != nil {
		t.Fatal(err)
	}
	return dir
}
