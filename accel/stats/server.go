package stats

import (
	"context"
	"crypto/sha256"
	"crypto/subtle"
	"errors"
	"fmt"
	"log/slog"
	"net"
	"net/http"
	"net/netip"
	"sync"
	"syscall"
	"time"

	"github.com/prometheus/client_golang/prometheus"
	"github.com/prometheus/client_golang/prometheus/collectors"
	"github.com/prometheus/client_golang/prometheus/promhttp"
	"golang.org/x/net/netutil"

	"wanpair/accel/config"
	"wanpair/internal/beat"
)

// ErrListen is wrapped when the stats address cannot be listened at.
var ErrListen = errors.New("stats address unusable")

const (
	maxConnections = 256              // beyond them clients wait
	maxRequests    = 32               // at the same time; beyond them the answer is 503
	readTimeout    = 10 * time.Second // of a request
	writeTimeout   = 30 * time.Second // of an answer
	idleTimeout    = 60 * time.Second // between requests of a connection
	maxHeaderBytes = 16 << 10
)

// Server is the HTTP endpoint.
type Server struct {
	cfg    config.Stats
	src    Source
	events *Events
	log    *slog.Logger
	rates  *rates
	slots  chan struct{} // one per request being answered

	mu       sync.Mutex
	listener net.Listener // guarded by mu
}

// New makes a server that is not listening yet. events may be shared with the gateway's other parts.
func New(cfg config.Stats, src Source, events *Events, log *slog.Logger) *Server {
	if src.Top == nil {
		src.Top = NewTop()
	}
	return &Server{cfg: cfg, src: src, events: events, log: log, rates: newRates(), slots: make(chan struct{}, maxRequests)}
}

// Listen takes the address, so that a fault shows before anything else is started. Run calls it when nobody did.
func (s *Server) Listen(ctx context.Context) error {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.listener != nil {
		return nil
	}
	network := "tcp"
	if s.cfg.Listen.Addr().Is4() { // else Go makes 0.0.0.0 a socket for IPv6 as well
		network = "tcp4"
	}
	l, err := new(net.ListenConfig).Listen(ctx, network, s.cfg.Listen.String())
	switch {
	case errors.Is(err, syscall.EADDRINUSE):
		return fmt.Errorf("%w: stats.listen %s: the port is in use by another program, or another wanpair runs: choose another port or stop it (ss -ltnp 'sport = :%d' shows it)", ErrListen, s.cfg.Listen, s.cfg.Listen.Port())
	case errors.Is(err, syscall.EADDRNOTAVAIL):
		return fmt.Errorf("%w: stats.listen %s: this machine does not have that address: choose one that ip addr shows", ErrListen, s.cfg.Listen)
	case errors.Is(err, syscall.EACCES):
		return fmt.Errorf("%w: stats.listen %s: ports below 1024 need root: choose a higher one", ErrListen, s.cfg.Listen)
	case err != nil:
		return fmt.Errorf("%w: stats.listen %s: %w", ErrListen, s.cfg.Listen, err)
	}
	s.listener = netutil.LimitListener(l, maxConnections)
	return nil
}

// Addr returns the address it listens at, nil when it does not.
func (s *Server) Addr() net.Addr {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.listener == nil {
		return nil
	}
	return s.listener.Addr()
}

// Run samples and serves until ctx ends. It returns nil then and the first fault otherwise. A Server runs once.
func (s *Server) Run(ctx context.Context) error {
	if err := s.Listen(ctx); err != nil {
		return err
	}
	s.mu.Lock()
	listener := s.listener
	s.mu.Unlock()

	server := &http.Server{
		Handler:                      s.Handler(),
		ReadTimeout:                  readTimeout,
		WriteTimeout:                 writeTimeout,
		IdleTimeout:                  idleTimeout,
		MaxHeaderBytes:               maxHeaderBytes,
		ErrorLog:                     slog.NewLogLogger(s.log.Handler(), slog.LevelDebug),
		DisableGeneralOptionsHandler: true,
	}
	ctx, cancel := context.WithCancel(ctx)
	defer cancel()
	var wg sync.WaitGroup
	wg.Go(func() { s.sample(ctx) })
	wg.Go(func() {
		<-ctx.Done()
		// The last scrape of a stopping gateway is answered; whoever is slower than that is cut off.
		grace, done := context.WithTimeout(context.WithoutCancel(ctx), time.Second)
		defer done()
		if server.Shutdown(grace) != nil {
			_ = server.Close()
		}
	})
	err := server.Serve(listener)
	cancel()
	wg.Wait()
	if errors.Is(err, http.ErrServerClosed) {
		return nil
	}
	return fmt.Errorf("stats server: %w", err)
}

// sample feeds the rates once a second.
func (s *Server) sample(ctx context.Context) {
	peers := s.src.Peers
	if peers == nil {
		peers = func() []Peer { return s.src.Snapshot().Peers }
	}
	s.rates.add(time.Now(), peers())
	for {
		select {
		case <-ctx.Done():
			return
		case now := <-time.After(beat.Until(sampleInterval)):
			s.rates.add(now, peers())
		}
	}
}

// Handler returns all paths behind the checks of who asks, how and how often.
func (s *Server) Handler() http.Handler {
	registry := prometheus.NewRegistry()
	registry.MustRegister(newCollector(s.src.Snapshot, s.events), collectors.NewGoCollector(), collectors.NewProcessCollector(collectors.ProcessCollectorOpts{}))

	mux := http.NewServeMux()
	mux.Handle("GET /metrics", promhttp.HandlerFor(registry, promhttp.HandlerOpts{ErrorLog: slog.NewLogLogger(s.log.Handler(), slog.LevelWarn)}))
	mux.HandleFunc("GET /api/v1/stats", s.stats)
	mux.HandleFunc("GET /api/v1/flows", s.flows)
	mux.HandleFunc("GET /api/v1/events", s.latest)
	mux.HandleFunc("GET /api/v1/top", s.top)
	mux.HandleFunc("GET /api/v1/history", s.history)
	mux.HandleFunc("GET /healthz", func(w http.ResponseWriter, _ *http.Request) { probe(w, s.src.Snapshot().Unhealthy) })
	mux.HandleFunc("GET /readyz", func(w http.ResponseWriter, _ *http.Request) { probe(w, s.src.Snapshot().NotReady) })
	mux.Handle("GET /", dashboard())
	return s.guard(mux)
}

// guard answers only those who may ask, a bounded number at a time, and tells browsers to load nothing from elsewhere.
func (s *Server) guard(next http.Handler) http.Handler {
	return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		h := w.Header()
		h.Set("Content-Security-Policy", "default-src 'none'; script-src 'self'; style-src 'self'; img-src 'self' data:; connect-src 'self'; base-uri 'none'; form-action 'none'; frame-ancestors 'none'")
		h.Set("X-Content-Type-Options", "nosniff")
		h.Set("Referrer-Policy", "no-referrer")
		if code, problem := s.refuse(r); code != 0 {
			if code == http.StatusUnauthorized {
				h.Add("WWW-Authenticate", `Bearer realm="wanpair"`)
				h.Add("WWW-Authenticate", `Basic realm="wanpair, the token as password"`)
			}
			http.Error(w, problem, code)
			return
		}
		select {
		case s.slots <- struct{}{}:
			defer func() { <-s.slots }()
			next.ServeHTTP(w, r)
		default:
			h.Set("Retry-After", "1")
			http.Error(w, "too many requests at the same time", http.StatusServiceUnavailable)
		}
	})
}

// refuse returns the status and the text for a request that is not answered, 0 for one that is.
func (s *Server) refuse(r *http.Request) (code int, problem string) {
	client, err := netip.ParseAddrPort(r.RemoteAddr)
	if err != nil {
		return http.StatusForbidden, "the client's address is unknown"
	}
	addr := client.Addr().Unmap()
	if addr.IsLoopback() {
		return 0, ""
	}
	if len(s.cfg.Allow) == 0 && s.cfg.Token == "" {
		return http.StatusForbidden, "only loopback clients are answered: set stats.allow or stats.token"
	}
	if len(s.cfg.Allow) > 0 {
		allowed := false
		for _, p := range s.cfg.Allow {
			allowed = allowed || p.Contains(addr)
		}
		if !allowed {
			return http.StatusForbidden, "this address is not in stats.allow"
		}
	}
	if s.cfg.Token != "" && !s.hasToken(r) {
		return http.StatusUnauthorized, "the token is missing or wrong"
	}
	return 0, ""
}

// hasToken looks for the token as bearer token or, for browsers, as the password of basic authentication.
func (s *Server) hasToken(r *http.Request) bool {
	_, given, basic := r.BasicAuth()
	if !basic {
		const scheme = "Bearer "
		if h := r.Header.Get("Authorization"); len(h) > len(scheme) && h[:len(scheme)] == scheme {
			given = h[len(scheme):]
		}
	}
	// Hashes have one length, so that the comparison does not tell the token's.
	a, b := sha256.Sum256([]byte(given)), sha256.Sum256([]byte(s.cfg.Token))
	return subtle.ConstantTimeCompare(a[:], b[:]) == 1
}
