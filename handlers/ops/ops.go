// Package ops shows operators how the daemon is: whether it turns, whether what it needs answers, and its metrics. It never
// shows a payload, an id of a person or the text of an error.
package ops

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"net"
	"net/http"
	"net/http/pprof"
	"net/netip"
	"runtime/debug"
	"strings"
	"sync"
	"sync/atomic"
	"syscall"
	"time"

	"github.com/prometheus/client_golang/prometheus"
	"github.com/prometheus/client_golang/prometheus/collectors"
	"github.com/prometheus/client_golang/prometheus/promhttp"
	"github.com/rs/zerolog"
	"golang.org/x/sync/singleflight"
)

// checkTimeout is how long a dependency may take to answer before it counts as away.
const checkTimeout = time.Second

// Check asks one dependency whether it answers.
type Check struct {
	Name     string
	Run      func(ctx context.Context) error
	Optional bool // reported, but the daemon is ready without it
}

// Options says what a Server shows.
type Options struct {
	Addr     string               // host:port; port 0 takes a free one
	Registry *prometheus.Registry // served as /metrics
	Checks   []Check              // reported by /readyz in this order
	Alive    func() error         // asked by /healthz; nil: a process that answers is alive
	Pprof    bool                 // serve /debug/pprof/ if Addr is loopback
	Log      zerolog.Logger
}

// Server answers /healthz, /readyz and /metrics. It is the last thing that stops, so that a shutdown can be watched.
type Server struct {
	options  Options
	listener net.Listener
	http     *http.Server
	done     chan error
	draining atomic.Bool
	flights  singleflight.Group

	mu   sync.Mutex
	last map[string]string // check to its kind of error, to log changes only
}

// New prepares a server; Start opens its port.
func New(o Options) *Server {
	return &Server{options: o, done: make(chan error, 1), last: map[string]string{}}
}

// NewRegistry is a registry with the runtime's, the process's and the build's own metrics.
func NewRegistry() *prometheus.Registry {
	r := prometheus.NewRegistry()
	version := "unknown"
	if info, ok := debug.ReadBuildInfo(); ok {
		version = info.Main.Version
	}
	build := prometheus.NewGauge(prometheus.GaugeOpts{
		Name: "consultd_build_info", Help: "1, with the version as a label.", ConstLabels: prometheus.Labels{"version": version},
	})
	build.Set(1)
	r.MustRegister(build, collectors.NewGoCollector(), collectors.NewProcessCollector(collectors.ProcessCollectorOpts{}))
	return r
}

// Start opens the port and serves until Close. Errors: the port is taken or not ours to take, or pprof on an open address.
func (s *Server) Start(ctx context.Context) error {
	listener, err := new(net.ListenConfig).Listen(ctx, "tcp", s.options.Addr)
	if err != nil {
		return fmt.Errorf("open ops port: %w", err)
	}
	if s.options.Pprof && !loopback(listener.Addr()) {
		_ = listener.Close()
		return fmt.Errorf("open ops port: pprof shows memory and %s is not loopback; set ops.addr to 127.0.0.1:8080 or ops.pprof to false", listener.Addr())
	}
	s.listener = listener
	s.http = &http.Server{Handler: s.routes(), ReadHeaderTimeout: 5 * time.Second, IdleTimeout: time.Minute}
	go func() { s.done <- s.http.Serve(listener) }()
	s.options.Log.Info().Str("addr", s.Addr()).Msg("ops port open")
	return nil
}

// Addr is the address that Start opened, "" before.
func (s *Server) Addr() string {
	if s.listener == nil {
		return ""
	}
	return s.listener.Addr().String()
}

// SetDraining makes /readyz answer 503 from now on, so that nothing new is sent here while the daemon finishes.
func (s *Server) SetDraining() { s.draining.Store(true) }

// Close stops the server; requests in hand may finish until ctx ends. A server that never started closes without error.
func (s *Server) Close(ctx context.Context) error {
	if s.http == nil {
		return nil
	}
	if err := s.http.Shutdown(ctx); err != nil {
		_ = s.http.Close()
		return fmt.Errorf("close ops port: %w", err)
	}
	if err := <-s.done; !errors.Is(err, http.ErrServerClosed) {
		return fmt.Errorf("serve ops port: %w", err)
	}
	return nil
}

func (s *Server) routes() http.Handler {
	mux := http.NewServeMux()
	mux.HandleFunc("GET /healthz", s.healthz)
	mux.HandleFunc("GET /readyz", s.readyz)
	if s.options.Registry != nil {
		mux.Handle("GET /metrics", promhttp.HandlerFor(s.options.Registry, promhttp.HandlerOpts{}))
	}
	if s.options.Pprof {
		mux.HandleFunc("GET /debug/pprof/", pprof.Index)
		mux.HandleFunc("GET /debug/pprof/cmdline", pprof.Cmdline)
		mux.HandleFunc("GET /debug/pprof/profile", pprof.Profile)
		mux.HandleFunc("GET /debug/pprof/symbol", pprof.Symbol)
		mux.HandleFunc("GET /debug/pprof/trace", pprof.Trace)
	}
	return mux
}

func (s *Server) healthz(w http.ResponseWriter, _ *http.Request) {
	if s.options.Alive != nil {
		if err := s.options.Alive(); err != nil {
			http.Error(w, kind(err), http.StatusServiceUnavailable)
			return
		}
	}
	_, _ = w.Write([]byte("ok\n"))
}

// Readiness is the body of /readyz.
type Readiness struct {
	Ready    bool     `json:"ready"`
	Draining bool     `json:"draining,omitempty"`
	Checks   []Result `json:"checks"`
}

// Result is what one check found.
type Result struct {
	Name     string `json:"name"`
	OK       bool   `json:"ok"`
	Optional bool   `json:"optional,omitempty"`
	Error    string `json:"error,omitempty"` // kind: timeout, refused, closed, unresolved or error
}

func (s *Server) readyz(w http.ResponseWriter, r *http.Request) {
	answer := s.Ready(r.Context())
	w.Header().Set("Content-Type", "application/json")
	w.Header().Set("Cache-Control", "no-store")
	if !answer.Ready {
		w.WriteHeader(http.StatusServiceUnavailable)
	}
	_ = json.NewEncoder(w).Encode(answer)
}

// Ready runs every check at once and says whether the daemon can do its work. It takes at most a second.
func (s *Server) Ready(ctx context.Context) Readiness {
	answer := Readiness{Ready: true, Draining: s.draining.Load(), Checks: make([]Result, len(s.options.Checks))}
	var checks sync.WaitGroup
	for i, check := range s.options.Checks {
		checks.Go(func() { answer.Checks[i] = s.ask(ctx, check) })
	}
	checks.Wait()
	for _, result := range answer.Checks {
		answer.Ready = answer.Ready && (result.OK || result.Optional)
	}
	answer.Ready = answer.Ready && !answer.Draining
	return answer
}

// ask runs one check. Questions that come while one is under way share its answer, so that a check which ignores its
// deadline hangs once, not once for every probe.
func (s *Server) ask(ctx context.Context, check Check) Result {
	limited, cancel := context.WithTimeout(ctx, checkTimeout)
	defer cancel()
	flight := s.flights.DoChan(check.Name, func() (any, error) {
		// Not the asker's context: an asker that hangs up must not fail the others.
		ctx, cancel := context.WithTimeout(context.WithoutCancel(ctx), checkTimeout)
		defer cancel()
		return nil, check.Run(ctx)
	})
	var err error
	select {
	case done := <-flight:
		err = done.Err
	case <-limited.Done():
		err = limited.Err()
	}
	result := Result{Name: check.Name, OK: err == nil, Optional: check.Optional}
	if err != nil {
		result.Error = kind(err)
	}
	if ctx.Err() == nil { // a prober that hung up says nothing about the dependency
		s.note(result)
	}
	return result
}

// note logs a dependency that went away or came back.
func (s *Server) note(r Result) {
	s.mu.Lock()
	before, seen := s.last[r.Name]
	s.last[r.Name] = r.Error
	s.mu.Unlock()
	switch {
	case r.Error != "" && (!seen || before == ""):
		s.options.Log.Warn().Str("dependency", r.Name).Str("kind", r.Error).Msg("dependency does not answer")
	case r.Error == "" && before != "":
		s.options.Log.Info().Str("dependency", r.Name).Msg("dependency answers again")
	}
}

// kind is an error's sort. Its text stays inside, because texts of clients hold addresses and tokens.
func kind(err error) string {
	var dns *net.DNSError
	switch {
	case errors.Is(err, context.DeadlineExceeded):
		return "timeout"
	case errors.Is(err, syscall.ECONNREFUSED):
		return "refused"
	case errors.Is(err, net.ErrClosed), errors.Is(err, context.Canceled):
		return "closed"
	case errors.As(err, &dns):
		return "unresolved"
	default:
		return "error"
	}
}

func loopback(addr net.Addr) bool {
	host, _, err := net.SplitHostPort(addr.String())
	if err != nil {
		return false
	}
	ip, err := netip.ParseAddr(strings.Split(host, "%")[0])
	return err == nil && ip.IsLoopback()
}
