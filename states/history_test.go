package states_test

import (
	"cmp"
	"encoding/json"
	"fmt"
	"maps"
	"reflect"
	"slices"
	"strings"
	"testing"
	"time"

	"pgregory.net/rapid"

	"consultd/states"
)

// clinic is what a store would hold after a history, kept by applying decisions as the store does.
type clinic struct {
	t       *rapid.T
	rules   *states.Rules
	now     time.Time
	records map[states.RecordID]states.Record
	chains  map[states.RecordID]states.Chain
	timers  map[string]states.TimerID // rows by name
	queue   map[string]float64        // provider/department/appointment
	load    map[string]int
	pairs   map[string]string
	ids     map[string]bool      // of effects and audit entries
	past    []states.Event       // to be repeated
	raised  []states.Event       // effects that come back as events
	seen    map[states.State]int // decisions that came to a state
	events  int
}

var (
	visitKinds = []states.Kind{
		states.AppointmentScheduled, states.AppointmentCancelled, states.AppointmentRescheduled,
		states.PatientCheckedIn, states.PatientReadyConfirmed, states.WaitingRoomLeft, states.PriorityChanged, states.ProviderRunningLate,
		states.ProviderJoined, states.PatientJoined, states.ProviderLeft, states.PatientLeft, states.ConsultationHeld,
		states.ConsultationResumed, states.ConsultationEnded, states.NotesCompleted, states.EmergencyRequested,
	}
	escalationKinds = []states.Kind{
		states.EmergencyEscalation, states.EmergencyAccepted, states.EmergencyRejected, states.EmergencyAttended,
		states.EmergencyResolved, states.EmergencyCancelled, states.EmergencySeverityChanged, states.OnCallAnswered,
	}
	anyRole = []states.Role{
		states.RolePatient, states.RoleProvider, states.RoleNurse, states.RoleFrontDesk, states.RoleOnCall,
		states.RoleBackend, states.RoleOperator, states.RoleSystem, states.RoleUnknown, "root",
	}
	people = []string{patient, "pat-2", provider, "dr-no", nurse, "ehr", "dr-a", "dr-b", "chief", ""}
)

// TestHistories plays random histories of several visits and escalations, with wrong senders, repeats and stale timers, and
// checks after every event what must always hold.
func TestHistories(t *testing.T) {
	seen := map[states.State]int{}
	rapid.Check(t, func(t *rapid.T) {
		c := &clinic{
			t: t, rules: testRules(), now: noon, seen: seen,
			records: map[states.RecordID]states.Record{}, chains: map[states.RecordID]states.Chain{}, timers: map[string]states.TimerID{},
			queue: map[string]float64{}, load: map[string]int{}, pairs: map[string]string{}, ids: map[string]bool{},
		}
		c.rules.Paging.Ask = rapid.Bool().Draw(t, "ask")
		c.rules.Paging.FailsafeAfter = rapid.IntRange(0, 3).Draw(t, "failsafe after")
		if rapid.Bool().Draw(t, "nobody is on call") {
			c.rules.Paging.OnCall = nil
		}
		if rapid.Bool().Draw(t, "no failsafe") {
			c.rules.Paging.Failsafe = nil
		}
		for range rapid.IntRange(1, 200).Draw(t, "events") {
			c.now = c.now.Add(time.Duration(rapid.IntRange(0, 200).Draw(t, "seconds")) * time.Second)
			// rapid prefers small numbers, so what a history mostly consists of comes first.
			switch choice := rapid.IntRange(0, 19).Draw(t, "what happens"); {
			case choice < 10:
				c.play(c.aboutVisit())
			case choice < 13:
				c.play(c.aboutEscalation())
			case choice < 17 && len(c.timers) > 0:
				c.fire()
			case choice == 17 && len(c.past) > 0:
				c.play(rapid.SampledFrom(c.past).Draw(t, "repeat"))
			case len(c.raised) > 0:
				c.play(c.raised[0])
				c.raised = c.raised[1:]
			}
		}
	})
	t.Log(seen)
	for _, s := range []states.State{
		states.VisitInProgress, states.VisitOnHold, states.VisitWrappingUp, states.VisitCompleted,
		states.VisitLeft, states.VisitCancelled, states.EscalationWaiting, states.EscalationAccepted, states.EscalationClosed,
	} {
		if seen[s] == 0 && !t.Failed() {
			t.Errorf("no history came to %s: the histories are too short or too wild", s)
		}
	}
}

func (c *clinic) aboutVisit() states.Event {
	n := rapid.IntRange(1, 6).Draw(c.t, "visit")
	id := fmt.Sprintf("appt-%d", n)
	state := states.StateNone
	if v := c.records[states.RecordID{Kind: states.KindVisit, ID: id}].Visit; v != nil {
		state = v.State
	}
	kind := c.kind(states.Visits(), state, visitKinds)
	ev := c.event(kind)
	ev.Appointment = id
	ev.Provider, ev.Patient, ev.Department = provider, patient, department // three visits for each pair
	if n%2 == 0 {
		ev.Patient = "pat-2"
	}
	ev.Channel = "consultation." + ev.Provider + "." + ev.Patient
	switch rapid.IntRange(0, 9).Draw(c.t, "sender") {
	case 9: // anybody
		ev.Actor = states.Actor{ID: rapid.SampledFrom(people).Draw(c.t, "user"), Role: rapid.SampledFrom(anyRole).Draw(c.t, "role")}
		ev.ClaimedSender = rapid.SampledFrom(people).Draw(c.t, "claimed")
	case 8: // the wrong channel
		ev.Provider = "dr-no"
		ev.Actor = asBackend
	default: // somebody who may
		ev.Actor = c.proper(states.Visits(), kind, ev.Patient)
	}
	return ev
}

func (c *clinic) aboutEscalation() states.Event {
	id := rapid.SampledFrom([]string{"esc-1", "esc-2"}).Draw(c.t, "escalation")
	state := states.StateNone
	if e := c.records[states.EscalationRecord(department, id)].Escalation; e != nil {
		state = e.State
	}
	kind := c.kind(states.Escalations(), state, escalationKinds)
	ev := c.event(kind)
	ev.Escalation = id
	ev.Department = department
	ev.Channel = "emergency." + department
	ev.Actor = c.proper(states.Escalations(), kind, patient)
	if rapid.Bool().Draw(c.t, "somebody on call") {
		ev.Actor = states.Actor{ID: rapid.SampledFrom([]string{"dr-a", "dr-b", "chief"}).Draw(c.t, "user"), Role: rapid.SampledFrom(anyRole).Draw(c.t, "role")}
		ev.ClaimedSender = rapid.SampledFrom([]string{"", ev.Actor.ID, "dr-b"}).Draw(c.t, "claimed")
	}
	if kind == states.OnCallAnswered {
		ev.Actor = asSystem
		ev.OnCall.Users = rapid.SliceOfN(rapid.SampledFrom([]string{"dr-a", "dr-b", "dr-x", ""}), 0, 3).Draw(c.t, "on call")
	}
	return ev
}

// kind is mostly one that means something in the state, so that histories get somewhere.
func (c *clinic) kind(table states.Table, state states.State, all []states.Kind) states.Kind {
	quits := []states.Kind{states.WaitingRoomLeft, states.AppointmentCancelled, states.AppointmentRescheduled}
	stays := rapid.IntRange(0, 5).Draw(c.t, "patience") < 5
	var legal []states.Kind
	for _, r := range table.Rows {
		if r.On != "" && r.On != states.EmergencyRequested && slices.Contains(r.From, state) && !(stays && slices.Contains(quits, r.On)) {
			legal = append(legal, r.On)
		}
	}
	if len(legal) > 0 && rapid.IntRange(0, 3).Draw(c.t, "sense") < 3 {
		return rapid.SampledFrom(legal).Draw(c.t, "kind")
	}
	return rapid.SampledFrom(all).Draw(c.t, "any kind")
}

// event has everything that an event of the kind may have, right or wrong.
func (c *clinic) event(kind states.Kind) states.Event {
	c.events++
	ev := states.Event{ID: states.NewEventID(states.SourceNATS, "history", "", fmt.Sprint(c.events)), Kind: kind, At: c.now, Source: states.SourceNATS}
	if rapid.IntRange(0, 9).Draw(c.t, "clock") == 9 {
		ev.Said = c.now.Add(time.Duration(rapid.IntRange(-1500, 600).Draw(c.t, "skew")) * time.Second)
	}
	ev.StartsAt = c.now.Add(time.Duration(rapid.IntRange(-5, 40).Draw(c.t, "starts in")) * time.Minute)
	ev.Priority = rapid.SampledFrom([]states.Priority{"", states.PriorityEmergency, states.PriorityNormal, states.PriorityFollowUp, "asap"}).Draw(c.t, "priority")
	ev.Severity = rapid.SampledFrom([]states.Severity{"", states.SeverityUrgent, states.SeverityCritical, states.SeverityLifeThreatening, "bad"}).Draw(c.t, "severity")
	switch rapid.IntRange(0, 2).Draw(c.t, "device") {
	case 0:
		ev.DeviceReady = new(bool)
	case 1:
		ready := true
		ev.DeviceReady = &ready
	}
	ev.ReasonCode = rapid.SampledFrom([]string{"", "ill", `<&"\` + "\u2028"}).Draw(c.t, "reason")
	return ev
}

// proper is somebody whom the table lets cause the event.
func (c *clinic) proper(table states.Table, kind states.Kind, thePatient string) states.Actor {
	for _, r := range table.Rows {
		if r.On != kind {
			continue
		}
		role := rapid.SampledFrom(r.By).Draw(c.t, "role")
		switch role {
		case states.RolePatient:
			return states.Actor{ID: thePatient, Role: role}
		case states.RoleProvider:
			return states.Actor{ID: provider, Role: role}
		}
		return states.Actor{ID: "staff", Role: role}
	}
	c.t.Fatalf("no row for %s", kind)
	return states.Actor{}
}

// fire lets the timer that is due first fire, now and then another one, or one of a generation that is not armed.
func (c *clinic) fire() {
	rows := slices.SortedFunc(maps.Values(c.timers), func(a, b states.TimerID) int {
		return cmp.Or(c.due(a).Compare(c.due(b)), strings.Compare(a.String(), b.String()))
	})
	id := rows[0]
	switch rapid.IntRange(0, 9).Draw(c.t, "timer") {
	case 8:
		id = rapid.SampledFrom(rows).Draw(c.t, "another")
	case 9:
		id.Generation += rapid.SampledFrom([]int{-1, 1}).Draw(c.t, "generation")
	}
	if due := c.due(id); due.After(c.now) {
		c.now = due
	}
	c.events++
	c.play(states.Event{ID: states.EventID(fmt.Sprintf("timer%d", c.events)), Kind: states.TimerFired, At: c.now, Source: states.SourceTimer, Timer: id})
}

func (c *clinic) due(id states.TimerID) time.Time {
	r := c.records[id.Record]
	if r.Visit != nil {
		return r.Visit.Timers[id.Kind].Due
	}
	return r.Escalation.Timers[id.Kind].Due
}

// play decides an event, checks the decision, and stores it.
func (c *clinic) play(ev states.Event) {
	t := c.t
	id := states.RecordID{Kind: states.KindVisit, ID: ev.Appointment}
	switch {
	case ev.Kind == states.TimerFired:
		id = ev.Timer.Record
	case slices.Contains(escalationKinds, ev.Kind):
		id = states.EscalationRecord(department, ev.Escalation)
	}
	record, ok := c.records[id]
	if !ok {
		record = states.Record{ID: id}
	}
	facts := states.Facts{PairHolder: c.pairs[ev.Provider+"/"+ev.Patient]}
	before := frozen(t, record, c.rules)
	d, err := states.Decide(c.rules, record, ev, facts)
	if err != nil {
		t.Fatalf("%s: %v", ev.Kind, err)
	}
	if again, err := states.Decide(c.rules, record, ev, facts); err != nil || !reflect.DeepEqual(d, again) {
		t.Fatalf("%s decided again gives another decision (%v):\n%+v\n%+v", ev.Kind, err, d, again)
	}
	if after := frozen(t, record, c.rules); after != before {
		t.Fatalf("%s changes the record it is decided on:\n%s\n%s", ev.Kind, before, after)
	}
	c.checkMove(record, ev, d)
	if d.Refusal != nil && d.Refusal.Code == states.StaleTimer {
		delete(c.timers, ev.Timer.String())
		return
	}
	c.checkRecord(record, ev, d)
	c.store(ev, d)
	c.checkStore()
	c.past = append(c.past, ev)
}

func frozen(t *rapid.T, v ...any) string {
	b, err := json.Marshal(v)
	if err != nil {
		t.Fatal(err)
	}
	return string(b)
}

// checkMove holds a decision against the tables.
func (c *clinic) checkMove(before states.Record, ev states.Event, d states.Decision) {
	t := c.t
	table, from, to := states.Visits(), states.StateNone, states.StateNone
	if d.Record.ID.Kind == states.KindEscalation {
		table = states.Escalations()
	}
	if before.Visit != nil {
		from = before.Visit.State
	} else if e := before.Escalation; e != nil && !(e.State.Final() && ev.Kind == states.EmergencyEscalation && d.Refusal == nil) {
		from = e.State // after the end of one emergency begins another
	}
	if d.Record.Visit != nil {
		to = d.Record.Visit.State
	} else if d.Record.Escalation != nil {
		to = d.Record.Escalation.State
	}
	if d.From != from || d.To != to {
		t.Fatalf("%s says %q -> %q and does %q -> %q", ev.Kind, d.From, d.To, from, to)
	}
	if from.Final() && to != from {
		t.Fatalf("%s leaves the final state %s", ev.Kind, from)
	}
	if d.Refusal != nil {
		if !reflect.DeepEqual(before.Visit, d.Record.Visit) || !reflect.DeepEqual(before.Escalation, d.Record.Escalation) {
			t.Fatalf("%s is refused and changes the record", ev.Kind)
		}
		if len(d.Effects)+len(d.Timers)+len(d.Places)+len(d.Load) > 0 || d.Pair != nil {
			t.Fatalf("%s is refused and has consequences", ev.Kind)
		}
		if ev.Kind == states.EmergencyRequested {
			t.Fatalf("an emergency is refused with %s", d.Refusal.Code)
		}
		if stale := d.Refusal.Code == states.StaleTimer; stale && (d.Record.Version != before.Version || d.Record.Chain != before.Chain || len(d.Audit) > 0) {
			t.Fatal("a stale timer leaves a trace")
		}
		return
	}
	legal := to == states.StateNone && ev.Kind == states.EmergencyRequested
	for _, r := range table.Rows {
		if r.On == ev.Kind && ev.Timer.Kind == "" || r.Timer != "" && r.Timer == ev.Timer.Kind {
			legal = legal || slices.Contains(r.From, from) && (r.To == to || r.To == states.Stay && from == to)
		}
	}
	if !legal {
		t.Fatalf("no row leads %s from %q to %q", ev.Kind, from, to)
	}
	if v := before.Visit; v != nil && ev.Kind == states.TimerFired && v.PatientPresent && v.ProviderPresent && (to == states.VisitWrappingUp || to.Final()) {
		t.Fatalf("timer %s ends a visit in which both are present", ev.Timer.Kind)
	}
}

// checkRecord checks version, audit chain and effects of a decision that is stored.
func (c *clinic) checkRecord(before states.Record, ev states.Event, d states.Decision) {
	t := c.t
	if d.Record.Version != before.Version+1 {
		t.Fatalf("version %d after %d", d.Record.Version, before.Version)
	}
	chain, err := states.VerifyChain(c.chains[d.Record.ID], d.Audit)
	if err != nil || chain != d.Record.Chain || len(d.Audit) == 0 {
		t.Fatalf("the chain of %s is broken: %v", d.Record.ID, err)
	}
	told := 0
	for i, e := range d.Effects {
		if e.ID != fmt.Sprintf("%s.%d", ev.ID, i) || e.To == "" || e.Type == "" || !e.At.Equal(ev.At) {
			t.Fatalf("effect %d is %+v", i, e)
		}
		if e.Visit != d.Record.Visit || e.Escalation != d.Record.Escalation {
			t.Fatalf("effect %s is not about the record as decided", e.ID)
		}
		if e.Kind == states.EffectNotify || e.Kind == states.EffectPage {
			told++
		}
	}
	audited := 0
	for i, a := range d.Audit {
		if a.ID != fmt.Sprintf("%s.a%d", ev.ID, i) || a.Organization != organization || !a.Timestamp.Equal(ev.At) {
			t.Fatalf("audit entry %d is %+v", i, a)
		}
		if a.EventType == states.AuditNotification || a.EventType == states.AuditPaged {
			audited++
		}
	}
	if told != audited {
		t.Fatalf("%d messages to people, %d of them audited", told, audited)
	}
	if d.Expire != d.To.Final() {
		t.Fatalf("%s expires: %v", d.To, d.Expire)
	}
}

func (c *clinic) store(ev states.Event, d states.Decision) {
	t := c.t
	delete(c.timers, ev.Timer.String())
	for _, change := range d.Timers {
		name := change.ID.String()
		if id, err := states.ParseTimerID(name); err != nil || id != change.ID {
			t.Fatalf("timer id %s: %v", name, err)
		}
		if change.Due.IsZero() {
			delete(c.timers, name)
			continue
		}
		if c.ids[name] {
			t.Fatalf("timer %s is armed a second time", name)
		}
		if change.Due.Before(ev.At) {
			t.Fatalf("timer %s is due before it is armed", name)
		}
		c.ids[name] = true
		c.timers[name] = change.ID
	}
	for _, p := range d.Places {
		name := p.Provider + "/" + p.Department + "/" + p.Appointment
		if _, there := c.queue[name]; p.Remove && !there {
			t.Fatalf("%s leaves a queue it is not in", name)
		}
		if delete(c.queue, name); !p.Remove {
			c.queue[name] = p.Score
		}
	}
	for _, l := range d.Load {
		c.load[l.Provider] += l.Delta
	}
	if p := d.Pair; p != nil {
		pair := p.Provider + "/" + p.Patient
		switch holder := c.pairs[pair]; {
		case p.Clear && holder != p.Appointment:
			t.Fatalf("%s clears the pair of %s", p.Appointment, holder)
		case !p.Clear && holder != "":
			t.Fatalf("%s takes the pair from %s", p.Appointment, holder)
		case p.Clear:
			delete(c.pairs, pair)
		default:
			c.pairs[pair] = p.Appointment
		}
	}
	for _, e := range d.Effects {
		if e.Kind == states.EffectRaise {
			c.raised = append(c.raised, states.Event{
				ID: states.EventID(e.ID), Kind: states.EmergencyEscalation, At: c.now, Source: states.SourceConsultd,
				Actor: e.Actor, Department: e.To, Escalation: e.Fields["escalationId"].(string), Severity: states.Severity(e.Fields["severity"].(string)),
			})
		}
	}
	c.records[d.Record.ID] = d.Record
	c.chains[d.Record.ID] = d.Record.Chain
	c.seen[d.To]++
}

// checkStore holds timers, queues, loads and pairs against the records: nothing is forgotten and nothing is left over.
func (c *clinic) checkStore() {
	t := c.t
	rows, queue, load, pairs := map[string]bool{}, map[string]float64{}, map[string]int{}, map[string]string{}
	for id, r := range c.records {
		var timers states.Timers
		key := department
		if v := r.Visit; v != nil {
			timers, key = v.Timers, v.Provider
			c.checkVisit(v)
			if v.State.Queued() {
				queue[v.Provider+"/"+v.Department+"/"+v.Appointment] = states.QueueScore(v.Priority, v.ArrivedAt)
			}
			if v.State.Engaged() {
				load[v.Provider]++
			}
			if v.State.Active() {
				pairs[v.Provider+"/"+v.Patient] = v.Appointment
			}
		} else if e := r.Escalation; e != nil {
			timers = e.Timers
			c.checkEscalation(e)
		}
		for kind := range timers {
			if a, armed := timers.Armed(kind); armed {
				rows[states.TimerID{Kind: kind, Record: id, Key: key, Generation: a.Generation}.String()] = true
			}
		}
	}
	if len(rows) != len(c.timers) {
		t.Fatalf("timers in records %v, in the store %v", rows, c.timers)
	}
	for name := range c.timers {
		if !rows[name] {
			t.Fatalf("timers in records %v, in the store %v", rows, c.timers)
		}
	}
	if !reflect.DeepEqual(queue, c.queue) {
		t.Fatalf("the queue should be %v and is %v", queue, c.queue)
	}
	for p, n := range c.load {
		if n < 0 || n != load[p] {
			t.Fatalf("%s is in %d visits, the load says %d", p, load[p], n)
		}
	}
	if !reflect.DeepEqual(pairs, c.pairs) {
		t.Fatalf("the pairs should be %v and are %v", pairs, c.pairs)
	}
}

// wanted is, written once more and otherwise than in the program, in which states a timer may run.
var wanted = map[states.TimerKind]string{
	states.TimerNoShow: "scheduled", states.TimerReadiness: "checked-in", states.TimerLongWait: "checked-in waiting",
	states.TimerWaitLimit: "checked-in waiting", states.TimerConnectSoft: "connecting", states.TimerConnectHard: "connecting",
	states.TimerProviderDrop: "on-hold", states.TimerPatientDrop: "on-hold", states.TimerBothAbsent: "on-hold",
	states.TimerWrapUpSoft: "wrapping-up", states.TimerWrapUpHard: "wrapping-up",
	states.TimerRoster: "triggered", states.TimerRePage: "waiting",
}

func (c *clinic) checkVisit(v *states.Visit) {
	t := c.t
	running := 0
	for kind := range v.Timers {
		if _, armed := v.Timers.Armed(kind); armed {
			running++
			if !slices.Contains(strings.Fields(wanted[kind]), string(v.State)) {
				t.Fatalf("timer %s runs while the visit is %s", kind, v.State)
			}
		}
	}
	_, providerDrop := v.Timers.Armed(states.TimerProviderDrop)
	_, patientDrop := v.Timers.Armed(states.TimerPatientDrop)
	if providerDrop && v.ProviderPresent || patientDrop && (v.PatientPresent || v.Held) {
		t.Fatalf("a drop timer runs for somebody who is there: %+v", v)
	}
	switch {
	case v.State == states.VisitInProgress:
		if !v.PatientPresent || !v.ProviderPresent || v.Held || v.StartedAt.IsZero() {
			t.Fatalf("a consultation without somebody: %+v", v)
		}
	case v.State.Final() || v.State == states.VisitOnHold && v.Held:
	case running == 0:
		t.Fatalf("nothing will ever happen to a visit that is %s", v.State)
	}
	if v.State.Final() && (v.PatientPresent || v.ProviderPresent || running > 0) {
		t.Fatalf("a visit that is over is not at rest: %+v", v)
	}
}

func (c *clinic) checkEscalation(e *states.Escalation) {
	t := c.t
	for kind := range e.Timers {
		if _, armed := e.Timers.Armed(kind); armed && wanted[kind] != string(e.State) {
			t.Fatalf("timer %s runs while the escalation is %s", kind, e.State)
		}
	}
	_, roster := e.Timers.Armed(states.TimerRoster)
	rePage, rePaging := e.Timers.Armed(states.TimerRePage)
	switch e.State {
	case states.EscalationTriggered:
		if !roster {
			t.Fatal("a triggered escalation waits for ever")
		}
	case states.EscalationWaiting:
		if !rePaging || rePage.Due.Sub(c.now) > 3*time.Minute {
			t.Fatalf("a waiting escalation falls silent: %+v", rePage)
		}
		if len(e.Paged) == 0 && len(c.rules.Paging.Failsafe)+len(c.rules.Paging.OnCall) > 0 {
			t.Fatal("there is somebody to page, and nobody was paged")
		}
	case states.EscalationAccepted, states.EscalationAttended:
		if e.AcceptedBy == "" {
			t.Fatal("nobody has accepted")
		}
	}
	if slices.Contains(e.Paged, "") || len(slices.Compact(slices.Sorted(slices.Values(e.Paged)))) != len(e.Paged) {
		t.Fatalf("paged %v", e.Paged)
	}
}
