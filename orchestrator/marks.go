package orchestrator

import (
	"context"
	"maps"
	"time"

	"consultd/states"
)

const markEvery = time.Second

// markLoop saves, about once a second, how far the relays have come. A mark that lags makes a replay say a second's worth
// of messages again, under the same ids; it never lets one be left out.
func (l *lane) markLoop(ctx context.Context) {
	tick := time.NewTicker(markEvery)
	defer tick.Stop()
	for {
		select {
		case <-ctx.Done():
			return
		case <-tick.C:
		}
		for n := range l.Partitions {
			if p := l.partition(n); p != nil {
				p.saveMarks(ctx)
			}
		}
	}
}

// saveMarks saves a partition's marks if they have moved.
func (p *partition) saveMarks(ctx context.Context) {
	marks := make(map[states.Sink]uint64, len(p.relays))
	for sink, r := range p.relays {
		marks[sink] = r.done.Load()
	}
	if maps.Equal(marks, p.marked) {
		return
	}
	if err := p.lane.Marks.SaveMarks(ctx, p.id, marks); err != nil {
		if ctx.Err() == nil {
			p.log.Debug().Err(err).Msg("delivery marks not saved; a replay would repeat some messages under the same ids")
		}
		return
	}
	p.marked = marks
}
