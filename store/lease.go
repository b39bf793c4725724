package store

import (
	"context"
	_ "embed"
	"errors"
	"strconv"
	"time"

	"github.com/redis/go-redis/v9"

	"consultd/states"
)

//go:embed lease.lua
var leaseSource string

var leaseScript = redis.NewScript(leaseSource)

// Acquire takes those of the partitions that no other owner holds, for ttl on Redis's clock, and returns what it got and
// where each one stands. Every acquisition has a higher epoch than any before, also one by the present holder: whatever is
// still on its way from an earlier holding, in this process too, is fenced. To keep a lease without that, Renew it.
func (s *Store) Acquire(ctx context.Context, owner string, ttl time.Duration, ps []states.Partition) (map[states.Partition]states.Lease, error) {
	leases, err := s.lease(ctx, "acquire", owner, ttl, ps)
	s.deleter.hold(leases)
	return leases, err
}

// Renew extends the leases that have not expired, and returns those partitions. What is missing from the answer is
// lost: stop deciding for it, and acquire it anew.
func (s *Store) Renew(ctx context.Context, owner string, ttl time.Duration, ps []states.Partition) ([]states.Partition, error) {
	leases, err := s.lease(ctx, "renew", owner, ttl, ps)
	if err != nil {
		return nil, err
	}
	var ours []states.Partition
	for _, p := range ps {
		if _, ok := leases[p]; ok {
			ours = append(ours, p)
		}
	}
	return ours, nil
}

// Release gives partitions back at once, after removing what was delivered, so that the next holder does not deliver it
// again. Later commits under their epochs are fenced.
func (s *Store) Release(ctx context.Context, owner string, ps []states.Partition) error {
	flushed := s.deleter.flush(ctx)
	if _, err := s.lease(ctx, "release", owner, 0, ps); err != nil {
		return err
	}
	return flushed
}

func (s *Store) lease(ctx context.Context, verb, owner string, ttl time.Duration, ps []states.Partition) (map[states.Partition]states.Lease, error) {
	operation := verb + " partitions"
	if len(ps) == 0 {
		return map[states.Partition]states.Lease{}, nil
	}
	if owner == "" || (verb != "release" && ttl < time.Millisecond) {
		return nil, errors.New(operation + ": needs an owner and a time to live of at least 1 ms")
	}
	keys := make([]string, len(ps))
	for i, p := range ps {
		keys[i] = s.keys.partition(p)
	}
	answer, err := leaseScript.Run(ctx, s.client, keys, verb, owner, ttl.Milliseconds()).Slice()
	if err != nil {
		return nil, unavailable(operation, err)
	}
	if len(answer) != len(ps) {
		return nil, unavailable(operation, errors.New("lease.lua answered for another number of partitions"))
	}
	leases := make(map[states.Partition]states.Lease, len(ps))
	for i, p := range ps {
		if lease, ours := readLease(answer[i]); ours {
			leases[p] = lease
		}
	}
	return leases, nil
}

// readLease reads one partition's answer. A field that is no number leaves the lease unheld, the safe reading.
func readLease(answer any) (lease states.Lease, ours bool) {
	fields, ok := answer.([]any)
	if !ok || len(fields) != 5 || fields[0] != "ours" {
		return states.Lease{}, false
	}
	var n [4]int64
	for i := range n {
		text, _ := fields[i+1].(string)
		var err error
		if n[i], err = strconv.ParseInt(text, 10, 64); err != nil || n[i] < 0 {
			return states.Lease{}, false
		}
	}
	return states.Lease{Epoch: n[0], Seq: uint64(n[1]), Commits: n[2], RulesSeq: uint64(n[3])}, true
}

// Bind says which log a lane's positions were counted in: the given one, from now on, if none was said before.
func (s *Store) Bind(ctx context.Context, lane states.Lane, log string) (bound string, err error) {
	key := s.keys.log(lane)
	if err := s.client.SetNX(ctx, key, log, 0).Err(); err != nil {
		return "", unavailable("bind the log", err)
	}
	if bound, err = s.client.Get(ctx, key).Result(); err != nil {
		return "", unavailable("bind the log", err)
	}
	return bound, nil
}
