package store

import (
	"reflect"
	"testing"
	"time"

	goredis "github.com/redis/go-redis/v9"

	"consultd/states"
	"consultd/test/redis"
)

func newEntry(stream, seq, payload string) *goredis.XAddArgs {
	return &goredis.XAddArgs{Stream: stream, Values: []string{"s", seq, "p", payload}}
}

func acquire(t *testing.T, s *Store, who string, ttl time.Duration, ps ...states.Partition) map[states.Partition]states.Lease {
	t.Helper()
	leases, err := s.Acquire(t.Context(), who, ttl, ps)
	if err != nil {
		t.Fatal(err)
	}
	return leases
}

func renew(t *testing.T, s *Store, who string, ps ...states.Partition) []states.Partition {
	t.Helper()
	ours, err := s.Renew(t.Context(), who, ttl, ps)
	if err != nil {
		t.Fatal(err)
	}
	return ours
}

func TestLeaseHasOneOwner(t *testing.T) {
	server := redis.ForTest(t, redis.Options{})
	s := openAt(t, server.Addr())
	a, b, c := normal3, states.Partition{Lane: states.LaneNormal, Number: 4}, states.Partition{Lane: states.LaneEmergency, Number: 3}

	mine := acquire(t, s, "one", ttl, a, b)
	if len(mine) != 2 {
		t.Fatalf("acquired %v", mine)
	}
	theirs := acquire(t, s, "two", ttl, a, b, c)
	if _, ok := theirs[c]; !ok || len(theirs) != 1 {
		t.Fatalf("another acquired %v, want only %v", theirs, c)
	}
	if got := renew(t, s, "one", a, b, c); !reflect.DeepEqual(got, []states.Partition{a, b}) {
		t.Errorf("renewed %v", got)
	}
	if again := acquire(t, s, "one", ttl, a); again[a].Epoch <= mine[a].Epoch {
		t.Errorf("asking again gave epoch %d, held %d", again[a].Epoch, mine[a].Epoch)
	}
	if err := s.Release(t.Context(), "two", []states.Partition{a, c}); err != nil { // a is not its to give
		t.Fatal(err)
	}
	next := acquire(t, s, "three", ttl, a, c)
	if _, ok := next[c]; !ok || len(next) != 1 {
		t.Errorf("after the release a third acquired %v, want only %v", next, c)
	}
	if next[c].Epoch <= theirs[c].Epoch {
		t.Errorf("epoch went from %d to %d", theirs[c].Epoch, next[c].Epoch)
	}
	if got := renew(t, s, "two", c); got != nil {
		t.Errorf("renewed %v after giving it back", got)
	}
	if none := acquire(t, s, "one", ttl); len(none) != 0 {
		t.Errorf("asked for nothing, got %v", none)
	}
}

func TestLeaseExpiresOnRedisTime(t *testing.T) {
	server := redis.ForTest(t, redis.Options{})
	s := openAt(t, server.Addr())
	first := acquire(t, s, "one", 30*time.Millisecond, normal3)
	var second map[states.Partition]states.Lease
	await(t, "the lease to expire", func() bool {
		second = acquire(t, s, "two", 30*time.Millisecond, normal3)
		return len(second) == 1
	})
	if second[normal3].Epoch <= first[normal3].Epoch {
		t.Errorf("epoch went from %d to %d", first[normal3].Epoch, second[normal3].Epoch)
	}
	if got := renew(t, s, "one", normal3); got != nil {
		t.Errorf("renewed %v after another took it", got)
	}
	await(t, "the second lease to expire", func() bool {
		until, err := raw(t, server.Addr()).HGet(t.Context(), s.keys.partition(normal3), "until").Int64()
		return err == nil && time.Now().UnixMilli() > until
	})
	if got := renew(t, s, "two", normal3); got != nil {
		t.Errorf("renewed %v after it expired", got)
	}
	if third := acquire(t, s, "two", ttl, normal3); third[normal3].Epoch <= second[normal3].Epoch {
		t.Errorf("the same owner came back after the expiry with epoch %d, had %d", third[normal3].Epoch, second[normal3].Epoch)
	}
}

// TestLeaseEpochOutlivesTheData keeps an owner from before a total loss apart from one after it.
func TestLeaseEpochOutlivesTheData(t *testing.T) {
	server, s, claim := started(t, redis.Options{})
	if err := raw(t, server.Addr()).FlushAll(t.Context()).Err(); err != nil {
		t.Fatal(err)
	}
	lease := acquire(t, s, "two", ttl, normal3)[normal3]
	if lease.Epoch <= claim.Epoch {
		t.Errorf("epoch went from %d to %d", claim.Epoch, lease.Epoch)
	}
	if lease.Seq != 0 || lease.Commits != 0 || lease.RulesSeq != 0 {
		t.Errorf("an empty store remembers %+v", lease)
	}
	mustCommit(t, s, visitCommit(claim, 1, "apt-1", 1), states.Fenced, 0)
}

func TestLeaseTellsThePosition(t *testing.T) {
	_, s, claim := started(t, redis.Options{})
	mustCommit(t, s, &states.Commit{Claim: claim, Seq: 40, RulesSeq: 12}, states.Committed, 1)
	mustCommit(t, s, &states.Commit{Claim: claim, Seq: 41}, states.Committed, 2)
	got := acquire(t, s, owner, ttl, normal3)[normal3]
	if want := (states.Lease{Epoch: got.Epoch, Seq: 41, Commits: 2, RulesSeq: 12}); got != want {
		t.Errorf("lease %+v, want %+v", got, want)
	}
}

// TestStaleOwnerChangesNothing lets an owner sleep through the end of its lease and go on as if nothing had been (P10).
func TestStaleOwnerChangesNothing(t *testing.T) {
	server := redis.ForTest(t, redis.Options{})
	stale, fresh := openAt(t, server.Addr()), openAt(t, server.Addr())
	r := raw(t, server.Addr())
	old := acquire(t, stale, "stale", 30*time.Millisecond, normal3)[normal3]
	oldClaim := states.Claim{Partition: normal3, Epoch: old.Epoch}
	mustCommit(t, stale, visitCommit(oldClaim, 1, "apt-1", 1), states.Committed, 1)
	var taken states.Lease
	await(t, "the takeover", func() (ok bool) {
		taken, ok = acquire(t, fresh, "fresh", ttl, normal3)[normal3]
		return ok
	})
	if taken.Seq != 1 || taken.Commits != 1 {
		t.Errorf("the new owner was told %+v", taken)
	}
	newClaim := states.Claim{Partition: normal3, Epoch: taken.Epoch, Floor: taken.Commits}
	before := snapshot(t, r)
	for seq := uint64(1); seq < 20; seq++ {
		mustCommit(t, stale, visitCommit(oldClaim, seq, "apt-9", 1), states.Fenced, 0)
		mustCommit(t, stale, &states.Commit{Claim: oldClaim, Seq: seq, Fired: noShow("apt-1")}, states.Fenced, 0)
	}
	if err := stale.Release(t.Context(), "stale", []states.Partition{normal3}); err != nil {
		t.Fatal(err)
	}
	if !reflect.DeepEqual(before, snapshot(t, r)) {
		t.Error("the stale owner changed something")
	}
	// Sealed by another keyset, a record of the first owner would not open; the version alone decides here.
	mustCommit(t, fresh, visitCommit(newClaim, 2, "apt-1", 2), states.Committed, 2)
}

// TestAcquireFencesWhatIsStillOnItsWay keeps a commit of an abandoned holding from landing in the next one of the same
// owner, who would not know of it.
func TestAcquireFencesWhatIsStillOnItsWay(t *testing.T) {
	_, s, before := started(t, redis.Options{})
	after := claim(t, s, normal3)
	mustCommit(t, s, visitCommit(before, 1, "apt-1", 1), states.Fenced, 0)
	mustCommit(t, s, visitCommit(after, 1, "apt-1", 1), states.Committed, 1)
}

func TestLeaseRefusesNonsense(t *testing.T) {
	server := redis.ForTest(t, redis.Options{})
	s := openAt(t, server.Addr())
	if _, err := s.Acquire(t.Context(), "", ttl, []states.Partition{normal3}); err == nil {
		t.Error("acquired without a name")
	}
	if _, err := s.Acquire(t.Context(), "one", 0, []states.Partition{normal3}); err == nil {
		t.Error("acquired for no time")
	}
}

func TestMembersAreTheLiving(t *testing.T) {
	server := redis.ForTest(t, redis.Options{})
	s := openAt(t, server.Addr())
	members := func(self string, ttl time.Duration) []string {
		t.Helper()
		living, err := s.Members(t.Context(), self, ttl)
		if err != nil {
			t.Fatal(err)
		}
		return living
	}
	members("b", ttl)
	members("c", 30*time.Millisecond)
	if got := members("a", ttl); !reflect.DeepEqual(got, []string{"a", "b", "c"}) {
		t.Errorf("living %v", got)
	}
	await(t, "the silent one to be gone", func() bool {
		return reflect.DeepEqual(members("a", ttl), []string{"a", "b"})
	})
	if err := s.Leave(t.Context(), "b"); err != nil {
		t.Fatal(err)
	}
	if got := members("a", ttl); !reflect.DeepEqual(got, []string{"a"}) {
		t.Errorf("living %v", got)
	}
	if _, err := s.Members(t.Context(), "", ttl); err == nil {
		t.Error("a member without a name")
	}
}

func TestALaneIsBoundToTheFirstLogItNames(t *testing.T) {
	_, s, _ := started(t, redis.Options{})
	for _, step := range []struct {
		lane      states.Lane
		log, want string
	}{{states.LaneNormal, "a", "a"}, {states.LaneNormal, "b", "a"}, {states.LaneEmergency, "b", "b"}} {
		if bound, err := s.Bind(t.Context(), step.lane, step.log); err != nil || bound != step.want {
			t.Errorf("lane %s, log %s: bound to %q (%v), want %q", step.lane, step.log, bound, err, step.want)
		}
	}
}
