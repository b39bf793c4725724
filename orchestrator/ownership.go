package orchestrator

import (
	"context"
	"errors"
	"hash/fnv"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"time"

	"golang.org/x/sync/errgroup"

	"consultd/states"
)

// remindEvery is how often a lasting trouble is logged.
const remindEvery = time.Minute

// acquireAtOnce is how many partitions are prepared at the same time.
const acquireAtOnce = 16

// ownLoop keeps this replica's share of the partitions: it shows itself among the members, takes what falls to it,
// renews what it has, and lets go of what falls to others. Losing this arithmetic costs order for a moment, never
// correctness: every write carries the epoch of the lease.
func (l *lane) ownLoop(ctx context.Context) {
	var said string // the trouble that was logged last
	var saidAt time.Time
	tick := time.NewTicker(l.engine.Lease / 4)
	defer tick.Stop()
	for {
		switch err := l.keepShare(ctx); {
		case err == nil:
			if said != "" {
				said = ""
				l.log.Info().Msg("leases are renewed again")
			}
			l.leaseErr.Store(nil)
		case ctx.Err() == nil:
			l.leaseErr.Store(&err)
			if text := err.Error(); text != said || time.Since(saidAt) > remindEvery {
				said, saidAt = text, time.Now()
				l.log.Warn().Err(err).Msg("leases not renewed; decisions wait until the store answers")
			}
		}
		select {
		case <-ctx.Done():
			return
		case <-tick.C:
		}
	}
}

var errDeaf = errors.New("the log cannot be reached; partitions are left to others")

// keepShare rebalances, unless the log has been out of reach for longer than a lease: whoever cannot read should not own.
func (l *lane) keepShare(ctx context.Context) error {
	if l.Connected == nil || l.Connected() {
		l.heardLog = time.Now()
	}
	if time.Since(l.heardLog) > l.engine.Lease {
		return errDeaf
	}
	return l.rebalance(ctx)
}

func (l *lane) rebalance(ctx context.Context) error {
	ctx, cancel := context.WithTimeout(ctx, l.engine.Lease)
	defer cancel()
	members, err := l.Store.Members(ctx, l.member(), l.engine.Lease)
	if err != nil {
		return err
	}
	members = slices.DeleteFunc(members, func(m string) bool { return !strings.HasPrefix(m, string(l.Lane)+".") })
	l.dropStopped()
	var keep, want, give []states.Partition
	for n := range l.Partitions {
		id := states.Partition{Lane: l.Lane, Number: n}
		mine := rendezvous(members, n) == l.member()
		switch owned := l.partition(n) != nil; {
		case owned && mine:
			keep = append(keep, id)
		case owned:
			give = append(give, id)
		case mine:
			want = append(want, id)
		}
	}
	l.share.Store(int32(len(keep) + len(want))) //nolint:gosec // at most the number of partitions
	if err := l.renew(ctx, keep); err != nil {
		return err
	}
	if len(give) > 0 {
		// Nothing is renewed meanwhile, so it must be short. What a sink has not taken by then the next owner delivers.
		l.release(ctx, give, min(l.engine.Drain, l.engine.Lease/4))
	}
	if len(want) > 0 {
		return l.acquire(ctx, want)
	}
	return nil
}

func (l *lane) renew(ctx context.Context, keep []states.Partition) error {
	if len(keep) == 0 {
		return nil
	}
	still, err := l.Store.Renew(ctx, l.engine.Owner, l.engine.Lease, keep)
	if err != nil {
		return err
	}
	ours := make(map[states.Partition]bool, len(still))
	for _, p := range still {
		ours[p] = true
	}
	for _, id := range keep {
		if !ours[id] {
			l.metrics.leaseLost.Inc()
			l.partition(id.Number).abandon("lease lost")
		}
	}
	l.dropStopped()
	return nil
}

// acquire takes partitions. It ends early enough for what is owned already to be renewed in time; what it had no time for
// stays leased to us and is acquired anew at the next turn.
func (l *lane) acquire(ctx context.Context, want []states.Partition) error {
	ctx, cancel := context.WithTimeout(ctx, l.engine.Lease/2)
	defer cancel()
	leases, err := l.Store.Acquire(ctx, l.engine.Owner, l.engine.Lease, want)
	if err != nil {
		return err
	}
	known := map[uint64]inForce{} // nearly always the same ones for all
	for _, lease := range leases {
		if _, ok := known[lease.RulesSeq]; !ok {
			var r inForce
			if r.rules, r.seq, err = l.rulesAt(ctx, lease.RulesSeq); err != nil {
				return err
			}
			known[lease.RulesSeq] = r
		}
	}
	var started atomic.Int32
	defer func() { // also after an error half way: a started partition that no pass takes along would never be read
		if started.Load() == 0 {
			return
		}
		l.countOwned()
		l.log.Info().Int32("acquired", started.Load()).Int("owned", l.ownedCount()).Msg("partitions acquired")
		l.restartPass()
		l.sweeper.wake(time.Time{})
	}()
	var group errgroup.Group // one after the other, the marks of many partitions could outlast the lease
	group.SetLimit(acquireAtOnce)
	for id, lease := range leases {
		group.Go(func() error {
			marks, err := l.Marks.LoadMarks(ctx, id)
			if err != nil {
				return err
			}
			r := known[lease.RulesSeq]
			p := newPartition(l, id, lease, r.rules, r.seq, marks)
			l.mu.Lock()
			l.owned[id.Number] = p
			l.mu.Unlock()
			p.start()
			started.Add(1)
			return nil
		})
	}
	return group.Wait()
}

// inForce are rules with the position at which they entered the log.
type inForce struct {
	rules *states.Rules
	seq   uint64
}

// dropStopped forgets partitions that stopped by themselves (fenced or rewound), so that they are acquired anew. Their
// relays must have ended before that: in a store that has forgotten, the numbers of outbox entries begin again, and an old
// relay would strike out a new one's entry.
func (l *lane) dropStopped() {
	var stopped []*partition
	l.mu.Lock()
	for n, p := range l.owned {
		if p != nil && p.isStopped() {
			l.owned[n] = nil
			stopped = append(stopped, p)
		}
	}
	l.mu.Unlock()
	stopAll(stopped, 0)
	l.countOwned()
}

func stopAll(ps []*partition, drain time.Duration) {
	var wg sync.WaitGroup
	for _, p := range ps {
		wg.Go(func() { p.stop(drain) })
	}
	wg.Wait()
}

// release stops partitions in order (what is in hand is finished, and delivered if that takes no longer than drain) and
// gives their leases back.
func (l *lane) release(ctx context.Context, give []states.Partition, drain time.Duration) {
	var ps []*partition
	l.mu.Lock()
	for _, id := range give {
		if p := l.owned[id.Number]; p != nil {
			l.owned[id.Number] = nil
			ps = append(ps, p)
		}
	}
	l.mu.Unlock()
	stopAll(ps, drain)
	for _, p := range ps {
		p.saveMarks(ctx)
	}
	l.countOwned()
	if err := l.Store.Release(ctx, l.engine.Owner, give); err != nil {
		l.log.Warn().Err(err).Msg("leases not given back; they expire by themselves")
	}
}

func (l *lane) releaseAll() {
	ctx, cancel := context.WithTimeout(context.Background(), l.engine.Drain+l.engine.Lease)
	defer cancel()
	var give []states.Partition
	for n := range l.Partitions {
		if l.partition(n) != nil {
			give = append(give, states.Partition{Lane: l.Lane, Number: n})
		}
	}
	l.release(ctx, give, l.engine.Drain)
	if err := l.Store.Leave(ctx, l.member()); err != nil {
		l.log.Warn().Err(err).Msg("membership not given back; it expires by itself")
	}
}

// member is this replica's name among those that share the lane.
func (l *lane) member() string { return string(l.Lane) + "." + l.engine.Owner }

func (l *lane) countOwned() {
	l.mu.Lock()
	defer l.mu.Unlock()
	n := 0
	for _, p := range l.owned {
		if p != nil {
			n++
		}
	}
	l.count.Store(int32(n)) //nolint:gosec // at most the number of partitions
	l.metrics.owned.Set(float64(n))
}

// ids lists the partitions owned now.
func (l *lane) ids() []states.Partition {
	l.mu.Lock()
	defer l.mu.Unlock()
	var ids []states.Partition
	for _, p := range l.owned {
		if p != nil && !p.isStopped() {
			ids = append(ids, p.id)
		}
	}
	return ids
}

// rendezvous gives a partition to the living member with the highest hash: when one comes or goes, only its own share moves.
func rendezvous(members []string, n int) string {
	var best string
	var bestHash uint64
	for _, m := range members {
		h := fnv.New64a()
		_, _ = h.Write([]byte(m))
		_, _ = h.Write([]byte{0, byte(n >> 8), byte(n)}) //nolint:gosec // the low 16 bits are meant
		if sum := mix(h.Sum64()); best == "" || sum > bestHash || (sum == bestHash && m < best) {
			best, bestHash = m, sum
		}
	}
	return best
}

// mix spreads FNV's weak high bits (the finaliser of SplitMix64), without which neighbours would win together.
func mix(x uint64) uint64 {
	x ^= x >> 30
	x *= 0xbf58476d1ce4e5b9
	x ^= x >> 27
	x *= 0x94d049bb133111eb
	return x ^ x>>31
}
