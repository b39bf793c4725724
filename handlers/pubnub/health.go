package pubnub

import (
	"context"
	"errors"
	"fmt"
	"time"
)

// longestPoll is more than the service lets a poll wait.
const longestPoll = 330 * time.Second

// longestFailing is how long polls may fail before that is no passing trouble.
const longestFailing = 20 * time.Second

// Healthy says why what the apps say may not be reaching the log: no poll has ever begun, so that there is no place to go
// on from, or this replica is to poll and has not completed one for longer than a poll can take. What is said once there
// is a cursor is not lost, whoever polls.
func (in *Ingest) Healthy(ctx context.Context) error {
	at, _, err := (&lease{cell: in.opts.Cell, pace: in.opts.Pace}).load(ctx)
	switch {
	case err != nil:
		return fmt.Errorf("cursor: %w", err)
	case at.Cursor == 0:
		return errors.New("not subscribed yet")
	}
	// A poll that is being held is neither a success yet nor a failure any more.
	since, failed := in.opts.Stats.FailingSince.Load(), in.opts.Stats.LastFailure.Load()
	if since > 0 && time.Since(time.UnixMilli(failed)) < longestFailing && time.Since(time.UnixMilli(since)) > longestFailing {
		return fmt.Errorf("polls have failed for %s", time.Since(time.UnixMilli(since)).Round(time.Second))
	}
	last := in.opts.Stats.LastPoll.Load()
	if silent := time.Since(time.UnixMilli(last)); in.opts.Stats.Owner.Load() && last > 0 && silent > longestPoll {
		return fmt.Errorf("no poll completed for %s", silent.Round(time.Second))
	}
	return nil
}
