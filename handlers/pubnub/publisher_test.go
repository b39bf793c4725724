package pubnub_test

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net/http"
	"net/http/httptest"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	sdk "github.com/pubnub/go/v7"
	"github.com/pubnub/go/v7/crypto"

	"consultd/handlers/pubnub"
	"consultd/states"
	standin "consultd/test/pubnub"
)

func publisher(t *testing.T, a pubnub.Account, change ...func(*pubnub.PublisherOptions)) (*pubnub.Publisher, *pubnub.Stats) {
	t.Helper()
	opts := pubnub.PublisherOptions{Account: a, Ring: ring(t, cipherKey), Stats: new(pubnub.Stats)}
	for _, f := range change {
		f(&opts)
	}
	p, err := pubnub.NewPublisher(opts)
	if err != nil {
		t.Fatal(err)
	}
	return p, opts.Stats
}

func message(channel, id, payload string) states.Message {
	return states.Message{ID: id, Channel: channel, Payload: []byte(payload)}
}

// published gives what was said on a channel, decrypted where it was encrypted.
func published(t *testing.T, server *standin.Server, channel string) []string {
	t.Helper()
	var list []string
	for _, m := range server.Published(channel) {
		plain, _, err := ring(t, cipherKey).Decrypt(channel, m.Payload)
		if err != nil {
			t.Fatal(err)
		}
		list = append(list, string(plain))
	}
	return list
}

// The receivers are the SDK's own clients, with its own crypto module.
func TestStockClientsReadWhatIsPublished(t *testing.T) {
	server := start(t, standin.Config{RequireSignature: true})
	module, err := crypto.NewAesCbcCryptoModule(cipherKey, true)
	if err != nil {
		t.Fatal(err)
	}
	client := app(server, func(c *sdk.Config) { c.CryptoModule, c.SecretKey = module, server.Config().SecretKey })
	listener := sdk.NewListener()
	client.AddListener(listener)
	heard, done := make(chan *sdk.PNMessage, 10), make(chan struct{})
	defer close(done)
	go func() {
		for {
			select {
			case m := <-listener.Message:
				heard <- m
			case <-listener.Status:
			case <-done:
				return
			}
		}
	}()
	client.Subscribe().Channels([]string{"notification.u1"}).Execute()
	ctx, cancel := context.WithTimeout(t.Context(), 20*time.Second)
	defer cancel()
	if err := server.WaitSubscribers(ctx, "notification.u1", 1); err != nil {
		t.Fatal(err)
	}
	p, _ := publisher(t, account(server))
	next := func() any {
		t.Helper()
		select {
		case m := <-heard:
			if m.Error != nil || m.Publisher != daemon {
				t.Fatalf("%v from %s", m.Error, m.Publisher)
			}
			return m.Message
		case <-ctx.Done():
			t.Fatal("nothing heard")
			return nil
		}
	}
	receive := func(payload string) any {
		t.Helper()
		if err := p.Publish(ctx, []states.Message{message("notification.u1", "", payload)}); err != nil {
			t.Fatal(err)
		}
		return next()
	}
	same := func(got any, want string) {
		t.Helper()
		var expected any
		if err := json.Unmarshal([]byte(want), &expected); err != nil {
			t.Fatal(err)
		}
		a, _ := json.Marshal(got)
		b, _ := json.Marshal(expected)
		if string(a) != string(b) {
			t.Errorf("got %s\nwant %s", a, b)
		}
	}
	plain := `{"id":"1","title":"Ready 😀 <&>","n":12345}`
	same(receive(plain), plain)

	// What the push gateways read follows in clear, as a message of its own. (The SDK's listener may swap the two.)
	both := []any{receive(`{"id":"2","title":"t 😀","pn_fcm":{"a":1},"pn_apns":{"aps":{}}}`), next()}
	if _, swapped := both[0].(map[string]any)["pn_fcm"]; swapped {
		slices.Reverse(both)
	}
	same(both[0], `{"id":"2","title":"t 😀"}`)
	same(both[1], `{"pn_fcm":{"a":1},"pn_apns":{"aps":{}}}`)
	wire := server.Published("notification.u1")
	if len(wire) != 3 || wire[1].Payload[0] != '"' || strings.Contains(string(wire[2].Payload), "title") {
		t.Errorf("on the wire: %d messages", len(wire))
	}
}

func TestOrderWithinAChannelIsKept(t *testing.T) {
	server := start(t, standin.Config{})
	p, stats := publisher(t, account(server), func(o *pubnub.PublisherOptions) { o.Clear = []string{"queue.*"} })
	var messages []states.Message
	for n := 1; n <= 50; n++ {
		for _, channel := range []string{"queue.d1", "notification.u1", "notification.u2", ">emergency.d1", "!dead", ""} {
			messages = append(messages, message(channel, fmt.Sprint(channel, n), numbered(n)))
		}
	}
	if err := p.Publish(t.Context(), messages); err != nil {
		t.Fatal(err)
	}
	for _, channel := range []string{"queue.d1", "notification.u1", "notification.u2"} {
		if got := published(t, server, channel); !slices.Equal(got, numbers(1, 50)) {
			t.Errorf("%s: %v", channel, got)
		}
	}
	if string(server.Published("queue.d1")[0].Payload) != numbered(1) || string(server.Published("notification.u1")[0].Payload) == numbered(1) {
		t.Error("the wrong channel is in clear")
	}
	if n := stats.Published.Load(); n != 150 || server.Requests()["publish"] != 150 {
		t.Errorf("published %d in %d requests", n, server.Requests()["publish"])
	}
}

func TestRepeatingACallPublishesOnlyTheRest(t *testing.T) {
	server := start(t, standin.Config{})
	p, _ := publisher(t, account(server))
	var messages []states.Message
	for n := 1; n <= 10; n++ {
		messages = append(messages, message(room, fmt.Sprint("id-", n), numbered(n)))
	}
	inject(t, server, standin.Fault{Match: "publish", Kind: standin.FaultStatus, Status: 500, After: 4, Times: 1})
	err := p.Publish(t.Context(), messages)
	if e := failure(t, err); e.Kind != pubnub.KindServer || e.Permanent() {
		t.Fatal(err)
	}
	if got := published(t, server, room); !slices.Equal(got, numbers(1, 4)) {
		t.Fatalf("overtaken: %v", got)
	}
	if err := p.Publish(t.Context(), messages); err != nil {
		t.Fatal(err)
	}
	if got := published(t, server, room); !slices.Equal(got, numbers(1, 10)) {
		t.Fatal(got)
	}
}

func TestWhatCanNeverBeSentHoldsUpNothing(t *testing.T) {
	server := start(t, standin.Config{StrictWildcards: true})
	p, stats := publisher(t, account(server))
	for name, bad := range map[string]states.Message{
		"too large":     message(room, "large", `"`+strings.Repeat("x", 25<<10)+`"`), // fits before, not after encryption
		"not JSON":      message(room, "broken", `{`),
		"too many dots": message("consultation.p1.q1.video", "deep", `{}`),
	} {
		before := len(server.Published(room))
		err := p.Publish(t.Context(), []states.Message{message(room, name+"1", numbered(1)), bad, message(room, name+"2", numbered(2))})
		if e := failure(t, err); !e.Permanent() {
			t.Errorf("%s: %v", name, err)
		}
		if got := len(server.Published(room)) - before; got != 2 {
			t.Errorf("%s: %d others published", name, got)
		}
	}
	if stats.PublishNever.Load() != 3 || p.Breaker() != "closed" {
		t.Errorf("never %d, breaker %s", stats.PublishNever.Load(), p.Breaker())
	}
}

func failure(t *testing.T, err error) *pubnub.Error {
	t.Helper()
	var e *pubnub.Error
	if !errors.As(err, &e) {
		t.Fatalf("error is %T: %v", err, err)
	}
	return e
}

// front answers every publish with one answer.
func front(t *testing.T, status int, body string) string {
	t.Helper()
	server := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		_, _ = io.Copy(io.Discard, r.Body)
		w.WriteHeader(status)
		_, _ = io.WriteString(w, body)
	}))
	t.Cleanup(server.Close)
	return server.URL
}

func TestFailuresAreClassifiedAndTellNothing(t *testing.T) {
	closed := httptest.NewServer(nil)
	closed.Close()
	secrets := []string{"pub-key", "sub-key", "the-token", "dangerous-message", room, "http", "127.0.0.1", "signature", cipherKey}
	everything := strings.Join(secrets, " ")
	for name, c := range map[string]struct {
		endpoint string
		kind     pubnub.Kind
		never    bool
	}{
		"400":           {front(t, 400, `[0,"Wildcard maximum depth exceeded `+everything+`","1"]`), pubnub.KindInvalid, true},
		"invalid key":   {front(t, 400, `[0,"Invalid Key","1"]`), pubnub.KindDenied, false},
		"413":           {front(t, 413, everything), pubnub.KindTooLarge, true},
		"403":           {front(t, 403, everything), pubnub.KindDenied, false},
		"404":           {front(t, 404, everything), pubnub.KindUnreadable, false},
		"408":           {front(t, 408, everything), pubnub.KindTimeout, false},
		"429":           {front(t, 429, everything), pubnub.KindLimited, false},
		"500":           {front(t, 500, everything), pubnub.KindServer, false},
		"redirect":      {front(t, 302, everything), pubnub.KindUnreadable, false},
		"HTML":          {front(t, 200, `<html>`+everything), pubnub.KindUnreadable, false},
		"short array":   {front(t, 200, `[]`), pubnub.KindUnreadable, false},
		"null":          {front(t, 200, `null`), pubnub.KindUnreadable, false},
		"refused":       {front(t, 200, `[0,"Invalid","17000000000000000"]`), pubnub.KindUnreadable, false},
		"no timetoken":  {front(t, 200, `[1,"Sent",17000000000000000]`), pubnub.KindUnreadable, false},
		"no connection": {closed.URL, pubnub.KindConnection, false},
	} {
		a := pubnub.Account{Endpoint: c.endpoint, PublishKey: "pub-key", SubscribeKey: "sub-key", Token: func() string { return "the-token" }, User: daemon}
		p, stats := publisher(t, a, func(o *pubnub.PublisherOptions) { o.Ring = nil })
		err := p.Publish(t.Context(), []states.Message{message(room, "id", `{"text":"dangerous-message"}`)})
		if e := failure(t, err); e.Kind != c.kind || e.Permanent() != c.never {
			t.Errorf("%s: %v, permanent %v", name, err, e.Permanent())
		}
		for e := err; e != nil; e = errors.Unwrap(e) {
			for _, secret := range secrets {
				if text := fmt.Sprintf("%v %+v %#v", e, e, e); strings.Contains(text, secret) {
					t.Errorf("%s: %q tells %q", name, text, secret)
				}
			}
		}
		if stats.Published.Load() != 0 || stats.PublishFailed.Load() != 1 {
			t.Errorf("%s: counted %d published", name, stats.Published.Load())
		}
	}
}

func TestAnAttemptThatHangsEnds(t *testing.T) {
	server := start(t, standin.Config{})
	p, _ := publisher(t, account(server), func(o *pubnub.PublisherOptions) { o.Attempt = 50 * time.Millisecond })
	inject(t, server, standin.Fault{Match: "publish", Kind: standin.FaultStall})
	begin := time.Now()
	err := p.Publish(t.Context(), []states.Message{message(room, "id", `{}`)})
	if e := failure(t, err); e.Kind != pubnub.KindTimeout || !errors.Is(err, context.DeadlineExceeded) || time.Since(begin) > 3*time.Second {
		t.Errorf("%v after %v", err, time.Since(begin))
	}
	ended, cancel := context.WithCancel(t.Context())
	cancel()
	if err := p.Publish(ended, []states.Message{message(room, "id", `{}`)}); !errors.Is(err, context.Canceled) {
		t.Error(err)
	}
}

func TestTheBreakerOpensAndCloses(t *testing.T) {
	server := start(t, standin.Config{})
	p, _ := publisher(t, account(server))
	inject(t, server, standin.Fault{Match: "publish", Kind: standin.FaultStatus, Status: 503})
	one := []states.Message{message(room, "id", `{}`)}
	for range 5 {
		if err := p.Publish(t.Context(), one); err == nil {
			t.Fatal("published")
		}
	}
	before := server.Requests()["publish"]
	if e := failure(t, p.Publish(t.Context(), one)); e.Kind != pubnub.KindSuspended || e.Permanent() || p.Breaker() != "open" {
		t.Errorf("%v, breaker %s", e, p.Breaker())
	}
	if server.Requests()["publish"] != before {
		t.Error("the breaker let a request through")
	}
	server.ClearFaults()
	eventually(t, "breaker closes", func() bool { return p.Publish(t.Context(), one) == nil })
	if p.Breaker() != "closed" {
		t.Error(p.Breaker())
	}
}

func TestTheTokenInForceIsUsedAndNothingIsInTheURL(t *testing.T) {
	var mu sync.Mutex
	var queries, paths []string
	server := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		mu.Lock()
		defer mu.Unlock()
		queries, paths = append(queries, r.URL.Query().Get("auth")+r.URL.Query().Get("signature")), append(paths, r.Method+" "+r.URL.Path)
		_, _ = io.WriteString(w, `[1,"Sent","17000000000000000"]`)
	}))
	defer server.Close()
	token := "first"
	a := pubnub.Account{Endpoint: server.URL, PublishKey: "p", SubscribeKey: "s", SecretKey: "secret", Token: func() string { return token }, User: daemon}
	p, _ := publisher(t, a)
	for _, token = range []string{"first", "second"} {
		if err := p.Publish(t.Context(), []states.Message{message(room, "", `{}`)}); err != nil {
			t.Fatal(err)
		}
	}
	if !slices.Equal(queries, []string{"first", "second"}) || !slices.Equal(paths, []string{"POST /publish/p/s/0/" + room + "/0", "POST /publish/p/s/0/" + room + "/0"}) {
		t.Errorf("%v %v", queries, paths)
	}
}

func TestAnAccountHasToBeWhole(t *testing.T) {
	good := pubnub.Account{Endpoint: "https://ps.pndsn.com", PublishKey: "p", SubscribeKey: "s", User: "u"}
	if err := good.Check(); err != nil {
		t.Fatal(err)
	}
	for name, spoil := range map[string]func(*pubnub.Account){
		"no scheme": func(a *pubnub.Account) { a.Endpoint = "ps.pndsn.com" },
		"a path":    func(a *pubnub.Account) { a.Endpoint += "/v2" },
		"publish":   func(a *pubnub.Account) { a.PublishKey = "" },
		"subscribe": func(a *pubnub.Account) { a.SubscribeKey = "" },
		"user":      func(a *pubnub.Account) { a.User = " " },
	} {
		a := good
		spoil(&a)
		if a.Check() == nil {
			t.Errorf("%s: taken", name)
		}
	}
}
