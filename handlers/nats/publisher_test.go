package nats

import (
	"context"
	"errors"
	"fmt"
	"testing"
	"time"

	"consultd/handlers"
	"consultd/states"
)

func TestPublishFindsTheStream(t *testing.T) {
	_, c := broker(t)
	ctx := testContext(t)
	ms := []states.Message{
		{ID: "1", Channel: "notification.dr-a", Payload: []byte("{}")},
		{ID: "2", Channel: "page.sms.dr-a", Payload: []byte("{}")},
		{ID: "3", Channel: ">emergency.er", Payload: []byte(`{"actor":"patient-1","role":"patient","body":{"action":"X"}}`)},
		{ID: "4", Channel: "!bad_json", Payload: []byte("{}")},
	}
	for range 2 { // the second time changes nothing
		if err := NewPublisher(c).Publish(ctx, ms); err != nil {
			t.Fatal(err)
		}
	}
	for stream, subject := range map[string]string{
		OutStream: "consult.out.notification.dr-a", PagesStream: "consult.out.page.sms.dr-a",
		EmergencyStream: "consult.in.emergency.er", DeadStream: "consult.dead.bad_json",
	} {
		s, err := c.JS.Stream(ctx, stream)
		if err != nil {
			t.Fatal(err)
		}
		m, err := s.GetMsg(ctx, 1)
		if err != nil || m.Subject != subject || s.CachedInfo().State.Msgs != 1 {
			t.Errorf("%s: %v %v, %d messages", stream, m, err, s.CachedInfo().State.Msgs)
		}
	}
	e, _, err := NewLog(c, states.LaneEmergency, nil).At(ctx, 1)
	if err != nil || string(e.Data) != `{"action":"X"}` || e.Header[handlers.HeaderActor] != "patient-1" ||
		e.Header[handlers.HeaderRole] != "patient" || e.Header[handlers.HeaderSource] != "consultd" || e.Header[HeaderID] != "3" {
		t.Errorf("raised entry: %+v %v", e, err)
	}
}

func TestPublishTellsNeverFromLater(t *testing.T) {
	server, c := broker(t)
	p := NewPublisher(c)
	good := states.Message{ID: "good", Channel: "notification.a", Payload: []byte("{}")}
	for name, m := range map[string]states.Message{
		"no stream":    {ID: "x", Channel: "nowhere.a"},
		"bad subject":  {ID: "x", Channel: "notification.a b"},
		"wildcard":     {ID: "x", Channel: "notification.>"},
		"too large":    {ID: "x", Channel: "notification.a", Payload: make([]byte, 2<<20)},
		"no envelope":  {ID: "x", Channel: ">emergency.er", Payload: []byte(`"secret"`)},
		"empty actor":  {ID: "x", Channel: ">emergency.er", Payload: []byte(`{"actor":"","role":"patient","body":{}}`)},
		"unknown body": {ID: "x", Channel: ">emergency.er", Payload: []byte(`{"actor":"a","role":"patient"}`)},
	} {
		t.Run(name, func(t *testing.T) {
			err := p.Publish(testContext(t), []states.Message{good, m})
			var one interface{ Permanent() bool }
			if !errors.As(err, &one) || !one.Permanent() {
				t.Errorf("not for good: %v", err)
			}
		})
	}
	s, err := c.JS.Stream(testContext(t), OutStream)
	if err != nil || s.CachedInfo().State.Msgs != 1 {
		t.Errorf("a bad message kept the good one back: %v", err)
	}

	server.Stop()
	err = p.Publish(testContext(t), []states.Message{good})
	var one interface{ Permanent() bool }
	if !errors.As(err, &one) || one.Permanent() {
		t.Errorf("server away: %v", err)
	}
	if err := server.Start(); err != nil {
		t.Fatal(err)
	}
	eventually(t, "publishing works again", func() bool {
		return p.Publish(testContext(t), []states.Message{good}) == nil
	})
}

// TestPublishDoesNotWait checks that a message leaves at once, however few there are.
func TestPublishDoesNotWait(t *testing.T) {
	_, c := broker(t)
	p := NewPublisher(c)
	fastest := time.Hour
	for i := range 50 {
		began := time.Now()
		if err := p.Publish(testContext(t), []states.Message{{ID: fmt.Sprint(i), Channel: "page.sms.a", Payload: []byte("{}")}}); err != nil {
			t.Fatal(err)
		}
		fastest = min(fastest, time.Since(began))
	}
	if fastest > 20*time.Millisecond {
		t.Errorf("the fastest of 50 pages took %s", fastest)
	}
}

func BenchmarkPublish(b *testing.B) {
	_, c := broker(b)
	p := NewPublisher(c)
	n := 0
	for b.Loop() {
		batch := make([]states.Message, 64)
		for i := range batch {
			n++
			batch[i] = states.Message{ID: fmt.Sprint(n), Channel: "notification.a", Payload: make([]byte, 400)}
		}
		if err := p.Publish(context.Background(), batch); err != nil {
			b.Fatal(err)
		}
	}
	b.ReportMetric(float64(n)/b.Elapsed().Seconds(), "messages/s")
}
