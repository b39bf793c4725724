package pubnub_test

import (
	"context"
	"errors"
	"slices"
	"sync"
	"testing"
	"time"

	sdk "github.com/pubnub/go/v7"
	"github.com/rs/zerolog"

	"consultd/handlers/pubnub"
	"consultd/states"
	standin "consultd/test/pubnub"
)

const (
	cipherKey = "cipher-key-one"
	daemon    = "consultd-user"
	room      = "waiting-room.p1"
	visit     = "consultation.p1.q1"
	alarm     = "emergency.cardiology"
)

// cell is one value in memory, with the compare-and-set of a JetStream bucket.
type cell struct {
	mu       sync.Mutex
	value    []byte
	revision uint64
}

var errStale, errGone = errors.New("stale"), errors.New("gone")

func (c *cell) Load(context.Context) ([]byte, uint64, error) {
	c.mu.Lock()
	defer c.mu.Unlock()
	return slices.Clone(c.value), c.revision, nil
}

func (c *cell) Store(_ context.Context, value []byte, revision uint64) (uint64, error) {
	c.mu.Lock()
	defer c.mu.Unlock()
	if revision != c.revision {
		return 0, errStale
	}
	c.value, c.revision = slices.Clone(value), c.revision+1
	return c.revision, nil
}

// entry is one message of the log.
type entry struct {
	lane    states.Lane
	subject string
	id      string
	header  map[string]string
	data    string
}

// logbook is a log in memory. Like a stream, it takes a message id only once.
type logbook struct {
	mu      sync.Mutex
	entries []entry
	ids     map[string]bool
	repeats int
	dead    []pubnub.Unreadable
	urgent  []string
	alerts  []error
	gate    func(subject string) // runs before each append, unless nil
}

func newLogbook() *logbook { return &logbook{ids: make(map[string]bool)} }

func (l *logbook) append(_ context.Context, lane states.Lane, subject, id string, header map[string]string, data []byte) error {
	l.mu.Lock()
	gate := l.gate
	l.mu.Unlock()
	if gate != nil {
		gate(subject)
	}
	l.mu.Lock()
	defer l.mu.Unlock()
	if l.ids[id] {
		l.repeats++
		return nil
	}
	l.ids[id] = true
	l.entries = append(l.entries, entry{lane, subject, id, header, string(data)})
	return nil
}

func (l *logbook) on(subject string) []string {
	l.mu.Lock()
	defer l.mu.Unlock()
	var found []string
	for _, e := range l.entries {
		if e.subject == subject {
			found = append(found, e.data)
		}
	}
	return found
}

func (l *logbook) all() []entry {
	l.mu.Lock()
	defer l.mu.Unlock()
	return slices.Clone(l.entries)
}

func (l *logbook) alerted() []error {
	l.mu.Lock()
	defer l.mu.Unlock()
	return slices.Clone(l.alerts)
}

// replica is one ingester with a power switch.
type replica struct {
	stats  *pubnub.Stats
	cancel context.CancelFunc
	done   chan struct{}

	mu      sync.Mutex
	dead    bool
	hanging chan struct{} // while not nil, its broker does not answer
}

// kill is the end of the process: from now on nothing it does has any effect.
func (r *replica) kill() {
	r.mu.Lock()
	r.dead = true
	r.mu.Unlock()
	r.stop()
}

// stop ends it in good order.
func (r *replica) stop() {
	r.cancel()
	<-r.done
}

func (r *replica) hang() (resume func()) {
	r.mu.Lock()
	defer r.mu.Unlock()
	hanging := make(chan struct{})
	r.hanging = hanging
	return func() {
		r.mu.Lock()
		r.hanging = nil
		r.mu.Unlock()
		close(hanging)
	}
}

func (r *replica) reach(ctx context.Context) error {
	r.mu.Lock()
	dead, hanging := r.dead, r.hanging
	r.mu.Unlock()
	if hanging != nil {
		select {
		case <-hanging:
		case <-ctx.Done():
			return ctx.Err()
		}
	}
	if dead {
		return errGone
	}
	return nil
}

type replicaCell struct {
	*replica
	cell *cell
}

func (c replicaCell) Load(ctx context.Context) ([]byte, uint64, error) {
	if err := c.reach(ctx); err != nil {
		return nil, 0, err
	}
	return c.cell.Load(ctx)
}

func (c replicaCell) Store(ctx context.Context, value []byte, revision uint64) (uint64, error) {
	if err := c.reach(ctx); err != nil {
		return 0, err
	}
	return c.cell.Store(ctx, value, revision)
}

// quick is the pace of tests.
func quick() pubnub.Pace {
	return pubnub.Pace{
		Beat: 30 * time.Millisecond, Takeover: 250 * time.Millisecond, Operation: 2 * time.Second,
		RetryMin: time.Millisecond, RetryMax: 10 * time.Millisecond, Denied: 10 * time.Millisecond,
		Grace: 20 * time.Second, Patience: 20 * time.Second, Settle: 50 * time.Millisecond, Again: 50 * time.Millisecond,
	}
}

// ingest starts a replica that hears everything.
func ingest(t *testing.T, server *standin.Server, c *cell, log *logbook, change ...func(*pubnub.IngestOptions)) *replica {
	t.Helper()
	ctx, cancel := context.WithCancel(context.Background())
	r := &replica{stats: new(pubnub.Stats), cancel: cancel, done: make(chan struct{})}
	opts := pubnub.IngestOptions{
		Account: account(server), Owner: "replica", Cell: replicaCell{r, c}, Ring: ring(t, cipherKey),
		Channels: []string{"waiting-room.*", "consultation.*", "emergency.*"},
		Append: func(ctx context.Context, lane states.Lane, subject, id string, header map[string]string, data []byte) error {
			if err := r.reach(ctx); err != nil {
				return err
			}
			return log.append(ctx, lane, subject, id, header, data)
		},
		Urgent: func(_ context.Context, channel, publisher, timetoken string, plain []byte) error {
			log.mu.Lock()
			defer log.mu.Unlock()
			log.urgent = append(log.urgent, channel+" "+publisher+" "+string(plain))
			return nil
		},
		Quarantine: func(_ context.Context, u pubnub.Unreadable) error {
			log.mu.Lock()
			defer log.mu.Unlock()
			log.dead = append(log.dead, u)
			return nil
		},
		Known: func(context.Context) ([]string, error) { return []string{room, visit, alarm, "waiting-room.p2"}, nil },
		Alert: func(err error) {
			log.mu.Lock()
			defer log.mu.Unlock()
			log.alerts = append(log.alerts, err)
		},
		Pace: quick(), Stats: r.stats, Log: zerolog.Nop(),
	}
	for _, f := range change {
		f(&opts)
	}
	in, err := pubnub.NewIngest(opts)
	if err != nil {
		t.Fatal(err)
	}
	go func() {
		defer close(r.done)
		if err := in.Run(ctx); err != nil {
			t.Error(err)
		}
	}()
	t.Cleanup(func() {
		cancel()
		<-r.done
	})
	return r
}

func start(t *testing.T, cfg standin.Config) *standin.Server {
	t.Helper()
	server, err := standin.Start(cfg)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(server.Close)
	return server
}

func account(server *standin.Server) pubnub.Account {
	return pubnub.Account{
		Endpoint: server.URL(), PublishKey: server.Config().PublishKey, SubscribeKey: server.Config().SubscribeKey,
		SecretKey: server.Config().SecretKey, User: daemon,
	}
}

func ring(t *testing.T, current string, previous ...string) *pubnub.KeyRing {
	t.Helper()
	r, err := pubnub.NewKeyRing(current, previous...)
	if err != nil {
		t.Fatal(err)
	}
	return r
}

// say publishes as an app would.
func say(t *testing.T, server *standin.Server, channel string, payload any) {
	t.Helper()
	if _, err := server.Publish(channel, "somebody", payload); err != nil {
		t.Fatal(err)
	}
}

// inject switches a fault on.
func inject(t *testing.T, server *standin.Server, fault standin.Fault) {
	t.Helper()
	if err := server.Inject(fault); err != nil {
		t.Fatal(err)
	}
}

// polling waits until a poll is being held.
func polling(t *testing.T, server *standin.Server) {
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), 20*time.Second)
	defer cancel()
	if err := server.WaitSubscribers(ctx, room, 1); err != nil {
		t.Fatal(err)
	}
}

// eventually waits for a condition.
func eventually(t *testing.T, what string, ready func() bool) {
	t.Helper()
	ticker := time.NewTicker(2 * time.Millisecond)
	defer ticker.Stop()
	deadline := time.After(20 * time.Second)
	for !ready() {
		select {
		case <-ticker.C:
		case <-deadline:
			t.Fatalf("%s: not within 20 s", what)
		}
	}
}

// app is an unmodified SDK client.
func app(server *standin.Server, change ...func(*sdk.Config)) *sdk.PubNub {
	config := sdk.NewConfigWithUserId("app")
	config.Origin, config.Secure = server.Origin(), false
	config.PublishKey, config.SubscribeKey = server.Config().PublishKey, server.Config().SubscribeKey
	config.MaxWorkers = 0
	for _, f := range change {
		f(config)
	}
	return sdk.NewPubNub(config)
}
