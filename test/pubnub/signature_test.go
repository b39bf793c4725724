package pubnub

import (
	"fmt"
	"io"
	"net/http"
	"net/http/httptest"
	"strings"
	"testing"
	"time"
)

func TestSignatureMatchesTheDocumentedExample(t *testing.T) {
	const body = `{
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
	s := &Server{cfg: Config{PublishKey: "demo", SubscribeKey: "demo", SecretKey: "wMfbo9G0xVUG8yfTfYw5qIdfJkTd7A"}}
	c := &call{
		http: httptest.NewRequest(http.MethodPost, "/", nil), path: "/v3/pam/demo/grant", segments: []string{"v3", "pam", "demo", "grant"},
		rawQuery: "timestamp=123456789&signature=ignored&PoundsSterling=£13.37", body: []byte(body),
	}
	const want = "v2.k80LsDMD-sImA8rCBj-ntRKhZ8mSjHY8Ivngt9W3Yc4"
	if got := s.signatures(c); len(got) != 1 || got[0] != want {
		t.Errorf("signatures %v, want %s", got, want)
	}
}

func TestSignedQueryIsSortedAndEscapedStrictly(t *testing.T) {
	got := canonicalQuery("uuid=a%20b&meta=%7B%7D&l_pub=3.2e-05&signature=x&auth=tok+en==&q=*!'()~")
	want := "auth=tok%2Ben%3D%3D&l_pub=3.2e-05&meta=%7B%7D&q=%2A%21%27%28%29%7E&uuid=a%20b"
	if got != want {
		t.Errorf("got  %s\nwant %s", got, want)
	}
}

func TestSignatureIsCheckedWithinAMinuteOfTheClock(t *testing.T) {
	now := time.Unix(1_790_000_000, 0)
	s, err := Start(Config{Clock: func() time.Time { return now }, RequireSignature: true})
	if err != nil {
		t.Fatal(err)
	}
	defer s.Close()
	get := func(path, query string) (int, string) {
		t.Helper()
		response, err := http.Get(s.URL() + path + "?" + query)
		if err != nil {
			t.Fatal(err)
		}
		defer response.Body.Close()
		body, err := io.ReadAll(response.Body)
		if err != nil {
			t.Fatal(err)
		}
		return response.StatusCode, string(body)
	}
	path := fmt.Sprintf("/v3/history/sub-key/%s/channel/c", DefaultSubscribeKey)
	for _, one := range []struct {
		name   string
		secret string
		offset time.Duration
		status int
	}{
		{"right and in time", DefaultSecretKey, 0, 200},
		{"a minute old", DefaultSecretKey, -time.Minute, 200},
		{"a minute ahead", DefaultSecretKey, time.Minute, 200},
		{"too old", DefaultSecretKey, -61 * time.Second, 403},
		{"too far ahead", DefaultSecretKey, 61 * time.Second, 403},
		{"wrong secret", "other", 0, 403},
	} {
		query := fmt.Sprintf("max=5&timestamp=%d", now.Add(one.offset).Unix())
		signature := signV2(one.secret, http.MethodGet, DefaultPublishKey, path, query, nil)
		if status, body := get(path, query+"&signature="+signature); status != one.status {
			t.Errorf("%s: status %d, %s", one.name, status, body)
		}
	}
	query := fmt.Sprintf("timestamp=%d", now.Unix())
	signature := signV2(DefaultSecretKey, http.MethodGet, DefaultPublishKey, path, query, nil)
	if status, _ := get(path, query+"&max=1&signature="+signature); status != 403 {
		t.Errorf("parameter added after signing: status %d", status)
	}
	if status, body := get(path, ""); status != 403 || !strings.Contains(body, "Signature Required") {
		t.Errorf("unsigned: status %d, %s", status, body)
	}
	if status, _ := get("/time/0", ""); status != 200 {
		t.Errorf("unsigned time: status %d", status)
	}
}

func TestPostedPublishIsAcceptedInAllSchemesOfTheSDKs(t *testing.T) {
	s, err := Start(Config{RequireSignature: true})
	if err != nil {
		t.Fatal(err)
	}
	defer s.Close()
	path := fmt.Sprintf("/publish/%s/%s/0/c/0", DefaultPublishKey, DefaultSubscribeKey)
	query := fmt.Sprintf("timestamp=%d", time.Now().Unix())
	const body = `{"n":1}`
	for name, one := range map[string]struct {
		signature string
		status    int
	}{
		"v2 as sent":          {signV2(DefaultSecretKey, "POST", DefaultPublishKey, path, query, []byte(body)), 200},
		"v2 as get (js)":      {signV2(DefaultSecretKey, "GET", DefaultPublishKey, path, query, nil), 200},
		"v1 (go)":             {signV1(DefaultSecretKey, DefaultSubscribeKey, DefaultPublishKey, path, query), 200},
		"v2 of another body":  {signV2(DefaultSecretKey, "POST", DefaultPublishKey, path, query, []byte(`{"n":2}`)), 403},
		"v1 with another key": {signV1(DefaultSecretKey, "other", DefaultPublishKey, path, query), 403},
	} {
		response, err := http.Post(s.URL()+path+"?"+query+"&signature="+one.signature, "application/json", strings.NewReader(body))
		if err != nil {
			t.Fatal(err)
		}
		response.Body.Close()
		if response.StatusCode != one.status {
			t.Errorf("%s: status %d, want %d", name, response.StatusCode, one.status)
		}
	}
}
