package pubnub

import (
	"context"
	"net/http"
	"strings"
	"testing"
	"time"

	sdk "github.com/pubnub/go/v7"
)

// The values are those of PubNub's own documentation.
func TestSignatureAsDocumented(t *testing.T) {
	query := parseParams("timestamp=123456789&PoundsSterling=£13.37").encode()
	body := `{
  "ttl": 1440,
  "permissions": {
    "resources" : {
      "channels": {
        "inbox-jay": 3
      },
      "groups": {},
      "users": {},
      "spaces": {}
    },
    "patterns" : {
      "channels": {},
      "groups": {},
      "users": {},
      "spaces": {}
    },
    "meta": {
      "user-id": "jay@example.com",
      "contains-unicode": "The 💩 test."
    }
  }
}`
	got := sign("wMfbo9G0xVUG8yfTfYw5qIdfJkTd7A", http.MethodPost, "demo", "/v3/pam/demo/grant", query, []byte(body))
	if want := "v2.k80LsDMD-sImA8rCBj-ntRKhZ8mSjHY8Ivngt9W3Yc4"; got != want {
		t.Errorf("got %s", got)
	}
}

func TestPanicsAndNothingAreErrors(t *testing.T) {
	for name, f := range map[string]func() (*int, sdk.StatusResponse, error){
		"panic":   func() (*int, sdk.StatusResponse, error) { panic("secret") },
		"nothing": func() (*int, sdk.StatusResponse, error) { return nil, sdk.StatusResponse{}, nil },
	} {
		answer, _, err := call(t.Context(), "test", f)
		if answer != nil || err == nil || err.Error() != "pubnub test: unreadable answer" {
			t.Errorf("%s: %v, %v", name, answer, err)
		}
	}
	ended, cancel := context.WithCancel(t.Context())
	cancel()
	if _, _, err := call(ended, "test", func() (*int, sdk.StatusResponse, error) { panic("called") }); err == nil || err.Error() != "pubnub test: stopped" {
		t.Error(err)
	}
}

func TestWithATokenNothingIsSigned(t *testing.T) {
	a := Account{SecretKey: "secret", PublishKey: "p", Token: func() string { return "a+b/c==" }}
	got := a.authorize(params{"auth": "old", "signature": "old", "timestamp": "1", "tt": "5"}, "/x", time.Unix(100, 0))
	if got != "auth=a%2Bb%2Fc%3D%3D&tt=5" {
		t.Error(got)
	}
	a.Token = nil
	got = a.authorize(params{"auth": "old", "signature": "old", "timestamp": "1", "tt": "5"}, "/x", time.Unix(100, 0))
	if !strings.HasPrefix(got, "timestamp=100&tt=5&signature=v2.") {
		t.Error(got)
	}
}

func TestRetryAfterIsHonouredWithinReason(t *testing.T) {
	for value, want := range map[string]time.Duration{"": 0, "3": 3 * time.Second, "86400": time.Minute, "-1": 0, "soon": 0} {
		if got := retryAfter(http.Header{"Retry-After": {value}}); got != want {
			t.Errorf("%q: %v", value, got)
		}
	}
}

func TestRecentForgetsTheOldest(t *testing.T) {
	r := newRecent(2)
	for _, key := range []string{"a", "b", "b", "c"} {
		r.add(key)
	}
	if r.has("a") || !r.has("b") || !r.has("c") || len(r.keys()) != 2 {
		t.Error(r.keys())
	}
}
