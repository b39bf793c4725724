package redis

import (
	"context"
	"time"
)

// TB is what ForTest uses of *testing.T and *testing.B, so that programs need not link package testing.
type TB interface {
	Helper()
	Fatalf(format string, args ...any)
	Cleanup(func())
}

const startPatience = 20 * time.Second

// ForTest runs a server that ends with the test.
func ForTest(tb TB, opts Options) *Server {
	tb.Helper()
	ctx, cancel := context.WithTimeout(context.Background(), startPatience)
	defer cancel()
	s, err := Start(ctx, opts)
	if err != nil {
		tb.Fatalf("redis: %v", err)
	}
	tb.Cleanup(s.Stop)
	return s
}
