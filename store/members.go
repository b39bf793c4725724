package store

import (
	"context"
	_ "embed"
	"errors"
	"time"

	"github.com/redis/go-redis/v9"
)

//go:embed members.lua
var membersSource string

var membersScript = redis.NewScript(membersSource)

// Members says that self lives for another ttl, and returns all the living, sorted, self among them.
func (s *Store) Members(ctx context.Context, self string, ttl time.Duration) ([]string, error) {
	if self == "" || ttl < time.Millisecond {
		return nil, errors.New("members: needs a name and a time to live of at least 1 ms")
	}
	return s.membership(ctx, self, ttl)
}

// Leave takes self off the list at once, so that the others share out its partitions without waiting for its ttl.
func (s *Store) Leave(ctx context.Context, self string) error {
	_, err := s.membership(ctx, self, 0)
	return err
}

func (s *Store) membership(ctx context.Context, self string, ttl time.Duration) ([]string, error) {
	living, err := membersScript.Run(ctx, s.client, []string{s.keys.members()}, self, ttl.Milliseconds()).StringSlice()
	if err != nil {
		return nil, unavailable("members", err)
	}
	return living, nil
}
