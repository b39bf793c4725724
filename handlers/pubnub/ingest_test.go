package pubnub_test

import (
	"context"
	"encoding/json"
	"fmt"
	"runtime"
	"slices"
	"strconv"
	"strings"
	"sync"
	"testing"
	"time"

	"consultd/handlers/pubnub"
	"consultd/states"
	standin "consultd/test/pubnub"
)

func numbered(n int) string { return `{"n":` + strconv.Itoa(n) + `}` }

func numbers(from, to int) []string {
	var list []string
	for n := from; n <= to; n++ {
		list = append(list, numbered(n))
	}
	return list
}

func logged(t *testing.T, log *logbook, channel string, want []string) {
	t.Helper()
	subject := "consult.in." + channel
	eventually(t, "log of "+channel, func() bool { return len(log.on(subject)) >= len(want) })
	if got := log.on(subject); !slices.Equal(got, want) {
		t.Fatalf("log of %s:\n got %v\nwant %v", channel, got, want)
	}
}

func TestEveryMessageEntersTheLogOnceAndInOrder(t *testing.T) {
	server, log := start(t, standin.Config{}), newLogbook()
	r := ingest(t, server, &cell{}, log)
	polling(t, server)
	for n := 1; n <= 20; n++ {
		say(t, server, room, json.RawMessage(numbered(n)))
		say(t, server, alarm, json.RawMessage(numbered(n)))
	}
	logged(t, log, room, numbers(1, 20))
	logged(t, log, alarm, numbers(1, 20))
	for _, e := range log.all() {
		want := states.LaneNormal
		if e.subject == "consult.in."+alarm {
			want = states.LaneEmergency
		}
		if e.lane != want || e.header["Consult-Source"] != "pubnub" || e.header["Consult-Actor"] != "somebody" ||
			len(e.header["Consult-Timetoken"]) != 17 || !strings.HasPrefix(e.id, "pn.") || strings.Contains(e.id, "p1") {
			t.Fatalf("entry %+v", e)
		}
	}
	if log.repeats != 0 || r.stats.Elements.Load() != 40 || !r.stats.Owner.Load() || r.stats.LastPoll.Load() == 0 {
		t.Fatalf("repeats %d, elements %d", log.repeats, r.stats.Elements.Load())
	}
}

func TestFailuresOfTheServiceLoseNothing(t *testing.T) {
	server, log := start(t, standin.Config{}), newLogbook()
	r := ingest(t, server, &cell{}, log)
	polling(t, server)
	const messages = 30
	for n := 1; n <= messages; n++ {
		polling(t, server)
		for _, fault := range []standin.Fault{
			{Kind: standin.FaultCut},
			{Kind: standin.FaultStatus, Status: 500},
			{Kind: standin.FaultStatus, Status: 429},
			{Kind: standin.FaultReset},
			{Kind: standin.FaultHTML},
			{Kind: standin.FaultEmpty},
			{Kind: standin.FaultStatus, Status: 200, Body: `{"m":[]}`},
		} {
			fault.Match, fault.Times = "poll", 1
			inject(t, server, fault)
		}
		say(t, server, room, json.RawMessage(numbered(n)))
		eventually(t, "all faults used", func() bool { return server.FaultsServed() == 7*n })
	}
	logged(t, log, room, numbers(1, messages))
	if r.stats.Retries.Load() < 6*messages || log.repeats != 0 {
		t.Fatalf("retries %d, repeats %d", r.stats.Retries.Load(), log.repeats)
	}
	if handshakes := server.Requests()["handshake"]; handshakes != 1 {
		t.Fatalf("the SDK noticed: %d handshakes", handshakes)
	}
}

func TestAnOutageLosesNothing(t *testing.T) {
	server, log := start(t, standin.Config{}), newLogbook()
	ingest(t, server, &cell{}, log)
	polling(t, server)
	say(t, server, room, json.RawMessage(numbered(1)))
	logged(t, log, room, numbers(1, 1))
	server.Pause()
	say(t, server, room, json.RawMessage(numbered(2)))
	if err := server.Resume(); err != nil {
		t.Fatal(err)
	}
	say(t, server, room, json.RawMessage(numbered(3)))
	logged(t, log, room, numbers(1, 3))
}

func TestKilledAtAnyPointAndStartedAgainLosesNothing(t *testing.T) {
	server, log, c := start(t, standin.Config{}), newLogbook(), &cell{}
	const messages, lives = 240, 6
	r := ingest(t, server, c, log)
	polling(t, server)
	n := 0
	for life := range lives {
		// Killed in the middle of appending: what is in the log then is not yet in the cursor.
		victim, at, killed := r, life*3+1, make(chan struct{})
		var once sync.Once
		log.mu.Lock()
		seen := 0
		log.gate = func(string) {
			if seen++; seen == at {
				once.Do(func() {
					victim.mu.Lock()
					victim.dead = true
					victim.mu.Unlock()
					close(killed)
				})
			}
		}
		log.mu.Unlock()
		for range messages / lives {
			n++
			say(t, server, room, json.RawMessage(numbered(n)))
		}
		<-killed
		victim.kill()
		log.mu.Lock()
		log.gate = nil
		log.mu.Unlock()
		r = ingest(t, server, c, log)
	}
	logged(t, log, room, numbers(1, messages))
	if log.repeats == 0 {
		t.Error("no entry was ever repeated: the test did not kill between log and cursor")
	}
}

func TestWhatTheBufferLostComesFromHistory(t *testing.T) {
	server, log, c := start(t, standin.Config{BufferSize: 100}), newLogbook(), &cell{}
	r := ingest(t, server, c, log)
	polling(t, server)
	say(t, server, room, json.RawMessage(numbered(1)))
	logged(t, log, room, numbers(1, 1))

	t.Run("while polling", func(t *testing.T) {
		blocked, release := make(chan struct{}), make(chan struct{})
		var once sync.Once
		log.mu.Lock()
		log.gate = func(string) { once.Do(func() { close(blocked) }); <-release }
		log.mu.Unlock()
		say(t, server, room, json.RawMessage(numbered(2)))
		<-blocked
		for n := 3; n <= 350; n++ {
			say(t, server, room, json.RawMessage(numbered(n)))
			say(t, server, alarm, json.RawMessage(numbered(n)))
		}
		close(release)
		logged(t, log, room, numbers(1, 350))
		logged(t, log, alarm, numbers(3, 350))
		if r.stats.Missed.Load() == 0 || server.Lost() == 0 {
			t.Fatalf("missed %d, lost %d: the buffer was large enough", r.stats.Missed.Load(), server.Lost())
		}
	})
	t.Run("while stopped", func(t *testing.T) {
		r.stop()
		for n := 351; n <= 700; n++ {
			say(t, server, room, json.RawMessage(numbered(n)))
		}
		ingest(t, server, c, log)
		logged(t, log, room, numbers(1, 700))
	})
}

func TestALostCursorIsNoticed(t *testing.T) {
	server, log := start(t, standin.Config{}), newLogbook()
	ingest(t, server, &cell{}, log)
	polling(t, server)
	blocked, release := make(chan struct{}), make(chan struct{})
	var once sync.Once
	log.mu.Lock()
	log.gate = func(string) { once.Do(func() { close(blocked) }); <-release }
	log.mu.Unlock()
	say(t, server, room, json.RawMessage(numbered(1)))
	<-blocked
	inject(t, server, standin.Fault{Match: "poll", Kind: standin.FaultLostCursor, Times: 1})
	say(t, server, room, json.RawMessage(numbered(2)))
	close(release)
	logged(t, log, room, numbers(1, 2))
	if server.FaultsServed() != 1 {
		t.Fatal("the cursor was not lost")
	}
}

func TestHistoryThatCannotBeReadDelaysNothingForEver(t *testing.T) {
	server, log, c := start(t, standin.Config{}), newLogbook(), &cell{}
	once := ingest(t, server, c, log)
	polling(t, server)
	once.stop()
	say(t, server, room, json.RawMessage(numbered(1)))
	inject(t, server, standin.Fault{Match: "history", Kind: standin.FaultStatus, Status: 403})
	r := ingest(t, server, c, log)
	polling(t, server)
	eventually(t, "history refused", func() bool { return r.stats.CatchUpFailures.Load() > 1 })
	say(t, server, room, json.RawMessage(numbered(2)))
	logged(t, log, room, numbers(1, 2)) // the buffer had them
	if c.text(t)["gap"] == "0" {
		t.Fatal("the gap is forgotten before history was read")
	}
	server.ClearFaults()
	eventually(t, "gap closed", func() bool { return c.text(t)["gap"] == "0" })
	if len(log.alerted()) == 0 {
		t.Fatal("nobody was told")
	}
}

func (c *cell) text(t *testing.T) map[string]any {
	t.Helper()
	value, _, _ := c.Load(t.Context())
	var fields map[string]any
	if err := json.Unmarshal(value, &fields); err != nil {
		t.Fatal(err)
	}
	return fields
}

func TestOneReplicaPollsAndAnotherTakesOver(t *testing.T) {
	server, log, c := start(t, standin.Config{}), newLogbook(), &cell{}
	first := ingest(t, server, c, log)
	polling(t, server)
	second := ingest(t, server, c, log)
	say(t, server, room, json.RawMessage(numbered(1)))
	logged(t, log, room, numbers(1, 1))
	if second.stats.Owner.Load() || server.Requests()["handshake"] != 1 {
		t.Fatal("two replicas poll")
	}

	resume := first.hang() // paused: it cannot renew
	eventually(t, "takeover", second.stats.Owner.Load)
	say(t, server, room, json.RawMessage(numbered(2)))
	logged(t, log, room, numbers(1, 2))
	resume()
	eventually(t, "the stale one stops", func() bool { return !first.stats.Owner.Load() && first.stats.InFlight.Load() == 0 })
	if !second.stats.Owner.Load() {
		t.Fatal("the new one stopped as well")
	}
	say(t, server, room, json.RawMessage(numbered(3)))
	logged(t, log, room, numbers(1, 3))
	if n := len(server.Subscribers()); n > 1 {
		t.Fatalf("%d polls", n)
	}

	second.stop() // in good order: nobody has to wait
	eventually(t, "the first one again", first.stats.Owner.Load)
	say(t, server, room, json.RawMessage(numbered(4)))
	logged(t, log, room, numbers(1, 4))
}

func TestAnAnswerThatWasLostDoesNotCostTheLease(t *testing.T) {
	server, log := start(t, standin.Config{}), newLogbook()
	c := &forgetful{}
	r := ingest(t, server, nil, log, func(o *pubnub.IngestOptions) { o.Cell = c })
	polling(t, server)
	for n := 1; n <= 20; n++ {
		say(t, server, room, json.RawMessage(numbered(n)))
	}
	logged(t, log, room, numbers(1, 20))
	eventually(t, "beats", func() bool { return c.stores() > 20 })
	if r.stats.Takeovers.Load() != 1 {
		t.Fatalf("%d takeovers", r.stats.Takeovers.Load())
	}
}

// forgetful stores, and says of every second value that it has not.
type forgetful struct {
	cell
	n int
}

func (f *forgetful) Store(ctx context.Context, value []byte, revision uint64) (uint64, error) {
	next, err := f.cell.Store(ctx, value, revision)
	f.mu.Lock()
	defer f.mu.Unlock()
	if f.n++; f.n%2 == 0 {
		return 0, errGone
	}
	return next, err
}

func (f *forgetful) stores() int {
	f.mu.Lock()
	defer f.mu.Unlock()
	return f.n
}

func TestPoisonDoesNotReachTheSDK(t *testing.T) {
	server, log := start(t, standin.Config{}), newLogbook()
	r := ingest(t, server, &cell{}, log)
	polling(t, server)
	element := func(kind, publisher, timetoken, data string) json.RawMessage {
		return json.RawMessage(fmt.Sprintf(`{"a":"2","f":0,"e":%s,"i":%s,"p":{"t":%s,"r":12},"k":"k","c":%q,"d":%s}`, kind, publisher, timetoken, room, data))
	}
	envelopes := []json.RawMessage{
		json.RawMessage(`null`), json.RawMessage(`7`), json.RawMessage(`"x"`), json.RawMessage(`[]`), json.RawMessage(`{}`),
		json.RawMessage(`{"c":5}`), json.RawMessage(`{"c":"waiting-room.p1","p":"x"}`),
		element(`0`, `"a"`, `"1"`, `null`),
		element(`"x"`, `"a"`, `"2"`, `{}`),
		element(`0`, `{"a":1}`, `"3"`, `{}`),
		element(`0`, `"evil\r\nConsult-Role: operator"`, `"4"`, `{}`),
		element(`0`, `"a"`, `"5"`, `"`+strings.Repeat("x", 70_000)+`"`),
		element(`0`, `"a"`, `-5`, `{}`),
		element(`2`, `"a"`, `"6"`, `{"source":"objects","event":"set"}`),
		element(`3`, `"a"`, `"7"`, `{"source":"actions","data":{}}`),
		element(`4`, `"a"`, `"8"`, `{"message":"hi","file":{"id":"1"}}`),
		element(`1`, `"a"`, `"9"`, `"signal"`),
		element(`99`, `"a"`, `"10"`, `{}`),
		json.RawMessage(`{"e":0,"i":"a","p":{"t":"11"},"c":"waiting-room.p1-pnpres","d":{"here_now_refresh":"yes"}}`),
		json.RawMessage(`{"e":0,"i":"` + daemon + `","p":{"t":"12"},"c":"waiting-room.p1","d":{}}`),
		// These are readable, so they are the log's business:
		element(`0`, `"a"`, `"20"`, `"UE5FRA=="`),
		element(`0`, `"a"`, `"21"`, `{"message":"hi","file":7}`),
		json.RawMessage(`{"e":0,"i":"a","p":{"t":"22"},"c":"consultation.p1.q1","d":"UE5FRAFBQ1JIAAAA"}`),
		json.RawMessage(`{"e":0,"i":"a","p":{"t":"23"},"c":"waiting-room.>","d":{}}`),
		json.RawMessage(`{"e":0,"p":{"t":24},"c":"elsewhere","d":{}}`),
	}
	inject(t, server, standin.Fault{Match: "poll", Kind: standin.FaultPoison, Times: 1, Envelopes: envelopes})
	eventually(t, "poison taken", func() bool { return server.FaultsServed() == 1 })
	inject(t, server, standin.Fault{Match: "poll", Kind: standin.FaultPoison, Times: 1})
	say(t, server, room, json.RawMessage(numbered(1)))
	eventually(t, "the message behind it", func() bool { return slices.Contains(log.on("consult.in."+room), numbered(1)) })

	var ids []string
	for _, e := range log.all() {
		if len(e.header["Consult-Timetoken"]) == 2 {
			ids = append(ids, e.header["Consult-Timetoken"]+" "+e.subject)
		}
	}
	want := []string{"20 consult.in." + room, "21 consult.in." + room, "22 consult.in." + visit, "23 consult.in.unreadable", "24 consult.in.unreadable"}
	if !slices.Equal(ids, want) {
		t.Errorf("logged %v, want %v", ids, want)
	}
	log.mu.Lock()
	defer log.mu.Unlock()
	if len(log.dead) != 13+1 { // one more from the second poison
		t.Errorf("%d dead letters: %+v", len(log.dead), log.dead)
	}
	for _, u := range log.dead {
		if u.Reason == "" || strings.ContainsAny(u.Publisher, "\r\n ") {
			t.Errorf("dead letter %+v", u)
		}
	}
	if own := r.stats.Own.Load(); own != 1 {
		t.Errorf("%d own messages", own)
	}
	if ignored := r.stats.Ignored.Load(); ignored != 6+3 {
		t.Errorf("%d ignored", ignored)
	}
}

// What is stored can be as odd as what is live; the SDK's own reader would panic on these.
func TestPoisonInHistory(t *testing.T) {
	server, log, c := start(t, standin.Config{BufferSize: 1}), newLogbook(), &cell{}
	once := ingest(t, server, c, log)
	polling(t, server)
	once.stop()
	payloads := []string{`{"message":"hi"}`, `{"file":7}`, `"UE5FRA=="`, `null`, numbered(1), numbered(2)}
	for _, payload := range payloads {
		say(t, server, room, json.RawMessage(payload))
	}
	r := ingest(t, server, c, log)
	logged(t, log, room, slices.Delete(slices.Clone(payloads), 3, 4))
	eventually(t, "null quarantined", func() bool { return r.stats.Quarantined.Load() == 1 })
}

func TestEmergenciesGoFirst(t *testing.T) {
	server, log, c := start(t, standin.Config{}), newLogbook(), &cell{}
	r := ingest(t, server, c, log)
	polling(t, server)
	r.stop()
	sealed, err := ring(t, cipherKey).Encrypt([]byte(`{"action":"EMERGENCY_REQUESTED","severity":"critical"}`))
	if err != nil {
		t.Fatal(err)
	}
	for n := 1; n <= 40; n++ {
		say(t, server, room, json.RawMessage(numbered(n)))
	}
	say(t, server, visit, json.RawMessage(sealed))
	say(t, server, visit, map[string]any{"action": "EMERGENCY_REQUESTED"}) // in clear: no short way
	say(t, server, alarm, json.RawMessage(numbered(1)))
	r = ingest(t, server, c, log)
	logged(t, log, room, numbers(1, 40))
	eventually(t, "consultation", func() bool { return len(log.on("consult.in."+visit)) == 2 })
	if first := log.all()[0]; first.subject != "consult.in."+alarm {
		t.Errorf("first in the log: %+v", first)
	}
	log.mu.Lock()
	defer log.mu.Unlock()
	if want := visit + ` somebody {"action":"EMERGENCY_REQUESTED","severity":"critical"}`; !slices.Equal(log.urgent, []string{want}) {
		t.Errorf("urgent: %q", log.urgent)
	}
	if r.stats.Urgent.Load() != 1 {
		t.Errorf("counted %d", r.stats.Urgent.Load())
	}
}

func TestAnEmergencyDoesNotWaitForHistory(t *testing.T) {
	server, log, c := start(t, standin.Config{}), newLogbook(), &cell{}
	r := ingest(t, server, c, log)
	polling(t, server)
	r.stop()
	inject(t, server, standin.Fault{Match: "history", Kind: standin.FaultStall})
	say(t, server, room, json.RawMessage(numbered(1)))
	say(t, server, alarm, json.RawMessage(numbered(1)))
	r = ingest(t, server, c, log, func(o *pubnub.IngestOptions) { o.Pace.Grace = 50 * time.Millisecond })
	logged(t, log, alarm, numbers(1, 1))
	if server.FaultsServed() == 0 || r.stats.CatchUpFailures.Load() > 0 || len(log.on("consult.in."+room)) > 0 {
		t.Fatal("history was not being waited for")
	}
	server.ClearFaults()
	logged(t, log, room, numbers(1, 1))
}

func TestAnswersOutOfOrderAndTwiceAreSetRight(t *testing.T) {
	server, log := start(t, standin.Config{}), newLogbook()
	r := ingest(t, server, &cell{}, log)
	polling(t, server)
	inject(t, server, standin.Fault{Match: "poll", Kind: standin.FaultReorder})
	inject(t, server, standin.Fault{Match: "poll", Kind: standin.FaultDuplicate})
	blocked, release := make(chan struct{}), make(chan struct{})
	var once sync.Once
	log.mu.Lock()
	log.gate = func(string) { once.Do(func() { close(blocked) }); <-release }
	log.mu.Unlock()
	say(t, server, room, json.RawMessage(numbered(1)))
	<-blocked
	for n := 2; n <= 40; n++ {
		say(t, server, room, json.RawMessage(numbered(n)))
	}
	close(release)
	logged(t, log, room, numbers(1, 40))
	eventually(t, "repeats counted", func() bool { return r.stats.Repeats.Load() >= 40 })
	if log.repeats != 0 {
		t.Errorf("%d repeats reached the log", log.repeats)
	}
}

// The buffer forgets by age as well: then an answer is not full, and yet not all.
func TestWhatIsOlderThanTheBufferComesFirst(t *testing.T) {
	server, log, c := start(t, standin.Config{BufferSize: 3}), newLogbook(), &cell{}
	r := ingest(t, server, c, log)
	polling(t, server)
	for n := 1; n <= 10; n++ {
		r.stop()
		for i := range 5 {
			say(t, server, room, json.RawMessage(numbered(5*n+i-4)))
		}
		r = ingest(t, server, c, log)
		logged(t, log, room, numbers(1, 5*n))
	}
}

func TestWithoutRightsItAlertsAndGoesOnTrying(t *testing.T) {
	server, log := start(t, standin.Config{}), newLogbook()
	r := ingest(t, server, &cell{}, log)
	polling(t, server)
	inject(t, server, standin.Fault{Match: "poll", Kind: standin.FaultStatus, Status: 403})
	say(t, server, room, json.RawMessage(numbered(1)))
	eventually(t, "refusals", func() bool { return r.stats.Denied.Load() > 2 })
	server.ClearFaults()
	say(t, server, room, json.RawMessage(numbered(2)))
	logged(t, log, room, numbers(1, 2))
	if requests := server.Requests(); requests["handshake"] != 1 {
		t.Fatalf("the SDK noticed: %v", requests)
	}
	for _, err := range log.alerted() {
		if err.Error() != "pubnub subscribe: access denied (status 403)" {
			t.Fatal(err)
		}
	}
}

func TestGroupsAreReadFromHistoryAsWell(t *testing.T) {
	server, log, c := start(t, standin.Config{BufferSize: 1}), newLogbook(), &cell{}
	if _, _, err := app(server).AddChannelToChannelGroup().Channels([]string{room, alarm}).ChannelGroup("clinic").Execute(); err != nil {
		t.Fatal(err)
	}
	groups := func(o *pubnub.IngestOptions) { o.Channels, o.Groups, o.Known = nil, []string{"clinic"}, nil }
	r := ingest(t, server, c, log, groups)
	polling(t, server)
	r.stop()
	for n := 1; n <= 130; n++ {
		say(t, server, room, json.RawMessage(numbered(n)))
	}
	ingest(t, server, c, log, groups)
	logged(t, log, room, numbers(1, 130))
}

func TestWithoutATokenEveryRequestIsSigned(t *testing.T) {
	server, log, c := start(t, standin.Config{RequireSignature: true, BufferSize: 1}), newLogbook(), &cell{}
	r := ingest(t, server, c, log)
	polling(t, server)
	r.stop()
	for n := 1; n <= 30; n++ {
		say(t, server, room, json.RawMessage(numbered(n)))
	}
	ingest(t, server, c, log)
	logged(t, log, room, numbers(1, 30))
}

// Each takeover makes an SDK client; what is left of it must not add up.
func TestClientsAreCleanedUp(t *testing.T) {
	server, log, c := start(t, standin.Config{}), newLogbook(), &cell{}
	life := func() {
		r := ingest(t, server, c, log)
		polling(t, server)
		r.stop()
	}
	life()
	before := runtime.NumGoroutine()
	const lives = 20
	for range lives {
		life()
	}
	// The SDK keeps one goroutine per client, which nothing can end: the reader of its job queue.
	eventually(t, "goroutines end", func() bool { return runtime.NumGoroutine()-before <= lives+5 })
}

func TestReplacingTheClientLosesNothing(t *testing.T) {
	server, log := start(t, standin.Config{}), newLogbook()
	// So impatient that it takes the moment between two requests for the end of the SDK's loop.
	r := ingest(t, server, &cell{}, log, func(o *pubnub.IngestOptions) { o.Pace.Idle = time.Nanosecond })
	polling(t, server)
	n := 0
	eventually(t, "clients replaced", func() bool {
		n++
		say(t, server, room, json.RawMessage(numbered(n)))
		return r.stats.Rebuilds.Load() >= 3
	})
	logged(t, log, room, numbers(1, n))
	if r.stats.Takeovers.Load() != 1 {
		t.Error("the lease was lost")
	}
}
