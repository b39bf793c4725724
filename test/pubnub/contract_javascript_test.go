package pubnub_test

import (
	"encoding/json"
	"os/exec"
	"path/filepath"
	"testing"

	standin "consultd/test/pubnub"
	"consultd/test/pubnub/jsclient"
)

// TestJavaScriptSDKContract runs js/contract.mjs once and judges each of its results.
func TestJavaScriptSDKContract(t *testing.T) {
	s := start(t, standin.Config{})
	ctx := deadline(t)
	directory, err := jsclient.Install(ctx)
	if err != nil {
		t.Fatal(err)
	}
	settings, err := json.Marshal(map[string]string{
		"origin": s.Origin(), "publishKey": s.Config().PublishKey,
		"subscribeKey": s.Config().SubscribeKey, "secretKey": s.Config().SecretKey,
	})
	if err != nil {
		t.Fatal(err)
	}
	output, err := exec.CommandContext(ctx, "node", filepath.Join(directory, "contract.mjs"), string(settings)).Output()
	if err != nil {
		t.Fatalf("contract.mjs: %v: %s", err, output)
	}
	var results map[string]struct {
		OK    bool            `json:"ok"`
		Value json.RawMessage `json:"value"`
		Error struct {
			StatusCode int    `json:"statusCode"`
			Category   string `json:"category"`
			Message    string `json:"message"`
		} `json:"error"`
	}
	if err := json.Unmarshal(output, &results); err != nil {
		t.Fatalf("contract.mjs: %v in %s", err, output)
	}

	succeeds := func(name string) {
		t.Run(name, func(t *testing.T) {
			if r, ok := results[name]; !ok || !r.OK {
				t.Errorf("%+v", r.Error)
			}
		})
	}
	gives := func(name, want string) {
		t.Run(name, func(t *testing.T) {
			if r := results[name]; !r.OK || string(r.Value) != want {
				t.Errorf("got %s (%+v)\nwant %s", r.Value, r.Error, want)
			}
		})
	}
	fails := func(name string, status int, category string) {
		t.Run(name, func(t *testing.T) {
			if r := results[name]; r.OK || r.Error.StatusCode != status || r.Error.Category != category {
				t.Errorf("got %+v, want status %d, %s", r, status, category)
			}
		})
	}
	for _, name := range []string{"time", "publishGet", "publishPost", "signedPublishGet", "signedPublishPost", "fire", "addToGroup", "connected", "deleteGroup"} {
		succeeds(name)
	}
	fails("wrongKey", 400, "PNBadRequestCategory")
	fails("wrongSecret", 403, "PNAccessDeniedCategory")
	fails("wrongSubscribeKey", 400, "PNBadRequestCategory")
	gives("listGroup", `{"channels":["emergency.cardio","emergency.neuro"]}`)
	received := func(channel, subscription string) string {
		return `{"sameTimetoken":true,"subscription":"` + subscription + `","publisher":"patient-1","on":"` + channel + `","meta":{"m":1},"customMessageType":"consult-state"}`
	}
	gives("receive", received("waiting-room.dr-smith", "waiting-room.dr-smith"))
	gives("receiveByWildcard", received("consultation.dr-smith.p1", "consultation.*"))
	gives("receiveByGroup", received("emergency.cardio", "staff"))
	gives("signal", `"typing"`)
	gives("presence", `{"join":2,"leave":1,"where":["waiting-room.dr-smith"],"here":["dr-smith","nurse-1"]}`)
	gives("encrypted", `{"live":"Grüße 😀","error":null,"stored":"Grüße 😀"}`)
	gives("fetch", `[{"action":"PATIENT_CHECKED_IN","uuid":"backend","meta":{"role":"patient"},"type":"consult-state","same":true}]`)
	gives("fetchMany", `["consultation.dr-smith.p1","emergency.cardio"]`)
	gives("history", `["emergency.cardio"]`)
	gives("counts", `{"channels":{"emergency.cardio":1,"none":0}}`)
	gives("delete", `{"emergency.cardio":0}`)

	for channel, method := range map[string]string{"waiting-room.publish-get": "GET", "waiting-room.signedPublish-post": "POST"} {
		sent := s.Published(channel)
		if len(sent) != 1 || sent[0].Method != method || sent[0].CustomType != "consult-state" {
			t.Errorf("on %s: %+v", channel, sent)
			continue
		}
		var payload struct {
			FCM any `json:"pn_fcm"`
		}
		if err := json.Unmarshal(sent[0].Payload, &payload); err != nil || payload.FCM == nil {
			t.Errorf("on %s: push block is missing: %s", channel, sent[0].Payload)
		}
	}
	if fired := s.Published("waiting-room.fired"); len(fired) != 1 || fired[0].Kind != standin.KindFire || fired[0].Stored {
		t.Errorf("fired: %+v", fired)
	}
	if s.Requests()["heartbeat"] == 0 {
		t.Error("the SDK sent no heartbeat")
	}
}
