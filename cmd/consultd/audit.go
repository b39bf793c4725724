package main

import (
	"fmt"

	"github.com/spf13/cobra"

	"consultd/config"
	"consultd/handlers/nats"
)

// mostFindings is how many findings are printed; what was found first matters most.
const mostFindings = 50

func auditCommand() *cobra.Command {
	group := &cobra.Command{Use: "audit", Short: "Look after the audit trail"}
	group.AddCommand(auditVerifyCommand())
	return group
}

func auditVerifyCommand() *cobra.Command {
	cmd := &cobra.Command{
		Use:   "verify --config FILE",
		Short: "Check every entry, chain and signed checkpoint of the audit trail; name the first one that is wrong",
		Args:  cobra.NoArgs,
	}
	file := configFlag(cmd)
	anchor := cmd.Flags().String("anchor", "", "head that an earlier verification printed: shows whether the whole trail was exchanged since")
	cmd.RunE = work(func(cmd *cobra.Command, _ []string) error {
		cfg, err := config.Load(*file)
		if err != nil {
			return err
		}
		keys, err := cfg.Audit.PublicKeys()
		if err != nil {
			return err
		}
		client, err := connectNATS(cmd, cfg)
		if err != nil {
			return err
		}
		defer client.Close()
		report, err := nats.Verify(cmd.Context(), client, nats.VerifyOptions{Keys: nats.KeyRing(keys), Anchor: *anchor})
		if err != nil {
			return err
		}
		printReport(cmd, report, len(keys))
		if !report.OK() {
			return &reported{}
		}
		return nil
	})
	return cmd
}

func printReport(cmd *cobra.Command, r nats.Report, keys int) {
	for i, finding := range r.Findings {
		if i == mostFindings {
			cmd.Printf("... and %d more\n", len(r.Findings)-i)
			break
		}
		first := ""
		if i == 0 {
			first = "first bad: "
		}
		cmd.Println(first + finding.String())
	}
	cmd.Printf("%d entries in %d chains, %d checkpoints, stream positions %d to %d\n", r.Entries, r.Chains, r.Checkpoints, r.First, r.Last)
	for _, note := range []struct {
		count uint64
		text  string
	}{
		{uint64(r.Repeats), "%d repeats of entries, all of them identical"},
		{uint64(r.Unsealed), "%d entries behind the last checkpoint, held together by their chains only"},
		{uint64(r.Unsigned), "%d checkpoints are unsigned: they show accidents, but no forgery"},
		{r.AgedOut, "%d positions have aged out of the stream and were not verified"},
	} {
		if note.count > 0 {
			cmd.Println(fmt.Sprintf(note.text, note.count))
		}
	}
	if keys == 0 {
		cmd.Println("no public key is configured (audit.signing_key, audit.previous_keys): signatures were not checked")
	}
	if r.Head != "" {
		cmd.Println("head: " + r.Head)
	}
	if r.OK() {
		cmd.Println("OK")
	}
}
