package corpus

import (
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"strconv"

	"wanpair/bench/server"
)

// pgSteps makes what two nights of a busy database leave behind: two dumps, two base backups, the WAL of two days, one report run twice.
// They belong to one life of one cluster, so they are made in one step.
func pgSteps(cfg Config) []step {
	var files []string
	for _, name := range []string{"dump1.sql", "dump2.sql", "base1.tar", "base2.tar", "wal1.bin", "wal2.bin", "query1.txt", "query2.txt"} {
		files = append(files, filepath.Join(cfg.Dir, "pg", name))
	}
	return []step{{
		name: "pg: PostgreSQL over two nights", files: files, weight: 10 + 4*cfg.Scale,
		make: func(ctx context.Context) error { return makePostgres(ctx, cfg, "pg", (*nights).live) },
	}}
}

// manyNights is how many nights the set of that name has.
const manyNights = 10

// nightsPart: the nights are of a database a third as large as the other set's, or ten backups would be 4 GB.
const nightsPart = 3

// nightSteps makes ten nights of one database: a dump and a base backup each, pgbench between them.
func nightSteps(cfg Config) []step {
	cfg.Scale, cfg.Transactions = max(1, cfg.Scale/nightsPart), cfg.Transactions/nightsPart
	var files []string
	for i := range manyNights {
		files = append(files, filepath.Join(cfg.Dir, "nights", "dump"+nightName(i)+".sql"), filepath.Join(cfg.Dir, "nights", "base"+nightName(i)+".tar"))
	}
	return []step{{
		name: "nights: PostgreSQL over ten nights", files: files, weight: 20 + 10*cfg.Scale,
		make: func(ctx context.Context) error { return makePostgres(ctx, cfg, "nights", (*nights).many) },
	}}
}

func nightName(i int) string { return fmt.Sprintf("%02d", i+1) }

// makePostgres makes a set from the life of one cluster.
func makePostgres(ctx context.Context, cfg Config, set string, live func(*nights) error) (err error) {
	if err := server.Require("initdb", "postgres", "psql", "pgbench", "pg_dump", "pg_basebackup"); err != nil {
		return err
	}
	// Beside the final place, so that the results can be renamed, and so that a short /tmp does not matter.
	work, err := os.MkdirTemp(filepath.Join(cfg.Dir, set), "work")
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, os.RemoveAll(work)) }()
	cluster, err := reachable(ctx, work)
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, cluster.Close()) }()
	if err := cluster.Start(ctx); err != nil {
		return err
	}
	nights := &nights{ctx: ctx, cfg: cfg, cluster: cluster, work: work}
	if err := live(nights); err != nil {
		return err
	}
	if err := cluster.Stop(); err != nil {
		return err
	}
	for _, name := range nights.made {
		if err := os.Rename(filepath.Join(work, name), filepath.Join(cfg.Dir, set, name)); err != nil {
			return err
		}
	}
	return nil
}

// reachable makes the cluster; PostgreSQL's user must be able to walk to it, which a private directory above would forbid.
func reachable(ctx context.Context, work string) (*server.Postgres, error) {
	if err := os.Chmod(work, 0o755); err != nil {
		return nil, err
	}
	cluster, err := server.NewPostgres(ctx, server.PostgresConfig{
		Place: server.Here(), Dir: filepath.Join(work, "cluster"), Local: true,
		Settings: map[string]string{"wal_keep_size": "4GB", "max_wal_size": "4GB", "wal_recycle": "off"},
	})
	if err != nil {
		return nil, fmt.Errorf("%w (every directory above %s must be open to PostgreSQL's user)", err, work)
	}
	return cluster, nil
}

// nights is the life of the cluster.
type nights struct {
	ctx     context.Context
	cfg     Config
	cluster *server.Postgres
	work    string
	made    []string // names of the files in work
}

// day is work of the database: transactions of pgbench.
func (n *nights) day(seed uint64, part int) error {
	return n.cluster.Transact(n.ctx, n.cfg.Transactions/part, seed)
}

// many is ten nights with a day before each.
func (n *nights) many() error {
	if err := n.cluster.Fill(n.ctx, n.cfg.Scale); err != nil {
		return err
	}
	for i := range manyNights {
		if err := errors.Join(n.day(uint64(i), 1), n.night(nightName(i))); err != nil {
			return err
		}
	}
	return nil
}

// live is what the set pg needs.
func (n *nights) live() error {
	day := n.day
	report := "select * from pgbench_accounts where aid <= " + strconv.Itoa(n.cfg.Rows) + " order by aid"
	var marks [3]string
	for _, act := range []func() error{
		func() error { return n.cluster.Fill(n.ctx, n.cfg.Scale) },
		func() error { return day(1, 2) },
		func() error { return n.night("1") },
		func() (err error) { marks[0], err = n.cluster.SwitchWAL(n.ctx); return err },
		func() error { return day(2, 1) },
		func() (err error) { marks[1], err = n.cluster.SwitchWAL(n.ctx); return err },
		func() error { return n.wal("wal1.bin", marks[0], marks[1]) },
		func() error { return n.night("2") },
		func() error { return day(3, 1) },
		func() (err error) { marks[2], err = n.cluster.SwitchWAL(n.ctx); return err },
		func() error { return n.wal("wal2.bin", marks[1], marks[2]) },
		func() error { return n.output("query1.txt", "psql", "-X", "-qAt", "-c", report) },
		func() error { return day(4, 10) },
		func() error { return n.output("query2.txt", "psql", "-X", "-qAt", "-c", report) },
	} {
		if err := act(); err != nil {
			return err
		}
	}
	return nil
}

// night dumps and backs up.
func (n *nights) night(suffix string) error {
	if err := n.output("dump"+suffix+".sql", "pg_dump", "bench"); err != nil {
		return err
	}
	return n.output("base"+suffix+".tar", "pg_basebackup", "-D", "-", "-Ft", "-X", "none", "-c", "fast")
}

// output keeps what a client program prints as a file.
func (n *nights) output(name, tool string, args ...string) error {
	cmd, err := n.cluster.Local(n.ctx, tool, args...)
	if err != nil {
		return err
	}
	f, err := os.Create(filepath.Join(n.work, name))
	if err != nil {
		return err
	}
	err = server.Copy(n.ctx, server.Here(), cmd, f)
	n.made = append(n.made, name)
	return errors.Join(err, f.Close())
}

// wal joins the segments from one mark to the next.
func (n *nights) wal(name, from, to string) error {
	segments, err := n.cluster.WALSegments(from, to)
	if err != nil {
		return err
	}
	out, err := os.Create(filepath.Join(n.work, name))
	if err != nil {
		return err
	}
	n.made = append(n.made, name)
	for _, segment := range segments {
		in, openErr := os.Open(segment)
		if openErr != nil {
			return errors.Join(openErr, out.Close())
		}
		_, err = io.Copy(out, in)
		if err = errors.Join(err, in.Close()); err != nil {
			return errors.Join(err, out.Close())
		}
	}
	return out.Close()
}
