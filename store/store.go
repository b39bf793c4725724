// Package store keeps visits, escalations, timers, queues, leases and outboxes in Redis, and changes them only by
// scripts that do all of a decision or nothing of it.
//
// It never decides anything, and writes nothing about a patient in clear: keys and members hold opaque identifiers,
// everything else is sealed before it leaves the process.
package store

import (
	"context"
	"crypto/tls"
	"errors"
	"fmt"
	"regexp"
	"strings"
	"sync"
	"time"

	"github.com/redis/go-redis/v9"
	"github.com/redis/go-redis/v9/logging"
	"github.com/redis/go-redis/v9/maintnotifications"
	"github.com/rs/zerolog"
)

// Options says how to reach Redis and whose data it keeps.
type Options struct {
	Addrs    []string // host:port or path of a Unix socket; more than one are nodes of a cluster, or Sentinels of Master
	Master   string   // name of the master that the Sentinels watch; "" without Sentinel
	Cluster  bool     // a single address is the entrance to a cluster
	Username string
	Password string
	DB       int
	TLS      *tls.Config // nil is plain TCP

	Organization string // hash tag of every key, [A-Za-z0-9_-]{1,32}
	Sealer       Sealer
	Log          zerolog.Logger

	Batch         int           // most commits sent at once; 0 is 128
	Timeout       time.Duration // to connect, and of one answer; 0 is 3 s
	AllowEviction bool          // only warn when Redis may evict keys, instead of refusing to open
}

const (
	defaultBatch   = 128
	defaultTimeout = 3 * time.Second
	pipelineBuffer = 128 << 10

	// After as many failed dials as its pool has places, the client looks only once a second whether Redis is back.
	dialsBeforePause = 4096
)

// Store is one organisation's state in Redis. A lane has a Store of its own, and with it connections and a batcher of
// its own, so that no lane waits for another. It is safe for concurrent use.
type Store struct {
	keys   keys
	sealer Sealer
	log    zerolog.Logger

	client  redis.UniversalClient // everything but commits; repeats what failed, because repeating is harmless there
	commits redis.UniversalClient // commits only: one connection, and no repeats behind the caller's back
	batcher *batcher
	deleter *deleter
	close   sync.Once
}

// ErrClosed is the answer to commits that were still waiting when the store was closed. Whether they took effect is not known.
var ErrClosed = errors.New("store is closed")

// Unavailable means that Redis gave no answer, or not the answer to the question. Whether a write took effect is not
// known; repeating it is always safe.
type Unavailable struct {
	Operation string
	Cause     error
}

func (e *Unavailable) Error() string { return e.Operation + ": redis: " + e.Cause.Error() }

// Unwrap returns what the connection or the server said.
func (e *Unavailable) Unwrap() error { return e.Cause }

// Temporary says that it is worth trying again.
func (e *Unavailable) Temporary() bool { return true }

func unavailable(operation string, err error) error {
	return &Unavailable{Operation: operation, Cause: err}
}

var organizationGrammar = regexp.MustCompile(`^[A-Za-z0-9_-]{1,32}$`)

// Open connects, and refuses a Redis that may evict keys: a lost timer or lease would be silent. The error is
// Unavailable when Redis does not answer.
func Open(ctx context.Context, o Options) (*Store, error) {
	switch {
	case len(o.Addrs) == 0:
		return nil, errors.New("open store: no address of Redis")
	case !organizationGrammar.MatchString(o.Organization):
		return nil, errors.New("open store: the organization must be 1 to 32 letters, digits, _ or -")
	case o.Sealer == nil:
		return nil, errors.New("open store: no sealer")
	}
	if o.Batch <= 0 {
		o.Batch = defaultBatch
	}
	if o.Timeout <= 0 {
		o.Timeout = defaultTimeout
	}
	redis.SetLogger(&logging.VoidLogger{}) // it prints to standard error what the calls return as errors anyway
	s := &Store{
		keys:    newKeys(o.Organization),
		sealer:  o.Sealer,
		log:     o.Log.With().Str("component", "store").Logger(),
		client:  redis.NewUniversalClient(clientOptions(o)),
		commits: redis.NewUniversalClient(commitOptions(o)),
	}
	if err := s.checkEviction(ctx, o.AllowEviction); err != nil {
		return nil, errors.Join(err, s.closeClients())
	}
	s.batcher = startBatcher(s.commits, o.Batch)
	s.deleter = newDeleter(s.client, s.keys, s.log, o.Timeout)
	s.deleter.start()
	return s, nil
}

func clientOptions(o Options) *redis.UniversalOptions {
	return &redis.UniversalOptions{
		Addrs: o.Addrs, MasterName: o.Master, IsClusterMode: o.Cluster,
		Username: o.Username, Password: o.Password, DB: o.DB, TLSConfig: o.TLS,
		DialTimeout: o.Timeout, ReadTimeout: o.Timeout, WriteTimeout: o.Timeout,
		DialerRetries:         1, // whoever waits for Redis has a backoff of his own
		ContextTimeoutEnabled: true,
		DisableIdentity:       true,
		MaintNotificationsConfig: &maintnotifications.Config{
			Mode: maintnotifications.ModeDisabled,
		},
	}
}

// commitOptions keeps commits on one connection and unrepeated: a repeat inside the client would turn an answer that
// was lost into a silent "replayed".
func commitOptions(o Options) *redis.UniversalOptions {
	u := clientOptions(o)
	u.MaxRetries = -1
	u.PipelinePoolSize = -1
	u.PoolSize = dialsBeforePause // the batcher is the only user, so one connection is all there ever is
	u.ReadBufferSize, u.WriteBufferSize = pipelineBuffer, pipelineBuffer
	return u
}

// Ping asks Redis for a sign of life.
func (s *Store) Ping(ctx context.Context) error {
	if err := s.client.Ping(ctx).Err(); err != nil {
		return unavailable("ping", err)
	}
	return nil
}

// Close answers waiting commits, removes what was delivered from the outboxes, and disconnects.
func (s *Store) Close() (err error) {
	s.close.Do(func() {
		s.batcher.close()
		s.deleter.close()
		err = s.closeClients()
	})
	return err
}

func (s *Store) closeClients() error {
	return errors.Join(s.commits.Close(), s.client.Close())
}

// Durability is what Redis says about how well it keeps data, for the health page.
type Durability struct {
	Version     string
	AppendOnly  bool
	AppendFsync string // always, everysec or no; "" when the server does not tell
	Eviction    string // maxmemory-policy
}

// Durability asks Redis how it keeps data.
func (s *Store) Durability(ctx context.Context) (Durability, error) {
	text, err := s.client.Info(ctx).Result()
	if err != nil {
		return Durability{}, unavailable("read server information", err)
	}
	info := parseInfo(text)
	d := Durability{
		Version:    info["redis_version"],
		AppendOnly: info["aof_enabled"] == "1",
		Eviction:   info["maxmemory_policy"],
	}
	// Managed servers forbid CONFIG; INFO has everything but this.
	if fsync, err := s.client.ConfigGet(ctx, "appendfsync").Result(); err == nil {
		d.AppendFsync = fsync["appendfsync"]
	}
	return d, nil
}

func parseInfo(text string) map[string]string {
	info := map[string]string{}
	for line := range strings.Lines(text) {
		if name, value, ok := strings.Cut(strings.TrimSpace(line), ":"); ok {
			info[name] = value
		}
	}
	return info
}

func (s *Store) checkEviction(ctx context.Context, allow bool) error {
	d, err := s.Durability(ctx)
	if err != nil {
		return fmt.Errorf("open store: %w", err)
	}
	if d.Eviction == "noeviction" {
		return nil
	}
	if d.Eviction == "" && allow { // an in-memory stand-in, or a managed server that hides its settings
		return nil
	}
	if allow {
		s.log.Warn().Str("policy", d.Eviction).Msg("redis may evict visits, timers and leases when memory is short; set maxmemory-policy to noeviction")
		return nil
	}
	return fmt.Errorf("open store: maxmemory-policy of redis is %q, which may evict visits, timers and leases: set it to noeviction", d.Eviction)
}
