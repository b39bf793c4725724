package states

import (
	"crypto/sha256"
	"encoding/base32"
	"strings"
	"time"
)

// Kind names what happened. The kinds of the outside world carry the action of their message; where one action means
// two things on two channels (PATIENT_LEFT), the decoder chooses the kind by the channel.
type Kind string

// Kinds that arrive on waiting-room.{providerId}.
const (
	AppointmentScheduled   Kind = "APPOINTMENT_SCHEDULED"
	AppointmentCancelled   Kind = "APPOINTMENT_CANCELLED"
	AppointmentRescheduled Kind = "APPOINTMENT_RESCHEDULED"
	PatientCheckedIn       Kind = "PATIENT_CHECKED_IN"
	PatientReadyConfirmed  Kind = "PATIENT_READY_CONFIRMED"
	WaitingRoomLeft        Kind = "WAITING_ROOM_LEFT" // action PATIENT_LEFT on the waiting-room channel
	PriorityChanged        Kind = "PRIORITY_CHANGED"
	ProviderRunningLate    Kind = "PROVIDER_RUNNING_LATE"
)

// Kinds that arrive on consultation.{providerId}.{patientId}.
const (
	ProviderJoined      Kind = "PROVIDER_JOINED"
	PatientJoined       Kind = "PATIENT_JOINED"
	ProviderLeft        Kind = "PROVIDER_LEFT"
	PatientLeft         Kind = "PATIENT_LEFT"
	ConsultationHeld    Kind = "CONSULTATION_HELD"
	ConsultationResumed Kind = "CONSULTATION_RESUMED"
	ConsultationEnded   Kind = "CONSULTATION_ENDED"
	NotesCompleted      Kind = "NOTES_COMPLETED"
	EmergencyRequested  Kind = "EMERGENCY_REQUESTED"
)

// Kinds that arrive on emergency.{departmentId}, and the answer of the on-call source that the daemon asked.
const (
	EmergencyEscalation      Kind = "EMERGENCY_ESCALATION"
	EmergencyAccepted        Kind = "EMERGENCY_ACCEPTED"
	EmergencyRejected        Kind = "EMERGENCY_REJECTED"
	EmergencyAttended        Kind = "EMERGENCY_ATTENDED"
	EmergencyResolved        Kind = "EMERGENCY_RESOLVED"
	EmergencyCancelled       Kind = "EMERGENCY_CANCELLED"
	EmergencySeverityChanged Kind = "EMERGENCY_SEVERITY_CHANGED"
	OnCallAnswered           Kind = "ON_CALL_ANSWERED"
)

// TimerFired is the kind of every due timer; Event.Timer says which.
const TimerFired Kind = "TIMER_FIRED"

// Source says through which door an event entered the log.
type Source string

// The doors.
const (
	SourcePubNub   Source = "pubnub"
	SourceNATS     Source = "nats"
	SourceTimer    Source = "timer"
	SourceOperator Source = "operator"
	SourceConsultd Source = "consultd" // an effect of an earlier decision that came back as an event
)

// Role is what an authenticated actor is to the visit.
type Role string

// The roles.
const (
	RolePatient   Role = "patient"
	RoleProvider  Role = "provider"
	RoleNurse     Role = "nurse"
	RoleFrontDesk Role = "front-desk"
	RoleOnCall    Role = "on-call"
	RoleBackend   Role = "backend"
	RoleOperator  Role = "operator"
	RoleSystem    Role = "system"
	RoleUnknown   Role = "" // authenticated, but neither in the message's channel nor in the directory
)

// Actor is who caused an event, as authenticated by the broker, never as claimed by the message.
type Actor struct {
	ID   string `json:"userId"`
	Role Role   `json:"role"`
}

// EventID is the identity of an event: a repeat of the same message has the same id, and nobody else can produce it.
type EventID string

var idEncoding = base32.NewEncoding("abcdefghijklmnopqrstuvwxyz234567").WithPadding(base32.NoPadding)

// NewEventID derives the identity from who said it where, and from the id inside the message: 128 bits, 26 characters.
func NewEventID(source Source, channel, sender, id string) EventID {
	return EventID(derive(string(source), channel, sender, id))
}

// EscalationID is the id of the escalation that an event raises when the message brings none.
func EscalationID(event EventID) string { return derive("escalation", string(event)) }

// derive hashes parts with unambiguous boundaries to a 26-character identifier.
func derive(parts ...string) string {
	sum := sha256.Sum256([]byte(strings.Join(parts, "\x00")))
	return idEncoding.EncodeToString(sum[:16])
}

// Event is one entry of the log, decoded. Fields that its kind does not use are zero.
type Event struct {
	ID     EventID
	Kind   Kind
	At     time.Time // when it entered its broker: PubNub timetoken or JetStream store time, UTC, never the daemon's clock
	Said   time.Time // the timestamp the sender wrote into the message; only checked for skew, zero when absent
	Source Source
	Actor  Actor

	// What it is about. Provider and Patient come from the channel, Appointment and the rest from the message.
	Channel      string
	Appointment  string
	Consultation string // the message's consultationId, checked against the channel rule by the decoder
	Provider     string
	Patient      string
	Department   string
	Escalation   string

	// Claims that the message makes about its sender (patientId, providerId, userId, escalatedBy, ...): each must be the
	// authenticated actor, unless the actor's role may speak for others.
	ClaimedSender string

	StartsAt         time.Time
	Priority         Priority
	DeviceReady      *bool // nil: not said
	Interpreter      bool
	Delay            time.Duration // PROVIDER_RUNNING_LATE
	Duration         time.Duration // CONSULTATION_ENDED, the consultation's length as the provider's app measured it
	FollowUpRequired bool
	Severity         Severity
	ReasonCode       string
	Reason           PHI // free text; only ever set when it arrived encrypted
	OutcomeCode      string

	Timer  TimerID      // TimerFired
	OnCall OnCallAnswer // OnCallAnswered
}

// OnCallAnswer is what the on-call source answered for an escalation.
type OnCallAnswer struct {
	Users  []string `json:"users"`
	Origin string   `json:"origin"` // "http", "cache" or "failsafe"
	AgeMS  int64    `json:"ageMs"`  // age of a cached answer in milliseconds
}
