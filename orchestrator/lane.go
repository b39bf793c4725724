package orchestrator

import (
	"context"
	"errors"
	"fmt"
	"sync"
	"sync/atomic"
	"time"

	"github.com/rs/zerolog"

	"consultd/orchestrator/crash"
	"consultd/states"
)

// stuckAfter is how long a full queue may hold up the reader of a lane.
const stuckAfter = time.Second

// lane reads one log and owns some of its partitions.
type lane struct {
	LaneOptions
	engine   *Options
	log      zerolog.Logger
	metrics  *laneMetrics
	sweeper  *sweeper
	heardLog time.Time     // when the log was last within reach; owned by ownLoop
	gate     chan struct{} // bounds the deciders; nil lets all through

	mu       sync.Mutex
	owned    []*partition       // by number; nil where somebody else owns it
	stopPass context.CancelFunc // ends the reader's present pass over the log
	count    atomic.Int32
	share    atomic.Int32          // partitions that fall to this replica
	leaseErr atomic.Pointer[error] // why the leases were not renewed last; nil while they are
	readErr  atomic.Pointer[error] // why the reader stopped last; nil while it reads

	read atomic.Uint64 // everything up to here has been handed to the partitions that joined this pass
}

// errNotAsked is the state before the first answer about leases.
var errNotAsked = errors.New("not asked for yet")

func newLane(o *Options, lo LaneOptions) *lane {
	l := &lane{
		LaneOptions: lo,
		engine:      o,
		log:         o.Log.With().Str("component", "engine").Str("lane", string(lo.Lane)).Logger(),
		metrics:     o.Metrics.lane(lo.Lane),
		owned:       make([]*partition, lo.Partitions),
		stopPass:    func() {},
	}
	l.leaseErr.Store(&errNotAsked)
	l.sweeper = newSweeper(l)
	if lo.Deciders > 0 {
		l.gate = make(chan struct{}, lo.Deciders)
	}
	return l
}

// run keeps the loops going until ctx ends, and stops them in the order in which work flows: reader and timers first,
// then partitions, then relays.
func (l *lane) run(ctx context.Context) error {
	readCtx, stopReading := context.WithCancel(ctx)
	defer stopReading()
	var wg sync.WaitGroup
	wg.Go(func() { l.readLoop(readCtx) })
	wg.Go(func() { l.sweeper.run(readCtx) })
	wg.Go(func() { l.markLoop(readCtx) })
	wg.Go(func() { l.rulesLoop(readCtx) })
	l.ownLoop(ctx)
	stopReading()
	wg.Wait()
	l.releaseAll()
	return nil
}

// readLoop passes over the log, starting again from the lowest position whenever partitions were acquired.
func (l *lane) readLoop(ctx context.Context) {
	retry := newBackoff(50*time.Millisecond, 2*time.Second)
	for ctx.Err() == nil {
		passCtx, from, ok := l.beginPass(ctx)
		if !ok {
			<-passCtx.Done() // nothing owned yet; an acquisition ends the pass
			continue
		}
		err := l.checkLog(passCtx)
		if err == nil {
			l.readErr.Store(nil)
			err = l.Log.Read(passCtx, from, func(e states.Entry) error {
				retry.reset()
				return l.dispatch(passCtx, e)
			})
		}
		l.endPass()
		if passCtx.Err() == nil {
			l.readErr.Store(&err)
			l.log.Error().Err(err).Uint64("after", from).Msg("log reader stopped; starting again")
			retry.wait(ctx)
		}
	}
}

// beginPass lets every partition owned now take part, and returns the lowest position among them. Partitions acquired
// later have to wait for the next pass: handed an entry of this one, they would miss what lies before it.
func (l *lane) beginPass(ctx context.Context) (pass context.Context, from uint64, ok bool) {
	l.mu.Lock()
	defer l.mu.Unlock()
	l.stopPass()
	pass, l.stopPass = context.WithCancel(ctx)
	for _, p := range l.owned {
		if p != nil && (!ok || p.cursor < from) {
			from, ok = p.cursor, true
		}
	}
	l.read.Store(from)
	for _, p := range l.owned {
		if p != nil {
			p.joined.Store(true)
		}
	}
	return pass, from, ok
}

// endPass lets every partition that took part begin the next pass where this one ended.
func (l *lane) endPass() {
	l.mu.Lock()
	defer l.mu.Unlock()
	for _, p := range l.owned {
		if p != nil && p.joined.Load() {
			p.cursor = max(p.cursor, l.read.Load())
		}
	}
}

// checkLog refuses to read from another log than the one that the positions were counted in, or from one that has lost its
// end: entries of the same numbers would be taken for decided.
func (l *lane) checkLog(ctx context.Context) error {
	id, last, err := l.Log.Identity(ctx)
	if err != nil {
		return err
	}
	bound, err := l.Store.Bind(ctx, l.Lane, id)
	if err != nil {
		return err
	}
	if bound != id {
		return fmt.Errorf("the positions in the store were counted in a log created at %s, this one was created at %s: connect the NATS and the Redis that belong together, or empty the store with consultd rebuild", bound, id)
	}
	l.mu.Lock()
	defer l.mu.Unlock()
	for _, p := range l.owned {
		if p != nil && p.cursor > last {
			return fmt.Errorf("partition %d is at entry %d of a log that ends at %d: the log has lost its end; bring it back, or empty the store with consultd rebuild", p.id.Number, p.cursor, last)
		}
	}
	return nil
}

// restartPass makes the reader start again, because partitions were acquired.
func (l *lane) restartPass() {
	l.mu.Lock()
	defer l.mu.Unlock()
	l.stopPass()
}

// dispatch queues an entry for the partition it belongs to, or for all when it concerns all.
func (l *lane) dispatch(ctx context.Context, e states.Entry) error {
	crash.Point("entry.read")
	if e.Subject == l.engine.Codec.RulesSubject(l.Lane) {
		for n := range l.Partitions {
			if err := l.offer(ctx, n, e); err != nil {
				return err
			}
		}
	} else if err := l.offer(ctx, partitionOf(l.engine.Codec.Key(e.Subject), l.Partitions), e); err != nil {
		return err
	}
	l.read.Store(e.Seq)
	return nil
}

// offer queues an entry for a partition. One that is stuck (its store unreadable, its outbox full) must not hold up the
// others: after a while it is left out of this pass, and makes the reader start again once it has worked off its queue.
func (l *lane) offer(ctx context.Context, n int, e states.Entry) error {
	p := l.partition(n)
	if p == nil || !p.joined.Load() || e.Seq <= p.cursor {
		return nil
	}
	select {
	case p.in <- e:
		p.cursor = e.Seq // only the reader moves it
		return nil
	default:
	}
	patience := time.NewTimer(stuckAfter)
	defer patience.Stop()
	select {
	case p.in <- e:
		p.cursor = e.Seq
	case <-patience.C:
		p.log.Warn().Msg("partition does not keep up; the others go on without it")
		p.leftOut.Store(true)
		p.joined.Store(false)
	case <-p.stopped:
	case <-ctx.Done():
		return ctx.Err()
	}
	return nil
}

func (l *lane) partition(n int) *partition {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.owned[n]
}

func (l *lane) ownedCount() int { return int(l.count.Load()) }

func (l *lane) healthy() error {
	if err := l.readErr.Load(); err != nil {
		return fmt.Errorf("reading the log: %w", *err)
	}
	if err := l.leaseErr.Load(); err != nil {
		return fmt.Errorf("leases: %w", *err)
	}
	if owned, share := l.count.Load(), l.share.Load(); owned < share {
		return fmt.Errorf("%d of %d partitions are still somebody else's", share-owned, share)
	}
	l.mu.Lock()
	defer l.mu.Unlock()
	for _, p := range l.owned {
		if p != nil && p.leftOut.Load() {
			return fmt.Errorf("partition %d does not keep up", p.id.Number)
		}
	}
	return nil
}
