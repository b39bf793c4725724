package store

import (
	"context"
	_ "embed"
	"errors"
	"slices"
	"time"

	"github.com/redis/go-redis/v9"

	"consultd/states"
)

//go:embed due.lua
var dueSource string

var dueScript = redis.NewScript(dueSource)

// Due returns the timers of the partitions that are due on Redis's clock, the oldest first, at most limit of each
// partition (so that one that is stuck hides no other's), and when the next one will be. A timer stays due until the
// commit that names it as Fired.
func (s *Store) Due(ctx context.Context, ps []states.Partition, limit int) (states.DueTimers, error) {
	if len(ps) == 0 {
		return states.DueTimers{}, nil
	}
	keys := make([]string, len(ps))
	for i, p := range ps {
		keys[i] = s.keys.timers(p)
	}
	answer, err := dueScript.Run(ctx, s.client, keys, limit).Slice()
	if err != nil {
		return states.DueTimers{}, unavailable("due timers", err)
	}
	timers, unreadable, err := readDue(answer)
	if err != nil {
		return states.DueTimers{}, unavailable("due timers", err)
	}
	if unreadable > 0 {
		s.log.Error().Int("rows", unreadable).Msg("timer rows that no release wrote; remove them from the timers sorted sets")
	}
	return timers, nil
}

// Earliest returns when the first armed timer of the partitions is or was due, zero when none is armed, and what time
// Redis has now: their difference says how late timers are.
func (s *Store) Earliest(ctx context.Context, ps []states.Partition) (due, now time.Time, err error) {
	timers, err := s.Due(ctx, ps, 1)
	if err != nil {
		return time.Time{}, time.Time{}, err
	}
	if len(timers.Due) > 0 {
		return timers.Due[0].Due, timers.Now, nil
	}
	return timers.Next, timers.Now, nil
}

func readDue(answer []any) (timers states.DueTimers, unreadable int, err error) {
	wrong := errors.New("due.lua gave an answer of another shape")
	if len(answer) < 2 || len(answer)%2 != 0 {
		return timers, 0, wrong
	}
	now, ok1 := answer[0].(int64)
	next, ok2 := answer[1].(int64)
	if !ok1 || !ok2 {
		return timers, 0, wrong
	}
	timers.Now = time.UnixMilli(now).UTC()
	if next != 0 {
		timers.Next = time.UnixMilli(next).UTC()
	}
	for i := 2; i < len(answer); i += 2 {
		text, ok1 := answer[i].(string)
		due, ok2 := answer[i+1].(int64)
		if !ok1 || !ok2 {
			return timers, 0, wrong
		}
		id, err := states.ParseTimerID(text)
		if err != nil {
			unreadable++
			continue
		}
		timers.Due = append(timers.Due, states.DueTimer{ID: id, Due: time.UnixMilli(due).UTC()})
	}
	slices.SortStableFunc(timers.Due, func(a, b states.DueTimer) int { return a.Due.Compare(b.Due) })
	return timers, unreadable, nil
}
