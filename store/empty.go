package store

import (
	"context"
	"sync/atomic"

	"github.com/redis/go-redis/v9"
)

const scanBatch = 1000

// nobody asks who lives without being one of them.
const nobody = "nobody"

// Living lists the replicas that live, without becoming one.
func (s *Store) Living(ctx context.Context) ([]string, error) {
	return s.membership(ctx, nobody, 0)
}

// Empty removes every key of the organisation, so that the next owner of each partition decides its whole log again, and
// says how many there were. Keys of other organisations stay. It may be repeated after an error.
func (s *Store) Empty(ctx context.Context) (int64, error) {
	var removed atomic.Int64 // the nodes of a cluster are walked at once
	empty := func(ctx context.Context, node redis.UniversalClient) error {
		var cursor uint64
		for {
			keys, next, err := node.Scan(ctx, cursor, s.keys.tag+"*", scanBatch).Result()
			if err != nil {
				return err
			}
			if len(keys) > 0 {
				n, err := node.Unlink(ctx, keys...).Result()
				if err != nil {
					return err
				}
				removed.Add(n)
			}
			if cursor = next; cursor == 0 {
				return nil
			}
		}
	}
	var err error
	if cluster, ok := s.client.(*redis.ClusterClient); ok {
		err = cluster.ForEachMaster(ctx, func(ctx context.Context, node *redis.Client) error { return empty(ctx, node) })
	} else {
		err = empty(ctx, s.client)
	}
	if err != nil {
		return removed.Load(), unavailable("empty", err)
	}
	return removed.Load(), nil
}
