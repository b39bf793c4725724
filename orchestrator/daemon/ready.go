package daemon

import (
	"context"
	"errors"
	"fmt"
	"sync/atomic"

	"consultd/handlers/ops"
	"consultd/states"
)

var errConnecting = errors.New("still connecting")

// checks are the dependencies by name, asked of the parts once they exist. A replica without partitions of its own is
// ready all the same: it waits to take over.
func (d *Daemon) checks(built *atomic.Pointer[parts]) []ops.Check {
	check := func(name string, probe func(context.Context, *parts) error) ops.Check {
		return ops.Check{Name: name, Run: func(ctx context.Context) error {
			p := built.Load()
			if p == nil {
				return errConnecting
			}
			return probe(ctx, p)
		}}
	}
	list := []ops.Check{
		check("nats", func(_ context.Context, p *parts) error {
			for lane, c := range p.connections {
				if !c.Conn.IsConnected() {
					return fmt.Errorf("the connection of lane %s is %s", lane, c.Conn.Status())
				}
			}
			return nil
		}),
		check("redis", func(ctx context.Context, p *parts) error { return p.stores[states.LaneNormal].Ping(ctx) }),
		check("engine", func(_ context.Context, p *parts) error { return p.engine.Healthy() }),
	}
	if d.cfg.PubNub.Enabled {
		list = append(list, check("pubnub", func(ctx context.Context, p *parts) error {
			var errs []error
			for lane, ingest := range p.ingests {
				if err := ingest.Healthy(ctx); err != nil {
					errs = append(errs, fmt.Errorf("%s lane: %w", lanes[lane], err))
				}
			}
			return errors.Join(errs...)
		}))
	}
	return list
}
