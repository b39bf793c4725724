package crash_test

import (
	"flag"
	"fmt"
	"testing"
	"time"

	"consultd/test/clinic"
)

var sweep = flag.Int("sweep", 0, "kill the daemon at every passage up to this one, instead of two passages of each place")

// place is a labelled place, and the passages at which to die there.
type place struct {
	name     string
	passages [2]int
}

func places() []place {
	return []place{
		{"entry.read", [2]int{1, 19}},
		{"decided", [2]int{1, 23}},
		{"committed", [2]int{2, 29}},
		{"handed", [2]int{4, 17}},
		{"relay.before.nats", [2]int{1, 13}},
		{"relay.published.nats", [2]int{1, 15}},
		{"relay.before.pubnub", [2]int{2, 9}},
		{"relay.published.pubnub", [2]int{1, 11}},
		{"relay.before.audit", [2]int{3, 21}},
		{"relay.published.audit", [2]int{1, 27}},
		{"relay.before.ask", [2]int{1, 2}},
		{"relay.published.ask", [2]int{1, 3}},
		{"timer.entered", [2]int{1, 3}},
		{"pubnub.appended", [2]int{1, 8}},
	}
}

// P1 to P9 hold wherever the daemon dies: between log, decision, commit, relay, acknowledgement and cursor. In each run it
// dies twice at the same place while visits, emergencies and timers go on over both brokers, and is then let finish.
func TestP01ToP09_KilledAtEveryPlace(t *testing.T) {
	for _, p := range places() {
		runs := [][2]int{p.passages}
		if *sweep > 0 {
			runs = nil
			for n := 1; n <= *sweep; n++ {
				runs = append(runs, [2]int{n, 1 + (n*7)%*sweep})
			}
		}
		for _, passages := range runs {
			t.Run(fmt.Sprintf("%s/%d_and_%d", p.name, passages[0], passages[1]), func(t *testing.T) {
				t.Parallel()
				dieTwice(t, p.name, passages)
			})
		}
	}
}

func dieTwice(t *testing.T, where string, passages [2]int) {
	c := briefly(t, clinic.Options{})
	if err := c.Run().Stop(); err != nil { // the streams, the rules and a first cursor
		t.Fatal(err)
	}
	p, o := arrive(t, c), observe(t, c)
	for _, n := range passages {
		doomed := c.Spawn(fmt.Sprintf("CONSULTD_CRASH_AT=%s:%d", where, n))
		p.bustle()
		for more := 0; !gone(doomed) && more < 20; more++ { // a late passage takes more of it
			p.bustle()
		}
		ended(t, c, doomed)
		if code := doomed.ExitCode(); code != -1 {
			t.Fatalf("consultd ended by itself with %d", code)
		}
	}
	p.bustle() // nobody listens
	last := c.Spawn()
	o.up = time.Now()
	o.verify()
	if n := o.folds["n"].count(fateDecided); n < 60 {
		t.Errorf("only %d entries were decided: the workload does not work", n)
	}
	for _, line := range last.Log.AtLeast("error") {
		t.Errorf("consultd complains: %s", line)
	}
}

// gone gives a process a few seconds to end.
func gone(p *clinic.Process) bool {
	select {
	case <-p.Ended():
		return true
	case <-time.After(5 * time.Second):
		return false
	}
}
