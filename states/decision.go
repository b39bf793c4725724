package states

import "time"

// Decision is the whole answer to one event: what the record becomes and what must follow. It is committed as one unit.
type Decision struct {
	Record  Record   // the next record: version and audit chain already advanced
	From    State    // main state before, "" when the record did not exist
	To      State    // main state after
	Refusal *Refusal // nil when the event was accepted

	Effects []Effect
	Timers  []TimerChange
	Places  []PlaceChange
	Load    []LoadChange
	Pair    *PairChange
	Audit   []AuditEntry
	Expire  bool // the record is final: it may be forgotten after Rules.KeepClosed
}

// Refusal says why an event changed nothing.
type Refusal struct {
	Code   RefusalCode
	Detail string // one sentence for a person, without patient data, that says what to do
}

// RefusalCode is the machine-readable reason of a refusal.
type RefusalCode string

// The codes of refusals.
const (
	UnknownVisit      RefusalCode = "UNKNOWN_VISIT"
	UnknownEscalation RefusalCode = "UNKNOWN_ESCALATION"
	ClockSkew         RefusalCode = "CLOCK_SKEW"
	RoleNotAllowed    RefusalCode = "ROLE_NOT_ALLOWED"
	WrongActor        RefusalCode = "WRONG_ACTOR" // the sender is not the visit's patient or provider, or claims to be somebody else
	WrongVisit        RefusalCode = "WRONG_VISIT" // the message's patient or provider is not the visit's
	WrongState        RefusalCode = "WRONG_STATE"
	VisitClosed       RefusalCode = "VISIT_CLOSED"
	AlreadyBooked     RefusalCode = "ALREADY_BOOKED"
	AlreadyCheckedIn  RefusalCode = "ALREADY_CHECKED_IN"
	TooEarly          RefusalCode = "TOO_EARLY"
	PairBusy          RefusalCode = "PAIR_BUSY"
	MissingDepartment RefusalCode = "MISSING_DEPARTMENT"
	MissingField      RefusalCode = "MISSING_FIELD"
	BadPriority       RefusalCode = "BAD_PRIORITY"
	BadSeverity       RefusalCode = "BAD_SEVERITY"
	AlreadyRaised     RefusalCode = "ALREADY_RAISED"
	AlreadyAccepted   RefusalCode = "ALREADY_ACCEPTED"
	NotPaged          RefusalCode = "NOT_PAGED"
	ClosedEscalation  RefusalCode = "ESCALATION_CLOSED"
	StaleTimer        RefusalCode = "STALE_TIMER" // not audited: the record is returned as it was, version and chain included
)

// TimerChange arms a timer, or removes the row of a timer that has become moot (Due zero).
type TimerChange struct {
	ID  TimerID
	Due time.Time
}

// PlaceChange puts a visit into a provider's waiting room and a department's queue, moves it, or takes it out.
type PlaceChange struct {
	Provider    string
	Department  string
	Appointment string
	Score       float64 // lower is served first; see QueueScore
	Remove      bool
}

// LoadChange adds to the number of visits a provider is in.
type LoadChange struct {
	Provider string
	Delta    int
}

// PairChange sets or clears the visit that the channel consultation.{Provider}.{Patient} means.
type PairChange struct {
	Provider    string
	Patient     string
	Appointment string
	Clear       bool
}

// Effect is something that must happen outside, as a value. ID is deterministic, so that a repeat is recognised.
type Effect struct {
	ID   string // event id + "." + index
	Kind EffectKind
	// To is the user of a notification or page, the department of a queue or emergency message.
	To         string
	Type       string // notification type, or action of a channel message
	Visit      *Visit // the visit after the decision, when the effect is about one
	Escalation *Escalation
	At         time.Time // the event's time
	Actor      Actor
	Priority   string         // notification priority: normal, high, critical
	Transport  string         // EffectPage: gateway name, e.g. "sms"
	Fields     map[string]any // further fields of the message; codes, numbers and instants only
}

// EffectKind says through which door an effect leaves.
type EffectKind string

// The kinds of effects.
const (
	EffectNotify       EffectKind = "notify"       // notification.{To} on both brokers
	EffectQueue        EffectKind = "queue"        // queue.{To} on both brokers
	EffectConsultation EffectKind = "consultation" // consultation.{provider}.{patient} on both brokers
	EffectEmergency    EffectKind = "emergency"    // emergency.{To} on both brokers
	EffectPage         EffectKind = "page"         // page.{Transport}.{To}, NATS only
	EffectRaise        EffectKind = "raise"        // back into the emergency log as EMERGENCY_ESCALATION of department To
	EffectAskOnCall    EffectKind = "ask-on-call"  // ask who is on call for department To; comes back as ON_CALL_ANSWERED
)

// The types of notifications (Effect.Type of EffectNotify). Fields: delayMinutes with NoticeRunningLate; level and
// waitedMinutes with NoticeQueueDelay and, when a long wait caused it, NoticePatientWaiting; change (the visit's new state, or
// "rescheduled") with NoticeScheduleChange, NoticeVisitCancelled and NoticeNoShow; round with NoticeEscalation;
// acceptedBy with NoticeEmergencyTaken; outcome ("resolved" or "cancelled") with
// NoticeEmergencyClosed.
const (
	NoticePatientReady    = "PATIENT_READY"         // to the provider: checked in
	NoticeProviderReady   = "PROVIDER_READY"        // to the patient: please join
	NoticePatientWaiting  = "PATIENT_WAITING"       // to the provider: somebody waits for you
	NoticeNotConnected    = "PATIENT_NOT_CONNECTED" // to the provider: back to the waiting room
	NoticeRunningLate     = "PROVIDER_RUNNING_LATE" // to the patient
	NoticeQueueDelay      = "QUEUE_DELAY"           // to the patient
	NoticeDeviceCheck     = "DEVICE_CHECK_NEEDED"   // to the patient
	NoticeScheduleChange  = "SCHEDULE_CHANGE"
	NoticeVisitCancelled  = "VISIT_CANCELLED" // to the patient
	NoticeNoShow          = "VISIT_NO_SHOW"   // to the patient
	NoticeNotesDue        = "NOTES_DUE"       // to the provider
	NoticeEscalation      = "EMERGENCY_ESCALATION"
	NoticeEmergencyTaken  = "EMERGENCY_TAKEN"
	NoticeEmergencyClosed = "EMERGENCY_CLOSED"
)

// The priorities of notifications.
const (
	NoticeNormal   = "normal"
	NoticeHigh     = "high"
	NoticeCritical = "critical"
)

// The actions of channel messages (Effect.Type of EffectQueue, EffectConsultation and EffectEmergency). Fields: newStatus,
// and priority when that is what changed, with ActionStatusUpdated; reason with ActionPatientRemoved; from, state and cause
// with ActionStateChanged; round and users (a count) with ActionPaged; userId with ActionAccepted, ActionRejected and
// ActionAttended; outcome with ActionClosed; severity and from with ActionSeverityChanged.
const (
	ActionPatientAdded    = "PATIENT_ADDED"
	ActionStatusUpdated   = "STATUS_UPDATED"
	ActionPatientRemoved  = "PATIENT_REMOVED"
	ActionStateChanged    = "STATE_CHANGED"
	ActionRaise           = "EMERGENCY_ESCALATION" // EffectRaise; fields escalationId, severity, reasonCode when known
	ActionPaged           = "EMERGENCY_PAGED"
	ActionAccepted        = "EMERGENCY_ACCEPTED"
	ActionRejected        = "EMERGENCY_REJECTED"
	ActionAttended        = "EMERGENCY_ATTENDED"
	ActionClosed          = "EMERGENCY_CLOSED"
	ActionSeverityChanged = "EMERGENCY_SEVERITY_CHANGED"
)

// AuditEntry is one link of a record's audit chain. It holds references, never free text.
type AuditEntry struct {
	ID           string            `json:"id"`
	Timestamp    time.Time         `json:"timestamp"` // the event's time
	EventType    string            `json:"eventType"`
	Severity     string            `json:"severity"` // info, warning, critical
	Organization string            `json:"organizationId"`
	Actor        Actor             `json:"actor"`
	Resource     AuditResource     `json:"resource"`
	Action       string            `json:"action"`
	Outcome      string            `json:"outcome"` // success, refused
	Details      map[string]string `json:"details,omitempty"`
	Chain        string            `json:"chain"` // Chain.Name of the record the entry belongs to
	Seq          int64             `json:"seq"`   // 1 for the first entry of the chain
	Prev         string            `json:"prev"`  // hash of the entry before, "" for the first
	Hash         string            `json:"hash"`  // see AuditEntry.Sum
}

// AuditResource is what an audit entry is about.
type AuditResource struct {
	Type    string `json:"type"`
	ID      string `json:"id"`
	Channel string `json:"channel,omitempty"`
}
