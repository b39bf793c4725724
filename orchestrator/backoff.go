package orchestrator

import (
	"context"
	"time"

	"github.com/cenkalti/backoff/v5"
)

// pause waits longer after each failure, with jitter, until it is reset by a success.
type pause struct{ b *backoff.ExponentialBackOff }

func newBackoff(first, most time.Duration) *pause {
	b := backoff.NewExponentialBackOff()
	b.InitialInterval, b.MaxInterval = first, most
	b.Reset()
	return &pause{b}
}

func (p *pause) reset() { p.b.Reset() }

// wait returns false when ctx ended meanwhile.
func (p *pause) wait(ctx context.Context) bool {
	t := time.NewTimer(p.b.NextBackOff())
	defer t.Stop()
	select {
	case <-t.C:
		return true
	case <-ctx.Done():
		return false
	}
}

// signal wakes whoever waits on c; one signal that is already waiting is enough.
func signal(c chan struct{}) {
	select {
	case c <- struct{}{}:
	default:
	}
}
