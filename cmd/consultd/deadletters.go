package main

import (
	"fmt"
	"text/tabwriter"
	"time"

	"github.com/spf13/cobra"

	"consultd/config"
	"consultd/handlers/nats"
)

func deadLettersCommand() *cobra.Command {
	group := &cobra.Command{Use: "dead-letters", Short: "Look after what was refused for good"}
	group.AddCommand(deadLettersListCommand(), deadLettersReplayCommand())
	return group
}

func deadLettersListCommand() *cobra.Command {
	cmd := &cobra.Command{
		Use:   "list --config FILE",
		Short: "List the newest dead letters, oldest first: where each stood and why it was refused, never what it said",
		Args:  cobra.NoArgs,
	}
	file := configFlag(cmd)
	limit := cmd.Flags().Int("limit", 100, "most letters to list")
	cmd.RunE = work(func(cmd *cobra.Command, _ []string) error {
		return withDeadLetters(cmd, *file, func(letters *nats.DeadLetters) error {
			list, err := letters.List(cmd.Context(), *limit)
			if err != nil {
				return err
			}
			if len(list) == 0 {
				cmd.Println("no dead letters")
				return nil
			}
			table := tabwriter.NewWriter(cmd.OutOrStdout(), 0, 8, 2, ' ', 0)
			_, _ = fmt.Fprintln(table, "BURIED\tID\tSUBJECT\tPOSITION\tCODE\tREASON")
			for _, l := range list {
				_, _ = fmt.Fprintf(table, "%s\t%s\t%s\t%s:%d\t%s\t%s\n", l.Buried.UTC().Format(time.DateTime), l.ID, l.Subject, l.Lane, l.Seq, l.Code, l.Detail)
			}
			return table.Flush()
		})
	})
	return cmd
}

func deadLettersReplayCommand() *cobra.Command {
	cmd := &cobra.Command{
		Use:   "replay ID --config FILE",
		Short: "Put the entry that a dead letter refers to into the log once more, unchanged, to be decided anew",
		Args:  cobra.ExactArgs(1),
	}
	file := configFlag(cmd)
	cmd.RunE = work(func(cmd *cobra.Command, args []string) error {
		return withDeadLetters(cmd, *file, func(letters *nats.DeadLetters) error {
			replayed, err := letters.Replay(cmd.Context(), args[0])
			if err != nil {
				return err
			}
			cmd.Printf("%s is now at position %d of its log (lane %s); if it is refused again, a new letter says so\n",
				replayed.Letter.Subject, replayed.Seq, replayed.Letter.Lane)
			return nil
		})
	})
	return cmd
}

func withDeadLetters(cmd *cobra.Command, file string, do func(*nats.DeadLetters) error) error {
	cfg, err := config.Load(file)
	if err != nil {
		return err
	}
	client, err := connectNATS(cmd, cfg)
	if err != nil {
		return err
	}
	defer client.Close()
	return do(nats.NewDeadLetters(client))
}
