package pubnub

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"maps"
	"net/http"
	"strconv"
	"strings"
	"sync"
	"time"

	sdk "github.com/pubnub/go/v7"
	"github.com/sony/gobreaker/v2"

	"consultd/states"
)

const (
	// maxMessage is what PubNub takes, as it goes over the wire.
	maxMessage = 32 << 10
	// parallelChannels is how many channels of one call are published to at the same time.
	parallelChannels = 8
	// breakAfter failures in a row, attempts are suspended for breakFor; then one tries.
	breakAfter = 5
	breakFor   = time.Second
	// rememberPublished is how many confirmed messages are remembered, so that repeating a call that failed half way
	// publishes only the rest.
	rememberPublished = 8192
)

// PublisherOptions are what NewPublisher needs.
type PublisherOptions struct {
	Account Account
	Ring    *KeyRing      // nil publishes in clear
	Clear   []string      // channels that are published in clear nevertheless: names, or prefixes that end in *
	Attempt time.Duration // how long one attempt may take; 5 s when 0
	Stats   *Stats        // may be nil
}

// Publisher says messages to the apps. It is safe for concurrent use; order within a channel is kept within one call.
type Publisher struct {
	opts    PublisherOptions
	client  *sdk.PubNub
	breaker *gobreaker.CircuitBreaker[struct{}]
	done    *recent
}

// NewPublisher makes a publisher. It connects at the first message.
func NewPublisher(opts PublisherOptions) (*Publisher, error) {
	if err := opts.Account.Check(); err != nil {
		return nil, err
	}
	if opts.Attempt <= 0 {
		opts.Attempt = 5 * time.Second
	}
	if opts.Stats == nil {
		opts.Stats = new(Stats)
	}
	p := &Publisher{opts: opts, done: newRecent(rememberPublished)}
	p.client = opts.Account.client(opts.Account.network(), opts.Account.Token == nil)
	p.breaker = gobreaker.NewCircuitBreaker[struct{}](gobreaker.Settings{
		Name: "pubnub publish", Timeout: breakFor,
		ReadyToTrip: func(c gobreaker.Counts) bool { return c.ConsecutiveFailures >= breakAfter },
		// What is wrong with a message, or that the caller gave up, says nothing about the service.
		IsExcluded: func(err error) bool {
			var e *Error
			return errors.As(err, &e) && (!e.Retry || e.Kind == KindStopped)
		},
	})
	return p, nil
}

// Breaker is closed, half-open or open: whether attempts are made at present.
func (p *Publisher) Breaker() string { return p.breaker.State().String() }

// Publish says the messages, those of one channel in their order, and returns when PubNub has confirmed all of them.
// Messages marked as not for PubNub are passed over. The error is an *Error; messages confirmed before it are not published
// again when the call is repeated. It is permanent only when all that is left will never be taken.
func (p *Publisher) Publish(ctx context.Context, messages []states.Message) error {
	byChannel := make(map[string][]states.Message)
	for _, m := range messages {
		if m.Channel == "" || m.Channel[0] == '>' || m.Channel[0] == '!' {
			continue
		}
		byChannel[m.Channel] = append(byChannel[m.Channel], m)
	}
	var (
		group sync.WaitGroup
		mu    sync.Mutex
		slots = make(chan struct{}, parallelChannels)
		later *Error // some message is to be tried again
		never *Error // some message is not
	)
	for _, list := range byChannel {
		slots <- struct{}{}
		group.Go(func() {
			defer func() { <-slots }()
			for _, m := range list {
				err := p.publish(ctx, m)
				if err == nil {
					continue
				}
				mu.Lock()
				if err.Retry {
					if later == nil {
						later = err
					}
					mu.Unlock()
					return // what follows on this channel must not overtake it
				}
				if never == nil {
					never = err
				}
				mu.Unlock()
			}
		})
	}
	group.Wait()
	switch {
	case later != nil:
		return later
	case never != nil:
		return never
	default:
		return nil
	}
}

// publish says one message, once: what the app reads, and after it what the push gateways read.
func (p *Publisher) publish(ctx context.Context, m states.Message) *Error {
	bodies, err := p.bodies(m)
	if err != nil {
		return p.failed(err)
	}
	for i, body := range bodies {
		key := m.Channel + " " + m.ID + " " + strconv.Itoa(i)
		if m.ID != "" && p.done.has(key) {
			continue
		}
		if len(body) >= maxMessage {
			return p.failed(&Error{Op: "publish", Kind: KindTooLarge})
		}
		if _, err := p.breaker.Execute(func() (struct{}, error) { return struct{}{}, p.attempt(ctx, m.Channel, body) }); err != nil {
			return p.failed(err)
		}
		if m.ID != "" {
			p.done.add(key)
		}
	}
	p.opts.Stats.Published.Add(1)
	return nil
}

func (p *Publisher) failed(err error) *Error {
	p.opts.Stats.PublishFailed.Add(1)
	var e *Error
	if !errors.As(err, &e) { // the breaker's own
		return &Error{Op: "publish", Kind: KindSuspended, Retry: true}
	}
	if !e.Retry {
		p.opts.Stats.PublishNever.Add(1)
	}
	return e
}

// attempt publishes by POST, so that the message is in no URL.
func (p *Publisher) attempt(ctx context.Context, channel string, body []byte) error {
	ctx, cancel := context.WithTimeout(ctx, p.opts.Attempt)
	defer cancel()
	if p.opts.Account.Token != nil {
		p.client.SetToken(p.opts.Account.token())
	}
	_, status, err := call(ctx, "publish", func() (*sdk.PublishResponse, sdk.StatusResponse, error) {
		return p.client.PublishWithContext(ctx).Channel(channel).Message(string(body)).Serialize(false).UsePost(true).Execute()
	})
	if err != nil {
		return err
	}
	// The SDK looks only at the timetoken; a refusal carries one as well.
	var answer []json.RawMessage
	if json.Unmarshal([]byte(status.OriginalResponse), &answer) != nil || len(answer) == 0 || string(answer[0]) != "1" {
		return &Error{Op: "publish", Status: http.StatusOK, Kind: KindUnreadable, Retry: true}
	}
	return nil
}

// bodies gives a message as it goes over the wire. PubNub itself reads the keys of push notifications, so they have to be
// in clear; they travel as a message of their own behind the encrypted one, because the JavaScript SDK decrypts whole
// messages only, not the field that would otherwise hold the rest (pn_other).
func (p *Publisher) bodies(m states.Message) ([][]byte, error) {
	if !json.Valid(m.Payload) {
		return nil, &Error{Op: "publish", Kind: KindInvalid}
	}
	if p.opts.Ring == nil || p.clear(m.Channel) {
		return [][]byte{m.Payload}, nil
	}
	content, push, err := splitPush(m.Payload)
	if err != nil {
		return nil, &Error{Op: "publish", Kind: KindInvalid}
	}
	sealed, err := p.opts.Ring.Encrypt(content)
	if err != nil {
		return nil, &Error{Op: "publish", Kind: KindCrypto, Retry: true}
	}
	if push == nil {
		return [][]byte{sealed}, nil
	}
	return [][]byte{sealed, push}, nil
}

func (p *Publisher) clear(channel string) bool {
	for _, pattern := range p.opts.Clear {
		if prefix, ok := strings.CutSuffix(pattern, "*"); ok && strings.HasPrefix(channel, prefix) || pattern == channel {
			return true
		}
	}
	return false
}

// pushKey says whether PubNub itself reads this top-level key of a message.
func pushKey(name string) bool {
	switch name {
	case "pn_apns", "pn_fcm", "pn_gcm", "pn_debug":
		return true
	}
	return false
}

// splitPush takes the push keys out of a message. push is nil when it has none.
func splitPush(payload []byte) (content, push []byte, err error) {
	if !bytes.Contains(payload, []byte(`"pn_`)) {
		return payload, nil, nil
	}
	var fields map[string]json.RawMessage
	if err := json.Unmarshal(payload, &fields); err != nil { // not an object
		return payload, nil, nil
	}
	keys := make(map[string]json.RawMessage)
	maps.Copy(keys, fields)
	maps.DeleteFunc(keys, func(name string, _ json.RawMessage) bool { return !pushKey(name) })
	if len(keys) == 0 {
		return payload, nil, nil
	}
	maps.DeleteFunc(fields, func(name string, _ json.RawMessage) bool { return pushKey(name) })
	if content, err = json.Marshal(fields); err != nil {
		return nil, nil, err
	}
	push, err = json.Marshal(keys)
	return content, push, err
}
