package store

import (
	"context"
	_ "embed"
	"encoding/json"
	"errors"
	"fmt"
	"math"
	"strconv"
	"strings"
	"time"

	"github.com/redis/go-redis/v9"

	"consultd/states"
)

//go:embed commit.lua
var commitSource string

var commitScript = redis.NewScript(commitSource)

// eventIDLength is how much of an event id a record remembers: 80 bits, and the unit in which commit.lua counts.
const eventIDLength = 16

// Commit stores a decision with everything that follows from it, or nothing. With a Decision, the stored record must
// have the version before Decision.Record's; a decision that leaves its record as it is (a stale timer's refusal) is
// committed with Decision nil, which moves the position, takes the Fired row, and stores the Outbox. With nothing to move
// either (Seq where the position is already) it asks whether the partition is still the caller's and the store whole.
//
// Stored.Entry is the number of commits in the partition: after Committed the id of the outbox entries made; after
// Duplicate and Replayed nothing was made, and what is still to be said up to Entry is Pending; after Rewound and
// Conflict what is stored; after Fenced 0.
//
// Unavailable means that it may or may not have been stored. Commit the same again: what had been stored answers
// Replayed. The error of a ctx that ends while waiting means the same. Every other error but ErrClosed is a mistake in
// the commit itself, and nothing was sent.
//
// Many goroutines may commit at once; what waits together travels together. Two commits of one partition must not.
func (s *Store) Commit(ctx context.Context, c *states.Commit) (states.Stored, error) {
	call, err := s.commitCall(c)
	if err != nil {
		return states.Stored{}, fmt.Errorf("commit: %w", err)
	}
	call.ctx = ctx
	return s.batcher.do(call)
}

// commitCall translates a commit into the keys and arguments of commit.lua.
func (s *Store) commitCall(c *states.Commit) (*commitCall, error) {
	if c.Seq == 0 && (c.Decision != nil || len(c.Outbox) > 0) {
		return nil, errors.New("a decision without a log position")
	}
	partition := s.keys.partition(c.Partition)
	call := &commitCall{
		keys:   []string{partition, partition, s.keys.timers(c.Partition)},
		answer: make(chan commitAnswer, 1),
	}
	fired := ""
	if c.Fired != (states.TimerID{}) {
		fired = c.Fired.String()
	}
	call.args = []any{c.Epoch, c.Floor, strconv.FormatUint(c.Seq, 10), strconv.FormatUint(c.RulesSeq, 10), fired, "", "", "", 0}
	if err := s.addOutbox(call, c); err != nil {
		return nil, err
	}
	if c.Decision == nil {
		return call, nil
	}
	if err := s.addRecord(call, c); err != nil {
		return nil, err
	}
	return call, s.addChanges(call, c.Decision)
}

// Positions of the arguments that are only set when a record changes.
const (
	argExpected = 5 + iota
	argEvent
	argSealed
	argKeep
)

func (s *Store) addRecord(call *commitCall, c *states.Commit) error {
	r := c.Decision.Record
	switch {
	case r.ID.Kind == "" || r.ID.ID == "" || r.Version < 1:
		return errors.New("the record has no id or no version")
	case c.Event == "" || strings.Contains(string(c.Event), ","):
		return errors.New("a record changes by an event with an id, and the id has no comma")
	case c.Keep < 0:
		return errors.New("a record cannot be kept for less than no time")
	}
	sealed, err := s.sealRecord(r)
	if err != nil {
		return err
	}
	call.keys[1] = s.keys.record(r.ID)
	call.args[argExpected] = r.Version - 1
	call.args[argEvent] = fmt.Sprintf("%-*.*s", eventIDLength, eventIDLength, c.Event)
	call.args[argSealed] = sealed
	if c.Decision.Expire {
		call.args[argKeep] = c.Keep.Milliseconds()
	}
	return nil
}

func (s *Store) addChanges(call *commitCall, d *states.Decision) error {
	timers := call.keys[2]
	for _, t := range d.Timers {
		if t.Due.IsZero() {
			call.change("disarm", timers, t.ID.String(), "")
		} else {
			call.change("arm", timers, t.ID.String(), dueScore(t.Due))
		}
	}
	for _, p := range d.Places {
		if math.IsNaN(p.Score) {
			return errors.New("a place without a score")
		}
		verb := "place"
		if p.Remove {
			verb = "leave"
		}
		if p.Provider != "" {
			call.change(verb, s.keys.room(p.Provider), p.Appointment, p.Score)
		}
		if p.Department != "" {
			call.change(verb, s.keys.queue(p.Department), p.Appointment, p.Score)
		}
	}
	for _, l := range d.Load {
		call.change("load", s.keys.load(), l.Provider, l.Delta)
	}
	if p := d.Pair; p != nil {
		verb := "pair"
		if p.Clear {
			verb = "unpair"
		}
		call.change(verb, s.keys.pairs(), pairField(p.Provider, p.Patient), p.Appointment)
	}
	return nil
}

func (s *Store) addOutbox(call *commitCall, c *states.Commit) error {
	seq := strconv.FormatUint(c.Seq, 10)
	known := 0
	for _, sink := range states.Sinks() {
		messages, ok := c.Outbox[sink]
		if ok {
			known++
		}
		if len(messages) == 0 {
			continue
		}
		plain, err := json.Marshal(messages)
		if err != nil {
			return fmt.Errorf("encode outbox: %w", err)
		}
		key := s.keys.outbox(c.Partition, sink)
		sealed, err := s.sealer.Seal(plain, place(key, []byte(seq)))
		if err != nil {
			return fmt.Errorf("seal outbox: %w", err)
		}
		call.change("say", key, seq, sealed)
	}
	if known != len(c.Outbox) {
		return errors.New("the outbox holds a sink that states.Sinks does not name")
	}
	return nil
}

// dueScore rounds up to the millisecond: a timer may be late, never early.
func dueScore(due time.Time) string {
	return strconv.FormatInt(due.Add(time.Millisecond-1).UnixMilli(), 10)
}

// commitCall is one run of commit.lua on its way.
type commitCall struct {
	ctx    context.Context //nolint:containedctx // the call is its caller's, carried to the batcher
	keys   []string
	args   []any
	answer chan commitAnswer
}

type commitAnswer struct {
	stored states.Stored
	err    error
}

// change appends one change; its key is named by index, because a script must be given every key that it touches.
func (c *commitCall) change(verb, key, member string, value any) {
	index := 0
	for i, k := range c.keys {
		if k == key {
			index = i + 1
		}
	}
	if index == 0 {
		c.keys = append(c.keys, key)
		index = len(c.keys)
	}
	c.args = append(c.args, verb, index, member, value)
}

// batcher sends everything that waits as one pipeline, while the next batch gathers. One goroutine, one connection:
// what arrives together shares a round trip and, where Redis syncs its file on every write, the sync.
type batcher struct {
	client redis.UniversalClient
	queue  chan *commitCall
	most   int
	stop   chan struct{}
	done   chan struct{}
}

func startBatcher(client redis.UniversalClient, most int) *batcher {
	b := &batcher{
		client: client,
		queue:  make(chan *commitCall, most),
		most:   most,
		stop:   make(chan struct{}),
		done:   make(chan struct{}),
	}
	go b.run()
	return b
}

func (b *batcher) close() {
	close(b.stop)
	<-b.done
}

func (b *batcher) do(call *commitCall) (states.Stored, error) {
	select {
	case b.queue <- call:
	case <-b.done:
		return states.Stored{}, ErrClosed
	case <-call.ctx.Done():
		return states.Stored{}, fmt.Errorf("commit: %w", call.ctx.Err())
	}
	select {
	case a := <-call.answer:
		return a.stored, a.err
	case <-call.ctx.Done():
		return states.Stored{}, fmt.Errorf("commit: %w", call.ctx.Err())
	case <-b.done:
	}
	select { // the last batch may have held it
	case a := <-call.answer:
		return a.stored, a.err
	default:
		return states.Stored{}, ErrClosed
	}
}

func (b *batcher) run() {
	defer close(b.done)
	batch := make([]*commitCall, 0, b.most)
	for {
		select {
		case <-b.stop:
			return
		case call := <-b.queue:
			batch = b.gather(add(batch[:0], call))
		}
		b.send(batch)
	}
}

// gather adds what else waits already.
func (b *batcher) gather(batch []*commitCall) []*commitCall {
	for len(batch) < b.most {
		select {
		case call := <-b.queue:
			batch = add(batch, call)
		default:
			return batch
		}
	}
	return batch
}

// add leaves out a call whose caller has gone.
func add(batch []*commitCall, call *commitCall) []*commitCall {
	if call.ctx.Err() != nil {
		return batch
	}
	return append(batch, call)
}

// send runs a batch and answers each call. Redis forgets scripts when it restarts or fails over; a call that answers
// NOSCRIPT has done nothing, so it is sent again behind one that carries the script.
func (b *batcher) send(batch []*commitCall) {
	var unknown []*commitCall
	for i, cmd := range b.exec(batch, false) {
		if redis.HasErrorPrefix(cmd.Err(), "NOSCRIPT") {
			unknown = append(unknown, batch[i])
		} else {
			batch[i].reply(cmd)
		}
	}
	for i, cmd := range b.exec(unknown, true) {
		unknown[i].reply(cmd)
	}
}

func (b *batcher) exec(batch []*commitCall, withScript bool) []*redis.Cmd {
	if len(batch) == 0 {
		return nil
	}
	ctx := context.Background() // a batch is many callers'; the client's own deadlines bound it
	pipe := b.client.Pipeline()
	cmds := make([]*redis.Cmd, len(batch))
	for i, call := range batch {
		if withScript && i == 0 {
			cmds[i] = pipe.Eval(ctx, commitSource, call.keys, call.args...)
		} else {
			cmds[i] = pipe.EvalSha(ctx, commitScript.Hash(), call.keys, call.args...)
		}
	}
	_, _ = pipe.Exec(ctx) // every command has its own error
	return cmds
}

func (c *commitCall) reply(cmd *redis.Cmd) {
	stored, err := readStored(cmd)
	if err != nil {
		err = unavailable("commit", err)
	}
	c.answer <- commitAnswer{stored, err}
}

func readStored(cmd *redis.Cmd) (states.Stored, error) {
	answer, err := cmd.Slice()
	if err != nil {
		return states.Stored{}, err
	}
	if len(answer) == 2 {
		outcome, isWord := answer[0].(string)
		commits, isNumber := answer[1].(int64)
		if isWord && isNumber {
			return states.Stored{Outcome: states.Outcome(outcome), Entry: commits}, nil
		}
	}
	return states.Stored{}, errors.New("commit.lua gave an answer of another shape")
}
