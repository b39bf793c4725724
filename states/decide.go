package states

import (
	"cmp"
	"fmt"
	"strconv"
	"strings"
	"time"
)

// Facts is what a decision depends on besides the record, the event and the rules, and what only the store can know.
type Facts struct {
	PairHolder string // the appointment that consultation.{provider}.{patient} means at present, "" for none
}

// Decide is the answer to one event: what the record becomes and what must follow. It changes none of its arguments, and
// the same arguments always give the same decision.
//
// A refusal is a decision too: the record keeps its content and gains one audit entry. Only a stale timer leaves the record
// as it was, version and chain included. The error is for a broken program or a damaged record, never for what a client sent.
func Decide(rules *Rules, rec Record, ev Event, facts Facts) (Decision, error) {
	if rules == nil {
		return Decision{}, fmt.Errorf("decide %s: no rules", ev.Kind)
	}
	about := ev.Kind.record()
	if about == "" {
		return Decision{}, fmt.Errorf("decide %s: unknown kind of event", ev.Kind)
	}
	ev.At = ev.At.UTC()
	if ev.Kind == TimerFired {
		about = ev.Timer.Record.Kind
		ev.Actor = Actor{ID: "consultd", Role: RoleSystem}
	}
	if ev.Actor.Role == RoleUnknown {
		ev.Actor.Role = rec.Visit.roleOf(ev.Actor.ID)
	}
	x := draft{rules: rules, ev: &ev, facts: facts, d: Decision{Record: rec}}
	var err error
	switch {
	case rec.ID.Kind == KindDesk:
		x.decideDesk(about)
	case rec.ID.Kind != about:
		err = fmt.Errorf("decide %s: the record is about %q", ev.Kind, rec.ID.Kind)
	case rec.ID.Kind == KindVisit:
		err = x.decideVisit(rec.Visit)
	case rec.ID.Kind == KindEscalation:
		err = x.decideEscalation(rec.Escalation)
	}
	if err != nil {
		return Decision{}, err
	}
	return x.d, nil
}

// record is what an event of this kind is about, "" for an unknown kind. A timer says so itself.
func (k Kind) record() RecordKind {
	switch k {
	case AppointmentScheduled, AppointmentCancelled, AppointmentRescheduled, PatientCheckedIn, PatientReadyConfirmed,
		WaitingRoomLeft, PriorityChanged, ProviderRunningLate, ProviderJoined, PatientJoined, ProviderLeft, PatientLeft,
		ConsultationHeld, ConsultationResumed, ConsultationEnded, NotesCompleted, EmergencyRequested, TimerFired:
		return KindVisit
	case EmergencyEscalation, EmergencyAccepted, EmergencyRejected, EmergencyAttended, EmergencyResolved,
		EmergencyCancelled, EmergencySeverityChanged, OnCallAnswered:
		return KindEscalation
	}
	return ""
}

// decideDesk answers what was said about no known visit or escalation. It is refused, and the desk's chain says so; only an
// emergency that names its department goes through all the same.
func (x *draft) decideDesk(about RecordKind) {
	department := cmp.Or(x.ev.Department, x.rules.Paging.DefaultDepartment)
	switch {
	case x.ev.Kind == TimerFired:
		x.stale()
	case about == KindEscalation:
		x.refuse(UnknownEscalation, "there is no such escalation; raise one with "+string(EmergencyEscalation))
	case x.ev.Kind == EmergencyRequested && department != "":
		x.raise(department)
		x.accept(AuditEmergencyAsked, AuditCritical)
	case x.ev.Kind == AppointmentScheduled || x.ev.Kind == PatientCheckedIn:
		x.refuse(WrongVisit, "the appointment belongs to another provider; check the appointment id and the channel")
	default:
		x.refuse(UnknownVisit, "there is no such visit; book it or check the patient in first")
	}
}

// draft is a decision in the making.
type draft struct {
	rules  *Rules
	ev     *Event
	facts  Facts
	d      Decision
	timers timers
}

// event is the event as the tables name it.
func (x *draft) event() string {
	if x.ev.Kind == TimerFired {
		return string(x.ev.Timer.Kind)
	}
	return string(x.ev.Kind)
}

// cause is the event as messages and audit entries name it.
func (x *draft) cause() string {
	if x.ev.Kind != TimerFired {
		return string(x.ev.Kind)
	}
	return "TIMER_" + strings.ToUpper(strings.ReplaceAll(string(x.ev.Timer.Kind), "-", "_"))
}

// effect adds an effect; the caller fills what is particular to it.
func (x *draft) effect(e Effect) {
	if x.d.Effects == nil {
		x.d.Effects = make([]Effect, 0, 4)
	}
	e.ID = string(x.ev.ID) + "." + strconv.Itoa(len(x.d.Effects))
	e.At = x.ev.At
	e.Actor = x.ev.Actor
	e.Visit = x.d.Record.Visit
	e.Escalation = x.d.Record.Escalation
	x.d.Effects = append(x.d.Effects, e)
}

// raise makes the emergency an event of the department's own log.
func (x *draft) raise(department string) {
	severity := emergencySeverity(x.ev.Severity)
	id := EscalationID(x.ev.ID)
	fields := map[string]any{"escalationId": id, "severity": string(severity)}
	if x.ev.ReasonCode != "" {
		fields["reasonCode"] = x.ev.ReasonCode
	}
	x.effect(Effect{Kind: EffectRaise, To: department, Type: ActionRaise, Priority: NoticeCritical, Fields: fields})
}

// emergencySeverity takes an emergency that says nothing readable about its severity for critical.
func emergencySeverity(s Severity) Severity {
	if _, known := s.Rank(); !known {
		return SeverityCritical
	}
	return s
}

// refuse ends the decision with a refusal: what was drafted is forgotten, and the chain says what was refused and why.
func (x *draft) refuse(code RefusalCode, detail string) {
	rec, from := x.d.Record, x.d.From
	x.d = Decision{Record: rec, From: from, To: from, Refusal: &Refusal{Code: code, Detail: detail}, Expire: from.Final()}
	x.d.Record.Version++
	severity := AuditWarning
	if x.ev.Kind == EmergencyRequested || x.ev.Kind == EmergencyEscalation {
		severity = AuditCritical
	}
	x.audit(AuditEntry{
		EventType: AuditEventRejected, Severity: severity, Outcome: AuditRefused, Action: x.cause(),
		Details: x.details(map[string]string{"code": string(code)}),
	})
}

// stale ends the decision on a timer that is no longer the armed one.
func (x *draft) stale() {
	x.d = Decision{
		Record: x.d.Record, From: x.d.From, To: x.d.From,
		Refusal: &Refusal{Code: StaleTimer, Detail: "the timer was set anew or is no longer needed; nothing is to be done"},
	}
}

// accept ends the decision: the record has its next version, and the chain says what happened and who was told.
func (x *draft) accept(eventType, severity string) {
	x.d.Record.Version++
	told := 0
	for i := range x.d.Effects {
		if k := x.d.Effects[i].Kind; k == EffectNotify || k == EffectPage {
			told++
		}
	}
	x.d.Audit = make([]AuditEntry, 0, 1+told)
	x.audit(AuditEntry{
		EventType: eventType, Severity: severity, Outcome: AuditSuccess, Action: x.cause(),
		Details: x.details(make(map[string]string, 4)),
	})
	for i := range x.d.Effects {
		e := &x.d.Effects[i]
		entry := AuditEntry{Severity: AuditInfo, Outcome: AuditSuccess}
		switch e.Kind {
		case EffectNotify:
			entry.EventType = AuditNotification
			entry.Action = "NOTIFY_" + e.Type
			entry.Details = map[string]string{"recipient": e.To, "effectId": e.ID}
		case EffectPage:
			entry.EventType = AuditPaged
			entry.Action = "PAGE_" + e.Type
			entry.Details = map[string]string{"recipient": e.To, "effectId": e.ID, "transport": e.Transport}
		default:
			continue
		}
		if e.Priority == NoticeCritical {
			entry.Severity = AuditCritical
		}
		x.audit(entry)
	}
}

// details adds to an audit entry what every decision is known by. Codes and identifiers only.
func (x *draft) details(d map[string]string) map[string]string {
	if x.d.From != StateNone {
		d["from"] = string(x.d.From)
	}
	if x.d.To != x.d.From {
		d["to"] = string(x.d.To)
	}
	d["source"] = string(x.ev.Source)
	if x.ev.ReasonCode != "" {
		d["reasonCode"] = x.ev.ReasonCode
	}
	if x.ev.OutcomeCode != "" {
		d["outcomeCode"] = x.ev.OutcomeCode
	}
	if x.ev.ClaimedSender != "" && x.ev.ClaimedSender != x.ev.Actor.ID {
		d["onBehalfOf"] = x.ev.ClaimedSender
	}
	return d
}

// audit adds the next link of the record's chain.
func (x *draft) audit(e AuditEntry) {
	rec := &x.d.Record
	e.ID = string(x.ev.ID) + ".a" + strconv.Itoa(len(x.d.Audit))
	e.Timestamp = x.ev.At
	e.Organization = x.rules.Organization
	e.Actor = x.ev.Actor
	e.Resource = AuditResource{Type: string(rec.ID.Kind), ID: rec.ID.plain(), Channel: x.ev.Channel}
	if rec.Chain.Name == "" {
		rec.Chain.Name = rec.ID.String() + "@" + string(x.ev.ID[:min(len(x.ev.ID), 10)])
	}
	e.Chain = rec.Chain.Name
	e.Seq = rec.Chain.Seq + 1
	e.Prev = rec.Chain.Hash
	e.Hash = e.Sum()
	rec.Chain.Seq, rec.Chain.Hash = e.Seq, e.Hash
	x.d.Audit = append(x.d.Audit, e)
}

// skewed says whether the sender's clock is too far from the broker's.
func (x *draft) skewed() bool {
	if x.ev.Said.IsZero() {
		return false
	}
	ahead := x.ev.Said.Sub(x.ev.At)
	t := &x.rules.Timing
	return t.MaxFuture > 0 && ahead > t.MaxFuture || t.MaxPast > 0 && -ahead > t.MaxPast
}

// minutes rounds a duration to whole minutes for a message.
func minutes(d time.Duration) int { return int(d.Round(time.Minute) / time.Minute) }
