package pubnub

import (
	"cmp"
	"context"
	"time"

	"github.com/cenkalti/backoff/v5"
)

// Pace is how fast things are done and how long they are waited for. Zero fields get the defaults, which are made for the
// service; tests use smaller ones.
type Pace struct {
	Beat      time.Duration // between renewals of the lease: 1 s
	Takeover  time.Duration // without a renewal until another replica takes over: 3 s
	Operation time.Duration // one access to the cell, the log, or another port: 5 s

	RetryMin time.Duration // after the first failure: 200 ms
	RetryMax time.Duration // after many: 4 s
	Denied   time.Duration // after a refusal for lack of rights: 10 s

	Hold      time.Duration // the longest that a poll is waited for: 320 s
	Handshake time.Duration // the longest that a handshake is waited for: 15 s
	Hasty     time.Duration // a poll without messages that comes back sooner lost its cursor: 60 s
	Downtime  time.Duration // without a completed poll, after which the service's buffer is not trusted: 2 min
	Idle      time.Duration // without any request by the SDK until its client is replaced: 15 s

	Grace    time.Duration // how long emergencies from history may delay those that are live: 1 s
	Patience time.Duration // how long history may delay what is live: 10 s
	Again    time.Duration // until a failed reading of history is repeated: 30 s
	Settle   time.Duration // until history is read a second time, because it lags behind what is live: 3 s
}

func (p Pace) withDefaults() Pace {
	for field, value := range map[*time.Duration]time.Duration{
		&p.Beat: time.Second, &p.Takeover: 3 * time.Second, &p.Operation: 5 * time.Second,
		&p.RetryMin: 200 * time.Millisecond, &p.RetryMax: 4 * time.Second, &p.Denied: 10 * time.Second,
		&p.Hold: 320 * time.Second, &p.Handshake: 15 * time.Second, &p.Hasty: time.Minute, &p.Downtime: 2 * time.Minute,
		&p.Idle: 15 * time.Second, &p.Grace: time.Second, &p.Patience: 10 * time.Second, &p.Again: 30 * time.Second, &p.Settle: 3 * time.Second,
	} {
		*field = cmp.Or(*field, value)
	}
	return p
}

// retry starts a new series of waits.
func (p Pace) retry() *waits {
	b := backoff.NewExponentialBackOff()
	b.InitialInterval, b.MaxInterval = p.RetryMin, p.RetryMax
	b.Reset()
	return &waits{b}
}

// waits are growing, jittered pauses between attempts.
type waits struct{ series *backoff.ExponentialBackOff }

// next waits for the next pause, or for least when that is longer. It returns the context's error when that ends first.
func (w *waits) next(ctx context.Context, least time.Duration) error {
	return sleep(ctx, max(w.series.NextBackOff(), least))
}

func sleep(ctx context.Context, d time.Duration) error {
	timer := time.NewTimer(d)
	defer timer.Stop()
	select {
	case <-timer.C:
		return nil
	case <-ctx.Done():
		return ctx.Err()
	}
}
