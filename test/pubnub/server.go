// Package pubnub is a stand-in for the PubNub service: an HTTP server, for development and tests only, that unmodified
// Go (v7.4.0) and JavaScript (12.0.3) SDK clients can talk to. It never talks to PubNub itself, never keeps anything on
// disk, and is no replacement for the service: what it does when told to fail is as much its purpose as what it does right.
//
// Where the service's behaviour is documented or recorded it is followed; where it is not, the stand-in chooses and says
// so at the place (look for "assumed"). Known differences: filter expressions are accepted and ignored, channel groups
// have no namespaces, storage, presence and the stream controller are always switched on.
//
// One file per endpoint family: publish.go, subscribe.go, groups.go, history.go, presence.go, time.go. messages.go holds
// what was published, signature.go checks signatures, names.go the naming rules, faults.go the failures on request,
// control.go the same over HTTP.
package pubnub

import (
	"context"
	"errors"
	"fmt"
	"io"
	"log"
	"net"
	"net/http"
	"sync"
	"syscall"
	"time"
)

const (
	// ServerHeader is sent with every answer, so that nobody mistakes the stand-in for the service.
	ServerHeader = "consultd-pubnub-standin (development and tests only)"

	// DefaultPublishKey, DefaultSubscribeKey and DefaultSecretKey are used where Config leaves the key empty.
	DefaultPublishKey   = "pub-c-standin"
	DefaultSubscribeKey = "sub-c-standin"
	DefaultSecretKey    = "sec-c-standin"

	// maxBatch is the most messages that the service puts into one subscribe answer.
	maxBatch = 100
	// maxBody bounds a request body, before and after inflating.
	maxBody = 128 << 10
	// maxHeader bounds the request line and headers: an escaped 32 KiB message is at most three times as long.
	maxHeader = 160 << 10
)

// Config says what the stand-in pretends to be. The zero value works.
type Config struct {
	// Addr is the address to listen on, "127.0.0.1:0" when empty.
	Addr string
	// PublishKey, SubscribeKey and SecretKey form the one key set served. Empty ones get the Default… keys.
	PublishKey, SubscribeKey, SecretKey string
	// RequireSignature refuses every unsigned request except /time. A signature that is present is always checked.
	RequireSignature bool
	// BufferSize is the number of newest messages a subscriber can still catch up on, over all its channels together
	// (100 when 0). Older ones are lost without a mark, as with the service. One answer holds at most 100.
	BufferSize int
	// BufferAge is how long a message can be caught up on (20 minutes when 0).
	BufferAge time.Duration
	// HistoryLimit is the number of messages kept per channel for history and Published (10,000 when 0).
	HistoryLimit int
	// MemoryLimit bounds the bytes of all kept messages together (256 MiB when 0); the oldest go first.
	MemoryLimit int64
	// LongPoll is how long a poll without messages is held (280 s when 0).
	LongPoll time.Duration
	// StrictWildcards refuses to publish to names with three or more dots, as the service does on key sets with
	// wildcard subscribe, and limits wildcards to two dots. Without it names and wildcards of any depth work.
	StrictWildcards bool
	// SingleLevelWildcards makes a.* match a.b but not a.b.c. The service's documentation contradicts itself here;
	// the default is that a.* matches everything below a.
	SingleLevelWildcards bool
	// Region is put into cursors, 1 to 127 (12 when 0).
	Region int
	// Clock gives the time for timetokens, ages, expiry, presence and the signature window; time.Now when nil.
	// Polls are held by the real clock.
	Clock func() time.Time
}

func (c Config) withDefaults() Config {
	setDefault(&c.Addr, "127.0.0.1:0")
	setDefault(&c.PublishKey, DefaultPublishKey)
	setDefault(&c.SubscribeKey, DefaultSubscribeKey)
	setDefault(&c.SecretKey, DefaultSecretKey)
	setDefault(&c.BufferSize, 100)
	setDefault(&c.BufferAge, 20*time.Minute)
	setDefault(&c.HistoryLimit, 10_000)
	setDefault(&c.MemoryLimit, 256<<20)
	setDefault(&c.LongPoll, 280*time.Second)
	setDefault(&c.Region, 12)
	if c.Clock == nil {
		c.Clock = time.Now
	}
	return c
}

func setDefault[T comparable](field *T, value T) {
	var zero T
	if *field == zero {
		*field = value
	}
}

// Server is one running stand-in. All methods may be called concurrently.
type Server struct {
	cfg     Config
	addr    string // as bound at Start; the same after Resume
	routers []router
	done    chan struct{} // closed by Close

	// life guards the listener. It is taken before mu, and never by a request: taking the front down waits for requests.
	life   sync.Mutex
	front  *front // nil while paused or closed
	closed bool
	tasks  sync.WaitGroup // janitor, outage timers

	mu       sync.Mutex
	messages messages
	groups   groups
	presence presence
	waiters  waiters
	faults   faults
	counts   map[string]int
	region   int
	changed  chan struct{} // closed and replaced whenever something a test may wait for has happened
}

// front is the part of a Server that Pause takes down: listener, connections, requests.
type front struct {
	addr   string
	http   *http.Server
	served sync.WaitGroup // the accept loop and every connection
	gone   chan struct{}  // closed when the front goes down: ends all long polls
}

// Start listens and serves. It fails when the address cannot be bound or the region is out of range.
func Start(cfg Config) (*Server, error) {
	cfg = cfg.withDefaults()
	if cfg.Region < 1 || cfg.Region > 127 {
		return nil, fmt.Errorf("start pubnub stand-in: region %d: must be 1 to 127, SDKs refuse others", cfg.Region)
	}
	s := &Server{cfg: cfg, addr: cfg.Addr, done: make(chan struct{}), changed: make(chan struct{}), region: cfg.Region}
	s.routers = []router{routeTime, routePublish, routeSubscribe, routeGroups, routeHistory, routePresence}
	s.forget()
	if err := s.open(); err != nil {
		return nil, fmt.Errorf("start pubnub stand-in: %w", err)
	}
	s.addr = s.front.addr
	s.tasks.Go(s.janitor)
	return s, nil
}

// URL is the base address, such as http://127.0.0.1:40123.
func (s *Server) URL() string { return "http://" + s.Origin() }

// Origin is host and port, as the SDKs' origin setting wants it (with their TLS switched off).
func (s *Server) Origin() string { return s.addr }

// Config is the configuration in force, defaults filled in.
func (s *Server) Config() Config { return s.cfg }

// Close ends all requests, long polls included, and returns when nothing of the server runs any more.
func (s *Server) Close() {
	s.life.Lock()
	if !s.closed {
		s.closed = true
		s.mu.Lock()
		close(s.done) // under mu: see background
		s.mu.Unlock()
		s.shut()
	}
	s.life.Unlock()
	s.tasks.Wait()
}

// background runs a task that Close waits for. The task must end soon after done is closed.
func (s *Server) background(task func()) {
	s.mu.Lock()
	defer s.mu.Unlock()
	select {
	case <-s.done:
	default:
		s.tasks.Go(task)
	}
}

// Pause is an outage: listener and connections are closed, so that clients are refused. Messages, groups and presence
// are kept. It returns when no request is in progress any more.
func (s *Server) Pause() {
	s.life.Lock()
	defer s.life.Unlock()
	s.shut()
}

// Resume ends Pause on the same address. It fails when the address is taken meanwhile or the server was closed.
func (s *Server) Resume() error {
	s.life.Lock()
	defer s.life.Unlock()
	if s.closed {
		return errors.New("resume pubnub stand-in: it is closed")
	}
	if s.front != nil {
		return nil
	}
	if err := s.open(); err != nil {
		return fmt.Errorf("resume pubnub stand-in: %w", err)
	}
	return nil
}

// Forget loses all messages, cursors, groups, presence, faults and counts, as a service that lost its state would.
// Timetokens go on rising.
func (s *Server) Forget() {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.forget()
	s.wakeAll()
	s.signalChange()
}

func (s *Server) forget() {
	s.messages.reset()
	s.groups.reset()
	s.presence.reset()
	s.waiters.init()
	s.faults.clear()
	s.counts = make(map[string]int)
}

// DropConnections closes all connections in the middle of whatever they do. New ones are accepted again a moment later.
func (s *Server) DropConnections() error {
	s.Pause()
	return s.Resume()
}

// SetRegion changes the region in cursors from now on, as a failover to another site does.
func (s *Server) SetRegion(region int) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.region = region
}

// open binds and serves; life is held (or nobody else knows the server yet).
func (s *Server) open() error {
	listener, err := listen(s.addr)
	if err != nil {
		return err
	}
	f := &front{addr: listener.Addr().String(), gone: make(chan struct{})}
	f.http = &http.Server{
		Handler:           http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) { s.serve(f, w, r) }),
		ReadHeaderTimeout: 10 * time.Second,
		MaxHeaderBytes:    maxHeader,
		ErrorLog:          log.New(io.Discard, "", 0),
		ConnState: func(conn net.Conn, state http.ConnState) {
			switch state {
			case http.StateNew:
				f.served.Add(1)
				select {
				case <-f.gone: // accepted just now: http.Server.Close has not seen it
					_ = conn.Close()
				default:
				}
			case http.StateClosed, http.StateHijacked:
				f.served.Done()
			}
		},
	}
	s.front = f
	f.served.Go(func() { _ = f.http.Serve(listener) })
	return nil
}

// listen binds the address. After Pause an outgoing connection of some process may hold the port for a moment.
func listen(addr string) (net.Listener, error) {
	deadline := time.Now().Add(3 * time.Second)
	for {
		listener, err := net.Listen("tcp", addr)
		if err == nil || !errors.Is(err, syscall.EADDRINUSE) || time.Now().After(deadline) {
			return listener, err
		}
		time.Sleep(20 * time.Millisecond)
	}
}

// shut takes the front down; life is held.
func (s *Server) shut() {
	if s.front == nil {
		return
	}
	close(s.front.gone)
	_ = s.front.http.Close()
	s.front.served.Wait()
	s.front = nil
}

// janitor forgets what is too old, once a second.
func (s *Server) janitor() {
	ticker := time.NewTicker(time.Second)
	defer ticker.Stop()
	for {
		select {
		case <-s.done:
			return
		case <-ticker.C:
			s.Sweep()
		}
	}
}

// Sweep drops what is over age and times out silent users. It runs once a second by itself; tests that move the clock
// call it to see the effect at once.
func (s *Server) Sweep() {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.messages.sweep(s.cfg, s.cfg.Clock())
	s.presenceTimeouts()
}

// signalChange wakes those who wait in await; mu is held.
func (s *Server) signalChange() {
	close(s.changed)
	s.changed = make(chan struct{})
}

// await blocks until ready, evaluated under mu, holds.
func (s *Server) await(ctx context.Context, what string, ready func() bool) error {
	for {
		s.mu.Lock()
		ok, changed := ready(), s.changed
		s.mu.Unlock()
		if ok {
			return nil
		}
		select {
		case <-changed:
		case <-ctx.Done():
			return fmt.Errorf("wait for %s: %w", what, ctx.Err())
		case <-s.done:
			return fmt.Errorf("wait for %s: stand-in closed", what)
		}
	}
}

// Requests counts the requests since start (or Forget) by family (publish, subscribe, history, …) and by operation
// (fire, handshake, poll, fetch, heartbeat, …), also those answered by a fault.
func (s *Server) Requests() map[string]int {
	s.mu.Lock()
	defer s.mu.Unlock()
	counts := make(map[string]int, len(s.counts))
	for name, n := range s.counts {
		counts[name] = n
	}
	return counts
}
