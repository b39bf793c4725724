// Command consultd runs the daemon, and holds the commands with which an operator looks after it. It decides nothing itself:
// everything it does is a package's, and it never prints a secret that it was not asked to make.
package main

import (
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"os/signal"
	"syscall"

	"github.com/spf13/cobra"
)

// version is set by the linker.
var version = ""

func main() { os.Exit(run()) }

// run is main with an exit code: 0 for success, 1 for a problem that was found or met, 2 for a command line that is wrong.
func run() int {
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt, syscall.SIGTERM)
	defer stop()
	context.AfterFunc(ctx, stop) // a second signal ends the process at once
	return execute(ctx, os.Args[1:], os.Stdout, os.Stderr)
}

func execute(ctx context.Context, args []string, out, errs io.Writer) int {
	root := commands()
	root.SetArgs(args)
	root.SetOut(out)
	root.SetErr(errs)
	err := root.ExecuteContext(ctx)
	var known *reported
	var failed *failure
	switch {
	case err == nil:
		return 0
	case errors.As(err, &known):
		return 1
	case errors.As(err, &failed):
		_, _ = fmt.Fprintf(errs, "consultd: %v\n", err)
		return 1
	default:
		_, _ = fmt.Fprintf(errs, "consultd: %v\nconsultd --help names the commands\n", err)
		return 2
	}
}

// failure is an error of the work, as against one of the command line.
type failure struct{ error }

func (f *failure) Unwrap() error { return f.error }

// reported is a verdict that the command has printed already.
type reported struct{}

func (*reported) Error() string { return "problems were found" }

// work makes a command's errors failures.
func work(do func(cmd *cobra.Command, args []string) error) func(*cobra.Command, []string) error {
	return func(cmd *cobra.Command, args []string) error {
		err := do(cmd, args)
		var known *reported
		if err == nil || errors.As(err, &known) {
			return err
		}
		return &failure{err}
	}
}

func commands() *cobra.Command {
	root := &cobra.Command{
		Use:           "consultd",
		Short:         "Orchestrates telemedicine visits over PubNub and NATS",
		SilenceUsage:  true,
		SilenceErrors: true,
	}
	root.CompletionOptions.HiddenDefaultCmd = true
	root.AddCommand(runCommand(), checkConfigCommand(), versionCommand(), auditCommand(), deadLettersCommand(), rebuildCommand(), keysCommand())
	return root
}

// configFlag gives a command the flag --config, which it needs.
func configFlag(cmd *cobra.Command) *string {
	file := cmd.Flags().String("config", "", "configuration file")
	if err := cmd.MarkFlagRequired("config"); err != nil {
		panic(err) // the flag stands one line above
	}
	return file
}
