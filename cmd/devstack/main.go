// Package main is devstack: everything that consultd needs and consultd itself in one process on one machine, with a small
// simulated clinic that keeps it busy. It is for development only: it never talks to a service outside this machine, and
// nothing of it is part of the daemon.
package main

import (
	"context"
	"errors"
	"fmt"
	"os"
	"os/signal"
	"sync"
	"syscall"

	"github.com/spf13/cobra"
)

func main() {
	var exit onExit
	ctx := untilInterrupted(&exit)
	if err := command(&exit).ExecuteContext(ctx); err != nil {
		fmt.Fprintln(os.Stderr, "devstack:", err)
		os.Exit(1)
	}
}

func command(exit *onExit) *cobra.Command {
	var o options
	sim, daemon := choice{value: "clinic", allowed: [2]string{"clinic", "off"}}, choice{value: "on", allowed: [2]string{"on", "off"}}
	c := &cobra.Command{
		Use:   "devstack",
		Short: "consultd with everything it needs, in one command",
		Long: `Runs NATS with JetStream, Redis, a stand-in for PubNub, consultd and a small simulated clinic on this machine, says where
they listen, and then what consultd says about every visit. Ctrl-C stops all of it.`,
		Example: `  go run ./cmd/devstack
  go run ./cmd/devstack --sim=off --data ./data      an empty clinic that survives restarts
  go run ./cmd/devstack --daemon=off                 only the servers, and a configuration for: consultd run --config FILE`,
		Args:          cobra.NoArgs,
		SilenceUsage:  true,
		SilenceErrors: true,
		RunE: func(cmd *cobra.Command, _ []string) error {
			o.sim, o.daemon = sim.first(), daemon.first()
			if o.sim && !o.daemon && !cmd.Flags().Changed("sim") {
				o.sim = false // without a daemon of its own nothing would answer the patients
			}
			if o.pace < 0.1 || o.pace > 100 {
				return errors.New("--pace: use 0.1 to 100")
			}
			err := run(cmd.Context(), o, newScreen(os.Stdout), exit)
			if errors.Is(err, context.Canceled) && cmd.Context().Err() != nil {
				return nil
			}
			return err
		},
	}
	f := c.Flags()
	f.Var(&sim, "sim", "simulated patients and staff: clinic or off (off by default with --daemon=off)")
	f.Var(&daemon, "daemon", "run consultd too: on or off")
	f.StringVar(&o.data, "data", "", "keep data and keys in this `directory` (default: a temporary one, removed at exit)")
	f.StringVar(&o.natsAddr, "nats-addr", "127.0.0.1:0", "where NATS listens, `host:port`; port 0 takes a free one, as for the others")
	f.StringVar(&o.redisAddr, "redis-addr", "127.0.0.1:0", "where Redis listens, `host:port`")
	f.StringVar(&o.pubnubAddr, "pubnub-addr", "127.0.0.1:0", "where the PubNub stand-in listens, `host:port`")
	f.StringVar(&o.opsAddr, "ops-addr", "127.0.0.1:0", "where consultd serves health and metrics, `host:port`")
	f.StringVar(&o.config, "config", "", "a consultd configuration `file` that is merged over devstack's own")
	f.StringVar(&o.readyFile, "ready-file", "", "a `file` to write, as JSON, when everything is up; removed at exit")
	f.Uint64Var(&o.seed, "seed", 3, "`number` that the simulated clinic's behaviour is derived from")
	f.Float64Var(&o.pace, "pace", 1, "how many times `faster` than usual the simulated clinic is, 0.1 to 100")
	return c
}

// choice is a flag with two values.
type choice struct {
	value   string
	allowed [2]string
}

func (c *choice) first() bool    { return c.value == c.allowed[0] }
func (c *choice) String() string { return c.value }
func (c *choice) Type() string   { return c.allowed[0] + "|" + c.allowed[1] }

func (c *choice) Set(value string) error {
	if value != c.allowed[0] && value != c.allowed[1] {
		return fmt.Errorf("use %s or %s", c.allowed[0], c.allowed[1])
	}
	c.value = value
	return nil
}

// untilInterrupted ends with the first Ctrl-C (or SIGTERM, or the terminal going away). The second one does not wait for
// anything but the removal of temporary files.
func untilInterrupted(exit *onExit) context.Context {
	ctx, cancel := context.WithCancel(context.Background())
	signals := make(chan os.Signal, 4)
	// SIGPIPE is what `devstack | head` ends with; without notice the process would die at once and leave its files.
	signal.Notify(signals, os.Interrupt, syscall.SIGTERM, syscall.SIGHUP, syscall.SIGPIPE)
	go func() {
		<-signals
		cancel()
		for s := range signals {
			if s == os.Interrupt || s == syscall.SIGTERM {
				exit.run()
				os.Exit(130)
			}
		}
	}()
	return ctx
}

// onExit is what must be tidied up even when the process leaves in a hurry. The Redis child needs no line here: the
// kernel ends it with its parent.
type onExit struct {
	mu    sync.Mutex
	tasks []func()
}

func (e *onExit) add(task func()) {
	e.mu.Lock()
	defer e.mu.Unlock()
	e.tasks = append(e.tasks, task)
}

// run does every task once, last added first.
func (e *onExit) run() {
	e.mu.Lock()
	defer e.mu.Unlock()
	for i := len(e.tasks) - 1; i >= 0; i-- {
		e.tasks[i]()
	}
	e.tasks = nil
}
