package pubnub

import (
	"cmp"
	"context"
	"crypto/hmac"
	"crypto/sha256"
	"encoding/base64"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/url"
	"slices"
	"strconv"
	"strings"
	"time"

	sdk "github.com/pubnub/go/v7"
	"github.com/pubnub/go/v7/pnerr"
)

const redacted = "[redacted]"

const (
	// connectTimeout and callTimeout bound requests other than polls.
	connectTimeout = 5 * time.Second
	callTimeout    = 10 * time.Second
	// maxAnswer bounds an answer's body: a hundred messages of the largest size are less than a quarter of it.
	maxAnswer = 16 << 20
)

// Account is who the daemon is to PubNub. It prints redacted.
type Account struct {
	// Endpoint is scheme and host: https://ps.pndsn.com, or where a stand-in listens.
	Endpoint     string
	PublishKey   string
	SubscribeKey string
	// SecretKey may do everything. Without Token it also signs the daemon's messaging; with Token only Admin uses it.
	SecretKey string
	// Token gives the Access Manager token in force; it is asked before every request. Nil without Access Manager.
	Token func() string
	// User is the user id under which the daemon speaks, and by which it recognises its own messages.
	User string
	// Network carries the requests; nil for a transport with sensible timeouts.
	Network http.RoundTripper
}

// Format redacts under every verb of package fmt.
func (a Account) Format(f fmt.State, _ rune) { _, _ = f.Write([]byte(redacted)) }

// MarshalJSON redacts.
func (a Account) MarshalJSON() ([]byte, error) { return []byte(`"` + redacted + `"`), nil }

// Check says what is missing or wrong.
func (a Account) Check() error {
	endpoint, err := url.Parse(a.Endpoint)
	switch {
	case err != nil || endpoint.Host == "" || endpoint.Scheme != "http" && endpoint.Scheme != "https" || strings.Trim(endpoint.Path, "/") != "":
		return errors.New("pubnub account: endpoint must be http(s)://host[:port]")
	case a.SubscribeKey == "":
		return errors.New("pubnub account: subscribe key is missing")
	case a.PublishKey == "":
		return errors.New("pubnub account: publish key is missing")
	case strings.TrimSpace(a.User) == "":
		return errors.New("pubnub account: user id is missing")
	}
	return nil
}

// origin is the host, and whether it is reached by TLS.
func (a Account) origin() (host string, secure bool) {
	scheme, host, _ := strings.Cut(strings.TrimRight(a.Endpoint, "/"), "://")
	return host, scheme == "https"
}

func (a Account) token() string {
	if a.Token == nil {
		return ""
	}
	return a.Token()
}

func (a Account) network() http.RoundTripper {
	if a.Network != nil {
		return a.Network
	}
	// A poll may be silent for minutes, so a dead connection is found by keep-alive probes, not by a response timeout.
	dialer := &net.Dialer{Timeout: connectTimeout, KeepAliveConfig: net.KeepAliveConfig{Enable: true, Idle: 15 * time.Second, Interval: 5 * time.Second, Count: 3}}
	return &http.Transport{
		Proxy: http.ProxyFromEnvironment, DialContext: dialer.DialContext, TLSHandshakeTimeout: connectTimeout,
		MaxIdleConnsPerHost: 32, IdleConnTimeout: time.Minute,
	}
}

// client makes an SDK client. Without secret it has no key that could sign, grant or delete.
func (a Account) client(network http.RoundTripper, secret bool) *sdk.PubNub {
	config := sdk.NewConfigWithUserId(sdk.UserId(a.User))
	config.Origin, config.Secure = a.origin()
	config.PublishKey, config.SubscribeKey = a.PublishKey, a.SubscribeKey
	if secret {
		config.SecretKey = a.SecretKey
	}
	config.MaxWorkers = 0                 // its worker queue hangs on cancelled contexts and panics on shutdown
	config.MessageQueueOverflowCount = 99 // with the default it can never fire
	config.SuppressLeaveEvents = true     // the daemon does not appear in presence
	config.PNReconnectionPolicy = sdk.PNNonePolicy
	config.StoreTokensOnGrant = false
	client := sdk.NewPubNub(config)
	client.SetClient(&http.Client{Transport: network, Timeout: callTimeout, CheckRedirect: noRedirect})
	return client
}

// noRedirect keeps requests, which carry the token, from being sent elsewhere.
func noRedirect(*http.Request, []*http.Request) error { return http.ErrUseLastResponse }

// Kind is what went wrong with a call.
type Kind string

// The kinds.
const (
	KindConnection Kind = "no connection"
	KindTimeout    Kind = "timeout"
	KindLimited    Kind = "rate limited"
	KindServer     Kind = "server error"
	KindDenied     Kind = "access denied"
	KindInvalid    Kind = "refused as invalid"
	KindTooLarge   Kind = "message too large"
	KindUnreadable Kind = "unreadable answer"
	KindSuspended  Kind = "suspended after repeated failures"
	KindCrypto     Kind = "encryption failed"
	KindStopped    Kind = "stopped"
)

// Error is all that is ever told about a failed call. It holds no text from the SDK or the service, because theirs contains
// URLs with token, signature and message.
type Error struct {
	Op     string // what was tried: publish, subscribe, history, ...
	Status int    // HTTP status, 0 when there was no answer
	Kind   Kind
	Retry  bool // the same call may succeed later

	cause error // context.Canceled, context.DeadlineExceeded or nil
	after time.Duration
}

// Error names operation, kind and status.
func (e *Error) Error() string {
	if e.Status != 0 {
		return fmt.Sprintf("pubnub %s: %s (status %d)", e.Op, e.Kind, e.Status)
	}
	return fmt.Sprintf("pubnub %s: %s", e.Op, e.Kind)
}

// Permanent says that the same call will never succeed.
func (e *Error) Permanent() bool { return !e.Retry }

// Unwrap gives the context's error when the context ended the call.
func (e *Error) Unwrap() error { return e.cause }

// statusError judges an answer by its status. An unknown status is retried: a proxy's opinion is not the service's.
func statusError(op string, status int, body []byte) *Error {
	e := &Error{Op: op, Status: status, Retry: true}
	switch {
	case status == http.StatusRequestTimeout:
		e.Kind = KindTimeout
	case status == http.StatusTooManyRequests:
		e.Kind = KindLimited
	case status >= 500:
		e.Kind = KindServer
	case status == http.StatusUnauthorized, status == http.StatusForbidden:
		e.Kind = KindDenied
	case status == http.StatusBadRequest && namesKey(body):
		e.Kind = KindDenied // the account is wrong, not this message
	case status == http.StatusRequestEntityTooLarge, status == http.StatusRequestURITooLong:
		e.Kind, e.Retry = KindTooLarge, false
	case status == http.StatusBadRequest:
		e.Kind, e.Retry = KindInvalid, false
	default:
		e.Kind = KindUnreadable
	}
	return e
}

// namesKey recognises the service's complaint about the keys: [0,"Invalid Key","..."].
func namesKey(body []byte) bool {
	var parts []json.RawMessage
	var text string
	return json.Unmarshal(body, &parts) == nil && len(parts) > 1 && json.Unmarshal(parts[1], &text) == nil && strings.HasSuffix(text, "Key")
}

// connectionError judges a failure to get an answer; ctx is the call's own.
func connectionError(ctx context.Context, op string, err error) *Error {
	e := &Error{Op: op, Kind: KindConnection, Retry: true}
	var timeout net.Error
	switch {
	case errors.Is(ctx.Err(), context.Canceled):
		e.Kind, e.cause = KindStopped, context.Canceled
	case ctx.Err() != nil:
		e.Kind, e.cause = KindTimeout, context.DeadlineExceeded
	case errors.As(err, &timeout) && timeout.Timeout():
		e.Kind = KindTimeout
	}
	return e
}

// call runs one SDK call: its panics, nil answers and error texts end here.
func call[T any](ctx context.Context, op string, f func() (*T, sdk.StatusResponse, error)) (answer *T, status sdk.StatusResponse, err error) {
	defer func() {
		if recover() != nil {
			answer, err = nil, &Error{Op: op, Kind: KindUnreadable, Retry: true}
		}
	}()
	if ctx.Err() != nil {
		return nil, status, connectionError(ctx, op, ctx.Err())
	}
	answer, status, err = f()
	if err != nil {
		return nil, status, redact(ctx, op, status, err)
	}
	if answer == nil {
		return nil, status, &Error{Op: op, Status: status.StatusCode, Kind: KindUnreadable, Retry: true}
	}
	return answer, status, nil
}

func redact(ctx context.Context, op string, status sdk.StatusResponse, err error) *Error {
	var server *pnerr.ServerError
	var connection *pnerr.ConnectionError
	var validation *pnerr.ValidationError
	var build *pnerr.BuildRequestError
	switch {
	case errors.As(err, &server):
		return statusError(op, server.StatusCode, server.Body)
	case errors.As(err, &connection):
		return connectionError(ctx, op, connection.OrigError)
	case errors.As(err, &validation), errors.As(err, &build):
		return &Error{Op: op, Kind: KindInvalid}
	case ctx.Err() != nil:
		return connectionError(ctx, op, err)
	default:
		return &Error{Op: op, Status: status.StatusCode, Kind: KindUnreadable, Retry: true}
	}
}

// guard runs SDK code that has no answer.
func guard(f func()) {
	defer func() { _ = recover() }()
	f()
}

// params is a query, in which every key comes once.
type params map[string]string

// parseParams reads a raw query as the SDK writes it: values are partly escaped, and + stands for itself.
func parseParams(raw string) params {
	p := make(params)
	for pair := range strings.SplitSeq(raw, "&") {
		key, value, _ := strings.Cut(pair, "=")
		if key == "" {
			continue
		}
		if plain, err := url.PathUnescape(value); err == nil {
			value = plain
		}
		p[key] = value
	}
	return p
}

// encode gives the query in the one form that is also signed.
func (p params) encode() string {
	keys := make([]string, 0, len(p))
	for key := range p {
		keys = append(keys, key)
	}
	slices.Sort(keys)
	pairs := make([]string, len(keys))
	for i, key := range keys {
		pairs[i] = key + "=" + escape(p[key])
	}
	return strings.Join(pairs, "&")
}

func escape(s string) string {
	return strings.NewReplacer("+", "%20", "~", "%7E").Replace(url.QueryEscape(s))
}

// authorize adds the token, or a fresh signature: an old one is refused after a minute, so retries need their own.
func (a Account) authorize(p params, path string, now time.Time) string {
	delete(p, "auth")
	delete(p, "timestamp")
	delete(p, "signature")
	if token := a.token(); token != "" {
		p["auth"] = token
	}
	if a.Token != nil || a.SecretKey == "" {
		return p.encode()
	}
	p["timestamp"] = strconv.FormatInt(now.Unix(), 10)
	query := p.encode()
	return query + "&signature=" + sign(a.SecretKey, http.MethodGet, a.PublishKey, path, query, nil)
}

// sign is PubNub's signature, version 2.
func sign(secret, method, publishKey, path, query string, body []byte) string {
	mac := hmac.New(sha256.New, []byte(secret))
	_, _ = fmt.Fprintf(mac, "%s\n%s\n%s\n%s\n%s", method, publishKey, path, query, body)
	return "v2." + base64.RawURLEncoding.EncodeToString(mac.Sum(nil))
}

// get makes one GET of our own, for what the SDK cannot be trusted with, and decodes the JSON object of the answer.
func (a Account) get(ctx context.Context, network http.RoundTripper, op, path string, p params, into any) error {
	ctx, cancel := context.WithTimeout(ctx, callTimeout)
	defer cancel()
	p["uuid"], p["pnsdk"] = a.User, "PubNub-Go/"+sdk.Version
	address := strings.TrimRight(a.Endpoint, "/") + path + "?" + a.authorize(p, path, time.Now())
	request, err := http.NewRequestWithContext(ctx, http.MethodGet, address, nil)
	if err != nil {
		return &Error{Op: op, Kind: KindInvalid}
	}
	response, err := (&http.Client{Transport: network, CheckRedirect: noRedirect}).Do(request)
	if err != nil {
		return connectionError(ctx, op, err)
	}
	body, err := readAll(response.Body)
	if err != nil {
		return connectionError(ctx, op, err)
	}
	if response.StatusCode != http.StatusOK {
		return statusError(op, response.StatusCode, body)
	}
	if err := json.Unmarshal(body, into); err != nil {
		return &Error{Op: op, Status: response.StatusCode, Kind: KindUnreadable, Retry: true}
	}
	return nil
}

var errAnswerTooLarge = errors.New("answer is larger than 16 MiB")

// readAll reads a whole body, within bounds, and closes it.
func readAll(body io.ReadCloser) ([]byte, error) {
	defer func() { _ = body.Close() }()
	data, err := io.ReadAll(io.LimitReader(body, maxAnswer+1))
	if err == nil && len(data) > maxAnswer {
		err = errAnswerTooLarge
	}
	return data, err
}

// escapeNames gives a list of channel or group names as the path wants it.
func escapeNames(names []string) string {
	escaped := make([]string, len(names))
	for i, name := range names {
		escaped[i] = escape(name)
	}
	return cmp.Or(strings.Join(escaped, ","), ",")
}
