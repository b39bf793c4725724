package orchestrator

import (
	"context"
	"errors"
	"fmt"
	"hash/fnv"
	"time"

	"github.com/rs/zerolog"
	"golang.org/x/sync/errgroup"

	"consultd/states"
)

// Options says what an Engine works with.
type Options struct {
	Owner string        // this replica, unique among the living
	Lease time.Duration // how long a silent replica keeps its partitions; the bound on a takeover after a crash
	Drain time.Duration // how long outboxes may be worked off after the order to stop
	Rules *states.Rules // what the configuration says now; enters the logs if it differs from what is in force

	Codec   Codec
	Lanes   []LaneOptions
	Metrics *Metrics
	Log     zerolog.Logger
}

// LaneOptions is one lane's own set of everything, so that no lane waits for another.
type LaneOptions struct {
	Lane       states.Lane
	Partitions int
	Log        Log
	Store      Store
	Sinks      map[states.Sink]Publisher
	Marks      Marks
	Dead       Publisher // where undeliverable messages are reported
	// Connected says whether the log can be reached. A replica that cannot read keeps no partitions. Nil: always.
	Connected func() bool
	Deciders  int // partitions that may work on a decision at once, 0 for all; keeps a flood from crowding out the other lane
	Backlog   int // undelivered commits per partition and sink before the partition pauses
}

// Engine decides and relays everything that belongs to the partitions it owns.
type Engine struct {
	opts  Options
	lanes []*lane
}

// New checks the options and builds an engine; Run starts it.
func New(o Options) (*Engine, error) {
	switch {
	case o.Owner == "":
		return nil, errors.New("engine: no owner")
	case o.Lease <= 0:
		return nil, errors.New("engine: lease must be positive")
	case o.Codec == nil || o.Metrics == nil || o.Rules == nil:
		return nil, errors.New("engine: codec, metrics and rules are required")
	case len(o.Lanes) == 0:
		return nil, errors.New("engine: no lanes")
	}
	e := &Engine{opts: o}
	for _, lo := range o.Lanes {
		if lo.Partitions <= 0 || lo.Log == nil || lo.Store == nil || lo.Marks == nil || lo.Dead == nil || lo.Backlog <= 0 {
			return nil, fmt.Errorf("engine: lane %q needs partitions, a log, a store, marks, dead letters and a bound on its outboxes", lo.Lane)
		}
		e.lanes = append(e.lanes, newLane(&e.opts, lo))
	}
	return e, nil
}

// Run works until ctx ends and what is in hand is done, or a lane fails for good.
func (e *Engine) Run(ctx context.Context) error {
	for _, l := range e.lanes {
		if err := l.declareRules(ctx); err != nil {
			return fmt.Errorf("lane %s: %w", l.Lane, err)
		}
	}
	g, ctx := errgroup.WithContext(ctx)
	for _, l := range e.lanes {
		g.Go(func() error {
			if err := l.run(ctx); err != nil {
				return fmt.Errorf("lane %s: %w", l.Lane, err)
			}
			return nil
		})
	}
	return g.Wait()
}

// Healthy says why this replica is not doing its work, nil when it does. Owning nothing is healthy when others own it.
func (e *Engine) Healthy() error {
	for _, l := range e.lanes {
		if err := l.healthy(); err != nil {
			return fmt.Errorf("lane %s: %w", l.Lane, err)
		}
	}
	return nil
}

// partitionOf places a key. FNV-1a is stable across versions and machines, which a stored position depends on.
func partitionOf(key string, partitions int) int {
	h := fnv.New64a()
	_, _ = h.Write([]byte(key))
	return int(h.Sum64() % uint64(partitions)) //nolint:gosec // a small count
}
