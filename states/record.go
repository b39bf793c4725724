package states

import (
	"strings"
	"time"
)

// RecordKind says what a record is about.
type RecordKind string

// The kinds of records. A desk has no state of its own: it carries the audit chain of what was said to a provider's
// waiting room or a department's emergency channel about no known visit or escalation.
const (
	KindVisit      RecordKind = "visit"
	KindEscalation RecordKind = "escalation"
	KindDesk       RecordKind = "desk"
)

// RecordID names one record: a visit by its appointment, an escalation as EscalationRecord says, a desk by provider or
// department.
type RecordID struct {
	Kind RecordKind
	ID   string
}

// EscalationRecord names the record of an escalation. The id is the sender's own choice, so it means something only within
// its department: the same id in another department is another emergency.
func EscalationRecord(department, id string) RecordID {
	return RecordID{Kind: KindEscalation, ID: department + "." + id}
}

// plain is the id as the outside world knows it.
func (r RecordID) plain() string {
	if _, id, scoped := strings.Cut(r.ID, "."); scoped && r.Kind == KindEscalation {
		return id
	}
	return r.ID
}

// String is kind:id, as used in keys and audit chains.
func (r RecordID) String() string { return string(r.Kind) + ":" + r.ID }

// Record is the unit that is decided on and committed as a whole. Its zero Version means that it does not exist yet.
type Record struct {
	ID      RecordID
	Version int64 // commits so far
	Chain   Chain // head of the record's audit chain

	Visit      *Visit      // nil unless Kind is visit and the visit exists
	Escalation *Escalation // nil unless Kind is escalation and the escalation exists
}

// Chain is the head of an audit chain: its name, the number of entries and the hash of the last one. The name is the
// record's with the id of the event that began it, because a record that was forgotten may begin anew under its id.
type Chain struct {
	Name string `json:"name,omitempty"` // "" before the first entry
	Seq  int64  `json:"seq"`
	Hash string `json:"hash"` // lower-case hex SHA-256, "" before the first entry
}

// State is the main state of a visit, or the state of an escalation.
type State string

// StateNone is the state of what does not exist yet.
const StateNone State = ""

// The states of a visit; from VisitCompleted on they are final.
const (
	VisitScheduled   State = "scheduled"
	VisitCheckedIn   State = "checked-in"
	VisitWaiting     State = "waiting"
	VisitConnecting  State = "connecting"
	VisitInProgress  State = "in-progress"
	VisitOnHold      State = "on-hold"
	VisitWrappingUp  State = "wrapping-up"
	VisitCompleted   State = "completed"
	VisitCancelled   State = "cancelled"
	VisitNoShow      State = "no-show"
	VisitLeft        State = "left-without-being-seen"
	VisitRescheduled State = "rescheduled" // this visit is over; the new appointment is another visit
)

// The states of an escalation; EscalationClosed is final.
const (
	EscalationTriggered State = "triggered" // stored, the on-call source is being asked
	EscalationWaiting   State = "waiting"   // people are being paged until somebody accepts
	EscalationAccepted  State = "accepted"
	EscalationAttended  State = "attended"
	EscalationClosed    State = "closed"
)

// Final says whether a visit or an escalation in this state is over. Nothing leads out of a final state.
func (s State) Final() bool {
	switch s {
	case VisitCompleted, VisitCancelled, VisitNoShow, VisitLeft, VisitRescheduled, EscalationClosed:
		return true
	}
	return false
}

// Queued says whether a visit in this state has a place in the waiting room and in the department's queue.
func (s State) Queued() bool { return s == VisitCheckedIn || s == VisitWaiting }

// Engaged says whether a visit in this state counts into its provider's load.
func (s State) Engaged() bool {
	return s == VisitConnecting || s == VisitInProgress || s == VisitOnHold
}

// Active says whether a visit in this state is what the channel consultation.{provider}.{patient} means.
func (s State) Active() bool { return s.Queued() || s.Engaged() || s == VisitWrappingUp }

// QueueStatus is the word of queue.{departmentId} messages for a visit's state, "" when the visit is in no queue.
func (s State) QueueStatus() string {
	switch s {
	case VisitCheckedIn, VisitWaiting:
		return string(s)
	case VisitConnecting, VisitInProgress, VisitOnHold, VisitWrappingUp:
		return "in-consultation"
	}
	return ""
}

// Priority orders a queue; see Rank.
type Priority string

// The priorities of the seeds, most urgent first.
const (
	PriorityEmergency Priority = "emergency"
	PriorityUrgent    Priority = "urgent"
	PriorityNormal    Priority = "normal"
	PriorityFollowUp  Priority = "follow-up"
)

// Rank is the priority's place in the order, 0 for the most urgent; false for a word that is no priority.
func (p Priority) Rank() (int, bool) {
	switch p {
	case PriorityEmergency:
		return 0, true
	case PriorityUrgent:
		return 1, true
	case PriorityNormal:
		return 2, true
	case PriorityFollowUp:
		return 3, true
	}
	return 0, false
}

// QueueScore orders a queue, lower first: by priority, within one priority by arrival to the millisecond. A word that is
// no priority counts as normal. The largest score is below 2^53, so a double holds every score exactly.
func QueueScore(p Priority, arrived time.Time) float64 {
	rank, known := p.Rank()
	if !known {
		rank, _ = PriorityNormal.Rank()
	}
	return float64(int64(rank)*10_000_000_000_000 + arrived.UnixMilli())
}

// Severity of an escalation.
type Severity string

// The severities of the seeds, least severe first.
const (
	SeverityUrgent          Severity = "urgent"
	SeverityCritical        Severity = "critical"
	SeverityLifeThreatening Severity = "life-threatening"
)

// Rank is the severity's place in the order, 0 for the least severe; false for a word that is no severity.
func (s Severity) Rank() (int, bool) {
	switch s {
	case SeverityUrgent:
		return 0, true
	case SeverityCritical:
		return 1, true
	case SeverityLifeThreatening:
		return 2, true
	}
	return 0, false
}

// Modality of a visit.
type Modality string

// The modalities.
const (
	ModalityVideo Modality = "video"
	ModalityPhone Modality = "phone"
	ModalityChat  Modality = "chat"
)

// Visit is one consultation of one patient with one provider, from booking to its end, keyed by its appointment.
// Every field is an opaque identifier, a code or an instant; there is no free text.
type Visit struct {
	Appointment  string `json:"appointmentId"`
	Consultation string `json:"consultationId"`
	Provider     string `json:"providerId"`
	Patient      string `json:"patientId"`
	Department   string `json:"departmentId"`

	State       State    `json:"state"`
	Priority    Priority `json:"priority"`
	Modality    Modality `json:"modality"`
	Interpreter bool     `json:"interpreterNeeded,omitempty"`
	DeviceReady bool     `json:"deviceReady,omitempty"`
	DeviceFails int      `json:"deviceFails,omitempty"`

	ProviderPresent bool `json:"providerPresent,omitempty"`
	PatientPresent  bool `json:"patientPresent,omitempty"`
	Held            bool `json:"held,omitempty"` // the provider put the visit on hold, as against somebody having dropped

	NotesPending     bool   `json:"notesPending,omitempty"` // completed by the wrap-up timer
	FollowUpRequired bool   `json:"followUpRequired,omitempty"`
	ReasonCode       string `json:"reasonCode,omitempty"`
	Escalation       string `json:"escalationId,omitempty"` // the last emergency raised inside the visit

	StartsAt    time.Time `json:"startsAt,omitzero"`
	CheckedInAt time.Time `json:"checkedInAt,omitzero"`
	ArrivedAt   time.Time `json:"arrivedAt,omitzero"` // decides the place in the queue within one priority
	StateSince  time.Time `json:"stateSince"`
	StartedAt   time.Time `json:"startedAt,omitzero"` // both present for the first time
	EndedAt     time.Time `json:"endedAt,omitzero"`
	LongWaits   int       `json:"longWaits,omitempty"`
	AbsentSince time.Time `json:"absentSince,omitzero"`

	Timers Timers `json:"timers,omitempty"`
}

// Escalation is one emergency in one department, from its trigger to its end.
type Escalation struct {
	ID           string   `json:"escalationId"`
	Department   string   `json:"departmentId"`
	Consultation string   `json:"consultationId,omitempty"`
	Appointment  string   `json:"appointmentId,omitempty"`
	RaisedBy     Actor    `json:"raisedBy"`
	Severity     Severity `json:"severity"`
	ReasonCode   string   `json:"reasonCode,omitempty"`
	Reason       PHI      `json:"-"` // free text; the store seals it beside the rest of the record

	State      State    `json:"state"`
	Round      int      `json:"round"`            // pages sent so far, 1 after the first
	Paged      []string `json:"paged,omitempty"`  // everybody paged, in order
	OnCall     []string `json:"onCall,omitempty"` // the people whose turn it is
	Rejected   []string `json:"rejected,omitempty"`
	AcceptedBy string   `json:"acceptedBy,omitempty"`
	Outcome    string   `json:"outcomeCode,omitempty"`

	TriggeredAt time.Time `json:"triggeredAt"`
	StateSince  time.Time `json:"stateSince"`
	AcceptedAt  time.Time `json:"acceptedAt,omitzero"`
	ClosedAt    time.Time `json:"closedAt,omitzero"`

	Timers Timers `json:"timers,omitempty"`
}

// Timers holds, per timer kind, the generation last armed and when it is due; a zero Due means not armed. A due timer
// of another generation is stale and changes nothing.
type Timers map[TimerKind]ArmedTimer

// ArmedTimer is one kind's row.
type ArmedTimer struct {
	Generation int       `json:"g"`
	Due        time.Time `json:"due,omitzero"`
}

// Answered says that nobody needs to be paged any more: somebody has taken the escalation, or it is over.
func (e *Escalation) Answered() bool {
	return e.State == EscalationAccepted || e.State == EscalationAttended || e.State == EscalationClosed
}

// roleOf is what a person is to the visit by being its patient or provider: the message of a patient's app names the
// appointment only, and the broker knows the person but not the appointment.
func (v *Visit) roleOf(person string) Role {
	switch {
	case v == nil || person == "":
		return RoleUnknown
	case person == v.Patient:
		return RolePatient
	case person == v.Provider:
		return RoleProvider
	}
	return RoleUnknown
}

// Closed says since when the record's visit or escalation is over.
func (r Record) Closed() (since time.Time, final bool) {
	switch {
	case r.Visit != nil && r.Visit.State.Final():
		return r.Visit.StateSince, true
	case r.Escalation != nil && r.Escalation.State.Final():
		return r.Escalation.StateSince, true
	}
	return time.Time{}, false
}
