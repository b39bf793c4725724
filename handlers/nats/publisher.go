package nats

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"slices"
	"strings"

	"github.com/nats-io/nats.go"
	"github.com/nats-io/nats.go/jetstream"

	"consultd/handlers"
	"consultd/states"
)

// Publisher says messages on NATS. It is safe for concurrent use.
type Publisher struct {
	client *Client
	wire   func(states.Message) (*nats.Msg, error)
}

// NewPublisher says each message on the subject that follows from its channel; see handlers.MessageSubject.
func NewPublisher(c *Client) *Publisher { return &Publisher{client: c, wire: wire} }

// PublishError is why one message was not accepted.
type PublishError struct {
	ID, Subject string
	Cause       error
	permanent   bool
}

// Error names the message and the cause, never the content.
func (e *PublishError) Error() string {
	return fmt.Sprintf("publish %s to %s: %v", e.ID, e.Subject, e.Cause)
}

// Unwrap is the cause.
func (e *PublishError) Unwrap() error { return e.Cause }

// Permanent says whether the message would be refused again, however often it is tried.
func (e *PublishError) Permanent() bool { return e.permanent }

// Publish publishes all messages at once and returns when every one is stored, or with the *PublishError of each that is
// not, joined. Every message carries its id, so that all of them can be published again after an error.
func (p *Publisher) Publish(ctx context.Context, ms []states.Message) error {
	var errs []error
	fail := func(m states.Message, subject string, err error) {
		errs = append(errs, &PublishError{ID: m.ID, Subject: subject, Cause: err, permanent: hopeless(subject, err)})
	}
	type flight struct {
		m       states.Message
		subject string
		future  jetstream.PubAckFuture
	}
	flights := make([]flight, 0, len(ms))
	for _, m := range ms {
		msg, err := p.wire(m)
		if err != nil {
			fail(m, msg.Subject, err)
			continue
		}
		future, err := p.client.JS.PublishMsgAsync(msg, jetstream.WithMsgID(m.ID), jetstream.WithRetryAttempts(0))
		if err != nil {
			fail(m, msg.Subject, err)
			continue
		}
		flights = append(flights, flight{m, msg.Subject, future})
	}
	for _, f := range flights {
		select {
		case <-f.future.Ok():
		case err := <-f.future.Err():
			fail(f.m, f.subject, err)
		case <-ctx.Done():
			fail(f.m, f.subject, ctx.Err())
		}
	}
	return errors.Join(errs...)
}

// errEnvelope and errSubject are the faults of a message that no repetition cures.
var (
	errEnvelope = errors.New("a message for the log must be {actor, role, body}")
	errSubject  = errors.New("the channel name is not usable as a subject")
)

// raised is the payload of a message that goes into the log: whose request it is travels in the headers there, as with
// any backend.
type raised struct {
	Actor string          `json:"actor"`
	Role  string          `json:"role"`
	Body  json.RawMessage `json:"body"`
}

func wire(m states.Message) (*nats.Msg, error) {
	subject, intoLog := handlers.MessageSubject(m.Channel)
	msg := &nats.Msg{Subject: subject, Data: m.Payload, Header: nats.Header{}}
	if !validSubject(subject) {
		return msg, errSubject
	}
	if intoLog {
		var r raised
		if err := json.Unmarshal(m.Payload, &r); err != nil || r.Actor == "" || r.Role == "" || len(r.Body) == 0 {
			return msg, errEnvelope // the cause could quote the content
		}
		msg.Data = r.Body
		msg.Header.Set(handlers.HeaderActor, r.Actor)
		msg.Header.Set(handlers.HeaderRole, r.Role)
		msg.Header.Set(handlers.HeaderSource, string(states.SourceConsultd))
	}
	return msg, nil
}

func hopeless(subject string, err error) bool {
	if errors.Is(err, errSubject) || errors.Is(err, errEnvelope) {
		return true
	}
	if errors.Is(err, jetstream.ErrNoStreamResponse) {
		return !captured(subject) // no stream will ever take it; otherwise its stream is away
	}
	return permanent(err)
}

// captured says whether one of the streams takes a subject.
func captured(subject string) bool {
	return slices.ContainsFunc(Streams(DefaultStreamOptions()), func(c jetstream.StreamConfig) bool {
		return slices.ContainsFunc(c.Subjects, func(s string) bool { return overlap(s, subject) })
	})
}

// validSubject says whether one message can be published on a subject.
func validSubject(s string) bool {
	for token := range strings.SplitSeq(s, ".") {
		if token == "" || strings.ContainsFunc(token, func(r rune) bool { return r <= ' ' || r == 0x7f || r == '*' || r == '>' }) {
			return false
		}
	}
	return true
}
