package store

import (
	"context"
	"errors"

	"github.com/redis/go-redis/v9"
)

// WaitingRoom returns the appointments waiting for a provider, the next one first.
func (s *Store) WaitingRoom(ctx context.Context, provider string) ([]string, error) {
	return s.inOrder(ctx, s.keys.room(provider))
}

// Queue returns the appointments waiting in a department, the next one first.
func (s *Store) Queue(ctx context.Context, department string) ([]string, error) {
	return s.inOrder(ctx, s.keys.queue(department))
}

func (s *Store) inOrder(ctx context.Context, key string) ([]string, error) {
	appointments, err := s.client.ZRange(ctx, key, 0, -1).Result()
	if err != nil {
		return nil, unavailable("read queue", err)
	}
	return appointments, nil
}

// ProviderLoad returns the number of visits that a provider is in.
func (s *Store) ProviderLoad(ctx context.Context, provider string) (int, error) {
	n, err := s.client.HGet(ctx, s.keys.load(), provider).Int()
	if err != nil && !errors.Is(err, redis.Nil) {
		return 0, unavailable("read load", err)
	}
	return n, nil
}
