package main

import (
	"errors"
	"fmt"
	"strings"

	"github.com/spf13/cobra"

	"consultd/config"
)

func rebuildCommand() *cobra.Command {
	cmd := &cobra.Command{
		Use:   "rebuild --config FILE --yes",
		Short: "Empty this organisation's state in Redis, so that the daemon decides its log again from the beginning",
		Long: `Empty this organisation's state in Redis, so that the daemon decides its log again from the beginning.

Needed after a change of the number of partitions, and when Redis holds something that cannot be read. Stop every replica
first and let it drain. The log and the audit trail are not touched; what was delivered is not delivered again. Visits older
than nats.max_age.log are lost.`,
		Args: cobra.NoArgs,
	}
	file := configFlag(cmd)
	yes := cmd.Flags().Bool("yes", false, "really do it")
	cmd.RunE = work(func(cmd *cobra.Command, _ []string) error {
		cfg, err := config.Load(*file)
		if err != nil {
			return err
		}
		if !*yes {
			return fmt.Errorf("rebuild removes every key of %s in Redis at %s; add --yes if that is meant", cfg.Organization, cfg.Redis.Addr)
		}
		s, err := openStore(cmd, cfg)
		if err != nil {
			return err
		}
		living, err := s.Living(cmd.Context())
		if err == nil && len(living) > 0 {
			err = fmt.Errorf("replicas are running (%s): stop them first; one that crashed is forgotten after a few seconds", strings.Join(living, ", "))
		}
		if err != nil {
			return errors.Join(err, s.Close())
		}
		removed, err := s.Empty(cmd.Context())
		if err := errors.Join(err, s.Close()); err != nil {
			return err
		}
		cmd.Printf("removed %d keys of %s; start the daemon to decide the log again\n", removed, cfg.Organization)
		return nil
	})
	return cmd
}
