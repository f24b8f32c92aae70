// Package control is the gateway's local socket: what its operator, on this host alone, may ask of a running gateway beyond looking at it.
//
// It is HTTP over a Unix socket in the cache's directory, open to the gateway's own user and root only. There is one request so far: a warm-up of the
// cache, whose body is the data.
package control

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"net"
	"net/http"
	"net/url"
	"os"
	"path/filepath"
	"syscall"
	"time"
)

const (
	socketName = "control.sock"
	warmPath   = "/v1/warm"
	// maxPath is sun_path of unix(7) without its final zero.
	maxPath     = 107
	answerLimit = 64 << 10
	// maxWarms is how many warm-ups may run at the same time.
	maxWarms = 4
)

// Path is where the socket of a gateway with this cache directory is.
func Path(cacheDir string) string { return filepath.Join(cacheDir, socketName) }

// Errors a [Warmer] wraps, to say whose turn it is.
var (
	ErrRefused     = errors.New("refused")                // asking again does not help
	ErrUnavailable = errors.New("not possible right now") // asking later may
)

// Warmed is what a warm-up came to.
type Warmed struct {
	Peer      string `json:"peer"`
	RawBytes  int64  `json:"raw_bytes"`
	WireBytes int64  `json:"wire_bytes"` // frames, without the tunnel's own overhead
	Error     string `json:"error,omitempty"`
}

// Warmer does a warm-up.
type Warmer func(ctx context.Context, peer string, data io.Reader) (Warmed, error)

// Server serves the socket.
type Server struct {
	listener net.Listener
	server   *http.Server
	warm     Warmer
	slots    chan struct{}
}

// Listen makes the socket. The directory is made if it is not there. A socket that nobody answers at is replaced.
func Listen(ctx context.Context, path string, warm Warmer, log *slog.Logger) (*Server, error) {
	if len(path) > maxPath {
		return nil, fmt.Errorf("control socket %s: the path is longer than the %d bytes the kernel takes; use a shorter cache.dir", path, maxPath)
	}
	if err := os.MkdirAll(filepath.Dir(path), 0o700); err != nil {
		return nil, fmt.Errorf("control socket: %w", err)
	}
	if c, err := net.DialTimeout("unix", path, time.Second); err == nil {
		_ = c.Close()
		return nil, fmt.Errorf("control socket %s: another gateway answers there", path)
	} else if errors.Is(err, syscall.ECONNREFUSED) {
		if err := os.Remove(path); err != nil {
			return nil, fmt.Errorf("control socket of a gateway that is gone: %w", err)
		}
	}
	var lc net.ListenConfig
	l, err := lc.Listen(ctx, "unix", path)
	if err != nil {
		return nil, fmt.Errorf("control socket: %w", err)
	}
	if err := os.Chmod(path, 0o600); err != nil {
		return nil, errors.Join(fmt.Errorf("control socket: %w", err), l.Close())
	}
	s := &Server{listener: l, warm: warm, slots: make(chan struct{}, maxWarms)}
	mux := http.NewServeMux()
	mux.HandleFunc("POST "+warmPath, s.serveWarm)
	s.server = &http.Server{
		Handler: mux, ReadHeaderTimeout: 10 * time.Second, IdleTimeout: 30 * time.Second, MaxHeaderBytes: 16 << 10,
		ErrorLog: slog.NewLogLogger(log.Handler(), slog.LevelDebug),
	}
	return s, nil
}

// Run serves until ctx ends, then closes the socket; warm-ups under way are broken off.
func (s *Server) Run(ctx context.Context) error {
	s.server.BaseContext = func(net.Listener) context.Context { return ctx }
	stop := context.AfterFunc(ctx, func() { _ = s.server.Close() })
	defer stop()
	if err := s.server.Serve(s.listener); !errors.Is(err, http.ErrServerClosed) {
		return fmt.Errorf("control socket: %w", err)
	}
	return nil
}

// Close closes the socket of a server that is never run.
func (s *Server) Close() error { return s.listener.Close() }

func (s *Server) serveWarm(w http.ResponseWriter, r *http.Request) {
	// The answer may come before the end of the data.
	rc := http.NewResponseController(w)
	_ = rc.EnableFullDuplex()
	var out Warmed
	var err error
	select {
	case s.slots <- struct{}{}:
		out, err = s.warm(r.Context(), r.URL.Query().Get("peer"), r.Body)
		<-s.slots
	default:
		err = fmt.Errorf("%w: %d warm-ups are running already", ErrUnavailable, maxWarms)
	}
	status := http.StatusOK
	switch {
	case err == nil:
	case errors.Is(err, ErrRefused):
		status = http.StatusBadRequest
	case errors.Is(err, ErrUnavailable):
		status = http.StatusServiceUnavailable
	default:
		status = http.StatusBadGateway
	}
	if err != nil {
		out.Error = err.Error()
	}
	w.Header().Set("Content-Type", "application/json")
	w.WriteHeader(status)
	_ = json.NewEncoder(w).Encode(out)
	_ = rc.Flush() // whoever still sends should hear of it now
}

// Warm asks the gateway behind the socket to warm its cache and its peer's with data. peer may be empty where there is one only. What is returned
// beside an error is how far it got.
func Warm(ctx context.Context, socket, peer string, data io.Reader) (Warmed, error) {
	transport := &http.Transport{
		DialContext: func(ctx context.Context, _, _ string) (net.Conn, error) {
			var d net.Dialer
			return d.DialContext(ctx, "unix", socket)
		},
		ExpectContinueTimeout: 30 * time.Second, // nothing is sent to a gateway that refuses
	}
	defer transport.CloseIdleConnections()
	request, err := http.NewRequestWithContext(ctx, http.MethodPost, "http://gateway"+warmPath+"?"+url.Values{"peer": {peer}}.Encode(), io.NopCloser(data))
	if err != nil {
		return Warmed{}, fmt.Errorf("control socket: %w", err)
	}
	request.Header.Set("Expect", "100-continue")
	response, err := (&http.Client{Transport: transport}).Do(request)
	switch {
	case errors.Is(err, os.ErrPermission):
		return Warmed{}, fmt.Errorf("control socket %s: %w: run this as root or as the gateway's user", socket, os.ErrPermission)
	case errors.Is(err, os.ErrNotExist), errors.Is(err, syscall.ECONNREFUSED):
		return Warmed{}, fmt.Errorf("nothing answers at the control socket %s: is the gateway running on this host, with this cache.dir?", socket)
	case err != nil:
		return Warmed{}, fmt.Errorf("control socket: %w", err)
	}
	defer response.Body.Close()
	var out Warmed
	if err := json.NewDecoder(io.LimitReader(response.Body, answerLimit)).Decode(&out); err != nil {
		return Warmed{}, fmt.Errorf("control socket: answer %s: %w", response.Status, err)
	}
	if response.StatusCode != http.StatusOK {
		return out, errors.New(out.Error)
	}
	return out, nil
}
