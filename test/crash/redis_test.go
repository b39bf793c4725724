package crash_test

import (
	"context"
	"encoding/json"
	"fmt"
	"maps"
	"os"
	"path/filepath"
	"strings"
	"syscall"
	"testing"
	"time"

	goredis "github.com/redis/go-redis/v9"

	"consultd/handlers/nats"
	"consultd/states"
	"consultd/test/clinic"
	"consultd/test/redis"
)

// crowd lets n visits go from check-in to their notes over NATS, and as many arrive and stay in the waiting room.
func (p *people) crowd(n int) {
	p.t.Helper()
	for range n {
		p.newVisit(p.nats).whole()
		stays := p.newVisit(p.nats)
		stays.checkIn()
		stays.ready()
	}
}

// P10: an owner that stood still for longer than its lease wakes up, with decisions in hand, and changes nothing any more.
func TestP10_AStalledOwnerChangesNothing(t *testing.T) {
	t.Parallel()
	c := slowly(t, clinic.Options{WithoutPubNub: true})
	stalls, other := c.Spawn(), c.Spawn()
	o, p := observe(t, c), arrive(t, c)
	partitions := float64(c.Config.Partitions.Normal + c.Config.Partitions.Emergency)
	owned := func(of *clinic.Process) float64 { return metric(t, of.OpsURL, "consultd_partitions_owned") }
	c.Eventually("two owners", func() (bool, string) {
		return owned(stalls) > 0 && owned(other) > 0 && owned(stalls)+owned(other) == partitions, "not yet"
	})
	for range 2 {
		p.crowd(4)
		if err := c.Redis.Pause(); err != nil { // so that it stops with entries in hand
			t.Fatal(err)
		}
		p.crowd(4)
		stalls.Signal(syscall.SIGSTOP)
		if err := c.Redis.Resume(); err != nil {
			t.Fatal(err)
		}
		p.crowd(3)
		c.Eventually("the other one to own everything", func() (bool, string) { return owned(other) == partitions, "not yet" })
		p.crowd(3)
		o.decided()
		stalls.Signal(syscall.SIGCONT)
		p.crowd(3)
		c.Eventually("the stalled one to notice", func() (bool, string) {
			return owned(stalls) > 0 && owned(stalls)+owned(other) == partitions, "not yet"
		})
	}
	o.verify()
	if metric(t, stalls.OpsURL, "consultd_commits_total", `"fenced"`) == 0 {
		t.Error("P10: no decision of the stalled replica was fenced off")
	}
}

// P11: Redis executes, the connection breaks before the answer. The repeat finds the entry done, and nothing is said twice
// or left unsaid.
func TestP11_AConnectionCutAfterRedisExecuted(t *testing.T) {
	t.Parallel()
	c := slowly(t, clinic.Options{Wire: true})
	d := c.Run()
	o, p := observe(t, c), arrive(t, c)
	c.Wire.CutAnswers("outbox:", 4)
	p.crowd(12)
	p.raise(p.nats, "cardiology")
	o.decided()
	c.Wire.CutAnswers("", 0)
	o.verify()
	if c.Wire.Cuts() < 5 {
		t.Errorf("only %d answers were lost: nothing was tested", c.Wire.Cuts())
	}
	if n := metric(t, d.OpsURL, "consultd_commits_total", "replayed"); n == 0 {
		t.Error("no commit was met again: no answer of a commit was lost")
	}
	if n := metric(t, d.OpsURL, "consultd_version_conflicts_total"); n != 0 {
		t.Errorf("%v version conflicts", n)
	}
}

// P12: Redis fails over to a replica that lacks writes which had been confirmed. Everything that is missing comes again out
// of the log, also where nothing new happens.
func TestP12_AReplicaThatLacksWritesIsPromoted(t *testing.T) {
	t.Parallel()
	c := slowly(t, clinic.Options{Wire: true})
	host, port, _ := strings.Cut(c.Redis.Addr(), ":")
	replica := redis.ForTest(t, redis.Options{Args: []string{"--replicaof", host + " " + port}})
	direct := goredis.NewClient(&goredis.Options{Addr: replica.Addr()})
	t.Cleanup(func() { _ = direct.Close() })
	c.Eventually("a replica in step", func() (bool, string) {
		info := direct.Info(t.Context(), "replication").Val()
		return strings.Contains(info, "master_link_status:up"), info
	})
	d := c.Run()
	o, p := observe(t, c), arrive(t, c)
	p.crowd(5)
	o.decided()
	if err := direct.Do(t.Context(), "REPLICAOF", "NO", "ONE").Err(); err != nil { // from here on it lacks everything
		t.Fatal(err)
	}
	before := o.entryCount()
	p.crowd(20)
	p.raise(p.nats, "cardiology")
	o.settle()
	c.Wire.Lead(replica.Addr())
	c.Redis.Kill()
	o.look(replica.Addr())
	o.verify()
	t.Logf("%d decisions were lost", o.entryCount()-before)
	p.crowd(5)
	o.verify()
	noticed := metric(t, d.OpsURL, "consultd_commits_total", "rewound") + metric(t, d.OpsURL, "consultd_leases_lost_total")
	if noticed == 0 {
		t.Error("no partition noticed that writes were lost: nothing was tested")
	}
}

// P12 again: Redis itself comes back without the end of its append-only file, as after a crash with appendfsync everysec.
func TestP12_RedisComesBackWithoutItsLastSecond(t *testing.T) {
	t.Parallel()
	c := slowly(t, clinic.Options{Redis: redis.Options{AppendOnly: true, AppendFsync: "everysec"}})
	c.Run()
	o, p := observe(t, c), arrive(t, c)
	for _, lost := range []int64{10_001, 40_007} {
		p.crowd(10)
		p.raise(p.nats, "cardiology")
		o.settle()
		c.Redis.Kill()
		cutTail(t, c.Redis.Dir(), lost)
		p.crowd(5) // the log goes on taking check-ins
		restart(t, c, false)
		o.verify()
	}
}

func cutTail(t *testing.T, dir string, bytes int64) {
	t.Helper()
	files, err := filepath.Glob(filepath.Join(dir, "appendonlydir", "*.incr.aof"))
	if err != nil || len(files) != 1 {
		t.Fatalf("append-only files %v: %v", files, err)
	}
	info, err := os.Stat(files[0])
	if err != nil {
		t.Fatal(err)
	}
	if info.Size() < bytes {
		t.Fatalf("the append-only file has %d bytes only", info.Size())
	}
	if err := os.Truncate(files[0], info.Size()-bytes); err != nil {
		t.Fatal(err)
	}
}

func restart(t *testing.T, c *clinic.Clinic, empty bool) {
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), time.Minute)
	defer cancel()
	if err := c.Redis.Restart(ctx, empty); err != nil {
		t.Fatal(err)
	}
}

// P13: Redis loses everything, under a running daemon, under a killed one, and by a restart without a file. Each time the
// log makes the same state of it, timers and places included, and what was known to be delivered is not said again.
func TestP13_TotalRedisLossHealsFromTheLog(t *testing.T) {
	t.Parallel()
	c := slowly(t, clinic.Options{})
	d := c.Spawn()
	o, p := observe(t, c), arrive(t, c)
	flush := func() {
		if err := o.redis.FlushAll(t.Context()).Err(); err != nil {
			t.Fatal(err)
		}
	}
	p.crowd(8)
	p.raise(p.nats, "cardiology")
	for _, loss := range []struct {
		name   string
		happen func()
	}{
		{"while the daemon runs", flush},
		{"while the daemon is down", func() { d.Kill(); flush(); d = c.Spawn() }},
		{"while it is restarted", func() { restart(t, c, true) }},
		{"while messages come", func() { p.crowd(3); flush(); p.crowd(3) }},
	} {
		o.settle()
		o.marked()
		before, said := o.snapshot(), len(o.spoken())
		entries := o.entryCount()
		loss.happen()
		o.verify()
		if o.entryCount() > entries {
			continue
		}
		if after := o.snapshot(); !maps.Equal(before, after) {
			t.Errorf("%s: the state is\n%v\nand was\n%v", loss.name, after, before)
		}
		if again := len(o.spoken()) - said; again > 0 {
			t.Errorf("%s: %d messages were said on PubNub again although their delivery had been marked", loss.name, again)
		}
	}
}

// marked waits until the delivery of everything said so far is marked outside Redis.
func (o *observer) marked() {
	o.t.Helper()
	kv, err := o.client.JS.KeyValue(o.t.Context(), nats.StateBucket)
	if err != nil {
		o.t.Fatal(err)
	}
	o.c.Eventually("the delivery marks", func() (bool, string) {
		keys, err := kv.Keys(o.t.Context())
		if err != nil {
			return false, err.Error()
		}
		marks := map[string]map[states.Sink]uint64{}
		for _, k := range keys {
			if e, err := kv.Get(o.t.Context(), k); err == nil && strings.HasPrefix(k, "marks.") {
				var m map[states.Sink]uint64
				if err := json.Unmarshal(e.Value(), &m); err != nil {
					return false, err.Error()
				}
				marks[k[strings.LastIndex(k, ".")+1:]] = m
			}
		}
		for lane, f := range o.folds {
			for _, s := range f.said {
				if at := marks[fmt.Sprint(lane, s.partition)][s.sink]; at < s.seq {
					return false, fmt.Sprintf("partition %s%d is marked %d of %d for %s", lane, s.partition, at, s.seq, s.sink)
				}
			}
		}
		return true, ""
	})
}
