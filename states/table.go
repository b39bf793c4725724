package states

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"sync"

	"github.com/looplab/fsm"
)

// Stay as the To of a row means that the state remains what it was.
const Stay State = "="

// rolePaged is what a person is to an escalation that has paged them, besides the role the directory gives them.
const rolePaged Role = "paged"

// Guard is a condition that chooses between the rows of one event. Decide finds out which one holds; the table says what
// follows from it. The empty guard always holds.
type Guard string

// The guards.
const (
	GuardDeviceReady    Guard = "device ready"
	GuardDeviceNotReady Guard = "device not ready"
	GuardPhoneInstead   Guard = "phone instead"
	GuardTogether       Guard = "together"
	GuardApart          Guard = "apart"
	GuardPatientGone    Guard = "patient gone"
	GuardBothGone       Guard = "both gone"
	GuardAsk            Guard = "ask"
	GuardList           Guard = "list"
)

// Meaning is the guard in words, "" for a guard that does not exist.
func (g Guard) Meaning() string {
	switch g {
	case "":
		return "always"
	case GuardDeviceReady:
		return "the message says that the device check passed"
	case GuardDeviceNotReady:
		return "the device check failed or is not mentioned"
	case GuardPhoneInstead:
		return "the device check failed for the second time"
	case GuardTogether:
		return "afterwards patient and provider are both present and the provider does not hold the visit"
	case GuardApart:
		return "afterwards somebody is missing or the provider holds the visit"
	case GuardPatientGone:
		return "the patient is absent and the provider does not hold the visit"
	case GuardBothGone:
		return "patient and provider are both absent"
	case GuardAsk:
		return "an on-call source is configured"
	case GuardList:
		return "the rules list who is on call"
	}
	return ""
}

// Row is one legal move. Exactly one of On and Timer is set.
type Row struct {
	On     Kind
	Timer  TimerKind
	When   Guard
	From   []State
	To     State  // or Stay
	By     []Role // who may cause it; the same for all rows of an event
	Reason string // one sentence for the reader of docs/states.md
}

// Event is the row's event: a kind, or the kind of a timer. Kinds are upper case and timers lower case, so they never meet.
func (r Row) Event() string {
	if r.Timer != "" {
		return string(r.Timer)
	}
	return string(r.On)
}

// name is how looplab/fsm knows the row.
func (r Row) name() string {
	if r.When == "" {
		return r.Event()
	}
	return r.Event() + "[" + string(r.When) + "]"
}

// target is the state the row leads to from one of its From states.
func (r Row) target(from State) State {
	if r.To == Stay {
		return from
	}
	return r.To
}

// Table is a transition table: the whole of what may happen, as data.
type Table struct {
	Name   string
	States []State // without StateNone
	Rows   []Row
}

// Visits is the transition table of visits.
func Visits() Table {
	var (
		waiting  = []State{VisitCheckedIn, VisitWaiting}
		upcoming = []State{VisitScheduled, VisitCheckedIn, VisitWaiting}
		every    = []State{VisitScheduled, VisitCheckedIn, VisitWaiting, VisitConnecting, VisitInProgress, VisitOnHold, VisitWrappingUp,
			VisitCompleted, VisitCancelled, VisitNoShow, VisitLeft, VisitRescheduled}
		backend  = []Role{RoleBackend, RoleOperator}
		desk     = []Role{RolePatient, RoleBackend, RoleOperator, RoleNurse, RoleFrontDesk}
		planners = []Role{RolePatient, RoleProvider, RoleBackend, RoleOperator, RoleNurse, RoleFrontDesk}
		staff    = []Role{RoleProvider, RoleBackend, RoleOperator, RoleNurse, RoleFrontDesk}
		ranker   = []Role{RoleProvider, RoleBackend, RoleOperator, RoleNurse}
		provider = []Role{RoleProvider}
		patient  = []Role{RolePatient}
		author   = []Role{RoleProvider, RoleBackend, RoleOperator}
		system   = []Role{RoleSystem}
	)
	return Table{
		Name:   "visit",
		States: every,
		Rows: []Row{
			{On: AppointmentScheduled, From: []State{StateNone}, To: VisitScheduled, By: backend,
				Reason: "The clinic's backend books the appointment."},
			{On: PatientCheckedIn, When: GuardDeviceNotReady, From: []State{StateNone, VisitScheduled}, To: VisitCheckedIn, By: desk,
				Reason: "The patient arrives, booked or as a walk-in, and still has to check the device."},
			{On: PatientCheckedIn, When: GuardDeviceReady, From: []State{StateNone, VisitScheduled}, To: VisitWaiting, By: desk,
				Reason: "The patient arrives with a device that has passed its check."},
			{On: PatientReadyConfirmed, When: GuardDeviceReady, From: []State{VisitCheckedIn}, To: VisitWaiting, By: desk,
				Reason: "The device check passed, so the provider may admit the patient."},
			{On: PatientReadyConfirmed, When: GuardDeviceNotReady, From: []State{VisitCheckedIn}, To: Stay, By: desk,
				Reason: "The device check failed once; the patient may try again."},
			{On: PatientReadyConfirmed, When: GuardPhoneInstead, From: []State{VisitCheckedIn}, To: VisitWaiting, By: desk,
				Reason: "The device check failed twice; the visit goes on by phone rather than keep the patient out."},
			{On: WaitingRoomLeft, From: waiting, To: VisitLeft, By: desk,
				Reason: "The patient gives up waiting."},
			{On: PriorityChanged, From: waiting, To: Stay, By: ranker,
				Reason: "Triage ranks the patient anew; arrival still decides within one priority."},
			{On: ProviderRunningLate, From: upcoming, To: Stay, By: staff,
				Reason: "The patient is told of the delay and keeps the place."},
			{On: ProviderJoined, When: GuardApart, From: []State{VisitCheckedIn, VisitWaiting, VisitConnecting}, To: VisitConnecting, By: provider,
				Reason: "The provider admits the patient and waits for the connection."},
			{On: ProviderJoined, When: GuardTogether, From: []State{VisitCheckedIn, VisitWaiting, VisitConnecting}, To: VisitInProgress, By: provider,
				Reason: "The provider joins a patient who is already there."},
			{On: ProviderJoined, When: GuardTogether, From: []State{VisitOnHold}, To: VisitInProgress, By: provider,
				Reason: "The provider is back."},
			{On: ProviderJoined, When: GuardApart, From: []State{VisitOnHold}, To: Stay, By: provider,
				Reason: "The provider is back, but the patient is not, or the hold still stands."},
			{On: ProviderJoined, When: GuardTogether, From: []State{VisitInProgress}, To: Stay, By: provider,
				Reason: "A second device, or a repeated announcement."},
			{On: PatientJoined, When: GuardApart, From: []State{VisitCheckedIn, VisitWaiting, VisitConnecting, VisitOnHold}, To: Stay, By: patient,
				Reason: "The patient is there before the provider, or comes back during a hold."},
			{On: PatientJoined, When: GuardTogether, From: []State{VisitConnecting, VisitOnHold}, To: VisitInProgress, By: patient,
				Reason: "Both are there."},
			{On: PatientJoined, When: GuardTogether, From: []State{VisitInProgress}, To: Stay, By: patient,
				Reason: "A second device, or a repeated announcement."},
			{On: ProviderLeft, From: []State{VisitConnecting, VisitOnHold, VisitWrappingUp}, To: Stay, By: provider,
				Reason: "The provider's absence is noted; timers decide what becomes of it."},
			{On: ProviderLeft, From: []State{VisitInProgress}, To: VisitOnHold, By: provider,
				Reason: "The connection to the provider broke; the visit waits for the provider."},
			{On: PatientLeft, From: []State{VisitCheckedIn, VisitWaiting, VisitConnecting, VisitOnHold, VisitWrappingUp}, To: Stay, By: patient,
				Reason: "The patient's absence is noted; timers decide what becomes of it."},
			{On: PatientLeft, From: []State{VisitInProgress}, To: VisitOnHold, By: patient,
				Reason: "The connection to the patient broke; the visit waits for the patient."},
			{On: ConsultationHeld, From: []State{VisitInProgress}, To: VisitOnHold, By: provider,
				Reason: "The provider puts the visit on hold."},
			{On: ConsultationResumed, When: GuardTogether, From: []State{VisitOnHold}, To: VisitInProgress, By: provider,
				Reason: "The provider takes the visit off hold."},
			{On: ConsultationResumed, When: GuardApart, From: []State{VisitOnHold}, To: Stay, By: provider,
				Reason: "The hold is lifted, but somebody is missing; the timers for that start."},
			{On: ConsultationEnded, From: []State{VisitConnecting, VisitInProgress, VisitOnHold}, To: VisitWrappingUp, By: provider,
				Reason: "The provider ends the consultation; the notes remain to be written."},
			{On: NotesCompleted, From: []State{VisitWrappingUp}, To: VisitCompleted, By: author,
				Reason: "The notes are written."},
			{On: AppointmentCancelled, From: upcoming, To: VisitCancelled, By: planners,
				Reason: "The visit is called off before the provider has joined."},
			{On: AppointmentRescheduled, From: []State{VisitScheduled}, To: Stay, By: planners,
				Reason: "The same visit moves to another time."},
			{On: AppointmentRescheduled, From: waiting, To: VisitRescheduled, By: planners,
				Reason: "A patient who is already here goes; the new time is a new appointment."},
			{On: EmergencyRequested, From: every, To: Stay, By: everybody(),
				Reason: "An emergency is raised in every state, whoever asks and whatever the sender's clock says."},

			{Timer: TimerNoShow, From: []State{VisitScheduled}, To: VisitNoShow, By: system,
				Reason: "The patient did not check in."},
			{Timer: TimerReadiness, From: []State{VisitCheckedIn}, To: Stay, By: system,
				Reason: "The patient is reminded of the device check."},
			{Timer: TimerLongWait, From: waiting, To: Stay, By: system,
				Reason: "First the patient is told of the delay, from the second level on the provider is reminded."},
			{Timer: TimerWaitLimit, From: waiting, To: VisitLeft, By: system,
				Reason: "Nobody waits that long; the visit counts as left without being seen."},
			{Timer: TimerConnectSoft, From: []State{VisitConnecting}, To: Stay, By: system,
				Reason: "The patient is called again."},
			{Timer: TimerConnectHard, From: []State{VisitConnecting}, To: VisitWaiting, By: system,
				Reason: "No connection came about; the patient gets the old place back and the provider is free."},
			{Timer: TimerProviderDrop, From: []State{VisitOnHold}, To: Stay, By: system,
				Reason: "The provider is called back to a waiting patient, again and again."},
			{Timer: TimerPatientDrop, When: GuardPatientGone, From: []State{VisitOnHold}, To: VisitWrappingUp, By: system,
				Reason: "The patient did not come back."},
			{Timer: TimerBothAbsent, When: GuardBothGone, From: []State{VisitOnHold}, To: VisitWrappingUp, By: system,
				Reason: "Nobody came back."},
			{Timer: TimerWrapUpSoft, From: []State{VisitWrappingUp}, To: Stay, By: system,
				Reason: "The provider is reminded of the notes."},
			{Timer: TimerWrapUpHard, From: []State{VisitWrappingUp}, To: VisitCompleted, By: system,
				Reason: "The visit is completed with its notes pending."},
		},
	}
}

// Escalations is the transition table of escalations.
func Escalations() Table {
	var (
		open     = []State{EscalationTriggered, EscalationWaiting, EscalationAccepted, EscalationAttended}
		paged    = []Role{rolePaged, RoleBackend, RoleOperator}
		answerer = []Role{rolePaged, RoleOnCall, RoleBackend, RoleOperator}
		closer   = []Role{rolePaged, RoleOnCall, RoleProvider, RoleNurse, RoleBackend, RoleOperator}
		system   = []Role{RoleSystem}
	)
	return Table{
		Name:   "escalation",
		States: []State{EscalationTriggered, EscalationWaiting, EscalationAccepted, EscalationAttended, EscalationClosed},
		Rows: []Row{
			{On: EmergencyEscalation, When: GuardAsk, From: []State{StateNone}, To: EscalationTriggered, By: everybody(),
				Reason: "The emergency is on record; the on-call source is asked whom to page. A closed escalation of the same id counts as none."},
			{On: EmergencyEscalation, When: GuardList, From: []State{StateNone}, To: EscalationWaiting, By: everybody(),
				Reason: "The people on the list are paged at once, or the failsafe when the list is empty. A closed escalation of the same id counts as none."},
			{On: OnCallAnswered, From: []State{EscalationTriggered}, To: EscalationWaiting, By: system,
				Reason: "The people on call are paged, or the failsafe when there is nobody."},
			{On: OnCallAnswered, From: []State{EscalationWaiting}, To: Stay, By: system,
				Reason: "A late answer still counts: whoever was not paged yet is paged now."},
			{On: EmergencyAccepted, From: []State{EscalationTriggered, EscalationWaiting}, To: EscalationAccepted, By: answerer,
				Reason: "Somebody takes the emergency; everybody else who was paged is told."},
			{On: EmergencyRejected, From: []State{EscalationWaiting}, To: Stay, By: paged,
				Reason: "Somebody cannot come; when nobody is left, the next round goes out at once."},
			{On: EmergencyAttended, From: []State{EscalationWaiting, EscalationAccepted}, To: EscalationAttended, By: answerer,
				Reason: "Somebody is with the patient."},
			{On: EmergencyResolved, From: open, To: EscalationClosed, By: closer,
				Reason: "The emergency is over."},
			{On: EmergencyCancelled, From: open, To: EscalationClosed, By: closer,
				Reason: "It was a false alarm."},
			{On: EmergencySeverityChanged, From: open, To: Stay, By: closer,
				Reason: "A raised severity pages again at once; a lowered one never lengthens a running timer."},

			{Timer: TimerRoster, From: []State{EscalationTriggered}, To: EscalationWaiting, By: system,
				Reason: "The on-call source did not answer in time; the failsafe and the list are paged."},
			{Timer: TimerRePage, From: []State{EscalationWaiting}, To: Stay, By: system,
				Reason: "Nobody accepted; the next round goes out, and there is always a next one."},
		},
	}
}

// everybody is every role, those included that nobody recognised.
func everybody() []Role {
	return []Role{RolePatient, RoleProvider, RoleNurse, RoleFrontDesk, RoleOnCall, RoleBackend, RoleOperator, RoleSystem, RoleUnknown}
}

// Verify checks both tables. The daemon calls it when it starts, because looplab/fsm itself lets a later row silently
// replace an earlier one.
func Verify() error {
	return errors.Join(Visits().Verify(), Escalations().Verify())
}

// Verify says everything that is wrong with a table: rows that contradict, hide or repeat each other, states that are
// unknown, unreachable or cannot be left, final states that are left, and rows that looplab/fsm evaluates otherwise.
func (t Table) Verify() error {
	var problems []error
	bad := func(format string, args ...any) {
		problems = append(problems, fmt.Errorf("verify %s table: "+format, append([]any{t.Name}, args...)...))
	}
	known := func(s State) bool { return slices.Contains(t.States, s) }
	seen := map[edge]map[Guard]bool{}
	by := map[string][]Role{}
	next := map[State][]State{}
	for i, r := range t.Rows {
		if (r.On == "") == (r.Timer == "") {
			bad("row %d needs either an event or a timer", i)
			continue
		}
		if r.Reason == "" {
			bad("%s has no reason", r.name())
		}
		if r.When.Meaning() == "" {
			bad("%s has an unknown guard", r.name())
		}
		if len(r.From) == 0 {
			bad("%s leads from no state", r.name())
		}
		if r.To != Stay && !known(r.To) {
			bad("%s leads to the unknown state %q", r.name(), r.To)
		}
		if before, ok := by[r.Event()]; ok && !slices.Equal(before, r.By) {
			bad("%s may be caused by different roles in different rows", r.Event())
		}
		by[r.Event()] = r.By
		if len(r.By) == 0 {
			bad("%s may be caused by nobody", r.name())
		}
		for _, role := range r.By {
			if role.bit() == 0 {
				bad("%s may be caused by the unknown role %q", r.name(), role)
			}
		}
		for _, from := range r.From {
			if from != StateNone && !known(from) {
				bad("%s leads from the unknown state %q", r.name(), from)
			}
			if from == StateNone && r.To == Stay {
				bad("%s stays in no state", r.name())
			}
			if to := r.target(from); from.Final() && to != from {
				bad("%s leaves the final state %q", r.name(), from)
			}
			e := edge{r.Event(), from}
			switch guards := seen[e]; {
			case guards == nil:
				seen[e] = map[Guard]bool{r.When: true}
			case guards[r.When]:
				bad("%s from %q is there twice", r.name(), from)
			case guards[""] || r.When == "":
				bad("%s from %q has a row without a guard beside others", r.Event(), from)
			default:
				guards[r.When] = true
			}
			next[from] = append(next[from], r.target(from))
		}
	}
	reached := map[State]bool{StateNone: true}
	for queue := []State{StateNone}; len(queue) > 0; queue = queue[1:] {
		for _, to := range next[queue[0]] {
			if !reached[to] {
				reached[to] = true
				queue = append(queue, to)
			}
		}
	}
	for _, s := range t.States {
		if !reached[s] {
			bad("the state %q is never reached", s)
		}
		if !s.Final() && !slices.ContainsFunc(next[s], func(to State) bool { return to != s }) {
			bad("the state %q cannot be left", s)
		}
	}
	if len(problems) == 0 {
		m := t.machine()
		for _, r := range t.Rows {
			for _, from := range r.From {
				if to, ok := m.next(r.Event(), r.When, from); !ok || to != r.target(from) {
					bad("looplab/fsm leads %s from %q to %q instead of %q", r.name(), from, to, r.target(from))
				}
			}
		}
	}
	return errors.Join(problems...)
}

// edge is an event in a state.
type edge struct {
	event string
	from  State
}

// move is where an edge leads under one guard.
type move struct {
	when Guard
	to   State
}

// machine is a table as looplab/fsm evaluates it: every row was played on one machine once, and the answers are kept,
// because a machine of the library costs more to make than a whole decision and cannot be shared. It is never changed after.
type machine struct {
	moves map[edge][]move
	by    map[string]roleSet
}

func (t Table) machine() *machine {
	events := make([]fsm.EventDesc, 0, 2*len(t.Rows))
	for _, r := range t.Rows {
		for _, from := range r.From {
			events = append(events, fsm.EventDesc{Name: r.name(), Src: []string{string(from)}, Dst: string(r.target(from))})
		}
	}
	f := fsm.NewFSM(string(StateNone), events, nil)
	m := &machine{moves: make(map[edge][]move, len(events)), by: make(map[string]roleSet, len(t.Rows))}
	for _, r := range t.Rows {
		for _, role := range r.By {
			m.by[r.Event()] |= role.bit()
		}
		for _, from := range r.From {
			f.SetState(string(from))
			err := f.Event(context.Background(), r.name())
			if err != nil && !errors.As(err, new(fsm.NoTransitionError)) {
				continue // Verify reports the row that is missing then
			}
			e := edge{r.Event(), from}
			m.moves[e] = append(m.moves[e], move{r.When, State(f.Current())})
		}
	}
	return m
}

// allows says whether the table has any row for the event in the state.
func (m *machine) allows(event string, from State) bool { return len(m.moves[edge{event, from}]) > 0 }

// next is the state that the event leads to under the guard.
func (m *machine) next(event string, when Guard, from State) (State, bool) {
	for _, mv := range m.moves[edge{event, from}] {
		if mv.when == when {
			return mv.to, true
		}
	}
	return "", false
}

// The machines are made once, when first needed, and only read from then on.
var (
	visitMachine      = sync.OnceValue(func() *machine { return Visits().machine() })
	escalationMachine = sync.OnceValue(func() *machine { return Escalations().machine() })
)

// roleSet is a set of roles.
type roleSet uint16

func (s roleSet) has(r Role) bool { return s&r.bit() != 0 }

// bit is the role's place in a set, 0 for a word that is no role.
func (r Role) bit() roleSet {
	switch r {
	case RolePatient:
		return 1 << 0
	case RoleProvider:
		return 1 << 1
	case RoleNurse:
		return 1 << 2
	case RoleFrontDesk:
		return 1 << 3
	case RoleOnCall:
		return 1 << 4
	case RoleBackend:
		return 1 << 5
	case RoleOperator:
		return 1 << 6
	case RoleSystem:
		return 1 << 7
	case RoleUnknown:
		return 1 << 8
	case rolePaged:
		return 1 << 9
	}
	return 0
}
