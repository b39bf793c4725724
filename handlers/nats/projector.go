package nats

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"time"

	"github.com/nats-io/nats.go"
	"github.com/nats-io/nats.go/jetstream"
	"github.com/rs/zerolog"

	"consultd/handlers"
	"consultd/states"
)

// Sizes of the audit projection.
const (
	projectorName  = "consultd-audit-projector"
	projectorBatch = 256              // messages taken at once
	projectorIdle  = 5 * time.Second  // how long one request for a first message stays open
	projectorWait  = 30 * time.Second // until the server gives an unacknowledged message to another replica

	maxProjection = 24 << 10 // bytes of a projected message; PubNub takes 32 KiB, and encryption adds a third
)

// Projector copies audit entries to the organization's audit channel, at least once and in order. All replicas share
// its place in the stream. The stream remains the truth: a projection may repeat entries, which keep their ids.
type Projector struct {
	client       *Client
	organization string
	log          zerolog.Logger
}

// NewProjector projects to the channel audit.{organization}.
func NewProjector(c *Client, organization string, log zerolog.Logger) *Projector {
	return &Projector{client: c, organization: organization, log: log}
}

// Run projects until ctx ends, and returns nil then. publish is asked again until it succeeds.
func (p *Projector) Run(ctx context.Context, publish func(context.Context, []states.Message) error) error {
	pause := retryPause
	for {
		err := p.pass(ctx, publish, func() { pause = retryPause })
		if ctx.Err() != nil {
			return nil
		}
		p.log.Warn().Err(err).Msg("audit projection was interrupted; starting again")
		if !sleep(ctx, pause) {
			return nil
		}
		pause = min(2*pause, maxRetryPause)
	}
}

func (p *Projector) pass(ctx context.Context, publish func(context.Context, []states.Message) error, progress func()) error {
	tryCtx, cancel := context.WithTimeout(ctx, requestTimeout)
	defer cancel()
	consumer, err := p.client.JS.CreateOrUpdateConsumer(tryCtx, AuditStream, jetstream.ConsumerConfig{
		Durable:       projectorName,
		FilterSubject: handlers.AuditEntrySubject,
		AckPolicy:     jetstream.AckExplicitPolicy,
		AckWait:       projectorWait,
		MaxAckPending: projectorBatch,
	})
	if err != nil {
		return fmt.Errorf("audit projection: %w", err)
	}
	for {
		taken, err := p.take(ctx, consumer)
		if err != nil {
			return fmt.Errorf("audit projection: %w", err)
		}
		if len(taken) == 0 {
			continue
		}
		if err := p.say(ctx, taken, publish); err != nil {
			for _, m := range taken {
				_ = m.Nak() // for the next replica, at once; a lost word costs it projectorWait
			}
			return err
		}
		if err := acknowledge(ctx, taken); err != nil {
			return fmt.Errorf("audit projection: acknowledge: %w", err)
		}
		progress()
	}
}

// acknowledge does so also when the connection has to come back first: what is not acknowledged comes again, but only after
// projectorWait, and what lies behind it may have to wait as long.
func acknowledge(ctx context.Context, taken []jetstream.Msg) error {
	for _, m := range taken {
		for m.Ack() != nil {
			if !sleep(ctx, retryPause) {
				return ctx.Err()
			}
		}
	}
	return nil
}

// take waits for a first message and takes along what else is there.
func (p *Projector) take(ctx context.Context, consumer jetstream.Consumer) ([]jetstream.Msg, error) {
	waitCtx, cancel := context.WithTimeout(ctx, projectorIdle)
	defer cancel()
	first, err := consumer.Fetch(1, jetstream.FetchContext(waitCtx))
	if err != nil {
		return nil, fmt.Errorf("fetch: %w", err)
	}
	var taken []jetstream.Msg
	for m := range first.Messages() {
		taken = append(taken, m)
	}
	if len(taken) == 0 {
		if err := first.Error(); err != nil && !errors.Is(err, nats.ErrTimeout) && !errors.Is(err, context.DeadlineExceeded) {
			return nil, fmt.Errorf("fetch: %w", err)
		}
		return nil, ctx.Err()
	}
	rest, err := consumer.FetchNoWait(projectorBatch - 1)
	if err != nil {
		return taken, nil // they come with the next request
	}
	for m := range rest.Messages() {
		taken = append(taken, m)
	}
	return taken, nil
}

// say publishes what was taken, as often as it takes, and keeps the messages reserved meanwhile.
func (p *Projector) say(ctx context.Context, taken []jetstream.Msg, publish func(context.Context, []states.Message) error) error {
	messages, err := p.pack(taken)
	if err != nil {
		return err
	}
	pause, failed := retryPause, false
	for {
		err := publish(ctx, messages)
		if err == nil {
			return nil
		}
		if !failed {
			p.log.Warn().Err(err).Msg("audit projection is not accepted; trying until it is")
			failed = true
		}
		for _, m := range taken {
			_ = m.InProgress() // without a connection another replica may take them too, and say them once more
		}
		if !sleep(ctx, pause) {
			return ctx.Err()
		}
		pause = min(2*pause, 5*maxRetryPause)
	}
}

// pack puts the entries of many messages into few, each small enough for the channel.
func (p *Projector) pack(taken []jetstream.Msg) ([]states.Message, error) {
	type projection struct {
		ID        string            `json:"id"`
		Action    string            `json:"action"`
		Timestamp string            `json:"timestamp"`
		Entries   []json.RawMessage `json:"entries"`
	}
	var (
		out  []states.Message
		next projection
		size int
	)
	flush := func() error {
		if len(next.Entries) == 0 {
			return nil
		}
		payload, err := json.Marshal(next)
		if err != nil {
			return fmt.Errorf("audit projection: encode: %w", err)
		}
		out = append(out, states.Message{ID: next.ID, Channel: handlers.Audit(p.organization), Payload: payload})
		next, size = projection{}, 0
		return nil
	}
	const envelope = 256 // more than everything around the entries
	for _, m := range taken {
		entries, ok := auditEntries(m.Data())
		if !ok {
			p.log.Error().Msg("the audit stream holds a message without audit entries; run: consultd audit verify")
			continue
		}
		for i := range entries {
			e := &entries[i]
			raw, err := json.Marshal(e)
			if err != nil {
				return nil, fmt.Errorf("audit projection: encode: %w", err)
			}
			if size > 0 && size+len(raw)+1 > maxProjection-envelope {
				if err := flush(); err != nil {
					return nil, err
				}
			}
			if next.ID == "" {
				next.ID, next.Action = "audit."+e.ID, "AUDIT_ENTRIES"
			}
			next.Timestamp = e.Timestamp.UTC().Format("2006-01-02T15:04:05.000Z07:00")
			next.Entries = append(next.Entries, raw)
			size += len(raw) + 1
		}
	}
	return out, flush()
}
