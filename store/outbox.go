package store

import (
	"context"
	_ "embed"
	"encoding/json"
	"fmt"
	"slices"
	"strconv"
	"strings"
	"sync"
	"time"

	"github.com/redis/go-redis/v9"
	"github.com/rs/zerolog"

	"consultd/states"
)

// Pending returns what is still to be delivered to a sink, oldest first, from the entry behind after. The error is
// Corrupt when an entry cannot be read.
func (s *Store) Pending(ctx context.Context, p states.Partition, sink states.Sink, after int64, limit int) ([]states.Pending, error) {
	key := s.keys.outbox(p, sink)
	entries, err := s.client.XRangeN(ctx, key, entryID(after+1), "+", int64(limit)).Result()
	if err != nil {
		return nil, unavailable("read outbox", err)
	}
	pending := make([]states.Pending, len(entries))
	for i, e := range entries {
		pending[i], err = s.openEntry(key, e)
		if err != nil {
			return nil, fmt.Errorf("read outbox: %w", err)
		}
		pending[i].Partition, pending[i].Sink = p, sink
	}
	return pending, nil
}

func (s *Store) openEntry(key string, e redis.XMessage) (states.Pending, error) {
	const kind = "outbox entry"
	number, _, _ := strings.Cut(e.ID, "-")
	seqText, _ := e.Values["s"].(string)
	sealed, _ := e.Values["p"].(string)
	entry, err1 := strconv.ParseInt(number, 10, 64)
	seq, err2 := strconv.ParseUint(seqText, 10, 64)
	if err1 != nil || err2 != nil || sealed == "" {
		return states.Pending{}, &Corrupt{kind, "its fields are incomplete"}
	}
	plain, err := s.sealer.Open([]byte(sealed), place(key, []byte(seqText)))
	if err != nil {
		return states.Pending{}, &Corrupt{kind, whyUnsealed}
	}
	var messages []states.Message
	if err := json.Unmarshal(plain, &messages); err != nil {
		return states.Pending{}, &Corrupt{kind, "it opens but holds no messages"} // the cause may quote the content
	}
	return states.Pending{Entry: entry, Seq: seq, Messages: messages}, nil
}

// Backlog counts the entries that are still to be delivered, per sink, over some partitions.
func (s *Store) Backlog(ctx context.Context, ps []states.Partition) (map[states.Sink]int64, error) {
	type length struct {
		sink states.Sink
		cmd  *redis.IntCmd
	}
	var lengths []length
	pipe := s.client.Pipeline()
	for _, sink := range states.Sinks() {
		for _, p := range ps {
			lengths = append(lengths, length{sink, pipe.XLen(ctx, s.keys.outbox(p, sink))})
		}
	}
	if _, err := pipe.Exec(ctx); err != nil {
		return nil, unavailable("measure outboxes", err)
	}
	backlog := map[states.Sink]int64{}
	for _, l := range lengths {
		backlog[l.sink] += l.cmd.Val()
	}
	return backlog, nil
}

// Delivered removes an entry some time soon. It never waits; until the entry is gone it may be delivered once more, by
// the next holder of the partition, under the same message ids. Only what was read under the present lease is removed.
func (s *Store) Delivered(p states.Partition, sink states.Sink, entry int64) {
	s.deleter.add(p, s.keys.outbox(p, sink), entryID(entry))
}

func entryID(entry int64) string { return strconv.FormatInt(entry, 10) + "-0" }

//go:embed delivered.lua
var deliveredSource string

// deleter removes delivered entries behind the relays' backs: everything that has gathered in one pipeline, and again
// while Redis is away.
type deleter struct {
	client  redis.UniversalClient
	keys    keys
	log     zerolog.Logger
	timeout time.Duration

	mu      sync.Mutex
	epochs  map[states.Partition]int64 // of the present leases
	pending map[outboxHold][]string    // entry ids

	wake chan struct{} // holds one token while something may be pending
	stop chan struct{}
	done chan struct{}
}

// outboxHold is one outbox as read under one lease.
type outboxHold struct {
	partition states.Partition
	epoch     int64
	stream    string
}

const (
	deleteGather = 50 * time.Millisecond  // what is delivered within this time is removed together; it costs no message its order
	deleteRetry  = 250 * time.Millisecond // pause after Redis did not answer
	deleteMost   = 512                    // entries per call
)

func newDeleter(client redis.UniversalClient, k keys, log zerolog.Logger, timeout time.Duration) *deleter {
	return &deleter{
		client:  client,
		keys:    k,
		log:     log,
		timeout: timeout,
		epochs:  map[states.Partition]int64{},
		pending: map[outboxHold][]string{},
		wake:    make(chan struct{}, 1),
		stop:    make(chan struct{}),
		done:    make(chan struct{}),
	}
}

// hold says under which leases entries are read from now on.
func (d *deleter) hold(leases map[states.Partition]states.Lease) {
	d.mu.Lock()
	defer d.mu.Unlock()
	for p, lease := range leases {
		d.epochs[p] = lease.Epoch
	}
}

func (d *deleter) add(p states.Partition, stream, id string) {
	d.mu.Lock()
	h := outboxHold{p, d.epochs[p], stream}
	d.pending[h] = append(d.pending[h], id)
	d.mu.Unlock()
	d.signal()
}

func (d *deleter) signal() {
	select {
	case d.wake <- struct{}{}:
	default:
	}
}

func (d *deleter) start() { go d.run() }

func (d *deleter) run() {
	defer close(d.done)
	for {
		if d.gather() {
			ctx, cancel := context.WithTimeout(context.Background(), d.timeout)
			defer cancel()
			if err := d.flush(ctx); err != nil {
				d.log.Warn().Err(err).Msg("delivered entries stay in the outbox and will be delivered once more")
			}
			return
		}
		if err := d.flush(context.Background()); err != nil {
			select {
			case <-time.After(deleteRetry):
			case <-d.stop:
			}
		}
	}
}

// gather waits until there is something to remove, and a little longer. It returns true when the deleter is to stop.
func (d *deleter) gather() (stop bool) {
	select {
	case <-d.wake:
	case <-d.stop:
		return true
	}
	more := time.NewTimer(deleteGather)
	defer more.Stop()
	select {
	case <-more.C:
		return false
	case <-d.stop:
		return true
	}
}

// flush removes what has gathered, or puts it back.
func (d *deleter) flush(ctx context.Context) error {
	d.mu.Lock()
	taken := d.pending
	d.pending = map[outboxHold][]string{}
	d.mu.Unlock()
	if len(taken) == 0 {
		return nil
	}
	pipe := d.client.Pipeline()
	for h, ids := range taken {
		keys := []string{d.keys.partition(h.partition), h.stream}
		for some := range slices.Chunk(ids, deleteMost) {
			args := []any{h.epoch}
			for _, id := range some {
				args = append(args, id)
			}
			pipe.Eval(ctx, deliveredSource, keys, args...) // short enough to travel along
		}
	}
	_, err := pipe.Exec(ctx)
	if err == nil {
		return nil
	}
	d.mu.Lock()
	for h, ids := range taken {
		d.pending[h] = append(d.pending[h], ids...)
	}
	d.mu.Unlock()
	d.signal()
	return unavailable("remove delivered entries", err)
}

func (d *deleter) close() {
	close(d.stop)
	<-d.done
}
