package states

import (
	"fmt"
	"slices"
)

// decideEscalation answers one event about an escalation; before is nil when there is no such escalation yet.
func (x *draft) decideEscalation(before *Escalation) error {
	m := escalationMachine()
	var old Escalation
	if before != nil {
		old = *before
		if !old.State.ofEscalation() {
			return fmt.Errorf("decide %s: escalation %s is stored in the unknown state %q", x.ev.Kind, x.d.Record.ID.ID, old.State)
		}
	}
	if old.State.Final() && x.ev.Kind == EmergencyEscalation && x.ev.Department != "" {
		// An emergency after the end of another is never taken for a repeat of it, whatever id its sender gave it.
		before, old = nil, Escalation{Timers: old.Timers}
	}
	x.d.From, x.d.To = old.State, old.State
	event := x.event()
	if x.ev.Kind == TimerFired {
		if a, armed := old.Timers.Armed(x.ev.Timer.Kind); !armed || a.Generation != x.ev.Timer.Generation || !m.allows(event, old.State) {
			x.stale()
			return nil
		}
	} else if r := x.escalationObjection(m, before); r != nil {
		x.refuse(r.Code, r.Detail)
		return nil
	}

	guard := Guard("")
	if x.ev.Kind == EmergencyEscalation {
		guard = GuardList
		if x.rules.Paging.Ask {
			guard = GuardAsk
		}
	}
	to, legal := m.next(event, guard, old.State)
	if !legal {
		return fmt.Errorf("decide %s: the escalation table has no row from %q when %q", event, old.State, guard)
	}

	e := new(Escalation)
	*e = old
	x.d.Record.Escalation = e
	if before == nil {
		x.open(e)
	}
	if to != e.State {
		e.State, e.StateSince = to, x.ev.At
	}
	x.d.To = to
	x.d.Expire = to.Final()
	x.timers = timers{key: e.Department, armed: &e.Timers}
	if to != EscalationTriggered {
		x.drop(TimerRoster)
	}
	if to != EscalationWaiting {
		x.drop(TimerRePage)
	}
	nobody := x.applyToEscalation(e, &old)
	x.accept(escalationAudit(x.ev.Kind, &old, e), AuditCritical)
	if nobody {
		x.audit(AuditEntry{EventType: AuditPageNobody, Severity: AuditCritical, Outcome: AuditSuccess, Action: AuditPageNobody})
	}
	return nil
}

// escalationObjection is why an event about an escalation is refused: the sender, the escalation, the state. Raising one is
// refused to nobody, and nobody's clock matters.
func (x *draft) escalationObjection(m *machine, before *Escalation) *Refusal {
	ev := x.ev
	if ev.Kind == EmergencyEscalation {
		switch {
		case before != nil:
			return &Refusal{AlreadyRaised, "this emergency is known already and is " + string(before.State)}
		case ev.Department == "":
			return &Refusal{MissingDepartment, "an emergency needs a department; send it on the channel of one"}
		}
		return nil
	}
	if before == nil || ev.Department != "" && ev.Department != before.Department {
		return &Refusal{UnknownEscalation, "this department has no such escalation; raise one with " + string(EmergencyEscalation)}
	}
	who, speaks := x.speaker()
	if !speaks {
		return &Refusal{WrongActor, "the message speaks for somebody else than its sender; send it as the person it names"}
	}
	by := m.by[x.event()]
	isPaged := slices.Contains(before.Paged, who)
	if !by.has(ev.Actor.Role) && !(isPaged && by.has(rolePaged)) || ev.Kind == EmergencyRejected && !isPaged {
		switch ev.Kind {
		case EmergencyAccepted, EmergencyRejected, EmergencyAttended:
			return &Refusal{NotPaged, "only somebody who was paged or is on call may answer this emergency"}
		}
		return &Refusal{RoleNotAllowed, "the sender's role may not send " + x.cause()}
	}
	if ev.Kind == EmergencySeverityChanged {
		if _, known := ev.Severity.Rank(); !known {
			return &Refusal{BadSeverity, "the severity must be urgent, critical or life-threatening"}
		}
	}
	return x.stateObjection(m, before)
}

func (x *draft) stateObjection(m *machine, before *Escalation) *Refusal {
	switch {
	case m.allows(x.event(), before.State):
		return nil
	case before.State.Final():
		return &Refusal{ClosedEscalation, "this emergency is over; raise a new one if there is one"}
	case x.ev.Kind == EmergencyAccepted:
		return &Refusal{AlreadyAccepted, "this emergency was accepted by " + before.AcceptedBy}
	}
	return &Refusal{WrongState, x.cause() + " means nothing to an emergency that is " + string(before.State)}
}

// speaker is the person whom the event is about: the sender, or whom a backend or an operator speaks for. False when the
// sender claims to be somebody else without being one of these.
func (x *draft) speaker() (string, bool) {
	a, claimed := x.ev.Actor, x.ev.ClaimedSender
	switch {
	case claimed == "" || claimed == a.ID:
		return a.ID, true
	case a.Role == RoleBackend || a.Role == RoleOperator:
		return claimed, true
	}
	return "", false
}

func (s State) ofEscalation() bool {
	switch s {
	case EscalationTriggered, EscalationWaiting, EscalationAccepted, EscalationAttended, EscalationClosed:
		return true
	}
	return false
}

// open fills a new escalation from the event that raises it.
func (x *draft) open(e *Escalation) {
	ev := x.ev
	e.ID = x.d.Record.ID.plain()
	e.Department = ev.Department
	e.Consultation = ev.Consultation
	e.Appointment = ev.Appointment
	e.RaisedBy = ev.Actor
	e.Severity = emergencySeverity(ev.Severity)
	e.ReasonCode = ev.ReasonCode
	e.Reason = ev.Reason
	e.TriggeredAt = ev.At
}

// applyToEscalation puts into the escalation what the event says, pages and tells people, and arms timers. It says whether
// a round of pages found nobody to page.
func (x *draft) applyToEscalation(e, old *Escalation) (nobody bool) {
	ev := x.ev
	who, _ := x.speaker()
	switch ev.Kind {
	case EmergencyEscalation:
		if e.State == EscalationTriggered {
			x.effect(Effect{Kind: EffectAskOnCall, To: e.Department, Type: string(EffectAskOnCall), Priority: NoticeCritical})
			x.arm(TimerRoster, ev.At.Add(RosterTimeout))
			return false
		}
		return x.nextRound(e)
	case OnCallAnswered:
		if old.State == EscalationTriggered {
			e.OnCall = people(nil, ev.OnCall.Users, nil)
			return x.nextRound(e)
		}
		late := people(nil, ev.OnCall.Users, e.Paged)
		e.OnCall = people(e.OnCall, ev.OnCall.Users, nil)
		if len(late) > 0 { // they join the present round; its timer runs on
			x.page(e, late)
		}
	case EmergencyAccepted:
		x.taken(e, who, ActionAccepted)
	case EmergencyAttended:
		if e.AcceptedBy == "" {
			x.taken(e, who, ActionAttended)
		} else {
			x.tell(e, ActionAttended, map[string]any{"userId": who})
		}
	case EmergencyRejected:
		x.tell(e, ActionRejected, map[string]any{"userId": who})
		if !slices.Contains(e.Rejected, who) {
			e.Rejected = people(e.Rejected, []string{who}, nil)
			if len(people(nil, e.Paged, e.Rejected)) == 0 {
				return x.nextRound(e)
			}
		}
	case EmergencyResolved, EmergencyCancelled:
		x.close(e)
	case EmergencySeverityChanged:
		return x.changeSeverity(e)
	case TimerFired: // roster and re-page
		if ev.Timer.Kind == TimerRoster {
			e.OnCall = people(people(nil, x.rules.Paging.OnCall[e.Department], nil), x.rules.Paging.Failsafe, nil)
		}
		return x.nextRound(e)
	}
	return false
}

// nextRound pages everybody on call who has not rejected, and sees to it that there will be another round. The failsafe is
// paged as well after Paging.FailsafeAfter rounds, and when nobody else is left; when nobody is left at all, everybody whom
// anything names is paged, rejected or not.
func (x *draft) nextRound(e *Escalation) (nobody bool) {
	p := &x.rules.Paging
	if !p.Ask { // whoever was put on the list since is paged as well; nobody is forgotten
		e.OnCall = people(e.OnCall, p.OnCall[e.Department], nil)
	}
	to := people(nil, e.OnCall, e.Rejected)
	if e.Round >= p.FailsafeAfter || len(to) == 0 {
		to = people(to, p.Failsafe, e.Rejected)
	}
	if len(to) == 0 {
		to = people(people(people(nil, e.OnCall, nil), p.OnCall[e.Department], nil), p.Failsafe, nil)
	}
	e.Round++
	x.page(e, to)
	x.arm(TimerRePage, x.ev.At.Add(p.RePageAfter(e.Severity)))
	return len(to) == 0
}

// page tells people, by every transport, and the department's channel how many they are.
func (x *draft) page(e *Escalation, to []string) {
	e.Paged = people(e.Paged, to, nil)
	x.tell(e, ActionPaged, map[string]any{"round": e.Round, "users": len(to)})
	for _, user := range to {
		x.effect(Effect{
			Kind: EffectNotify, To: user, Type: NoticeEscalation, Priority: NoticeCritical,
			Fields: map[string]any{"round": e.Round},
		})
		for _, transport := range x.rules.Paging.Transports {
			x.effect(Effect{
				Kind: EffectPage, To: user, Type: NoticeEscalation, Priority: NoticeCritical, Transport: transport,
				Fields: map[string]any{"round": e.Round},
			})
		}
	}
}

// taken notes who takes the emergency and tells everybody else who was paged.
func (x *draft) taken(e *Escalation, who, action string) {
	e.AcceptedBy, e.AcceptedAt = who, x.ev.At
	x.tell(e, action, map[string]any{"userId": who})
	for _, user := range e.Paged {
		if user != who {
			x.notify(user, NoticeEmergencyTaken, NoticeHigh, map[string]any{"acceptedBy": who})
		}
	}
}

// close ends the escalation and tells everybody who was paged, and who took it without having been paged.
func (x *draft) close(e *Escalation) {
	outcome := "resolved"
	if x.ev.Kind == EmergencyCancelled {
		outcome = "cancelled"
	}
	e.Outcome = x.ev.OutcomeCode
	if e.Outcome == "" {
		e.Outcome = x.ev.ReasonCode
	}
	e.ClosedAt = x.ev.At
	x.tell(e, ActionClosed, map[string]any{"outcome": outcome})
	involved := e.Paged
	if e.AcceptedBy != "" {
		involved = people(involved, []string{e.AcceptedBy}, nil)
	}
	for _, user := range involved {
		x.notify(user, NoticeEmergencyClosed, NoticeHigh, map[string]any{"outcome": outcome})
	}
}

// changeSeverity pages again at once when the severity rises while nobody has accepted, and tells who has. A lower severity
// leaves a running timer alone.
func (x *draft) changeSeverity(e *Escalation) (nobody bool) {
	before, _ := e.Severity.Rank()
	after, _ := x.ev.Severity.Rank()
	x.tell(e, ActionSeverityChanged, map[string]any{"from": string(e.Severity), "severity": string(x.ev.Severity)})
	e.Severity = x.ev.Severity
	switch {
	case after <= before:
	case e.State == EscalationWaiting:
		return x.nextRound(e)
	case e.AcceptedBy != "":
		x.notify(e.AcceptedBy, NoticeEscalation, NoticeCritical, map[string]any{"round": e.Round})
	}
	return false
}

func (x *draft) tell(e *Escalation, action string, fields map[string]any) {
	x.effect(Effect{Kind: EffectEmergency, To: e.Department, Type: action, Priority: NoticeCritical, Fields: fields})
}

// people appends to a list whoever of more is not yet in it and not among except. It never writes into the list it is given.
func people(list, more, except []string) []string {
	list = slices.Clip(list)
	for _, p := range more {
		if p != "" && !slices.Contains(list, p) && !slices.Contains(except, p) {
			list = append(list, p)
		}
	}
	return list
}

// escalationAudit is the event type of the audit entry for an accepted event.
func escalationAudit(kind Kind, old, e *Escalation) string {
	switch {
	case kind == EmergencyEscalation:
		return AuditTriggered
	case kind == EmergencyAccepted:
		return AuditAcknowledged
	case old.State != e.State:
		return AuditEscalationMoved
	}
	return AuditEventAccepted
}
