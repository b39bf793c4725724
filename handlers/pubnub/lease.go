package pubnub

import (
	"context"
	"encoding/json"
	"errors"
	"sync"
	"time"
)

// Cell is one durable value with compare-and-set, shared by all replicas: a key of a JetStream bucket.
type Cell interface {
	// Load gives the value and its revision; nil and 0 when nothing was ever stored.
	Load(ctx context.Context) (value []byte, revision uint64, err error)
	// Store replaces the value of that revision (0: creates it) and gives the new revision. It fails when the value has
	// another revision by now. After any error the value is loaded again, since it may have been stored or not.
	Store(ctx context.Context, value []byte, revision uint64) (uint64, error)
}

// errLost says that another replica has taken over.
var errLost = errors.New("another replica is polling")

// place is what the cell holds: who polls, and how far everything is in the log.
type place struct {
	Owner  string `json:"owner"`         // "" when given up in good order
	Cursor int64  `json:"cursor,string"` // everything up to this timetoken is in the log; 0 before the first handshake
	Gap    int64  `json:"gap,string"`    // what came after this timetoken may be missing and has to be read from history; 0 when nothing
}

// lease is the right to poll, together with the cursor: both are one value, so that a replica that has lost the one cannot
// move the other.
type lease struct {
	cell  Cell
	owner string // of this process and run, unlike any other
	pace  Pace
	alert func(error)

	mu       sync.Mutex // held while storing
	held     place
	revision uint64
	stored   time.Time
}

// acquire waits until the lease is free, or has not been renewed for Takeover by our own clock, and takes it.
func (l *lease) acquire(ctx context.Context) error {
	var seen uint64
	var since time.Time
	for first := true; ; first = false {
		if !first {
			if err := sleep(ctx, l.pace.Beat/2); err != nil {
				return err
			}
		}
		current, revision, err := l.load(ctx)
		if err != nil {
			if ctx.Err() != nil {
				return ctx.Err()
			}
			l.alert(err)
			since = time.Time{} // the owner could not renew either
			continue
		}
		if since.IsZero() || revision != seen {
			seen, since = revision, time.Now()
		}
		if current.Owner != "" && current.Owner != l.owner && time.Since(since) < l.pace.Takeover {
			continue
		}
		next := current
		next.Owner = l.owner
		if revision, err = l.store(ctx, next, revision); err != nil {
			continue // somebody was quicker, or the answer was lost: the next look shows
		}
		l.mu.Lock()
		l.held, l.revision, l.stored = next, revision, time.Now()
		l.mu.Unlock()
		return nil
	}
}

// place gives what is stored.
func (l *lease) place() place {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.held
}

// update stores a changed place. It goes on trying until it is stored, the lease is lost (errLost), or ctx ends.
func (l *lease) update(ctx context.Context, change func(*place)) error {
	l.mu.Lock()
	defer l.mu.Unlock()
	next := l.held
	change(&next)
	wait := l.pace.retry()
	for {
		revision, err := l.store(ctx, next, l.revision)
		if err == nil {
			l.held, l.revision, l.stored = next, revision, time.Now()
			return nil
		}
		// Stored or not, and by whom: only the cell knows.
		current, revision, err := l.load(ctx)
		switch {
		case err != nil:
		case current.Owner != l.owner:
			return errLost
		default:
			l.revision = revision // ours, new or old: store it again
		}
		if err := wait.next(ctx, 0); err != nil {
			return err
		}
	}
}

// beat renews the lease until it is lost or ctx ends.
func (l *lease) beat(ctx context.Context) error {
	for {
		if err := sleep(ctx, l.pace.Beat); err != nil {
			return err
		}
		l.mu.Lock()
		fresh := time.Since(l.stored) < l.pace.Beat/2
		l.mu.Unlock()
		if fresh { // a new cursor is a beat as well
			continue
		}
		if err := l.update(ctx, func(*place) {}); err != nil {
			return err
		}
	}
}

// release gives the lease up, so that another replica need not wait. It tries once.
func (l *lease) release(ctx context.Context) {
	l.mu.Lock()
	defer l.mu.Unlock()
	next := l.held
	next.Owner = ""
	_, _ = l.store(ctx, next, l.revision)
}

func (l *lease) load(ctx context.Context) (place, uint64, error) {
	ctx, cancel := context.WithTimeout(ctx, l.pace.Operation)
	defer cancel()
	value, revision, err := l.cell.Load(ctx)
	if err != nil || len(value) == 0 {
		return place{}, revision, err
	}
	var p place
	if err := json.Unmarshal(value, &p); err != nil {
		// Nobody but us writes it. Losing the cursor would lose messages, so an operator has to look.
		return place{}, revision, errors.New("read pubnub cursor: the stored value is unreadable; delete the key to start from now")
	}
	return p, revision, nil
}

func (l *lease) store(ctx context.Context, p place, revision uint64) (uint64, error) {
	value, err := json.Marshal(p)
	if err != nil {
		return 0, err
	}
	ctx, cancel := context.WithTimeout(ctx, l.pace.Operation)
	defer cancel()
	return l.cell.Store(ctx, value, revision)
}
