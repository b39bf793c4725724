package states_test

import (
	"flag"
	"fmt"
	"maps"
	"os"
	"slices"
	"strings"
	"testing"
	"time"

	"consultd/states"
)

var update = flag.Bool("update", false, "write docs/states.md instead of comparing it")

const document = "../docs/states.md"

// TestStatesDocumentIsFresh compares docs/states.md with what the tables and Decide say. The document is thereby also the
// golden file of every state x event pair: a verdict that changes has to be read and accepted.
func TestStatesDocumentIsFresh(t *testing.T) {
	want := writeDocument(t)
	if *update {
		if err := os.WriteFile(document, []byte(want), 0o644); err != nil {
			t.Fatal(err)
		}
		return
	}
	got, err := os.ReadFile(document)
	if err != nil {
		t.Fatal(err)
	}
	if string(got) == want {
		return
	}
	old, fresh := strings.Split(string(got), "\n"), strings.Split(want, "\n")
	for i := range min(len(old), len(fresh)) {
		if old[i] != fresh[i] {
			t.Errorf("line %d is\n%s\ninstead of\n%s", i+1, old[i], fresh[i])
			break
		}
	}
	t.Fatal("docs/states.md is not what the tables say: run go test ./states -run Fresh -update, and read the difference")
}

func writeDocument(t *testing.T) string {
	t.Helper()
	var b strings.Builder
	line := func(format string, args ...any) { fmt.Fprintf(&b, format+"\n", args...) }
	rules := states.DefaultRules()
	reasons := map[states.RefusalCode]string{}

	line("# States")
	line("")
	line("Written by `go test ./states -run Fresh -update` from the tables in `states/table.go` and from what `states.Decide` answers;")
	line("a test fails when it is out of date. Durations are the defaults.")
	line("")
	line("## Visits")
	line("")
	line("%s", diagram(states.Visits()))
	line("Events that leave the state as it is are not drawn. Timers are in lower case.")
	line("")
	rowsOf(line, states.Visits())
	line("A backend or an operator may also send what is the patient's or the provider's to send, by naming them.")
	line("")
	line("### Timers of a visit")
	line("")
	line("| timer | runs while | due |")
	line("|---|---|---|")
	tm := rules.Timing
	for _, row := range [][3]string{
		{"no-show", "scheduled", human(tm.NoShow) + " after the appointment's start"},
		{"readiness", "checked-in", human(tm.Readiness) + " after entering the state"},
		{"long-wait", "checked-in, waiting", human(tm.LongWait...) + " after check-in"},
		{"wait-limit", "checked-in, waiting", human(tm.WaitLimit) + " after entering the waiting room"},
		{"connect-soft", "connecting", human(tm.ConnectSoft) + " after entering the state"},
		{"connect-hard", "connecting", human(tm.ConnectHard) + " after entering the state"},
		{"provider-drop", "on-hold without the provider", human(tm.ProviderDrop) + " after the provider left, and again"},
		{"patient-drop", "on-hold without the patient, unless the provider holds the visit", human(tm.PatientDrop) + " after the patient left"},
		{"both-absent", "on-hold without anybody", human(tm.BothAbsent) + " after the last one left"},
		{"wrap-up-soft", "wrapping-up", human(tm.WrapUpSoft) + " after entering the state"},
		{"wrap-up-hard", "wrapping-up", human(tm.WrapUpHard) + " after entering the state"},
	} {
		line("| %s | %s | %s |", row[0], row[1], row[2])
	}
	line("")
	line("A duration of zero switches a timer off. Check-in opens %s before the appointment's start. A message may be stamped up to", human(tm.CheckInOpens))
	line("%s ahead and %s behind.", human(tm.MaxFuture), human(tm.MaxPast))
	line("")
	line("### Every event in every state of a visit")
	line("")
	line("A state means that the visit moves there, `=` that the event is accepted and the state stays, capitals that it is refused.")
	line("`-` is a situation that does not exist.")
	line("")
	matrix(t, line, states.Visits(), visitCases(), reasons)
	line("## Escalations")
	line("")
	line("%s", diagram(states.Escalations()))
	rowsOf(line, states.Escalations())
	line("### Timers of an escalation")
	line("")
	line("| timer | runs while | due |")
	line("|---|---|---|")
	line("| roster | triggered | %s after the escalation was raised (a constant) |", human(states.RosterTimeout))
	line("| re-page | waiting | after each round: %s life-threatening, %s critical, %s urgent; it cannot be switched off |",
		human(rules.Paging.RePageAfter(states.SeverityLifeThreatening)), human(rules.Paging.RePageAfter(states.SeverityCritical)), human(rules.Paging.RePageAfter(states.SeverityUrgent)))
	line("")
	line("The failsafe is paged as well after %d rounds without an answer, and at once when nobody else is left.", rules.Paging.FailsafeAfter)
	line("")
	line("### Every event in every state of an escalation")
	line("")
	matrix(t, line, states.Escalations(), escalationCases(), reasons)
	otherRefusals(t, reasons)
	line("## Refusals")
	line("")
	line("A refusal changes nothing and says nothing; it is an entry of the audit chain (but STALE_TIMER is not).")
	line("")
	line("| code | for example |")
	line("|---|---|")
	for _, code := range slices.Sorted(maps.Keys(reasons)) {
		line("| %s | %s |", code, reasons[code])
	}
	return b.String()
}

// human writes durations in the largest unit that leaves no fraction.
func human(durations ...time.Duration) string {
	out := make([]string, len(durations))
	for i, d := range durations {
		switch {
		case d%time.Hour == 0:
			out[i] = fmt.Sprintf("%d h", d/time.Hour)
		case d%time.Minute == 0:
			out[i] = fmt.Sprintf("%d min", d/time.Minute)
		default:
			out[i] = fmt.Sprintf("%d s", d/time.Second)
		}
	}
	return strings.Join(out, ", ")
}

// diagram draws a table in Mermaid: one arrow for each pair of states, with everything that leads along it.
func diagram(table states.Table) string {
	id := func(s states.State) string {
		if s == states.StateNone {
			return "[*]"
		}
		return strings.ReplaceAll(string(s), "-", "_")
	}
	type arrow struct{ from, to states.State }
	var arrows []arrow
	labels := map[arrow][]string{}
	for _, r := range table.Rows {
		for _, from := range r.From {
			a := arrow{from, r.To}
			if r.To == states.Stay || r.To == from {
				continue
			}
			if labels[a] == nil {
				arrows = append(arrows, a)
			}
			label := r.Event()
			if r.When != "" {
				label += " (" + string(r.When) + ")"
			}
			labels[a] = append(labels[a], label)
		}
	}
	var b strings.Builder
	b.WriteString("```mermaid\nstateDiagram-v2\n")
	for _, s := range table.States {
		fmt.Fprintf(&b, "    state \"%s\" as %s\n", s, id(s))
	}
	for _, a := range arrows {
		fmt.Fprintf(&b, "    %s --> %s : %s\n", id(a.from), id(a.to), strings.Join(labels[a], "<br>"))
	}
	for _, s := range table.States {
		if s.Final() {
			fmt.Fprintf(&b, "    %s --> [*]\n", id(s))
		}
	}
	b.WriteString("```\n")
	return b.String()
}

// rowsOf lists a table's rows, and what its guards mean.
func rowsOf(line func(string, ...any), table states.Table) {
	line("| event or timer | when | from | to | by | reason |")
	line("|---|---|---|---|---|---|")
	var guards []states.Guard
	for _, r := range table.Rows {
		from := make([]string, len(r.From))
		for i, s := range r.From {
			from[i] = stateName(s)
		}
		if len(from) == len(table.States) {
			from = []string{"every state"}
		}
		by := make([]string, len(r.By))
		for i, role := range r.By {
			by[i] = string(role)
		}
		if slices.Contains(by, "") {
			by = []string{"anybody"}
		}
		to := string(r.To)
		if r.To == states.Stay {
			to = "(stays)"
		}
		line("| %s | %s | %s | %s | %s | %s |", r.Event(), r.When, strings.Join(from, ", "), to, strings.Join(by, ", "), r.Reason)
		if r.When != "" && !slices.Contains(guards, r.When) {
			guards = append(guards, r.When)
		}
	}
	line("")
	for _, g := range guards {
		line("- *%s*: %s.", g, g.Meaning())
	}
	line("")
}

func stateName(s states.State) string {
	if s == states.StateNone {
		return "(none)"
	}
	return string(s)
}

// situation is one line of the matrix: an event from somebody who may send it.
type situation struct {
	label string
	who   states.Actor
	kind  states.Kind
	timer states.TimerKind
	more  []func(*states.Event)
	in    map[states.State]func(*story) // how a state is brought about in this situation, instead of the usual way
	not   []states.State                // states in which the situation does not exist
}

func visitCases() []situation {
	at := func(d time.Duration) func(*states.Event) { return startsAt(noon.Add(d)) }
	say := func(label string, who states.Actor, kind states.Kind, more ...func(*states.Event)) situation {
		return situation{label: label, who: who, kind: kind, more: append(more, inDepartment)}
	}
	fire := func(kind states.TimerKind, how func(*story)) situation {
		c := situation{label: string(kind), kind: states.TimerFired, timer: kind}
		if how != nil {
			c.in = map[states.State]func(*story){states.VisitOnHold: how}
		}
		return c
	}
	with := func(c situation, not []states.State, in map[states.State]func(*story)) situation {
		c.not, c.in = not, in
		return c
	}
	patientGone := func(s *story) { s.inProgress().does(asPatient, states.PatientLeft) }
	providerGone := func(s *story) { s.inProgress().does(asProvider, states.ProviderLeft) }
	bothGone := func(s *story) {
		s.inProgress().does(asProvider, states.ProviderLeft).does(asPatient, states.PatientLeft)
	}
	held := func(s *story) { s.inProgress().does(asProvider, states.ConsultationHeld) }
	heldAlone := func(s *story) {
		s.inProgress().does(asProvider, states.ConsultationHeld).does(asPatient, states.PatientLeft)
	}
	patientCame := func(begin func(*story) *story) func(*story) {
		return func(s *story) { begin(s).does(asPatient, states.PatientJoined) }
	}
	started := []states.State{states.VisitInProgress}
	notHeld := []states.State{
		states.StateNone, states.VisitScheduled, states.VisitCheckedIn, states.VisitWaiting, states.VisitConnecting,
		states.VisitInProgress, states.VisitWrappingUp, states.VisitCompleted, states.VisitCancelled, states.VisitNoShow, states.VisitLeft, states.VisitRescheduled,
	}
	failedOnce := map[states.State]func(*story){states.VisitCheckedIn: func(s *story) { s.checkedIn().does(asPatient, states.PatientReadyConfirmed, device(false)) }}
	return []situation{
		say("APPOINTMENT_SCHEDULED", asBackend, states.AppointmentScheduled, at(time.Hour)),
		say("PATIENT_CHECKED_IN, device not ready", asPatient, states.PatientCheckedIn),
		say("PATIENT_CHECKED_IN, device ready", asPatient, states.PatientCheckedIn, device(true)),
		say("PATIENT_READY_CONFIRMED, ready", asPatient, states.PatientReadyConfirmed, device(true)),
		say("PATIENT_READY_CONFIRMED, not ready", asPatient, states.PatientReadyConfirmed, device(false)),
		with(say("PATIENT_READY_CONFIRMED, not ready again", asPatient, states.PatientReadyConfirmed, device(false)), nil, failedOnce),
		say("WAITING_ROOM_LEFT", asPatient, states.WaitingRoomLeft),
		say("PRIORITY_CHANGED", asNurse, states.PriorityChanged, priority(states.PriorityUrgent)),
		say("PROVIDER_RUNNING_LATE", asProvider, states.ProviderRunningLate),
		with(say("PROVIDER_JOINED, patient absent", asProvider, states.ProviderJoined), started,
			map[states.State]func(*story){states.VisitOnHold: bothGone}),
		with(say("PROVIDER_JOINED, patient present", asProvider, states.ProviderJoined), nil,
			map[states.State]func(*story){
				states.VisitCheckedIn: patientCame((*story).checkedIn), states.VisitWaiting: patientCame((*story).waiting),
				states.VisitConnecting: func(s *story) {
					s.connecting().does(asProvider, states.ProviderLeft).does(asPatient, states.PatientJoined)
				},
				states.VisitOnHold: providerGone,
			}),
		with(say("PATIENT_JOINED, provider absent", asPatient, states.PatientJoined), started,
			map[states.State]func(*story){states.VisitConnecting: func(s *story) { s.connecting().does(asProvider, states.ProviderLeft) }, states.VisitOnHold: bothGone}),
		with(say("PATIENT_JOINED, provider present", asPatient, states.PatientJoined),
			[]states.State{states.VisitCheckedIn, states.VisitWaiting}, map[states.State]func(*story){states.VisitOnHold: patientGone}),
		with(say("PATIENT_JOINED, during a hold", asPatient, states.PatientJoined), notHeld, map[states.State]func(*story){states.VisitOnHold: heldAlone}),
		say("PROVIDER_LEFT", asProvider, states.ProviderLeft),
		say("PATIENT_LEFT", asPatient, states.PatientLeft),
		say("CONSULTATION_HELD", asProvider, states.ConsultationHeld),
		with(say("CONSULTATION_RESUMED, both present", asProvider, states.ConsultationResumed), nil, map[states.State]func(*story){states.VisitOnHold: held}),
		with(say("CONSULTATION_RESUMED, patient absent", asProvider, states.ConsultationResumed), nil, map[states.State]func(*story){states.VisitOnHold: heldAlone}),
		say("CONSULTATION_ENDED", asProvider, states.ConsultationEnded),
		say("NOTES_COMPLETED", asProvider, states.NotesCompleted),
		say("APPOINTMENT_CANCELLED", asBackend, states.AppointmentCancelled),
		say("APPOINTMENT_RESCHEDULED", asBackend, states.AppointmentRescheduled, at(48*time.Hour)),
		say("EMERGENCY_REQUESTED", asPatient, states.EmergencyRequested),
		fire(states.TimerNoShow, nil),
		fire(states.TimerReadiness, nil),
		fire(states.TimerLongWait, nil),
		fire(states.TimerWaitLimit, nil),
		fire(states.TimerConnectSoft, nil),
		fire(states.TimerConnectHard, nil),
		fire(states.TimerProviderDrop, providerGone),
		fire(states.TimerPatientDrop, patientGone),
		fire(states.TimerBothAbsent, bothGone),
		fire(states.TimerWrapUpSoft, nil),
		fire(states.TimerWrapUpHard, nil),
	}
}

func escalationCases() []situation {
	say := func(label string, who states.Actor, kind states.Kind, more ...func(*states.Event)) situation {
		return situation{label: label, who: who, kind: kind, more: more}
	}
	ask := func(s *story) { s.rules.Paging.Ask = true }
	return []situation{
		{
			label: "EMERGENCY_ESCALATION, ask", who: asNurse, kind: states.EmergencyEscalation,
			in: map[states.State]func(*story){states.StateNone: ask, states.EscalationClosed: func(s *story) {
				usual(s, states.Escalations(), states.EscalationClosed)
				ask(s)
			}},
		},
		say("EMERGENCY_ESCALATION, list", asNurse, states.EmergencyEscalation),
		say("ON_CALL_ANSWERED", asSystem, states.OnCallAnswered, onCall("dr-x")),
		say("EMERGENCY_ACCEPTED", asChief, states.EmergencyAccepted),
		say("EMERGENCY_REJECTED, by somebody paged", asFirst, states.EmergencyRejected),
		say("EMERGENCY_ATTENDED", asChief, states.EmergencyAttended),
		say("EMERGENCY_RESOLVED", asChief, states.EmergencyResolved),
		say("EMERGENCY_CANCELLED", asNurse, states.EmergencyCancelled),
		say("EMERGENCY_SEVERITY_CHANGED", asNurse, states.EmergencySeverityChanged, severity(states.SeverityLifeThreatening)),
		{label: "roster", kind: states.TimerFired, timer: states.TimerRoster},
		{label: "re-page", kind: states.TimerFired, timer: states.TimerRePage},
	}
}

// usual brings a record into a state the usual way.
func usual(s *story, table states.Table, state states.State) {
	s.t.Helper()
	if table.Name == states.Escalations().Name {
		switch state {
		case states.StateNone:
		case states.EscalationTriggered:
			s.rules.Paging.Ask = true
			s.does(asNurse, states.EmergencyEscalation)
		case states.EscalationWaiting:
			s.does(asNurse, states.EmergencyEscalation)
		case states.EscalationAccepted:
			s.does(asNurse, states.EmergencyEscalation).does(asFirst, states.EmergencyAccepted)
		case states.EscalationAttended:
			s.does(asNurse, states.EmergencyEscalation).does(asFirst, states.EmergencyAttended)
		case states.EscalationClosed:
			s.does(asNurse, states.EmergencyEscalation).does(asNurse, states.EmergencyCancelled)
		}
		return
	}
	switch state {
	case states.StateNone:
	case states.VisitScheduled:
		s.booked()
	case states.VisitCheckedIn:
		s.checkedIn()
	case states.VisitWaiting:
		s.waiting()
	case states.VisitConnecting:
		s.connecting()
	case states.VisitInProgress:
		s.inProgress()
	case states.VisitOnHold:
		s.inProgress().does(asProvider, states.ConsultationHeld)
	case states.VisitWrappingUp:
		s.wrappingUp()
	case states.VisitCompleted:
		s.completed()
	case states.VisitCancelled:
		s.booked().does(asBackend, states.AppointmentCancelled)
	case states.VisitNoShow:
		s.booked().fires(states.TimerNoShow)
	case states.VisitLeft:
		s.waiting().does(asPatient, states.WaitingRoomLeft)
	case states.VisitRescheduled:
		s.waiting().does(asPatient, states.AppointmentRescheduled)
	}
}

// matrix plays every situation in every state and writes down what happens.
func matrix(t *testing.T, line func(string, ...any), table states.Table, cases []situation, reasons map[states.RefusalCode]string) {
	t.Helper()
	columns := append([]states.State{states.StateNone}, table.States...)
	head, rule := "| event or timer |", "|---|"
	for _, s := range columns {
		head += " " + stateName(s) + " |"
		rule += "---|"
	}
	line("%s", head)
	line("%s", rule)
	covered := map[string]bool{}
	for _, c := range cases {
		row := "| " + c.label + " |"
		for _, state := range columns {
			row += " " + verdict(t, table, c, state, reasons) + " |"
		}
		line("%s", row)
		if c.timer != "" {
			covered[string(c.timer)] = true
		} else {
			covered[string(c.kind)] = true
		}
	}
	line("")
	for _, r := range table.Rows {
		if !covered[r.Event()] {
			t.Errorf("the matrix has no line for %s", r.Event())
		}
	}
}

func verdict(t *testing.T, table states.Table, c situation, state states.State, reasons map[states.RefusalCode]string) string {
	t.Helper()
	if slices.Contains(c.not, state) {
		return "-"
	}
	s := aVisit(t)
	if table.Name == states.Escalations().Name {
		s = anEscalation(t)
	}
	if prepare := c.in[state]; prepare != nil {
		prepare(s)
	} else {
		usual(s, table, state)
	}
	if got := now(s); got != state {
		t.Fatalf("%s: the record is %q instead of %q", c.label, got, state)
	}
	more := c.more
	if c.timer != "" {
		generation := 1
		if a, armed := armed(s, c.timer); armed {
			generation = a.Generation
		}
		more = []func(*states.Event){timer(s.record.ID, c.timer, generation)}
	}
	s.does(c.who, c.kind, more...)
	switch d := s.last; {
	case d.Refusal != nil:
		reasons[d.Refusal.Code] = d.Refusal.Detail
		return string(d.Refusal.Code)
	case d.To == state:
		return "="
	default:
		return string(d.To)
	}
}

func now(s *story) states.State {
	switch {
	case s.record.Visit != nil:
		return s.record.Visit.State
	case s.record.Escalation != nil:
		return s.record.Escalation.State
	}
	return states.StateNone
}

func armed(s *story, kind states.TimerKind) (states.ArmedTimer, bool) {
	switch {
	case s.record.Visit != nil:
		return s.record.Visit.Timers.Armed(kind)
	case s.record.Escalation != nil:
		return s.record.Escalation.Timers.Armed(kind)
	}
	return states.ArmedTimer{}, false
}

// otherRefusals collects the refusals that depend on more than state and event, and fails when a code never occurs.
func otherRefusals(t *testing.T, reasons map[states.RefusalCode]string) {
	t.Helper()
	busy := aVisit(t)
	busy.facts.PairHolder = "appt-0"
	for _, s := range []*story{
		aVisit(t).does(asPatient, states.PatientCheckedIn),
		aVisit(t).does(asBackend, states.AppointmentScheduled, inDepartment),
		aVisit(t).does(asPatient, states.PatientCheckedIn, inDepartment, priority("asap")),
		aVisit(t).does(asBackend, states.AppointmentScheduled, inDepartment, startsAt(noon.Add(time.Hour))).does(asPatient, states.PatientCheckedIn),
		aVisit(t).does(asPatient, states.PatientCheckedIn, inDepartment, func(ev *states.Event) { ev.Said = ev.At.Add(-time.Hour) }),
		aVisit(t).checkedIn().does(asNurse, states.WaitingRoomLeft, func(ev *states.Event) { ev.Patient = "pat-2" }),
		aVisit(t).checkedIn().does(asStranger, states.WaitingRoomLeft),
		aVisit(t).checkedIn().does(asProvider, states.ProviderJoined, claiming("dr-no")),
		busy.checkedIn(),
		raised(t).does(asProvider, states.EmergencyAccepted),
		raised(t).does(asNurse, states.EmergencySeverityChanged),
	} {
		if s.last.Refusal == nil {
			t.Fatalf("not refused: %s", summary(s.last, s.now))
		}
		reasons[s.last.Refusal.Code] = s.last.Refusal.Detail
	}
	for _, code := range []states.RefusalCode{
		states.UnknownVisit, states.UnknownEscalation, states.ClockSkew, states.RoleNotAllowed,
		states.WrongActor, states.WrongVisit, states.WrongState, states.VisitClosed, states.AlreadyBooked, states.AlreadyCheckedIn,
		states.TooEarly, states.PairBusy, states.MissingDepartment, states.MissingField, states.BadPriority, states.BadSeverity,
		states.AlreadyRaised, states.AlreadyAccepted, states.NotPaged, states.ClosedEscalation, states.StaleTimer,
	} {
		if reasons[code] == "" {
			t.Errorf("nothing is ever refused with %s", code)
		}
	}
}
