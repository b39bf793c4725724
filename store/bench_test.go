package store

import (
	"fmt"
	"sync"
	"sync/atomic"
	"testing"

	goredis "github.com/redis/go-redis/v9"

	"consultd/states"
	"consultd/test/redis"
)

// BenchmarkCommit measures whole commits (sealed record and outbox entry, a timer, a queue place) of one and of 64
// partitions at once, beside the same number of bare SETs in pipelines of 64 on the same server.
func BenchmarkCommit(b *testing.B) {
	for _, fsync := range []string{"everysec", "always"} {
		server := redis.ForTest(b, redis.Options{AppendOnly: true, AppendFsync: fsync})
		for _, goroutines := range []int{1, 64} {
			b.Run(fmt.Sprintf("fsync=%s/goroutines=%d", fsync, goroutines), func(b *testing.B) {
				benchmarkCommit(b, openAt(b, server.Addr()), goroutines)
			})
		}
		b.Run("fsync="+fsync+"/bare-set-pipeline", func(b *testing.B) { benchmarkSet(b, raw(b, server.Addr())) })
	}
}

func benchmarkCommit(b *testing.B, s *Store, goroutines int) {
	f := newFleet(b, s, goroutines)
	for i := range f.claims { // a run continues where the one before it ended
		leases, err := s.Acquire(b.Context(), owner, ttl, []states.Partition{f.claims[i].Partition})
		if err != nil {
			b.Fatal(err)
		}
		f.claims[i].Epoch = leases[f.claims[i].Partition].Epoch
		f.claims[i].Floor = leases[f.claims[i].Partition].Commits
	}
	var next atomic.Int64
	var wg sync.WaitGroup
	b.ResetTimer()
	for i, claim := range f.claims {
		wg.Go(func() {
			for seq := uint64(claim.Floor) + 1; ; seq++ {
				n := next.Add(1)
				if n > int64(b.N) {
					return
				}
				appointment := fmt.Sprintf("bench-%d-%d", i, seq)
				c := visitCommit(claim, seq, appointment, 1)
				c.Decision.Timers = []states.TimerChange{{ID: noShow(appointment), Due: start}}
				c.Decision.Places = []states.PlaceChange{{Provider: "dr-smith", Appointment: appointment, Score: float64(n)}}
				if stored, err := s.Commit(b.Context(), c); err != nil || stored.Outcome != states.Committed {
					b.Errorf("commit: %+v, %v", stored, err)
					return
				}
			}
		})
	}
	wg.Wait()
	b.ReportMetric(float64(b.N)/b.Elapsed().Seconds(), "commits/s")
}

func benchmarkSet(b *testing.B, r *goredis.Client) {
	const depth = 64
	value := make([]byte, 900)
	for n := 0; n < b.N; n += depth {
		pipe := r.Pipeline()
		for i := range min(depth, b.N-n) {
			pipe.Set(b.Context(), fmt.Sprintf("bare-%d", n+i), value, 0)
		}
		if _, err := pipe.Exec(b.Context()); err != nil {
			b.Fatal(err)
		}
	}
	b.ReportMetric(float64(b.N)/b.Elapsed().Seconds(), "sets/s")
}
