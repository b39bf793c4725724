package store

import (
	"context"
	"strings"
	"testing"
	"time"

	goredis "github.com/redis/go-redis/v9"
	"github.com/rs/zerolog"

	"consultd/states"
	"consultd/test/redis"
)

const (
	organization = "clinic"
	ttl          = time.Minute
	owner        = "replica-1"
	patience     = 10 * time.Second
)

var (
	normal3 = states.Partition{Lane: states.LaneNormal, Number: 3}
	start   = time.Date(2025, 3, 1, 9, 0, 0, 0, time.UTC)
)

// await polls until what is wanted has come about.
func await(t *testing.T, what string, reached func() bool) {
	t.Helper()
	deadline, tick := time.After(patience), time.NewTicker(2*time.Millisecond)
	defer tick.Stop()
	for !reached() {
		select {
		case <-tick.C:
		case <-deadline:
			t.Fatalf("still waiting for: %s", what)
		}
	}
}

func newSealer(tb testing.TB) Sealer {
	tb.Helper()
	keyset, err := GenerateKeyset()
	if err != nil {
		tb.Fatal(err)
	}
	sealer, err := NewSealer(keyset)
	if err != nil {
		tb.Fatal(err)
	}
	return sealer
}

// openAt opens a store that ends with the test.
func openAt(tb testing.TB, addr string, change ...func(*Options)) *Store {
	tb.Helper()
	o := Options{Addrs: []string{addr}, Organization: organization, Log: zerolog.Nop()}
	for _, c := range change {
		c(&o)
	}
	if o.Sealer == nil {
		o.Sealer = newSealer(tb)
	}
	s, err := Open(tb.Context(), o)
	if err != nil {
		tb.Fatal(err)
	}
	tb.Cleanup(func() { _ = s.Close() })
	return s
}

func raw(tb testing.TB, addr string) *goredis.Client {
	tb.Helper()
	c := goredis.NewClient(&goredis.Options{Addr: addr, DisableIdentity: true, DialerRetries: 1})
	tb.Cleanup(func() { _ = c.Close() })
	return c
}

// started is a store on a server of its own, owning one partition.
func started(tb testing.TB, opts redis.Options) (*redis.Server, *Store, states.Claim) {
	tb.Helper()
	server := redis.ForTest(tb, opts)
	s := openAt(tb, server.Addr())
	return server, s, claim(tb, s, normal3)
}

func claim(tb testing.TB, s *Store, p states.Partition) states.Claim {
	tb.Helper()
	leases, err := s.Acquire(tb.Context(), owner, ttl, []states.Partition{p})
	if err != nil {
		tb.Fatal(err)
	}
	lease, ok := leases[p]
	if !ok {
		tb.Fatalf("partition %v not acquired", p)
	}
	return states.Claim{Partition: p, Epoch: lease.Epoch, Floor: lease.Commits}
}

func visitID(appointment string) states.RecordID {
	return states.RecordID{Kind: states.KindVisit, ID: appointment}
}

func eventID(name string) states.EventID {
	return states.NewEventID(states.SourceNATS, "waiting-room.dr-smith", "backend", name)
}

// visitCommit is a plausible commit of a visit's next version, with one of everything.
func visitCommit(claim states.Claim, seq uint64, appointment string, version int64) *states.Commit {
	return &states.Commit{
		Claim: claim,
		Seq:   seq,
		Event: eventID(appointment + "/" + string(rune('a'+version))),
		Decision: &states.Decision{
			Record: states.Record{
				ID:      visitID(appointment),
				Version: version,
				Chain:   states.Chain{Seq: version, Hash: strings.Repeat("ab", 32)},
				Visit: &states.Visit{
					Appointment: appointment, Consultation: "cons-777", Provider: "dr-smith", Patient: "patient-4711",
					Department: "cardiology", State: "waiting", Priority: states.PriorityNormal, StateSince: start,
				},
			},
		},
		Keep: time.Hour,
		Outbox: map[states.Sink][]states.Message{
			states.SinkNATS: {{ID: appointment + ".0", Channel: "notification.patient-4711", Payload: []byte(`{"type":"PATIENT_READY"}`)}},
		},
	}
}

func mustCommit(tb testing.TB, s *Store, c *states.Commit, want states.Outcome, entry int64) {
	tb.Helper()
	got, err := s.Commit(tb.Context(), c)
	if err != nil {
		tb.Fatal(err)
	}
	if got.Outcome != want || got.Entry != entry {
		tb.Fatalf("commit of seq %d: %s, entry %d; want %s, entry %d", c.Seq, got.Outcome, got.Entry, want, entry)
	}
}

func mustLoad(tb testing.TB, s *Store, id states.RecordID) states.Record {
	tb.Helper()
	rs, err := s.Load(tb.Context(), id)
	if err != nil {
		tb.Fatal(err)
	}
	return rs[0]
}

func mustPending(tb testing.TB, s *Store, p states.Partition, sink states.Sink, after int64) []states.Pending {
	tb.Helper()
	pending, err := s.Pending(tb.Context(), p, sink, after, 1000)
	if err != nil {
		tb.Fatal(err)
	}
	return pending
}

// snapshot is everything in Redis except what server time changes by itself.
func snapshot(tb testing.TB, c *goredis.Client) map[string]string {
	tb.Helper()
	ctx := context.Background()
	keys, err := c.Keys(ctx, "*").Result()
	if err != nil {
		tb.Fatal(err)
	}
	all := map[string]string{}
	for _, key := range keys {
		if all[key], err = c.Dump(ctx, key).Result(); err != nil {
			tb.Fatal(err)
		}
	}
	return all
}
