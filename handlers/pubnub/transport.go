package pubnub

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"io"
	"net/http"
	"strconv"
	"strings"
	"sync/atomic"
	"time"
)

// Element is one thing published on a channel, as the subscribe answer or history tells it.
type Element struct {
	Channel   string
	Publisher string // user id, as authenticated by PubNub; "" when there was none
	Timetoken int64  // unix time in units of 100 ns, unique and rising within a channel
	Kind      int    // 0 message, 1 signal, 2 app context, 3 message action, 4 file
	Payload   json.RawMessage
}

// Unreadable is an element that is not understood: a reference to it, never its content.
type Unreadable struct {
	Channel   string // "" when not even that is known
	Publisher string
	Timetoken int64 // 0 when not known
	Reason    string
}

// Batch is one answer of the subscribe service.
type Batch struct {
	Elements []Element
	Bad      []Unreadable
	From     int64 // the cursor that was asked for
	Cursor   int64 // the cursor to ask for next
	Region   int

	Held time.Duration // how long the answer took
	Down time.Duration // since the last completed poll, when the successful attempt began
}

// full says whether there may be more than the service's buffer held.
func (b *Batch) full() bool { return len(b.Elements)+len(b.Bad) >= 100 }

// hasty says whether an answer without messages came too soon: the service holds a poll for minutes, unless it has lost the
// cursor.
func (b *Batch) hasty(pace Pace) bool { return len(b.Elements)+len(b.Bad) == 0 && b.Held < pace.Hasty }

// receiver is what the transport hands answers to. Both return an error only when the transport is to stop.
type receiver interface {
	// began takes the answer to a handshake: nothing but where "now" is.
	began(ctx context.Context, now int64) error
	// poll asks with fetch, takes what comes, and returns when all of it is in the log. fetch fails only with its context.
	poll(ctx context.Context, fetch func(ctx context.Context, from int64) (Batch, error)) (Batch, error)
}

// transport is the http.RoundTripper under the SDK's subscribe loop. The SDK keeps up the protocol and never sees anything
// but success: failures are retried here, and the messages are taken out of the answers, since some would crash it, and it
// would deliver the others in any order. A request is answered only when what it brought is in the log; when that can no
// longer be, it is not answered at all.
type transport struct {
	ctx      context.Context // ends when this replica may no longer poll
	over     chan struct{}   // closed when the SDK client has been told to stop
	account  Account
	network  http.RoundTripper
	receiver receiver
	pace     Pace
	stats    *Stats
	alert    func(error)

	busy     atomic.Int64 // requests inside
	left     atomic.Int64 // when the last request left, by sinceStart
	started  time.Time
	lastPoll atomic.Int64 // when the last poll was completed, by sinceStart
}

var errNoSubscribe = errors.New("pubnub subscribe: unexpected request of the SDK")

// RoundTrip answers a subscribe request.
func (t *transport) RoundTrip(request *http.Request) (*http.Response, error) {
	t.busy.Add(1)
	t.stats.InFlight.Add(1)
	defer func() {
		t.left.Store(int64(time.Since(t.started)))
		t.stats.InFlight.Add(-1)
		t.busy.Add(-1)
	}()
	if request.Body != nil {
		_ = request.Body.Close()
	}
	path := requestPath(request)
	if !strings.HasPrefix(path, "/v2/subscribe/") {
		return nil, errNoSubscribe
	}
	ctx, cancel := context.WithCancel(request.Context())
	defer cancel()
	defer context.AfterFunc(t.ctx, cancel)()

	batch, err := t.serve(ctx, path, parseParams(request.URL.RawQuery))
	if err != nil {
		// An error would make the SDK guess, by words in its text and in the URL, what to do. It gets one only when it has
		// nothing left to do. (Its first request has a context that never ends.)
		<-t.over
		return nil, context.Canceled
	}
	return answerTo(request, batch), nil
}

// requestPath is the escaped path; the SDK hides it behind host in URL.Opaque.
func requestPath(request *http.Request) string {
	if path, ok := strings.CutPrefix(request.URL.Opaque, "//"+request.URL.Host); ok {
		return path
	}
	return request.URL.EscapedPath()
}

func (t *transport) serve(ctx context.Context, path string, query params) (Batch, error) {
	if tt := query["tt"]; tt == "" || tt == "0" {
		delete(query, "tt")
		batch, err := t.ask(ctx, path, query, 0, t.pace.Handshake)
		if err != nil {
			return Batch{}, err
		}
		return batch, t.receiver.began(ctx, batch.Cursor)
	}
	return t.receiver.poll(ctx, func(ctx context.Context, from int64) (Batch, error) {
		// The cursor is ours, whatever the SDK believes it to be.
		query["tt"] = strconv.FormatInt(from, 10)
		batch, err := t.ask(ctx, path, query, from, t.pace.Hold)
		if err == nil {
			t.lastPoll.Store(int64(time.Since(t.started)))
			t.stats.LastPoll.Store(time.Now().UnixMilli())
			t.stats.FailingSince.Store(0)
			t.stats.Polls.Add(1)
		}
		return batch, err
	})
}

// ask repeats a request until it is answered in good form or ctx ends.
func (t *transport) ask(ctx context.Context, path string, query params, from int64, limit time.Duration) (Batch, error) {
	wait := t.pace.retry()
	for {
		down, start := time.Since(t.started)-time.Duration(t.lastPoll.Load()), time.Now()
		batch, failure := t.attempt(ctx, path, query, limit)
		if failure == nil {
			batch.From, batch.Held, batch.Down = from, time.Since(start), down
			return batch, nil
		}
		if ctx.Err() != nil {
			return Batch{}, ctx.Err()
		}
		t.stats.Retries.Add(1)
		now := time.Now().UnixMilli()
		t.stats.FailingSince.CompareAndSwap(0, now)
		t.stats.LastFailure.Store(now)
		least := failure.after
		if failure.Kind == KindDenied || !failure.Retry {
			t.stats.Denied.Add(1)
			t.alert(failure)
			least = max(least, t.pace.Denied)
		}
		if err := wait.next(ctx, least); err != nil {
			return Batch{}, err
		}
	}
}

func (t *transport) attempt(ctx context.Context, path string, query params, limit time.Duration) (Batch, *Error) {
	ctx, cancel := context.WithTimeout(ctx, limit)
	defer cancel()
	address := strings.TrimRight(t.account.Endpoint, "/") + path + "?" + t.account.authorize(query, path, time.Now())
	request, err := http.NewRequestWithContext(ctx, http.MethodGet, address, nil)
	if err != nil {
		return Batch{}, &Error{Op: "subscribe", Kind: KindInvalid}
	}
	response, err := t.network.RoundTrip(request)
	if err != nil {
		return Batch{}, connectionError(ctx, "subscribe", err)
	}
	body, err := readAll(response.Body)
	if err != nil {
		return Batch{}, connectionError(ctx, "subscribe", err)
	}
	if response.StatusCode != http.StatusOK {
		failure := statusError("subscribe", response.StatusCode, body)
		failure.after = retryAfter(response.Header)
		return Batch{}, failure
	}
	batch, err := parseAnswer(body)
	if err != nil {
		return Batch{}, &Error{Op: "subscribe", Status: response.StatusCode, Kind: KindUnreadable, Retry: true}
	}
	return batch, nil
}

// retryAfter is what the service asks for, at most a minute.
func retryAfter(header http.Header) time.Duration {
	seconds, err := strconv.Atoi(header.Get("Retry-After"))
	if err != nil || seconds < 0 {
		return 0
	}
	return time.Duration(min(seconds, 60)) * time.Second
}

// idle says for how long the SDK has not asked for anything; 0 while it does.
func (t *transport) idle() time.Duration {
	if t.busy.Load() > 0 {
		return 0
	}
	return time.Since(t.started) - time.Duration(t.left.Load())
}

// answerTo is all that the SDK gets to see: where to go on, and no messages.
func answerTo(request *http.Request, batch Batch) *http.Response {
	region := batch.Region
	if region < 0 || region > 127 { // its field is that small
		region = 0
	}
	body := []byte(`{"t":{"t":"` + strconv.FormatInt(batch.Cursor, 10) + `","r":` + strconv.Itoa(region) + `},"m":[]}`)
	return &http.Response{
		Status: "200 OK", StatusCode: http.StatusOK, Proto: "HTTP/1.1", ProtoMajor: 1, ProtoMinor: 1,
		Header: http.Header{"Content-Type": {"application/json"}}, Body: io.NopCloser(bytes.NewReader(body)),
		ContentLength: int64(len(body)), Request: request,
	}
}

var errNoEnvelope = errors.New("answer is no subscribe envelope")

// parseAnswer reads an answer, element by element, so that one bad element spoils no other.
func parseAnswer(body []byte) (Batch, error) {
	var envelope struct {
		T *struct {
			T json.RawMessage `json:"t"`
			R json.RawMessage `json:"r"`
		} `json:"t"`
		M []json.RawMessage `json:"m"`
	}
	if err := json.Unmarshal(body, &envelope); err != nil || envelope.T == nil {
		return Batch{}, errNoEnvelope
	}
	cursor, ok := timetoken(envelope.T.T)
	if !ok {
		return Batch{}, errNoEnvelope
	}
	region, _ := strconv.Atoi(string(envelope.T.R))
	batch := Batch{Cursor: cursor, Region: region}
	for _, raw := range envelope.M {
		if element, bad := parseElement(raw); bad.Reason != "" {
			batch.Bad = append(batch.Bad, bad)
		} else {
			batch.Elements = append(batch.Elements, element)
		}
	}
	return batch, nil
}

// timetoken reads a string or number of digits.
func timetoken(raw json.RawMessage) (int64, bool) {
	tt, err := strconv.ParseInt(strings.Trim(string(raw), `"`), 10, 64)
	return tt, err == nil && tt > 0
}

// Reasons for which an element is not readable.
const (
	reasonForm      = "not an object"
	reasonChannel   = "no channel"
	reasonTimetoken = "no timetoken"
	reasonKind      = "unknown kind"
	reasonPublisher = "publisher is no plain user id"
	reasonPayload   = "no payload"
	reasonSize      = "payload is larger than 64 KiB"
)

const (
	maxPayload   = 64 << 10 // twice what PubNub takes; anything larger never came from it
	maxPublisher = 128
)

// parseElement reads one element of a subscribe answer.
func parseElement(raw json.RawMessage) (Element, Unreadable) {
	var fields struct {
		C, I, E, D json.RawMessage
		P          struct{ T json.RawMessage }
	}
	if err := json.Unmarshal(raw, &fields); err != nil || !bytes.HasPrefix(bytes.TrimSpace(raw), []byte("{")) {
		return Element{}, Unreadable{Reason: reasonForm}
	}
	var e Element
	if json.Unmarshal(orNull(fields.C), &e.Channel) != nil || !printable(e.Channel, 200) {
		return Element{}, Unreadable{Reason: reasonChannel}
	}
	tt, ok := timetoken(fields.P.T)
	if !ok {
		return Element{}, Unreadable{Channel: e.Channel, Reason: reasonTimetoken}
	}
	e.Timetoken = tt
	if json.Unmarshal(orNull(fields.E), &e.Kind) != nil {
		return Element{}, Unreadable{Channel: e.Channel, Timetoken: tt, Reason: reasonKind}
	}
	if json.Unmarshal(orNull(fields.I), &e.Publisher) != nil {
		return Element{}, Unreadable{Channel: e.Channel, Timetoken: tt, Reason: reasonPublisher}
	}
	e.Payload = fields.D
	return e, e.check()
}

// check says what keeps an element from entering the log. The publisher becomes a header of the log's entry.
func (e Element) check() Unreadable {
	bad := Unreadable{Channel: e.Channel, Publisher: e.Publisher, Timetoken: e.Timetoken}
	payload := bytes.TrimSpace(e.Payload)
	switch {
	case e.Publisher != "" && !printable(e.Publisher, maxPublisher):
		bad.Publisher, bad.Reason = "", reasonPublisher
	case len(payload) == 0 || string(payload) == "null":
		bad.Reason = reasonPayload
	case len(payload) > maxPayload:
		bad.Reason = reasonSize
	}
	return bad
}

func orNull(raw json.RawMessage) json.RawMessage {
	if raw == nil {
		return json.RawMessage("null")
	}
	return raw
}

// printable says whether s is 1 to limit characters of visible ASCII.
func printable(s string, limit int) bool {
	if len(s) == 0 || len(s) > limit {
		return false
	}
	for i := range len(s) {
		if s[i] <= ' ' || s[i] >= 0x7f {
			return false
		}
	}
	return true
}
