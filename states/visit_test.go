package states_test

import (
	"strings"
	"testing"
	"time"

	"consultd/states"
)

func TestAVisitFromBookingToNotes(t *testing.T) {
	s := aVisit(t)
	s.does(asBackend, states.AppointmentScheduled, inDepartment, startsAt(noon.Add(10*time.Minute))).gives(`
		none -> scheduled
		consultation dr-lee STATE_CHANGED [cause:APPOINTMENT_SCHEDULED from: state:scheduled]
		arm no-show #1 in 25m0s
		audit VISIT_STATE_CHANGED APPOINTMENT_SCHEDULED info`)
	s.does(asPatient, states.PatientCheckedIn).gives(`
		scheduled -> checked-in
		queue cardiology PATIENT_ADDED
		notify dr-lee PATIENT_READY high
		consultation dr-lee STATE_CHANGED [cause:PATIENT_CHECKED_IN from:scheduled state:checked-in]
		drop no-show #1
		arm readiness #1 in 5m0s
		arm long-wait #1 in 15m0s
		arm wait-limit #1 in 4h0m0s
		queue dr-lee/cardiology rank 2 since 12:00
		pair dr-lee pat-1 appt-1
		audit CHECK_IN PATIENT_CHECKED_IN info`)
	s.wait(time.Minute).does(asPatient, states.PatientReadyConfirmed, device(true)).gives(`
		checked-in -> waiting
		queue cardiology STATUS_UPDATED [newStatus:waiting]
		consultation dr-lee STATE_CHANGED [cause:PATIENT_READY_CONFIRMED from:checked-in state:waiting]
		drop readiness #1
		audit VISIT_STATE_CHANGED PATIENT_READY_CONFIRMED info`)
	s.wait(4*time.Minute).does(asProvider, states.ProviderJoined).gives(`
		waiting -> connecting
		queue cardiology STATUS_UPDATED [newStatus:in-consultation]
		notify pat-1 PROVIDER_READY high
		consultation dr-lee STATE_CHANGED [cause:PROVIDER_JOINED from:waiting state:connecting]
		drop long-wait #1
		drop wait-limit #1
		arm connect-soft #1 in 30s
		arm connect-hard #1 in 2m0s
		leave queue dr-lee/cardiology
		load dr-lee +1
		audit VISIT_STATE_CHANGED PROVIDER_JOINED info`)
	s.wait(10*time.Second).does(asPatient, states.PatientJoined).gives(`
		connecting -> in-progress
		consultation dr-lee STATE_CHANGED [cause:PATIENT_JOINED from:connecting state:in-progress]
		drop connect-soft #1
		drop connect-hard #1
		audit CONSULTATION_SESSION_START PATIENT_JOINED info`)
	s.wait(20*time.Minute).does(asProvider, states.ConsultationEnded, func(ev *states.Event) { ev.FollowUpRequired = true }).gives(`
		in-progress -> wrapping-up
		consultation dr-lee STATE_CHANGED [cause:CONSULTATION_ENDED from:in-progress state:wrapping-up]
		arm wrap-up-soft #1 in 10m0s
		arm wrap-up-hard #1 in 1h0m0s
		load dr-lee -1
		audit CONSULTATION_SESSION_END CONSULTATION_ENDED info`)
	s.does(asPatient, states.PatientLeft).gives(`
		wrapping-up
		audit EVENT_ACCEPTED PATIENT_LEFT info`)
	s.does(asProvider, states.ProviderLeft).gives(`
		wrapping-up
		audit EVENT_ACCEPTED PROVIDER_LEFT info`)
	s.wait(5*time.Minute).does(asProvider, states.NotesCompleted).gives(`
		wrapping-up -> completed
		queue cardiology PATIENT_REMOVED [reason:completed]
		consultation dr-lee STATE_CHANGED [cause:NOTES_COMPLETED from:wrapping-up state:completed]
		drop wrap-up-soft #1
		drop wrap-up-hard #1
		unpair dr-lee pat-1 appt-1
		audit VISIT_STATE_CHANGED NOTES_COMPLETED info
		expire`)
	v := s.record.Visit
	if !v.FollowUpRequired || v.NotesPending || v.EndedAt.Sub(v.StartedAt) != 20*time.Minute || v.StartedAt.Sub(v.CheckedInAt) != 5*time.Minute+10*time.Second {
		t.Fatalf("the visit remembers %+v", v)
	}
}

func TestAWalkInWithAReadyDeviceWaitsAtOnce(t *testing.T) {
	aVisit(t).does(asPatient, states.PatientCheckedIn, inDepartment, device(true), priority(states.PriorityUrgent)).gives(`
		none -> waiting
		queue cardiology PATIENT_ADDED
		notify dr-lee PATIENT_READY high
		consultation dr-lee STATE_CHANGED [cause:PATIENT_CHECKED_IN from: state:waiting]
		arm long-wait #1 in 15m0s
		arm wait-limit #1 in 4h0m0s
		queue dr-lee/cardiology rank 1 since 12:00
		pair dr-lee pat-1 appt-1
		audit CHECK_IN PATIENT_CHECKED_IN info`)
}

func TestACheckInIsRefused(t *testing.T) {
	later := startsAt(noon.Add(2 * time.Hour))
	t.Run("too early", func(t *testing.T) {
		s := aVisit(t).does(asBackend, states.AppointmentScheduled, inDepartment, later)
		s.does(asPatient, states.PatientCheckedIn).refused(states.TooEarly)
		if d := s.last.Refusal.Detail; !strings.Contains(d, "13:40 UTC") {
			t.Fatalf("the detail %q does not say when check-in opens", d)
		}
		s.wait(100*time.Minute).does(asPatient, states.PatientCheckedIn)
		if s.record.Visit.State != states.VisitCheckedIn {
			t.Fatal("check-in does not open when it should")
		}
	})
	t.Run("open at any time when the rules say so", func(t *testing.T) {
		s := aVisit(t)
		s.rules.Timing.CheckInOpens = 0
		s.does(asBackend, states.AppointmentScheduled, inDepartment, later).does(asPatient, states.PatientCheckedIn)
		if s.record.Visit.State != states.VisitCheckedIn {
			t.Fatal("the check-in was refused")
		}
	})
	t.Run("somebody else's appointment", func(t *testing.T) {
		aVisit(t).booked().does(asNurse, states.PatientCheckedIn, func(ev *states.Event) { ev.Patient = "pat-2" }).refused(states.WrongVisit)
	})
	t.Run("another provider's waiting room", func(t *testing.T) {
		aVisit(t).booked().does(asPatient, states.PatientCheckedIn, func(ev *states.Event) { ev.Provider = "dr-no" }).refused(states.WrongVisit)
	})
	t.Run("walk-in to no department", func(t *testing.T) {
		aVisit(t).does(asPatient, states.PatientCheckedIn).refused(states.MissingDepartment)
	})
	t.Run("walk-in of nobody", func(t *testing.T) {
		aVisit(t).does(asBackend, states.PatientCheckedIn, inDepartment, func(ev *states.Event) { ev.Patient = "" }).refused(states.MissingField)
	})
	t.Run("unknown priority", func(t *testing.T) {
		aVisit(t).does(asPatient, states.PatientCheckedIn, inDepartment, priority("asap")).refused(states.BadPriority)
	})
	t.Run("another visit of the pair is open", func(t *testing.T) {
		s := aVisit(t).booked()
		s.facts.PairHolder = "appt-0"
		s.does(asPatient, states.PatientCheckedIn).refused(states.PairBusy)
		s.facts.PairHolder = appointment
		s.checkedIn()
		if s.record.Visit.State != states.VisitCheckedIn {
			t.Fatal("a visit is in its own way")
		}
	})
	t.Run("twice", func(t *testing.T) {
		aVisit(t).checkedIn().does(asPatient, states.PatientCheckedIn).refused(states.AlreadyCheckedIn)
	})
	t.Run("after the end", func(t *testing.T) {
		s := aVisit(t).completed().does(asPatient, states.PatientCheckedIn).refused(states.VisitClosed)
		if !s.last.Expire {
			t.Fatal("the refusal makes the store keep a closed record for ever")
		}
	})
}

func TestABookingIsRefused(t *testing.T) {
	soon := startsAt(noon.Add(time.Hour))
	aVisit(t).does(asBackend, states.AppointmentScheduled, soon).refused(states.MissingDepartment)
	aVisit(t).does(asBackend, states.AppointmentScheduled, inDepartment).refused(states.MissingField)
	aVisit(t).does(asBackend, states.AppointmentScheduled, inDepartment, soon, priority("high")).refused(states.BadPriority)
	aVisit(t).does(asPatient, states.AppointmentScheduled, inDepartment, soon).refused(states.RoleNotAllowed)
	aVisit(t).booked().does(asBackend, states.AppointmentScheduled, inDepartment, soon).refused(states.AlreadyBooked)
	aVisit(t).completed().does(asBackend, states.AppointmentScheduled, inDepartment, soon).refused(states.AlreadyBooked)

	s := aVisit(t).does(asBackend, states.AppointmentScheduled).refused(states.MissingDepartment)
	s.booked() // a refused booking does not stand in the way of a better one
	if s.record.Visit.State != states.VisitScheduled || s.record.Version != 2 {
		t.Fatalf("the record is %+v", s.record)
	}
}

func TestWhoSetsThePriorityOfACheckIn(t *testing.T) {
	booked := func(p states.Priority) *story {
		return aVisit(t).does(asBackend, states.AppointmentScheduled, inDepartment, startsAt(noon), priority(p))
	}
	for _, c := range []struct {
		name string
		s    *story
		want states.Priority
	}{
		{"nobody", aVisit(t).checkedIn(), states.PriorityNormal},
		{"the booking", booked(states.PriorityFollowUp).does(asPatient, states.PatientCheckedIn), states.PriorityFollowUp},
		{"the booking, not the patient", booked(states.PriorityNormal).does(asPatient, states.PatientCheckedIn, priority(states.PriorityEmergency)), states.PriorityNormal},
		{"the nurse at the door", booked(states.PriorityNormal).does(asNurse, states.PatientCheckedIn, priority(states.PriorityUrgent)), states.PriorityUrgent},
		{"the walk-in", aVisit(t).does(asPatient, states.PatientCheckedIn, inDepartment, priority(states.PriorityUrgent)), states.PriorityUrgent},
	} {
		if got := c.s.record.Visit.Priority; got != c.want {
			t.Errorf("%s: priority %s instead of %s", c.name, got, c.want)
		}
	}
}

func TestADeviceThatFailsTwiceMakesItAPhoneCall(t *testing.T) {
	s := aVisit(t).checkedIn()
	s.does(asPatient, states.PatientReadyConfirmed, device(false)).gives(`
		checked-in
		audit EVENT_ACCEPTED PATIENT_READY_CONFIRMED info`)
	s.does(asNurse, states.PatientReadyConfirmed, device(false), claiming(patient)).gives(`
		checked-in -> waiting
		queue cardiology STATUS_UPDATED [newStatus:waiting]
		consultation dr-lee STATE_CHANGED [cause:PATIENT_READY_CONFIRMED from:checked-in state:waiting]
		drop readiness #1
		audit VISIT_STATE_CHANGED PATIENT_READY_CONFIRMED info`)
	if s.record.Visit.Modality != states.ModalityPhone {
		t.Fatalf("the modality is %s", s.record.Visit.Modality)
	}
}

func TestLeavingTheWaitingRoom(t *testing.T) {
	aVisit(t).checkedIn().wait(time.Minute).does(asPatient, states.WaitingRoomLeft).gives(`
		checked-in -> left-without-being-seen
		queue cardiology PATIENT_REMOVED [reason:left-without-being-seen]
		notify dr-lee SCHEDULE_CHANGE normal [change:left-without-being-seen]
		consultation dr-lee STATE_CHANGED [cause:WAITING_ROOM_LEFT from:checked-in state:left-without-being-seen]
		drop readiness #1
		drop long-wait #1
		drop wait-limit #1
		leave queue dr-lee/cardiology
		unpair dr-lee pat-1 appt-1
		audit VISIT_STATE_CHANGED WAITING_ROOM_LEFT info
		expire`)
}

func TestCancelling(t *testing.T) {
	t.Run("before check-in", func(t *testing.T) {
		s := aVisit(t).booked().does(asProvider, states.AppointmentCancelled, func(ev *states.Event) { ev.ReasonCode = "ill" }).gives(`
			scheduled -> cancelled
			notify pat-1 VISIT_CANCELLED high [change:cancelled]
			notify dr-lee SCHEDULE_CHANGE normal [change:cancelled]
			consultation dr-lee STATE_CHANGED [cause:APPOINTMENT_CANCELLED from:scheduled state:cancelled]
			drop no-show #1
			audit VISIT_STATE_CHANGED APPOINTMENT_CANCELLED info
			expire`)
		if s.record.Visit.ReasonCode != "ill" {
			t.Fatal("the reason is lost")
		}
	})
	t.Run("while waiting", func(t *testing.T) {
		aVisit(t).waiting().does(asBackend, states.AppointmentCancelled).gives(`
			waiting -> cancelled
			queue cardiology PATIENT_REMOVED [reason:cancelled]
			notify pat-1 VISIT_CANCELLED high [change:cancelled]
			notify dr-lee SCHEDULE_CHANGE normal [change:cancelled]
			consultation dr-lee STATE_CHANGED [cause:APPOINTMENT_CANCELLED from:waiting state:cancelled]
			drop long-wait #1
			drop wait-limit #1
			leave queue dr-lee/cardiology
			unpair dr-lee pat-1 appt-1
			audit VISIT_STATE_CHANGED APPOINTMENT_CANCELLED info
			expire`)
	})
	t.Run("too late", func(t *testing.T) {
		aVisit(t).connecting().does(asPatient, states.AppointmentCancelled).refused(states.WrongState)
	})
}

func TestRescheduling(t *testing.T) {
	t.Run("before check-in the same visit moves", func(t *testing.T) {
		s := aVisit(t).booked()
		s.does(asPatient, states.AppointmentRescheduled).refused(states.MissingField)
		s.does(asPatient, states.AppointmentRescheduled, startsAt(noon.Add(24*time.Hour))).gives(`
			scheduled
			notify pat-1 SCHEDULE_CHANGE high [change:rescheduled]
			notify dr-lee SCHEDULE_CHANGE normal [change:rescheduled]
			drop no-show #1
			arm no-show #2 in 24h15m0s
			audit EVENT_ACCEPTED APPOINTMENT_RESCHEDULED info`)
		s.fires(states.TimerNoShow)
		if s.record.Visit.State != states.VisitNoShow || s.now != noon.Add(24*time.Hour+15*time.Minute) {
			t.Fatalf("%s at %s", s.record.Visit.State, s.now)
		}
	})
	t.Run("in the waiting room this visit is over", func(t *testing.T) {
		aVisit(t).waiting().does(asNurse, states.AppointmentRescheduled, startsAt(noon.Add(24*time.Hour))).gives(`
			waiting -> rescheduled
			queue cardiology PATIENT_REMOVED [reason:rescheduled]
			notify pat-1 SCHEDULE_CHANGE high [change:rescheduled]
			notify dr-lee SCHEDULE_CHANGE normal [change:rescheduled]
			consultation dr-lee STATE_CHANGED [cause:APPOINTMENT_RESCHEDULED from:waiting state:rescheduled]
			drop long-wait #1
			drop wait-limit #1
			leave queue dr-lee/cardiology
			unpair dr-lee pat-1 appt-1
			audit VISIT_STATE_CHANGED APPOINTMENT_RESCHEDULED info
			expire`)
	})
}

func TestTriageRanksAnew(t *testing.T) {
	s := aVisit(t).waiting().wait(5 * time.Minute)
	s.does(asNurse, states.PriorityChanged, priority(states.PriorityEmergency)).gives(`
		waiting
		queue cardiology STATUS_UPDATED [newStatus:waiting priority:emergency]
		queue dr-lee/cardiology rank 0 since 12:00
		audit EVENT_ACCEPTED PRIORITY_CHANGED info`)
	s.does(asNurse, states.PriorityChanged, priority("soon")).refused(states.BadPriority)
	s.does(asPatient, states.PriorityChanged, priority(states.PriorityEmergency)).refused(states.RoleNotAllowed)
}

func TestAProviderRunningLate(t *testing.T) {
	aVisit(t).waiting().does(asProvider, states.ProviderRunningLate, func(ev *states.Event) { ev.Delay = 25 * time.Minute }).gives(`
		waiting
		notify pat-1 PROVIDER_RUNNING_LATE normal [delayMinutes:25]
		audit EVENT_ACCEPTED PROVIDER_RUNNING_LATE info`)
}

func TestTheProviderJoinsAPatientWhoIsAlreadyThere(t *testing.T) {
	s := aVisit(t).waiting()
	s.does(asPatient, states.PatientJoined).gives(`
		waiting
		audit EVENT_ACCEPTED PATIENT_JOINED info`)
	s.does(asPatient, states.PatientLeft).does(asPatient, states.PatientJoined)
	s.does(asProvider, states.ProviderJoined).gives(`
		waiting -> in-progress
		queue cardiology STATUS_UPDATED [newStatus:in-consultation]
		notify pat-1 PROVIDER_READY high
		consultation dr-lee STATE_CHANGED [cause:PROVIDER_JOINED from:waiting state:in-progress]
		drop long-wait #1
		drop wait-limit #1
		leave queue dr-lee/cardiology
		load dr-lee +1
		audit CONSULTATION_SESSION_START PROVIDER_JOINED info`)
	s.does(asProvider, states.ProviderJoined).gives(`
		in-progress
		audit EVENT_ACCEPTED PROVIDER_JOINED info`)
	s.does(asPatient, states.PatientJoined).gives(`
		in-progress
		audit EVENT_ACCEPTED PATIENT_JOINED info`)
}

func TestAConnectionThatDoesNotComeAbout(t *testing.T) {
	t.Run("the patient is called again, then waits on", func(t *testing.T) {
		s := aVisit(t).waiting().wait(14*time.Minute).does(asProvider, states.ProviderJoined)
		s.fires(states.TimerConnectSoft).gives(`
			connecting
			notify pat-1 PROVIDER_READY high
			audit EVENT_ACCEPTED TIMER_CONNECT_SOFT info`)
		s.fires(states.TimerConnectHard).gives(`
			connecting -> waiting
			queue cardiology STATUS_UPDATED [newStatus:waiting]
			notify dr-lee PATIENT_NOT_CONNECTED high
			consultation dr-lee STATE_CHANGED [cause:TIMER_CONNECT_HARD from:connecting state:waiting]
			arm long-wait #2 in 0s
			arm wait-limit #2 in 4h0m0s
			queue dr-lee/cardiology rank 2 since 12:00
			load dr-lee -1
			audit VISIT_STATE_CHANGED TIMER_CONNECT_HARD info`)
		s.does(asProvider, states.ProviderLeft).refused(states.WrongState)
		s.does(asProvider, states.ProviderJoined).does(asPatient, states.PatientJoined)
		if s.record.Visit.State != states.VisitInProgress {
			t.Fatal("there is no second try")
		}
	})
	t.Run("the provider goes before the patient comes", func(t *testing.T) {
		s := aVisit(t).connecting()
		s.does(asProvider, states.ProviderLeft).gives(`
			connecting
			audit EVENT_ACCEPTED PROVIDER_LEFT info`)
		s.does(asPatient, states.PatientJoined).gives(`
			connecting
			audit EVENT_ACCEPTED PATIENT_JOINED info`)
		s.fires(states.TimerConnectHard).gives(`
			connecting -> waiting
			queue cardiology STATUS_UPDATED [newStatus:waiting]
			notify dr-lee PATIENT_WAITING critical
			consultation dr-lee STATE_CHANGED [cause:TIMER_CONNECT_HARD from:connecting state:waiting]
			arm long-wait #2 in 13m0s
			arm wait-limit #2 in 4h0m0s
			drop connect-soft #1
			queue dr-lee/cardiology rank 2 since 12:00
			load dr-lee -1
			audit VISIT_STATE_CHANGED TIMER_CONNECT_HARD info`)
		s.does(asProvider, states.ProviderJoined)
		if s.record.Visit.State != states.VisitInProgress {
			t.Fatal("the patient who is still there is not seen")
		}
	})
	t.Run("the provider ends it", func(t *testing.T) {
		aVisit(t).connecting().does(asProvider, states.ConsultationEnded).gives(`
			connecting -> wrapping-up
			consultation dr-lee STATE_CHANGED [cause:CONSULTATION_ENDED from:connecting state:wrapping-up]
			drop connect-soft #1
			drop connect-hard #1
			arm wrap-up-soft #1 in 10m0s
			arm wrap-up-hard #1 in 1h0m0s
			load dr-lee -1
			audit CONSULTATION_SESSION_END CONSULTATION_ENDED info`)
	})
}

func TestAPatientWhoDropsOut(t *testing.T) {
	s := aVisit(t).inProgress()
	s.does(asPatient, states.PatientLeft).gives(`
		in-progress -> on-hold
		consultation dr-lee STATE_CHANGED [cause:PATIENT_LEFT from:in-progress state:on-hold]
		arm patient-drop #1 in 5m0s
		audit VISIT_STATE_CHANGED PATIENT_LEFT info`)
	s.wait(time.Minute).does(asPatient, states.PatientJoined).gives(`
		on-hold -> in-progress
		consultation dr-lee STATE_CHANGED [cause:PATIENT_JOINED from:on-hold state:in-progress]
		drop patient-drop #1
		audit VISIT_STATE_CHANGED PATIENT_JOINED info`)
	s.does(asPatient, states.PatientLeft)
	s.fires(states.TimerPatientDrop).gives(`
		on-hold -> wrapping-up
		consultation dr-lee STATE_CHANGED [cause:TIMER_PATIENT_DROP from:on-hold state:wrapping-up]
		arm wrap-up-soft #1 in 10m0s
		arm wrap-up-hard #1 in 1h0m0s
		load dr-lee -1
		audit CONSULTATION_SESSION_END TIMER_PATIENT_DROP info`)
}

func TestAProviderWhoDropsOut(t *testing.T) {
	s := aVisit(t).inProgress()
	s.does(asProvider, states.ProviderLeft).gives(`
		in-progress -> on-hold
		consultation dr-lee STATE_CHANGED [cause:PROVIDER_LEFT from:in-progress state:on-hold]
		arm provider-drop #1 in 1m30s
		audit VISIT_STATE_CHANGED PROVIDER_LEFT info`)
	s.fires(states.TimerProviderDrop).gives(`
		on-hold
		notify dr-lee PATIENT_WAITING critical
		arm provider-drop #2 in 1m30s
		audit EVENT_ACCEPTED TIMER_PROVIDER_DROP info`)
	s.fires(states.TimerProviderDrop)
	s.does(asProvider, states.ProviderJoined).gives(`
		on-hold -> in-progress
		consultation dr-lee STATE_CHANGED [cause:PROVIDER_JOINED from:on-hold state:in-progress]
		drop provider-drop #3
		audit VISIT_STATE_CHANGED PROVIDER_JOINED info`)
}

func TestBothDropOut(t *testing.T) {
	s := aVisit(t).inProgress().does(asProvider, states.ProviderLeft).wait(time.Minute)
	s.does(asPatient, states.PatientLeft).gives(`
		on-hold
		arm patient-drop #1 in 5m0s
		arm both-absent #1 in 5m0s
		audit EVENT_ACCEPTED PATIENT_LEFT info`)
	s.does(asProvider, states.ProviderJoined).gives(`
		on-hold
		drop provider-drop #1
		drop both-absent #1
		audit EVENT_ACCEPTED PROVIDER_JOINED info`)
	s.does(asProvider, states.ProviderLeft)
	s.fires(states.TimerBothAbsent).gives(`
		on-hold -> wrapping-up
		consultation dr-lee STATE_CHANGED [cause:TIMER_BOTH_ABSENT from:on-hold state:wrapping-up]
		drop provider-drop #2
		drop patient-drop #1
		arm wrap-up-soft #1 in 10m0s
		arm wrap-up-hard #1 in 1h0m0s
		load dr-lee -1
		audit CONSULTATION_SESSION_END TIMER_BOTH_ABSENT info`)
}

func TestAHold(t *testing.T) {
	s := aVisit(t).inProgress()
	s.does(asProvider, states.ConsultationHeld).gives(`
		in-progress -> on-hold
		consultation dr-lee STATE_CHANGED [cause:CONSULTATION_HELD from:in-progress state:on-hold]
		audit VISIT_STATE_CHANGED CONSULTATION_HELD info`)
	s.does(asPatient, states.PatientLeft).gives(`
		on-hold
		audit EVENT_ACCEPTED PATIENT_LEFT info`) // nobody ends a visit because the patient puts the phone down during a hold
	s.does(asProvider, states.ConsultationResumed).gives(`
		on-hold
		arm patient-drop #1 in 5m0s
		audit EVENT_ACCEPTED CONSULTATION_RESUMED info`)
	s.does(asPatient, states.PatientJoined)
	s.does(asProvider, states.ConsultationHeld).does(asProvider, states.ProviderLeft).does(asProvider, states.ProviderJoined).gives(`
		on-hold
		drop provider-drop #1
		audit EVENT_ACCEPTED PROVIDER_JOINED info`)
	s.does(asPatient, states.PatientJoined).gives(`
		on-hold
		audit EVENT_ACCEPTED PATIENT_JOINED info`)
	s.does(asProvider, states.ConsultationResumed).gives(`
		on-hold -> in-progress
		consultation dr-lee STATE_CHANGED [cause:CONSULTATION_RESUMED from:on-hold state:in-progress]
		audit VISIT_STATE_CHANGED CONSULTATION_RESUMED info`)
	s.does(asProvider, states.ConsultationResumed).refused(states.WrongState)
	s.does(asPatient, states.ConsultationHeld).refused(states.RoleNotAllowed)
}

func TestNotesThatAreNeverWritten(t *testing.T) {
	s := aVisit(t).wrappingUp()
	s.fires(states.TimerWrapUpSoft).gives(`
		wrapping-up
		notify dr-lee NOTES_DUE normal
		audit EVENT_ACCEPTED TIMER_WRAP_UP_SOFT info`)
	s.fires(states.TimerWrapUpHard).gives(`
		wrapping-up -> completed
		queue cardiology PATIENT_REMOVED [reason:completed]
		consultation dr-lee STATE_CHANGED [cause:TIMER_WRAP_UP_HARD from:wrapping-up state:completed]
		unpair dr-lee pat-1 appt-1
		audit VISIT_STATE_CHANGED TIMER_WRAP_UP_HARD info
		expire`)
	if !s.record.Visit.NotesPending {
		t.Fatal("nobody knows that the notes are missing")
	}
}

func TestAPatientWhoDoesNotShowUp(t *testing.T) {
	aVisit(t).booked().fires(states.TimerNoShow).gives(`
		scheduled -> no-show
		notify pat-1 VISIT_NO_SHOW normal [change:no-show]
		notify dr-lee SCHEDULE_CHANGE normal [change:no-show]
		consultation dr-lee STATE_CHANGED [cause:TIMER_NO_SHOW from:scheduled state:no-show]
		audit VISIT_STATE_CHANGED TIMER_NO_SHOW info
		expire`)
}

func TestALongWait(t *testing.T) {
	s := aVisit(t).checkedIn()
	s.fires(states.TimerReadiness).gives(`
		checked-in
		notify pat-1 DEVICE_CHECK_NEEDED high
		audit EVENT_ACCEPTED TIMER_READINESS info`)
	s.fires(states.TimerLongWait).gives(`
		checked-in
		notify pat-1 QUEUE_DELAY normal [level:1 waitedMinutes:15]
		arm long-wait #2 in 15m0s
		audit EVENT_ACCEPTED TIMER_LONG_WAIT info`)
	s.fires(states.TimerLongWait).gives(`
		checked-in
		notify dr-lee PATIENT_WAITING high [level:2 waitedMinutes:30]
		arm long-wait #3 in 15m0s
		audit EVENT_ACCEPTED TIMER_LONG_WAIT info`)
	s.fires(states.TimerLongWait).gives(`
		checked-in
		notify dr-lee PATIENT_WAITING high [level:3 waitedMinutes:45]
		audit EVENT_ACCEPTED TIMER_LONG_WAIT info`)
	s.fires(states.TimerWaitLimit).gives(`
		checked-in -> left-without-being-seen
		queue cardiology PATIENT_REMOVED [reason:left-without-being-seen]
		notify pat-1 VISIT_CANCELLED high [change:left-without-being-seen]
		notify dr-lee SCHEDULE_CHANGE normal [change:left-without-being-seen]
		consultation dr-lee STATE_CHANGED [cause:TIMER_WAIT_LIMIT from:checked-in state:left-without-being-seen]
		leave queue dr-lee/cardiology
		unpair dr-lee pat-1 appt-1
		audit VISIT_STATE_CHANGED TIMER_WAIT_LIMIT info
		expire`)
}

// With the daemon down until the second level has passed too, everybody is told once; the third comes at its time.
func TestALongWaitThatNobodyWatched(t *testing.T) {
	s := aVisit(t).checkedIn()
	armed, _ := s.record.Visit.Timers.Armed(states.TimerLongWait)
	s.wait(40*time.Minute).does(states.Actor{}, states.TimerFired, timer(s.record.ID, states.TimerLongWait, armed.Generation)).gives(`
		checked-in
		notify pat-1 QUEUE_DELAY normal [level:1 waitedMinutes:40]
		notify dr-lee PATIENT_WAITING high [level:2 waitedMinutes:40]
		arm long-wait #2 in 5m0s
		audit EVENT_ACCEPTED TIMER_LONG_WAIT info`)
	s.fires(states.TimerLongWait).gives(`
		checked-in
		notify dr-lee PATIENT_WAITING high [level:3 waitedMinutes:45]
		audit EVENT_ACCEPTED TIMER_LONG_WAIT info`)
}

func TestTimersThatTheRulesSwitchOff(t *testing.T) {
	s := aVisit(t)
	s.rules.Timing = states.Timing{}
	s.booked().does(asPatient, states.PatientCheckedIn).does(asProvider, states.ProviderJoined).does(asPatient, states.PatientJoined)
	s.does(asPatient, states.PatientLeft).does(asProvider, states.ProviderLeft).does(asProvider, states.ConsultationEnded)
	if v := s.record.Visit; v.State != states.VisitWrappingUp || len(v.Timers) > 0 {
		t.Fatalf("%s with timers %v", v.State, v.Timers)
	}
}

func TestWhoMaySpeakForWhom(t *testing.T) {
	ended := states.ConsultationEnded
	for _, c := range []struct {
		name    string
		who     states.Actor
		kind    states.Kind
		claimed string
		code    states.RefusalCode // "" when accepted
	}{
		{"the provider", asProvider, ended, provider, ""},
		{"another provider", states.Actor{ID: "dr-no", Role: states.RoleProvider}, ended, "", states.WrongActor},
		{"another provider as this one", states.Actor{ID: "dr-no", Role: states.RoleProvider}, ended, provider, states.WrongActor},
		{"the provider as somebody else", asProvider, ended, "dr-no", states.WrongActor},
		{"the patient", asPatient, ended, "", states.RoleNotAllowed},
		{"a backend for the provider", asBackend, ended, provider, ""},
		{"an operator for the provider", asOperator, ended, provider, ""},
		{"a backend for nobody", asBackend, ended, "", states.RoleNotAllowed},
		{"a backend for another provider", asBackend, ended, "dr-no", states.RoleNotAllowed},
		{"a nurse", asNurse, ended, "", states.RoleNotAllowed},
		{"a stranger", asStranger, ended, "", states.RoleNotAllowed},
		{"a role that does not exist", states.Actor{ID: provider, Role: "root"}, ended, "", states.RoleNotAllowed},
		{"the daemon's own name", states.Actor{ID: "consultd", Role: states.RoleSystem}, ended, "", states.RoleNotAllowed},
		{"the patient leaves", asPatient, states.PatientLeft, patient, ""},
		{"another patient leaves", states.Actor{ID: "pat-2", Role: states.RolePatient}, states.PatientLeft, "", states.WrongActor},
		{"a backend for the patient", asBackend, states.PatientLeft, patient, ""},
		{"a backend for the wrong party", asBackend, states.PatientLeft, provider, states.RoleNotAllowed},
		{"a nurse for the patient", asNurse, states.PatientLeft, patient, states.RoleNotAllowed},
	} {
		t.Run(c.name, func(t *testing.T) {
			s := aVisit(t).inProgress().does(c.who, c.kind, claiming(c.claimed))
			if c.code != "" {
				s.refused(c.code)
			} else if s.last.Refusal != nil {
				t.Fatalf("refused: %v", *s.last.Refusal)
			}
		})
	}
	t.Run("a nurse names the patient", func(t *testing.T) {
		aVisit(t).does(asNurse, states.PatientCheckedIn, inDepartment, claiming("pat-2")).refused(states.WrongActor)
		if s := aVisit(t).does(asNurse, states.PatientCheckedIn, inDepartment, claiming(patient)); s.last.Refusal != nil {
			t.Fatal("a nurse cannot check a patient in")
		}
	})
	t.Run("nobody learns the state of a visit by being refused", func(t *testing.T) {
		aVisit(t).completed().does(asStranger, states.PatientLeft).refused(states.RoleNotAllowed)
		aVisit(t).completed().does(states.Actor{ID: "pat-2", Role: states.RolePatient}, states.PatientLeft).refused(states.WrongActor)
	})
}

func TestAnEmergencyIsNeverRefused(t *testing.T) {
	for name, s := range map[string]*story{
		"scheduled":   aVisit(t).booked(),
		"in progress": aVisit(t).inProgress(),
		"completed":   aVisit(t).completed(),
	} {
		t.Run(name, func(t *testing.T) {
			state := s.record.Visit.State
			s.events = 40
			s.does(asStranger, states.EmergencyRequested, claiming(provider), severity(states.SeverityLifeThreatening), func(ev *states.Event) {
				ev.Said = ev.At.Add(-24 * time.Hour)
				ev.Patient = "pat-2"
				ev.ReasonCode = "chest-pain"
			})
			id := states.EscalationID("ev41")
			want := []string{
				string(state),
				"raise cardiology EMERGENCY_ESCALATION critical [escalationId:" + id + " reasonCode:chest-pain severity:life-threatening]",
				"audit EMERGENCY_REQUESTED EMERGENCY_REQUESTED critical",
			}
			if state.Final() {
				want = append(want, "expire")
			}
			s.gives(strings.Join(want, "\n"))
			if s.record.Visit.Escalation != id || s.last.Effects[0].Visit.Department != department {
				t.Fatal("the visit does not know its escalation")
			}
		})
	}
	t.Run("without a severity it is critical", func(t *testing.T) {
		for _, v := range []states.Severity{"", "very"} {
			s := aVisit(t).inProgress().does(asPatient, states.EmergencyRequested, severity(v))
			if got := s.last.Effects[0].Fields["severity"]; got != "critical" {
				t.Fatalf("severity %q becomes %v", v, got)
			}
		}
	})
	t.Run("about an unknown visit, with a department", func(t *testing.T) {
		s := aVisit(t).does(asPatient, states.EmergencyRequested, inDepartment)
		if s.last.Refusal != nil || len(s.last.Effects) != 1 || s.last.Effects[0].Kind != states.EffectRaise || s.record.Visit != nil {
			t.Fatalf("gives %s", summary(s.last, s.now))
		}
	})
}

func TestClocksThatDisagree(t *testing.T) {
	said := func(ahead time.Duration) *story {
		return aVisit(t).does(asPatient, states.PatientCheckedIn, inDepartment, func(ev *states.Event) { ev.Said = ev.At.Add(ahead) })
	}
	said(5*time.Minute + time.Millisecond).refused(states.ClockSkew)
	said(-15*time.Minute - time.Millisecond).refused(states.ClockSkew)
	for _, d := range []time.Duration{0, 5 * time.Minute, -15 * time.Minute} {
		if s := said(d); s.last.Refusal != nil {
			t.Errorf("a message stamped %s ahead is refused", d)
		}
	}
}

func TestUnknownVisits(t *testing.T) {
	aVisit(t).does(asPatient, states.PatientJoined).refused(states.UnknownVisit)
	s := aVisit(t)
	s.record.ID = states.RecordID{Kind: states.KindDesk, ID: provider}
	s.does(asPatient, states.PatientJoined).refused(states.UnknownVisit)
	s.does(asPatient, states.PatientCheckedIn).refused(states.WrongVisit) // it is another provider's
	s.does(asPatient, states.EmergencyRequested).refused(states.UnknownVisit)
	if e := s.last.Audit[0]; e.Severity != states.AuditCritical || !strings.HasPrefix(e.Chain, "desk:"+provider+"@") || e.Seq != 3 {
		t.Fatalf("the desk's chain says %+v", e)
	}
	s.does(asPatient, states.EmergencyRequested, inDepartment)
	if s.last.Refusal != nil || len(s.last.Effects) != 1 {
		t.Fatal("an emergency that names its department is not raised")
	}
}

func TestStaleTimersLeaveNoTrace(t *testing.T) {
	s := aVisit(t).booked().does(asPatient, states.AppointmentRescheduled, startsAt(noon.Add(time.Hour)))
	id := s.record.ID
	for name, f := range map[string]func(*states.Event){
		"an older generation":  timer(id, states.TimerNoShow, 1),
		"a future generation":  timer(id, states.TimerNoShow, 3),
		"another kind":         timer(id, states.TimerWaitLimit, 1),
		"an unknown kind":      timer(id, "lunch", 1),
		"one that never armed": timer(id, states.TimerNoShow, 0),
	} {
		before := s.record
		s.does(states.Actor{}, states.TimerFired, f).refused(states.StaleTimer)
		if s.record.Version != before.Version || s.record.Chain != before.Chain || s.record.Visit != before.Visit || len(s.last.Audit) > 0 {
			t.Errorf("%s changes the record", name)
		}
	}
	s.does(states.Actor{}, states.TimerFired, timer(id, states.TimerNoShow, 2))
	if s.record.Visit.State != states.VisitNoShow {
		t.Fatal("the armed timer does nothing")
	}
	s.does(states.Actor{}, states.TimerFired, timer(id, states.TimerNoShow, 2)).refused(states.StaleTimer)

	desk := aVisit(t)
	desk.record.ID = states.RecordID{Kind: states.KindDesk, ID: provider}
	desk.does(states.Actor{}, states.TimerFired, timer(id, states.TimerNoShow, 2)).refused(states.StaleTimer)
}

func TestABrokenProgramIsAnError(t *testing.T) {
	visit := states.Record{ID: states.RecordID{Kind: states.KindVisit, ID: appointment}}
	damaged := visit
	damaged.Visit = &states.Visit{State: "limbo"}
	shut := states.Record{ID: states.EscalationRecord(department, escalation), Escalation: &states.Escalation{State: "limbo"}}
	for name, c := range map[string]struct {
		rules  *states.Rules
		record states.Record
		kind   states.Kind
	}{
		"no rules":           {nil, visit, states.PatientCheckedIn},
		"unknown kind":       {testRules(), visit, "COFFEE_MADE"},
		"another record":     {testRules(), visit, states.EmergencyAccepted},
		"damaged visit":      {testRules(), damaged, states.PatientJoined},
		"damaged escalation": {testRules(), shut, states.EmergencyAccepted},
		"no record":          {testRules(), states.Record{}, states.PatientJoined},
	} {
		if _, err := states.Decide(c.rules, c.record, states.Event{Kind: c.kind}, states.Facts{}); err == nil {
			t.Errorf("%s: no error", name)
		}
	}
}
