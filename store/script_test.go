package store

import (
	"reflect"
	"testing"

	goredis "github.com/redis/go-redis/v9"

	"consultd/test/redis"
)

// scriptArgs are the fixed arguments of commit.lua, by name.
type scriptArgs struct {
	epoch, floor, seq, rules, fired, expected, event, sealed, keep string
	changes                                                        []any
}

func run(t *testing.T, r *goredis.Client, a scriptArgs) []any {
	t.Helper()
	keys := []string{"{o}:partition:n:0", "{o}:visit:a", "{o}:timers:n:0", "{o}:outbox:n:0:nats", "{o}:outbox:n:0:audit"}
	args := append([]any{a.epoch, a.floor, a.seq, a.rules, a.fired, a.expected, a.event, a.sealed, a.keep}, a.changes...)
	answer, err := commitScript.EvalSha(t.Context(), r, keys, args...).Slice()
	if err != nil {
		t.Fatal(err)
	}
	return answer
}

// TestCommitScriptChecksInOrder gives commit.lua calls that fail several checks at once: the first one answers, and
// nothing is written.
func TestCommitScriptChecksInOrder(t *testing.T) {
	r := raw(t, redis.ForTest(t, redis.Options{}).Addr())
	ctx := t.Context()
	if err := commitScript.Load(ctx, r).Err(); err != nil {
		t.Fatal(err)
	}
	r.HSet(ctx, "{o}:partition:n:0", "owner", "me", "epoch", "7", "seq", "100", "commits", "10")
	r.HSet(ctx, "{o}:visit:a", "v", "3", "r", "sealed", "d", "eeeeeeeeeeeeeee1,eeeeeeeeeeeeeee0")
	before := snapshot(t, r)
	wrong := scriptArgs{
		epoch: "6", floor: "11", seq: "100", rules: "50", expected: "2", event: "eeeeeeeeeeeeeee0", sealed: "new", keep: "1000",
		changes: []any{"say", 4, "100", "message", "arm", 3, "timer", "1"},
	}
	for _, step := range []struct {
		want    []any
		correct func(*scriptArgs)
	}{
		{[]any{"fenced", int64(0)}, func(a *scriptArgs) { a.epoch = "7" }},
		{[]any{"rewound", int64(10)}, func(a *scriptArgs) { a.floor = "10" }},
		{[]any{"replayed", int64(10)}, func(a *scriptArgs) { a.seq = "101"; a.event = "eeeeeeeeeeeeeee2" }},
		{[]any{"conflict", int64(10)}, func(a *scriptArgs) { a.event = "eeeeeeeeeeeeeee0" }},
	} {
		if got := run(t, r, wrong); !reflect.DeepEqual(got, step.want) {
			t.Errorf("answer %v, want %v", got, step.want)
		}
		if after := snapshot(t, r); !reflect.DeepEqual(before, after) {
			t.Errorf("%v wrote something", step.want)
		}
		step.correct(&wrong)
	}
	// A duplicate is recognised before its version is looked at: it was decided on an older record or a newer one.
	if got := run(t, r, wrong); !reflect.DeepEqual(got, []any{"duplicate", int64(11)}) {
		t.Errorf("answer %v, want duplicate", got)
	}
	if n := r.Exists(ctx, "{o}:outbox:n:0:nats", "{o}:timers:n:0").Val(); n != 0 {
		t.Error("a duplicate made outbox entries or timers")
	}
	if ttl := r.PTTL(ctx, "{o}:visit:a").Val(); ttl > 0 {
		t.Error("a duplicate set the record's expiry")
	}
}

func TestCommitScriptNumbersOutboxesByCommit(t *testing.T) {
	r := raw(t, redis.ForTest(t, redis.Options{}).Addr())
	ctx := t.Context()
	if err := commitScript.Load(ctx, r).Err(); err != nil {
		t.Fatal(err)
	}
	const commits, seq = "900719925474099", "9007199254740990" // beyond what Lua prints without an exponent
	r.HSet(ctx, "{o}:partition:n:0", "owner", "me", "epoch", "7", "seq", "100", "commits", commits)
	a := scriptArgs{
		epoch: "7", floor: commits, seq: seq, rules: "0", keep: "0",
		changes: []any{"say", 4, seq, "one", "say", 5, seq, "two"},
	}
	if got := run(t, r, a); !reflect.DeepEqual(got, []any{"committed", int64(900719925474100)}) {
		t.Fatalf("answer %v", got)
	}
	for _, stream := range []string{"{o}:outbox:n:0:nats", "{o}:outbox:n:0:audit"} {
		entries := r.XRange(ctx, stream, "-", "+").Val()
		if len(entries) != 1 || entries[0].ID != "900719925474100-0" || entries[0].Values["s"] != seq {
			t.Errorf("%s holds %v", stream, entries)
		}
	}
	if got := r.HGetAll(ctx, "{o}:partition:n:0").Val(); got["seq"] != seq || got["commits"] != "900719925474100" || got["rules"] != "" {
		t.Errorf("partition is %v", got)
	}
}

// TestCommitScriptKeepsATimerArmedByTheDecisionItFired is the one order of writes that matters.
func TestCommitScriptKeepsATimerArmedByTheDecisionItFired(t *testing.T) {
	r := raw(t, redis.ForTest(t, redis.Options{}).Addr())
	ctx := t.Context()
	if err := commitScript.Load(ctx, r).Err(); err != nil {
		t.Fatal(err)
	}
	r.HSet(ctx, "{o}:partition:n:0", "owner", "me", "epoch", "7")
	r.ZAdd(ctx, "{o}:timers:n:0", goredis.Z{Member: "t1", Score: 1}, goredis.Z{Member: "t2", Score: 2})
	a := scriptArgs{
		epoch: "7", floor: "0", seq: "1", rules: "0", fired: "t1", keep: "0",
		changes: []any{"arm", 3, "t1", "5", "disarm", 3, "t2", ""},
	}
	run(t, r, a)
	if got := r.ZRangeWithScores(ctx, "{o}:timers:n:0", 0, -1).Val(); !reflect.DeepEqual(got, []goredis.Z{{Member: "t1", Score: 5}}) {
		t.Errorf("timers are %v", got)
	}
}
