package nats

import (
	"context"
	"errors"
	"fmt"

	"github.com/nats-io/nats.go/jetstream"
)

// ErrStale says that a cell has changed since it was loaded: load it again.
var ErrStale = errors.New("the value has changed meanwhile")

// State is the bucket of small things that replicas share: cursors, leases, marks.
type State struct {
	kv jetstream.KeyValue
}

// OpenState opens the bucket that Reconcile made.
func OpenState(ctx context.Context, c *Client) (*State, error) {
	ctx, cancel := context.WithTimeout(ctx, requestTimeout)
	defer cancel()
	kv, err := c.JS.KeyValue(ctx, StateBucket)
	if err != nil {
		return nil, fmt.Errorf("open bucket %s: %w", StateBucket, err)
	}
	return &State{kv: kv}, nil
}

// Put sets a mark, whatever it was.
func (s *State) Put(ctx context.Context, key string, value []byte) error {
	ctx, cancel := context.WithTimeout(ctx, requestTimeout)
	defer cancel()
	if _, err := s.kv.Put(ctx, key, value); err != nil {
		return fmt.Errorf("put %s: %w", key, err)
	}
	return nil
}

// Get returns a mark; nil when it was never set.
func (s *State) Get(ctx context.Context, key string) ([]byte, error) {
	value, _, err := s.Cell(key).Load(ctx)
	return value, err
}

// Cell is the value of one key, changed by compare and swap.
func (s *State) Cell(key string) *Cell { return &Cell{kv: s.kv, key: key} }

// Cell is one key whose writers exclude each other by its revision.
type Cell struct {
	kv  jetstream.KeyValue
	key string
}

// Load returns the value and its revision; nil and 0 when there is none yet.
func (c *Cell) Load(ctx context.Context) (value []byte, revision uint64, err error) {
	ctx, cancel := context.WithTimeout(ctx, requestTimeout)
	defer cancel()
	e, err := c.kv.Get(ctx, c.key)
	if errors.Is(err, jetstream.ErrKeyNotFound) {
		return nil, 0, nil
	}
	if err != nil {
		return nil, 0, fmt.Errorf("load %s: %w", c.key, err)
	}
	return e.Value(), e.Revision(), nil
}

// Store sets the value if it still has the revision that was loaded, and returns the new revision. Otherwise the error
// is ErrStale. After any other error the value may or may not have been set: load it again.
func (c *Cell) Store(ctx context.Context, value []byte, revision uint64) (uint64, error) {
	ctx, cancel := context.WithTimeout(ctx, requestTimeout)
	defer cancel()
	var next uint64
	var err error
	if revision == 0 {
		next, err = c.kv.Create(ctx, c.key, value)
	} else {
		next, err = c.kv.Update(ctx, c.key, value, revision)
	}
	if errors.Is(err, jetstream.ErrKeyExists) || wrongLast(err) {
		return 0, fmt.Errorf("store %s: %w", c.key, ErrStale)
	}
	if err != nil {
		return 0, fmt.Errorf("store %s: %w", c.key, err)
	}
	return next, nil
}
