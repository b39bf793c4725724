package orchestrator

import (
	"context"
	"errors"
	"slices"
	"sync"
	"sync/atomic"
	"time"

	"consultd/orchestrator/crash"
	"consultd/states"
)

const (
	relayQueue = 128 // commits handed over in memory before the relay reads the outbox instead
	relayBatch = 64

	recheckLimit = 250 * time.Millisecond // a page waits at most this long for the store to say that it is not needed
)

// relay delivers one partition's outbox to one sink, in commit order, one commit at a time. Commits are handed to it in
// memory; whatever it missed (a restart, a full queue) it reads from the outbox, which is the truth.
type relay struct {
	p         *partition
	sink      states.Sink
	publisher Publisher

	mu     sync.Mutex
	queue  []states.Pending
	behind bool // the outbox holds entries that the queue does not
	quit   bool
	// outstanding counts commits not yet delivered, wherever they wait.
	outstanding int
	wake        chan struct{}

	last   int64         // last entry delivered
	mark   uint64        // log position up to which an earlier life of the store had everything delivered
	done   atomic.Uint64 // log position of the last entry delivered
	cancel context.CancelFunc
	ended  chan struct{}
}

func newRelay(p *partition, sink states.Sink, publisher Publisher, mark uint64) *relay {
	r := &relay{p: p, sink: sink, publisher: publisher, behind: true, mark: mark, wake: make(chan struct{}, 1), ended: make(chan struct{})}
	r.done.Store(mark)
	return r
}

func (r *relay) start() {
	ctx, cancel := context.WithCancel(context.Background())
	r.cancel = cancel
	go r.run(ctx)
}

// offer hands over a commit's messages. While the relay is behind they stay in the outbox, where it will find them in order.
func (r *relay) offer(e states.Pending) {
	r.p.lane.metrics.backlog.WithLabelValues(string(r.sink)).Inc()
	r.mu.Lock()
	r.outstanding++
	switch {
	case r.behind:
	case len(r.queue) >= relayQueue:
		r.behind = true
	default:
		r.queue = append(r.queue, e)
	}
	r.mu.Unlock()
	signal(r.wake)
}

// rescan makes the relay look into the outbox for entries it was never handed.
func (r *relay) rescan() {
	r.mu.Lock()
	r.behind = true
	r.mu.Unlock()
	signal(r.wake)
}

// backlog counts the commits, of this owner's time, whose messages the sink has not accepted.
func (r *relay) backlog() int {
	r.mu.Lock()
	defer r.mu.Unlock()
	return r.outstanding
}

// stop lets the relay deliver what it has, at most for the given time.
func (r *relay) stop(drain time.Duration) {
	r.mu.Lock()
	r.quit = true
	r.mu.Unlock()
	signal(r.wake)
	timer := time.NewTimer(drain)
	defer timer.Stop()
	select {
	case <-r.ended:
	case <-timer.C:
		r.cancel()
		<-r.ended
	}
	r.cancel()
	r.mu.Lock()
	defer r.mu.Unlock()
	r.p.lane.metrics.backlog.WithLabelValues(string(r.sink)).Sub(float64(r.outstanding)) // the next owner's from now on
	r.outstanding = 0
}

func (r *relay) run(ctx context.Context) {
	defer close(r.ended)
	for ctx.Err() == nil {
		e, state := r.next()
		switch state {
		case relayHas:
			r.deliver(ctx, e)
		case relayBehind:
			r.catchUp(ctx)
		case relayEnd:
			return
		case relayIdle:
			select {
			case <-r.wake:
			case <-ctx.Done():
			}
		}
	}
}

type relayState int

const (
	relayIdle relayState = iota
	relayHas
	relayBehind
	relayEnd
)

func (r *relay) next() (states.Pending, relayState) {
	r.mu.Lock()
	defer r.mu.Unlock()
	for len(r.queue) > 0 {
		e := r.queue[0]
		r.queue = r.queue[1:]
		if e.Entry > r.last {
			return e, relayHas
		}
	}
	r.queue = nil
	switch {
	case r.behind:
		return states.Pending{}, relayBehind
	case r.quit:
		return states.Pending{}, relayEnd
	}
	return states.Pending{}, relayIdle
}

// catchUp delivers from the outbox until it is empty, then opens the queue again and looks once more: an entry committed
// in between is then either in the queue or in that last look, and one that is in both is skipped by its number.
func (r *relay) catchUp(ctx context.Context) {
	if !r.drainOutbox(ctx) {
		return
	}
	r.mu.Lock()
	r.behind = false
	r.mu.Unlock()
	r.drainOutbox(ctx)
}

func (r *relay) drainOutbox(ctx context.Context) bool {
	wait := newBackoff(10*time.Millisecond, 2*time.Second)
	for {
		entries, err := r.p.lane.Store.Pending(ctx, r.p.id, r.sink, r.last, relayBatch)
		if err != nil {
			r.p.lane.metrics.storeErrors.Inc()
			if !wait.wait(ctx) {
				return false
			}
			continue
		}
		for _, e := range entries {
			if !r.deliver(ctx, e) {
				return false
			}
		}
		if len(entries) < relayBatch {
			return true
		}
	}
}

// deliver says an entry's messages and removes it from the outbox. It returns false when ctx ended before that.
func (r *relay) deliver(ctx context.Context, e states.Pending) bool {
	messages := e.Messages
	if e.Seq <= r.mark {
		messages = nil // said before the store forgot
	}
	crash.Point("relay.before." + string(r.sink))
	if !r.say(ctx, e.Seq, messages) {
		return false
	}
	crash.Point("relay.published." + string(r.sink))
	r.p.lane.Store.Delivered(r.p.id, r.sink, e.Entry)
	r.last = e.Entry
	r.done.Store(max(r.done.Load(), e.Seq))
	r.mu.Lock()
	counted := r.outstanding > 0 // an entry left by an earlier owner was never counted here
	if counted {
		r.outstanding--
	}
	r.mu.Unlock()
	if counted {
		r.p.lane.metrics.backlog.WithLabelValues(string(r.sink)).Dec()
	}
	return true
}

// say repeats until the sink has taken the messages; one that it will never take is reported and passed over.
func (r *relay) say(ctx context.Context, seq uint64, messages []states.Message) bool {
	most := 10 * time.Second
	if r.p.id.Lane == states.LaneEmergency {
		most = time.Second // a page must not wait long after its sink is back
	}
	wait := newBackoff(50*time.Millisecond, most)
	failed := false
	for {
		messages = r.recheck(ctx, messages) // again before each attempt: it may have been answered while the sink was away
		if len(messages) == 0 {
			break
		}
		err := r.publisher.Publish(ctx, messages)
		if err == nil {
			r.p.lane.metrics.delivered.WithLabelValues(string(r.sink)).Add(float64(len(messages)))
			break
		}
		if ctx.Err() != nil {
			return false
		}
		r.p.lane.metrics.publishErrors.WithLabelValues(string(r.sink)).Inc()
		var permanent interface{ Permanent() bool }
		if errors.As(err, &permanent) && permanent.Permanent() {
			if len(messages) == 1 {
				return r.bury(ctx, seq, messages[0], err)
			}
			for _, m := range messages { // find out which of them it is
				if !r.say(ctx, seq, []states.Message{m}) {
					return false
				}
			}
			return true
		}
		if !failed {
			failed = true
			r.p.log.Warn().Err(err).Str("sink", string(r.sink)).Uint64("seq", seq).Msg("sink does not take messages; trying again")
		}
		if !wait.wait(ctx) {
			return false
		}
	}
	if failed {
		r.p.log.Info().Str("sink", string(r.sink)).Uint64("seq", seq).Msg("sink takes messages again")
	}
	return true
}

// recheck drops pages of an escalation that has been answered since they were decided. When the store does not say, the
// page goes out: too many pages are better than none.
func (r *relay) recheck(ctx context.Context, messages []states.Message) []states.Message {
	isPage := func(m states.Message) bool { return m.Escalation != "" }
	first := slices.IndexFunc(messages, isPage)
	if first < 0 {
		return messages
	}
	id := states.RecordID{Kind: states.KindEscalation, ID: messages[first].Escalation}
	ctx, cancel := context.WithTimeout(ctx, recheckLimit)
	defer cancel()
	records, err := r.p.lane.Store.Load(ctx, id)
	if err != nil || records[0].Escalation == nil || !records[0].Escalation.Answered() {
		return messages
	}
	kept := slices.DeleteFunc(slices.Clone(messages), isPage)
	r.p.lane.metrics.pagesSpared.Add(float64(len(messages) - len(kept)))
	return kept
}

// bury reports a message that the sink will never take. It returns false when ctx ended before that.
func (r *relay) bury(ctx context.Context, seq uint64, m states.Message, why error) bool {
	r.p.lane.metrics.deadLetters.WithLabelValues("UNDELIVERABLE").Inc()
	r.p.log.Error().Err(why).Str("sink", string(r.sink)).Uint64("seq", seq).Msg("message can never be delivered; it goes to the dead letters")
	letter := r.p.lane.engine.Codec.DeadLetter(states.Entry{Lane: r.p.id.Lane, Seq: seq}, "UNDELIVERABLE", "sink "+string(r.sink)+" refused the message for good")
	letter.ID = "undeliverable." + string(r.sink) + "." + m.ID // one entry may have several, and be a dead letter itself
	wait := newBackoff(50*time.Millisecond, 5*time.Second)
	for r.p.lane.Dead.Publish(ctx, []states.Message{letter}) != nil {
		if !wait.wait(ctx) {
			return false
		}
	}
	return true
}
