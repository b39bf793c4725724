package crash_test

import (
	"encoding/json"
	"flag"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"syscall"
	"testing"
	"time"

	natsgo "github.com/nats-io/nats.go"

	"consultd/handlers"
	"consultd/handlers/nats"
	"consultd/handlers/pubnub"
	"consultd/states"
	"consultd/test/clinic"
	standin "consultd/test/pubnub"
)

func publishStalls() standin.Fault { return standin.Fault{Match: "publish", Kind: standin.FaultStall} }

// P6: while one sink hangs and the daemon is killed, its outbox holds exactly what it has not been given.
func TestP06_AnOutboxHoldsWhatIsNotYetSaid(t *testing.T) {
	t.Parallel()
	c := slowly(t, clinic.Options{})
	d := c.Spawn()
	o, p := observe(t, c), arrive(t, c)
	p.crowd(5)
	o.decided()
	if err := c.PubNub.Inject(publishStalls()); err != nil {
		t.Fatal(err)
	}
	p.crowd(5)
	c.Eventually("everything but PubNub served", func() (bool, string) {
		why := o.busy()
		return strings.HasPrefix(why, "outboxes hold") && !strings.Contains(why, ":nats:") && !strings.Contains(why, ":audit:"), why
	})
	d.Kill()
	given := map[string]bool{}
	for _, m := range o.spoken() {
		if body, push := o.open(m.Payload); !push {
			given[fmt.Sprint(body["id"])] = true
		}
	}
	f := o.folds[states.LaneNormal]
	want, got := map[string]uint64{}, map[string]uint64{}
	for _, s := range f.said {
		if s.sink == states.SinkPubNub && !given[s.ID] {
			want[s.ID] = s.seq
		}
	}
	for n := range c.Config.Partitions.Normal {
		id := states.Partition{Lane: states.LaneNormal, Number: n}
		pending, err := o.store.Pending(t.Context(), id, states.SinkPubNub, 0, 10_000)
		if err != nil {
			t.Fatal(err)
		}
		for _, e := range pending {
			for _, m := range e.Messages {
				got[m.ID] = e.Seq
			}
		}
	}
	if len(want) == 0 || fmt.Sprint(got) != fmt.Sprint(want) {
		t.Errorf("P6: the outboxes hold\n%v\nnot yet said is\n%v", got, want)
	}
	c.PubNub.ClearFaults()
	c.Spawn()
	o.verify()
}

// P7: timers that fall due while nobody runs fire at once when somebody does, and never before their time.
func TestP07_TimersSurviveTheDaemon(t *testing.T) {
	t.Parallel()
	c := briefly(t, clinic.Options{})
	d := c.Spawn()
	o, p := observe(t, c), arrive(t, c)
	p.newVisit(p.nats).checkIn()
	p.raise(p.nats, "cardiology")
	o.decided()
	d.Kill()
	var due time.Time
	for _, f := range o.folds {
		for _, at := range f.armed() {
			if at.After(due) && time.Until(at) < far {
				due = at
			}
		}
	}
	c.Eventually("the timers to fall due", func() (bool, string) { return time.Now().After(due), due.String() })
	c.Spawn()
	o.up = time.Now()
	o.verify()
	fired := 0
	for _, f := range o.folds {
		fired += len(f.fired)
	}
	if fired < 4 {
		t.Errorf("only %d timers fired: nothing was tested", fired)
	}
}

// P8: a timer that enters the log again changes nothing, nor does one that is no longer wanted, whether or not another of
// its kind is armed by then.
func TestP08_ATimerFiredTwiceChangesNothing(t *testing.T) {
	t.Parallel()
	c := slowly(t, clinic.Options{Extra: "timing: {readiness: 100ms, long_wait: [200ms, 300ms, 1h]}\n"})
	c.Run()
	o, p := observe(t, c), arrive(t, c)
	p.newVisit(p.nats).checkIn() // still there, with a third long wait before it
	p.newVisit(p.nats).whole()   // outran its timers
	moved := p.newVisit(p.nats)
	starts := func(in time.Duration) string { return time.Now().Add(in).UTC().Format(time.RFC3339) }
	moved.as("backend:scheduler", moved.room, "APPOINTMENT_SCHEDULED", clinic.M{
		"appointmentId": moved.appointment,
		"patientId":     moved.patient, "providerId": moved.provider, "departmentId": "cardiology", "startsAt": starts(time.Hour),
	})
	moved.as("backend:scheduler", moved.room, "APPOINTMENT_RESCHEDULED", clinic.M{"appointmentId": moved.appointment, "startsAt": starts(2 * time.Hour)})
	o.settle()
	before := o.snapshot()
	again := 0
	for lane, f := range o.folds {
		for _, m := range o.entries(nats.StreamOf(lane), 0) {
			if !strings.Contains(m.Subject, ".timer.") {
				continue
			}
			again++
			if _, err := o.client.JS.PublishMsg(t.Context(), &natsgo.Msg{Subject: m.Subject, Data: m.Data}); err != nil {
				t.Fatal(err)
			}
		}
		for id, r := range f.records {
			if r.Visit == nil {
				continue
			}
			moot := states.TimerID{Kind: states.TimerNoShow, Record: id, Key: r.Visit.Provider, Generation: 1}
			if r.Visit.State.Final() {
				moot.Kind = states.TimerWaitLimit
			}
			data := f.codec.TimerData(moot)
			if _, err := o.client.JS.PublishMsg(t.Context(), &natsgo.Msg{Subject: f.codec.TimerSubject(lane, moot.Key), Data: data}); err != nil {
				t.Fatal(err)
			}
		}
	}
	o.verify()
	if after := o.snapshot(); fmt.Sprint(after) != fmt.Sprint(before) || again < 2 {
		t.Errorf("P8: %d timers fired again, and the state is\n%v\nand was\n%v", again, after, before)
	}
}

// After kill -9 of one of two replicas every page goes out within five seconds, whichever of them it fell to and whichever
// broker it came from.
func TestNoPageTakesLongerThanFiveSecondsAfterAKill(t *testing.T) {
	t.Parallel()
	c := slowly(t, clinic.Options{Lease: 2 * time.Second}) // the default lease
	doomed, other := c.Spawn(), c.Spawn()
	o, p := observe(t, c), arrive(t, c)
	partitions := float64(c.Config.Partitions.Normal + c.Config.Partitions.Emergency)
	owned := func(of *clinic.Process) float64 { return metric(t, of.OpsURL, "consultd_partitions_owned") }
	c.Eventually("two owners", func() (bool, string) {
		return owned(doomed) > 0 && owned(other) > 0 && owned(doomed)+owned(other) == partitions, "not yet"
	})
	if metric(t, doomed.OpsURL, "consultd_pubnub_polling") == 0 { // kill the one that polls
		doomed, other = other, doomed
	}
	doomed.Kill()
	killed := time.Now()
	ids := map[string]bool{}
	for n := range 8 {
		ids[p.raise(p.nats, fmt.Sprintf("department-%d", n))] = true
		ids[p.raise(p.pubnub, fmt.Sprintf("department-%d", n))] = true
	}
	o.verify()
	var slowest time.Duration
	for _, m := range o.entries(nats.PagesStream, 0) {
		var page struct{ EscalationID string }
		if err := json.Unmarshal(m.Data, &page); err != nil {
			t.Fatal(err)
		}
		if strings.HasPrefix(m.Subject, "consult.out.page.") {
			delete(ids, page.EscalationID)
			slowest = max(slowest, m.Time.Sub(killed))
		}
	}
	t.Logf("the last page went out %s after the kill", slowest)
	if len(ids) > 0 || slowest > 5*time.Second {
		t.Errorf("pages took up to %s; never paged: %v", slowest, ids)
	}
}

// P16: SIGTERM in the middle of the work. The daemon is gone within its deadline, has said nothing that its successor says
// again, and has left nothing undone.
func TestP16_SIGTERMUnderLoadCausesNoRepetition(t *testing.T) {
	t.Parallel()
	c := slowly(t, clinic.Options{})
	o, p := (*observer)(nil), (*people)(nil)
	for round := range 2 {
		d := c.Spawn()
		if round == 0 {
			o, p = observe(t, c), arrive(t, c)
		}
		p.crowd(10)
		for range 3 {
			p.newVisit(p.pubnub).whole()
		}
		p.raise(p.nats, "cardiology")
		asked := time.Now()
		d.Signal(syscall.SIGTERM)
		ended(t, c, d)
		took := time.Since(asked)
		t.Logf("ended after %s", took)
		if took > c.Config.Shutdown.Drain+3*time.Second || d.ExitCode() != 0 {
			t.Errorf("P16: ended after %s with code %d:\n%s", took, d.ExitCode(), d.Log.Tail(20))
		}
		if left := o.outboxes(); len(left) > 0 {
			t.Errorf("P16: outboxes still hold %v", left)
		}
	}
	c.Spawn()
	o.verify()
	if n := o.repeatedOnPubNub(); n > 0 {
		t.Errorf("P16: %d messages were said twice", n)
	}
}

var record = flag.Bool("record", false, "record the history that TestP20 replays anew, because a decision changed on purpose")

// history is what a log held, and the states that were made of it.
type history struct {
	Log    map[states.Lane][]states.Entry
	States map[string]json.RawMessage
}

// P20: a history recorded with an earlier program gives the same states, versions and audit chains with this one. When a
// change of decisions is meant, visits under way at the upgrade are decided by the new program from there on, and a rebuild
// from the log would differ: say so in CHANGELOG.md, and record anew with -record.
func TestP20_ARecordedHistoryGivesTheSameStates(t *testing.T) {
	t.Parallel()
	file := filepath.Join("testdata", "history.json")
	if *record {
		recordHistory(t, file)
	}
	data, err := os.ReadFile(file)
	if err != nil {
		t.Fatal(err)
	}
	var h history
	if err := json.Unmarshal(data, &h); err != nil {
		t.Fatal(err)
	}
	got := replay(t, h.Log)
	if len(h.States) < 15 {
		t.Errorf("the history holds %d states only", len(h.States))
	}
	for id, want := range h.States {
		if !slices.Equal(compact(t, got[id]), compact(t, want)) {
			t.Errorf("P20: %s is\n%s\nand was\n%s", id, got[id], want)
		}
	}
	if len(got) != len(h.States) {
		t.Errorf("P20: the history makes %d states, it made %d", len(got), len(h.States))
	}
}

func compact(t *testing.T, data []byte) []byte {
	t.Helper()
	if data == nil {
		return nil
	}
	var v any
	if err := json.Unmarshal(data, &v); err != nil {
		t.Fatal(err)
	}
	b, err := json.Marshal(v)
	if err != nil {
		t.Fatal(err)
	}
	return b
}

func replay(t *testing.T, log map[states.Lane][]states.Entry) map[string]json.RawMessage {
	t.Helper()
	ring, err := pubnub.NewKeyRing(clinic.CipherKey)
	if err != nil {
		t.Fatal(err)
	}
	codec, err := handlers.New(handlers.Options{Organization: clinic.Organization, Decrypt: ring.Decrypt})
	if err != nil {
		t.Fatal(err)
	}
	made := map[string]json.RawMessage{}
	for lane, entries := range log {
		f := newFold(lane, codec, 1)
		for _, e := range entries {
			f.add(e)
		}
		for id, r := range f.records {
			b, err := json.Marshal(r)
			if err != nil {
				t.Fatal(err)
			}
			made[id.String()] = b
		}
	}
	return made
}

func recordHistory(t *testing.T, file string) {
	t.Helper()
	c := briefly(t, clinic.Options{})
	c.Run()
	o, p := observe(t, c), arrive(t, c)
	p.bustle()
	p.bustle()
	o.verify()
	h := history{Log: map[states.Lane][]states.Entry{}}
	for lane := range o.folds {
		for _, m := range o.entries(nats.StreamOf(lane), 0) {
			h.Log[lane] = append(h.Log[lane], asEntry(lane, m))
		}
	}
	h.States = replay(t, h.Log)
	data, err := json.MarshalIndent(h, "", " ")
	if err != nil {
		t.Fatal(err)
	}
	if err := os.MkdirAll(filepath.Dir(file), 0o755); err != nil { //nolint:gosec // a source directory
		t.Fatal(err)
	}
	if err := os.WriteFile(file, data, 0o644); err != nil { //nolint:gosec // a source file
		t.Fatal(err)
	}
}
