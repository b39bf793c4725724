package main

import (
	"context"
	"fmt"
	"time"

	"github.com/rs/zerolog"
	"github.com/spf13/cobra"

	"consultd/config"
	"consultd/handlers/nats"
	"consultd/orchestrator/daemon"
	"consultd/store"
)

// connectPatience is how long a command waits for a server: an operator looks on, unlike the daemon's, which waits for ever.
const connectPatience = 5 * time.Second

// connectNATS opens a connection as configured for one command.
func connectNATS(cmd *cobra.Command, cfg *config.Config) (*nats.Client, error) {
	ctx, cancel := context.WithTimeout(cmd.Context(), connectPatience)
	defer cancel()
	client, err := nats.Connect(ctx, daemon.NATSOptions(cfg, "consultd "+cmd.Name(), zerolog.Nop()))
	if err != nil {
		return nil, fmt.Errorf("connect to NATS (nats.urls): %w", err)
	}
	return client, nil
}

// openStore opens the store as configured for one command.
func openStore(cmd *cobra.Command, cfg *config.Config) (*store.Store, error) {
	ctx, cancel := context.WithTimeout(cmd.Context(), connectPatience)
	defer cancel()
	s, err := daemon.OpenStore(ctx, cfg, zerolog.Nop())
	if err != nil {
		return nil, fmt.Errorf("connect to Redis (redis.addr): %w", err)
	}
	return s, nil
}
