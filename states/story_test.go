package states_test

import (
	"fmt"
	"strings"
	"testing"
	"time"

	"consultd/states"
)

// The people and places of the stories.
const (
	organization = "clinic"
	department   = "cardiology"
	provider     = "dr-lee"
	patient      = "pat-1"
	nurse        = "nurse-kim"
	appointment  = "appt-1"
	escalation   = "esc-1"
)

var (
	asPatient  = states.Actor{ID: patient, Role: states.RolePatient}
	asProvider = states.Actor{ID: provider, Role: states.RoleProvider}
	asNurse    = states.Actor{ID: nurse, Role: states.RoleNurse}
	asBackend  = states.Actor{ID: "ehr", Role: states.RoleBackend}
	asOperator = states.Actor{ID: "ops", Role: states.RoleOperator}
	asStranger = states.Actor{ID: "mallory"}

	noon = time.Date(2026, 3, 2, 12, 0, 0, 0, time.UTC)
)

// testRules are the default rules with people in them.
func testRules() *states.Rules {
	r := states.DefaultRules()
	r.Organization = organization
	r.Paging.OnCall = map[string][]string{department: {"dr-a", "dr-b"}}
	r.Paging.Failsafe = []string{"chief"}
	r.Paging.Transports = []string{"sms"}
	return &r
}

// story plays events on one record and checks, event by event, everything that follows from them.
type story struct {
	t      *testing.T
	rules  *states.Rules
	record states.Record
	facts  states.Facts
	now    time.Time
	events int
	chain  states.Chain
	last   states.Decision
}

// aVisit begins a story about the appointment, at noon.
func aVisit(t *testing.T) *story {
	return &story{
		t: t, rules: testRules(), now: noon,
		record: states.Record{ID: states.RecordID{Kind: states.KindVisit, ID: appointment}},
	}
}

// anEscalation begins a story about an escalation, at noon.
func anEscalation(t *testing.T) *story {
	s := aVisit(t)
	s.record.ID = states.EscalationRecord(department, escalation)
	return s
}

// wait lets time pass.
func (s *story) wait(d time.Duration) *story {
	s.now = s.now.Add(d)
	return s
}

// does lets somebody cause an event now.
func (s *story) does(who states.Actor, kind states.Kind, more ...func(*states.Event)) *story {
	s.t.Helper()
	s.events++
	ev := states.Event{ID: states.EventID(fmt.Sprintf("ev%d", s.events)), Kind: kind, At: s.now, Source: states.SourceNATS, Actor: who}
	if s.record.ID.ID == appointment || s.record.ID.ID == provider {
		ev.Provider, ev.Patient = provider, patient
		ev.Channel = "consultation." + provider + "." + patient
	} else {
		ev.Department = department
		ev.Channel = "emergency." + department
	}
	for _, f := range more {
		f(&ev)
	}
	d, err := states.Decide(s.rules, s.record, ev, s.facts)
	if err != nil {
		s.t.Fatalf("%s: %v", kind, err)
	}
	if s.chain, err = states.VerifyChain(s.chain, d.Audit); err != nil {
		s.t.Fatalf("%s: %v", kind, err)
	}
	if s.chain != d.Record.Chain {
		s.t.Fatalf("%s: the record's chain is %v, its entries end in %v", kind, d.Record.Chain, s.chain)
	}
	s.last, s.record = d, d.Record
	return s
}

// fires lets the armed timer of a kind become due and fire.
func (s *story) fires(kind states.TimerKind) *story {
	s.t.Helper()
	var armed states.ArmedTimer
	var ok bool
	if s.record.Visit != nil {
		armed, ok = s.record.Visit.Timers.Armed(kind)
	} else if s.record.Escalation != nil {
		armed, ok = s.record.Escalation.Timers.Armed(kind)
	}
	if !ok {
		s.t.Fatalf("timer %s is not armed", kind)
	}
	s.now = armed.Due
	return s.does(states.Actor{}, states.TimerFired, timer(s.record.ID, kind, armed.Generation))
}

func timer(id states.RecordID, kind states.TimerKind, generation int) func(*states.Event) {
	return func(ev *states.Event) {
		ev.Source = states.SourceTimer
		ev.Timer = states.TimerID{Kind: kind, Record: id, Key: "k", Generation: generation}
	}
}

// gives compares all that the last decision says, line by line.
func (s *story) gives(want string) *story {
	s.t.Helper()
	lines := func(text string) string {
		var out []string
		for line := range strings.Lines(text) {
			if line = strings.TrimSpace(line); line != "" {
				out = append(out, line)
			}
		}
		return strings.Join(out, "\n")
	}
	if got := summary(s.last, s.now); lines(want) != got {
		s.t.Fatalf("event %d gives\n%s\n\ninstead of\n%s", s.events, got, lines(want))
	}
	return s
}

// refused checks that the last event was refused, changed nothing, and said nothing.
func (s *story) refused(code states.RefusalCode) *story {
	s.t.Helper()
	d := s.last
	switch {
	case d.Refusal == nil:
		s.t.Fatalf("event %d was accepted:\n%s", s.events, summary(d, s.now))
	case d.Refusal.Code != code:
		s.t.Fatalf("event %d was refused with %s (%s) instead of %s", s.events, d.Refusal.Code, d.Refusal.Detail, code)
	case d.Refusal.Detail == "":
		s.t.Fatalf("the refusal %s has no detail", code)
	case d.From != d.To || len(d.Effects)+len(d.Timers)+len(d.Places)+len(d.Load) > 0 || d.Pair != nil:
		s.t.Fatalf("a refused event has consequences:\n%s", summary(d, s.now))
	}
	return s
}

// summary is a decision in words: the move, then what follows, times relative to now.
func summary(d states.Decision, now time.Time) string {
	var out []string
	add := func(format string, args ...any) { out = append(out, fmt.Sprintf(format, args...)) }
	from := d.From
	if from == states.StateNone {
		from = "none"
	}
	switch {
	case d.Refusal != nil:
		add("%s", d.Refusal.Code)
	case d.From == d.To:
		add("%s", from)
	default:
		add("%s -> %s", from, d.To)
	}
	for _, e := range d.Effects {
		line := string(e.Kind) + " " + e.To + " " + e.Type
		if e.Transport != "" {
			line += " by " + e.Transport
		}
		if e.Priority != "" {
			line += " " + e.Priority
		}
		if len(e.Fields) > 0 {
			line += " " + strings.TrimPrefix(fmt.Sprint(e.Fields), "map")
		}
		add("%s", line)
	}
	for _, c := range d.Timers {
		if c.Due.IsZero() {
			add("drop %s #%d", c.ID.Kind, c.ID.Generation)
		} else {
			add("arm %s #%d in %s", c.ID.Kind, c.ID.Generation, c.Due.Sub(now))
		}
	}
	for _, p := range d.Places {
		if p.Remove {
			add("leave queue %s/%s", p.Provider, p.Department)
		} else {
			rank := int64(p.Score) / 10_000_000_000_000
			add("queue %s/%s rank %d since %s", p.Provider, p.Department, rank,
				time.UnixMilli(int64(p.Score)%10_000_000_000_000).UTC().Format("15:04"))
		}
	}
	for _, l := range d.Load {
		add("load %s %+d", l.Provider, l.Delta)
	}
	if p := d.Pair; p != nil {
		verb := "pair"
		if p.Clear {
			verb = "unpair"
		}
		add("%s %s %s %s", verb, p.Provider, p.Patient, p.Appointment)
	}
	for _, a := range d.Audit {
		if a.EventType != states.AuditNotification && a.EventType != states.AuditPaged {
			add("audit %s %s %s", a.EventType, a.Action, a.Severity)
		}
	}
	if d.Expire {
		add("expire")
	}
	return strings.Join(out, "\n")
}

// Parts of events.

func inDepartment(ev *states.Event) { ev.Department = department }

func startsAt(t time.Time) func(*states.Event) { return func(ev *states.Event) { ev.StartsAt = t } }

func device(ready bool) func(*states.Event) {
	return func(ev *states.Event) { ev.DeviceReady = &ready }
}

func claiming(user string) func(*states.Event) {
	return func(ev *states.Event) { ev.ClaimedSender = user }
}

func priority(p states.Priority) func(*states.Event) {
	return func(ev *states.Event) { ev.Priority = p }
}

func severity(v states.Severity) func(*states.Event) {
	return func(ev *states.Event) { ev.Severity = v }
}

// The usual beginnings.

func (s *story) booked() *story {
	s.t.Helper()
	return s.does(asBackend, states.AppointmentScheduled, inDepartment, startsAt(noon.Add(10*time.Minute)))
}

func (s *story) checkedIn() *story {
	s.t.Helper()
	return s.does(asPatient, states.PatientCheckedIn, inDepartment)
}

func (s *story) waiting() *story {
	s.t.Helper()
	return s.does(asPatient, states.PatientCheckedIn, inDepartment, device(true))
}

func (s *story) connecting() *story {
	s.t.Helper()
	return s.waiting().does(asProvider, states.ProviderJoined)
}

func (s *story) inProgress() *story {
	s.t.Helper()
	return s.connecting().does(asPatient, states.PatientJoined)
}

func (s *story) wrappingUp() *story {
	s.t.Helper()
	return s.inProgress().does(asProvider, states.ConsultationEnded)
}

func (s *story) completed() *story {
	s.t.Helper()
	return s.wrappingUp().does(asProvider, states.NotesCompleted)
}
