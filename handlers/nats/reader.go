package nats

import (
	"context"
	"errors"
	"fmt"
	"sync"
	"time"

	"github.com/nats-io/nats.go"
	"github.com/nats-io/nats.go/jetstream"
)

// Reading is by short-lived consumers in the server's memory: a session begins with a new consumer behind the last
// message delivered, and ends at the first doubt (connection lost, heartbeat missing, a delivery skipped). So nothing
// has to be acknowledged, and whatever goes wrong is repaired in one way.
const (
	pullMessages    = 2048
	pullBytes       = 8 << 20 // bounds the memory of one reader; well below the client library's limit per subscription
	pullExpiry      = 10 * time.Second
	pullHeartbeat   = time.Second
	consumerIdle    = 30 * time.Second // until the server forgets the consumer of a dead reader
	goodbyeTimeout  = 250 * time.Millisecond
	firstSessionTry = 20 * time.Millisecond
	lastSessionTry  = 100 * time.Millisecond // short: a page may be waiting in the log
)

// message is one stored message. Its header and data are shared with the client library: read, do not change.
type message struct {
	seq     uint64
	at      time.Time
	subject string
	header  nats.Header
	data    []byte
}

// reader reads one stream in order.
type reader struct {
	client  *Client
	stream  string
	subject string // "" reads every subject
	// lost decides what becomes of a start below the first stored message; nil refuses.
	lost func(*LostError) error
	// toEnd ends the reading with success when there are no more messages; otherwise it waits for new ones for ever.
	toEnd bool

	pos     uint64    // sequence of the last message delivered
	created time.Time // of the stream, when first seen
}

// errSession ends a session in a way that a new session repairs.
var errSession = errors.New("reading was interrupted")

// stopError is deliver's wish to end, told apart from whatever else may have the same cause.
type stopError struct{ cause error }

func (e *stopError) Error() string { return e.cause.Error() }

// errDone ends a reading that reached its end.
var errDone = errors.New("reached the end")

// run delivers everything after r.pos until ctx ends, deliver fails, or with toEnd until the end.
func (r *reader) run(ctx context.Context, deliver func(message) error) error {
	pause, timeout := firstSessionTry, firstTry
	for {
		before := r.pos
		err := r.session(ctx, timeout, deliver)
		var stop *stopError
		switch {
		case errors.As(err, &stop):
			return stop.cause
		case errors.Is(err, errDone):
			return nil
		case ctx.Err() != nil:
			return ctx.Err()
		case !errors.Is(err, errSession) && !errors.Is(err, context.Canceled) && !transient(err):
			return err
		case r.client.Conn.IsClosed():
			return fmt.Errorf("read %s: %w", r.stream, nats.ErrConnectionClosed)
		}
		if r.pos != before {
			pause, timeout = firstSessionTry, firstTry
		}
		r.client.log.Debug().Err(err).Str("stream", r.stream).Uint64("after", r.pos).Msg("reading was interrupted; going on with a new consumer")
		if !sleep(ctx, pause) {
			return ctx.Err()
		}
		pause, timeout = min(2*pause, lastSessionTry), min(2*timeout, lastTry)
	}
}

func (r *reader) session(ctx context.Context, timeout time.Duration, deliver func(message) error) error {
	// Listen for the loss of the connection before there is a consumer, so that none goes unnoticed: what the server sent
	// into a broken connection counts as delivered there.
	status := r.client.Conn.StatusChanged(nats.RECONNECTING, nats.CLOSED)
	defer r.client.Conn.RemoveStatusListener(status)
	outer := ctx
	ctx, interrupt := context.WithCancelCause(ctx)
	defer interrupt(nil)
	go func() {
		select {
		case <-status:
			interrupt(errSession)
		case <-ctx.Done():
		}
	}()

	if err := r.check(ctx, timeout); err != nil {
		return err
	}
	config := jetstream.ConsumerConfig{
		DeliverPolicy:     jetstream.DeliverByStartSequencePolicy,
		OptStartSeq:       r.pos + 1,
		AckPolicy:         jetstream.AckNonePolicy,
		FilterSubject:     r.subject,
		MemoryStorage:     true,
		Replicas:          1,
		InactiveThreshold: consumerIdle,
	}
	tryCtx, cancel := context.WithTimeout(ctx, timeout)
	consumer, err := r.client.JS.CreateConsumer(tryCtx, r.stream, config)
	cancel()
	if err != nil {
		return fmt.Errorf("read %s: %w", r.stream, err)
	}
	defer func() {
		bye, cancel := context.WithTimeout(context.WithoutCancel(outer), goodbyeTimeout)
		defer cancel()
		_ = r.client.JS.DeleteConsumer(bye, r.stream, consumer.CachedInfo().Name) // else it goes by itself
	}()

	if r.toEnd && consumer.CachedInfo().NumPending == 0 {
		return errDone
	}

	var (
		mu    sync.Mutex // held while a message is delivered; guards r.pos, next and over
		next  = uint64(1)
		over  bool
		ended = make(chan error, 1)
	)
	end := func(err error) {
		select {
		case ended <- err:
		default:
		}
	}
	consuming, err := consumer.Consume(func(m jetstream.Msg) {
		mu.Lock()
		defer mu.Unlock()
		if over {
			return
		}
		meta, err := m.Metadata()
		if err == nil && (meta.Sequence.Consumer != next || meta.Sequence.Stream <= r.pos) {
			err = errSession
		}
		if err == nil {
			if cause := deliver(message{
				seq: meta.Sequence.Stream, at: meta.Timestamp, subject: m.Subject(), header: m.Headers(), data: m.Data(),
			}); cause != nil {
				err = &stopError{cause}
			}
		}
		if err == nil {
			next++
			r.pos = meta.Sequence.Stream
			if r.toEnd && meta.NumPending == 0 {
				err = errDone
			}
		}
		if err != nil {
			over = true
			end(err)
		}
	},
		jetstream.PullMaxMessagesWithBytesLimit(pullMessages, pullBytes),
		jetstream.PullExpiry(pullExpiry),
		jetstream.PullHeartbeat(pullHeartbeat),
		jetstream.ConsumeErrHandler(func(_ jetstream.ConsumeContext, err error) {
			end(fmt.Errorf("%w: %w", errSession, err))
		}),
	)
	if err != nil {
		return fmt.Errorf("read %s: %w", r.stream, err)
	}
	select {
	case <-ctx.Done():
		err = context.Cause(ctx)
	case err = <-ended:
	}
	consuming.Stop()
	mu.Lock() // waits for a delivery that is under way; none comes after it
	over = true
	mu.Unlock()
	return err
}

// check compares the position with the stream: it must lie inside.
func (r *reader) check(ctx context.Context, timeout time.Duration) error {
	tryCtx, cancel := context.WithTimeout(ctx, timeout)
	defer cancel()
	s, err := r.client.JS.Stream(tryCtx, r.stream)
	if err != nil {
		return fmt.Errorf("read %s: %w", r.stream, err)
	}
	info := s.CachedInfo()
	if r.created.IsZero() {
		r.created = info.Created
	}
	state := info.State
	if r.pos > state.LastSeq || !r.created.Equal(info.Created) {
		return &ReplacedError{Stream: r.stream, After: r.pos, Last: state.LastSeq}
	}
	if r.pos > 0 && r.pos+1 < state.FirstSeq {
		lost := &LostError{Stream: r.stream, After: r.pos, First: state.FirstSeq}
		if r.lost == nil {
			return lost
		}
		if err := r.lost(lost); err != nil {
			return &stopError{err}
		}
		r.pos = state.FirstSeq - 1
	}
	return nil
}

// ReplacedError says that a position lies beyond the end of a stream, or that the stream was created anew: the position
// was made with another stream, or the stream has lost its end.
type ReplacedError struct {
	Stream      string
	After, Last uint64
}

// Error says what to do.
func (e *ReplacedError) Error() string {
	return fmt.Sprintf("stream %s ends at %d, but the position to read on from is %d: the stream was deleted, restored from "+
		"a backup or lost its end, or the store belongs to another NATS; connect the two that belong together, "+
		"or empty the store and rebuild it from the log", e.Stream, e.Last, e.After)
}

// LostError says that messages between a position and the first stored message have aged out of a stream.
type LostError struct {
	Stream       string
	After, First uint64
}

// Lost is the number of sequences that can no longer be read.
func (e *LostError) Lost() uint64 { return e.First - e.After - 1 }

// Error says how many are lost and what to do.
func (e *LostError) Error() string {
	return fmt.Sprintf("stream %s begins at %d, but the position to read on from is %d: %d entries have aged out unread; "+
		"restore a backup of the store that is not older than the log, or accept the loss", e.Stream, e.First, e.After, e.Lost())
}
