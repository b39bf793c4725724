package store

import (
	"fmt"
	"testing"
	"time"

	"consultd/states"
	"consultd/test/redis"
)

func entries(ps []states.Pending) (numbers []int64) {
	for _, p := range ps {
		numbers = append(numbers, p.Entry)
	}
	return numbers
}

// fill commits n visits and returns the claim for the next.
func fill(t *testing.T, s *Store, claim states.Claim, from, n int) states.Claim {
	t.Helper()
	for i := from; i < from+n; i++ {
		mustCommit(t, s, visitCommit(claim, uint64(i), fmt.Sprintf("apt-%d", i), 1), states.Committed, claim.Floor+1)
		claim.Floor++
	}
	return claim
}

func TestOutboxIsReadInOrderFromAnEntry(t *testing.T) {
	_, s, claim := started(t, redis.Options{})
	fill(t, s, claim, 1, 12) // past 9, so that numbers are compared as numbers
	pending, err := s.Pending(t.Context(), normal3, states.SinkNATS, 8, 3)
	if err != nil {
		t.Fatal(err)
	}
	if got := fmt.Sprint(entries(pending)); got != "[9 10 11]" {
		t.Errorf("pending %s", got)
	}
	if got := mustPending(t, s, normal3, states.SinkPubNub, 0); len(got) != 0 {
		t.Errorf("another sink has %v", got)
	}
}

func TestDeliveredEntriesGo(t *testing.T) {
	_, s, claim := started(t, redis.Options{})
	fill(t, s, claim, 1, 5)
	for _, entry := range []int64{1, 2, 4, 99} {
		s.Delivered(normal3, states.SinkNATS, entry)
	}
	s.Delivered(normal3, states.SinkAudit, 3) // another sink's entry of the same number
	await(t, "delivered entries to go", func() bool {
		return fmt.Sprint(entries(mustPending(t, s, normal3, states.SinkNATS, 0))) == "[3 5]"
	})
	backlog, err := s.Backlog(t.Context(), []states.Partition{normal3, {Lane: states.LaneNormal, Number: 4}})
	if err != nil || backlog[states.SinkNATS] != 2 || backlog[states.SinkAudit] != 0 {
		t.Errorf("backlog %v, %v", backlog, err)
	}
}

func TestDeliveredIsRememberedUntilClose(t *testing.T) {
	server := redis.ForTest(t, redis.Options{})
	s, onlooker := openAt(t, server.Addr()), openAt(t, server.Addr())
	const n = deleteMost + 10
	fill(t, s, claim(t, s, normal3), 1, n)
	for entry := int64(1); entry <= n; entry++ {
		s.Delivered(normal3, states.SinkNATS, entry)
	}
	if err := s.Close(); err != nil {
		t.Fatal(err)
	}
	backlog, err := onlooker.Backlog(t.Context(), []states.Partition{normal3})
	if err != nil || backlog[states.SinkNATS] != 0 {
		t.Errorf("backlog %v, %v", backlog, err)
	}
}

func TestDeliveredWaitsForRedisToComeBack(t *testing.T) {
	server := redis.ForTest(t, redis.Options{AppendOnly: true, AppendFsync: "always"})
	s := openAt(t, server.Addr(), func(o *Options) { o.Timeout = 200 * time.Millisecond })
	fill(t, s, claim(t, s, normal3), 1, 3)
	server.Kill()
	began := time.Now()
	s.Delivered(normal3, states.SinkNATS, 1)
	s.Delivered(normal3, states.SinkNATS, 2)
	if took := time.Since(began); took > 50*time.Millisecond {
		t.Errorf("the relay waited %v", took)
	}
	if err := s.Ping(t.Context()); err == nil {
		t.Fatal("the server is not down")
	}
	if err := server.Restart(t.Context(), false); err != nil {
		t.Fatal(err)
	}
	await(t, "delivered entries to go", func() bool {
		pending, err := s.Pending(t.Context(), normal3, states.SinkNATS, 0, 10)
		return err == nil && fmt.Sprint(entries(pending)) == "[3]"
	})
}

// byHand replaces the store's deleter by one that works only when the test tells it to.
func byHand(t *testing.T, s *Store) *deleter {
	t.Helper()
	s.deleter.close()
	d := newDeleter(s.client, s.keys, s.log, time.Second)
	d.epochs = s.deleter.epochs
	s.deleter = d
	t.Cleanup(func() { go d.run() }) // which Close, called after this, waits for
	return d
}

// TestDeliveredIsRemovedBeforeTheRelease spares the next holder from delivering again.
func TestDeliveredIsRemovedBeforeTheRelease(t *testing.T) {
	_, s, claim := started(t, redis.Options{})
	fill(t, s, claim, 1, 3)
	byHand(t, s)
	for entry := int64(1); entry <= 3; entry++ {
		s.Delivered(normal3, states.SinkNATS, entry)
	}
	if err := s.Release(t.Context(), owner, []states.Partition{normal3}); err != nil {
		t.Fatal(err)
	}
	if got := mustPending(t, s, normal3, states.SinkNATS, 0); len(got) != 0 {
		t.Errorf("pending %v", entries(got))
	}
}

func TestDeliveredIsKeptWhileRedisIsAway(t *testing.T) {
	server, s, claim := started(t, redis.Options{AppendOnly: true, AppendFsync: "always"})
	fill(t, s, claim, 1, 3)
	d := byHand(t, s)
	server.Kill()
	s.Delivered(normal3, states.SinkNATS, 1)
	if err := d.flush(t.Context()); err == nil {
		t.Fatal("removed without a server")
	}
	s.Delivered(normal3, states.SinkNATS, 2)
	if err := server.Restart(t.Context(), false); err != nil {
		t.Fatal(err)
	}
	await(t, "a flush to succeed", func() bool { return d.flush(t.Context()) == nil })
	if got := fmt.Sprint(entries(mustPending(t, s, normal3, states.SinkNATS, 0))); got != "[3]" {
		t.Errorf("pending %s", got)
	}
}

// TestDeliveredOfAFormerHoldingIsForgotten keeps a number from before a loss away from the entry that has it afterwards.
func TestDeliveredOfAFormerHoldingIsForgotten(t *testing.T) {
	server := redis.ForTest(t, redis.Options{})
	s := openAt(t, server.Addr(), func(o *Options) { o.Timeout = 200 * time.Millisecond })
	fill(t, s, claim(t, s, normal3), 1, 3)
	server.Kill()
	s.Delivered(normal3, states.SinkNATS, 2)
	if err := server.Restart(t.Context(), true); err != nil { // empty
		t.Fatal(err)
	}
	leases, err := s.Acquire(t.Context(), owner, ttl, []states.Partition{normal3})
	if err != nil {
		t.Fatal(err)
	}
	next := states.Claim{Partition: normal3, Epoch: leases[normal3].Epoch}
	fill(t, s, next, 10, 3)
	s.Delivered(normal3, states.SinkNATS, 3)
	await(t, "the later delivery to be noted", func() bool {
		return len(mustPending(t, s, normal3, states.SinkNATS, 2)) == 0
	})
	if got := fmt.Sprint(entries(mustPending(t, s, normal3, states.SinkNATS, 0))); got != "[1 2]" {
		t.Errorf("pending %s", got)
	}
}
