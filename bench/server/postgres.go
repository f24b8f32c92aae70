package server

import (
	"context"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"os/user"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"syscall"
	"time"
)

// postgresUser is the database superuser of every cluster made here; connections are trusted, the clusters live in a lab.
const postgresUser = "bench"

// PostgresConfig describes one PostgreSQL cluster.
type PostgresConfig struct {
	Place Place
	// Dir holds everything of the cluster and is made when it is not there.
	Dir string
	// Port is TCP port and part of the name of the Unix socket; 0 takes a free one.
	Port int
	// Local leaves TCP out: clients on this machine only, by Unix socket.
	Local bool
	// Settings go to postgresql.conf as they are, after the defaults of this package.
	Settings map[string]string
}

// Postgres is a cluster: its data directory and, between Start and Stop, its server. PostgreSQL refuses to run as root, so when we are
// root its programs run as the user postgres, or as nobody where there is none.
type Postgres struct {
	cfg        PostgresConfig
	credential *syscall.Credential // nil: as ourselves
	sockets    string              // directory of the Unix socket; short, for its path is limited to 107 bytes (unix(7))
	process    *Process
}

// NewPostgres makes an empty cluster (initdb) with a database "bench" still to be created; it does not start it.
func NewPostgres(ctx context.Context, cfg PostgresConfig) (*Postgres, error) {
	p, err := preparePostgres(ctx, cfg)
	if err != nil {
		return nil, err
	}
	cmd, err := p.tool(ctx, "initdb", "-D", p.dataDir(), "-U", postgresUser, "-A", "trust", "-k", "-E", "UTF8", "--locale=C")
	if err == nil {
		_, err = Text(ctx, Place{}, cmd)
	}
	if err == nil {
		err = p.configure()
	}
	if err != nil {
		return nil, errors.Join(err, os.RemoveAll(p.sockets))
	}
	return p, nil
}

// NewStandby makes a streaming standby of a running primary by pg_basebackup over the network; it does not start it. The primary needs
// wal_level replica, which is the default.
func NewStandby(ctx context.Context, cfg PostgresConfig, primary *Postgres) (*Postgres, error) {
	p, err := preparePostgres(ctx, cfg)
	if err != nil {
		return nil, err
	}
	cmd, err := p.tool(ctx, "pg_basebackup", "-D", p.dataDir(), "-R", "-X", "stream", "-c", "fast", "-h", primary.cfg.Place.Addr.String(),
		"-p", strconv.Itoa(primary.cfg.Port), "-U", postgresUser)
	if err == nil {
		_, err = Text(ctx, p.cfg.Place, cmd)
	}
	if err == nil {
		err = p.configure()
	}
	if err != nil {
		return nil, errors.Join(err, os.RemoveAll(p.sockets))
	}
	return p, nil
}

func preparePostgres(ctx context.Context, cfg PostgresConfig) (*Postgres, error) {
	if err := Require("initdb", "postgres", "psql"); err != nil {
		return nil, err
	}
	if cfg.Port == 0 {
		port, err := freePort(ctx, cfg.Place)
		if err != nil {
			return nil, err
		}
		cfg.Port = port
	}
	credential, err := serviceCredential()
	if err != nil {
		return nil, err
	}
	p := &Postgres{cfg: cfg, credential: credential}
	if err := os.MkdirAll(cfg.Dir, 0o755); err != nil {
		return nil, err
	}
	if p.sockets, err = os.MkdirTemp("", "wbpg"); err != nil {
		return nil, err
	}
	if credential != nil {
		for _, dir := range []string{cfg.Dir, p.sockets} {
			if err := os.Chown(dir, int(credential.Uid), int(credential.Gid)); err != nil {
				return nil, err
			}
		}
	}
	return p, nil
}

// serviceCredential is the user that servers run as which refuse to be root; nil when we are not root anyway.
func serviceCredential() (*syscall.Credential, error) {
	if os.Geteuid() != 0 {
		return nil, nil
	}
	for _, name := range []string{"postgres", "nobody"} {
		u, err := user.Lookup(name)
		if err != nil {
			continue
		}
		uid, err := strconv.ParseUint(u.Uid, 10, 32)
		if err != nil {
			return nil, err
		}
		gid, err := strconv.ParseUint(u.Gid, 10, 32)
		if err != nil {
			return nil, err
		}
		return &syscall.Credential{Uid: uint32(uid), Gid: uint32(gid)}, nil
	}
	return nil, errors.New("PostgreSQL refuses to run as root, and there is neither a user postgres nor nobody")
}

func (p *Postgres) dataDir() string { return filepath.Join(p.cfg.Dir, "data") }

// configure writes the settings; durability is off, since what is measured is the network and what is lost on a crash was made by us.
func (p *Postgres) configure() error {
	settings := map[string]string{
		"port":                    strconv.Itoa(p.cfg.Port),
		"unix_socket_directories": p.sockets,
		"listen_addresses":        p.cfg.Place.Addr.String(),
		"max_wal_senders":         "8",
		"wal_level":               "replica",
		"max_wal_size":            "4GB",
		"fsync":                   "off",
		"full_page_writes":        "on",
		"shared_buffers":          "64MB",
		"log_checkpoints":         "off",
	}
	if p.cfg.Local {
		settings["listen_addresses"] = ""
	}
	for key, value := range p.cfg.Settings {
		settings[key] = value
	}
	var conf strings.Builder
	conf.WriteString("\n# wanbench\n")
	keys := make([]string, 0, len(settings))
	for key := range settings {
		keys = append(keys, key)
	}
	slices.Sort(keys)
	for _, key := range keys {
		fmt.Fprintf(&conf, "%s = '%s'\n", key, strings.ReplaceAll(settings[key], "'", "''"))
	}
	if err := appendFile(filepath.Join(p.dataDir(), "postgresql.conf"), conf.String()); err != nil {
		return err
	}
	return appendFile(filepath.Join(p.dataDir(), "pg_hba.conf"), "\nhost all all all trust\nhost replication all all trust\n")
}

func appendFile(path, text string) error {
	f, err := os.OpenFile(path, os.O_WRONLY|os.O_APPEND, 0)
	if err != nil {
		return err
	}
	_, err = f.WriteString(text)
	return errors.Join(err, f.Close())
}

// Start starts the server and waits until it answers queries. A server that was stopped may be started again.
func (p *Postgres) Start(ctx context.Context) error {
	cmd, err := p.tool(context.WithoutCancel(ctx), "postgres", "-D", p.dataDir())
	if err != nil {
		return err
	}
	process, err := startProcess(p.cfg.Place, "postgres", cmd, filepath.Join(p.cfg.Dir, "postgres.log"))
	if err != nil {
		return err
	}
	p.process = process
	err = process.waitReady(ctx, func(ctx context.Context) error {
		_, err := p.Query(ctx, "template1", "select 1")
		return err
	})
	if err != nil {
		return errors.Join(err, p.Stop())
	}
	return nil
}

// Stop stops the server without waiting for its clients (fast shutdown). The data stays.
func (p *Postgres) Stop() error {
	if p.process == nil {
		return nil
	}
	err := p.process.Stop(syscall.SIGINT)
	p.process = nil
	return err
}

// Close stops the server and removes its socket directory; the data stays where it is.
func (p *Postgres) Close() error {
	return errors.Join(p.Stop(), os.RemoveAll(p.sockets))
}

// Port is the TCP port.
func (p *Postgres) Port() int { return p.cfg.Port }

// Place is where the server runs.
func (p *Postgres) Place() Place { return p.cfg.Place }

// tool makes a command of one of PostgreSQL's programs, run as the service user, that talks to the server by its Unix socket.
func (p *Postgres) tool(ctx context.Context, name string, args ...string) (*exec.Cmd, error) {
	path, err := Tool(name)
	if err != nil {
		return nil, err
	}
	cmd := exec.CommandContext(ctx, path, args...)
	cmd.Dir = p.cfg.Dir
	cmd.Env = append(os.Environ(), "PGHOST="+p.sockets, "PGPORT="+strconv.Itoa(p.cfg.Port), "PGUSER="+postgresUser, "PGDATABASE=bench",
		"LC_ALL=C", "HOME="+p.cfg.Dir)
	cmd.SysProcAttr = &syscall.SysProcAttr{Credential: p.credential}
	return cmd, nil
}

// Local makes a command of one of PostgreSQL's client programs that reaches the server beside it, by its Unix socket.
func (p *Postgres) Local(ctx context.Context, name string, args ...string) (*exec.Cmd, error) {
	return p.tool(ctx, name, args...)
}

// Remote makes a command of one of PostgreSQL's client programs that reaches the server by TCP.
func (p *Postgres) Remote(ctx context.Context, name string, args ...string) (*exec.Cmd, error) {
	cmd, err := p.tool(ctx, name, args...)
	if err != nil {
		return nil, err
	}
	cmd.Env = append(cmd.Env, "PGHOST="+p.cfg.Place.Addr.String(), "PGSSLMODE=disable", "PGGSSENCMODE=disable")
	return cmd, nil
}

// Run runs a client program beside the server and returns what it prints.
func (p *Postgres) Run(ctx context.Context, name string, args ...string) (string, error) {
	cmd, err := p.tool(ctx, name, args...)
	if err != nil {
		return "", err
	}
	return Text(ctx, p.cfg.Place, cmd)
}

// Query runs one statement beside the server and returns unaligned rows.
func (p *Postgres) Query(ctx context.Context, database, statement string) (string, error) {
	out, err := p.Run(ctx, "psql", "-X", "-qAt", "-v", "ON_ERROR_STOP=1", "-d", database, "-c", statement)
	return strings.TrimSpace(out), err
}

// Fill creates the database "bench" and loads pgbench's tables into it: about 15 MB for each unit of scale.
func (p *Postgres) Fill(ctx context.Context, scale int) error {
	if _, err := p.Run(ctx, "psql", "-X", "-q", "-d", "template1", "-c", "create database bench template template0"); err != nil {
		return err
	}
	_, err := p.Run(ctx, "pgbench", "-i", "-q", "-s", strconv.Itoa(scale), "bench")
	return err
}

// Transact runs pgbench's standard mix: a day's work between two nights. The seed makes two runs do the same.
func (p *Postgres) Transact(ctx context.Context, transactions int, seed uint64) error {
	const clients = 4
	_, err := p.Run(ctx, "pgbench", "-n", "-c", strconv.Itoa(clients), "-j", "1", "-t", strconv.Itoa(max(1, transactions/clients)),
		"--random-seed="+strconv.FormatUint(seed%(1<<31), 10), "bench")
	return err
}

// SwitchWAL ends the current WAL segment and returns the name of the new one.
func (p *Postgres) SwitchWAL(ctx context.Context) (string, error) {
	if _, err := p.Query(ctx, "bench", "select pg_switch_wal()"); err != nil {
		return "", err
	}
	return p.Query(ctx, "bench", "select pg_walfile_name(pg_current_wal_lsn())")
}

// WALSegments lists the files of the segments from first up to, but without, last, oldest first.
func (p *Postgres) WALSegments(first, last string) ([]string, error) {
	entries, err := os.ReadDir(filepath.Join(p.dataDir(), "pg_wal"))
	if err != nil {
		return nil, err
	}
	var files []string
	for _, e := range entries { // ReadDir sorts by name
		if name := e.Name(); len(name) == len(first) && name >= first && name < last {
			files = append(files, filepath.Join(p.dataDir(), "pg_wal", name))
		}
	}
	if len(files) == 0 {
		return nil, fmt.Errorf("no WAL segments from %s to %s", first, last)
	}
	return files, nil
}

// Lag is how far a standby is behind its primary.
type Lag struct {
	// Since is the time since the watch began.
	Since time.Duration
	// Bytes of WAL that the primary has written and the standby has not replayed.
	Bytes int64
}

// WatchLag samples, on the primary and several times a second, how far its first standby is behind, until the context ends; it then
// returns what it saw. No standby counts as the whole WAL since the watch began not being there: such samples are left out.
func (p *Postgres) WatchLag(ctx context.Context) ([]Lag, error) {
	const every = 250 * time.Millisecond
	cmd, err := p.tool(ctx, "psql", "-X", "-qAt", "-d", "bench", "-f", "-")
	if err != nil {
		return nil, err
	}
	script := fmt.Sprintf("select pg_wal_lsn_diff(pg_current_wal_lsn(), replay_lsn)::bigint from pg_stat_replication limit 1\n\\watch %g\n", every.Seconds())
	cmd.Stdin = strings.NewReader(script)
	watch := &lagWatch{began: time.Now()}
	err = run(ctx, p.cfg.Place, cmd, watch)
	if ctx.Err() != nil {
		err = nil // the end that was asked for
	}
	return watch.seen, err
}

// lagWatch reads one number per line.
type lagWatch struct {
	began time.Time
	rest  []byte
	seen  []Lag
}

func (w *lagWatch) Write(b []byte) (int, error) {
	w.rest = append(w.rest, b...)
	for {
		end := slices.Index(w.rest, '\n')
		if end < 0 {
			return len(b), nil
		}
		if n, err := strconv.ParseInt(strings.TrimSpace(string(w.rest[:end])), 10, 64); err == nil {
			w.seen = append(w.seen, Lag{Since: time.Since(w.began), Bytes: n})
		}
		w.rest = w.rest[end+1:]
	}
}
