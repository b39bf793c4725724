package nats

import (
	"context"
	"errors"
	"fmt"
	"maps"
	"slices"
	"strings"
	"sync/atomic"
	"time"

	"github.com/nats-io/nats.go"
	"github.com/nats-io/nats.go/jetstream"
	"github.com/nats-io/nuid"

	"consultd/handlers"
	"consultd/states"
)

// HeaderID is the header that carries a message's id.
const HeaderID = handlers.HeaderMsgID

// HeaderReplay names the position of the entry that an operator replayed.
const HeaderReplay = "Consult-Replay"

const headerPrefix = "Consult-"

// Tries of an append: short at first, because a lost request costs its whole timeout.
const (
	firstTry = 250 * time.Millisecond
	lastTry  = 2 * time.Second
)

// storageFull is how the server says that the account's storage is used up. It says so as if the request were at fault, but
// what does not fit now fits once an operator has made room.
const storageFull jetstream.ErrorCode = 10002

// Log is the log of one lane. It is safe for concurrent use.
type Log struct {
	client *Client
	lane   states.Lane
	stream string
	lost   func(*LostError) error
	handle atomic.Pointer[jetstream.Stream]
}

// NewLog is the log of a lane over a connection. lost is asked when a position to read on from has aged out of the log:
// nil from it means to go on with the first entry that is left, an error ends the Read; a nil lost refuses.
func NewLog(c *Client, lane states.Lane, lost func(*LostError) error) *Log {
	return &Log{client: c, lane: lane, stream: StreamOf(lane), lost: lost}
}

// Append stores an entry and returns its position. It tries until ctx ends or the server refuses for good; every try
// carries the same msgID, so that the entry is stored once within the stream's duplicate window. An empty msgID is
// replaced by a random one.
func (l *Log) Append(ctx context.Context, subject, msgID string, header map[string]string, data []byte) (uint64, error) {
	if msgID == "" {
		msgID = nuid.Next()
	}
	timeout, pause := firstTry, firstSessionTry
	for {
		ack, err := l.try(ctx, timeout, subject, msgID, header, data)
		if err == nil {
			return ack.Sequence, nil
		}
		if l.client.Conn.IsClosed() || permanent(err) {
			return 0, fmt.Errorf("append to %s: %w", l.stream, err)
		}
		if !sleep(ctx, pause) {
			return 0, fmt.Errorf("append to %s: %w (%w)", l.stream, err, ctx.Err())
		}
		timeout, pause = min(2*timeout, lastTry), min(2*pause, firstTry)
	}
}

func (l *Log) try(
	ctx context.Context, timeout time.Duration, subject, msgID string, header map[string]string, data []byte,
) (*jetstream.PubAck, error) {
	ctx, cancel := context.WithTimeout(ctx, timeout)
	defer cancel()
	m := &nats.Msg{Subject: subject, Data: data, Header: make(nats.Header, len(header)+2)}
	for k, v := range header {
		m.Header.Set(k, v)
	}
	return l.client.JS.PublishMsg(ctx, m,
		jetstream.WithMsgID(msgID), jetstream.WithExpectStream(l.stream), jetstream.WithRetryAttempts(0))
}

// Read delivers every entry after a position, in order and without gaps, until ctx ends or deliver returns an error,
// which it returns. Lost connections and restarts of the server are passed over. A position that does not belong to
// the log is a *ReplacedError; see NewLog for one that has aged out.
func (l *Log) Read(ctx context.Context, after uint64, deliver func(states.Entry) error) error {
	r := reader{client: l.client, stream: l.stream, lost: l.lost, pos: after}
	return r.run(ctx, func(m message) error { return deliver(l.entry(m)) })
}

// Last returns the last entry of a subject, if there is one.
func (l *Log) Last(ctx context.Context, subject string) (states.Entry, bool, error) {
	return l.get(ctx, subject, func(ctx context.Context, s jetstream.Stream) (*jetstream.RawStreamMsg, error) {
		return s.GetLastMsgForSubject(ctx, subject)
	})
}

// Next returns the first entry of a subject at or after a position, if there is one.
func (l *Log) Next(ctx context.Context, subject string, from uint64) (states.Entry, bool, error) {
	return l.get(ctx, subject, func(ctx context.Context, s jetstream.Stream) (*jetstream.RawStreamMsg, error) {
		return s.GetMsg(ctx, from, jetstream.WithGetMsgSubject(subject))
	})
}

// At returns the entry at a position, if it is still there.
func (l *Log) At(ctx context.Context, seq uint64) (states.Entry, bool, error) {
	return l.get(ctx, "", func(ctx context.Context, s jetstream.Stream) (*jetstream.RawStreamMsg, error) {
		return s.GetMsg(ctx, seq)
	})
}

// LastSeq is the position of the last entry, 0 in an empty log.
func (l *Log) LastSeq(ctx context.Context) (uint64, error) {
	ctx, cancel := context.WithTimeout(ctx, requestTimeout)
	defer cancel()
	s, err := l.client.JS.Stream(ctx, l.stream)
	if err != nil {
		return 0, fmt.Errorf("look at %s: %w", l.stream, err)
	}
	return s.CachedInfo().State.LastSeq, nil
}

// Identity tells this log from one that was created anew under its name, and where it ends.
func (l *Log) Identity(ctx context.Context) (id string, last uint64, err error) {
	ctx, cancel := context.WithTimeout(ctx, requestTimeout)
	defer cancel()
	s, err := l.client.JS.Stream(ctx, l.stream)
	if err != nil {
		return "", 0, fmt.Errorf("look at %s: %w", l.stream, err)
	}
	info := s.CachedInfo()
	return info.Created.UTC().Format(time.RFC3339Nano), info.State.LastSeq, nil
}

// Subjects lists the subjects below a filter that the log holds entries of.
func (l *Log) Subjects(ctx context.Context, filter string) ([]string, error) {
	ctx, cancel := context.WithTimeout(ctx, requestTimeout)
	defer cancel()
	s, err := l.client.JS.Stream(ctx, l.stream)
	if err != nil {
		return nil, fmt.Errorf("subjects of %s: %w", l.stream, err)
	}
	info, err := s.Info(ctx, jetstream.WithSubjectFilter(filter))
	if err != nil {
		return nil, fmt.Errorf("subjects of %s: %w", l.stream, err)
	}
	return slices.Collect(maps.Keys(info.State.Subjects)), nil
}

func (l *Log) get(
	ctx context.Context, subject string, ask func(context.Context, jetstream.Stream) (*jetstream.RawStreamMsg, error),
) (states.Entry, bool, error) {
	ctx, cancel := context.WithTimeout(ctx, requestTimeout)
	defer cancel()
	handle := l.handle.Load()
	if handle == nil {
		s, err := l.client.JS.Stream(ctx, l.stream)
		if err != nil {
			return states.Entry{}, false, fmt.Errorf("look at %s: %w", l.stream, err)
		}
		handle = &s
		l.handle.Store(handle)
	}
	raw, err := ask(ctx, *handle)
	if errors.Is(err, jetstream.ErrMsgNotFound) {
		return states.Entry{}, false, nil
	}
	if err != nil {
		return states.Entry{}, false, fmt.Errorf("read %s of %s: %w", subject, l.stream, err)
	}
	return l.entry(message{seq: raw.Sequence, at: raw.Time, subject: raw.Subject, header: raw.Header, data: raw.Data}), true, nil
}

func (l *Log) entry(m message) states.Entry {
	e := states.Entry{Lane: l.lane, Seq: m.seq, At: m.at.UTC(), Subject: m.subject, Data: m.data}
	for k, v := range m.header {
		if len(v) == 0 || k != handlers.HeaderMsgID && !strings.HasPrefix(k, headerPrefix) {
			continue
		}
		if e.Header == nil {
			e.Header = make(map[string]string, 4)
		}
		e.Header[k] = v[0]
	}
	return e
}

// replayHeader is the header under which an entry is appended once more.
func replayHeader(e states.Entry) map[string]string {
	h := maps.Clone(e.Header)
	if h == nil {
		h = map[string]string{}
	}
	delete(h, handlers.HeaderMsgID)
	h[HeaderReplay] = fmt.Sprint(e.Seq)
	return h
}

// permanent says whether a publication will be refused as often as it is tried.
func permanent(err error) bool { return Permanent(err) }

// Permanent says whether what the log refused would be refused again, however often it is tried.
func Permanent(err error) bool {
	var api *jetstream.APIError
	if errors.As(err, &api) {
		return api.Code >= 400 && api.Code < 500 && api.ErrorCode != storageFull
	}
	return errors.Is(err, nats.ErrMaxPayload) || errors.Is(err, nats.ErrBadSubject) || errors.Is(err, jetstream.ErrInvalidOption)
}
