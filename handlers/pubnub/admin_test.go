package pubnub_test

import (
	"encoding/base64"
	"encoding/json"
	"errors"
	"io"
	"net/http"
	"net/http/httptest"
	"strings"
	"testing"
	"time"

	"github.com/fxamacker/cbor/v2"

	"consultd/handlers/pubnub"
)

// tokenFor is a token as the service makes it out, without a valid signature.
func tokenFor(t *testing.T, user string, minutes int, channels, patterns map[string]int) string {
	t.Helper()
	resources := func(channels map[string]int) map[string]any {
		if channels == nil {
			channels = map[string]int{}
		}
		return map[string]any{"chan": channels, "grp": map[string]int{}, "uuid": map[string]int{}}
	}
	data, err := cbor.Marshal(map[string]any{
		"v": 2, "t": 1_700_000_000, "ttl": minutes, "uuid": user, "meta": map[string]any{},
		"res": resources(channels), "pat": resources(patterns), "sig": make([]byte, 32),
	})
	if err != nil {
		t.Fatal(err)
	}
	return base64.URLEncoding.EncodeToString(data)
}

func TestATokenIsOnlyWhatWasAskedFor(t *testing.T) {
	asked := pubnub.Grant{User: "u1", For: 30 * time.Minute, Channels: map[string]pubnub.Right{room: {Write: true}, "notification.u1": {Read: true}}}
	rights := map[string]int{room: 2, "notification.u1": 1}
	granted := func(token string) string {
		body, _ := json.Marshal(map[string]any{"data": map[string]any{"message": "Success", "token": token}, "service": "Access Manager", "status": 200})
		return string(body)
	}
	good := tokenFor(t, "u1", 30, rights, nil)
	for name, c := range map[string]struct {
		status int
		body   string
		want   string // of the error
	}{
		"as asked":       {200, granted(good), ""},
		"for anybody":    {200, granted(tokenFor(t, "", 30, rights, nil)), pubnub.ErrGrantDiffers.Error()},
		"longer":         {200, granted(tokenFor(t, "u1", 60, rights, nil)), pubnub.ErrGrantDiffers.Error()},
		"more rights":    {200, granted(tokenFor(t, "u1", 30, map[string]int{room: 3, "notification.u1": 1}, nil)), pubnub.ErrGrantDiffers.Error()},
		"other channels": {200, granted(tokenFor(t, "u1", 30, map[string]int{room: 2}, nil)), pubnub.ErrGrantDiffers.Error()},
		"patterns":       {200, granted(tokenFor(t, "u1", 30, rights, map[string]int{".*": 1})), pubnub.ErrGrantDiffers.Error()},
		"HTML":           {200, "<html>", "pubnub grant: unreadable answer"},
		"array":          {200, "[]", "pubnub grant: unreadable answer"},
		"null":           {200, "null", "pubnub grant: unreadable answer"},
		"refused":        {403, `{"message":"Invalid Signature"}`, "pubnub grant: access denied (status 403)"},
	} {
		var body string
		server := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
			sent, _ := io.ReadAll(r.Body)
			body = r.Method + " " + r.URL.Path + " " + string(sent)
			w.WriteHeader(c.status)
			_, _ = io.WriteString(w, c.body)
		}))
		admin, err := pubnub.NewAdmin(pubnub.Account{Endpoint: server.URL, PublishKey: "p", SubscribeKey: "s", SecretKey: "k", User: daemon, Token: func() string { return "t" }})
		if err != nil {
			t.Fatal(err)
		}
		token, err := admin.Grant(t.Context(), asked)
		server.Close()
		if c.want == "" && (err != nil || token != good) || c.want != "" && (err == nil || token != "" || !strings.HasPrefix(err.Error(), c.want)) {
			t.Errorf("%s: %q, %v", name, token, err)
		}
		if !strings.HasPrefix(body, "POST /v3/pam/s/grant ") || !strings.Contains(body, `"uuid":"u1"`) {
			t.Errorf("%s: asked %s", name, body)
		}
	}
}

func TestRevokingTellsNothing(t *testing.T) {
	server := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		if r.Method != http.MethodDelete || !strings.HasSuffix(r.URL.Path, "/the-token") {
			t.Errorf("%s %s", r.Method, r.URL.Path)
		}
		w.WriteHeader(http.StatusForbidden)
	}))
	defer server.Close()
	admin, err := pubnub.NewAdmin(pubnub.Account{Endpoint: server.URL, PublishKey: "p", SubscribeKey: "s", SecretKey: "k", User: daemon})
	if err != nil {
		t.Fatal(err)
	}
	err = admin.Revoke(t.Context(), "the-token")
	var e *pubnub.Error
	if !errors.As(err, &e) || e.Kind != pubnub.KindDenied || strings.Contains(err.Error(), "the-token") {
		t.Error(err)
	}
	if _, err := pubnub.NewAdmin(pubnub.Account{Endpoint: server.URL, PublishKey: "p", SubscribeKey: "s", User: daemon}); err == nil {
		t.Error("an admin without a secret key")
	}
}
