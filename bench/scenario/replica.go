package scenario

import (
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"time"

	"wanpair/bench/report"
	"wanpair/bench/server"
)

const (
	walPerTransaction = 5_000 // bytes, of pgbench's standard mix soon after a checkpoint
	mostTransactions  = 600   // per second: what a small machine does beside everything else
	overload          = 2     // WAL written, in links
	catchUp           = 4 * time.Minute
)

// replicaPlay holds a standby beside the client.
type replicaPlay struct {
	database *databasePlay
	standby  *server.Postgres
	round    int
}

func prepareReplica(ctx context.Context, kit Kit) (Material, error) {
	rows, err := diskRows(kit)
	if err != nil {
		return Material{}, err
	}
	n, err := makeNights(ctx, kit, rows, nil)
	return Material{Open: func(_ context.Context, stage Stage) (Play, error) {
		play := &replicaPlay{database: &databasePlay{stage: stage, nights: n}}
		play.database.run = play.phase
		// The standby is lost before its primary goes: one that stays would be refused while the other night's server starts, and gateways let
		// connections to a server that refuses pass raw for a while.
		play.database.leave = play.dropStandby
		return play.database, nil
	}}, err
}

func (r *replicaPlay) phase(ctx context.Context, p *databasePlay, phase string, m *Meter) (report.Run, error) {
	if phase == "streaming" {
		return r.stream(ctx, p, m)
	}
	if err := r.dropStandby(); err != nil {
		return report.Run{}, err
	}
	r.round++
	dir := filepath.Join(p.stage.Dir, fmt.Sprintf("standby%d", r.round))
	run, err := m.Measure(ctx, func(ctx context.Context) (Work, error) {
		var err error
		r.standby, err = server.NewStandby(ctx, server.PostgresConfig{Place: p.stage.Client, Dir: dir, Port: databasePort}, p.current)
		if err != nil {
			return Work{}, err
		}
		bytes, err := r.standby.DataBytes()
		return Work{Bytes: bytes}, err
	})
	if err != nil {
		return run, err
	}
	if err := r.standby.Start(ctx); err != nil {
		return run, err
	}
	return run, r.check(ctx, p.current)
}

// check waits until the standby has everything and compares all rows.
func (r *replicaPlay) check(ctx context.Context, primary *server.Postgres) error {
	ctx, cancel := context.WithTimeout(ctx, catchUp)
	defer cancel()
	position, err := primary.Position(ctx)
	if err != nil {
		return err
	}
	if err := r.standby.WaitReplayed(ctx, position); err != nil {
		return err
	}
	want, err := primary.Fingerprint(ctx)
	if err != nil {
		return err
	}
	got, err := r.standby.Fingerprint(ctx)
	if err != nil {
		return err
	}
	return same("standby", got, want)
}

func (r *replicaPlay) stream(ctx context.Context, p *databasePlay, m *Meter) (report.Run, error) {
	if r.standby == nil {
		return report.Run{}, errors.New("there is no standby to stream to")
	}
	rate := int(min(mostTransactions, max(5, p.stage.Link.RateBitsPerSec/8*overload/walPerTransaction)))
	duration := min(20*time.Second, max(3*time.Second, p.stage.Link.duration(p.stage.Bytes)/overload))
	// After a checkpoint the first change of each page brings the whole page into the WAL, as it does many times a day.
	if _, err := p.current.Query(ctx, "bench", "checkpoint"); err != nil {
		return report.Run{}, err
	}
	run, err := m.Measure(ctx, func(ctx context.Context) (Work, error) {
		begin, err := p.current.Position(ctx)
		if err != nil {
			return Work{}, err
		}
		watching, stop := context.WithCancel(ctx)
		defer stop()
		type watched struct {
			lags []server.Lag
			err  error
		}
		seen := make(chan watched, 1)
		go func() {
			lags, err := p.current.WatchLag(watching)
			seen <- watched{lags, err}
		}()
		err = p.current.Work(ctx, rate, duration, p.stage.Seed)
		var end int64
		if err == nil {
			end, err = p.current.Position(ctx)
		}
		if err == nil {
			limited, cancel := context.WithTimeout(ctx, catchUp)
			err = r.standby.WaitReplayed(limited, end)
			cancel()
		}
		stop()
		w := <-seen
		return Work{Bytes: end - begin, Lag: w.lags}, errors.Join(err, w.err)
	})
	if err != nil {
		return run, err
	}
	return run, r.check(ctx, p.current)
}

func (r *replicaPlay) dropStandby() error {
	if r.standby == nil {
		return nil
	}
	err := r.standby.Close()
	r.standby = nil
	return errors.Join(err, os.RemoveAll(filepath.Join(r.database.stage.Dir, fmt.Sprintf("standby%d", r.round))))
}
