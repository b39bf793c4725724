package jsclient_test

import (
	"context"
	"encoding/json"
	"errors"
	"testing"
	"time"

	"consultd/test/pubnub"
	"consultd/test/pubnub/jsclient"
)

func connect(ctx context.Context, t *testing.T, s *pubnub.Server, user string, change ...func(*jsclient.Options)) *jsclient.Client {
	t.Helper()
	options := jsclient.Options{Origin: s.Origin(), PublishKey: s.Config().PublishKey, SubscribeKey: s.Config().SubscribeKey, UserID: user}
	for _, f := range change {
		f(&options)
	}
	c, err := jsclient.Start(ctx, options)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(c.Close)
	return c
}

func TestClientsTalkEncryptedThroughTheStandIn(t *testing.T) {
	ctx, cancel := context.WithTimeout(t.Context(), time.Minute)
	defer cancel()
	s, err := pubnub.Start(pubnub.Config{})
	if err != nil {
		t.Fatal(err)
	}
	defer s.Close()
	encrypt := func(o *jsclient.Options) { o.CipherKey = "a cipher key for this test only" }
	doctor, patient := connect(ctx, t, s, "dr-smith", encrypt), connect(ctx, t, s, "patient-1", encrypt)

	if err := doctor.Subscribe(ctx, "consultation.*", "waiting-room.dr-smith"); err != nil {
		t.Fatal(err)
	}
	tt, err := patient.Publish(ctx, "consultation.dr-smith.patient-1", map[string]any{"action": "PATIENT_JOINED"})
	if err != nil {
		t.Fatal(err)
	}
	select {
	case m := <-doctor.Messages():
		if m.Type != "message" || m.Channel != "consultation.dr-smith.patient-1" || m.Subscription != "consultation.*" ||
			m.Timetoken != tt || m.Publisher != "patient-1" || string(m.Payload) != `{"action":"PATIENT_JOINED"}` || m.Error != "" {
			t.Errorf("received %+v", m)
		}
	case <-ctx.Done():
		t.Fatal("no message")
	}
	if sent := s.Published("consultation.dr-smith.patient-1"); len(sent) != 1 || sent[0].Payload[0] != '"' || sent[0].Method != "POST" {
		t.Errorf("on the wire: %+v", sent)
	}

	result, err := patient.Call(ctx, "fetchMessages", map[string]any{"channels": []string{"consultation.dr-smith.patient-1"}, "count": 1})
	var fetched struct {
		Channels map[string][]struct {
			Message json.RawMessage `json:"message"`
		} `json:"channels"`
	}
	if err != nil || json.Unmarshal(result, &fetched) != nil || len(fetched.Channels["consultation.dr-smith.patient-1"]) != 1 {
		t.Errorf("fetchMessages: %s, %v", result, err)
	}
}

func TestRefusalsComeBackAsErrorsWithTheirStatus(t *testing.T) {
	ctx, cancel := context.WithTimeout(t.Context(), time.Minute)
	defer cancel()
	s, err := pubnub.Start(pubnub.Config{})
	if err != nil {
		t.Fatal(err)
	}
	defer s.Close()
	c := connect(ctx, t, s, "x", func(o *jsclient.Options) { o.PublishKey = "pub-c-other" })
	var refused *jsclient.Error
	if _, err := c.Publish(ctx, "c", "x"); !errors.As(err, &refused) || refused.StatusCode != 400 {
		t.Errorf("publish with a wrong key: %v", err)
	}
	if _, err := c.Call(ctx, "no.such.method"); err == nil {
		t.Error("unknown method: no error")
	}
}

func TestCloseLeavesTheChannelsAndEndsTheProcess(t *testing.T) {
	ctx, cancel := context.WithTimeout(t.Context(), time.Minute)
	defer cancel()
	s, err := pubnub.Start(pubnub.Config{})
	if err != nil {
		t.Fatal(err)
	}
	defer s.Close()
	c := connect(ctx, t, s, "x")
	if err := c.Subscribe(ctx, "c"); err != nil {
		t.Fatal(err)
	}
	c.Close()
	if n := s.Requests()["leave"]; n != 1 {
		t.Errorf("%d leave requests, want 1", n)
	}
	for range c.Messages() { // closed, not blocked
		t.Error("unexpected message")
	}
	if _, err := c.Publish(ctx, "c", "x"); err == nil {
		t.Error("closed client still publishes")
	}
}
