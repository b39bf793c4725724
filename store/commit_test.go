package store

import (
	"reflect"
	"testing"
	"time"

	"consultd/states"
	"consultd/test/redis"
)

func TestCommitStoresTheWholeDecision(t *testing.T) {
	server, s, claim := started(t, redis.Options{})
	ctx := t.Context()
	c := visitCommit(claim, 7, "apt-1", 1)
	c.RulesSeq = 5
	noShow := states.TimerID{Kind: "no-show", Record: visitID("apt-1"), Key: "dr-smith", Generation: 1}
	c.Decision.Timers = []states.TimerChange{{ID: noShow, Due: start.Add(500 * time.Microsecond)}}
	c.Decision.Places = []states.PlaceChange{{Provider: "dr-smith", Department: "cardiology", Appointment: "apt-1", Score: 2.5}}
	c.Decision.Load = []states.LoadChange{{Provider: "dr-smith", Delta: 1}}
	c.Decision.Pair = &states.PairChange{Provider: "dr-smith", Patient: "patient-4711", Appointment: "apt-1"}
	mustCommit(t, s, c, states.Committed, 1)

	if got := mustLoad(t, s, visitID("apt-1")); !reflect.DeepEqual(got, c.Decision.Record) {
		t.Errorf("loaded\n%+v, stored\n%+v", got, c.Decision.Record)
	}
	if got, _ := s.Pair(ctx, "dr-smith", "patient-4711"); got != "apt-1" {
		t.Errorf("pair is %q", got)
	}
	if got, _ := s.WaitingRoom(ctx, "dr-smith"); !reflect.DeepEqual(got, []string{"apt-1"}) {
		t.Errorf("waiting room is %v", got)
	}
	if got, _ := s.Queue(ctx, "cardiology"); !reflect.DeepEqual(got, []string{"apt-1"}) {
		t.Errorf("queue is %v", got)
	}
	if got, _ := s.ProviderLoad(ctx, "dr-smith"); got != 1 {
		t.Errorf("load is %d", got)
	}
	due, err := s.Due(ctx, []states.Partition{normal3}, 10)
	if err != nil {
		t.Fatal(err)
	}
	if want := []states.DueTimer{{ID: noShow, Due: start.Add(time.Millisecond)}}; !reflect.DeepEqual(due.Due, want) {
		t.Errorf("due %+v, want %+v", due.Due, want)
	}
	want := []states.Pending{{Partition: normal3, Sink: states.SinkNATS, Entry: 1, Seq: 7, Messages: c.Outbox[states.SinkNATS]}}
	if got := mustPending(t, s, normal3, states.SinkNATS, 0); !reflect.DeepEqual(got, want) {
		t.Errorf("pending %+v, want %+v", got, want)
	}
	meta, err := raw(t, server.Addr()).HGetAll(ctx, s.keys.partition(normal3)).Result()
	if err != nil || meta["seq"] != "7" || meta["commits"] != "1" || meta["rules"] != "5" {
		t.Errorf("partition is %v, %v", meta, err)
	}
}
