package store

import (
	"context"
	"errors"
	"fmt"
	"os"
	"reflect"
	"strings"
	"sync"
	"testing"
	"time"

	"consultd/states"
	"consultd/test/redis"
)

func noShow(appointment string) states.TimerID {
	return states.TimerID{Kind: "no-show", Record: visitID(appointment), Key: "dr-smith", Generation: 1}
}

// fullCommit is the first commit of a visit, with every kind of change in it.
func fullCommit(claim states.Claim, seq uint64, appointment string) *states.Commit {
	c := visitCommit(claim, seq, appointment, 1)
	c.RulesSeq = 5
	c.Decision.Timers = []states.TimerChange{{ID: noShow(appointment), Due: start.Add(500 * time.Microsecond)}}
	c.Decision.Places = []states.PlaceChange{{Provider: "dr-smith", Department: "cardiology", Appointment: appointment, Score: 2.5}}
	c.Decision.Load = []states.LoadChange{{Provider: "dr-smith", Delta: 1}}
	c.Decision.Pair = &states.PairChange{Provider: "dr-smith", Patient: "patient-4711", Appointment: appointment}
	return c
}

func dueIDs(t *testing.T, s *Store) []states.TimerID {
	t.Helper()
	due, err := s.Due(t.Context(), []states.Partition{normal3}, 100)
	if err != nil {
		t.Fatal(err)
	}
	var ids []states.TimerID
	for _, d := range due.Due {
		ids = append(ids, d.ID)
	}
	return ids
}

func TestCommitStoresTheWholeDecision(t *testing.T) {
	server, s, claim := started(t, redis.Options{})
	ctx := t.Context()
	c := fullCommit(claim, 7, "apt-1")
	mustCommit(t, s, c, states.Committed, 1)

	if got := mustLoad(t, s, visitID("apt-1")); !reflect.DeepEqual(got, c.Decision.Record) {
		t.Errorf("loaded\n%+v, stored\n%+v", got, c.Decision.Record)
	}
	if got, err := s.Pair(ctx, "dr-smith", "patient-4711"); got != "apt-1" || err != nil {
		t.Errorf("pair is %q, %v", got, err)
	}
	if got, err := s.WaitingRoom(ctx, "dr-smith"); !reflect.DeepEqual(got, []string{"apt-1"}) || err != nil {
		t.Errorf("waiting room is %v, %v", got, err)
	}
	if got, err := s.Queue(ctx, "cardiology"); !reflect.DeepEqual(got, []string{"apt-1"}) || err != nil {
		t.Errorf("queue is %v, %v", got, err)
	}
	if got, err := s.ProviderLoad(ctx, "dr-smith"); got != 1 || err != nil {
		t.Errorf("load is %d, %v", got, err)
	}
	due, err := s.Due(ctx, []states.Partition{normal3}, 10)
	if err != nil {
		t.Fatal(err)
	}
	if want := []states.DueTimer{{ID: noShow("apt-1"), Due: start.Add(time.Millisecond)}}; !reflect.DeepEqual(due.Due, want) {
		t.Errorf("due %+v, want %+v: rounded up, never early", due.Due, want)
	}
	want := []states.Pending{{Partition: normal3, Sink: states.SinkNATS, Entry: 1, Seq: 7, Messages: c.Outbox[states.SinkNATS]}}
	if got := mustPending(t, s, normal3, states.SinkNATS, 0); !reflect.DeepEqual(got, want) {
		t.Errorf("pending %+v, want %+v", got, want)
	}
	if left := raw(t, server.Addr()).PTTL(ctx, s.keys.record(visitID("apt-1"))).Val(); left > 0 {
		t.Errorf("a record that is not final goes in %v", left)
	}
	meta, err := raw(t, server.Addr()).HGetAll(ctx, s.keys.partition(normal3)).Result()
	if err != nil || meta["seq"] != "7" || meta["commits"] != "1" || meta["rules"] != "5" {
		t.Errorf("partition is %v, %v", meta, err)
	}
}

func TestCommitTakesBackWhatADecisionEnds(t *testing.T) {
	server, s, claim := started(t, redis.Options{})
	ctx := t.Context()
	mustCommit(t, s, fullCommit(claim, 7, "apt-1"), states.Committed, 1)

	c := visitCommit(claim, 8, "apt-1", 2)
	c.Decision.Timers = []states.TimerChange{{ID: noShow("apt-1")}}
	c.Decision.Places = []states.PlaceChange{{Provider: "dr-smith", Department: "cardiology", Appointment: "apt-1", Remove: true}}
	c.Decision.Load = []states.LoadChange{{Provider: "dr-smith", Delta: -1}}
	c.Decision.Pair = &states.PairChange{Provider: "dr-smith", Patient: "patient-4711", Appointment: "apt-1", Clear: true}
	c.Decision.Expire = true
	mustCommit(t, s, c, states.Committed, 2)

	r := raw(t, server.Addr())
	for _, key := range []string{s.keys.room("dr-smith"), s.keys.queue("cardiology"), s.keys.load(), s.keys.pairs(), s.keys.timers(normal3)} {
		if n, err := r.Exists(ctx, key).Result(); n != 0 || err != nil {
			t.Errorf("%s is still there (%v)", key, err)
		}
	}
	left, err := r.PTTL(ctx, s.keys.record(visitID("apt-1"))).Result()
	if err != nil || left <= 50*time.Minute || left > time.Hour {
		t.Errorf("a final record is kept for %v, %v; want an hour", left, err)
	}
	if rules, err := r.HGet(ctx, s.keys.partition(normal3), "rules").Result(); rules != "5" || err != nil {
		t.Errorf("rules position is %q, %v; a commit without one keeps it", rules, err)
	}
}

func TestCommitClearsOnlyThePairItMeans(t *testing.T) {
	_, s, claim := started(t, redis.Options{})
	mustCommit(t, s, fullCommit(claim, 1, "apt-2"), states.Committed, 1)
	c := visitCommit(claim, 2, "apt-1", 1)
	c.Decision.Pair = &states.PairChange{Provider: "dr-smith", Patient: "patient-4711", Appointment: "apt-1", Clear: true}
	mustCommit(t, s, c, states.Committed, 2)
	if got, err := s.Pair(t.Context(), "dr-smith", "patient-4711"); got != "apt-2" || err != nil {
		t.Errorf("pair is %q, %v; another visit's end must leave it", got, err)
	}
}

func TestCommitWithoutDecisionMovesThePosition(t *testing.T) {
	server, s, claim := started(t, redis.Options{})
	mustCommit(t, s, fullCommit(claim, 7, "apt-1"), states.Committed, 1)
	before := mustLoad(t, s, visitID("apt-1"))
	letter := []states.Message{{ID: "dead", Channel: "dead", Payload: []byte("{}")}}
	mustCommit(t, s, &states.Commit{
		Claim: claim, Seq: 9, RulesSeq: 8, Fired: noShow("apt-1"),
		Outbox: map[states.Sink][]states.Message{states.SinkAudit: letter},
	}, states.Committed, 2)
	if after := mustLoad(t, s, visitID("apt-1")); !reflect.DeepEqual(before, after) {
		t.Errorf("the record changed: %+v", after)
	}
	if ids := dueIDs(t, s); len(ids) != 0 {
		t.Errorf("the fired timer is still armed: %v", ids)
	}
	if got := mustPending(t, s, normal3, states.SinkAudit, 0); len(got) != 1 || got[0].Entry != 2 || got[0].Seq != 9 {
		t.Errorf("pending %+v", got)
	}
	meta := raw(t, server.Addr()).HGetAll(t.Context(), s.keys.partition(normal3)).Val()
	if meta["seq"] != "9" || meta["rules"] != "8" {
		t.Errorf("partition is %v", meta)
	}
}

func TestCommitOfNothingAsksWhetherAllIsWell(t *testing.T) {
	server, s, claim := started(t, redis.Options{})
	r := raw(t, server.Addr())
	mustCommit(t, s, &states.Commit{Claim: claim}, states.Replayed, 0)
	before := snapshot(t, r)
	mustCommit(t, s, &states.Commit{Claim: claim}, states.Replayed, 0)
	if after := snapshot(t, r); !reflect.DeepEqual(before, after) {
		t.Error("a question changed the store")
	}
}

func TestCommitDuplicateChangesNothingButThePosition(t *testing.T) {
	server, s, claim := started(t, redis.Options{})
	r := raw(t, server.Addr())
	first := fullCommit(claim, 7, "apt-1")
	mustCommit(t, s, first, states.Committed, 1)
	before := snapshot(t, r)

	again := fullCommit(claim, 8, "apt-1") // the same event once more, at a later position, decided on version 1
	again.Decision.Record.Version = 2
	again.Decision.Load[0].Delta = 5
	mustCommit(t, s, again, states.Duplicate, 2)
	after := snapshot(t, r)
	delete(before, s.keys.partition(normal3))
	delete(after, s.keys.partition(normal3))
	if !reflect.DeepEqual(before, after) {
		t.Error("a duplicate changed more than the position")
	}
	if seq := r.HGet(t.Context(), s.keys.partition(normal3), "seq").Val(); seq != "8" {
		t.Errorf("position is %s", seq)
	}
	again.Seq, again.Fired = 9, noShow("apt-1")
	mustCommit(t, s, again, states.Duplicate, 3)
	if ids := dueIDs(t, s); len(ids) != 0 {
		t.Errorf("a duplicate's fired timer is still armed: %v", ids)
	}
}

func TestCommitReplayChangesNothingButTheFiredTimer(t *testing.T) {
	server, s, claim := started(t, redis.Options{})
	r := raw(t, server.Addr())
	mustCommit(t, s, fullCommit(claim, 7, "apt-1"), states.Committed, 1)
	before := snapshot(t, r)
	for _, seq := range []uint64{7, 6, 1} {
		c := fullCommit(claim, seq, "apt-2")
		mustCommit(t, s, c, states.Replayed, 1)
	}
	if after := snapshot(t, r); !reflect.DeepEqual(before, after) {
		t.Error("a replay changed the store")
	}
	mustCommit(t, s, &states.Commit{Claim: claim, Seq: 7, Fired: noShow("apt-1")}, states.Replayed, 1)
	if ids := dueIDs(t, s); len(ids) != 0 {
		t.Errorf("a replay's fired timer is still armed: %v", ids)
	}
}

func TestCommitRemembersTheLast64Events(t *testing.T) {
	_, s, claim := started(t, redis.Options{})
	const events = 70
	commit := func(seq uint64, version int64, event int) *states.Commit {
		c := visitCommit(claim, seq, "apt-1", version)
		c.Event = eventID(fmt.Sprint(event))
		return c
	}
	for n := 1; n <= events; n++ {
		mustCommit(t, s, commit(uint64(n), int64(n), n), states.Committed, int64(n))
	}
	seq := uint64(events)
	for n := events; n > events-64; n-- {
		seq++
		mustCommit(t, s, commit(seq, events+1, n), states.Duplicate, int64(seq))
	}
	mustCommit(t, s, commit(seq+1, events+1, events-64), states.Committed, int64(seq+1))
}

func TestCommitTellsSimilarEventIDsApart(t *testing.T) {
	_, s, claim := started(t, redis.Options{})
	ids := []states.EventID{"a", "aa", "aaaaaaaaaaaaaaaa", "aaaaaaaaaaaaaaab", "baaaaaaaaaaaaaaa", " a", "bbbbbbbbbbbbbbbb"}
	for i, id := range ids {
		c := visitCommit(claim, uint64(i+1), "apt-1", int64(i+1))
		c.Event = id
		mustCommit(t, s, c, states.Committed, int64(i+1))
	}
}

// TestCommitAtOneVersionHasOneWinner lets 64 partitions, each sound in itself, change one record at once.
func TestCommitAtOneVersionHasOneWinner(t *testing.T) {
	_, s, _ := started(t, redis.Options{})
	const rivals = 64
	var ps []states.Partition
	for n := range rivals {
		ps = append(ps, states.Partition{Lane: states.LaneNormal, Number: 100 + n})
	}
	leases, err := s.Acquire(t.Context(), owner, ttl, ps)
	if err != nil || len(leases) != rivals {
		t.Fatalf("%d leases, %v", len(leases), err)
	}
	outcomes := make([]states.Outcome, rivals)
	var wg sync.WaitGroup
	for i, p := range ps {
		wg.Go(func() {
			c := visitCommit(states.Claim{Partition: p, Epoch: leases[p].Epoch}, 1, "apt-1", 1)
			c.Event = eventID(fmt.Sprint(i))
			stored, err := s.Commit(t.Context(), c)
			if err != nil {
				t.Error(err)
			}
			outcomes[i] = stored.Outcome
		})
	}
	wg.Wait()
	count := map[states.Outcome]int{}
	said := 0
	for i, p := range ps {
		count[outcomes[i]]++
		said += len(mustPending(t, s, p, states.SinkNATS, 0))
	}
	if count[states.Committed] != 1 || count[states.Conflict] != rivals-1 {
		t.Errorf("outcomes %v, want one committed and the rest conflicts", count)
	}
	if said != 1 {
		t.Errorf("%d outbox entries, want 1", said)
	}
	if got := mustLoad(t, s, visitID("apt-1")).Version; got != 1 {
		t.Errorf("version %d", got)
	}
}

func TestCommitIsFencedWithoutTheLease(t *testing.T) {
	server, s, claim := started(t, redis.Options{})
	r := raw(t, server.Addr())
	mustCommit(t, s, fullCommit(claim, 7, "apt-1"), states.Committed, 1)
	refused := func(why string, c *states.Commit) {
		t.Helper()
		before := snapshot(t, r)
		mustCommit(t, s, c, states.Fenced, 0)
		if !reflect.DeepEqual(before, snapshot(t, r)) {
			t.Errorf("%s: a fenced commit changed the store", why)
		}
	}
	for _, epoch := range []int64{claim.Epoch - 1, claim.Epoch + 1, 0} {
		c := visitCommit(claim, 8, "apt-1", 2)
		c.Epoch = epoch
		refused("another epoch", c)
	}
	elsewhere := visitCommit(claim, 8, "apt-1", 2)
	elsewhere.Partition.Number++
	refused("a partition never acquired", elsewhere)
	if err := s.Release(t.Context(), owner, []states.Partition{normal3}); err != nil {
		t.Fatal(err)
	}
	refused("released", visitCommit(claim, 8, "apt-1", 2))
	if err := r.FlushAll(t.Context()).Err(); err != nil {
		t.Fatal(err)
	}
	refused("emptied", visitCommit(claim, 8, "apt-1", 2))
}

// TestCommitNoticesARewoundStore gives the server an older copy of its data behind the owner's back (P12), and then
// repairs the loss as the owner would: by committing again what lies behind the position that the store remembers.
func TestCommitNoticesARewoundStore(t *testing.T) {
	server, s, claim := started(t, redis.Options{AppendOnly: true, AppendFsync: "always"})
	const kept, lost = 20, 15
	commit := func(n int) {
		t.Helper()
		c := fullCommit(claim, uint64(10*n), fmt.Sprintf("apt-%d", n))
		mustCommit(t, s, c, states.Committed, int64(n))
		claim.Floor = int64(n)
	}
	for n := 1; n <= kept; n++ {
		commit(n)
	}
	copied := t.TempDir()
	if err := os.CopyFS(copied, os.DirFS(server.Dir())); err != nil {
		t.Fatal(err)
	}
	for n := kept + 1; n <= kept+lost; n++ {
		commit(n)
	}
	whole := snapshot(t, raw(t, server.Addr()))

	server.Kill()
	restore(t, server.Dir(), copied)
	if err := server.Restart(t.Context(), false); err != nil {
		t.Fatal(err)
	}
	r := raw(t, server.Addr())
	rewound := snapshot(t, r)
	next := &states.Commit{Claim: claim, Seq: 1000}
	var stored states.Stored
	await(t, "an answer after the restart", func() (ok bool) {
		var err error
		stored, err = s.Commit(t.Context(), next)
		return err == nil
	})
	if stored.Outcome != states.Rewound || stored.Entry != kept {
		t.Fatalf("answer %+v, want rewound to %d", stored, kept)
	}
	if !reflect.DeepEqual(rewound, snapshot(t, r)) {
		t.Error("the refused commit changed the store")
	}

	leases, err := s.Acquire(t.Context(), owner, ttl, []states.Partition{normal3})
	if err != nil {
		t.Fatal(err)
	}
	lease := leases[normal3]
	if lease.Seq != kept*10 || lease.Commits != kept || lease.RulesSeq != 5 {
		t.Fatalf("the store remembers %+v", lease)
	}
	claim = states.Claim{Partition: normal3, Epoch: lease.Epoch, Floor: lease.Commits}
	for n := kept + 1; n <= kept+lost; n++ {
		commit(n)
	}
	repaired := snapshot(t, r)
	for key := range whole {
		switch {
		case key == s.keys.partition(normal3): // holds the new lease
		case strings.Contains(key, "}:visit:") || strings.Contains(key, ":outbox:"): // sealed anew; compared below
		case whole[key] != repaired[key]:
			t.Errorf("%s differs after the repair", key)
		}
	}
	if len(whole) != len(repaired) {
		t.Errorf("%d keys after the repair, %d before the loss", len(repaired), len(whole))
	}
	if got := mustPending(t, s, normal3, states.SinkNATS, 0); len(got) != kept+lost || got[kept+lost-1].Seq != (kept+lost)*10 {
		t.Errorf("%d outbox entries, want %d", len(got), kept+lost)
	}
	for n := 1; n <= kept+lost; n++ {
		if got := mustLoad(t, s, visitID(fmt.Sprintf("apt-%d", n))); got.Version != 1 {
			t.Errorf("visit %d has version %d", n, got.Version)
		}
	}
}

func restore(t *testing.T, dir, copied string) {
	t.Helper()
	if err := os.RemoveAll(dir); err != nil {
		t.Fatal(err)
	}
	if err := os.CopyFS(dir, os.DirFS(copied)); err != nil {
		t.Fatal(err)
	}
}

// fleet is many partitions of one owner, each with one visit, for commits that travel together.
type fleet struct {
	s      *Store
	claims []states.Claim
}

func newFleet(tb testing.TB, s *Store, size int) fleet {
	tb.Helper()
	var ps []states.Partition
	for n := range size {
		ps = append(ps, states.Partition{Lane: states.LaneEmergency, Number: n})
	}
	leases, err := s.Acquire(tb.Context(), owner, ttl, ps)
	if err != nil || len(leases) != size {
		tb.Fatalf("%d leases, %v", len(leases), err)
	}
	f := fleet{s: s}
	for _, p := range ps {
		f.claims = append(f.claims, states.Claim{Partition: p, Epoch: leases[p].Epoch})
	}
	return f
}

// commit commits one version of every visit at once.
func (f fleet) commit(ctx context.Context, version int64) (stored []states.Stored, errs []error) {
	stored, errs = make([]states.Stored, len(f.claims)), make([]error, len(f.claims))
	var wg sync.WaitGroup
	for i, claim := range f.claims {
		wg.Go(func() {
			stored[i], errs[i] = f.s.Commit(ctx, visitCommit(claim, uint64(version), fmt.Sprintf("apt-%d", i), version))
		})
	}
	wg.Wait()
	return stored, errs
}

func TestCommitReloadsAForgottenScript(t *testing.T) {
	server, s, _ := started(t, redis.Options{})
	f := newFleet(t, s, 50)
	for version := int64(1); version <= 3; version++ {
		if err := raw(t, server.Addr()).ScriptFlush(t.Context()).Err(); err != nil {
			t.Fatal(err)
		}
		stored, errs := f.commit(t.Context(), version)
		for i := range stored {
			if errs[i] != nil || stored[i].Outcome != states.Committed || stored[i].Entry != version {
				t.Fatalf("version %d of visit %d: %+v, %v", version, i, stored[i], errs[i])
			}
		}
	}
}

// TestCommitIsSafeToRepeatAfterALostAnswer cuts the connection after Redis has executed a batch and before any answer of
// it arrives (P11).
func TestCommitIsSafeToRepeatAfterALostAnswer(t *testing.T) {
	server := redis.ForTest(t, redis.Options{})
	p := startProxy(t, server.Addr())
	s := openAt(t, p.addr())
	f := newFleet(t, s, 40)
	if _, errs := f.commit(t.Context(), 1); errors.Join(errs...) != nil {
		t.Fatal(errors.Join(errs...))
	}
	const last = 10
	unanswered := 0
	for version := int64(2); version <= last; version++ {
		p.armed.Store(true)
		stored, errs := f.commit(t.Context(), version)
		again, errsAgain := f.commit(t.Context(), version)
		for i := range stored {
			if errsAgain[i] != nil {
				t.Fatalf("version %d of visit %d, repeated: %v", version, i, errsAgain[i])
			}
			if again[i] != (states.Stored{Outcome: states.Replayed, Entry: version}) && errs[i] == nil {
				t.Errorf("version %d of visit %d: answered %+v, repeated %+v", version, i, stored[i], again[i])
			}
			if errs[i] == nil {
				if stored[i].Outcome != states.Committed {
					t.Errorf("version %d of visit %d: %+v: the client repeated it behind the caller's back", version, i, stored[i])
				}
				continue
			}
			unanswered++
			var away *Unavailable
			if !errors.As(errs[i], &away) || !away.Temporary() {
				t.Errorf("version %d of visit %d: %v is not Unavailable", version, i, errs[i])
			}
			if o := again[i].Outcome; (o != states.Replayed && o != states.Committed) || again[i].Entry != version {
				t.Errorf("version %d of visit %d, repeated: %+v", version, i, again[i])
			}
		}
	}
	if p.cuts.Load() != last-1 || unanswered < last-1 {
		t.Errorf("%d cuts left %d commits unanswered; the test has tested nothing", p.cuts.Load(), unanswered)
	}
	for i, claim := range f.claims {
		if got := mustLoad(t, s, visitID(fmt.Sprintf("apt-%d", i))).Version; got != last {
			t.Errorf("visit %d has version %d", i, got)
		}
		if got := mustPending(t, s, claim.Partition, states.SinkNATS, 0); len(got) != last {
			t.Errorf("visit %d has %d outbox entries, want %d", i, len(got), last)
		}
	}
}

func TestCommitComesBackWithRedis(t *testing.T) {
	server := redis.ForTest(t, redis.Options{AppendOnly: true, AppendFsync: "always"})
	s := openAt(t, server.Addr(), func(o *Options) { o.Timeout = 200 * time.Millisecond; o.Batch = 4 })
	f := newFleet(t, s, 16)
	if _, errs := f.commit(t.Context(), 1); errors.Join(errs...) != nil {
		t.Fatal(errors.Join(errs...))
	}
	server.Kill()
	_, errs := f.commit(t.Context(), 2)
	for i, err := range errs {
		var away *Unavailable
		if !errors.As(err, &away) {
			t.Errorf("visit %d: %v is not Unavailable", i, err)
		}
	}
	if err := s.Ping(t.Context()); err == nil {
		t.Error("a killed server answers a ping")
	}
	if err := server.Restart(t.Context(), false); err != nil {
		t.Fatal(err)
	}
	await(t, "commits after the restart", func() bool {
		stored, errs := f.commit(t.Context(), 2)
		for _, st := range stored {
			if st.Entry != 2 && errors.Join(errs...) == nil {
				t.Fatalf("stored %+v", st)
			}
		}
		return errors.Join(errs...) == nil
	})
}

func TestCommitStopsWaitingWithItsContext(t *testing.T) {
	server, s, claim := started(t, redis.Options{})
	if err := server.Pause(); err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithTimeout(t.Context(), 20*time.Millisecond)
	defer cancel()
	if _, err := s.Commit(ctx, visitCommit(claim, 1, "apt-1", 1)); !errors.Is(err, context.DeadlineExceeded) {
		t.Errorf("err = %v", err)
	}
	if err := server.Resume(); err != nil {
		t.Fatal(err)
	}
	mustCommit(t, s, visitCommit(claim, 1, "apt-1", 1), states.Replayed, 1)
}

func TestCommitAfterCloseIsRefused(t *testing.T) {
	_, s, claim := started(t, redis.Options{})
	if err := s.Close(); err != nil {
		t.Fatal(err)
	}
	for range 300 { // more than the queue holds: none may wait for ever
		if _, err := s.Commit(t.Context(), visitCommit(claim, 1, "apt-1", 1)); !errors.Is(err, ErrClosed) {
			t.Fatalf("err = %v", err)
		}
	}
}

func TestCommitRefusesNonsenseBeforeSendingIt(t *testing.T) {
	server, s, claim := started(t, redis.Options{})
	before := snapshot(t, raw(t, server.Addr()))
	for name, spoil := range map[string]func(*states.Commit){
		"no position":     func(c *states.Commit) { c.Seq = 0 },
		"no event":        func(c *states.Commit) { c.Event = "" },
		"comma in event":  func(c *states.Commit) { c.Event = "a,b" },
		"no version":      func(c *states.Commit) { c.Decision.Record.Version = 0 },
		"no record":       func(c *states.Commit) { c.Decision.Record.ID = states.RecordID{} },
		"negative keep":   func(c *states.Commit) { c.Keep = -1 },
		"unknown sink":    func(c *states.Commit) { c.Outbox["fax"] = c.Outbox[states.SinkNATS] },
		"score not given": func(c *states.Commit) { c.Decision.Places[0].Score = nan() },
	} {
		c := fullCommit(claim, 1, "apt-1")
		spoil(c)
		var away *Unavailable
		if _, err := s.Commit(t.Context(), c); err == nil || errors.As(err, &away) {
			t.Errorf("%s: err = %v", name, err)
		}
	}
	if !reflect.DeepEqual(before, snapshot(t, raw(t, server.Addr()))) {
		t.Error("something was stored")
	}
}

func nan() float64 {
	zero := 0.0
	return zero / zero
}
