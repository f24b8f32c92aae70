package scenario

import (
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strconv"
	"time"

	"wanpair/bench/corpus"
	"wanpair/bench/report"
	"wanpair/bench/server"
)

// databasePort is the same in both nights, as with a real server.
const databasePort = 5432

// Sizes of pgbench's data, for choosing a scale: measured with PostgreSQL 15.
const (
	rowsPerScale     = 100_000
	dumpBytesPerRow  = 97
	diskBytesPerRow  = 155
	emptyClusterDisk = 23 << 20 // three databases of 7.5 MB with nothing in them
	longest          = 60 * time.Second
	transactionsPer  = 333 // of a day, for each unit of scale
)

func databaseScenarios() []*Scenario {
	tools := []string{"initdb", "postgres", "psql", "pgbench", "pg_dump", "pg_basebackup", "pg_verifybackup"}
	return []*Scenario{
		{
			Name: "dump", Title: "Nightly backup: pg_dump", Phases: []string{cold, again, changed}, Tools: tools, Root: true,
			Text:    "pg_dump of a PostgreSQL database over the link, the same dump again, and the dump of the next night, with pgbench's transactions in between. Compared byte by byte with a dump taken beside the server.",
			Prepare: prepareDump,
		},
		{
			Name: "basebackup", Title: "Nightly backup: pg_basebackup", Phases: []string{cold, again, changed}, Tools: tools, Root: true,
			Text:    "pg_basebackup over the link, again, and the next night. Checked by pg_verifybackup against the server's SHA-256 of every file.",
			Prepare: prepareBackup,
		},
		{
			Name: "replica", Title: "Database replication: a streaming standby", Phases: []string{"seeded", "reseeded", "streaming"}, Tools: tools, Root: true,
			Text:    "A streaming standby is made from a base backup over the link, then lost and made again the next night, then follows its primary under pgbench's load right after a checkpoint; the time of streaming ends when it has caught up. All rows of both are compared.",
			Prepare: prepareReplica,
		},
		{
			Name: "report", Title: "SQL: the same report again", Phases: []string{cold, again, changed}, Tools: tools, Root: true,
			Text:    "psql selects many rows over the link, the same again, and again after a day's transactions. Compared byte by byte with the answer beside the server.",
			Prepare: prepareReport,
		},
		{
			Name: "queries", Title: "SQL: small queries", Phases: []string{"steady"}, Tools: tools, Root: true,
			Text:    "pgbench's single-row selects, one after the other on one connection. Each waits for a round trip, so about 1x is expected.",
			Prepare: prepareQueries,
		},
	}
}

// nights is a database as it was in two nights: two cluster directories, stopped.
type nights struct {
	first, second string
	scale, rows   int
}

// makeNights fills a database with a number of rows, lets days pass, and keeps a copy of each night.
func makeNights(ctx context.Context, kit Kit, rows int, each func(night int, p *server.Postgres) error) (nights, error) {
	scale := (rows + rowsPerScale - 1) / rowsPerScale
	n := nights{first: filepath.Join(kit.Dir, "night1"), second: filepath.Join(kit.Dir, "night2"), scale: scale, rows: rows}
	day := max(20, transactionsPer*rows/rowsPerScale)
	p, err := server.NewPostgres(ctx, server.PostgresConfig{Place: server.Here(), Dir: filepath.Join(kit.Dir, "cluster"), Local: true})
	if err != nil {
		return n, err
	}
	live := func() error {
		for night, dir := range []string{n.first, n.second} {
			if err := p.Start(ctx); err != nil {
				return err
			}
			if night == 0 {
				if err := p.Fill(ctx, scale); err != nil {
					return err
				}
				// Nobody uses it, and a slow link has to carry it in every backup.
				if _, err := p.Query(ctx, "bench", "drop database postgres"); err != nil {
					return err
				}
				if rows < scale*rowsPerScale {
					if _, err := p.Query(ctx, "bench", "delete from pgbench_accounts where aid > "+strconv.Itoa(rows)); err != nil {
						return err
					}
					if _, err := p.Query(ctx, "bench", "vacuum full pgbench_accounts"); err != nil {
						return err
					}
				}
			}
			if err := p.Transact(ctx, day, kit.Seed+uint64(night)); err != nil {
				return err
			}
			if each != nil {
				if err := each(night, p); err != nil {
					return err
				}
			}
			if err := p.Stop(); err != nil {
				return err
			}
			night, err := server.CopyPostgres(ctx, server.PostgresConfig{Place: server.Here(), Dir: dir, Local: true}, filepath.Join(kit.Dir, "cluster"))
			if err != nil {
				return err
			}
			if err := night.Close(); err != nil {
				return err
			}
		}
		return nil
	}
	return n, errors.Join(live(), p.Close(), os.RemoveAll(filepath.Join(kit.Dir, "cluster")))
}

// databasePlay serves one night or the other on the stage's server.
type databasePlay struct {
	stage   Stage
	nights  nights
	current *server.Postgres
	night   string
	run     func(ctx context.Context, p *databasePlay, phase string, m *Meter) (report.Run, error)
	// leave is called before the server of a night is stopped, and at the end.
	leave func() error
}

// serve starts the server of a night, if it is not running.
func (p *databasePlay) serve(ctx context.Context, night string) error {
	if p.night == night {
		return nil
	}
	if p.current != nil {
		if p.leave != nil {
			if err := p.leave(); err != nil {
				return err
			}
		}
		if err := p.current.Close(); err != nil {
			return err
		}
		p.current = nil
	}
	dir := filepath.Join(p.stage.Dir, filepath.Base(night))
	c, err := server.CopyPostgres(ctx, server.PostgresConfig{Place: p.stage.Server, Dir: dir, Port: databasePort}, night)
	if err != nil {
		return err
	}
	p.current, p.night = c, night
	return c.Start(ctx)
}

func (p *databasePlay) Phase(ctx context.Context, phase string, m *Meter) (report.Run, error) {
	night := p.nights.first
	if phase == changed || phase == "reseeded" || phase == "streaming" {
		night = p.nights.second
	}
	if err := p.serve(ctx, night); err != nil {
		return report.Run{}, err
	}
	return p.run(ctx, p, phase, m)
}

func (p *databasePlay) Close() error {
	var faults []error
	if p.leave != nil {
		faults = append(faults, p.leave())
	}
	if p.current != nil {
		faults = append(faults, p.current.Close())
	}
	return errors.Join(faults...)
}

// nightOf is the index of the night of a phase.
func nightOf(phase string) int {
	if phase == changed {
		return 1
	}
	return 0
}

func prepareDump(ctx context.Context, kit Kit) (Material, error) {
	var hashes [2]string
	files := map[string]string{}
	n, err := makeNights(ctx, kit, int(max(1000, kit.Bytes/dumpBytesPerRow)), func(night int, p *server.Postgres) error {
		cmd, err := p.Dump(ctx, false)
		if err != nil {
			return err
		}
		path := filepath.Join(kit.Dir, "dump"+strconv.Itoa(night))
		hashes[night], err = keep(ctx, path, func(f *os.File) error { return server.Copy(ctx, server.Here(), cmd, f) })
		return err
	})
	if err != nil {
		return Material{}, err
	}
	for _, phase := range []string{cold, again, changed} {
		files[phase] = filepath.Join(kit.Dir, "dump"+strconv.Itoa(nightOf(phase)))
	}
	best, err := idealPhases(ctx, []string{cold, again, changed}, files)
	return Material{Ideal: best, Open: func(_ context.Context, stage Stage) (Play, error) {
		return &databasePlay{stage: stage, nights: n, run: func(ctx context.Context, p *databasePlay, phase string, m *Meter) (report.Run, error) {
			cmd, err := p.current.Dump(ctx, true)
			if err != nil {
				return report.Run{}, err
			}
			var out server.Output
			run, err := m.Measure(ctx, func(ctx context.Context) (Work, error) {
				out, err = server.Stream(ctx, stage.Client, cmd)
				return Work{Bytes: out.Bytes}, err
			})
			if err != nil {
				return run, err
			}
			return run, same("dump", out.SHA256, hashes[nightOf(phase)])
		}}, nil
	}}, err
}

// keep writes a file and returns its hash.
func keep(_ context.Context, path string, write func(f *os.File) error) (string, error) {
	f, err := os.Create(path)
	if err != nil {
		return "", err
	}
	if err := errors.Join(write(f), f.Close()); err != nil {
		return "", err
	}
	hash, _, err := corpus.HashFile(path)
	return hash, err
}

// diskRows chooses rows so that a base backup has about the bytes asked for; an empty cluster alone is 23 MB.
func diskRows(kit Kit) (int, error) {
	if kit.Link.Carry(emptyClusterDisk) > longest {
		return 0, fmt.Errorf("%w (an empty cluster is %s)", ErrTooLong, report.Bytes(emptyClusterDisk))
	}
	return int(max(10_000, (kit.Bytes-emptyClusterDisk)/diskBytesPerRow)), nil
}

func prepareBackup(ctx context.Context, kit Kit) (Material, error) {
	rows, err := diskRows(kit)
	if err != nil {
		return Material{}, err
	}
	n, err := makeNights(ctx, kit, rows, nil)
	return Material{Open: func(_ context.Context, stage Stage) (Play, error) {
		return &databasePlay{stage: stage, nights: n, run: func(ctx context.Context, p *databasePlay, phase string, m *Meter) (report.Run, error) {
			into := filepath.Join(stage.Dir, "backup-"+phase)
			run, err := m.Measure(ctx, func(ctx context.Context) (Work, error) {
				bytes, err := p.current.BaseBackup(ctx, stage.Client, into)
				return Work{Bytes: bytes}, err
			})
			if err != nil {
				return run, err
			}
			if err := p.current.VerifyBackup(ctx, into); err != nil {
				return run, fmt.Errorf("%w: %w", ErrDiffers, err)
			}
			return run, os.RemoveAll(into)
		}}, nil
	}}, err
}

func prepareReport(ctx context.Context, kit Kit) (Material, error) {
	rows := int(max(1000, kit.Bytes/dumpBytesPerRow))
	statement := "select * from pgbench_accounts where aid <= " + strconv.Itoa(rows) + " order by aid"
	args := []string{"-X", "-qAt", "-c", statement}
	var hashes [2]string
	files := map[string]string{}
	n, err := makeNights(ctx, kit, rows, func(night int, p *server.Postgres) error {
		cmd, err := p.Local(ctx, "psql", args...)
		if err != nil {
			return err
		}
		hashes[night], err = keep(ctx, filepath.Join(kit.Dir, "report"+strconv.Itoa(night)), func(f *os.File) error { return server.Copy(ctx, server.Here(), cmd, f) })
		return err
	})
	if err != nil {
		return Material{}, err
	}
	for _, phase := range []string{cold, again, changed} {
		files[phase] = filepath.Join(kit.Dir, "report"+strconv.Itoa(nightOf(phase)))
	}
	best, err := idealPhases(ctx, []string{cold, again, changed}, files)
	return Material{Ideal: best, Open: func(_ context.Context, stage Stage) (Play, error) {
		return &databasePlay{stage: stage, nights: n, run: func(ctx context.Context, p *databasePlay, phase string, m *Meter) (report.Run, error) {
			cmd, err := p.current.Remote(ctx, "psql", args...)
			if err != nil {
				return report.Run{}, err
			}
			var out server.Output
			run, err := m.Measure(ctx, func(ctx context.Context) (Work, error) {
				out, err = server.Stream(ctx, stage.Client, cmd)
				return Work{Bytes: out.Bytes}, err
			})
			if err != nil {
				return run, err
			}
			return run, same("report", out.SHA256, hashes[nightOf(phase)])
		}}, nil
	}}, err
}

func prepareQueries(ctx context.Context, kit Kit) (Material, error) {
	const rows = 20_000
	n, err := makeNights(ctx, kit, rows, nil)
	// A thousand, or as many as the time of one direct transfer allows.
	queries := int(min(1000, kit.Link.duration(kit.Bytes)/max(kit.Link.RTT, time.Millisecond)))
	return Material{Open: func(_ context.Context, stage Stage) (Play, error) {
		return &databasePlay{stage: stage, nights: n, run: func(ctx context.Context, p *databasePlay, _ string, m *Meter) (report.Run, error) {
			return m.Measure(ctx, func(ctx context.Context) (Work, error) {
				load, err := p.current.SmallQueries(ctx, stage.Client, queries, kit.Seed)
				if err == nil && load.Requests != int64(queries) {
					err = fmt.Errorf("%d of %d queries were answered: %w", load.Requests, queries, ErrDiffers)
				}
				return Work{Latency: report.Percentiles(load.Latencies)}, err
			})
		}}, nil
	}}, err
}
