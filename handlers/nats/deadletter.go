package nats

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"time"

	"consultd/handlers"
	"consultd/states"
)

// DeadLetter refers to something that was refused for good: where it is and why, never what it says.
type DeadLetter struct {
	ID      string      `json:"id"`
	Lane    states.Lane `json:"lane"`
	Seq     uint64      `json:"seq"`     // position of the entry in the lane's log, 0 when it never got there
	Subject string      `json:"subject"` // of the entry; "" when a sink refused a message of its decision
	Code    string      `json:"code"`
	Detail  string      `json:"detail"`
	At      time.Time   `json:"at,omitzero"` // when the log stored the entry
	Actor   string      `json:"actor,omitempty"`

	Buried time.Time `json:"-"` // when the letter was written
}

// DeadLetters reads the dead letters, and replays what they refer to.
type DeadLetters struct {
	client *Client
	logs   map[states.Lane]*Log
}

// NewDeadLetters is for an operator's command.
func NewDeadLetters(c *Client) *DeadLetters {
	logs := map[states.Lane]*Log{}
	for _, lane := range []states.Lane{states.LaneNormal, states.LaneEmergency} {
		logs[lane] = NewLog(c, lane, nil)
	}
	return &DeadLetters{client: c, logs: logs}
}

// List returns the newest dead letters, at most limit, oldest first.
func (d *DeadLetters) List(ctx context.Context, limit int) ([]DeadLetter, error) {
	if limit <= 0 {
		return nil, nil
	}
	tryCtx, cancel := context.WithTimeout(ctx, requestTimeout)
	defer cancel()
	s, err := d.client.JS.Stream(tryCtx, DeadStream)
	if err != nil {
		return nil, fmt.Errorf("list dead letters: %w", err)
	}
	state := s.CachedInfo().State
	from := uint64(0)
	if state.LastSeq > uint64(limit) {
		from = state.LastSeq - uint64(limit)
	}
	if state.FirstSeq > from+1 {
		from = state.FirstSeq - 1
	}
	var letters []DeadLetter
	err = d.read(ctx, from, func(l DeadLetter) error {
		letters = append(letters, l)
		return nil
	})
	if err != nil {
		return nil, fmt.Errorf("list dead letters: %w", err)
	}
	if len(letters) > limit { // some arrived while reading
		letters = letters[len(letters)-limit:]
	}
	return letters, nil
}

// Replayed says where a replayed entry is now.
type Replayed struct {
	Letter DeadLetter
	Seq    uint64
}

// The reasons for which a dead letter cannot be replayed.
var (
	ErrNoLetter = errors.New("there is no such dead letter: list them to see their ids")
	ErrAgedOut  = errors.New("the original entry has aged out of the log: ask its sender to send it again")
	ErrNoEntry  = errors.New("the letter refers to no entry of a log: what was refused is not kept")
)

// Replay appends the entry that a dead letter refers to once more, unchanged, so that it is decided anew. A second
// replay within the log's duplicate window is the first one. The errors are ErrNoLetter, ErrAgedOut, ErrNoEntry, or
// why NATS could not be asked.
func (d *DeadLetters) Replay(ctx context.Context, id string) (Replayed, error) {
	fail := func(err error) (Replayed, error) { return Replayed{}, fmt.Errorf("replay %s: %w", id, err) }
	var letter DeadLetter
	err := d.read(ctx, 0, func(l DeadLetter) error {
		if l.ID != id {
			return nil
		}
		letter = l
		return errFound
	})
	switch {
	case err == nil:
		return fail(ErrNoLetter)
	case !errors.Is(err, errFound):
		return fail(err)
	}
	log, ok := d.logs[letter.Lane]
	if !ok || letter.Seq == 0 || letter.Subject == "" {
		return fail(ErrNoEntry)
	}
	entry, ok, err := log.At(ctx, letter.Seq)
	switch {
	case err != nil:
		return fail(err)
	case !ok:
		return fail(ErrAgedOut)
	}
	seq, err := log.Append(ctx, entry.Subject, "replay."+letter.ID, replayHeader(entry), entry.Data)
	if err != nil {
		return fail(err)
	}
	return Replayed{Letter: letter, Seq: seq}, nil
}

// errFound ends a search.
var errFound = errors.New("found")

func (d *DeadLetters) read(ctx context.Context, after uint64, see func(DeadLetter) error) error {
	r := reader{client: d.client, stream: DeadStream, pos: after, toEnd: true, lost: func(*LostError) error { return nil }}
	return r.run(ctx, func(m message) error {
		l := DeadLetter{Buried: m.at.UTC()}
		if err := json.Unmarshal(m.data, &l); err != nil || l.ID == "" {
			// Somebody else's; show that it is there.
			l = DeadLetter{ID: m.header.Get(handlers.HeaderMsgID), Code: "UNREADABLE", Detail: "not a dead letter of consultd", Buried: m.at.UTC()}
		}
		return see(l)
	})
}
