package chaos

import (
	"context"
	"crypto/sha256"
	"encoding/hex"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"math/rand/v2"
	"net/netip"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"sync"
	"time"

	"wanpair/bench/lab"
	"wanpair/bench/server"
)

// programs are real servers and their clients.
type programs struct {
	lab      *lab.Lab
	account  *account
	patience time.Duration
	dir      string
	client   server.Place

	files    []string // that nginx serves
	sums     []string // their SHA-256
	nginx    *server.Nginx
	postgres *server.Postgres
	rsync    *server.Rsync
	tree     string // what the rsync daemon serves
	treeSum  string
	upload   string // a file of lines for psql
	missing  []string

	mu       sync.Mutex
	expected map[string]string // SHA-256 of what a query prints
}

// startPrograms starts what is installed; what is not is named in missing.
func startPrograms(ctx context.Context, l *lab.Lab, pool []byte, seed uint64, dir string, a *account, patience time.Duration) (*programs, error) {
	at := server.Place{Namespace: l.Namespace(lab.Server), Addr: netip.MustParseAddr(lab.ServerIP4)}
	p := &programs{lab: l, account: a, patience: patience, dir: dir, expected: map[string]string{},
		client: server.Place{Namespace: l.Namespace(lab.Client), Addr: netip.MustParseAddr(lab.ClientIP4)}}
	rng := rand.New(rand.NewPCG(seed, 5))
	if err := p.write(pool, rng); err != nil {
		return nil, err
	}
	have := func(what string, tools ...string) bool {
		err := server.Require(tools...)
		if err != nil {
			p.missing = append(p.missing, what+": "+strings.ReplaceAll(err.Error(), "\n", "; "))
		}
		return err == nil
	}
	var err error
	if have("HTTP", "nginx", "curl") {
		if p.nginx, err = server.StartNginx(ctx, at, filepath.Join(dir, "nginx"), filepath.Join(dir, "www")); err != nil {
			return p, err
		}
	}
	if have("rsync", "rsync") {
		if p.rsync, err = server.StartRsync(ctx, at, filepath.Join(dir, "rsyncd"), filepath.Dir(p.tree)); err != nil {
			return p, err
		}
	}
	if have("PostgreSQL", "initdb", "postgres", "psql") {
		p.postgres, err = server.NewPostgres(ctx, server.PostgresConfig{Place: at, Dir: filepath.Join(dir, "postgres")})
		if err == nil {
			err = p.postgres.Start(ctx)
		}
	}
	return p, err
}

// write makes the files that are transferred.
func (p *programs) write(pool []byte, rng *rand.Rand) error {
	www := filepath.Join(p.dir, "www")
	p.tree = filepath.Join(p.dir, "export", "tree")
	p.upload = filepath.Join(p.dir, "lines")
	for _, dir := range []string{www, p.tree} {
		if err := os.MkdirAll(dir, 0o755); err != nil {
			return err
		}
	}
	put := func(path string, size int) error {
		b := make([]byte, size)
		_, _ = newContent(pool, rng.Uint64()).Read(b)
		return os.WriteFile(path, b, 0o644)
	}
	for i := range 12 {
		path := filepath.Join(www, fmt.Sprintf("file%d", i))
		if err := put(path, 1000<<i+rng.IntN(1000)); err != nil {
			return err
		}
		sum, err := hashFile(path)
		if err != nil {
			return err
		}
		p.files, p.sums = append(p.files, filepath.Base(path)), append(p.sums, sum)
	}
	for i := range 60 {
		dir := filepath.Join(p.tree, fmt.Sprintf("d%d", i%7))
		if err := errors.Join(os.MkdirAll(dir, 0o755), put(filepath.Join(dir, fmt.Sprintf("f%d", i)), rng.IntN(60_000))); err != nil {
			return err
		}
	}
	lines := &strings.Builder{}
	for range 8000 {
		fmt.Fprintf(lines, "%x\n", rng.Uint64())
	}
	var err error
	if p.treeSum, err = hashTree(p.tree); err != nil {
		return err
	}
	return os.WriteFile(p.upload, []byte(lines.String()), 0o644)
}

func hashFile(path string) (string, error) {
	f, err := os.Open(path)
	if err != nil {
		return "", err
	}
	defer f.Close()
	h := sha256.New()
	_, err = io.Copy(h, f)
	return hex.EncodeToString(h.Sum(nil)), err
}

// hashTree is a hash over names and contents of all files below root.
func hashTree(root string) (string, error) {
	h := sha256.New()
	err := filepath.WalkDir(root, func(path string, d fs.DirEntry, err error) error {
		if err != nil || !d.Type().IsRegular() {
			return err
		}
		sum, err := hashFile(path)
		rel, relErr := filepath.Rel(root, path)
		fmt.Fprintf(h, "%s %s\n", sum, rel)
		return errors.Join(err, relErr)
	})
	return hex.EncodeToString(h.Sum(nil)), err
}

// stop ends the servers.
func (p *programs) stop() error {
	var faults []error
	if p.nginx != nil {
		faults = append(faults, p.nginx.Stop())
	}
	if p.rsync != nil {
		faults = append(faults, p.rsync.Stop())
	}
	if p.postgres != nil {
		faults = append(faults, p.postgres.Close())
	}
	return errors.Join(faults...)
}

// run starts the loops of the clients.
func (p *programs) run(ctx context.Context, seed uint64, group *sync.WaitGroup) {
	loop := func(i uint64, f func(context.Context, *rand.Rand)) {
		rng := rand.New(rand.NewPCG(seed, 100+i))
		group.Go(func() {
			for ctx.Err() == nil {
				f(ctx, rng)
				pause(ctx, time.Duration(50+rng.IntN(300))*time.Millisecond)
			}
		})
	}
	if p.nginx != nil {
		loop(0, p.fetch)
		loop(1, p.fetch)
	}
	if p.rsync != nil {
		loop(2, p.mirror)
	}
	if p.postgres != nil {
		loop(3, p.query)
	}
}

// Exit codes of curl: see curl(1).
const (
	curlConnect     = 7
	curlPartialFile = 18
	curlTimeout     = 28
	curlGotNothing  = 52
)

// exitCode is a program's exit code, or -1.
func exitCode(err error) int {
	if exit := (*exec.ExitError)(nil); errors.As(err, &exit) {
		return exit.ExitCode()
	}
	return -1
}

// fetch downloads a file with curl.
func (p *programs) fetch(ctx context.Context, rng *rand.Rand) {
	i := rng.IntN(len(p.files))
	h, stderr := sha256.New(), &strings.Builder{}
	cmd := p.lab.Command(ctx, lab.Client, "curl", "-sS", "--fail", "--connect-timeout", fmt.Sprint(p.patience.Seconds()),
		"--speed-limit", "1", "--speed-time", fmt.Sprint(p.patience.Seconds()), p.nginx.URL(p.files[i]))
	cmd.Stdout, cmd.Stderr = h, stderr
	err := cmd.Run()
	if ctx.Err() != nil {
		return
	}
	outcome, size := Broken, int64(0)
	switch exitCode(err) {
	case -1:
		outcome, size = Whole, 1000<<i
		switch sum := hex.EncodeToString(h.Sum(nil)); {
		case err != nil:
			outcome = Broken
		case sum != p.sums[i]:
			outcome, err = Wrong, fmt.Errorf("%w: %s has SHA-256 %s, not %s", errWrongByte, p.files[i], sum, p.sums[i])
		}
	case curlPartialFile, curlGotNothing:
		outcome, err = Wrong, fmt.Errorf("%w: %s: %s", errCleanEnd, p.files[i], strings.TrimSpace(stderr.String()))
	case curlConnect:
		outcome = Refused
	case curlTimeout:
		outcome = Stalled
		p.account.find("stalled", "curl %s: %s", p.files[i], strings.TrimSpace(stderr.String()))
	}
	p.account.end("HTTP (curl, nginx)", outcome, size, err)
}

// limited bounds a client program that has no patience of its own.
func (p *programs) limited(ctx context.Context) (context.Context, context.CancelFunc) {
	return context.WithTimeout(ctx, 2*p.patience)
}

// mirror copies a tree with rsync, into an empty directory or over what the last one left.
func (p *programs) mirror(ctx context.Context, rng *rand.Rand) {
	into := filepath.Join(p.dir, "mirror")
	if rng.IntN(2) == 0 {
		_ = os.RemoveAll(into)
	}
	limited, cancel := p.limited(ctx)
	defer cancel()
	err := os.MkdirAll(into, 0o755)
	if err == nil {
		err = p.rsync.Pull(limited, p.client, "tree", into)
	}
	if ctx.Err() != nil {
		return
	}
	outcome, size := Broken, int64(0)
	switch {
	case err == nil:
		outcome, size = Whole, 2_000_000
		if sum, hashErr := hashTree(into); hashErr != nil || sum != p.treeSum {
			outcome, err = Wrong, fmt.Errorf("%w: rsync's mirror differs: %v", errWrongByte, hashErr)
		}
	case limited.Err() != nil:
		outcome = Stalled
		p.account.find("stalled", "rsync: nothing for %v", 2*p.patience)
	}
	p.account.end("rsync", outcome, size, err)
}

// query asks PostgreSQL for rows, or loads some and asks for their hash; the answer is known from asking beside the server.
func (p *programs) query(ctx context.Context, rng *rand.Rand) {
	args := []string{"-X", "-qAt", "-v", "ON_ERROR_STOP=1", "-d", "postgres"}
	name := "PostgreSQL: select"
	if rng.IntN(3) == 0 {
		name = "PostgreSQL: load"
		args = append(args, "-c", "create temp table t(x text)", "-c", `\copy t from '`+p.upload+`'`, "-c", "select count(*), md5(string_agg(x, ',' order by x)) from t")
	} else {
		args = append(args, "-c", fmt.Sprintf("select g, md5((g * %d)::text), repeat(md5(g::text), 4) from generate_series(1, %d) g", 1+rng.IntN(4), 10<<rng.IntN(12)))
	}
	want, err := p.answer(ctx, args)
	if err != nil {
		if ctx.Err() == nil {
			p.account.find("harness", "psql beside the server: %v", err)
		}
		return
	}
	limited, cancel := p.limited(ctx)
	defer cancel()
	cmd, err := p.postgres.Remote(limited, "psql", args...)
	var out server.Output
	if err == nil {
		out, err = server.Stream(limited, p.client, cmd)
	}
	if ctx.Err() != nil {
		return
	}
	outcome := Broken
	switch {
	case err == nil && out.SHA256 == want:
		outcome = Whole
	case err == nil:
		outcome, err = Wrong, fmt.Errorf("%w: psql %v printed SHA-256 %s, not %s", errWrongByte, args, out.SHA256, want)
	case limited.Err() != nil:
		outcome = Stalled
		p.account.find("stalled", "%s: nothing for %v", name, 2*p.patience)
	}
	p.account.end(name, outcome, out.Bytes, err)
}

// answer is the hash of what psql prints beside the server.
func (p *programs) answer(ctx context.Context, args []string) (string, error) {
	key := strings.Join(args, "\x00")
	p.mu.Lock()
	defer p.mu.Unlock()
	if sum, ok := p.expected[key]; ok {
		return sum, nil
	}
	cmd, err := p.postgres.Local(ctx, "psql", args...)
	if err != nil {
		return "", err
	}
	out, err := server.Stream(ctx, p.postgres.Place(), cmd)
	if err == nil {
		p.expected[key] = out.SHA256
	}
	return out.SHA256, err
}
