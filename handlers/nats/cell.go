package nats

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"

	"github.com/nats-io/nats.go/jetstream"

	"consultd/states"
)

// ErrStale says that a cell has changed since it was loaded: load it again.
var ErrStale = errors.New("the value has changed meanwhile")

// Cell is one key whose writers exclude each other by its revision.
type Cell struct {
	kv  jetstream.KeyValue
	key string
}

// NewCell is the cell of a key in the bucket that Reconcile made.
func NewCell(ctx context.Context, js jetstream.JetStream, key string) (*Cell, error) {
	kv, err := openBucket(ctx, js)
	if err != nil {
		return nil, err
	}
	return &Cell{kv: kv, key: key}, nil
}

func openBucket(ctx context.Context, js jetstream.JetStream) (jetstream.KeyValue, error) {
	ctx, cancel := context.WithTimeout(ctx, requestTimeout)
	defer cancel()
	kv, err := js.KeyValue(ctx, StateBucket)
	if err != nil {
		return nil, fmt.Errorf("open bucket %s: %w", StateBucket, err)
	}
	return kv, nil
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

// Marks keep, per partition, how far each sink has been served. They are bound to one log, because positions start again in
// one that was created anew, and to one number of partitions, because the same number then means other providers.
type Marks struct {
	kv  jetstream.KeyValue
	log string
}

// NewMarks are the marks of the log in a stream, cut into a number of partitions.
func NewMarks(ctx context.Context, js jetstream.JetStream, stream string, partitions int) (*Marks, error) {
	kv, err := openBucket(ctx, js)
	if err != nil {
		return nil, err
	}
	ctx, cancel := context.WithTimeout(ctx, requestTimeout)
	defer cancel()
	s, err := js.Stream(ctx, stream)
	if err != nil {
		return nil, fmt.Errorf("look at %s: %w", stream, err)
	}
	return &Marks{kv: kv, log: fmt.Sprintf("marks.%s.%d.of%d", stream, s.CachedInfo().Created.UnixNano(), partitions)}, nil
}

func (m *Marks) key(p states.Partition) string {
	return fmt.Sprintf("%s.%s%d", m.log, p.Lane, p.Number)
}

// LoadMarks returns what was saved last, nil when nothing ever was.
func (m *Marks) LoadMarks(ctx context.Context, p states.Partition) (map[states.Sink]uint64, error) {
	ctx, cancel := context.WithTimeout(ctx, requestTimeout)
	defer cancel()
	e, err := m.kv.Get(ctx, m.key(p))
	if errors.Is(err, jetstream.ErrKeyNotFound) {
		return nil, nil
	}
	if err != nil {
		return nil, fmt.Errorf("load marks: %w", err)
	}
	var marks map[states.Sink]uint64
	if err := json.Unmarshal(e.Value(), &marks); err != nil {
		return nil, fmt.Errorf("load marks: %w", err)
	}
	return marks, nil
}

// SaveMarks replaces a partition's marks.
func (m *Marks) SaveMarks(ctx context.Context, p states.Partition, marks map[states.Sink]uint64) error {
	value, err := json.Marshal(marks)
	if err != nil {
		return fmt.Errorf("save marks: %w", err)
	}
	ctx, cancel := context.WithTimeout(ctx, requestTimeout)
	defer cancel()
	if _, err := m.kv.Put(ctx, m.key(p), value); err != nil {
		return fmt.Errorf("save marks: %w", err)
	}
	return nil
}
