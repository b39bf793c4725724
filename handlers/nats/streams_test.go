package nats

import (
	"errors"
	"strings"
	"testing"
	"time"

	"github.com/nats-io/nats.go/jetstream"

	"consultd/test/natsserver"
)

func TestReconcileIsIdempotent(t *testing.T) {
	_, c := broker(t)
	ctx := testContext(t)
	before := map[string]jetstream.StreamInfo{}
	for info := range c.JS.ListStreams(ctx).Info() {
		before[info.Config.Name] = *info
	}
	if len(before) != len(Streams(DefaultStreamOptions()))+1 {
		t.Fatalf("%d streams", len(before))
	}
	if err := Reconcile(ctx, c.JS, DefaultStreamOptions()); err != nil {
		t.Fatal(err)
	}
	for info := range c.JS.ListStreams(ctx).Info() {
		if was := before[info.Config.Name]; !was.Created.Equal(info.Created) || was.Config.MaxAge != info.Config.MaxAge {
			t.Errorf("%s changed", info.Config.Name)
		}
	}
}

func TestReconcileUpdatesWhatItMay(t *testing.T) {
	s := natsserver.StartTB(t, natsserver.Options{})
	c := connect(t, s)
	ctx := testContext(t)
	if _, err := c.JS.CreateStream(ctx, jetstream.StreamConfig{
		Name: LogStream, Subjects: []string{"consult.in.waiting-room.>", "consult.old.>"}, MaxAge: time.Hour, Duplicates: time.Minute,
	}); err != nil {
		t.Fatal(err)
	}
	if _, err := c.JS.Publish(ctx, "consult.in.waiting-room.a", []byte("kept")); err != nil {
		t.Fatal(err)
	}
	if err := Reconcile(ctx, c.JS, DefaultStreamOptions()); err != nil {
		t.Fatal(err)
	}
	got, err := c.JS.Stream(ctx, LogStream)
	if err != nil {
		t.Fatal(err)
	}
	have := got.CachedInfo()
	if have.State.Msgs != 1 || have.Config.MaxAge != 30*day || have.Config.Duplicates != 15*time.Minute {
		t.Errorf("after the update: %d messages, age %s, window %s", have.State.Msgs, have.Config.MaxAge, have.Config.Duplicates)
	}
	for _, subject := range []string{"consult.old.x", "consult.in.queue.x", "consult.log.rules"} {
		if ack, err := c.JS.Publish(ctx, subject, nil); err != nil || ack.Stream != LogStream {
			t.Errorf("%s: %v %v", subject, ack, err)
		}
	}
}

func TestReconcileRefusesTheIncompatible(t *testing.T) {
	s := natsserver.StartTB(t, natsserver.Options{})
	c := connect(t, s)
	ctx := testContext(t)
	for _, config := range []jetstream.StreamConfig{
		{Name: LogStream, Subjects: []string{"consult.in.waiting-room.>"}, Retention: jetstream.WorkQueuePolicy, Storage: jetstream.MemoryStorage},
		{Name: OutStream, Subjects: []string{"consult.out.queue.*"}, Discard: jetstream.DiscardNew, MaxMsgsPerSubject: 1},
		{Name: "ANALYTICS", Subjects: []string{"consult.in.emergency.>", "other.>"}},
	} {
		if _, err := c.JS.CreateStream(ctx, config); err != nil {
			t.Fatal(err)
		}
	}
	err := Reconcile(ctx, c.JS, DefaultStreamOptions())
	var refused *IncompatibleError
	if !errors.As(err, &refused) {
		t.Fatalf("accepted: %v", err)
	}
	for _, want := range []string{
		"CONSULT_LOG: retention is WorkQueue, wanted Limits",
		"CONSULT_LOG: storage is Memory, wanted File",
		"CONSULT_OUT: discard is DiscardNew, wanted DiscardOld",
		"CONSULT_OUT: max_msgs_per_subject is 1",
		"CONSULT_OUT: subjects is consult.out.queue.*, wanted consult.out.queue.>",
		"CONSULT_EMERGENCY: subjects is consult.in.emergency.> in stream ANALYTICS, wanted consult.in.emergency.>: take that subject out",
	} {
		if !strings.Contains(err.Error(), want) {
			t.Errorf("missing %q in:\n%s", want, err)
		}
	}
	if len(refused.Problems) != 6 {
		t.Errorf("%d problems", len(refused.Problems))
	}
	if _, err := c.JS.Stream(ctx, EmergencyStream); !errors.Is(err, jetstream.ErrStreamNotFound) {
		t.Errorf("something was created all the same: %v", err)
	}
}

func TestReconcileChecksReplicas(t *testing.T) {
	_, c := broker(t)
	o := DefaultStreamOptions()
	o.Replicas = 6
	if err := Reconcile(testContext(t), c.JS, o); err == nil {
		t.Error("6 replicas accepted")
	}
}

func TestOverlap(t *testing.T) {
	for _, c := range []struct {
		a, b string
		want bool
	}{
		{"a.b", "a.b", true},
		{"a.b", "a.c", false},
		{"a.*", "a.b", true},
		{"a.*", "a.b.c", false},
		{"a.>", "a", false},
		{"a.>", "a.b.c", true},
		{">", "a", true},
		{"a.*.c", "a.b.>", true},
		{"a.*.c", "*.b.d", false},
	} {
		if overlap(c.a, c.b) != c.want || overlap(c.b, c.a) != c.want {
			t.Errorf("overlap(%q, %q) is not %v", c.a, c.b, c.want)
		}
	}
}
