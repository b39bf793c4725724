package main

import (
	"fmt"
	"io"
	"time"

	"github.com/rs/zerolog"
	"github.com/spf13/cobra"

	"consultd/config"
	"consultd/orchestrator/daemon"
)

func runCommand() *cobra.Command {
	cmd := &cobra.Command{
		Use:   "run --config FILE",
		Short: "Run the daemon until SIGINT or SIGTERM; a second signal does not wait for what is in hand",
		Args:  cobra.NoArgs,
	}
	file := configFlag(cmd)
	cmd.RunE = work(func(cmd *cobra.Command, _ []string) error {
		cfg, err := config.Load(*file)
		if err != nil {
			return err
		}
		log, err := logger(cfg.Log, cmd.ErrOrStderr())
		if err != nil {
			return err
		}
		v, revision := build()
		log.Info().Str("version", v).Str("revision", revision).Str("environment", string(cfg.Environment)).Msg("consultd starts")
		for _, p := range cfg.Warnings() {
			log.Warn().Str("field", p.Path).Int("line", p.Line).Str("hint", p.Hint).Msg("configuration: " + p.Message)
		}
		d, err := daemon.New(cfg, log)
		if err != nil {
			return err
		}
		if err := d.Run(cmd.Context()); err != nil {
			return fmt.Errorf("run: %w", err)
		}
		return nil
	})
	return cmd
}

// logger writes the daemon's own log.
func logger(c config.Log, w io.Writer) (zerolog.Logger, error) {
	level, err := zerolog.ParseLevel(c.Level)
	if err != nil {
		return zerolog.Nop(), fmt.Errorf("log level: %w", err)
	}
	if c.Console {
		w = zerolog.ConsoleWriter{Out: w, TimeFormat: "15:04:05.000"}
	}
	return zerolog.New(w).Level(level).Hook(stamp{}), nil
}

// stamp writes the time with milliseconds: seconds are too coarse beside broker logs, and zerolog's own format is a global.
type stamp struct{}

func (stamp) Run(e *zerolog.Event, _ zerolog.Level, _ string) {
	e.Str(zerolog.TimestampFieldName, time.Now().UTC().Format("2006-01-02T15:04:05.000Z07:00"))
}
