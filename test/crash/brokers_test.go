package crash_test

import (
	"slices"
	"testing"
	"time"

	"consultd/handlers"
	"consultd/handlers/nats"
	"consultd/states"
	"consultd/test/clinic"
	standin "consultd/test/pubnub"
)

// P1 to P5 with NATS going away, once in order and once as by a crash, while messages arrive over both brokers.
func TestP01ToP05_NATSRestarts(t *testing.T) {
	t.Parallel()
	c := slowly(t, clinic.Options{PubNub: standin.Config{BufferSize: 10_000}})
	c.Run()
	o, p := observe(t, c), arrive(t, c)
	for _, down := range []func() error{func() error { c.NATS.Stop(); return nil }, c.NATS.Kill} {
		p.crowd(6)
		p.raise(p.pubnub, "cardiology")
		if err := down(); err != nil {
			t.Fatal(err)
		}
		for range 5 {
			p.newVisit(p.pubnub).whole() // the apps do not know
		}
		p.raise(p.pubnub, "cardiology")
		if err := c.NATS.Start(); err != nil {
			t.Fatal(err)
		}
		p.crowd(5)
		o.verify()
	}
}

// P4 and P5 with PubNub answering nonsense for a while: server errors, throttling, a captive portal's page, cut bodies, and
// confirmations that get lost, so that messages are said twice.
func TestP04AndP05_PubNubFailsForAWhile(t *testing.T) {
	t.Parallel()
	c := slowly(t, clinic.Options{PubNub: standin.Config{BufferSize: 10_000}})
	c.Run()
	o, p := observe(t, c), arrive(t, c)
	for _, match := range []string{"publish", "subscribe", "history"} {
		for _, f := range []standin.Fault{
			{Kind: standin.FaultStatus, Status: 500},
			{Kind: standin.FaultStatus, Status: 429},
			{Kind: standin.FaultHTML},
			{Kind: standin.FaultCut},
			{Kind: standin.FaultEmpty},
			{Kind: standin.FaultReset},
			{Kind: standin.FaultDropAnswer},
		} {
			f.Match, f.Times = match, 2
			if err := c.PubNub.Inject(f); err != nil {
				t.Fatal(err)
			}
		}
	}
	for range 5 {
		p.newVisit(p.nats).whole()
		p.newVisit(p.pubnub).whole()
	}
	p.raise(p.nats, "cardiology")
	p.raise(p.pubnub, "cardiology")
	o.verify()
	if n := c.PubNub.FaultsServed(); n < 20 {
		t.Errorf("only %d requests failed: nothing was tested", n)
	}
	if o.repeatedOnPubNub() == 0 {
		t.Error("no message was said twice: no confirmation was lost")
	}
}

// P15: PubNub hangs. What is said on NATS, check-ins and pages, is as fast as before.
func TestP15_AHangingSinkDelaysNoOther(t *testing.T) {
	t.Parallel()
	c := slowly(t, clinic.Options{})
	c.Run()
	o, p := observe(t, c), arrive(t, c)
	var took [2]time.Duration
	for i, fault := range []*standin.Fault{nil, {Match: "publish", Kind: standin.FaultStall}} {
		if fault != nil {
			if err := c.PubNub.Inject(*fault); err != nil {
				t.Fatal(err)
			}
		}
		first := o.entryCount()
		p.crowd(15)
		p.raise(p.nats, "cardiology")
		p.raise(p.nats, "neurology")
		c.Eventually("everything said on NATS", func() (bool, string) {
			took[i] = o.slowestOnNATS(first)
			return took[i] >= 0, "not yet"
		})
	}
	t.Logf("slowest of 99 in 100 from the log to NATS: %s with PubNub, %s without", took[0], took[1])
	if took[1] > 3*took[0]+200*time.Millisecond {
		t.Errorf("P15: NATS takes %s while PubNub hangs, %s otherwise", took[1], took[0])
	}
	c.PubNub.ClearFaults()
	o.verify()
}

// slowestOnNATS is the 99th percentile of the time from an entry to what it makes the daemon say on NATS, by the server's own
// clock, over what is said because of entries behind the first so many. It is negative while something is missing.
func (o *observer) slowestOnNATS(first int) time.Duration {
	o.t.Helper()
	if err := o.fold(); err != nil {
		return -1
	}
	stored := map[string]time.Time{}
	for _, stream := range []string{nats.OutStream, nats.PagesStream} {
		for _, m := range o.entries(stream, 0) {
			stored[m.Header.Get(handlers.HeaderMsgID)] = m.Time
		}
	}
	var all []time.Duration
	seen := 0
	for lane, f := range o.folds {
		at := map[uint64]time.Time{}
		for _, m := range o.entries(nats.StreamOf(lane), 0) {
			at[m.Sequence] = m.Time
		}
		for _, s := range f.said {
			if _, intoLog := handlers.MessageSubject(s.Channel); s.sink != states.SinkNATS || intoLog {
				continue
			}
			out, ok := stored[s.ID]
			if !ok {
				return -1
			}
			all = append(all, out.Sub(at[s.seq]))
		}
		seen += len(f.fates)
	}
	if seen <= first {
		return -1
	}
	slices.Sort(all)
	return all[len(all)*99/100]
}

// P18: the one who polls PubNub is killed again and again while the apps say more than PubNub's buffer holds, twice and out
// of order at times. Every message is in the log, once.
func TestP18_ThePubNubCursorLosesAndRepeatsNothing(t *testing.T) {
	t.Parallel()
	c := slowly(t, clinic.Options{}) // with the service's own buffer of 100 messages
	first := c.Spawn()
	o, p := observe(t, c), arrive(t, c)
	arrivals := func(n int) {
		for range n {
			v := p.newVisit(p.pubnub)
			v.checkIn()
			v.ready()
		}
	}
	arrivals(10) // every waiting room is heard of
	o.decided()
	first.Kill()
	for _, f := range []standin.Fault{{Kind: standin.FaultDuplicate, Times: 3}, {Kind: standin.FaultReorder, Times: 3}} {
		f.Match = "subscribe"
		if err := c.PubNub.Inject(f); err != nil {
			t.Fatal(err)
		}
	}
	for _, at := range []string{"1", "30", "77"} {
		arrivals(30)
		doomed := c.Spawn("CONSULTD_CRASH_AT=pubnub.appended:" + at)
		arrivals(30)
		ended(t, c, doomed)
	}
	arrivals(80) // more than the buffer holds
	c.Spawn()
	o.verify()
	if c.PubNub.Lost() == 0 {
		t.Error("the buffer never overflowed: nothing was tested")
	}
}
