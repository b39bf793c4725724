package nats

import (
	"errors"
	"fmt"
	"testing"

	"github.com/nats-io/nats.go/jetstream"

	"consultd/handlers"
	"consultd/states"
)

// letter is a dead letter as the codec writes it.
func letter(e states.Entry, code string) states.Message {
	payload := fmt.Appendf(nil, `{"id":"dead.%s.%d","lane":%q,"seq":%d,"subject":%q,"code":%q,"detail":"d"}`,
		e.Lane, e.Seq, e.Lane, e.Seq, e.Subject, code)
	return states.Message{ID: fmt.Sprintf("dead.%s.%d", e.Lane, e.Seq), Channel: "!x", Payload: payload}
}

func TestDeadLetterReplay(t *testing.T) {
	_, c := broker(t)
	ctx := testContext(t)
	log := NewLog(c, states.LaneEmergency, nil)
	header := map[string]string{handlers.HeaderActor: "nurse-1", handlers.HeaderRole: "nurse"}
	if _, err := log.Append(ctx, "consult.in.emergency.er", "m-1", header, []byte("bad")); err != nil {
		t.Fatal(err)
	}
	original, _, err := log.At(ctx, 1)
	if err != nil {
		t.Fatal(err)
	}
	if err := NewPublisher(c).Publish(ctx, []states.Message{letter(original, "BAD_JSON")}); err != nil {
		t.Fatal(err)
	}
	d := NewDeadLetters(c)
	letters, err := d.List(ctx, 10)
	if err != nil || len(letters) != 1 || letters[0].Code != "BAD_JSON" || letters[0].Seq != 1 || letters[0].Buried.IsZero() {
		t.Fatalf("%+v %v", letters, err)
	}
	for range 2 { // a second replay is the first
		replayed, err := d.Replay(ctx, "dead.e.1")
		if err != nil || replayed.Seq != 2 {
			t.Fatalf("%+v %v", replayed, err)
		}
	}
	again, _, err := log.At(ctx, 2)
	if err != nil || again.Subject != original.Subject || string(again.Data) != "bad" || again.Header[handlers.HeaderActor] != "nurse-1" ||
		again.Header[HeaderID] != "replay.dead.e.1" || again.Header[HeaderReplay] != "1" {
		t.Errorf("replayed entry: %+v %v", again, err)
	}

	stream, err := c.JS.Stream(ctx, EmergencyStream)
	if err != nil {
		t.Fatal(err)
	}
	if err := stream.Purge(ctx, jetstream.WithPurgeSequence(2)); err != nil {
		t.Fatal(err)
	}
	if _, err := d.Replay(ctx, "dead.e.1"); !errors.Is(err, ErrAgedOut) {
		t.Errorf("aged out: %v", err)
	}
	if _, err := d.Replay(ctx, "dead.e.9"); !errors.Is(err, ErrNoLetter) {
		t.Errorf("no letter: %v", err)
	}
	if err := NewPublisher(c).Publish(ctx, []states.Message{letter(states.Entry{Lane: "n"}, "QUARANTINED")}); err != nil {
		t.Fatal(err)
	}
	if _, err := d.Replay(ctx, "dead.n.0"); !errors.Is(err, ErrNoEntry) {
		t.Errorf("no entry: %v", err)
	}
}

func TestDeadLettersListTheNewest(t *testing.T) {
	_, c := broker(t)
	ctx := testContext(t)
	d := NewDeadLetters(c)
	if letters, err := d.List(ctx, 5); err != nil || len(letters) != 0 {
		t.Fatal(letters, err)
	}
	for i := range uint64(20) {
		if err := NewPublisher(c).Publish(ctx, []states.Message{letter(states.Entry{Lane: "n", Seq: i + 1}, "X")}); err != nil {
			t.Fatal(err)
		}
	}
	stream, err := c.JS.Stream(ctx, DeadStream)
	if err != nil {
		t.Fatal(err)
	}
	if err := stream.Purge(ctx, jetstream.WithPurgeSequence(5)); err != nil {
		t.Fatal(err)
	}
	for limit, first := range map[int]uint64{5: 16, 100: 5} {
		letters, err := d.List(ctx, limit)
		if err != nil || len(letters) != int(20-first+1) || letters[0].Seq != first || letters[len(letters)-1].Seq != 20 {
			t.Errorf("limit %d: %d letters: %v", limit, len(letters), err)
		}
	}
}
