package pubnub_test

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net/http"
	"net/url"
	"strconv"
	"strings"
	"sync"
	"testing"
	"time"

	standin "consultd/test/pubnub"
)

// wire talks to the stand-in without an SDK.
type wire struct {
	t    *testing.T
	s    *standin.Server
	ctx  context.Context
	http *http.Client
}

func newWire(t *testing.T, s *standin.Server) *wire {
	transport := &http.Transport{}
	t.Cleanup(transport.CloseIdleConnections)
	return &wire{t: t, s: s, ctx: deadline(t), http: &http.Client{Transport: transport}}
}

func (w *wire) try(ctx context.Context, method, path string) (status int, body []byte, err error) {
	request, err := http.NewRequestWithContext(ctx, method, w.s.URL()+path, nil)
	if err != nil {
		return 0, nil, err
	}
	response, err := w.http.Do(request)
	if err != nil {
		return 0, nil, err
	}
	defer response.Body.Close()
	body, err = io.ReadAll(response.Body)
	return response.StatusCode, body, err
}

func (w *wire) do(method, path string) (int, string) {
	w.t.Helper()
	status, body, err := w.try(w.ctx, method, path)
	if err != nil {
		w.t.Fatalf("%s %s: %v", method, path, err)
	}
	return status, string(body)
}

func (w *wire) publishPath(channel, message, query string) string {
	return fmt.Sprintf("/publish/%s/%s/0/%s/0/%s?%s", standin.DefaultPublishKey, standin.DefaultSubscribeKey, url.PathEscape(channel), url.PathEscape(message), query)
}

type batch struct {
	Cursor struct {
		Timetoken string `json:"t"`
		Region    int    `json:"r"`
	} `json:"t"`
	Messages []struct {
		Channel   string          `json:"c"`
		Match     string          `json:"b"`
		Event     int             `json:"e"`
		Data      json.RawMessage `json:"d"`
		Published struct {
			Timetoken string `json:"t"`
		} `json:"p"`
	} `json:"m"`
}

func (b batch) texts() string {
	var texts []string
	for _, m := range b.Messages {
		texts = append(texts, string(m.Data))
	}
	return strings.Join(texts, " ")
}

func subscribePath(channels, tt, query string) string {
	return fmt.Sprintf("/v2/subscribe/%s/%s/0?tt=%s&%s", standin.DefaultSubscribeKey, channels, tt, query)
}

func (w *wire) tryPoll(ctx context.Context, channels, tt, query string) (b batch, err error) {
	status, body, err := w.try(ctx, http.MethodGet, subscribePath(channels, tt, query))
	if err != nil {
		return b, err
	}
	if status != http.StatusOK {
		return b, fmt.Errorf("status %d: %s", status, body)
	}
	if err := json.Unmarshal(body, &b); err != nil {
		return b, fmt.Errorf("%w in %q", err, body)
	}
	return b, nil
}

func (w *wire) poll(channels, tt string) batch {
	w.t.Helper()
	b, err := w.tryPoll(w.ctx, channels, tt, "")
	if err != nil {
		w.t.Fatal(err)
	}
	return b
}

func (w *wire) put(channel string, payload any) string {
	w.t.Helper()
	tt, err := w.s.Publish(channel, "backend", payload)
	if err != nil {
		w.t.Fatal(err)
	}
	return strconv.FormatInt(tt, 10)
}

func TestHandshakeAnswersAtOnceAndPollFromItsCursorMissesNothing(t *testing.T) {
	w := newWire(t, start(t, standin.Config{Region: 7}))
	w.put("c", 0)
	first := w.poll("c", "0")
	if len(first.Messages) != 0 || first.Cursor.Region != 7 || len(first.Cursor.Timetoken) != 17 {
		t.Fatalf("handshake %+v", first)
	}
	w.put("c", 1)
	w.put("other", 2)
	w.put("c", 3)
	second := w.poll("c", first.Cursor.Timetoken)
	if second.texts() != "1 3" {
		t.Errorf("poll gave %s", second.texts())
	}
	if again := w.poll("c", first.Cursor.Timetoken); again.texts() != "1 3" {
		t.Errorf("the same poll again gave %s", again.texts())
	}
	w.s.SetRegion(9)
	w.put("c", 4)
	if third := w.poll("c", second.Cursor.Timetoken); third.texts() != "4" || third.Cursor.Region != 9 {
		t.Errorf("next poll %+v", third)
	}
}

func TestPollWithoutMessagesIsHeldAndThenAnsweredEmpty(t *testing.T) {
	w := newWire(t, start(t, standin.Config{LongPoll: 30 * time.Millisecond}))
	from := w.poll("c", "0").Cursor.Timetoken
	began := time.Now()
	b := w.poll("c", from)
	if len(b.Messages) != 0 || b.Cursor.Timetoken <= from {
		t.Errorf("poll %+v after %s", b, from)
	}
	if held := time.Since(began); held < 30*time.Millisecond {
		t.Errorf("held for %v only", held)
	}
}

func TestHeldPollIsWokenByEachWayOfMatching(t *testing.T) {
	for name, one := range map[string]struct {
		cfg             standin.Config
		channels, query string
		on, match       string
	}{
		"channel":             {channels: "a.b", on: "a.b", match: "a.b"},
		"wildcard":            {channels: "a.*", on: "a.b", match: "a.*"},
		"deep wildcard":       {channels: "a.*", on: "a.b.c.d", match: "a.*"},
		"two dots":            {channels: "a.b.*", on: "a.b.c", match: "a.b.*"},
		"two dots, strict":    {cfg: standin.Config{StrictWildcards: true}, channels: "a.b.*", on: "a.b.c", match: "a.b.*"},
		"single level":        {cfg: standin.Config{SingleLevelWildcards: true}, channels: "a.*,a.b.*", on: "a.b.c", match: "a.b.*"},
		"escaped star":        {channels: "a.%2A", on: "a.b", match: "a.*"},
		"channel before star": {channels: "a.*,a.b", on: "a.b", match: "a.b"},
		"group":               {channels: ",", query: "channel-group=g", on: "member", match: "g"},
		"group and channel":   {channels: "x", query: "channel-group=g,g-pnpres", on: "member", match: "g"},
	} {
		t.Run(name, func(t *testing.T) {
			w := newWire(t, start(t, one.cfg))
			if status, body := w.do("GET", "/v1/channel-registration/sub-key/"+standin.DefaultSubscribeKey+"/channel-group/g?add=member"); status != 200 {
				t.Fatal(body)
			}
			hand, err := w.tryPoll(w.ctx, one.channels, "", one.query)
			if err != nil {
				t.Fatal(err)
			}
			got := make(chan batch, 1)
			go func() {
				b, err := w.tryPoll(w.ctx, one.channels, hand.Cursor.Timetoken, one.query)
				if err != nil {
					t.Error(err)
				}
				got <- b
			}()
			if err := w.s.WaitSubscribers(w.ctx, one.on, 1); err != nil {
				t.Fatal(err)
			}
			w.put("unrelated", 0)
			w.put(one.on, 1)
			if b := <-got; len(b.Messages) != 1 || b.Messages[0].Channel != one.on || b.Messages[0].Match != one.match {
				t.Errorf("got %+v", b)
			}
		})
	}
}

func TestSingleLevelWildcardDoesNotReachDeeper(t *testing.T) {
	w := newWire(t, start(t, standin.Config{SingleLevelWildcards: true, LongPoll: 10 * time.Millisecond}))
	from := w.poll("a.*", "0").Cursor.Timetoken
	w.put("a.b.c", 1)
	if b := w.poll("a.*", from); len(b.Messages) != 0 {
		t.Errorf("a.* got %s", b.texts())
	}
}

func TestBatchesHoldAtMost100OldestFirst(t *testing.T) {
	w := newWire(t, start(t, standin.Config{BufferSize: 1000}))
	tt := w.poll("c", "0").Cursor.Timetoken
	var want, got []string
	for n := range 250 {
		want = append(want, strconv.Itoa(n))
		w.put("c", n)
	}
	for _, size := range []int{100, 100, 50} {
		b := w.poll("c", tt)
		if len(b.Messages) != size {
			t.Fatalf("batch of %d, want %d", len(b.Messages), size)
		}
		got, tt = append(got, b.texts()), b.Cursor.Timetoken
	}
	if strings.Join(got, " ") != strings.Join(want, " ") {
		t.Errorf("got %v", got)
	}
}

func TestOverflowingBufferLosesTheOldestOverAllChannelsWithoutAMark(t *testing.T) {
	w := newWire(t, start(t, standin.Config{}))
	tt := w.poll("a,b", "0").Cursor.Timetoken
	for n := range 80 {
		w.put("a", n)
		w.put("b", n)
	}
	b := w.poll("a,b", tt)
	if len(b.Messages) != 100 || string(b.Messages[0].Data) != "30" || string(b.Messages[99].Data) != "79" {
		t.Errorf("got %d: %s", len(b.Messages), b.texts())
	}
	if w.s.Lost() != 60 {
		t.Errorf("lost %d, want 60", w.s.Lost())
	}
	if _, body := w.do("GET", "/v3/history/sub-key/"+standin.DefaultSubscribeKey+"/message-counts/a?timetoken=1"); !strings.Contains(body, `"a":80`) {
		t.Errorf("history lost them too: %s", body)
	}
}

// clock is a clock that tests move.
type clock struct {
	mu  sync.Mutex
	now time.Time
}

func newClock() *clock { return &clock{now: time.Unix(1_790_000_000, 0)} }

func (c *clock) Now() time.Time {
	c.mu.Lock()
	defer c.mu.Unlock()
	return c.now
}

func (c *clock) advance(d time.Duration) {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.now = c.now.Add(d)
}

func TestBufferForgetsByAgeButHistoryDoesNot(t *testing.T) {
	clock := newClock()
	w := newWire(t, start(t, standin.Config{Clock: clock.Now, LongPoll: 10 * time.Millisecond}))
	tt := w.poll("c", "0").Cursor.Timetoken
	w.put("c", 1)
	clock.advance(21 * time.Minute)
	w.put("c", 2)
	if b := w.poll("c", tt); b.texts() != "2" {
		t.Errorf("poll gave %s", b.texts())
	}
	w.s.Sweep()
	if b := w.poll("c", tt); b.texts() != "2" {
		t.Errorf("after the sweep poll gave %s", b.texts())
	}
	if n := len(w.s.Published("c")); n != 2 {
		t.Errorf("%d kept, want 2", n)
	}
}

func TestTimetokensRiseEvenWhenTheClockStandsStill(t *testing.T) {
	w := newWire(t, start(t, standin.Config{Clock: newClock().Now}))
	last := ""
	for range 50 {
		tt := w.put("c", 0)
		if len(tt) != 17 || tt <= last {
			t.Fatalf("%s after %s", tt, last)
		}
		last = tt
	}
}

func TestRefusedPublishes(t *testing.T) {
	loose, strict := newWire(t, start(t, standin.Config{})), newWire(t, start(t, standin.Config{StrictWildcards: true}))
	for name, one := range map[string]struct {
		w       *wire
		channel string
		message string
		query   string
		want    string // part of the body; empty: accepted
	}{
		"three dots, loose":      {w: loose, channel: "consultation.p.q.video", message: "1"},
		"three dots, strict":     {strict, "consultation.p.q.video", "1", "", "Wildcard maximum depth exceeded"},
		"two dots, strict":       {w: strict, channel: "consultation.p.q", message: "1"},
		"wildcard":               {loose, "a.*", "1", "", "Invalid Channel"},
		"comma":                  {loose, "a,b", "1", "", "Invalid Channel"},
		"colon":                  {loose, "a:b", "1", "", "Invalid Channel"},
		"slash":                  {loose, "a/b", "1", "", "Invalid Channel"},
		"space":                  {loose, "a b", "1", "", "Invalid Channel"},
		"presence":               {loose, "a-pnpres", "1", "", "Invalid Channel"},
		"92 characters":          {w: loose, channel: strings.Repeat("c", 92), message: "1"},
		"93 characters":          {loose, strings.Repeat("c", 93), "1", "", "Invalid Channel"},
		"no json":                {loose, "c", "{", "", "Invalid JSON"},
		"meta no json":           {loose, "c", "1", "meta=x", "Invalid Meta"},
		"message type too short": {loose, "c", "1", "custom_message_type=ab", "Invalid custom_message_type"},
		"32 KiB":                 {w: loose, channel: "c", message: `"` + strings.Repeat("x", 32<<10-2) + `"`},
		"over 32 KiB":            {loose, "c", `"` + strings.Repeat("x", 32<<10-1) + `"`, "", "Message Too Large"},
	} {
		status, body := one.w.do("GET", one.w.publishPath(one.channel, one.message, one.query))
		switch {
		case one.want == "" && (status != 200 || !strings.HasPrefix(body, `[1,"Sent","1`)):
			t.Errorf("%s: status %d, %s", name, status, body)
		case one.want != "" && (status != 400 || !strings.HasPrefix(body, `[0,"`+one.want+`","1`)):
			t.Errorf("%s: status %d, %s", name, status, body)
		}
	}
}

func TestHugeBodyIsRefusedWith413(t *testing.T) {
	s := start(t, standin.Config{})
	response, err := http.Post(s.URL()+"/publish/"+standin.DefaultPublishKey+"/"+standin.DefaultSubscribeKey+"/0/c/0", "application/json",
		strings.NewReader(strings.Repeat(" ", 1<<20)))
	if err != nil {
		t.Fatal(err)
	}
	response.Body.Close()
	if response.StatusCode != http.StatusRequestEntityTooLarge {
		t.Errorf("status %d", response.StatusCode)
	}
}

func TestNotStoredAndExpiredMessagesAreNotInHistory(t *testing.T) {
	clock := newClock()
	w := newWire(t, start(t, standin.Config{Clock: clock.Now}))
	tt := w.poll("c", "0").Cursor.Timetoken
	w.do("GET", w.publishPath("c", "1", "store=0"))
	w.do("GET", w.publishPath("c", "2", "ttl=1"))
	w.do("GET", w.publishPath("c", "3", "norep=true"))
	w.do("GET", w.publishPath("c", "4", "store=0&norep=true"))
	if b := w.poll("c", tt); b.texts() != "1 2" {
		t.Errorf("delivered %s, want 1 2", b.texts())
	}
	history := func() string {
		_, body := w.do("GET", "/v2/history/sub-key/"+standin.DefaultSubscribeKey+"/channel/c")
		return body[:strings.IndexByte(body, ']')+1]
	}
	if got := history(); got != "[[2,3]" {
		t.Errorf("history %s", got)
	}
	clock.advance(61 * time.Minute)
	if got := history(); got != "[[3]" {
		t.Errorf("history after an hour %s", got)
	}
}

func TestFetchPagesForwardAndBackAndNamesTheNextPage(t *testing.T) {
	w := newWire(t, start(t, standin.Config{}))
	var tts []string
	for n := range 7 {
		tts = append(tts, w.put("c", n))
	}
	for query, want := range map[string]string{
		"max=3":                              "4 5 6",
		"max=3&start=" + tts[4]:              "1 2 3",
		"max=3&start=" + tts[1]:              "0",
		"max=3&end=" + tts[5]:                "5 6",
		"max=3&reverse=true":                 "0 1 2",
		"max=3&reverse=true&start=" + tts[2]: "3 4 5",
		"reverse=true&start=" + tts[2] + "&end=" + tts[4]: "3 4",
		"start=" + tts[4] + "&end=" + tts[2]:              "2 3",
	} {
		_, body := w.do("GET", "/v3/history/sub-key/"+standin.DefaultSubscribeKey+"/channel/c?"+query)
		var page struct {
			Channels map[string][]struct {
				Message   int    `json:"message"`
				Timetoken string `json:"timetoken"`
			} `json:"channels"`
			More struct {
				Start string `json:"start"`
			} `json:"more"`
		}
		if err := json.Unmarshal([]byte(body), &page); err != nil {
			t.Fatal(err)
		}
		var got []string
		for _, m := range page.Channels["c"] {
			got = append(got, strconv.Itoa(m.Message))
		}
		if strings.Join(got, " ") != want {
			t.Errorf("%s: got %v, want %s", query, got, want)
		}
		if query == "max=3" && page.More.Start != tts[4] {
			t.Errorf("next page starts at %q, want %s", page.More.Start, tts[4])
		}
	}
	if status, body := w.do("GET", "/v3/history/sub-key/"+standin.DefaultSubscribeKey+"/channel/c?start=x"); status != 400 || !strings.Contains(body, "Invalid Arguments: start") {
		t.Errorf("status %d, %s", status, body)
	}
}

func TestDeleteTakesFromAfterStartUpToEnd(t *testing.T) {
	w := newWire(t, start(t, standin.Config{}))
	var tts []string
	for n := range 6 {
		tts = append(tts, w.put("c", n))
	}
	if status, body := w.do("DELETE", "/v3/history/sub-key/"+standin.DefaultSubscribeKey+"/channel/c?start="+tts[1]+"&end="+tts[3]); status != 200 {
		t.Fatal(body)
	}
	if _, body := w.do("GET", "/v2/history/sub-key/"+standin.DefaultSubscribeKey+"/channel/c"); !strings.HasPrefix(body, "[[0,1,4,5],") {
		t.Errorf("left: %s", body)
	}
	if published := w.s.Published("c"); len(published) != 6 || !published[2].Deleted || published[1].Deleted {
		t.Errorf("published %+v", published)
	}
}

func TestSilentUsersTimeOutAndThoseWithAHeldPollStay(t *testing.T) {
	clock := newClock()
	w := newWire(t, start(t, standin.Config{Clock: clock.Now}))
	from := w.poll("room-pnpres", "0").Cursor.Timetoken
	w.do("GET", "/v2/presence/sub-key/"+standin.DefaultSubscribeKey+"/channel/room/heartbeat?heartbeat=30&uuid=silent")
	tt := w.poll("room", "0").Cursor.Timetoken
	ctx, cancel := context.WithCancel(w.ctx)
	over := make(chan struct{})
	go func() {
		defer close(over)
		_, _ = w.tryPoll(ctx, "room", tt, "uuid=listening&heartbeat=20")
	}()
	if err := w.s.WaitSubscribers(w.ctx, "room", 1); err != nil {
		t.Fatal(err)
	}
	clock.advance(31 * time.Second)
	w.s.Sweep()
	cancel()
	<-over
	waitUntil(t, func() bool { return len(w.s.Subscribers()) == 0 })
	clock.advance(19 * time.Second) // counted from the end of the poll
	w.s.Sweep()
	w.do("GET", "/v2/presence/sub-key/"+standin.DefaultSubscribeKey+"/channel/room/heartbeat?heartbeat=30&uuid=late")
	clock.advance(2 * time.Second)
	w.s.Sweep()
	var events []string
	for _, m := range w.poll("room-pnpres", from).Messages {
		var e struct {
			Action    string `json:"action"`
			UUID      string `json:"uuid"`
			Occupancy int    `json:"occupancy"`
		}
		if err := json.Unmarshal(m.Data, &e); err != nil {
			t.Fatal(err)
		}
		events = append(events, fmt.Sprint(e.Action, " ", e.UUID, " ", e.Occupancy))
	}
	if got := strings.Join(events, ", "); got != "join silent 1, join listening 2, timeout silent 1, join late 2, timeout listening 1" {
		t.Errorf("events: %s", got)
	}
}

func TestSubscribeRefusals(t *testing.T) {
	w := newWire(t, start(t, standin.Config{}))
	for name, path := range map[string]string{
		"empty group":   subscribePath(",", "", "channel-group=none"),
		"bad name":      subscribePath("a%2Cb", "", ""),
		"bad timetoken": subscribePath("a", "soon", ""),
		"wrong key":     "/v2/subscribe/sub-c-other/a/0",
	} {
		if status, body := w.do("GET", path); status != 400 {
			t.Errorf("%s: status %d, %s", name, status, body)
		}
	}
	if status, _ := w.do("GET", "/no/such/path"); status != 404 {
		t.Errorf("unknown path: status %d", status)
	}
}

func TestAnswersSayTheyComeFromAStandInAndAllowBrowsers(t *testing.T) {
	s := start(t, standin.Config{})
	for _, method := range []string{http.MethodGet, http.MethodOptions} {
		request, err := http.NewRequestWithContext(deadline(t), method, s.URL()+"/time/0", nil)
		if err != nil {
			t.Fatal(err)
		}
		response, err := http.DefaultClient.Do(request)
		if err != nil {
			t.Fatal(err)
		}
		response.Body.Close()
		if response.StatusCode != 200 || response.Header.Get("Server") != standin.ServerHeader || response.Header.Get("Access-Control-Allow-Origin") != "*" {
			t.Errorf("%s: %d %v", method, response.StatusCode, response.Header)
		}
		if got := response.Header.Get("Content-Type"); method == http.MethodGet && got != `text/javascript; charset="UTF-8"` {
			t.Errorf("content type %s", got)
		}
	}
}

func TestMemoryIsBoundedByCountAndBytes(t *testing.T) {
	w := newWire(t, start(t, standin.Config{HistoryLimit: 5, MemoryLimit: 20_000}))
	for n := range 8 {
		w.put("small", n)
	}
	if got := w.s.Published("small"); len(got) != 5 || string(got[0].Payload) != "3" {
		t.Errorf("kept %d of small", len(got))
	}
	for n := range 40 {
		w.put(fmt.Sprint("large", n), strings.Repeat("x", 4000))
	}
	if got := w.s.Published(""); len(got) != 4 || got[0].Channel != "large36" {
		t.Errorf("kept %d in all", len(got))
	}
	if got := w.s.Published("small"); len(got) != 0 {
		t.Errorf("kept %d of small", len(got))
	}
}

func TestForgetLosesStateButTimetokensGoOn(t *testing.T) {
	w := newWire(t, start(t, standin.Config{LongPoll: 10 * time.Millisecond}))
	tt := w.poll("c", "0").Cursor.Timetoken
	last := w.put("c", 1)
	w.s.Forget()
	b := w.poll("c", tt)
	if len(b.Messages) != 0 || b.Cursor.Timetoken <= last || len(w.s.Published("c")) != 0 {
		t.Errorf("after Forget: %+v", b)
	}
}

func TestCloseEndsHundredsOfPollsAtOnceAndLeavesNothingRunning(t *testing.T) {
	s := start(t, standin.Config{})
	w := newWire(t, s)
	tt := w.poll("c", "0").Cursor.Timetoken
	const polls = 300
	ended := make(chan error, polls)
	for n := range polls {
		go func() {
			_, err := w.tryPoll(w.ctx, "c", tt, fmt.Sprint("uuid=u", n))
			ended <- err
		}()
	}
	if err := s.WaitSubscribers(w.ctx, "c", polls); err != nil {
		t.Fatal(err)
	}
	if n := len(s.Subscribers()); n != polls {
		t.Errorf("%d subscribers, want %d", n, polls)
	}
	s.Close()
	for range polls {
		if err := <-ended; err == nil {
			t.Error("a poll was answered")
		}
	}
	if n := len(s.Subscribers()); n != 0 {
		t.Errorf("%d subscribers after Close", n)
	}
	s.Close() // again is harmless
	if err := s.Resume(); err == nil {
		t.Error("a closed stand-in resumed")
	}
	waitForNoGoroutinesOf(t, "consultd/test/pubnub.(*Server)")
}

func TestOneMessageReachesHundredsOfPolls(t *testing.T) {
	w := newWire(t, start(t, standin.Config{}))
	tt := w.poll("c", "0").Cursor.Timetoken
	const polls = 300
	got := make(chan string, polls)
	for range polls {
		go func() {
			b, err := w.tryPoll(w.ctx, "c", tt, "")
			if err != nil && !errors.Is(err, context.Canceled) {
				t.Error(err)
			}
			got <- b.texts()
		}()
	}
	if err := w.s.WaitSubscribers(w.ctx, "c", polls); err != nil {
		t.Fatal(err)
	}
	w.put("c", 7)
	for range polls {
		if texts := <-got; texts != "7" {
			t.Errorf("a poll got %q", texts)
		}
	}
}
