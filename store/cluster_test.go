package store

import (
	"context"
	"reflect"
	"testing"
	"time"

	goredis "github.com/redis/go-redis/v9"

	"consultd/states"
	"consultd/test/redis"
)

// TestEverythingRunsOnACluster does all that a store can on a server that refuses calls over several slots (P19).
func TestEverythingRunsOnACluster(t *testing.T) {
	server := redis.ForTest(t, redis.Options{Cluster: true})
	for name, cluster := range map[string]bool{"cluster client": true, "plain client": false} {
		t.Run(name, func(t *testing.T) {
			r := raw(t, server.Addr())
			if err := r.FlushAll(t.Context()).Err(); err != nil {
				t.Fatal(err)
			}
			if err := r.ScriptFlush(t.Context()).Err(); err != nil {
				t.Fatal(err)
			}
			s := openAt(t, server.Addr(), func(o *Options) { o.Cluster = cluster })
			everything(t, s)
			oneSlot(t, r)
		})
	}
}

func everything(t *testing.T, s *Store) {
	t.Helper()
	ctx := t.Context()
	f := newFleet(t, s, 20)
	if stored, errs := f.commit(ctx, 1); errs[7] != nil || stored[7].Outcome != states.Committed {
		t.Fatalf("%+v, %v", stored[7], errs[7])
	}
	claim := claim(t, s, normal3)
	c := fullCommit(claim, 1, "full")
	for _, sink := range states.Sinks() {
		c.Outbox[sink] = []states.Message{{ID: "m", Channel: "c", Payload: []byte("{}")}}
	}
	mustCommit(t, s, c, states.Committed, 1)
	ps := []states.Partition{normal3, {Lane: states.LaneNormal, Number: 4}, f.claims[0].Partition, f.claims[1].Partition}
	if _, err := s.Load(ctx, visitID("full"), visitID("apt-1"), visitID("none")); err != nil {
		t.Error(err)
	}
	if due, err := s.Due(ctx, ps, 10); err != nil || len(due.Due) != 1 {
		t.Errorf("due %+v, %v", due, err)
	}
	for _, sink := range states.Sinks() {
		if got := mustPending(t, s, normal3, sink, 0); len(got) != 1 {
			t.Errorf("%s: %v", sink, got)
		}
		s.Delivered(normal3, sink, 1)
	}
	await(t, "delivered entries to go", func() bool {
		backlog, err := s.Backlog(ctx, []states.Partition{normal3})
		return err == nil && reflect.DeepEqual(backlog, map[states.Sink]int64{"nats": 0, "pubnub": 0, "audit": 0, "ask": 0})
	})
	if ours, err := s.Renew(ctx, owner, ttl, ps); err != nil || len(ours) != 3 {
		t.Errorf("renewed %v, %v", ours, err)
	}
	if _, err := s.Members(ctx, "me", ttl); err != nil {
		t.Error(err)
	}
	if _, err := s.Pair(ctx, "dr-smith", "patient-4711"); err != nil {
		t.Error(err)
	}
	if _, err := s.WaitingRoom(ctx, "dr-smith"); err != nil {
		t.Error(err)
	}
	if _, err := s.ProviderLoad(ctx, "dr-smith"); err != nil {
		t.Error(err)
	}
	if _, err := s.Durability(ctx); err != nil {
		t.Error(err)
	}
	if err := s.Release(ctx, owner, ps); err != nil {
		t.Error(err)
	}
}

func oneSlot(t *testing.T, r *goredis.Client) {
	t.Helper()
	slots := map[int64]bool{}
	keys := r.Keys(t.Context(), "*").Val()
	for _, key := range keys {
		slots[r.ClusterKeySlot(t.Context(), key).Val()] = true
	}
	if len(keys) < 20 || len(slots) != 1 {
		t.Errorf("%d keys lie in %d slots, want one", len(keys), len(slots))
	}
}

func TestOpenRefusesARedisThatEvicts(t *testing.T) {
	server := redis.ForTest(t, redis.Options{Args: []string{"--maxmemory-policy", "allkeys-lru"}, AppendOnly: true, AppendFsync: "everysec"})
	o := Options{Addrs: []string{server.Addr()}, Organization: organization, Sealer: newSealer(t)}
	if s, err := Open(t.Context(), o); err == nil {
		_ = s.Close()
		t.Error("opened")
	}
	o.AllowEviction = true
	s, err := Open(t.Context(), o)
	if err != nil {
		t.Fatal(err)
	}
	defer s.Close()
	d, err := s.Durability(t.Context())
	if err != nil || d.Version == "" {
		t.Fatalf("%+v, %v", d, err)
	}
	d.Version = ""
	if want := (Durability{AppendOnly: true, AppendFsync: "everysec", Eviction: "allkeys-lru"}); d != want {
		t.Errorf("durability %+v, want %+v", d, want)
	}
}

func TestOpenRefusesNonsense(t *testing.T) {
	sealer := newSealer(t)
	for name, o := range map[string]Options{
		"no address":      {Organization: "clinic", Sealer: sealer},
		"no organization": {Addrs: []string{"127.0.0.1:1"}, Sealer: sealer},
		"braces":          {Addrs: []string{"127.0.0.1:1"}, Organization: "a}b", Sealer: sealer},
		"no sealer":       {Addrs: []string{"127.0.0.1:1"}, Organization: "clinic"},
		"nobody there":    {Addrs: []string{"127.0.0.1:1"}, Organization: "clinic", Sealer: sealer},
	} {
		ctx, cancel := context.WithTimeout(t.Context(), 5*time.Second)
		if s, err := Open(ctx, o); err == nil {
			_ = s.Close()
			t.Errorf("%s: opened", name)
		}
		cancel()
	}
}
