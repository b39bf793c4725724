package orchestrator

import (
	"context"
	"sync"
	"time"

	"consultd/orchestrator/crash"
	"consultd/states"
)

const (
	dueBatch    = 512
	firedAgain  = 10 * time.Second       // a timer whose entry has not been decided after this long is entered again
	dueBacklog  = 25 * time.Millisecond  // next look while more timers are due than fit in one batch
	sweepFailed = 500 * time.Millisecond // next look when the store or the log did not answer
)

// sweeper puts due timers into the log, once each, and sleeps until the next is due. The row of a timer goes when its
// entry is decided, so a crash in between enters it again under the same id.
type sweeper struct {
	l     *lane
	waked chan struct{}

	mu    sync.Mutex
	next  time.Time // when the sweeper will look again, in the store's time; zero: it does not know yet
	fired map[states.TimerID]time.Time
}

func newSweeper(l *lane) *sweeper {
	return &sweeper{l: l, waked: make(chan struct{}, 1), fired: map[states.TimerID]time.Time{}}
}

// wake says that a timer due at the given time was armed. It costs nothing when the sweeper looks before that anyway.
func (s *sweeper) wake(due time.Time) {
	s.mu.Lock()
	sooner := s.next.IsZero() || due.Before(s.next)
	s.mu.Unlock()
	if sooner {
		signal(s.waked)
	}
}

// settled forgets a timer whose entry has been decided.
func (s *sweeper) settled(id states.TimerID) {
	s.mu.Lock()
	delete(s.fired, id)
	s.mu.Unlock()
}

func (s *sweeper) run(ctx context.Context) {
	timer := time.NewTimer(0)
	defer timer.Stop()
	for {
		select {
		case <-ctx.Done():
			return
		case <-timer.C:
		case <-s.waked:
		}
		wait := s.sweep(ctx)
		timer.Reset(wait)
	}
}

// sweep enters what is due and returns how long there is nothing to do.
func (s *sweeper) sweep(ctx context.Context) time.Duration {
	ids := s.l.ids()
	if len(ids) == 0 {
		return time.Hour // an acquisition wakes it
	}
	s.mu.Lock()
	s.next = time.Time{} // until it is known when to look again, whatever is armed wakes: this look may not have seen it
	s.mu.Unlock()
	look, err := s.l.Store.Due(ctx, ids, dueBatch)
	if err != nil {
		if ctx.Err() == nil {
			s.l.metrics.storeErrors.Inc()
		}
		return sweepFailed
	}
	entered := 0
	for _, due := range look.Due {
		if !s.fire(due, look.Now) {
			continue
		}
		entered++
		codec := s.l.engine.Codec
		if _, err := s.l.Log.Append(ctx, codec.TimerSubject(s.l.Lane, due.ID.Key), due.ID.String(), nil, codec.TimerData(due.ID)); err != nil {
			s.settled(due.ID) // not entered: the next look tries again
			return sweepFailed
		}
		crash.Point("timer.entered")
		s.l.metrics.timerLateness.Observe(max(0, look.Now.Sub(due.Due).Seconds()))
	}
	return s.plan(look, entered)
}

func (s *sweeper) plan(look states.DueTimers, entered int) time.Duration {
	wait := time.Hour
	switch {
	case entered >= dueBatch:
		wait = dueBacklog
	case len(look.Due) > 0:
		wait = firedAgain // in case an entry gets lost on the way
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	if !look.Next.IsZero() {
		wait = min(wait, max(0, look.Next.Sub(look.Now)))
	}
	s.next = look.Now.Add(wait)
	return wait
}

// fire says whether the timer still has to be entered.
func (s *sweeper) fire(due states.DueTimer, now time.Time) bool {
	s.mu.Lock()
	defer s.mu.Unlock()
	if at, ok := s.fired[due.ID]; ok && now.Sub(at) < firedAgain {
		return false
	}
	s.fired[due.ID] = now
	return true
}
