package states

import (
	"fmt"
	"time"
)

// decideVisit answers one event about a visit; before is nil when there is no such visit yet.
func (x *draft) decideVisit(before *Visit) error {
	m := visitMachine()
	var old Visit
	if before != nil {
		old = *before
		if !old.State.ofVisit() {
			return fmt.Errorf("decide %s: visit %s is stored in the unknown state %q", x.ev.Kind, x.d.Record.ID.ID, old.State)
		}
	}
	x.d.From, x.d.To = old.State, old.State
	event := x.event()
	urgent := x.ev.Kind == EmergencyRequested

	if x.ev.Kind == TimerFired {
		if a, armed := old.Timers.Armed(x.ev.Timer.Kind); !armed || a.Generation != x.ev.Timer.Generation || !m.allows(event, old.State) {
			x.stale()
			return nil
		}
	} else if before == nil && urgent && x.ev.Department != "" {
		x.raise(x.ev.Department)
		x.accept(AuditEmergencyAsked, AuditCritical)
		return nil
	} else if before == nil && x.ev.Kind != AppointmentScheduled && x.ev.Kind != PatientCheckedIn {
		x.refuse(UnknownVisit, "there is no such visit; book it or check the patient in first")
		return nil
	}
	if !urgent {
		if r := x.objection(m, before); r != nil {
			x.refuse(r.Code, r.Detail)
			return nil
		}
	}

	v := new(Visit)
	*v = old
	original := x.d.Record.Visit
	x.d.Record.Visit = v
	key := v.Provider
	if before == nil {
		key = x.ev.Provider
	}
	x.timers = timers{key: key, armed: &v.Timers}
	guard, refusal := x.applyToVisit(v, before)
	to, legal := m.next(event, guard, old.State)
	switch {
	case refusal != nil:
		x.d.Record.Visit = original
		x.refuse(refusal.Code, refusal.Detail)
		return nil
	case !legal && x.ev.Kind == TimerFired:
		x.d.Record.Visit = original
		x.stale()
		return nil
	case !legal:
		return fmt.Errorf("decide %s: the visit table has no row from %q when %q", event, old.State, guard)
	}
	x.enter(v, to)
	x.d.To = to
	x.d.Expire = to.Final()
	x.settleVisit(&old, v)
	x.announceVisit(&old, v)
	eventType, severity := visitAudit(x.ev.Kind, &old, v)
	x.accept(eventType, severity)
	return nil
}

func (s State) ofVisit() bool {
	return s == VisitScheduled || s.Active() || s.Final() && s != EscalationClosed
}

// objection is why an event is refused before its content matters: the sender's clock, the sender, the visit it is about,
// the state. In this order, so that a stranger learns nothing about a visit's state.
func (x *draft) objection(m *machine, before *Visit) *Refusal {
	patient, provider := x.ev.Patient, x.ev.Provider
	state := StateNone
	if before != nil {
		patient, provider, state = before.Patient, before.Provider, before.State
	}
	if x.skewed() {
		return &Refusal{ClockSkew, "the message's timestamp is too far from the present; set the device's clock and send it again"}
	}
	if r := x.intruder(m.by[x.event()], patient, provider); r != nil {
		return r
	}
	if before != nil && (x.ev.Patient != "" && x.ev.Patient != patient || x.ev.Provider != "" && x.ev.Provider != provider) {
		return &Refusal{WrongVisit, "the appointment belongs to another patient or provider; check the appointment id and the channel"}
	}
	if m.allows(x.event(), state) {
		return nil
	}
	switch {
	case x.ev.Kind == AppointmentScheduled:
		return &Refusal{AlreadyBooked, "the appointment exists already; send " + string(AppointmentRescheduled) + " to move it"}
	case state.Final():
		return &Refusal{VisitClosed, "the visit is over (" + string(state) + "); book a new appointment"}
	case x.ev.Kind == PatientCheckedIn:
		return &Refusal{AlreadyCheckedIn, "the patient has checked in already; nothing is to be done"}
	}
	return &Refusal{WrongState, x.cause() + " means nothing to a visit that is " + string(state)}
}

// intruder is why the sender may not cause the event. A backend or an operator may speak for the visit's patient or provider
// by naming them, a nurse and the front desk may name the patient; everybody else speaks for nobody else.
func (x *draft) intruder(by roleSet, patient, provider string) *Refusal {
	a, claimed := x.ev.Actor, x.ev.ClaimedSender
	allowed := by.has(a.Role)
	impostor := &Refusal{WrongActor, "the message speaks for somebody else than its sender; send it as the person it names"}
	switch a.Role {
	case RoleBackend, RoleOperator:
		if claimed != "" && (claimed == provider && by.has(RoleProvider) || claimed == patient && by.has(RolePatient)) {
			allowed = true
		}
		if allowed {
			return nil
		}
	case RoleNurse, RoleFrontDesk:
		if allowed && claimed != "" && claimed != a.ID && claimed != patient {
			return impostor
		}
	case RolePatient:
		if allowed && (a.ID != patient || claimed != "" && claimed != a.ID) {
			return impostor
		}
	case RoleProvider:
		if allowed && (a.ID != provider || claimed != "" && claimed != a.ID) {
			return impostor
		}
	default:
		if allowed && claimed != "" && claimed != a.ID {
			return impostor
		}
	}
	if allowed {
		return nil
	}
	return &Refusal{RoleNotAllowed, "the sender's role may not send " + x.cause()}
}

// applyToVisit puts into the visit what the event says, and finds out which guard holds. The event is known to be possible
// in the visit's state and to come from somebody who may send it.
func (x *draft) applyToVisit(v, before *Visit) (Guard, *Refusal) {
	ev := x.ev
	switch ev.Kind {
	case AppointmentScheduled:
		return "", x.book(v)
	case PatientCheckedIn:
		if r := x.checkIn(v, before); r != nil {
			return "", r
		}
		return deviceGuard(v), nil
	case PatientReadyConfirmed:
		v.DeviceReady = ev.DeviceReady != nil && *ev.DeviceReady
		if !v.DeviceReady {
			v.DeviceFails++
			if v.DeviceFails > 1 {
				v.Modality = ModalityPhone
				return GuardPhoneInstead, nil
			}
		}
		return deviceGuard(v), nil
	case PriorityChanged:
		if _, known := ev.Priority.Rank(); !known {
			return "", &Refusal{BadPriority, "the priority must be emergency, urgent, normal or follow-up"}
		}
		v.Priority = ev.Priority
	case AppointmentRescheduled:
		if v.State == VisitScheduled {
			if ev.StartsAt.IsZero() {
				return "", &Refusal{MissingField, "a rescheduled appointment needs startsAt"}
			}
			v.StartsAt = ev.StartsAt.UTC()
			x.drop(TimerNoShow)
			if due, on := x.rules.Timing.dueFor(TimerNoShow, v, ev.At); on {
				x.arm(TimerNoShow, due)
			}
		}
	case ProviderJoined:
		v.ProviderPresent = true
		return togetherGuard(v), nil
	case PatientJoined:
		v.PatientPresent = true
		return togetherGuard(v), nil
	case ProviderLeft:
		v.ProviderPresent = false
	case PatientLeft:
		v.PatientPresent = false
	case ConsultationHeld:
		v.Held = true
	case ConsultationResumed:
		v.Held = false
		return togetherGuard(v), nil
	case ConsultationEnded:
		v.FollowUpRequired = ev.FollowUpRequired
	case EmergencyRequested:
		v.Escalation = EscalationID(ev.ID)
	case TimerFired:
		return x.fireOnVisit(v), nil
	}
	if ev.ReasonCode != "" && (ev.Kind == AppointmentCancelled || ev.Kind == AppointmentRescheduled) {
		v.ReasonCode = ev.ReasonCode
	}
	return "", nil
}

func (x *draft) fireOnVisit(v *Visit) Guard {
	x.drop(x.ev.Timer.Kind)
	switch x.ev.Timer.Kind {
	case TimerLongWait:
		v.LongWaits++
		for { // levels that passed meanwhile, while the daemon was down or the patient with the provider, count as this one
			due, on := x.rules.Timing.dueFor(TimerLongWait, v, x.ev.At)
			if on && due.After(x.ev.At) {
				x.arm(TimerLongWait, due)
			}
			if !on || due.After(x.ev.At) {
				break
			}
			v.LongWaits++
		}
	case TimerConnectHard:
		v.ProviderPresent = false
	case TimerProviderDrop: // called back until the provider comes: a patient on hold is never forgotten
		if due, on := x.rules.Timing.dueFor(TimerProviderDrop, v, x.ev.At); on {
			x.arm(TimerProviderDrop, due)
		}
	case TimerPatientDrop:
		if v.PatientPresent || v.Held {
			return GuardApart // no row: the timer is moot
		}
		return GuardPatientGone
	case TimerBothAbsent:
		if v.PatientPresent || v.ProviderPresent {
			return GuardApart
		}
		return GuardBothGone
	case TimerWrapUpHard:
		v.NotesPending = true
	}
	return ""
}

func deviceGuard(v *Visit) Guard {
	if v.DeviceReady {
		return GuardDeviceReady
	}
	return GuardDeviceNotReady
}

func togetherGuard(v *Visit) Guard {
	if v.PatientPresent && v.ProviderPresent && !v.Held {
		return GuardTogether
	}
	return GuardApart
}

// book fills a new visit from a booking.
func (x *draft) book(v *Visit) *Refusal {
	ev := x.ev
	switch {
	case ev.Department == "":
		return &Refusal{MissingDepartment, "a booking needs departmentId"}
	case ev.Patient == "" || ev.Provider == "" || ev.StartsAt.IsZero():
		return &Refusal{MissingField, "a booking needs patientId, providerId and startsAt"}
	}
	x.fill(v)
	v.StartsAt = ev.StartsAt.UTC()
	v.ReasonCode = ev.ReasonCode
	return x.rank(v, true)
}

// checkIn lets a booked patient or a walk-in into the waiting room.
func (x *draft) checkIn(v, before *Visit) *Refusal {
	ev := x.ev
	if before == nil {
		switch {
		case ev.Department == "":
			return &Refusal{MissingDepartment, "a check-in without a booking needs departmentId"}
		case ev.Patient == "" || ev.Provider == "":
			return &Refusal{MissingField, "a check-in without a booking needs patientId and providerId"}
		}
		x.fill(v)
	} else if opens := v.StartsAt.Add(-x.rules.Timing.CheckInOpens); x.rules.Timing.CheckInOpens > 0 && ev.At.Before(opens) {
		return &Refusal{TooEarly, "check-in opens at " + opens.UTC().Format("15:04") + " UTC; check in again then"}
	}
	if h := x.facts.PairHolder; h != "" && h != v.Appointment {
		return &Refusal{PairBusy, "another visit of this patient with this provider is still open; end that one first"}
	}
	if r := x.rank(v, before == nil || ev.Actor.Role != RolePatient); r != nil {
		return r
	}
	if ev.Consultation != "" {
		v.Consultation = ev.Consultation
	}
	v.Interpreter = v.Interpreter || ev.Interpreter
	v.DeviceReady = ev.DeviceReady != nil && *ev.DeviceReady
	v.CheckedInAt, v.ArrivedAt = ev.At, ev.At
	return nil
}

// fill names the parties of a new visit.
func (x *draft) fill(v *Visit) {
	v.Appointment = x.d.Record.ID.ID
	v.Consultation = x.ev.Consultation
	v.Provider = x.ev.Provider
	v.Patient = x.ev.Patient
	v.Department = x.ev.Department
	v.Modality = ModalityVideo
	v.Interpreter = x.ev.Interpreter
}

// rank takes the priority that the event gives. A patient who was booked cannot overrule the booking.
func (x *draft) rank(v *Visit, may bool) *Refusal {
	if x.ev.Priority != "" {
		if _, known := x.ev.Priority.Rank(); !known {
			return &Refusal{BadPriority, "the priority must be emergency, urgent, normal or follow-up"}
		}
		if may {
			v.Priority = x.ev.Priority
		}
	}
	if v.Priority == "" {
		v.Priority = PriorityNormal
	}
	return nil
}

// enter moves the visit into its next state and notes what follows from being there.
func (x *draft) enter(v *Visit, to State) {
	moved := v.State != to
	v.State = to
	if moved {
		v.StateSince = x.ev.At
	}
	switch to {
	case VisitInProgress:
		v.AbsentSince = time.Time{}
		if v.StartedAt.IsZero() {
			v.StartedAt = x.ev.At
		}
	case VisitOnHold:
		switch absent := !v.PatientPresent || !v.ProviderPresent; {
		case !absent:
			v.AbsentSince = time.Time{}
		case v.AbsentSince.IsZero():
			v.AbsentSince = x.ev.At
		}
	case VisitWrappingUp:
		if moved {
			v.EndedAt = x.ev.At
		}
	}
	if to == VisitWrappingUp || to.Final() { // the consultation is over: nobody is in it any more
		v.PatientPresent, v.ProviderPresent, v.Held = false, false, false
		v.AbsentSince = time.Time{}
	}
}

// settleVisit makes timers, queue, load and pair agree with the visit as it now is. Each follows from the situation before
// and after, never from the event, so what was added is always taken away again.
func (x *draft) settleVisit(old, v *Visit) {
	for _, k := range visitTimers() {
		switch was, is := k.wantedBy(old), k.wantedBy(v); {
		case is && !was:
			if due, on := x.rules.Timing.dueFor(k, v, x.ev.At); on {
				x.arm(k, due)
			}
		case was && !is:
			x.drop(k)
		}
	}

	was, is := old.State.Queued(), v.State.Queued()
	place := PlaceChange{Provider: v.Provider, Department: v.Department, Appointment: v.Appointment, Remove: was && !is}
	if is {
		place.Score = QueueScore(v.Priority, v.ArrivedAt)
	}
	if was != is || is && place.Score != QueueScore(old.Priority, old.ArrivedAt) {
		x.d.Places = []PlaceChange{place}
	}

	if was, is := old.State.Engaged(), v.State.Engaged(); was != is {
		delta := 1
		if was {
			delta = -1
		}
		x.d.Load = []LoadChange{{Provider: v.Provider, Delta: delta}}
	}

	if was, is := old.State.Active(), v.State.Active(); was != is {
		x.d.Pair = &PairChange{Provider: v.Provider, Patient: v.Patient, Appointment: v.Appointment, Clear: was}
	}
}

// announceVisit says what has to be said: to the queue, to the people, to the consultation channel.
func (x *draft) announceVisit(old, v *Visit) {
	was, is := old.State.QueueStatus(), v.State.QueueStatus()
	switch {
	case was == "" && is != "":
		x.queue(v, ActionPatientAdded, nil)
	case was != "" && is == "":
		x.queue(v, ActionPatientRemoved, map[string]any{"reason": string(v.State)})
	case x.ev.Kind == PriorityChanged:
		x.queue(v, ActionStatusUpdated, map[string]any{"newStatus": is, "priority": string(v.Priority)})
	case was != is:
		x.queue(v, ActionStatusUpdated, map[string]any{"newStatus": is})
	}

	x.notifyAbout(old, v)

	if old.State != v.State {
		x.effect(Effect{
			Kind: EffectConsultation, To: v.Provider, Type: ActionStateChanged,
			Fields: map[string]any{"from": string(old.State), "state": string(v.State), "cause": x.cause()},
		})
	}
}

// notifyAbout tells the patient and the provider what concerns them.
func (x *draft) notifyAbout(old, v *Visit) {
	switch x.ev.Kind {
	case PatientCheckedIn:
		x.notify(v.Provider, NoticePatientReady, NoticeHigh, nil)
	case WaitingRoomLeft:
		x.notify(v.Provider, NoticeScheduleChange, NoticeNormal, change(string(v.State)))
	case AppointmentCancelled:
		x.notify(v.Patient, NoticeVisitCancelled, NoticeHigh, change(string(v.State)))
		x.notify(v.Provider, NoticeScheduleChange, NoticeNormal, change(string(v.State)))
	case AppointmentRescheduled:
		x.notify(v.Patient, NoticeScheduleChange, NoticeHigh, change(string(VisitRescheduled)))
		x.notify(v.Provider, NoticeScheduleChange, NoticeNormal, change(string(VisitRescheduled)))
	case ProviderRunningLate:
		x.notify(v.Patient, NoticeRunningLate, NoticeNormal, map[string]any{"delayMinutes": minutes(x.ev.Delay)})
	case ProviderJoined:
		if old.State.Queued() {
			x.notify(v.Patient, NoticeProviderReady, NoticeHigh, nil)
		}
	case EmergencyRequested:
		x.raise(v.Department)
	case TimerFired:
		x.notifyOfTimer(old, v)
	}
}

func (x *draft) notifyOfTimer(old, v *Visit) {
	switch x.ev.Timer.Kind {
	case TimerNoShow:
		x.notify(v.Patient, NoticeNoShow, NoticeNormal, change(string(v.State)))
		x.notify(v.Provider, NoticeScheduleChange, NoticeNormal, change(string(v.State)))
	case TimerReadiness:
		x.notify(v.Patient, NoticeDeviceCheck, NoticeHigh, nil)
	case TimerLongWait:
		waited := minutes(x.ev.At.Sub(v.CheckedInAt))
		if old.LongWaits < 1 {
			x.notify(v.Patient, NoticeQueueDelay, NoticeNormal, map[string]any{"level": 1, "waitedMinutes": waited})
		}
		if v.LongWaits > 1 {
			x.notify(v.Provider, NoticePatientWaiting, NoticeHigh, map[string]any{"level": v.LongWaits, "waitedMinutes": waited})
		}
	case TimerWaitLimit:
		x.notify(v.Patient, NoticeVisitCancelled, NoticeHigh, change(string(v.State)))
		x.notify(v.Provider, NoticeScheduleChange, NoticeNormal, change(string(v.State)))
	case TimerConnectSoft:
		if !v.PatientPresent {
			x.notify(v.Patient, NoticeProviderReady, NoticeHigh, nil)
		}
	case TimerConnectHard:
		if v.PatientPresent { // it was the provider who went missing
			x.notify(v.Provider, NoticePatientWaiting, NoticeCritical, nil)
		} else {
			x.notify(v.Provider, NoticeNotConnected, NoticeHigh, nil)
		}
	case TimerProviderDrop:
		if v.PatientPresent {
			x.notify(v.Provider, NoticePatientWaiting, NoticeCritical, nil)
		}
	case TimerWrapUpSoft:
		x.notify(v.Provider, NoticeNotesDue, NoticeNormal, nil)
	}
}

func change(to string) map[string]any { return map[string]any{"change": to} }

func (x *draft) queue(v *Visit, action string, fields map[string]any) {
	x.effect(Effect{Kind: EffectQueue, To: v.Department, Type: action, Fields: fields})
}

func (x *draft) notify(to, notice, priority string, fields map[string]any) {
	x.effect(Effect{Kind: EffectNotify, To: to, Type: notice, Priority: priority, Fields: fields})
}

// visitAudit is the event type and severity of the audit entry for an accepted event.
func visitAudit(kind Kind, old, v *Visit) (eventType, severity string) {
	switch {
	case kind == EmergencyRequested:
		return AuditEmergencyAsked, AuditCritical
	case kind == PatientCheckedIn:
		return AuditCheckIn, AuditInfo
	case old.StartedAt.IsZero() && !v.StartedAt.IsZero():
		return AuditSessionStart, AuditInfo
	case old.State != v.State && v.State == VisitWrappingUp:
		return AuditSessionEnd, AuditInfo
	case old.State != v.State:
		return AuditStateChanged, AuditInfo
	}
	return AuditEventAccepted, AuditInfo
}
