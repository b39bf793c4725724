// Command bench measures consultd against the bare pipeline: the same hops (log, one small script, relay, consume) with
// nothing decided, checked, sealed or audited. Redis, NATS and the pipeline under test are processes of their own, so that
// CPU can be told apart; both pipelines run in one run on one machine, because only their ratio means anything elsewhere.
package main

import (
	"context"
	"flag"
	"fmt"
	"os"
	"os/signal"
	"strings"
	"syscall"
)

func main() {
	if role := os.Getenv(roleVariable); role != "" {
		os.Exit(child(role))
	}
	var o options
	flag.IntVar(&o.visits, "visits", 2000, "visits per measurement, 7 events each")
	flag.IntVar(&o.window, "window", 32, "visits under way at once in the closed measurement")
	flag.StringVar(&o.only, "only", "closed,open,paced,live,emergency", "measurements to make")
	flag.IntVar(&o.rounds, "rounds", 3, "times the closed and open measurements are made, alternating; medians are printed")
	flag.IntVar(&o.live, "live", 100_000, "largest number of live visits in the live measurement")
	flag.StringVar(&o.profile, "profile", "", "file for a CPU profile of ten seconds of consultd, from the start of the last measurement")
	flag.Parse()
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt, syscall.SIGTERM)
	defer stop()
	if err := run(ctx, o); err != nil {
		fmt.Fprintln(os.Stderr, "bench:", err)
		os.Exit(1)
	}
}

type options struct {
	visits, window, rounds, live int
	only, profile                string
}

func (o options) wants(name string) bool {
	for _, n := range strings.Split(o.only, ",") {
		if n == name {
			return true
		}
	}
	return false
}
