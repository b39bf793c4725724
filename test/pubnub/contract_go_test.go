package pubnub_test

import (
	"context"
	"errors"
	"fmt"
	"net/http"
	"strings"
	"syscall"
	"testing"
	"time"

	sdk "github.com/pubnub/go/v7"

	standin "consultd/test/pubnub"
)

func start(t *testing.T, cfg standin.Config) *standin.Server {
	t.Helper()
	s, err := standin.Start(cfg)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(s.Close)
	return s
}

func deadline(t *testing.T) context.Context {
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), 30*time.Second)
	t.Cleanup(cancel)
	return ctx
}

// goClient is an unmodified Go SDK client of the stand-in.
func goClient(s *standin.Server, user string, change ...func(*sdk.Config)) *sdk.PubNub {
	config := sdk.NewConfigWithUserId(sdk.UserId(user))
	config.Origin = s.Origin()
	config.Secure = false
	config.PublishKey, config.SubscribeKey = s.Config().PublishKey, s.Config().SubscribeKey
	config.MaxWorkers = 0
	for _, f := range change {
		f(config)
	}
	return sdk.NewPubNub(config)
}

func signed(s *standin.Server) func(*sdk.Config) {
	return func(config *sdk.Config) { config.SecretKey = s.Config().SecretKey }
}

// goListener collects what a Go SDK client receives.
type goListener struct {
	client   *sdk.PubNub
	messages chan *sdk.PNMessage
	signals  chan *sdk.PNMessage
	presence chan *sdk.PNPresence
	statuses chan sdk.StatusCategory
}

func listen(t *testing.T, client *sdk.PubNub) *goListener {
	t.Helper()
	l := &goListener{
		client: client, messages: make(chan *sdk.PNMessage, 1000), signals: make(chan *sdk.PNMessage, 100),
		presence: make(chan *sdk.PNPresence, 100), statuses: make(chan sdk.StatusCategory, 1000),
	}
	listener := sdk.NewListener()
	client.AddListener(listener)
	ctx := t.Context()
	go func() {
		for {
			select {
			case m := <-listener.Message:
				l.messages <- m
			case m := <-listener.Signal:
				l.signals <- m
			case m := <-listener.Presence:
				l.presence <- m
			case status := <-listener.Status:
				l.statuses <- status.Category
			case <-ctx.Done():
				return
			}
		}
	}()
	t.Cleanup(client.UnsubscribeAll)
	return l
}

func next[T any](t *testing.T, what string, from <-chan T) T {
	t.Helper()
	select {
	case v := <-from:
		return v
	case <-deadline(t).Done():
		t.Fatalf("no %s", what)
		panic("unreachable")
	}
}

func must[T any](t *testing.T) func(T, sdk.StatusResponse, error) T {
	t.Helper()
	return func(v T, _ sdk.StatusResponse, err error) T {
		t.Helper()
		if err != nil {
			t.Fatal(err)
		}
		return v
	}
}

func TestGoSDKTimeIs17DigitsAndRises(t *testing.T) {
	s := start(t, standin.Config{})
	client := goClient(s, "dr-smith")
	first := must[*sdk.TimeResponse](t)(client.Time().Execute())
	second := must[*sdk.TimeResponse](t)(client.Time().Execute())
	if len(fmt.Sprint(first.Timetoken)) != 17 || second.Timetoken <= first.Timetoken {
		t.Fatalf("timetokens %d, %d", first.Timetoken, second.Timetoken)
	}
}

func TestGoSDKPublishesByGetAndPostSignedAndUnsigned(t *testing.T) {
	s := start(t, standin.Config{})
	for _, sign := range []bool{false, true} {
		for _, post := range []bool{false, true} {
			t.Run(fmt.Sprintf("signed=%v,post=%v", sign, post), func(t *testing.T) {
				client := goClient(s, "dr-smith")
				if sign {
					client = goClient(s, "dr-smith", signed(s))
				}
				channel := fmt.Sprintf("waiting-room.%v-%v", sign, post)
				for n := range 2 { // the second request carries telemetry parameters, which are signed too
					payload := map[string]any{
						"action": "PATIENT_READY_CONFIRMED", "text": "a/b?c=d&e+f *!'()~ Grüße €", "n": n,
						"pn_apns": map[string]any{"aps": map[string]any{"alert": "x"}},
					}
					response := must[*sdk.PublishResponse](t)(client.Publish().Channel(channel).Message(payload).UsePost(post).
						Meta(map[string]any{"type": "state change"}).CustomMessageType("consult-state").TTL(2).ShouldStore(true).Execute())
					got := s.Published(channel)[n]
					if got.Timetoken != response.Timestamp || got.UUID != "dr-smith" || got.CustomType != "consult-state" || !got.Stored || got.Sequence == 0 {
						t.Errorf("published %+v, response %d", got, response.Timestamp)
					}
					if want := `{"type":"state change"}`; string(got.Meta) != want {
						t.Errorf("meta %s, want %s", got.Meta, want)
					}
					if !strings.Contains(string(got.Payload), "pn_apns") || !strings.Contains(string(got.Payload), "*!'()~ Grüße €") {
						t.Errorf("payload %s", got.Payload)
					}
				}
			})
		}
	}
}

func TestGoSDKWithWrongSecretIsRefused(t *testing.T) {
	s := start(t, standin.Config{})
	client := goClient(s, "dr-smith", func(config *sdk.Config) { config.SecretKey = "sec-c-other" })
	for _, post := range []bool{false, true} {
		_, status, err := client.Publish().Channel("c").Message("x").UsePost(post).Execute()
		if err == nil || status.StatusCode != 403 {
			t.Errorf("post=%v: status %d, error %v", post, status.StatusCode, err)
		}
	}
	if got := s.Published("c"); len(got) != 0 {
		t.Errorf("published all the same: %d", len(got))
	}
}

func TestGoSDKWithWrongKeysIsRefused(t *testing.T) {
	s := start(t, standin.Config{})
	for want, change := range map[string]func(*sdk.Config){
		"Invalid Key":           func(config *sdk.Config) { config.PublishKey = "pub-c-other" },
		"Invalid Subscribe Key": func(config *sdk.Config) { config.SubscribeKey = "sub-c-other" },
	} {
		_, status, err := goClient(s, "dr-smith", change).Publish().Channel("c").Message("x").Execute()
		if err == nil || status.StatusCode != 400 || !strings.Contains(err.Error(), want) {
			t.Errorf("%s: status %d, error %v", want, status.StatusCode, err)
		}
	}
	wrong := goClient(s, "dr-smith", func(config *sdk.Config) { config.SubscribeKey = "sub-c-other" })
	if _, status, err := wrong.Fetch().Channels([]string{"c"}).Execute(); err == nil || status.StatusCode != 400 {
		t.Errorf("fetch: status %d, error %v", status.StatusCode, err)
	}
}

func TestGoSDKReceivesOnChannelWildcardAndGroup(t *testing.T) {
	s := start(t, standin.Config{})
	ctx := deadline(t)
	sender := goClient(s, "patient-1")
	must[*sdk.AddChannelToChannelGroupResponse](t)(sender.AddChannelToChannelGroup().ChannelGroup("staff").Channels([]string{"emergency.cardio"}).Execute())

	l := listen(t, goClient(s, "dr-smith"))
	l.client.Subscribe().Channels([]string{"waiting-room.dr-smith", "consultation.*"}).ChannelGroups([]string{"staff"}).Execute()
	if err := s.WaitSubscribers(ctx, "emergency.cardio", 1); err != nil {
		t.Fatal(err)
	}
	for channel, match := range map[string]string{
		"waiting-room.dr-smith":         "",
		"consultation.dr-smith.p1":      "consultation.*",
		"consultation.dr-smith.p1.chat": "consultation.*",
		"emergency.cardio":              "staff",
	} {
		response := must[*sdk.PublishResponse](t)(sender.Publish().Channel(channel).Message(map[string]any{"on": channel}).UsePost(true).Meta("m").Execute())
		m := next(t, "message on "+channel, l.messages)
		if m.Channel != channel || m.Subscription != match || m.Publisher != "patient-1" || m.Timetoken != response.Timestamp || m.UserMetadata != "m" {
			t.Errorf("on %s: %+v", channel, m)
		}
	}
}

func TestGoSDKSignalIsDeliveredAndNotStored(t *testing.T) {
	s := start(t, standin.Config{})
	l := listen(t, goClient(s, "dr-smith"))
	l.client.Subscribe().Channels([]string{"consultation.a"}).Execute()
	if err := s.WaitSubscribers(deadline(t), "consultation.a", 1); err != nil {
		t.Fatal(err)
	}
	sender := goClient(s, "patient-1", signed(s))
	must[*sdk.SignalResponse](t)(sender.Signal().Channel("consultation.a").Message("typing").Execute())
	if m := next(t, "signal", l.signals); m.Message != "typing" || m.Channel != "consultation.a" {
		t.Errorf("signal %+v", m)
	}
	if _, status, err := sender.Signal().Channel("consultation.a").Message(strings.Repeat("x", 65)).Execute(); err == nil || status.StatusCode != 400 {
		t.Errorf("long signal: status %d, error %v", status.StatusCode, err)
	}
	fetched := must[*sdk.FetchResponse](t)(sender.Fetch().Channels([]string{"consultation.a"}).Execute())
	if n := len(fetched.Messages["consultation.a"]); n != 0 {
		t.Errorf("%d signals in history", n)
	}
}

func TestGoSDKPagesThroughHistoryAndDeletes(t *testing.T) {
	s := start(t, standin.Config{})
	client := goClient(s, "dr-smith", signed(s))
	const total = 230
	var tokens []int64
	for n := range total {
		tt, err := s.Publish("h", "backend", n)
		if err != nil {
			t.Fatal(err)
		}
		tokens = append(tokens, tt)
	}
	var found []string
	for start := int64(0); ; {
		request := client.Fetch().Channels([]string{"h"}).Count(100).IncludeUUID(true).IncludeMeta(true).IncludeMessageType(true)
		if start != 0 {
			request = request.Start(start)
		}
		page := must[*sdk.FetchResponse](t)(request.Execute()).Messages["h"]
		var texts []string
		for _, m := range page {
			texts = append(texts, m.Timetoken)
			if m.UUID != "backend" {
				t.Fatalf("uuid %q", m.UUID)
			}
		}
		found = append(texts, found...)
		if len(page) < 100 {
			break
		}
		_, _ = fmt.Sscan(page[0].Timetoken, &start)
	}
	if want := strings.Trim(fmt.Sprint(tokens), "[]"); strings.Join(found, " ") != want {
		t.Errorf("paged %d messages back, or in another order; want %d", len(found), total)
	}

	counts := must[*sdk.MessageCountsResponse](t)(client.MessageCounts().Channels([]string{"h", "empty"}).ChannelsTimetoken([]int64{tokens[total-10], 1}).Execute())
	if counts.Channels["h"] != 10 || counts.Channels["empty"] != 0 {
		t.Errorf("counts %v", counts.Channels)
	}
	must[*sdk.HistoryDeleteResponse](t)(client.DeleteMessages().Channel("h").Start(tokens[4] - 1).End(tokens[4]).Execute())
	history := must[*sdk.HistoryResponse](t)(client.History().Channel("h").Count(3).Start(tokens[6]).IncludeTimetoken(true).Execute())
	if len(history.Messages) != 3 || fmt.Sprint(history.Messages[0].Message, history.Messages[1].Message, history.Messages[2].Message) != "2 3 5" {
		t.Errorf("history after delete: %+v", history.Messages)
	}
}

func TestGoSDKFetchesSeveralChannels25Each(t *testing.T) {
	s := start(t, standin.Config{})
	for n := range 40 {
		for _, channel := range []string{"a", "b"} {
			if _, err := s.Publish(channel, "u", n); err != nil {
				t.Fatal(err)
			}
		}
	}
	fetched := must[*sdk.FetchResponse](t)(goClient(s, "u").Fetch().Channels([]string{"a", "b", "none"}).Execute())
	if len(fetched.Messages["a"]) != 25 || len(fetched.Messages["b"]) != 25 || fetched.Messages["a"][24].Message != float64(39) {
		t.Errorf("a: %d, b: %d", len(fetched.Messages["a"]), len(fetched.Messages["b"]))
	}
}

func TestGoSDKManagesChannelGroups(t *testing.T) {
	s := start(t, standin.Config{})
	client := goClient(s, "u", signed(s))
	must[*sdk.AddChannelToChannelGroupResponse](t)(client.AddChannelToChannelGroup().ChannelGroup("g").Channels([]string{"a", "b", "c"}).Execute())
	must[*sdk.RemoveChannelFromChannelGroupResponse](t)(client.RemoveChannelFromChannelGroup().ChannelGroup("g").Channels([]string{"b"}).Execute())
	listed := must[*sdk.AllChannelGroupResponse](t)(client.ListChannelsInChannelGroup().ChannelGroup("g").Execute())
	if fmt.Sprint(listed.Channels) != "[a c]" || listed.ChannelGroup != "g" {
		t.Errorf("listed %+v", listed)
	}
	must[*sdk.DeleteChannelGroupResponse](t)(client.DeleteChannelGroup().ChannelGroup("g").Execute())
	listed = must[*sdk.AllChannelGroupResponse](t)(client.ListChannelsInChannelGroup().ChannelGroup("g").Execute())
	if len(listed.Channels) != 0 {
		t.Errorf("listed after delete %+v", listed)
	}
}

func TestGoSDKPresenceJoinHereNowWhereNowLeave(t *testing.T) {
	s := start(t, standin.Config{})
	watcher := listen(t, goClient(s, "watcher"))
	watcher.client.Subscribe().Channels([]string{"presence.providers"}).WithPresence(true).Execute()
	if err := s.WaitSubscribers(deadline(t), "presence.providers-pnpres", 1); err != nil {
		t.Fatal(err)
	}
	if e := next(t, "own join", watcher.presence); e.Event != "join" || e.UUID != "watcher" || e.Occupancy != 1 {
		t.Errorf("first event %+v", e)
	}
	doctor := goClient(s, "dr-smith")
	must[any](t)(doctor.Heartbeat().Channels([]string{"presence.providers"}).Execute())
	if e := next(t, "join", watcher.presence); e.Event != "join" || e.UUID != "dr-smith" || e.Occupancy != 2 || e.Channel != "presence.providers" {
		t.Errorf("second event %+v", e)
	}
	must[*sdk.SetStateResponse](t)(doctor.SetState().Channels([]string{"presence.providers"}).State(map[string]any{"busy": true}).Execute())
	if e := next(t, "state change", watcher.presence); e.Event != "state-change" || e.UUID != "dr-smith" {
		t.Errorf("third event %+v", e)
	}
	here := must[*sdk.HereNowResponse](t)(doctor.HereNow().Channels([]string{"presence.providers"}).IncludeUUIDs(true).IncludeState(true).Execute())
	if here.TotalOccupancy != 2 || len(here.Channels) != 1 || here.Channels[0].Occupants[0].State["busy"] != true {
		t.Errorf("here now %+v", here)
	}
	global := must[*sdk.HereNowResponse](t)(doctor.HereNow().IncludeUUIDs(true).Execute())
	if global.TotalOccupancy != 2 || global.TotalChannels != 1 {
		t.Errorf("here now everywhere %+v", global)
	}
	where := must[*sdk.WhereNowResponse](t)(doctor.WhereNow().UUID("dr-smith").Execute())
	if fmt.Sprint(where.Channels) != "[presence.providers]" {
		t.Errorf("where now %v", where.Channels)
	}
	if _, err := doctor.Leave().Channels([]string{"presence.providers"}).Execute(); err != nil {
		t.Fatal(err)
	}
	if e := next(t, "leave", watcher.presence); e.Event != "leave" || e.UUID != "dr-smith" || e.Occupancy != 1 {
		t.Errorf("last event %+v", e)
	}
}

// patient retries a subscribe request until it is answered, so that the SDK never sees the outage: left alone, v7.4.0
// gives up for good on a short one.
type patient struct {
	refused chan struct{} // holds one token once a connection was refused
}

func (p patient) RoundTrip(r *http.Request) (*http.Response, error) {
	for {
		response, err := http.DefaultTransport.RoundTrip(r)
		if err == nil {
			return response, nil
		}
		if errors.Is(err, syscall.ECONNREFUSED) {
			select {
			case p.refused <- struct{}{}:
			default:
			}
		}
		select {
		case <-time.After(5 * time.Millisecond):
		case <-r.Context().Done():
			return nil, r.Context().Err()
		}
	}
}

func TestGoSDKContinuesAtItsCursorAfterPauseAndResume(t *testing.T) {
	s := start(t, standin.Config{})
	ctx := deadline(t)
	l := listen(t, goClient(s, "dr-smith"))
	transport := patient{refused: make(chan struct{}, 1)}
	l.client.SetSubscribeClient(&http.Client{Transport: transport})
	l.client.Subscribe().Channels([]string{"c"}).Execute()
	if err := s.WaitSubscribers(ctx, "c", 1); err != nil {
		t.Fatal(err)
	}
	s.Pause()
	next(t, "refused connection", transport.refused)
	if _, err := s.Publish("c", "backend", "during the outage"); err != nil {
		t.Fatal(err)
	}
	if _, _, err := goClient(s, "u").Time().Execute(); err == nil {
		t.Fatal("paused stand-in still answers")
	}
	if err := s.Resume(); err != nil {
		t.Fatal(err)
	}
	if m := next(t, "message", l.messages); m.Message != "during the outage" {
		t.Errorf("got %v", m.Message)
	}
}
