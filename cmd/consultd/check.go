package main

import (
	"fmt"
	"os"

	"github.com/rs/zerolog"
	"github.com/spf13/cobra"

	"consultd/config"
	"consultd/orchestrator/daemon"
	"consultd/store"
)

func checkConfigCommand() *cobra.Command {
	return &cobra.Command{
		Use:   "check-config FILE",
		Short: "Say everything that is wrong with a configuration, each with its line; secrets and variables are resolved as at start",
		Args:  cobra.ExactArgs(1),
		RunE: work(func(cmd *cobra.Command, args []string) error {
			data, err := os.ReadFile(args[0])
			if err != nil {
				return fmt.Errorf("read configuration: %w", err)
			}
			problems := config.Check(data)
			for _, p := range problems {
				colon := ":"
				if p.Line == 0 {
					colon = ": "
				}
				cmd.Println(args[0] + colon + p.String())
			}
			if config.Refused(problems) {
				return &reported{}
			}
			cfg, err := config.Load(args[0])
			if err != nil {
				return err
			}
			// What only the packages themselves can judge.
			if _, err := store.NewSealer([]byte(cfg.Sealing.Keyset.Reveal())); err != nil {
				return err
			}
			if _, err := daemon.New(cfg, zerolog.Nop()); err != nil {
				return err
			}
			cmd.Printf("%s: OK for %s\n", args[0], cfg.Environment)
			return nil
		}),
	}
}
