package pair

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"sync"
	"syscall"
	"time"

	"wanpair/bench/lab"
)

// Gateway is one wanpair process in its namespace.
type Gateway struct {
	Name      string
	lab       *lab.Lab
	node      lab.Node
	binary    string
	dir       string
	publicKey string
	peer      string // the other gateway, as this one calls it

	mu      sync.Mutex
	command *exec.Cmd
	log     *os.File
	exited  chan struct{} // closed when the running process was waited for
	exit    error
}

// Stats is what of /api/v1/stats the harness reads.
type Stats struct {
	UptimeSeconds float64     `json:"uptime_seconds"`
	Peers         []PeerStats `json:"peers"`
	Cache         struct {
		SizeBytes     int64 `json:"size_bytes"`
		CapacityBytes int64 `json:"capacity_bytes"`
	} `json:"cache"`
}

// PeerStats is one link as one side sees it.
type PeerStats struct {
	Name           string   `json:"name"`
	State          string   `json:"state"`
	RTTSeconds     float64  `json:"rtt_seconds"`
	LANBytes       Traffic  `json:"lan_bytes"`
	WANBytes       Traffic  `json:"wan_bytes"`
	FlowsActive    int      `json:"flows_active"`
	DedupeRatio    *float64 `json:"dedupe_ratio"`
	ReductionRatio *float64 `json:"reduction_ratio"`
}

// Traffic is bytes in both directions.
type Traffic struct {
	Sent     int64 `json:"sent"`
	Received int64 `json:"received"`
}

// Dir is where the gateway's files are: private.key, wanpair.toml, cache, log.
func (g *Gateway) Dir() string { return g.dir }

// ConfigPath is the gateway's configuration file.
func (g *Gateway) ConfigPath() string { return filepath.Join(g.dir, "wanpair.toml") }

// CacheDir is the gateway's cache directory.
func (g *Gateway) CacheDir() string { return filepath.Join(g.dir, "cache") }

// Node is where the gateway runs.
func (g *Gateway) Node() lab.Node { return g.node }

func (g *Gateway) keygen(ctx context.Context) error {
	path := filepath.Join(g.dir, "private.key")
	if key, err := os.Open(path); err == nil {
		defer key.Close()
		cmd := exec.CommandContext(ctx, g.binary, "pubkey")
		cmd.Stdin = key
		out, err := cmd.Output()
		g.publicKey = strings.TrimSpace(string(out))
		return withOutput("pubkey", err)
	}
	out, err := exec.CommandContext(ctx, g.binary, "keygen", "-o", path).Output()
	g.publicKey = strings.TrimSpace(string(out))
	return withOutput("keygen", err)
}

func withOutput(what string, err error) error {
	if err == nil {
		return nil
	}
	if exit := (*exec.ExitError)(nil); errors.As(err, &exit) {
		return fmt.Errorf("pair: %s: %w: %s", what, err, bytes.TrimSpace(exit.Stderr))
	}
	return fmt.Errorf("pair: %s: %w", what, err)
}

// site is what differs between the two configurations.
type site struct {
	name, peer, peerKey, endpoint, extra string
	own, peers                           []string
}

func (g *Gateway) writeConfig(cfg Config, s site) error {
	g.peer = s.peer
	or := func(v, otherwise string) string {
		if v == "" {
			return otherwise
		}
		return v
	}
	list := func(v []string) string { return `["` + strings.Join(v, `", "`) + `"]` }
	var b strings.Builder
	fmt.Fprintf(&b, "[site]\nname = %q\nprivate_key_file = %q\n\n", s.name, filepath.Join(g.dir, "private.key"))
	fmt.Fprintf(&b, "[cache]\ndir = %q\nsize = %q\nmemory = %q\n\n", g.CacheDir(), or(cfg.CacheSize, "1GiB"), or(cfg.CacheMemory, "256MiB"))
	fmt.Fprintf(&b, "[tunnel]\nlisten = \"0.0.0.0:%d\"\n%s\n\n", TunnelPort, cfg.Tunnel)
	fmt.Fprintf(&b, "[[peer]]\nname = %q\npublic_keys = [%q]\nsubnets = %s\n", s.peer, s.peerKey, list(s.peers))
	if s.endpoint != "" {
		fmt.Fprintf(&b, "endpoints = [%q]\n", s.endpoint)
	}
	fmt.Fprintf(&b, "\n[intercept]\ninterfaces = [%q]\nsubnets = %s\n\n", lab.LANDevice, list(s.own))
	fmt.Fprintf(&b, "[stats]\nlisten = \"127.0.0.1:%d\"\n\n[log]\nlevel = %q\n\n%s\n", StatsPort, or(cfg.LogLevel, "debug"), s.extra)
	if err := os.WriteFile(g.ConfigPath(), []byte(b.String()), 0o644); err != nil {
		return fmt.Errorf("pair: %w", err)
	}
	return nil
}

// Start starts the process; its output is appended to the log file.
func (g *Gateway) Start(ctx context.Context) error {
	g.mu.Lock()
	defer g.mu.Unlock()
	if g.command != nil {
		return fmt.Errorf("pair: %s runs already", g.Name)
	}
	log, err := os.OpenFile(g.LogPath(), os.O_CREATE|os.O_APPEND|os.O_WRONLY, 0o644)
	if err != nil {
		return fmt.Errorf("pair: %w", err)
	}
	cmd := g.lab.Command(context.WithoutCancel(ctx), g.node, g.binary, "gateway", "-c", g.ConfigPath())
	cmd.Stdout, cmd.Stderr = log, log
	if err := cmd.Start(); err != nil {
		return errors.Join(fmt.Errorf("pair: start %s: %w", g.Name, err), log.Close())
	}
	exited := make(chan struct{})
	g.command, g.log, g.exited = cmd, log, exited
	go func() {
		err := cmd.Wait()
		g.mu.Lock()
		defer g.mu.Unlock()
		g.exit = err
		_ = log.Close()
		g.command = nil
		close(exited)
	}()
	return nil
}

// LogPath is where the process writes.
func (g *Gateway) LogPath() string { return filepath.Join(g.dir, "log") }

// Running says whether the process lives.
func (g *Gateway) Running() bool {
	g.mu.Lock()
	defer g.mu.Unlock()
	return g.command != nil
}

// PID is the process, 0 when it does not run.
func (g *Gateway) PID() int {
	g.mu.Lock()
	defer g.mu.Unlock()
	if g.command == nil {
		return 0
	}
	return g.command.Process.Pid
}

// Signal sends a signal to the process.
func (g *Gateway) Signal(s syscall.Signal) error {
	g.mu.Lock()
	defer g.mu.Unlock()
	if g.command == nil {
		return fmt.Errorf("pair: %s does not run", g.Name)
	}
	return g.command.Process.Signal(s)
}

// Kill ends the process by SIGKILL and waits for it.
func (g *Gateway) Kill() error {
	if err := g.Signal(syscall.SIGKILL); err != nil {
		return err
	}
	return g.wait(context.Background(), false)
}

// Stop ends the process by SIGTERM and waits for it; an exit status other than 0 is an error. It does nothing when none runs.
func (g *Gateway) Stop(ctx context.Context) error {
	if !g.Running() {
		return nil
	}
	if err := g.Signal(syscall.SIGTERM); err != nil {
		return err
	}
	return g.wait(ctx, true)
}

func (g *Gateway) wait(ctx context.Context, wantClean bool) error {
	g.mu.Lock()
	exited := g.exited
	g.mu.Unlock()
	select {
	case <-exited:
	case <-ctx.Done():
		return fmt.Errorf("pair: %s did not end: %w", g.Name, errors.Join(ctx.Err(), g.Signal(syscall.SIGKILL)))
	}
	g.mu.Lock()
	defer g.mu.Unlock()
	if wantClean && g.exit != nil {
		return fmt.Errorf("pair: %s: %w; its log ends:\n%s", g.Name, g.exit, g.logTail())
	}
	return nil
}

func (g *Gateway) logTail() string {
	b, err := os.ReadFile(g.LogPath())
	if err != nil {
		return err.Error()
	}
	return string(b[max(0, len(b)-2000):])
}

// Get reads a path of the stats endpoint.
func (g *Gateway) Get(ctx context.Context, path string) ([]byte, int, error) {
	client := http.Client{
		Timeout: 5 * time.Second,
		Transport: &http.Transport{
			DisableKeepAlives: true,
			DialContext: func(ctx context.Context, network, addr string) (net.Conn, error) {
				return g.lab.Dial(ctx, g.node, network, addr)
			},
		},
	}
	request, err := http.NewRequestWithContext(ctx, http.MethodGet, fmt.Sprintf("http://127.0.0.1:%d%s", StatsPort, path), nil)
	if err != nil {
		return nil, 0, err
	}
	response, err := client.Do(request)
	if err != nil {
		return nil, 0, err
	}
	defer response.Body.Close()
	body, err := io.ReadAll(response.Body)
	return body, response.StatusCode, err
}

// Stats reads /api/v1/stats.
func (g *Gateway) Stats(ctx context.Context) (Stats, error) {
	var s Stats
	body, _, err := g.Get(ctx, "/api/v1/stats")
	if err != nil {
		return s, err
	}
	return s, json.Unmarshal(body, &s)
}

// Peer reads the stats of the other gateway of the pair.
func (g *Gateway) Peer(ctx context.Context) (PeerStats, error) {
	s, err := g.Stats(ctx)
	if err != nil {
		return PeerStats{}, err
	}
	for _, p := range s.Peers {
		if p.Name == g.peer {
			return p, nil
		}
	}
	return PeerStats{}, fmt.Errorf("pair: %s has no peer %s among %d in its stats", g.Name, g.peer, len(s.Peers))
}

// WaitState waits until the gateway calls its peer's state so.
func (g *Gateway) WaitState(ctx context.Context, state string) error {
	last := "nothing heard"
	err := poll(ctx, func() bool {
		if !g.Running() {
			last = "the process does not run"
			return false
		}
		p, err := g.Peer(ctx)
		if err != nil {
			last = err.Error()
			return false
		}
		last = p.State
		return p.State == state
	})
	if err != nil {
		return fmt.Errorf("pair: %s is not %s (%s): %w; its log ends:\n%s", g.Name, state, last, err, g.logTail())
	}
	return nil
}
